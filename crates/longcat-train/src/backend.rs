//! What training needs of a backend.

use burn::tensor::backend::AutodiffBackend;
use longcat_kernels::KernelBackend;

/// A backend that models can be trained on: `Autodiff` over any backend with our kernels.
/// Implemented for all of them.
pub trait TrainBackend: KernelBackend + AutodiffBackend<InnerBackend: KernelBackend> {}

impl<B: KernelBackend + AutodiffBackend<InnerBackend: KernelBackend>> TrainBackend for B {}
