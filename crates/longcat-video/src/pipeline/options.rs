//! How a pipeline treats its components.

use burn::tensor::DType;
use longcat_kernels::{AttentionNumbers, Products};
use longcat_vae::Tiling;
use longcat_weights::Precision;

use crate::memory::MemoryLimit;

/// How a pipeline treats its components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipelineOptions {
    /// Dtype in which transformer and text encoder compute (bf16 on CUDA, f16 or f32 on wgpu, f32 on CPU).
    pub dtype: DType,
    /// How the matrices of transformer and text encoder are kept on the device.
    pub precision: Precision,
    /// In which numbers those of the transformer are multiplied that are packed so that they can be.
    pub products: Products,
    /// In which numbers the transformer's self-attention is computed.
    pub attention: AttentionNumbers,
    /// Dtype of the VAE.
    pub vae_dtype: DType,
    /// Keep the text encoder on the device after prompts are encoded.
    pub keep_text_encoder: bool,
    /// Keep the transformer on the device while frames are encoded or decoded.
    pub keep_transformer: bool,
    /// Encode and decode large pictures tile by tile: less memory, a slightly different result. Without it
    /// they are where they would not fit otherwise.
    pub tiling: Option<Tiling>,
    /// How much memory of the device may be taken. Models and work that do not fit pass through it
    /// piece by piece ([`MemoryPlan`](crate::MemoryPlan)).
    pub memory: MemoryLimit,
    /// Blocks of the transformer that stay on the device, where it is not for the plan to choose.
    pub resident_blocks: Option<usize>,
}

impl Default for PipelineOptions {
    /// fp32; the text encoder leaves the device after use, the transformer stays.
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            precision: Precision::default(),
            products: Products::default(),
            attention: AttentionNumbers::default(),
            vae_dtype: DType::F32,
            keep_text_encoder: false,
            keep_transformer: true,
            tiling: None,
            memory: MemoryLimit::Unlimited,
            resident_blocks: None,
        }
    }
}
