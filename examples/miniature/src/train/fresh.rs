//! Transformers to train from scratch.

use burn::backend::Autodiff;
use longcat_dit::{DitConfig, LongCatTransformer};
use longcat_kernels::KernelBackend;
use longcat_train::update;

/// A transformer to train from scratch. Modulation and output layer are zero, so that attention and
/// feed-forward layers begin as nothing and join in as they learn; the first loss is that of the
/// prediction 0.
pub(super) fn fresh_transformer<B: KernelBackend>(
    config: &DitConfig,
    device: &B::Device,
) -> LongCatTransformer<Autodiff<B>> {
    let model = LongCatTransformer::<Autodiff<B>>::new(config, device);
    update::<Autodiff<B>, _>(model, |path, values| {
        let starts_at_zero = path.contains("adaln.") || path.starts_with("final_layer.linear.");
        starts_at_zero.then(|| values.zeros_like())
    })
}
