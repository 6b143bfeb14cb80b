//! Activations in eight bits.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor};
use burn_backend::tensor::{FloatTensor, IntTensor};

use super::elementwise::assert_groups;
use crate::portable::{from_float, into_float};
use crate::{KernelBackend, PackedKind, PackedLayout, PackedTensors, PackedWeight, Products};

/// Rows of numbers in fp8 (e4m3), each with a scale: what [`Products::Fp8`] makes of its input.
#[derive(Debug, Clone)]
pub struct QuantizedRows<B: Backend, const D: usize> {
    /// Row after row, four numbers a word, the first one in its lowest bits: `[rows · columns / 4]` in I32.
    pub words: Tensor<B, 1, Int>,
    /// What the numbers of each row are to be multiplied by, `[rows]` in f32.
    pub scales: Tensor<B, 1>,
    /// The shape `[.., columns]`.
    pub dims: [usize; D],
    /// The dtype that the numbers had, and that products with them have.
    pub dtype: DType,
}

/// Numbers, and the words and scales of their rows, as backends see them.
pub type WithQuantized<B> = (FloatTensor<B>, IntTensor<B>, FloatTensor<B>);

impl<B: Backend, const D: usize> QuantizedRows<B, D> {
    fn new(
        (words, scales): (IntTensor<B>, FloatTensor<B>),
        dims: [usize; D],
        dtype: DType,
    ) -> Self {
        Self {
            words: Tensor::from_primitive(words),
            scales: from_float(scales),
            dims,
            dtype,
        }
    }

    fn tensors(&self) -> PackedTensors<B> {
        let columns = self.dims[D - 1];
        let rows = self.dims[..D - 1].iter().product();
        PackedTensors {
            words: self.words.clone().into_primitive(),
            scale: Some(into_float(self.scales.clone())),
            layout: PackedLayout::new(PackedKind::Fp8E4m3, [rows, columns]).with_group(columns),
            products: Products::Fp8,
        }
    }
}

impl<B: KernelBackend, const D: usize> QuantizedRows<B, D> {
    /// The numbers that they stand for, in their dtype.
    pub fn numbers(&self) -> Tensor<B, D> {
        let rows = B::unpack_weight_forward(self.tensors(), self.dtype);
        from_float::<B, 2>(rows).reshape(self.dims)
    }
}

/// Rows `[.., columns]` divided by their scales, which make the largest of each row 448, and rounded to e4m3.
/// The same bits on every backend. Not differentiable, as all that makes such rows.
///
/// # Panics
/// If the number of columns is no multiple of 4.
pub fn quantize_rows<B: KernelBackend, const D: usize>(x: Tensor<B, D>) -> QuantizedRows<B, D> {
    let (dims, dtype) = (x.dims(), x.dtype());
    assert_words("quantize_rows", dims[D - 1]);
    QuantizedRows::new(B::quantize_rows(into_float(x)), dims, dtype)
}

/// [`quantize_rows`] of [`merge_heads`](crate::merge_heads): outputs of all heads `[B, H, N, D]` side by side.
///
/// # Panics
/// If `H · D` is no multiple of 4.
pub fn quantize_heads<B: KernelBackend>(x: Tensor<B, 4>) -> QuantizedRows<B, 3> {
    let ([b, heads, n, d], dtype) = (x.dims(), x.dtype());
    assert_words("quantize_heads", heads * d);
    QuantizedRows::new(B::quantize_heads(into_float(x)), [b, n, heads * d], dtype)
}

/// [`quantize_rows`] of [`layer_norm`](crate::layer_norm), which need not be rounded to the dtype of `x` in
/// between.
///
/// # Panics
/// As these.
pub fn layer_norm_quantized<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Tensor<B, 2>,
    epsilon: f64,
) -> QuantizedRows<B, D> {
    let (dims, dtype) = (x.dims(), x.dtype());
    assert_groups("layer_norm_quantized", dims, weight.dims());
    assert_groups("layer_norm_quantized", dims, bias.dims());
    assert_words("layer_norm_quantized", dims[D - 1]);
    let tables = (into_float(weight), into_float(bias));
    let rows = B::layer_norm_quantized(into_float(x), tables.0, tables.1, epsilon);
    QuantizedRows::new(rows, dims, dtype)
}

/// [`quantize_rows`] of [`silu_mul`](crate::silu_mul), of which `silu(a)` need not be rounded before the product.
///
/// # Panics
/// As these.
pub fn silu_mul_quantized<B: KernelBackend, const D: usize>(
    a: Tensor<B, D>,
    b: Tensor<B, D>,
) -> QuantizedRows<B, D> {
    let (dims, dtype) = (a.dims(), a.dtype());
    assert_eq!(dims, b.dims(), "silu_mul_quantized: shapes of a and b");
    assert_words("silu_mul_quantized", dims[D - 1]);
    let rows = B::silu_mul_quantized(into_float(a), into_float(b));
    QuantizedRows::new(rows, dims, dtype)
}

/// [`layer_norm`](crate::layer_norm) and [`layer_norm_quantized`] in one.
///
/// # Panics
/// As these.
pub fn layer_norm_with_quantized<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Tensor<B, 2>,
    epsilon: f64,
) -> (Tensor<B, D>, QuantizedRows<B, D>) {
    let (dims, dtype) = (x.dims(), x.dtype());
    assert_groups("layer_norm_with_quantized", dims, weight.dims());
    assert_groups("layer_norm_with_quantized", dims, bias.dims());
    assert_words("layer_norm_with_quantized", dims[D - 1]);
    let tables = (into_float(weight), into_float(bias));
    let written = B::layer_norm_with_quantized(into_float(x), tables.0, tables.1, epsilon);
    both(written, dims, dtype)
}

/// [`silu_mul`](crate::silu_mul) and [`silu_mul_quantized`] in one.
///
/// # Panics
/// As these.
pub fn silu_mul_with_quantized<B: KernelBackend, const D: usize>(
    a: Tensor<B, D>,
    b: Tensor<B, D>,
) -> (Tensor<B, D>, QuantizedRows<B, D>) {
    let (dims, dtype) = (a.dims(), a.dtype());
    assert_eq!(dims, b.dims(), "silu_mul_with_quantized: shapes of a and b");
    assert_words("silu_mul_with_quantized", dims[D - 1]);
    let written = B::silu_mul_with_quantized(into_float(a), into_float(b));
    both(written, dims, dtype)
}

/// [`merge_heads`](crate::merge_heads) and [`quantize_heads`] in one.
///
/// # Panics
/// As these.
pub fn merge_heads_with_quantized<B: KernelBackend>(
    x: Tensor<B, 4>,
) -> (Tensor<B, 3>, QuantizedRows<B, 3>) {
    let ([b, heads, n, d], dtype) = (x.dims(), x.dtype());
    assert_words("merge_heads_with_quantized", heads * d);
    let written = B::merge_heads_with_quantized(into_float(x));
    both(written, [b, n, heads * d], dtype)
}

fn both<B: Backend, const D: usize>(
    (floats, words, scales): WithQuantized<B>,
    dims: [usize; D],
    dtype: DType,
) -> (Tensor<B, D>, QuantizedRows<B, D>) {
    let rows = QuantizedRows::new((words, scales), dims, dtype);
    (from_float(floats), rows)
}

/// [`linear_packed`](crate::linear_packed) for rows that are rounded already. Not differentiable.
///
/// # Panics
/// As there.
pub fn linear_quantized<B: KernelBackend, const D: usize>(
    x: &QuantizedRows<B, D>,
    weight: &PackedWeight<B>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    let [d_out, d_in] = weight.shape();
    let mut dims = x.dims;
    assert_eq!(dims[D - 1], d_in, "linear_quantized: columns of {dims:?}");
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [d_out], "linear_quantized: bias");
    }
    dims[D - 1] = d_out;
    let bias = bias.map(into_float);
    let y = B::linear_quantized_forward(x.tensors(), weight.tensors(), bias, x.dtype);
    from_float::<B, 2>(y).reshape(dims)
}

fn assert_words(name: &str, columns: usize) {
    assert!(
        columns.is_multiple_of(4),
        "{name}: rows of {columns} are no multiples of four numbers"
    );
}
