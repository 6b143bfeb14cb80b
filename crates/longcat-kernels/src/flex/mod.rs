//! [`KernelBackend`] on the CPU.
//!
//! Dense attention has a kernel of its own: Burn's runs on one thread and gives no log-sum-exp.
//! So have, in f32, a convolution's patches and its norm. Everything else is the portable body.

mod dense;
mod exp2;
mod norm;
mod patches;

use std::ops::Range;

use burn::tensor::{DType, Tensor};
use burn_backend::tensor::FloatTensor;
use burn_flex::{Flex, FlexTensor};

use crate::{
    BlockList, KernelBackend,
    conv::{self, PatchGrid},
    fused,
    portable::{self, from_float, into_float},
};

impl KernelBackend for Flex {
    /// About what a core's share of the last-level cache holds.
    const PATCH_BYTES: usize = 4 << 20;

    fn conv3d_patches(
        x: FloatTensor<Self>,
        grid: &PatchGrid,
        lines: Range<usize>,
    ) -> FloatTensor<Self> {
        match x.dtype() {
            DType::F32 => patches::patches(&x.to_contiguous(), grid, lines),
            _ => conv::gather::<Self>(x, grid, lines),
        }
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, silu: bool) -> FloatTensor<Self> {
        match (x.dtype(), weight.dtype()) {
            (DType::F32, DType::F32) => {
                norm::rms_norm(&x.to_contiguous(), &weight.to_contiguous(), silu)
            }
            _ => fused::portable::rms_norm::<Self>(x, weight, silu),
        }
    }

    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        blocks: Option<BlockList<Self>>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let dtype = q.dtype();
        if blocks.is_some() || dtype == DType::F64 {
            return portable::attention_forward::<Self>(q, k, v, blocks, scale);
        }
        let (out, lse) = dense::attention(single(q), single(k), single(v), scale as f32);
        let out: Tensor<Self, 4> = portable::to_dtype(from_float(out), dtype);
        (into_float(out), lse)
    }
}

/// The tensor as contiguous f32.
fn single(tensor: FlexTensor) -> FlexTensor {
    let tensor: Tensor<Flex, 4> = portable::to_dtype(from_float(tensor), DType::F32);
    into_float(tensor).to_contiguous()
}
