//! Training the miniature, with the product's trainer: an adapter, the transformer with or without its
//! text encoder, or the VAE.

mod conditions;
mod config;
mod fresh;
mod guidance;
mod joint;
mod run;
mod vae;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

pub use config::{Laboratory, MiniatureConfig, VaeConfig};
pub use run::run;

/// Numbers per sample, `[B]`, to multiply latents `[B, C, T, H, W]` by, in f32.
fn per_sample<B: Backend>(values: Tensor<B, 1>) -> Tensor<B, 5> {
    let [samples] = values.dims();
    values.cast(DType::F32).reshape([samples, 1, 1, 1, 1])
}

/// The transformer of the golden cases, in f32.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
fn tiny_transformer() -> longcat_dit::LongCatTransformer<burn_flex::Flex> {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/golden/checkpoints/tiny/dit"
    );
    let dtype = Some(DType::F32);
    let loaded = longcat_dit::LongCatTransformer::load(dir.as_ref(), dtype, &burn_flex::FlexDevice);
    loaded.unwrap().0
}
