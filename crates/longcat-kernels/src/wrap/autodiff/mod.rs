//! [`KernelBackend`] under Burn's autodiff, with hand-written backward steps.

mod attention;
mod conv3d;
mod elementwise;
mod heads;
mod linear;
mod norm;
mod packed;

use burn::tensor::{DType, Tensor};
use burn_autodiff::{
    Autodiff, checkpoint::strategy::CheckpointStrategy, grads::Gradients, ops::Ops,
};
use burn_backend::TensorMetadata;
use burn_backend::tensor::{FloatTensor, IntTensor};

use crate::portable::{from_float, into_float, to_dtype};
use crate::{
    BlockList, BlockRule, Conv3dOptions, DeviceFault, DeviceMemory, HostRow, KernelBackend,
    KernelDevice, PackedTensors, UploadTicket, Uploads, portable,
};

/// A tensor that autodiff may track.
type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

impl<B: KernelBackend, C: CheckpointStrategy> KernelDevice for Autodiff<B, C> {
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
        B::order_transfers(device);
    }

    fn max_tensor_bytes(device: &Self::Device) -> u64 {
        B::max_tensor_bytes(device)
    }

    fn fault(device: &Self::Device) -> Option<DeviceFault> {
        B::fault(device)
    }

    fn has_fp8_products(device: &Self::Device) -> bool {
        B::has_fp8_products(device)
    }

    // Of attention in eight bits there are no gradients: has_fp8_attention stays false.

    fn keep_fault(device: &Self::Device, fault: DeviceFault) {
        B::keep_fault(device, fault);
    }

    fn float_from_bytes(bytes: &[u8], dtype: DType, device: &Self::Device) -> FloatTensor<Self> {
        constant::<B, C>(B::float_from_bytes(bytes, dtype, device))
    }

    fn words_from_bytes(bytes: &[u8], device: &Self::Device) -> IntTensor<Self> {
        B::words_from_bytes(bytes, device)
    }

    fn begin_uploads(rows: Vec<HostRow>, device: &Self::Device) -> Uploads<Self> {
        let Uploads { rows, ticket } = B::begin_uploads(rows, device);
        Uploads {
            rows: rows.into_iter().map(constant::<B, C>).collect(),
            ticket,
        }
    }

    fn await_uploads(ticket: &UploadTicket, device: &Self::Device) {
        B::await_uploads(ticket, device);
    }

    fn submit_queued(device: &Self::Device) {
        B::submit_queued(device);
    }
}

/// Methods that are steps of autodiff's graph, each the function of the same name in a module.
macro_rules! steps {
    ($(fn $name:ident($($arg:ident: $ty:ty),+ $(,)?) -> $out:ty = $steps:ident;)+) => {$(
        fn $name($($arg: $ty),+) -> $out {
            $steps::$name::<B, C>($($arg),+)
        }
    )+};
}

type Norm<B, C> = (Tracked<B, C>, f64);
type Rotation<B, C> = (Tracked<B, C>, Tracked<B, C>);

impl<B: KernelBackend, C: CheckpointStrategy> KernelBackend for Autodiff<B, C> {
    steps! {
        fn linear_forward(
            x: Tracked<B, C>, weight: Tracked<B, C>, bias: Option<Tracked<B, C>>,
        ) -> Tracked<B, C> = linear;

        fn linear_packed_forward(
            x: Tracked<B, C>, weight: PackedTensors<Self>, bias: Option<Tracked<B, C>>,
        ) -> Tracked<B, C> = packed;

        fn unpack_weight_forward(weight: PackedTensors<Self>, dtype: DType)
            -> Tracked<B, C> = packed;

        fn attention_forward(
            q: Tracked<B, C>, k: Tracked<B, C>, v: Tracked<B, C>,
            blocks: Option<BlockList<Self>>, scale: f64,
        ) -> (Tracked<B, C>, Tracked<B, C>) = attention;

        fn layer_norm_forward(
            x: Tracked<B, C>, weight: Tracked<B, C>, bias: Tracked<B, C>, epsilon: f64,
        ) -> Tracked<B, C> = norm;

        fn rms_norm_forward(x: Tracked<B, C>, weight: Tracked<B, C>, silu: bool)
            -> Tracked<B, C> = norm;

        fn gated_residual_forward(x: Tracked<B, C>, y: Tracked<B, C>, gate: Tracked<B, C>)
            -> Tracked<B, C> = elementwise;

        fn silu_mul_forward(a: Tracked<B, C>, b: Tracked<B, C>) -> Tracked<B, C> = elementwise;

        fn split_heads_forward(
            x: Tracked<B, C>, part: usize, norm: Option<Norm<B, C>>, rotation: Option<Rotation<B, C>>,
        ) -> Tracked<B, C> = heads;

        fn conv3d_forward(
            x: Tracked<B, C>, weight: Tracked<B, C>, bias: Tracked<B, C>, options: Conv3dOptions,
        ) -> Tracked<B, C> = conv3d;
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
        let (dq, dk, dv) = B::attention_backward(
            q.primitive,
            k.primitive,
            v.primitive,
            out.primitive,
            lse.primitive,
            d_out.primitive,
            blocks.map(inner),
            scale,
        );
        (
            constant::<B, C>(dq),
            constant::<B, C>(dk),
            constant::<B, C>(dv),
        )
    }

    fn select_blocks(
        scores: FloatTensor<Self>,
        rule: BlockRule,
    ) -> (IntTensor<Self>, IntTensor<Self>) {
        B::select_blocks(scores.primitive, rule)
    }

    fn words_of_floats(row: FloatTensor<Self>) -> IntTensor<Self> {
        B::words_of_floats(row.primitive)
    }

    fn quantize_rows(x: FloatTensor<Self>) -> (IntTensor<Self>, FloatTensor<Self>) {
        let (words, scales) = B::quantize_rows(x.primitive);
        (words, constant::<B, C>(scales))
    }

    fn block_sums(x: FloatTensor<Self>, block: usize) -> FloatTensor<Self> {
        constant::<B, C>(B::block_sums(x.primitive, block))
    }

    /// Differentiable, unlike those of other backends.
    fn softmax_with_lse(
        scores: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if scores.is_tracked() {
            return portable::softmax_with_lse::<Self>(scores, scale);
        }
        let (weights, lse) = B::softmax_with_lse(scores.primitive, scale);
        (constant::<B, C>(weights), constant::<B, C>(lse))
    }

    fn matmul_nt_forward(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        if a.is_tracked() || b.is_tracked() {
            return portable::matmul_nt_forward::<Self>(a, b);
        }
        constant::<B, C>(B::matmul_nt_forward(a.primitive, b.primitive))
    }
}

/// Runs `$forward` as a step of the graph whose parents are the given tensors. Where one of them is
/// tracked, the step keeps `$state`, in whose expression `$prep` keeps tensors for the backward pass.
macro_rules! step {
    ($step:expr, [$($parent:expr),+], |$prep:ident| $state:expr, $forward:expr) => {
        match Backward::<B, _>::prepare::<C>($step, [$($parent.node.clone()),+])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut $prep) => {
                let state = $state;
                $prep.finish(state, $forward)
            }
            OpsKind::UnTracked(prep) => prep.finish($forward),
        }
    };
}

use step;

/// Hands gradients to the parents that are tracked.
fn register<B: KernelBackend, S, const N: usize>(
    grads: &mut Gradients,
    ops: Ops<S, N>,
    values: [Option<FloatTensor<B>>; N],
) {
    for (node, value) in ops.parents.into_iter().zip(values) {
        if let (Some(node), Some(value)) = (node, value) {
            grads.register::<B>(node.id, value);
        }
    }
}

/// The gradient of a bias `[C]` that was added to `[.., C]`, in the dtype of `d_out`.
fn d_bias<B: KernelBackend>(d_out: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = d_out.dtype();
    let sums: Tensor<B, 1> = from_float(B::column_sums(d_out));
    into_float(to_dtype(sums, dtype))
}

/// A tensor that autodiff does not track.
fn constant<B: KernelBackend, C: CheckpointStrategy>(tensor: FloatTensor<B>) -> Tracked<B, C> {
    <Autodiff<B, C> as burn::tensor::backend::AutodiffBackend>::from_inner(tensor)
}

/// The same list: autodiff has the integer tensors of its inner backend.
fn inner<B: KernelBackend, C: CheckpointStrategy>(list: BlockList<Autodiff<B, C>>) -> BlockList<B> {
    BlockList {
        indices: list.indices,
        counts: list.counts,
        key_valid: list.key_valid,
        block_q: list.block_q,
        block_k: list.block_k,
    }
}
