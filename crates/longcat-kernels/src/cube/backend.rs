//! [`KernelBackend`] on cubecl runtimes.

use std::ops::Range;

use burn::tensor::DType;
use burn_backend::tensor::{FloatTensor, IntTensor};
#[cfg(feature = "cuda")]
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use cubecl::device::Device;

use super::attention::{self, Backward};
use super::upload::try_upload;
use super::{conv, norm, packed, permute, products, watch};
#[cfg(feature = "cuda")]
use crate::cuda::{
    fp8::{self, Written},
    hopper::eight_bit,
};
#[cfg(feature = "cuda")]
use crate::{
    BeginCopies, Conv3dOptions, HostRow, Products, RankGroup, UploadTicket, Uploads, WithQuantized,
};
use crate::{
    BlockList, BlockRule, DeviceFault, DeviceMemory, KernelBackend, KernelDevice, LowRankPart,
    PackedTensors, PatchGrid, portable,
};

impl<R, F, I, BT> KernelDevice for CubeBackend<R, F, I, BT>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    const INNER_MULTIPLE: usize = 16;

    /// Enough rows to fill a large GPU, and few launches, where the device has buffers that large.
    fn patch_bytes(device: &Self::Device) -> usize {
        let most = R::client(device).properties().memory.max_page_size;
        (most as usize).min(1 << 30)
    }

    fn memory(device: &Self::Device) -> DeviceMemory {
        #[cfg(feature = "cuda")]
        if let Some(device) =
            (device as &dyn std::any::Any).downcast_ref::<cubecl::cuda::CudaDevice>()
        {
            return crate::cuda::memory::device_memory(device.index);
        }
        let _ = device;
        // What drivers of GPUs take for a context with its pipelines; they do not tell what is free.
        DeviceMemory {
            free: None,
            context: 256 << 20,
        }
    }

    #[cfg(feature = "cuda")]
    fn model(device: &Self::Device) -> Option<String> {
        let device = device as &dyn std::any::Any;
        let device = device.downcast_ref::<cubecl::cuda::CudaDevice>()?;
        crate::cuda::memory::device_model(device.index)
    }

    fn max_tensor_bytes(device: &Self::Device) -> u64 {
        // What CUDA devices report is a share of their memory that their pools keep to.
        #[cfg(feature = "cuda")]
        if (device as &dyn std::any::Any).is::<cubecl::cuda::CudaDevice>() {
            return u64::MAX;
        }
        R::client(device).properties().memory.max_page_size
    }

    fn fault(device: &Self::Device) -> Option<DeviceFault> {
        let fault = watch::first(device.to_id())?;
        Some(fault.within(Self::max_tensor_bytes(device)))
    }

    fn keep_fault(device: &Self::Device, fault: DeviceFault) {
        watch::keep(device.to_id(), fault);
    }

    #[cfg(feature = "cuda")]
    fn has_fp8_products(device: &Self::Device) -> bool {
        let device = (device as &dyn std::any::Any).downcast_ref::<cubecl::cuda::CudaDevice>();
        device.is_some_and(|device| fp8::is_available(device.index))
    }

    #[cfg(feature = "cuda")]
    fn has_fp8_attention(device: &Self::Device, dtype: DType) -> bool {
        let device = (device as &dyn std::any::Any).downcast_ref::<cubecl::cuda::CudaDevice>();
        device.is_some_and(|device| eight_bit::is_available(device.index, dtype))
    }

    #[cfg(feature = "cuda")]
    fn rounds_activations(device: &Self::Device) -> bool {
        Self::has_fp8_products(device)
    }

    #[cfg(feature = "cuda")]
    fn order_transfers(device: &Self::Device) {
        if !crate::cuda::transfers::order(device) {
            // Slower, and as safe.
            let _ = <Self as burn_backend::Backend>::sync(device);
        }
    }

    #[cfg(feature = "cuda")]
    fn copies_aside(devices: &[Self::Device]) -> Option<BeginCopies<Self>> {
        crate::cuda::peers::begin_copies::<Self, R>(devices)
    }

    fn float_from_bytes(bytes: &[u8], dtype: DType, device: &Self::Device) -> FloatTensor<Self> {
        try_upload::<R>(bytes, dtype, device)
            .unwrap_or_else(|| portable::float_from_bytes::<Self>(bytes, dtype, device))
    }

    fn words_from_bytes(bytes: &[u8], device: &Self::Device) -> IntTensor<Self> {
        // Whole words, which nearly all weights are.
        let whole = bytes.len().is_multiple_of(4);
        whole
            .then(|| try_upload::<R>(bytes, DType::I32, device))
            .flatten()
            .unwrap_or_else(|| portable::words_from_bytes::<Self>(bytes, device))
    }

    #[cfg(feature = "cuda")]
    fn begin_uploads(rows: Vec<HostRow>, device: &Self::Device) -> Uploads<Self> {
        match crate::cuda::prefetch::try_begin::<R>(&rows, device) {
            Some((rows, ticket)) => Uploads { rows, ticket },
            None => portable::begin_uploads::<Self>(rows, device),
        }
    }

    #[cfg(feature = "cuda")]
    fn sum_over_ranks(x: FloatTensor<Self>, group: &RankGroup) -> Option<FloatTensor<Self>> {
        crate::cuda::ranks::try_sum(&x, group)
    }

    #[cfg(feature = "cuda")]
    fn await_uploads(ticket: &UploadTicket, _device: &Self::Device) {
        crate::cuda::prefetch::finish(ticket);
    }
}

/// Methods with a kernel for some tensors, and the portable body for all others. Float tensors come
/// first.
macro_rules! where_supported {
    ($(fn $name:ident($($x:ident),+ $(; $($arg:ident: $ty:ty),+)?) -> $out:ty = $kernels:ident;)+) => {$(
        fn $name($($x: FloatTensor<Self>,)+ $($($arg: $ty,)+)?) -> $out {
            $kernels::$name($(&$x,)+ $($($arg,)+)?)
                .unwrap_or_else(|| portable::$name::<Self>($($x,)+ $($($arg,)+)?))
        }
    )+};
}

impl<R, F, I, BT> KernelBackend for CubeBackend<R, F, I, BT>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    where_supported! {
        fn layer_norm_forward(x, weight, bias; epsilon: f64) -> FloatTensor<Self> = norm;
        fn layer_norm_x_backward(x, weight, d_out; epsilon: f64) -> FloatTensor<Self> = norm;
        fn rms_norm_forward(x, weight; silu: bool) -> FloatTensor<Self> = norm;
        fn gated_residual_forward(x, y, gate) -> FloatTensor<Self> = norm;
        fn silu_mul_forward(a, b) -> FloatTensor<Self> = norm;
        fn block_sums(x; block: usize) -> FloatTensor<Self> = norm;
        fn column_sums(x) -> FloatTensor<Self> = norm;
        fn softmax_with_lse(scores; scale: f64) -> (FloatTensor<Self>, FloatTensor<Self>) = norm;
        fn permute(x; axes: &[usize]) -> FloatTensor<Self> = permute;
        fn select_blocks(scores; rule: BlockRule) -> (IntTensor<Self>, IntTensor<Self>) = attention;
    }

    #[cfg(feature = "cuda")]
    fn conv3d_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: Conv3dOptions,
    ) -> FloatTensor<Self> {
        match crate::cuda::cudnn::try_conv3d(&x, &weight, &options) {
            Some(y) => portable::add_bias::<Self>(y, bias),
            None => portable::conv3d_forward::<Self>(x, weight, bias, options),
        }
    }

    fn conv3d_patches(
        x: FloatTensor<Self>,
        grid: &PatchGrid,
        lines: Range<usize>,
    ) -> FloatTensor<Self> {
        conv::conv3d_patches(&x, grid, lines.clone(), Self::INNER_MULTIPLE)
            .unwrap_or_else(|| portable::conv3d_patches::<Self>(x, grid, lines))
    }

    fn conv3d_matrix(weight: FloatTensor<Self>, mirrored: bool) -> FloatTensor<Self> {
        conv::conv3d_matrix(&weight, mirrored, Self::INNER_MULTIPLE)
            .unwrap_or_else(|| portable::conv3d_matrix::<Self>(weight, mirrored))
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        silu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let Some((dx, products)) = norm::rms_norm_backward(&x, &weight, &d_out, silu) else {
            return portable::rms_norm_backward::<Self>(x, weight, d_out, silu);
        };
        (dx, Self::column_sums(products))
    }

    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        #[cfg(feature = "cuda")]
        if let Some(y) = crate::cuda::cublas::try_linear(&x, &weight, bias.as_ref()) {
            return y;
        }
        products::try_linear::<R, F, I, BT>(&x, &weight, bias.as_ref())
            .unwrap_or_else(|| portable::linear_forward::<Self>(x, weight, bias))
    }

    fn unpack_weight_forward(weight: PackedTensors<Self>, dtype: DType) -> FloatTensor<Self> {
        let PackedTensors {
            words,
            scale,
            layout,
            ..
        } = &weight;
        packed::unpack_weight_forward(words, scale.as_ref(), layout, dtype)
            .unwrap_or_else(|| portable::unpack_weight_forward::<Self>(weight, dtype))
    }

    fn words_of_floats(row: FloatTensor<Self>) -> IntTensor<Self> {
        packed::words_of_floats(row)
    }

    fn linear_packed_forward(
        x: FloatTensor<Self>,
        weight: PackedTensors<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        #[cfg(feature = "cuda")]
        if let (Products::Fp8, Some(scale)) = (weight.products, &weight.scale) {
            let parts = (&weight.words, scale);
            let y = fp8::try_linear(&x, parts, &weight.layout, bias.as_ref());
            if let Some(y) = y {
                return y;
            }
        }
        let (words, scale) = (&weight.words, weight.scale.as_ref());
        packed::linear_of_few_rows(&x, words, scale, &weight.layout, bias.as_ref())
            .unwrap_or_else(|| portable::linear_packed_forward::<Self>(x, weight, bias))
    }

    #[cfg(feature = "cuda")]
    fn quantize_rows(x: FloatTensor<Self>) -> (IntTensor<Self>, FloatTensor<Self>) {
        match fp8::try_quantize_rows(&x) {
            Some(rows) => (rows.words, rows.scales),
            None => portable::quantize_rows::<Self>(x),
        }
    }

    #[cfg(feature = "cuda")]
    fn quantize_heads(x: FloatTensor<Self>) -> (IntTensor<Self>, FloatTensor<Self>) {
        match fp8::try_quantize_heads(&x, false) {
            Some(rows) => (rows.words, rows.scales),
            None => portable::quantize_heads::<Self>(x),
        }
    }

    #[cfg(feature = "cuda")]
    fn merge_heads_with_quantized(x: FloatTensor<Self>) -> WithQuantized<Self> {
        match fp8::try_quantize_heads(&x, true).and_then(with_floats) {
            Some(written) => written,
            None => portable::merge_heads_with_quantized::<Self>(x),
        }
    }

    #[cfg(feature = "cuda")]
    fn layer_norm_quantized(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        match fp8::try_layer_norm_quantized(&x, (&weight, &bias), epsilon, false) {
            Some(rows) => (rows.words, rows.scales),
            None => portable::layer_norm_quantized::<Self>(x, weight, bias, epsilon),
        }
    }

    #[cfg(feature = "cuda")]
    fn layer_norm_with_quantized(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> WithQuantized<Self> {
        let rows = fp8::try_layer_norm_quantized(&x, (&weight, &bias), epsilon, true);
        match rows.and_then(with_floats) {
            Some(written) => written,
            None => portable::layer_norm_with_quantized::<Self>(x, weight, bias, epsilon),
        }
    }

    #[cfg(feature = "cuda")]
    fn silu_mul_quantized(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        match fp8::try_silu_mul_quantized(&a, &b, false) {
            Some(rows) => (rows.words, rows.scales),
            None => portable::silu_mul_quantized::<Self>(a, b),
        }
    }

    #[cfg(feature = "cuda")]
    fn silu_mul_with_quantized(a: FloatTensor<Self>, b: FloatTensor<Self>) -> WithQuantized<Self> {
        match fp8::try_silu_mul_quantized(&a, &b, true).and_then(with_floats) {
            Some(written) => written,
            None => portable::silu_mul_with_quantized::<Self>(a, b),
        }
    }

    #[cfg(feature = "cuda")]
    fn linear_quantized_forward(
        x: PackedTensors<Self>,
        weight: PackedTensors<Self>,
        bias: Option<FloatTensor<Self>>,
        dtype: DType,
    ) -> FloatTensor<Self> {
        if let (Some(x_scales), Some(scale)) = (&x.scale, &weight.scale) {
            let y = fp8::try_linear_quantized(
                (&x.words, x_scales),
                &x.layout,
                (&weight.words, scale),
                &weight.layout,
                bias.as_ref(),
                dtype,
            );
            if let Some(y) = y {
                return y;
            }
        }
        portable::linear_quantized_forward::<Self>(x, weight, bias, dtype)
    }

    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        blocks: Option<BlockList<Self>>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        attention::forward(&q, &k, &v, blocks.as_ref(), scale)
            .unwrap_or_else(|| portable::attention_forward::<Self>(q, k, v, blocks, scale))
    }

    #[cfg(feature = "cuda")]
    fn attention_eight_bit(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        blocks: Option<BlockList<Self>>,
        scale: f64,
    ) -> FloatTensor<Self> {
        attention::forward_eight_bit(&q, &k, &v, blocks.as_ref(), scale)
            .unwrap_or_else(|| Self::attention_forward(q, k, v, blocks, scale).0)
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
        let tensors = Backward {
            q: q.clone(),
            k: k.clone(),
            v: v.clone(),
            out: out.clone(),
            lse: lse.clone(),
            d_out: d_out.clone(),
            scale,
        };
        attention::backward(tensors, blocks.as_ref()).unwrap_or_else(|| {
            portable::attention_backward::<Self>(q, k, v, out, lse, d_out, blocks, scale)
        })
    }

    fn silu_mul_backward(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match norm::Elements::of(&a, &[&b, &d_out]) {
            Some(elements) => norm::silu_mul_backward(&elements, a, b, d_out),
            None => portable::silu_mul_backward::<Self>(a, b, d_out),
        }
    }

    fn split_heads_forward(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
    ) -> FloatTensor<Self> {
        let weight = norm.as_ref().map(|(weight, epsilon)| (weight, *epsilon));
        let tables = rotation.as_ref().map(|(cos, sin)| (cos, sin));
        norm::split_heads_forward(&x, part, weight, tables)
            .unwrap_or_else(|| portable::split_heads_forward::<Self>(x, part, norm, rotation))
    }

    fn split_heads_x_backward(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let weight = norm.as_ref().map(|(weight, epsilon)| (weight, *epsilon));
        let tables = rotation.as_ref().map(|(cos, sin)| (cos, sin));
        norm::split_heads_x_backward(&x, part, weight, tables, &d_out).unwrap_or_else(|| {
            portable::split_heads_x_backward::<Self>(x, part, norm, rotation, d_out)
        })
    }

    fn split_heads_weight_backward(
        x: FloatTensor<Self>,
        part: usize,
        norm: (FloatTensor<Self>, f64),
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let tables = rotation.as_ref().map(|(cos, sin)| (cos, sin));
        match norm::split_heads_weight_terms(&x, part, (&norm.0, norm.1), tables, &d_out) {
            Some(terms) => Self::column_sums(terms),
            None => portable::split_heads_weight_backward::<Self>(x, part, norm, rotation, d_out),
        }
    }

    fn add_low_rank_forward(
        y: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        parts: Vec<LowRankPart<Self>>,
    ) -> FloatTensor<Self> {
        #[cfg(feature = "cuda")]
        {
            let terms: Vec<_> = parts
                .iter()
                .map(|part| (part.first, part.start, &part.up))
                .collect();
            if crate::cuda::cublas::try_add_products(&y, &hidden, &terms) {
                return y;
            }
        }
        portable::add_low_rank_forward::<Self>(y, hidden, parts)
    }

    fn matmul_nt_forward(q: FloatTensor<Self>, k: FloatTensor<Self>) -> FloatTensor<Self> {
        #[cfg(feature = "cuda")]
        if let Some(scores) = crate::cuda::cublas::try_matmul_nt(&q, &k) {
            return scores;
        }
        products::try_matmul_nt::<R, F, I, BT>(&q, &k)
            .unwrap_or_else(|| portable::matmul_nt_forward::<Self>(q, k))
    }
}

/// Rows as they are, words and scales.
#[cfg(feature = "cuda")]
fn with_floats<R: CubeRuntime>(
    written: Written<R>,
) -> Option<(CubeTensor<R>, CubeTensor<R>, CubeTensor<R>)> {
    Some((written.floats?, written.words, written.scales))
}
