//! Products of rows and weights in fp8.

use std::any::Any;
use std::sync::atomic::Ordering;

use burn_backend::{DType, Shape};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};

use super::engine::Engine;
use super::variant::{Kind, Program};
use super::{Cuda, ENGINES, MULTIPLE, empty, is_ready, prepared, quantize_plain, readable};
use crate::cube::attention::{FP8_PRODUCTS, FP8_SCALED_AFTER};
use crate::cuda::cast;
use crate::cuda::cublas::Fp8Product;
use crate::{PackedKind, PackedLayout};

/// `x · Wᵀ + bias` for rows of `x` in fp8, in the dtype of `x`, which is bf16 or f16, and a weight in words
/// with a scale for each row.
///
/// `None` where the weight, the input or the device is not made for it.
///
/// # Panics
/// As [`try_quantize_rows`](super::try_quantize_rows).
pub(crate) fn try_linear<R: CubeRuntime>(
    x: &CubeTensor<R>,
    (words, scale): (&CubeTensor<R>, &CubeTensor<R>),
    layout: &PackedLayout,
    bias: Option<&CubeTensor<R>>,
) -> Option<CubeTensor<R>> {
    let x = (x as &dyn Any).downcast_ref::<Cuda>()?;
    let (&width, leading) = x.meta.shape().split_last()?;
    if width != layout.shape[1] {
        return None;
    }
    let weight = Weight::of(words, scale, layout)?;
    let bias = of_cuda(bias)?;
    let rows = prepared(x, Kind::Plain, false)?;
    let count = leading.iter().product();
    let planned = weight.plan(count, x.dtype, bias)?;
    let x = quantize_plain(x, rows);
    let shape = leading.iter().copied().chain([layout.shape[0]]);
    cast(planned.multiply([&x.words, &x.scales], shape.collect()))
}

/// The same for rows that are in fp8 already: words and scales of `x` `[rows, in]`, to `[rows, out]` in
/// `dtype`.
pub(crate) fn try_linear_quantized<R: CubeRuntime>(
    (x_words, x_scales): (&CubeTensor<R>, &CubeTensor<R>),
    x_layout: &PackedLayout,
    (words, scale): (&CubeTensor<R>, &CubeTensor<R>),
    layout: &PackedLayout,
    bias: Option<&CubeTensor<R>>,
    dtype: DType,
) -> Option<CubeTensor<R>> {
    let x = Weight::of(x_words, x_scales, x_layout)?;
    let weight = Weight::of(words, scale, layout)?;
    let [rows, inner] = x_layout.shape;
    let halves = matches!(dtype, DType::BF16 | DType::F16);
    // What cuBLASLt is asked for is memory of its own.
    let own = x.words.handle.offset_start.unwrap_or(0) == 0;
    if inner != layout.shape[1] || !halves || !own || x.words.device != weight.words.device {
        return None;
    }
    let planned = weight.plan(rows, dtype, of_cuda(bias)?)?;
    let shape = Shape::new([rows, layout.shape[0]]);
    cast(planned.multiply([&x.words, &x.scale], shape))
}

/// A matrix in e4m3 with a scale for each row.
struct Weight {
    words: Cuda,
    scale: Cuda,
    shape: [usize; 2],
}

impl Weight {
    fn of<R: CubeRuntime>(
        words: &CubeTensor<R>,
        scale: &CubeTensor<R>,
        layout: &PackedLayout,
    ) -> Option<Self> {
        let words = (words as &dyn Any).downcast_ref::<Cuda>()?;
        let scale = (scale as &dyn Any).downcast_ref::<Cuda>()?;
        let [rows, columns] = layout.shape;
        let taken = layout.kind == PackedKind::Fp8E4m3
            && layout.group == columns
            && rows > 0
            && columns > 0
            && columns.is_multiple_of(MULTIPLE)
            && words.dtype == DType::I32
            && words.meta.num_elements() >= layout.words()
            && scale.dtype == DType::F32
            && scale.meta.num_elements() >= layout.scales()
            && scale.device == words.device;
        let [words, scale] = [words, scale].map(readable);
        taken.then_some(Self {
            words,
            scale,
            shape: layout.shape,
        })
    }

    /// The product with so many rows, if cuBLASLt computes it.
    fn plan<'a>(&'a self, rows: usize, dtype: DType, bias: Option<&Cuda>) -> Option<Planned<'a>> {
        let [out, inner] = self.shape;
        let sizes = [rows, inner, out];
        let fits = |bias: &Cuda| bias.dtype == dtype && bias.device == self.words.device;
        if rows == 0 || !out.is_multiple_of(MULTIPLE) || !bias.is_none_or(fits) {
            return None;
        }
        let scaled = Fp8Product::plan(&self.words, sizes, dtype, bias.is_some());
        // What is not scaled goes beyond the range of f16.
        let unscaled = || {
            let ready = is_ready(self.words.device.index, Program::Scale);
            let planned = (dtype == DType::BF16 && ready)
                .then(|| Fp8Product::plan_unscaled(&self.words, sizes, dtype));
            planned.flatten()
        };
        Some(Planned {
            weight: self,
            rows,
            dtype,
            bias: bias.map(readable),
            product: scaled.or_else(unscaled)?,
        })
    }
}

/// A product that will be computed.
struct Planned<'a> {
    weight: &'a Weight,
    rows: usize,
    dtype: DType,
    bias: Option<Cuda>,
    product: Fp8Product,
}

impl Planned<'_> {
    /// Queues the product of rows, words and scales.
    fn multiply(self, [words, scales]: [&Cuda; 2], shape: Shape) -> Cuda {
        let Weight {
            words: weight,
            scale,
            shape: [out, _],
        } = self.weight;
        let y = empty(words, shape, self.dtype);
        let tensors = [words, weight, &y, scale, scales];
        if self.product.is_scaled() {
            self.product.submit(tensors, self.bias.as_ref());
        } else {
            self.product.submit(tensors, None);
            scale_product(&y, [scales, scale], [self.rows, *out], self.bias.as_ref());
            FP8_SCALED_AFTER.fetch_add(1, Ordering::Relaxed);
        }
        FP8_PRODUCTS.fetch_add(1, Ordering::Relaxed);
        y
    }
}

/// Multiplies `y` by the scales of its rows and columns in place and adds the bias.
fn scale_product(y: &Cuda, scales: [&Cuda; 2], [rows, width]: [usize; 2], bias: Option<&Cuda>) {
    let [of_rows, of_columns] = scales;
    let run = move |engine: &Engine, addresses| {
        // SAFETY: the context is current, by the contract of `submit`; the tensors have these sizes, and `y`
        // is new.
        unsafe { engine.scale(rows, width, addresses) }
    };
    match bias {
        None => ENGINES.submit([y, of_rows, of_columns], move |engine, at| {
            let [y, of_rows, of_columns] = at;
            run(engine, [y, of_rows, of_columns, 0])
        }),
        Some(bias) => ENGINES.submit([y, of_rows, of_columns, bias], run),
    }
}

/// A bias on CUDA, or none; `None` for one that is elsewhere.
fn of_cuda<R: CubeRuntime>(bias: Option<&CubeTensor<R>>) -> Option<Option<&Cuda>> {
    match bias {
        Some(bias) => (bias as &dyn Any).downcast_ref::<Cuda>().map(Some),
        None => Some(None),
    }
}
