//! Activations in eight bits.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use crate::KernelBackend;
use crate::portable::{from_float, into_float};

/// Rows of numbers in fp8 (e4m3), each with a scale: what [`Products::Fp8`](crate::Products::Fp8)
/// makes of its input.
#[derive(Debug, Clone)]
pub struct QuantizedRows<B: Backend> {
    /// Row after row, four numbers a word, the first one in its lowest bits: `[rows · columns / 4]` in I32.
    pub words: Tensor<B, 1, Int>,
    /// What the numbers of each row are to be multiplied by, `[rows]` in f32.
    pub scales: Tensor<B, 1>,
}

/// Rows `[.., columns]` divided by their scales, which make the largest of each row 448, and rounded to e4m3.
/// The same bits on every backend. Not differentiable.
///
/// # Panics
/// If the number of columns is no multiple of 4.
pub fn quantize_rows<B: KernelBackend, const D: usize>(x: Tensor<B, D>) -> QuantizedRows<B> {
    let dims = x.dims();
    assert!(
        D >= 1 && dims[D - 1].is_multiple_of(4),
        "quantize_rows: rows of {dims:?} are not multiples of four numbers"
    );
    let (words, scales) = B::quantize_rows(into_float(x));
    QuantizedRows {
        words: Tensor::from_primitive(words),
        scales: from_float(scales),
    }
}
