//! [`KernelBackend`] under Burn's fusion: each method is one custom operation on the stream, so that
//! the wrapped backend's own kernels run.

mod argument;
mod call;

use std::ops::Range;

use burn::tensor::DType;
use burn_backend::{
    Shape, TensorMetadata, get_device_settings,
    ops::FloatTensorOps,
    tensor::{FloatTensor, IntTensor},
};
use burn_fusion::{
    Fusion, FusionBackend, FusionHandle, FusionTensor, NoOp, get_client, stream::OperationStreams,
};
use burn_ir::{InitOperationIr, OperationIr, OperationOutput};

use crate::ops::{matrix_shape, output_shape};
use crate::portable::accumulator;
use crate::{
    BeginCopies, BlockList, BlockRule, Conv3dOptions, DeviceFault, DeviceMemory, HostRow,
    KernelBackend, KernelDevice, LowRankPart, PackedTensors, PartCopies, PatchGrid, RankGroup,
    UploadTicket, Uploads,
};
use argument::Argument;
use call::{Output, on_stream, register};

impl<B: FusionBackend + KernelBackend> KernelDevice for Fusion<B> {
    const INNER_MULTIPLE: usize = B::INNER_MULTIPLE;

    fn patch_bytes(device: &Self::Device) -> usize {
        B::patch_bytes(device)
    }

    fn memory(device: &Self::Device) -> DeviceMemory {
        B::memory(device)
    }

    fn model(device: &Self::Device) -> Option<String> {
        B::model(device)
    }

    fn order_transfers(device: &Self::Device) {
        // What waits in the stream came before.
        let device = device.clone();
        get_client::<B>(&device).sync(move || B::order_transfers(&device));
    }

    fn copies_aside(devices: &[Self::Device]) -> Option<BeginCopies<Self>> {
        let begin = B::copies_aside(devices)?;
        // What waits in a tensor's stream came before; the device is given it when the tensor is resolved.
        let resolved = |x: FloatTensor<Self>| x.client.clone().resolve_tensor_float::<B>(x);
        Some(Box::new(move |copies| {
            let targets = copies.targets.into_iter();
            begin(PartCopies {
                sources: copies.sources.into_iter().map(resolved).collect(),
                targets: targets.map(|(row, shape)| (resolved(row), shape)).collect(),
                parts: copies.parts,
            })
        }))
    }

    fn sum_over_ranks(x: FloatTensor<Self>, group: &RankGroup) -> Option<FloatTensor<Self>> {
        let client = x.client.clone();
        // At once: ranks sum in the same order, which what waits in a stream need not keep.
        let x = client.resolve_tensor_float::<B>(x);
        let sums = B::sum_over_ranks(x, group)?;
        let (shape, dtype) = like(&sums);
        let handle = B::float_tensor_handle(sums);
        Some(adopted::<B>(handle, shape, dtype, client.device()))
    }

    fn max_tensor_bytes(device: &Self::Device) -> u64 {
        B::max_tensor_bytes(device)
    }

    fn fault(device: &Self::Device) -> Option<DeviceFault> {
        B::fault(device)
    }

    fn keep_fault(device: &Self::Device, fault: DeviceFault) {
        B::keep_fault(device, fault);
    }

    fn has_fp8_products(device: &Self::Device) -> bool {
        B::has_fp8_products(device)
    }

    fn has_fp8_attention(device: &Self::Device, dtype: DType) -> bool {
        B::has_fp8_attention(device, dtype)
    }

    fn rounds_activations(device: &Self::Device) -> bool {
        B::rounds_activations(device)
    }

    fn float_from_bytes(bytes: &[u8], dtype: DType, device: &Self::Device) -> FloatTensor<Self> {
        let row = B::float_from_bytes(bytes, dtype, device);
        let (shape, dtype) = like(&row);
        adopted::<B>(B::float_tensor_handle(row), shape, dtype, device)
    }

    fn words_from_bytes(bytes: &[u8], device: &Self::Device) -> IntTensor<Self> {
        let words = B::words_from_bytes(bytes, device);
        let (shape, dtype) = like(&words);
        adopted::<B>(B::int_tensor_handle(words), shape, dtype, device)
    }

    fn begin_uploads(rows: Vec<HostRow>, device: &Self::Device) -> Uploads<Self> {
        // What waits in the stream came before, the release of memory among it: it is given to the
        // device now, by the thread that then asks for memory.
        let on = device.clone();
        let begin = move || B::begin_uploads(rows, &on);
        let Uploads { rows, ticket } = get_client::<B>(device).sync(begin);
        let rows = rows.into_iter().map(|row| {
            let (shape, dtype) = like(&row);
            adopted::<B>(B::float_tensor_handle(row), shape, dtype, device)
        });
        Uploads {
            rows: rows.collect(),
            ticket,
        }
    }

    fn await_uploads(ticket: &UploadTicket, device: &Self::Device) {
        if ticket.is_done() {
            return;
        }
        // What waits in the stream came before, and does not wait for them.
        let (ticket, on) = (ticket.clone(), device.clone());
        get_client::<B>(device).sync(move || B::await_uploads(&ticket, &on));
    }

    fn submit_queued(device: &Self::Device) {
        let on = device.clone();
        get_client::<B>(device).sync(move || B::submit_queued(&on));
    }
}

/// A tensor of the wrapped backend on the stream.
fn adopted<B: FusionBackend>(
    handle: FusionHandle<B::FusionRuntime>,
    shape: Shape,
    dtype: DType,
    device: &B::Device,
) -> FusionTensor<B::FusionRuntime> {
    let client = get_client::<B>(device);
    let desc = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
    // What is registered with its handle has nothing left to execute.
    client
        .register(
            OperationStreams::default(),
            OperationIr::Init(desc),
            NoOp::<B>::new(),
        )
        .output()
}

type Float<B> = FloatTensor<Fusion<B>>;
type Norm<B> = (Float<B>, f64);
type Rotation<B> = (Float<B>, Float<B>);

impl<B: FusionBackend + KernelBackend> KernelBackend for Fusion<B> {
    on_stream! {
        fn linear_forward(x: Float<B>, weight: Float<B>, bias: Option<Float<B>>) -> (
            y: Float = (with_last(x.shape(), Some(weight.shape()[0])), x.dtype()),
        );

        fn linear_packed_forward(x: Float<B>, weight: PackedTensors<Self>, bias: Option<Float<B>>) -> (
            y: Float = (with_last(x.shape(), Some(weight.layout.shape[0])), x.dtype()),
        );

        fn unpack_weight_forward(weight: PackedTensors<Self>, dtype: DType)
            -> (numbers: Float = (Shape::new(weight.layout.shape), dtype));

        fn words_of_floats(row: Float<B>) -> (words: Int = (row.shape(), DType::I32));

        fn quantize_rows(x: Float<B>) -> (words: Int = words_of(&x), scales: Float = scales_of(&x));

        fn quantize_heads(x: Float<B>) -> (
            words: Int = words_of(&x),
            scales: Float = (Shape::new([x.shape()[0] * x.shape()[2]]), DType::F32),
        );

        fn layer_norm_quantized(x: Float<B>, weight: Float<B>, bias: Float<B>, epsilon: f64)
            -> (words: Int = words_of(&x), scales: Float = scales_of(&x));

        fn silu_mul_quantized(a: Float<B>, b: Float<B>)
            -> (words: Int = words_of(&a), scales: Float = scales_of(&a));

        fn layer_norm_with_quantized(x: Float<B>, weight: Float<B>, bias: Float<B>, epsilon: f64)
            -> (y: Float = like(&x), words: Int = words_of(&x), scales: Float = scales_of(&x));

        fn silu_mul_with_quantized(a: Float<B>, b: Float<B>)
            -> (y: Float = like(&a), words: Int = words_of(&a), scales: Float = scales_of(&a));

        fn merge_heads_with_quantized(x: Float<B>) -> (
            y: Float = (
                Shape::new([x.shape()[0], x.shape()[2], x.shape()[1] * x.shape()[3]]),
                x.dtype(),
            ),
            words: Int = words_of(&x),
            scales: Float = (Shape::new([x.shape()[0] * x.shape()[2]]), DType::F32),
        );

        fn linear_quantized_forward(
            x: PackedTensors<Self>, weight: PackedTensors<Self>, bias: Option<Float<B>>,
            dtype: DType,
        ) -> (y: Float = (Shape::new([x.layout.shape[0], weight.layout.shape[0]]), dtype));

        fn attention_forward(
            q: Float<B>, k: Float<B>, v: Float<B>, blocks: Option<BlockList<Self>>, scale: f64,
        ) -> (
            out: Float = like(&q),
            lse: Float = (with_last(q.shape(), None), DType::F32),
        );

        fn attention_eight_bit(
            q: Float<B>, k: Float<B>, v: Float<B>, blocks: Option<BlockList<Self>>, scale: f64,
        ) -> (out: Float = like(&q));

        fn attention_backward(
            q: Float<B>, k: Float<B>, v: Float<B>, out: Float<B>, lse: Float<B>, d_out: Float<B>,
            blocks: Option<BlockList<Self>>, scale: f64,
        ) -> (dq: Float = like(&q), dk: Float = like(&k), dv: Float = like(&v));

        fn select_blocks(scores: Float<B>, rule: BlockRule) -> (
            indices: Int = (
                with_last(scores.shape(), Some(rule.width(scores.shape()[3]))),
                int_dtype::<B>(&scores),
            ),
            counts: Int = (with_last(scores.shape(), None), int_dtype::<B>(&scores)),
        );

        fn layer_norm_forward(x: Float<B>, weight: Float<B>, bias: Float<B>, epsilon: f64)
            -> (y: Float = like(&x));

        fn layer_norm_x_backward(x: Float<B>, weight: Float<B>, d_out: Float<B>, epsilon: f64)
            -> (d_x: Float = like(&x));

        fn rms_norm_forward(x: Float<B>, weight: Float<B>, silu: bool) -> (y: Float = like(&x));

        fn rms_norm_backward(x: Float<B>, weight: Float<B>, d_out: Float<B>, silu: bool)
            -> (d_x: Float = like(&x), d_weight: Float = like(&weight));

        fn gated_residual_forward(x: Float<B>, y: Float<B>, gate: Float<B>)
            -> (out: Float = like(&x));

        fn silu_mul_forward(a: Float<B>, b: Float<B>) -> (out: Float = like(&a));

        fn silu_mul_backward(a: Float<B>, b: Float<B>, d_out: Float<B>)
            -> (d_a: Float = like(&a), d_b: Float = like(&a));

        fn split_heads_forward(
            x: Float<B>, part: usize, norm: Option<Norm<B>>, rotation: Option<Rotation<B>>,
        ) -> (out: Float = of_heads(&x, [0, 3, 1, 4]));

        fn split_heads_x_backward(
            x: Float<B>, part: usize, norm: Option<Norm<B>>, rotation: Option<Rotation<B>>,
            d_out: Float<B>,
        ) -> (d_x: Float = of_heads(&x, [0, 1, 3, 4]));

        fn split_heads_weight_backward(
            x: Float<B>, part: usize, norm: Norm<B>, rotation: Option<Rotation<B>>, d_out: Float<B>,
        ) -> (d_weight: Float = (norm.0.shape(), accumulator(x.dtype())));

        fn add_low_rank_forward(y: Float<B>, hidden: Float<B>, parts: Vec<LowRankPart<Self>>)
            -> (out: Float = like(&y));

        fn matmul_nt_forward(a: Float<B>, b: Float<B>)
            -> (out: Float = (with_last(a.shape(), Some(b.shape()[2])), a.dtype()));

        fn conv3d_forward(x: Float<B>, weight: Float<B>, bias: Float<B>, options: Conv3dOptions) -> (
            y: Float = (
                output_shape(x.shape().dims(), weight.shape().dims(), &options).into(),
                x.dtype(),
            ),
        );

        fn conv3d_patches(x: Float<B>, grid: &PatchGrid, lines: Range<usize>) -> (
            patches: Float = (
                Shape::new([
                    (lines.end - lines.start) * grid.output[2],
                    grid.padded_columns(B::INNER_MULTIPLE),
                ]),
                x.dtype(),
            ),
        );

        fn conv3d_matrix(weight: Float<B>, mirrored: bool) -> (
            matrix: Float = (
                matrix_shape(weight.shape().dims(), mirrored, B::INNER_MULTIPLE).into(),
                weight.dtype(),
            ),
        );

        fn permute(x: Float<B>, axes: &[usize])
            -> (y: Float = (axes.iter().map(|axis| x.shape()[*axis]).collect(), x.dtype()));

        fn block_sums(x: Float<B>, block: usize) -> (
            sums: Float = (
                Shape::new([x.shape()[0] / block, x.shape()[1]]),
                accumulator(x.dtype()),
            ),
        );

        fn column_sums(x: Float<B>) -> (
            sums: Float = (Shape::new([x.shape()[x.shape().num_dims() - 1]]), accumulator(x.dtype())),
        );

        fn softmax_with_lse(scores: Float<B>, scale: f64) -> (
            weights: Float = like(&scores),
            lse: Float = (with_last(scores.shape(), None), scores.dtype()),
        );
    }
}

/// The shape and dtype of `x`.
fn like<T: TensorMetadata>(x: &T) -> (Shape, DType) {
    (x.shape(), x.dtype())
}

/// Of the words of `x` in e4m3.
fn words_of<T: TensorMetadata>(x: &T) -> (Shape, DType) {
    (Shape::new([x.shape().num_elements() / 4]), DType::I32)
}

/// Of a scale for each row of `x`.
fn scales_of<T: TensorMetadata>(x: &T) -> (Shape, DType) {
    let shape = x.shape();
    let width = shape[shape.num_dims() - 1].max(1);
    (Shape::new([shape.num_elements() / width]), DType::F32)
}

/// Some dimensions of fused heads `[B, T, parts, H, D]`, and their dtype.
fn of_heads<T: TensorMetadata>(x: &T, dims: [usize; 4]) -> (Shape, DType) {
    let shape = x.shape();
    (Shape::new(dims.map(|dim| shape[dim])), x.dtype())
}

/// `shape` with its last dimension replaced, or dropped.
fn with_last(shape: Shape, last: Option<usize>) -> Shape {
    let mut dims: Vec<usize> = shape.iter().copied().collect();
    dims.pop();
    dims.extend(last);
    Shape::from(dims)
}

/// The default integer dtype of the device of `x`.
fn int_dtype<B: FusionBackend>(x: &Float<B>) -> DType {
    let device = <Fusion<B> as FloatTensorOps<Fusion<B>>>::float_device(x);
    get_device_settings::<Fusion<B>>(&device).int_dtype.into()
}
