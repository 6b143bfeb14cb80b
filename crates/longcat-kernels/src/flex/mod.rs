//! [`KernelBackend`] on the CPU.
//!
//! Dense attention has a kernel of its own: Burn's runs on one thread and gives no log-sum-exp.
//! So have, in f32, a convolution's patches and the fused operations. Everything else is the portable
//! body.

mod dense;
mod exp2;
mod fused;
mod patches;

use std::ops::Range;

use burn::tensor::{DType, Tensor};
use burn_backend::tensor::FloatTensor;
use burn_flex::{Flex, FlexTensor};

use crate::{
    BlockList, KernelBackend,
    conv::{self, PatchGrid},
    fused::portable as body,
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
        match all_f32([&x, &weight]) {
            Some([x, weight]) => fused::rms_norm(&x, &weight, silu),
            None => body::rms_norm::<Self>(x, weight, silu),
        }
    }

    fn grouped_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        match all_f32([&x, &weight, &bias]) {
            Some([x, weight, bias]) => fused::layer_norm(&x, &weight, &bias, epsilon as f32),
            None => body::layer_norm::<Self>(x, weight, bias, epsilon),
        }
    }

    fn gated_residual(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        match all_f32([&x, &y, &gate]) {
            Some([x, y, gate]) => fused::gated_residual(&x, &y, &gate),
            None => body::gated_residual::<Self>(x, y, gate),
        }
    }

    fn silu_mul(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        match all_f32([&a, &b]) {
            Some([a, b]) => fused::silu_mul(&a, &b),
            None => body::silu_mul::<Self>(a, b),
        }
    }

    fn split_heads(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
    ) -> FloatTensor<Self> {
        let tables = norm.iter().map(|(weight, _)| weight);
        let tables = tables.chain(rotation.iter().flat_map(|(cos, sin)| [cos, sin]));
        if ![&x].into_iter().chain(tables).all(is_f32) {
            return body::split_heads::<Self>(x, part, norm, rotation);
        }
        let norm = norm.map(|(weight, epsilon)| (weight.to_contiguous(), epsilon as f32));
        let rotation = rotation.map(|(cos, sin)| (cos.to_contiguous(), sin.to_contiguous()));
        fused::split_heads(
            &x.to_contiguous(),
            part,
            norm.as_ref().map(|(weight, epsilon)| (weight, *epsilon)),
            rotation.as_ref().map(|(cos, sin)| (cos, sin)),
        )
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

fn is_f32(tensor: &FlexTensor) -> bool {
    tensor.dtype() == DType::F32
}

/// The tensors, contiguous, if all are f32.
fn all_f32<const N: usize>(tensors: [&FlexTensor; N]) -> Option<[FlexTensor; N]> {
    let all = tensors.iter().all(|tensor| is_f32(tensor));
    all.then(|| tensors.map(FlexTensor::to_contiguous))
}
