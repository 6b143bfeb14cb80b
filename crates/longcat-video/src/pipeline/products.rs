//! Whether products can be computed in the numbers that are asked for.

use longcat_dit::DitConfig;
use longcat_kernels::{KernelBackend, Products};
use longcat_weights::{Precision, StoredType};

use super::PipelineOptions;
use crate::VideoError;
use crate::checkpoint::Checkpoint;

/// Whether a device multiplies so, and the weights are such that it can.
///
/// # Errors
/// [`VideoError::Invalid`] says what is needed.
pub(super) fn check_products<B: KernelBackend>(
    checkpoint: &Checkpoint,
    config: &DitConfig,
    options: &PipelineOptions,
    device: &B::Device,
) -> Result<(), VideoError> {
    if options.products == Products::Dense {
        return Ok(());
    }
    if !B::has_fp8_products(device) {
        let reason = "this device does not multiply in fp8, which takes an NVIDIA GPU of compute capability \
                      8.9 or higher and cuBLASLt (the CPU can, no faster); leave --products out";
        return Err(VideoError::invalid("products", reason));
    }
    let stored = match options.precision {
        Precision::Fp8 => return Ok(()),
        Precision::Stored => checkpoint.transformer_weights()?,
        other => {
            let reason =
                format!("fp8 products need weights in fp8, not {other}; take --precision fp8");
            return Err(VideoError::invalid("products", reason));
        }
    };
    // The first and last blocks may be kept as they are.
    let key = format!("blocks.{}.ffn.w1.weight", config.depth / 2);
    match stored.info(&key) {
        Some(info) if info.dtype == StoredType::FP8 => Ok(()),
        _ => Err(VideoError::invalid(
            "products",
            "fp8 products need weights in fp8 (e4m3), which the checkpoint does not hold; take \
             --precision fp8",
        )),
    }
}
