//! Dense attention on the CPU: tiles of queries in parallel, online softmax over tiles of keys.

use std::f32::consts::{LN_2, LOG2_E};

use burn::tensor::{DType, Tensor, TensorData};
use burn_backend::TensorMetadata;
use burn_flex::{Flex, FlexTensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::exp2::{LANES, Softmax};
use crate::portable::{from_float, into_float, to_dtype};

/// Queries and keys in a tile: their scores stay in a core's second-level cache.
pub(super) const TILE_Q: usize = 192;
pub(super) const TILE_K: usize = 256;

/// Output `[B, H, Nq, D]` and log-sum-exp `[B, H, Nq]` of contiguous f32 tensors. The heads of a token lie
/// side by side in memory, as the next layer reads them.
pub(super) fn attention_forward(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    scale: f32,
) -> (FlexTensor, FlexTensor) {
    let [b, h, nq, d] = q.shape().dims();
    let [_, _, nk, d_v] = v.shape().dims();
    let (q, k, v) = (q.storage::<f32>(), k.storage::<f32>(), v.storage::<f32>());
    let width = h * d_v;
    let mut out = vec![0.0; b * nq * width];
    let attend = |sample: usize, tile: usize, out: &mut [f32]| -> Vec<Vec<f32>> {
        let rows = out.len() / width;
        let heads = (sample * h..(sample + 1) * h).into_par_iter().map(|head| {
            let keys = Keys {
                k: &k[head * nk * d..][..nk * d],
                v: &v[head * nk * d_v..][..nk * d_v],
                d,
                d_v,
            };
            keys.attend(&q[(head * nq + tile * TILE_Q) * d..][..rows * d], scale)
        });
        let (heads, lse): (Vec<_>, Vec<_>) = heads.unzip();
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            for (out, head) in out.chunks_exact_mut(d_v).zip(&heads) {
                out.copy_from_slice(&head[row * d_v..][..d_v]);
            }
        }
        lse
    };
    let attend = &attend;
    let samples = out.par_chunks_mut((nq * width).max(1)).enumerate();
    let lse: Vec<Vec<Vec<f32>>> = samples
        .flat_map(|(sample, out)| {
            let tiles = out.par_chunks_mut(TILE_Q * width).enumerate();
            tiles.map(move |(tile, out)| attend(sample, tile, out))
        })
        .collect();
    let of_samples = lse.chunks(nq.div_ceil(TILE_Q).max(1));
    let of_heads = of_samples.flat_map(|tiles| (0..h).map(move |head| (tiles, head)));
    let lse = of_heads.flat_map(|(tiles, head)| tiles.iter().flat_map(move |tile| &tile[head]));
    let lse: Vec<f32> = lse.copied().collect();
    let out = FlexTensor::from_data(TensorData::new(out, [b, nq, h, d_v]));
    (
        out.transpose(1, 2),
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
    /// What a tile of queries `[rows, d]` attends to, `[rows, d_v]` and maybe more, and its log-sum-exp
    /// `[rows]`.
    ///
    /// Queries are columns: their softmaxes go side by side through vectors, and of the products nothing
    /// but the few queries has to be packed.
    fn attend(&self, q: &[f32], scale: f32) -> (Vec<f32>, Vec<f32>) {
        let (d, d_v) = (self.d, self.d_v);
        let rows = q.len() / d;
        let queries = rows.next_multiple_of(LANES);
        let mut columns = vec![0.0; d * queries];
        for (row, q) in q.chunks_exact(d).enumerate() {
            for (channel, x) in q.iter().enumerate() {
                // In powers of two throughout.
                columns[channel * queries + row] = x * (scale * LOG2_E);
            }
        }
        let mut out = vec![0.0; queries * d_v];
        let mut scores = vec![0.0; queries * TILE_K.min(self.k.len() / d)];
        let mut softmax = Softmax::new(queries);
        let tiles = self.k.chunks(TILE_K * d);
        for (k, v) in tiles.zip(self.v.chunks(TILE_K * d_v)) {
            let scores = &mut scores[..k.len() / d * queries];
            let columns = Matrix::rows(&columns, queries);
            product(scores, Matrix::rows(k, d), columns, 1.0, false);
            softmax.add(scores);
            for (out, correction) in out.chunks_exact_mut(d_v).zip(&softmax.corrections) {
                if *correction != 1.0 {
                    out.iter_mut().for_each(|x| *x *= correction);
                }
            }
            let weights = Matrix::columns(scores, queries);
            product(&mut out, weights, Matrix::rows(v, d_v), 1.0, true);
        }
        for (out, sum) in out.chunks_exact_mut(d_v).zip(&softmax.sums) {
            out.iter_mut().for_each(|x| *x /= sum);
        }
        let lse = softmax.tops.iter().zip(&softmax.sums).take(rows);
        let lse = lse.map(|(top, sum)| (top + sum.log2()) * LN_2).collect();
        (out, lse)
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
