//! How pipelines are opened on a device.

use burn::tensor::DType;
use longcat_video::{AttentionNumbers, MemoryLimit, PipelineOptions, Precision, Products, Tiling};

use crate::DeviceSpec;

/// How a pipeline is opened; what is not said is as the device likes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuntimeOptions {
    /// Dtype in which transformer and text encoder compute; without it [`DeviceSpec::default_dtype`], where the
    /// device has that.
    pub dtype: Option<DType>,
    /// How the matrices of transformer and text encoder are kept on the device.
    pub precision: Precision,
    /// In which numbers those of the transformer are multiplied that are packed so that they can be.
    pub products: Products,
    /// In which numbers the transformer's self-attention is computed.
    pub attention: AttentionNumbers,
    /// Keep the text encoder on the device after prompts are encoded, for programs that make many
    /// videos.
    pub keep_text_encoder: bool,
    /// Drop the transformer before frames are encoded or decoded, so that only one model is on the
    /// device at a time.
    pub low_memory: bool,
    /// Encode and decode large pictures tile by tile: less memory, a slightly different result.
    pub tiling: Option<Tiling>,
    /// How much memory of the device may be taken; by default what is free.
    pub memory: MemoryLimit,
}

impl RuntimeOptions {
    /// The options of a pipeline on a device of this kind.
    pub fn on(&self, device: DeviceSpec) -> PipelineOptions {
        let dtype = self.dtype.unwrap_or(device.default_dtype());
        PipelineOptions {
            dtype,
            precision: self.precision,
            products: self.products,
            attention: self.attention,
            // bf16 as the reference has it, where that is fast; f16 is too narrow for the VAE.
            vae_dtype: match (dtype, device) {
                (DType::BF16, DeviceSpec::Cuda(_)) => DType::BF16,
                _ => DType::F32,
            },
            keep_text_encoder: self.keep_text_encoder,
            keep_transformer: !self.low_memory,
            tiling: self.tiling,
            memory: self.memory,
            resident_blocks: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vae_computes_in_bf16_on_cuda_alone() {
        let dtypes = |dtype, device| {
            let options = RuntimeOptions {
                dtype,
                ..RuntimeOptions::default()
            };
            let options = options.on(device);
            (options.dtype, options.vae_dtype)
        };
        let (f32, f16, bf16) = (DType::F32, DType::F16, DType::BF16);
        assert_eq!(dtypes(None, DeviceSpec::Cpu), (f32, f32));
        assert_eq!(dtypes(None, DeviceSpec::Wgpu(None)), (f16, f32));
        assert_eq!(dtypes(None, DeviceSpec::Cuda(0)), (bf16, bf16));
        assert_eq!(dtypes(Some(f16), DeviceSpec::Cuda(0)), (f16, f32));
        assert_eq!(dtypes(Some(bf16), DeviceSpec::Wgpu(None)), (bf16, f32));
    }
}
