//! Products of low rank, added to a tensor in place where the backend can.

use burn::tensor::{Tensor, backend::Backend};
use burn_backend::tensor::FloatTensor;

use crate::KernelBackend;
use crate::portable::{from_float, into_float};

/// One term of [`add_low_rank`]: `hidden[.., first..first + r] · upᵀ`, added to the columns
/// `start..start + rows`.
#[derive(Debug, Clone)]
pub struct LowRankPart<B: Backend> {
    /// `[rows, r]`, in the dtype of `y`.
    pub up: FloatTensor<B>,
    /// First column of `hidden`.
    pub first: usize,
    /// First column of `y`.
    pub start: usize,
}

/// `y` plus products of low rank in some of its columns: what LoRA adds to the output of a layer.
///
/// `y` is `[.., out]` and `hidden` `[.., rank]` of one dtype; each part is the first column of
/// `hidden` it reads, the first column of `y` it adds to, and its matrix `[rows, r]`. Parts are in
/// the order of their columns of `y`, which do not overlap.
pub fn add_low_rank<B: KernelBackend, const D: usize>(
    y: Tensor<B, D>,
    hidden: Tensor<B, D>,
    parts: Vec<(usize, usize, Tensor<B, 2>)>,
) -> Tensor<B, D> {
    let parts = parts
        .into_iter()
        .map(|(first, start, up)| LowRankPart {
            up: into_float(up),
            first,
            start,
        })
        .collect();
    from_float(B::add_low_rank_forward(
        into_float(y),
        into_float(hidden),
        parts,
    ))
}
