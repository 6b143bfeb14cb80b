//! Latents in files.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_weights::{NamedTensor, WeightFiles, upload, write_safetensors};

use crate::VideoError;

const KEY: &str = "latents";

/// Writes normalised latents `[B, C, T, H, W]` as fp32 to a safetensors file.
///
/// # Errors
/// [`VideoError::Weights`] when it cannot be written.
pub fn save_latents<B: Backend>(path: &Path, latents: Tensor<B, 5>) -> Result<(), VideoError> {
    let tensor = NamedTensor {
        name: KEY.into(),
        data: latents.cast(DType::F32).into_data(),
    };
    write_safetensors(path, &[tensor], &BTreeMap::new())?;
    Ok(())
}

/// Reads latents that [`save_latents`] wrote.
///
/// # Errors
/// [`VideoError::Weights`] names the file; [`VideoError::Contents`] when the shape is not that of
/// latents.
pub fn load_latents<B: Backend>(
    path: &Path,
    device: &B::Device,
) -> Result<Tensor<B, 5>, VideoError> {
    let data = WeightFiles::open(path)?.tensor_data(KEY)?;
    if data.shape.len() != 5 {
        return Err(VideoError::Contents {
            path: path.to_path_buf(),
            reason: format!("latents have shape {:?}, not [B, C, T, H, W]", data.shape),
        });
    }
    Ok(upload(data.convert_dtype(DType::F32), device))
}
