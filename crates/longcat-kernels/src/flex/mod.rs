//! [`KernelBackend`] on the CPU.
//!
//! Dense attention has a kernel of its own: Burn's runs on one thread and gives no log-sum-exp.
//! So have, in f32, a convolution's patches and the fused operations. Everything else is the portable
//! body.

mod backward;
mod dense;
mod dense_backward;
mod exp2;
mod fused;
mod patches;

use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData};
use burn_backend::{TensorMetadata, tensor::FloatTensor};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use crate::{
    BlockList, KernelBackend, PatchGrid,
    portable::{self, from_float, into_float},
};

impl KernelBackend for Flex {
    /// About what a core's share of the last-level cache holds.
    fn patch_bytes(_device: &Self::Device) -> usize {
        4 << 20
    }

    fn conv3d_patches(
        x: FloatTensor<Self>,
        grid: &PatchGrid,
        lines: Range<usize>,
    ) -> FloatTensor<Self> {
        match x.dtype() {
            DType::F32 => patches::patches(&x, grid, lines),
            _ => portable::conv3d_patches::<Self>(x, grid, lines),
        }
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, silu: bool) -> FloatTensor<Self> {
        match all_f32([&x, &weight]) {
            Some([x, weight]) => fused::rms_norm(&x, &weight, silu),
            None => portable::rms_norm::<Self>(x, weight, silu),
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
            None => portable::layer_norm::<Self>(x, weight, bias, epsilon),
        }
    }

    fn gated_residual(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        match all_f32([&x, &y, &gate]) {
            Some([x, y, gate]) => fused::gated_residual(&x, &y, &gate),
            None => portable::gated_residual::<Self>(x, y, gate),
        }
    }

    fn gated(y: FloatTensor<Self>, gate: FloatTensor<Self>) -> FloatTensor<Self> {
        match all_f32([&y, &gate]) {
            Some([y, gate]) => fused::gated(&y, &gate),
            None => portable::gated::<Self>(y, gate),
        }
    }

    fn silu_mul(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        match all_f32([&a, &b]) {
            Some([a, b]) => fused::silu_mul(&a, &b),
            None => portable::silu_mul::<Self>(a, b),
        }
    }

    fn silu_mul_backward(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match all_f32([&a, &b, &d_out]) {
            Some([a, b, d_out]) => backward::silu_mul(&a, &b, &d_out),
            None => portable::silu_mul_backward::<Self>(a, b, d_out),
        }
    }

    fn layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        match all_f32([&x, &weight, &d_out]) {
            Some([x, weight, d_out]) => backward::layer_norm(&x, &weight, &d_out, epsilon as f32),
            None => portable::layer_norm_backward::<Self>(x, weight, d_out, epsilon),
        }
    }

    fn split_heads(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
    ) -> FloatTensor<Self> {
        let Some(single) = Heads::of(&[&x], norm.as_ref(), rotation.as_ref()) else {
            return portable::split_heads::<Self>(x, part, norm, rotation);
        };
        let (norm, rotation) = (single.norm(), single.rotation());
        fused::split_heads(&x.to_contiguous(), part, norm, rotation)
    }

    fn split_heads_backward(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let Some(single) = Heads::of(&[&x, &d_out], norm.as_ref(), rotation.as_ref()) else {
            return portable::split_heads_backward::<Self>(x, part, norm, rotation, d_out);
        };
        let (x, d_out) = (x.to_contiguous(), d_out.to_contiguous());
        backward::split_heads(&x, part, single.norm(), single.rotation(), &d_out)
    }

    fn head_norm_backward(
        x: FloatTensor<Self>,
        part: usize,
        norm: (FloatTensor<Self>, f64),
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let Some(single) = Heads::of(&[&x, &d_out, &norm.0], None, rotation.as_ref()) else {
            return portable::head_norm_backward::<Self>(x, part, norm, rotation, d_out);
        };
        let (x, d_out) = (x.to_contiguous(), d_out.to_contiguous());
        let (weight, epsilon) = (norm.0.to_contiguous(), norm.1 as f32);
        backward::head_norm(&x, part, (&weight, epsilon), single.rotation(), &d_out)
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

    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        blocks: Option<BlockList<Self>>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let dtype = q.dtype();
        if blocks.is_some() || dtype == DType::F64 {
            return portable::attention_backward::<Self>(q, k, v, out, lse, d_out, blocks, scale);
        }
        let [q, k, v, out, d_out] = [q, k, v, out, d_out].map(single);
        let lse = lse.to_contiguous();
        let forward = dense_backward::Forward { q, k, v, out, lse };
        let gradients = dense_backward::attention_backward(&forward, &d_out, scale as f32);
        let [dq, dk, dv] = gradients
            .map(|gradient| into_float(portable::to_dtype(from_float::<Self, 4>(gradient), dtype)));
        (dq, dk, dv)
    }
}

/// The tables of a split into heads, contiguous.
struct Heads {
    norm: Option<(FlexTensor, f32)>,
    rotation: Option<(FlexTensor, FlexTensor)>,
}

impl Heads {
    /// The tables, if they and the other tensors are f32.
    fn of(
        others: &[&FlexTensor],
        norm: Option<&(FlexTensor, f64)>,
        rotation: Option<&(FlexTensor, FlexTensor)>,
    ) -> Option<Self> {
        let tables = norm.iter().map(|(weight, _)| weight);
        let tables = tables.chain(rotation.iter().flat_map(|(cos, sin)| [cos, sin]));
        let all = tables.chain(others.iter().copied()).all(is_f32);
        all.then(|| Self {
            norm: norm.map(|(weight, epsilon)| (weight.to_contiguous(), *epsilon as f32)),
            rotation: rotation.map(|(cos, sin)| (cos.to_contiguous(), sin.to_contiguous())),
        })
    }

    fn norm(&self) -> Option<fused::Norm<'_>> {
        self.norm
            .as_ref()
            .map(|(weight, epsilon)| (weight, *epsilon))
    }

    fn rotation(&self) -> Option<fused::Rotation<'_>> {
        self.rotation.as_ref().map(|(cos, sin)| (cos, sin))
    }
}

/// The tensor as contiguous f32.
fn single(tensor: FlexTensor) -> FlexTensor {
    let tensor: Tensor<Flex, 4> = portable::to_dtype(from_float(tensor), DType::F32);
    contiguous(into_float(tensor))
}

/// [`FlexTensor::to_contiguous`], by whole rows where only outer dimensions were swapped, as those of
/// tokens and heads are: Burn goes over such tensors element by element.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let [batch, heads, tokens, width] = tensor.shape().dims();
    let strides = tensor.layout().strides();
    if tensor.is_contiguous() || strides[3] != 1 || strides.iter().any(|stride| *stride < 0) {
        return tensor.to_contiguous();
    }
    let strides = [0, 1, 2].map(|dim| strides[dim].unsigned_abs());
    let input = &tensor.storage::<f32>()[tensor.layout().start_offset()..];
    let mut out = vec![0.0; batch * heads * tokens * width];
    let rows = out.par_chunks_exact_mut(width.max(1));
    rows.with_min_len(64).enumerate().for_each(|(row, out)| {
        let at = [row / (heads * tokens), row / tokens % heads, row % tokens];
        let start: usize = at.iter().zip(strides).map(|(at, stride)| at * stride).sum();
        out.copy_from_slice(&input[start..][..width]);
    });
    FlexTensor::from_data(TensorData::new(out, [batch, heads, tokens, width]))
}

fn is_f32(tensor: &FlexTensor) -> bool {
    tensor.dtype() == DType::F32
}

/// The tensors, contiguous, if all are f32.
fn all_f32<const N: usize>(tensors: [&FlexTensor; N]) -> Option<[FlexTensor; N]> {
    let all = tensors.iter().all(|tensor| is_f32(tensor));
    all.then(|| tensors.map(FlexTensor::to_contiguous))
}
