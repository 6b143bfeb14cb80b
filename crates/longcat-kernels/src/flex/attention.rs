//! Dense attention on the CPU: tiles of queries in parallel, online softmax over tiles of keys.

use std::f32::consts::{LN_2, LOG2_E};

use burn::tensor::{DType, Tensor, TensorData};
use burn_backend::TensorMetadata;
use burn_flex::{Flex, FlexTensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::exp2::{max, sub_exp2_sum};
use crate::portable::{from_float, into_float, to_dtype};

/// Queries and keys in a tile: their scores stay in a core's second-level cache.
pub(super) const TILE_Q: usize = 128;
pub(super) const TILE_K: usize = 256;

/// Output `[B, H, Nq, D]` and log-sum-exp `[B, H, Nq]` of contiguous f32 tensors.
pub(super) fn attention_forward(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    scale: f32,
) -> (FlexTensor, FlexTensor) {
    let [b, h, nq, d] = q.shape().dims();
    let [_, _, nk, d_v] = v.shape().dims();
    let (q, k, v) = (q.storage::<f32>(), k.storage::<f32>(), v.storage::<f32>());
    let mut out = vec![0.0; b * h * nq * d_v];
    let mut lse = vec![0.0; b * h * nq];
    let heads = out.par_chunks_mut((nq * d_v).max(1));
    let heads = heads.zip(lse.par_chunks_mut(nq.max(1)));
    heads.enumerate().for_each(|(head, (out, lse))| {
        let keys = Keys {
            k: &k[head * nk * d..][..nk * d],
            v: &v[head * nk * d_v..][..nk * d_v],
            d,
            d_v,
        };
        let q = q[head * nq * d..][..nq * d].par_chunks(TILE_Q * d);
        let tiles = out.par_chunks_mut(TILE_Q * d_v);
        let tiles = tiles.zip(lse.par_chunks_mut(TILE_Q)).zip(q);
        tiles.for_each(|((out, lse), q)| keys.attend(q, out, lse, scale));
    });
    (
        FlexTensor::from_data(TensorData::new(out, [b, h, nq, d_v])),
        FlexTensor::from_data(TensorData::new(lse, [b, h, nq])),
    )
}

/// Keys `[Nk, d]` and values `[Nk, d_v]` of one head.
struct Keys<'a> {
    k: &'a [f32],
    v: &'a [f32],
    d: usize,
    d_v: usize,
}

impl Keys<'_> {
    /// One tile of queries `[rows, d]` to `out` `[rows, d_v]`, zero before, and `lse` `[rows]`.
    fn attend(&self, q: &[f32], out: &mut [f32], lse: &mut [f32], scale: f32) {
        let rows = lse.len();
        let mut scores = vec![0.0; rows * TILE_K];
        let (mut maxima, mut sums) = (vec![f32::NEG_INFINITY; rows], vec![0.0f32; rows]);
        let tiles = self.k.chunks(TILE_K * self.d);
        for (k, v) in tiles.zip(self.v.chunks(TILE_K * self.d_v)) {
            let keys = k.len() / self.d;
            let scores = &mut scores[..rows * keys];
            // In powers of two throughout: the factor goes into the product for free.
            product(
                scores,
                Matrix::rows(q, self.d),
                Matrix::columns(k, self.d),
                scale * LOG2_E,
                false,
            );
            let rows = scores
                .chunks_exact_mut(keys)
                .zip(out.chunks_exact_mut(self.d_v));
            for ((row, out), (top, sum)) in rows.zip(maxima.iter_mut().zip(&mut sums)) {
                let new = top.max(max(row));
                let correction = (*top - new).exp2();
                *sum = *sum * correction + sub_exp2_sum(row, new);
                if correction != 1.0 {
                    out.iter_mut().for_each(|x| *x *= correction);
                }
                *top = new;
            }
            product(
                out,
                Matrix::rows(scores, keys),
                Matrix::rows(v, self.d_v),
                1.0,
                true,
            );
        }
        let rows = out.chunks_exact_mut(self.d_v).zip(lse);
        for ((out, lse), (top, sum)) in rows.zip(maxima.into_iter().zip(sums)) {
            out.iter_mut().for_each(|x| *x /= sum);
            *lse = (top + sum.log2()) * LN_2;
        }
    }
}

/// A matrix in a slice.
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: isize,
    column_stride: isize,
}

impl<'a> Matrix<'a> {
    /// The slice holds rows of so many columns.
    pub fn rows(values: &'a [f32], columns: usize) -> Self {
        Self {
            values,
            rows: values.len() / columns,
            columns,
            row_stride: columns as isize,
            column_stride: 1,
        }
    }

    /// The slice holds columns of so many rows.
    pub fn columns(values: &'a [f32], rows: usize) -> Self {
        Self {
            values,
            rows,
            columns: values.len() / rows,
            row_stride: 1,
            column_stride: rows as isize,
        }
    }
}

/// `out = factor * a · b`, or that added to `out`; `out` holds rows.
pub(super) fn product(out: &mut [f32], a: Matrix, b: Matrix, factor: f32, add: bool) {
    assert_eq!(a.columns, b.rows);
    assert_eq!(out.len(), a.rows * b.columns);
    assert_eq!(a.values.len(), a.rows * a.columns);
    assert_eq!(b.values.len(), b.rows * b.columns);
    // SAFETY: the lengths are those of dense matrices of these shapes (checked above), strides are
    // those of rows or columns in them, and `out` is borrowed alone.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            b.columns as isize,
            add,
            a.values.as_ptr(),
            a.column_stride,
            a.row_stride,
            b.values.as_ptr(),
            b.column_stride,
            b.row_stride,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// The tensor as contiguous f32.
pub(super) fn single(tensor: FlexTensor) -> FlexTensor {
    let tensor: Tensor<Flex, 4> = to_dtype(from_float(tensor), DType::F32);
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
