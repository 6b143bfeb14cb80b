//! [`KernelBackend`](crate::KernelBackend)'s attention and block selection on cubecl backends.
//!
//! `None` means that no kernel takes the tensors, and the caller uses the portable body.

mod backward_mma;
mod forward_cooperative;
mod forward_mma;
mod launch;
mod lists;
mod mma;
mod plain;
mod select;

use burn::tensor::{DType, Int, Tensor};
use burn_backend::tensor::IntTensor;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};

use crate::{BlockList, BlockRule, TransposedBlocks};

pub(crate) use launch::Backward;
#[cfg(not(feature = "cuda"))]
use launch::List;
#[cfg(feature = "cuda")]
pub(crate) use launch::{
    BACKWARD_HOPPER, FORWARD_FP8, FORWARD_HOPPER, FP8_PRODUCTS, FP8_SCALED_AFTER, List,
    with_readable_rows,
};
pub use launch::{Launches, launches};

type Cube<R, F, I, BT> = CubeBackend<R, F, I, BT>;

/// Output and log-sum-exp; `None` where the kernels do not take the tensors.
type Attended<R> = Option<(CubeTensor<R>, CubeTensor<R>)>;

pub(super) fn forward<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    q: &CubeTensor<R>,
    k: &CubeTensor<R>,
    v: &CubeTensor<R>,
    blocks: Option<&BlockList<Cube<R, F, I, BT>>>,
    scale: f64,
) -> Attended<R> {
    if q.dtype != k.dtype || q.dtype != v.dtype {
        return None;
    }
    let list = match blocks {
        Some(blocks) => list(blocks, q, k)?,
        None => List::dense(q, k),
    };
    launch::forward(q, k, v, &list, scale)
}

/// The output in eight bits, on CUDA; `None` where no kernel takes the tensors.
#[cfg(feature = "cuda")]
pub(super) fn forward_eight_bit<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    q: &CubeTensor<R>,
    k: &CubeTensor<R>,
    v: &CubeTensor<R>,
    blocks: Option<&BlockList<Cube<R, F, I, BT>>>,
    scale: f64,
) -> Option<CubeTensor<R>> {
    if q.dtype != k.dtype || q.dtype != v.dtype {
        return None;
    }
    let list = match blocks {
        Some(blocks) => list(blocks, q, k)?,
        None => List::dense(q, k),
    };
    crate::cuda::hopper::eight_bit::try_forward(q, k, v, &list, scale)
}

pub(super) fn backward<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    tensors: Backward<R>,
    blocks: Option<&BlockList<Cube<R, F, I, BT>>>,
) -> Option<(CubeTensor<R>, CubeTensor<R>, CubeTensor<R>)> {
    if !tensors.is_supported() {
        return None;
    }
    let (list, transposed) = match blocks {
        Some(blocks) => {
            let list = list(blocks, &tensors.q, &tensors.k)?;
            let TransposedBlocks { indices, counts } =
                blocks.transposed(tensors.k.meta.shape()[2] / blocks.block_k);
            let transposed = List {
                indices: as_i32::<R, F, I, BT>(indices),
                counts: as_i32::<R, F, I, BT>(counts),
                ..list.clone()
            };
            (list, transposed)
        }
        None => {
            let list = List::dense(&tensors.q, &tensors.k);
            (list.clone(), list)
        }
    };
    tensors.run(list, transposed)
}

pub(super) fn select_blocks<R: CubeRuntime>(
    scores: &CubeTensor<R>,
    rule: BlockRule,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    if rule.cdf.is_some() {
        return None;
    }
    launch::select(scores, rule.top, rule.width(scores.meta.shape()[3]))
}

fn list<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    blocks: &BlockList<Cube<R, F, I, BT>>,
    q: &CubeTensor<R>,
    k: &CubeTensor<R>,
) -> Option<List<R>> {
    let key_blocks = k.meta.shape()[2] / blocks.block_k;
    let whole = q.meta.shape()[2].is_multiple_of(blocks.block_q)
        && k.meta.shape()[2].is_multiple_of(blocks.block_k);
    let key_valid = match &blocks.key_valid {
        Some(valid) => valid.clone(),
        None => Tensor::<Cube<R, F, I, BT>, 1, Int>::full(
            [key_blocks],
            blocks.block_k as i32,
            &q.device,
        )
        .into_primitive(),
    };
    whole.then(|| List {
        indices: as_i32::<R, F, I, BT>(blocks.indices.clone()),
        counts: as_i32::<R, F, I, BT>(blocks.counts.clone()),
        key_valid: into_contiguous(as_i32::<R, F, I, BT>(key_valid)),
        block_q: blocks.block_q,
        block_k: blocks.block_k,
        sparse: true,
    })
}

fn as_i32<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    tensor: IntTensor<Cube<R, F, I, BT>>,
) -> CubeTensor<R> {
    if tensor.dtype == DType::I32 {
        return tensor;
    }
    // The rank of the type is not looked at.
    Tensor::<Cube<R, F, I, BT>, 1, Int>::from_primitive(tensor)
        .cast(DType::I32)
        .into_primitive()
}
