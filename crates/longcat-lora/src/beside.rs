//! Changes of a layer that are no product of two factors, computed beside its weight.

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_kernels::{KernelBackend, linear};

use crate::layer::cast;
use crate::{Change, Matrix, Patch};

/// One change of some output rows of a weight, at strength 1, in one of three forms.
#[derive(Module, Debug)]
pub struct LoraTerm<B: Backend> {
    /// First output row.
    start: usize,
    /// Number of output rows.
    rows: usize,
    /// The difference itself, `[rows, d_in]`.
    full: Option<Tensor<B, 2>>,
    /// Left and right matrix of a Kronecker product.
    kronecker: Vec<Tensor<B, 2>>,
    /// DoRA's input side `[rank, d_in]` and its output side `[rows, rank]`, rescaled.
    factors: Vec<Tensor<B, 2>>,
    /// What DoRA multiplies the rows of the base's product by, less one: `[rows]` in f32.
    rescale: Option<Tensor<B, 1>>,
}

impl<B: Backend> LoraTerm<B> {
    /// Whether it is a function of the layer's own product.
    pub(crate) fn needs_base(&self) -> bool {
        self.rescale.is_some()
    }
}

impl<B: KernelBackend> LoraTerm<B> {
    /// Uploads a patch in `dtype`. The weight `[d_out, d_in]` is asked for where the patch depends
    /// on it; that is computed in f32.
    pub(crate) fn new(
        patch: &Patch,
        dtype: DType,
        device: &B::Device,
        weight: impl FnOnce() -> Tensor<B, 2>,
    ) -> Self {
        let upload = |matrix: &Matrix, dtype: DType| {
            let data = matrix.to_tensor_data().convert_dtype(dtype);
            Tensor::<B, 2>::from_data(data, (device, dtype))
        };
        let mut term = Self {
            start: patch.first_row(),
            rows: patch.shape()[0],
            full: None,
            kronecker: Vec::new(),
            factors: Vec::new(),
            rescale: None,
        };
        match &patch.change {
            Change::Full(full) => {
                let full = upload(full, DType::F32).mul_scalar(patch.scale);
                term.full = Some(full.cast(dtype));
            }
            Change::Kronecker { left, right } => {
                let left = upload(left, DType::F32).mul_scalar(patch.scale);
                term.kronecker = vec![left.cast(dtype), upload(right, dtype)];
            }
            Change::Decomposed {
                down,
                up,
                magnitude,
            } => {
                let [down, up] = [down, up].map(|m| upload(m, DType::F32));
                let up = up.mul_scalar(patch.scale);
                let own = weight().narrow(0, term.start, term.rows).cast(DType::F32);
                let product = linear(up.clone(), down.clone().transpose(), None);
                let moved = own.clone() + product;
                let of_rows = magnitude.cols() == 1;
                let norms = (moved.clone() * moved.clone()).sum_dim(usize::from(of_rows));
                // A direction of length 0 stays 0, whatever its factor.
                let norms = norms.sqrt().clamp_min(1e-20);
                let factors = upload(magnitude, DType::F32) / norms;
                if of_rows {
                    let up = up * factors.clone();
                    term.factors = vec![down.cast(dtype), up.cast(dtype)];
                    term.rescale = Some(factors.sub_scalar(1.0).reshape([term.rows]));
                } else {
                    term.full = Some((moved * factors - own).cast(dtype));
                }
            }
        }
        term
    }

    /// `y` with the change's output for `x` added.
    pub(crate) fn add_to<const D: usize>(
        &self,
        y: Tensor<B, D>,
        x: Tensor<B, D>,
        base: Option<&Tensor<B, D>>,
        strength: f64,
    ) -> Tensor<B, D> {
        let (dtype, width) = (x.dtype(), y.dims()[D - 1]);
        let mut change = None;
        if let Some(full) = &self.full {
            let product = linear(x.clone(), cast(full.clone(), dtype), None);
            change = Some(product.mul_scalar(strength));
        }
        if let [left, right] = self.kronecker.as_slice() {
            let left = cast(left.clone().mul_scalar(strength), dtype);
            change = Some(kronecker(x.clone(), left, cast(right.clone(), dtype)));
        }
        if let (Some(rescale), Some(base)) = (&self.rescale, base) {
            let own = base.clone().narrow(D - 1, self.start, self.rows);
            let factors = cast(rescale.clone().mul_scalar(strength), dtype);
            let own = own * factors.unsqueeze::<D>();
            change = Some(match self.factors.as_slice() {
                [down, up] => {
                    let up = cast(up.clone().mul_scalar(strength), dtype);
                    own + linear(linear(x, cast(down.clone(), dtype), None), up, None)
                }
                _ => own,
            });
        }
        let Some(change) = change else {
            return y;
        };
        if self.rows == width {
            return y + change;
        }
        let end = self.start + self.rows;
        let mut parts = Vec::new();
        if self.start > 0 {
            parts.push(y.clone().narrow(D - 1, 0, self.start));
        }
        parts.push(y.clone().narrow(D - 1, self.start, self.rows) + change);
        if end < width {
            parts.push(y.narrow(D - 1, end, width - end));
        }
        Tensor::cat(parts, D - 1)
    }

    /// What it adds to `weight` `[d_out, d_in]` at strength 1, in f32.
    pub(crate) fn delta(&self, weight: &Tensor<B, 2>) -> Tensor<B, 2> {
        let [d_out, d_in] = weight.dims();
        let own = if let Some(full) = &self.full {
            full.clone().cast(DType::F32)
        } else if let [left, right] = self.kronecker.as_slice() {
            let [a, b] = left.dims();
            let [c, d] = right.dims();
            let left = left.clone().cast(DType::F32).reshape([a, 1, b, 1]);
            let right = right.clone().cast(DType::F32).reshape([1, c, 1, d]);
            (left * right).reshape([a * c, b * d])
        } else {
            let rows = weight.clone().narrow(0, self.start, self.rows);
            let mut own = rows.cast(DType::F32);
            if let Some(factors) = &self.rescale {
                own = own * factors.clone().reshape([self.rows, 1]);
            }
            if let [down, up] = self.factors.as_slice() {
                let [down, up] = [down, up].map(|m| m.clone().cast(DType::F32));
                own = own + linear(up, down.transpose(), None);
            }
            own
        };
        let device = own.device();
        let zeros = |rows| Tensor::zeros([rows, d_in], (&device, DType::F32));
        let end = self.start + self.rows;
        let mut parts = Vec::new();
        if self.start > 0 {
            parts.push(zeros(self.start));
        }
        parts.push(own);
        if end < d_out {
            parts.push(zeros(d_out - end));
        }
        Tensor::cat(parts, 0)
    }
}

/// `x` `[.., b·d]` times the transposed Kronecker product of `left` `[a, b]` and `right` `[c, d]`,
/// without forming it: `[.., a·c]`.
fn kronecker<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    left: Tensor<B, 2>,
    right: Tensor<B, 2>,
) -> Tensor<B, D> {
    let ([a, b], [c, d]) = (left.dims(), right.dims());
    let mut dims = x.dims();
    let count: usize = dims[..D - 1].iter().product();
    let quick = linear(x.reshape([count * b, d]), right, None);
    let quick = quick.reshape([count, b, c]).swap_dims(1, 2);
    let slow = linear(quick.reshape([count * c, b]), left, None);
    let slow = slow.reshape([count, c, a]).swap_dims(1, 2);
    dims[D - 1] = a * c;
    slow.reshape(dims)
}
