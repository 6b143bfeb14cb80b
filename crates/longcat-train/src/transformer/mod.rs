//! Training the transformer: an adapter beside it, or all of it.

mod adapter;
mod batch;
mod export;
mod sample;
mod task;
mod teacher;
mod transform;

pub use adapter::{ADAPTER, attach_adapter};
pub use export::RunInfo;
pub use sample::EncodedText;
pub use task::TransformerTask;
pub use transform::{BatchSamples, BatchTransform, EncodedCaptions};

/// The transformer of the golden cases, in f32.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
fn tiny_transformer() -> longcat_dit::LongCatTransformer<burn_flex::Flex> {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/golden/checkpoints/tiny/dit"
    );
    let dtype = Some(burn::tensor::DType::F32);
    let loaded = longcat_dit::LongCatTransformer::load(dir.as_ref(), dtype, &burn_flex::FlexDevice);
    loaded.unwrap().0
}
