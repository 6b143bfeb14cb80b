//! [`KernelBackend`] on the CPU.

use burn::tensor::{DType, Tensor};
use burn_backend::{TensorMetadata, tensor::FloatTensor};
use burn_flex::Flex;

use super::heads::{self, Heads};
use super::{all_f32, attention, attention_backward, conv3d, elementwise, is_f32, linear, norm};
use crate::portable::{self, from_float, into_float, to_dtype};
use crate::{BlockList, Conv3dOptions, KernelBackend, KernelDevice, PackedTensors, Products};

impl KernelDevice for Flex {
    /// About what a core's share of the last-level cache holds.
    fn patch_bytes(_device: &Self::Device) -> usize {
        4 << 20
    }

    /// Not faster than others: for a look at what they change.
    fn has_fp8_products(_device: &Self::Device) -> bool {
        true
    }
}

/// Methods with a kernel for contiguous f32, and the portable body for all else. Tensors come first.
macro_rules! in_f32 {
    ($(fn $name:ident($($x:ident),+ $(; $($arg:ident: $ty:ty),+)?) -> $out:ty = $kernels:ident;)+) => {$(
        fn $name($($x: FloatTensor<Self>,)+ $($($arg: $ty,)+)?) -> $out {
            match all_f32([$($x),+]) {
                Ok([$($x),+]) => $kernels::$name($($x,)+ $($($arg,)+)?),
                Err([$($x),+]) => portable::$name::<Self>($($x,)+ $($($arg,)+)?),
            }
        }
    )+};
}

impl KernelBackend for Flex {
    in_f32! {
        fn layer_norm_forward(x, weight, bias; epsilon: f64) -> FloatTensor<Self> = norm;
        fn layer_norm_x_backward(x, weight, d_out; epsilon: f64) -> FloatTensor<Self> = norm;
        fn rms_norm_forward(x, weight; silu: bool) -> FloatTensor<Self> = norm;
        fn gated_residual_forward(x, y, gate) -> FloatTensor<Self> = elementwise;
        fn gated_residual_y_backward(d_out, gate) -> FloatTensor<Self> = elementwise;
        fn silu_mul_forward(a, b) -> FloatTensor<Self> = elementwise;
        fn silu_mul_backward(a, b, d_out) -> (FloatTensor<Self>, FloatTensor<Self>) = elementwise;
    }

    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        if !is_f32(&x) || !is_f32(&weight) || !bias.as_ref().is_none_or(is_f32) {
            return portable::linear_forward::<Self>(x, weight, bias);
        }
        linear::linear_forward(x, &weight, bias.as_ref())
    }

    fn linear_packed_forward(
        x: FloatTensor<Self>,
        weight: PackedTensors<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        match weight.products {
            Products::Dense => portable::linear_packed_forward::<Self>(x, weight, bias),
            Products::Fp8 => portable::linear_in_fp8::<Self>(x, weight, bias),
        }
    }

    fn conv3d_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: Conv3dOptions,
    ) -> FloatTensor<Self> {
        let [_, _, kernel @ ..]: [usize; 5] = weight.shape().dims();
        if options.is_linear(kernel) || ![&x, &weight, &bias].into_iter().all(is_f32) {
            return portable::conv3d_forward::<Self>(x, weight, bias, options);
        }
        conv3d::conv3d_forward(&x, &weight, &bias, options)
    }

    fn conv3d_x_backward(
        weight: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        input: [usize; 5],
        options: Conv3dOptions,
    ) -> FloatTensor<Self> {
        if !is_f32(&weight) || !is_f32(&d_out) {
            return portable::conv3d_x_backward::<Self>(weight, d_out, input, options);
        }
        let d_x = conv3d::conv3d_enlarged_x_backward(&weight, &d_out, input, options);
        portable::sum_of_repeats::<Self>(d_x, input, options.upsample)
    }

    fn conv3d_weight_backward(
        x: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        weight: [usize; 5],
        options: Conv3dOptions,
    ) -> FloatTensor<Self> {
        if !is_f32(&x) || !is_f32(&d_out) {
            return portable::conv3d_weight_backward::<Self>(x, d_out, weight, options);
        }
        let taps = conv3d::conv3d_weight_backward(&x, &d_out, weight, options);
        let taps: Tensor<Self, 5> = from_float(taps);
        into_float(taps.permute([4, 3, 0, 1, 2]))
    }

    fn split_heads_forward(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
    ) -> FloatTensor<Self> {
        let Some(single) = Heads::of(&[&x], norm.as_ref(), rotation.as_ref()) else {
            return portable::split_heads_forward::<Self>(x, part, norm, rotation);
        };
        let (norm, rotation) = (single.norm(), single.rotation());
        heads::split_heads_forward(&x.to_contiguous(), part, norm, rotation)
    }

    fn split_heads_x_backward(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let Some(single) = Heads::of(&[&x, &d_out], norm.as_ref(), rotation.as_ref()) else {
            return portable::split_heads_x_backward::<Self>(x, part, norm, rotation, d_out);
        };
        let (x, d_out) = (x.to_contiguous(), d_out.to_contiguous());
        heads::split_heads_x_backward(&x, part, single.norm(), single.rotation(), &d_out)
    }

    fn split_heads_weight_backward(
        x: FloatTensor<Self>,
        part: usize,
        norm: (FloatTensor<Self>, f64),
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let Some(single) = Heads::of(&[&x, &d_out, &norm.0], None, rotation.as_ref()) else {
            return portable::split_heads_weight_backward::<Self>(x, part, norm, rotation, d_out);
        };
        let (x, d_out) = (x.to_contiguous(), d_out.to_contiguous());
        let (weight, epsilon) = (norm.0.to_contiguous(), norm.1 as f32);
        let norm = (&weight, epsilon);
        heads::split_heads_weight_backward(&x, part, norm, single.rotation(), &d_out)
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
        let [q, k, v] = [q, k, v].map(attention::single);
        let (out, lse) = attention::attention_forward(q, k, v, scale as f32);
        let out: Tensor<Self, 4> = to_dtype(from_float(out), dtype);
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
        let [q, k, v, out, d_out] = [q, k, v, out, d_out].map(attention::single);
        let lse = lse.to_contiguous();
        let forward = attention_backward::Forward { q, k, v, out, lse };
        let gradients = attention_backward::attention_backward(&forward, &d_out, scale as f32);
        let [dq, dk, dv] =
            gradients.map(|gradient| into_float(to_dtype(from_float::<Self, 4>(gradient), dtype)));
        (dq, dk, dv)
    }
}
