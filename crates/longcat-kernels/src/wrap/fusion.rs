//! [`KernelBackend`] under Burn's fusion: each method is one custom operation on the stream, so that
//! the wrapped backend's own kernels run.

use std::{fmt, marker::PhantomData, ops::Range, slice};

use burn::tensor::DType;
use burn_backend::{
    Shape, TensorMetadata, get_device_settings,
    ops::FloatTensorOps,
    tensor::{FloatTensor, IntTensor},
};
use burn_fusion::{
    Fusion, FusionBackend, FusionHandle, FusionTensor, NoOp, get_client,
    stream::{Operation, OperationStreams},
};
use burn_ir::{
    CustomOpIr, HandleContainer, InitOperationIr, OperationIr, OperationOutput, TensorIr,
};

use crate::ops::{matrix_shape, output_shape};
use crate::portable::accumulator;
use crate::{BlockList, BlockRule, Conv3dOptions, KernelBackend, LowRankPart, PatchGrid};

type Handles<B> = HandleContainer<FusionHandle<<B as FusionBackend>::FusionRuntime>>;

/// A call waiting on the stream.
struct Call<B, F> {
    desc: CustomOpIr,
    body: F,
    backend: PhantomData<fn() -> B>,
}

impl<B, F> fmt::Debug for Call<B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.desc.fmt(f)
    }
}

/// The inputs of a call, in the order in which they were registered.
struct Inputs<'a, B: FusionBackend> {
    tensors: slice::Iter<'a, TensorIr>,
    handles: &'a mut Handles<B>,
}

enum Output<B: FusionBackend> {
    Float(FloatTensor<B>),
    Int(IntTensor<B>),
}

impl<B: FusionBackend> Inputs<'_, B> {
    fn float(&mut self) -> FloatTensor<B> {
        let next = self.tensors.next();
        let tensor = next.expect("a call reads what it registered");
        self.handles.get_float_tensor::<B>(tensor)
    }

    fn int(&mut self) -> IntTensor<B> {
        let next = self.tensors.next();
        let tensor = next.expect("a call reads what it registered");
        self.handles.get_int_tensor::<B>(tensor)
    }

    fn list(&mut self, list: Option<ListInfo>) -> Option<BlockList<B>> {
        list.map(|info| BlockList {
            indices: self.int(),
            counts: self.int(),
            key_valid: info.padded.then(|| self.int()),
            block_q: info.block_q,
            block_k: info.block_k,
        })
    }
}

impl<B, F> Operation<B::FusionRuntime> for Call<B, F>
where
    B: FusionBackend,
    F: Fn(&mut Inputs<'_, B>) -> Vec<Output<B>> + Send + Sync,
{
    fn execute(&self, handles: &mut Handles<B>) {
        let outputs = (self.body)(&mut Inputs {
            tensors: self.desc.inputs.iter(),
            handles,
        });
        for (ir, output) in self.desc.outputs.iter().zip(outputs) {
            match output {
                Output::Float(tensor) => handles.register_float_tensor::<B>(&ir.id, tensor),
                Output::Int(tensor) => handles.register_int_tensor::<B>(&ir.id, tensor),
            }
        }
    }
}

/// Puts a call on the stream; its outputs have the given shapes and dtypes.
fn register<B: FusionBackend, const N: usize>(
    name: &'static str,
    inputs: Vec<FusionTensor<B::FusionRuntime>>,
    outputs: [(Shape, DType); N],
    body: impl Fn(&mut Inputs<'_, B>) -> Vec<Output<B>> + Send + Sync + 'static,
) -> [FusionTensor<B::FusionRuntime>; N] {
    let streams = OperationStreams::with_inputs(&inputs);
    let client = inputs[0].client.clone();
    let inputs: Vec<TensorIr> = inputs.into_iter().map(FusionTensor::into_ir).collect();
    let outputs =
        outputs.map(|(shape, dtype)| TensorIr::uninit(client.create_empty_handle(), shape, dtype));
    let desc = CustomOpIr::new(name, &inputs, &outputs);
    let call = Call {
        desc: desc.clone(),
        body,
        backend: PhantomData::<fn() -> B>,
    };
    client
        .register(streams, OperationIr::Custom(desc), call)
        .outputs()
}

/// What of a [`BlockList`] is not a tensor.
#[derive(Clone, Copy)]
struct ListInfo {
    padded: bool,
    block_q: usize,
    block_k: usize,
}

/// Adds the tensors of a list to the inputs of a call.
fn push_list<B: FusionBackend>(
    inputs: &mut Vec<FusionTensor<B::FusionRuntime>>,
    list: Option<BlockList<Fusion<B>>>,
) -> Option<ListInfo> {
    list.map(|list| {
        let info = ListInfo {
            padded: list.key_valid.is_some(),
            block_q: list.block_q,
            block_k: list.block_k,
        };
        inputs.extend([list.indices, list.counts]);
        inputs.extend(list.key_valid);
        info
    })
}

/// `shape` with its last dimension replaced, or dropped.
fn with_last(shape: Shape, last: Option<usize>) -> Shape {
    let mut dims: Vec<usize> = shape.iter().copied().collect();
    dims.pop();
    dims.extend(last);
    Shape::from(dims)
}

impl<B: FusionBackend + KernelBackend> KernelBackend for Fusion<B> {
    const INNER_MULTIPLE: usize = B::INNER_MULTIPLE;

    fn patch_bytes(device: &Self::Device) -> usize {
        B::patch_bytes(device)
    }

    fn order_transfers(device: &Self::Device) {
        // What waits in the stream came before.
        let device = device.clone();
        get_client::<B>(&device).sync(move || B::order_transfers(&device));
    }

    fn float_from_bytes(bytes: &[u8], dtype: DType, device: &Self::Device) -> FloatTensor<Self> {
        let client = get_client::<B>(device);
        let tensor = B::float_from_bytes(bytes, dtype, device);
        let shape = tensor.shape();
        let handle = B::float_tensor_handle(tensor);
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

    fn conv3d_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: Conv3dOptions,
    ) -> FloatTensor<Self> {
        let shape = output_shape(x.shape().dims(), weight.shape().dims(), &options);
        let out = (Shape::new(shape), x.dtype());
        let inputs = vec![x, weight, bias];
        let [out] = register::<B, 1>("longcat_conv3d", inputs, [out], move |inputs| {
            let [x, weight, bias] = [inputs.float(), inputs.float(), inputs.float()];
            vec![Output::Float(B::conv3d_forward(x, weight, bias, options))]
        });
        out
    }

    fn conv3d_patches(
        x: FloatTensor<Self>,
        grid: &PatchGrid,
        lines: Range<usize>,
    ) -> FloatTensor<Self> {
        let rows = (lines.end - lines.start) * grid.output[2];
        let shape = Shape::new([rows, grid.padded_columns(B::INNER_MULTIPLE)]);
        let out = (shape, x.dtype());
        let grid = grid.clone();
        let [out] = register::<B, 1>("longcat_conv3d_patches", vec![x], [out], move |inputs| {
            let patches = B::conv3d_patches(inputs.float(), &grid, lines.clone());
            vec![Output::Float(patches)]
        });
        out
    }

    fn conv3d_matrix(weight: FloatTensor<Self>, mirrored: bool) -> FloatTensor<Self> {
        let shape = matrix_shape(weight.shape().dims(), mirrored, B::INNER_MULTIPLE);
        let out = (Shape::new(shape), weight.dtype());
        let name = "longcat_conv3d_matrix";
        let [out] = register::<B, 1>(name, vec![weight], [out], move |inputs| {
            vec![Output::Float(B::conv3d_matrix(inputs.float(), mirrored))]
        });
        out
    }

    fn permuted(x: FloatTensor<Self>, axes: &[usize]) -> FloatTensor<Self> {
        let shape = x.shape();
        let out = (axes.iter().map(|axis| shape[*axis]).collect(), x.dtype());
        let axes = axes.to_vec();
        let [out] = register::<B, 1>("longcat_permuted", vec![x], [out], move |inputs| {
            vec![Output::Float(B::permuted(inputs.float(), &axes))]
        });
        out
    }

    fn block_sums(x: FloatTensor<Self>, block: usize) -> FloatTensor<Self> {
        let [rows, width] = x.shape().dims();
        let out = (Shape::new([rows / block, width]), accumulator(x.dtype()));
        let [out] = register::<B, 1>("longcat_block_sums", vec![x], [out], move |inputs| {
            vec![Output::Float(B::block_sums(inputs.float(), block))]
        });
        out
    }

    fn column_sums(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = x.shape();
        let out = (
            Shape::new([shape[shape.num_dims() - 1]]),
            accumulator(x.dtype()),
        );
        let [out] = register::<B, 1>("longcat_column_sums", vec![x], [out], |inputs| {
            vec![Output::Float(B::column_sums(inputs.float()))]
        });
        out
    }

    fn softmax_with_lse(
        scores: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (shape, dtype) = (scores.shape(), scores.dtype());
        let outputs = [(shape.clone(), dtype), (with_last(shape, None), dtype)];
        let name = "longcat_softmax";
        let [weights, lse] = register::<B, 2>(name, vec![scores], outputs, move |inputs| {
            let (weights, lse) = B::softmax_with_lse(inputs.float(), scale);
            vec![Output::Float(weights), Output::Float(lse)]
        });
        (weights, lse)
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, silu: bool) -> FloatTensor<Self> {
        let out = (x.shape(), x.dtype());
        let [out] = register::<B, 1>("longcat_rms_norm", vec![x, weight], [out], move |inputs| {
            let (x, weight) = (inputs.float(), inputs.float());
            vec![Output::Float(B::rms_norm(x, weight, silu))]
        });
        out
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        silu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let outputs = [&x, &weight].map(|x| (x.shape(), x.dtype()));
        let inputs = vec![x, weight, d_out];
        let name = "longcat_rms_norm_backward";
        let [dx, d_weight] = register::<B, 2>(name, inputs, outputs, move |inputs| {
            let [x, weight, d_out] = [(); 3].map(|()| inputs.float());
            let (dx, d_weight) = B::rms_norm_backward(x, weight, d_out, silu);
            vec![Output::Float(dx), Output::Float(d_weight)]
        });
        (dx, d_weight)
    }

    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        let out = (with_last(x.shape(), Some(weight.shape()[0])), x.dtype());
        let has_bias = bias.is_some();
        let inputs = [x, weight].into_iter().chain(bias).collect();
        let [out] = register::<B, 1>("longcat_linear", inputs, [out], move |inputs| {
            let (x, weight) = (inputs.float(), inputs.float());
            let bias = has_bias.then(|| inputs.float());
            vec![Output::Float(B::linear_forward(x, weight, bias))]
        });
        out
    }

    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        blocks: Option<BlockList<Self>>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let outputs = [
            (q.shape(), q.dtype()),
            (with_last(q.shape(), None), DType::F32),
        ];
        let mut inputs = vec![q, k, v];
        let list = push_list::<B>(&mut inputs, blocks);
        let [out, lse] = register::<B, 2>("longcat_attention", inputs, outputs, move |inputs| {
            let (q, k, v) = (inputs.float(), inputs.float(), inputs.float());
            let (out, lse) = B::attention_forward(q, k, v, inputs.list(list), scale);
            vec![Output::Float(out), Output::Float(lse)]
        });
        (out, lse)
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
        let outputs = [&q, &k, &v].map(|x| (x.shape(), x.dtype()));
        let mut inputs = vec![q, k, v, out, lse, d_out];
        let list = push_list::<B>(&mut inputs, blocks);
        let [dq, dk, dv] = register::<B, 3>(
            "longcat_attention_backward",
            inputs,
            outputs,
            move |inputs| {
                let [q, k, v, out, lse, d_out] = [(); 6].map(|()| inputs.float());
                let list = inputs.list(list);
                let (dq, dk, dv) = B::attention_backward(q, k, v, out, lse, d_out, list, scale);
                [dq, dk, dv].map(Output::Float).into()
            },
        );
        (dq, dk, dv)
    }

    fn select_blocks(
        scores: FloatTensor<Self>,
        rule: BlockRule,
    ) -> (IntTensor<Self>, IntTensor<Self>) {
        let dtype = get_device_settings::<Self>(&Self::float_device(&scores)).int_dtype;
        let shape = scores.shape();
        let width = rule.width(shape[3]);
        let outputs = [
            (with_last(shape.clone(), Some(width)), dtype.into()),
            (with_last(shape, None), dtype.into()),
        ];
        let [indices, counts] = register::<B, 2>(
            "longcat_select_blocks",
            vec![scores],
            outputs,
            move |inputs| {
                let (indices, counts) = B::select_blocks(inputs.float(), rule);
                vec![Output::Int(indices), Output::Int(counts)]
            },
        );
        (indices, counts)
    }

    fn grouped_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let out = (x.shape(), x.dtype());
        let inputs = vec![x, weight, bias];
        let [out] = register::<B, 1>("longcat_layer_norm", inputs, [out], move |inputs| {
            let [x, weight, bias] = [(); 3].map(|()| inputs.float());
            vec![Output::Float(B::grouped_layer_norm(
                x, weight, bias, epsilon,
            ))]
        });
        out
    }

    fn gated_residual(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let out = (x.shape(), x.dtype());
        let inputs = vec![x, y, gate];
        let [out] = register::<B, 1>("longcat_gated_residual", inputs, [out], |inputs| {
            let [x, y, gate] = [(); 3].map(|()| inputs.float());
            vec![Output::Float(B::gated_residual(x, y, gate))]
        });
        out
    }

    fn silu_mul(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let out = (a.shape(), a.dtype());
        let [out] = register::<B, 1>("longcat_silu_mul", vec![a, b], [out], |inputs| {
            let [a, b] = [(); 2].map(|()| inputs.float());
            vec![Output::Float(B::silu_mul(a, b))]
        });
        out
    }

    fn silu_mul_backward(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let out = (a.shape(), a.dtype());
        let (inputs, outputs) = (vec![a, b, d_out], [out.clone(), out]);
        let name = "longcat_silu_mul_backward";
        let [d_a, d_b] = register::<B, 2>(name, inputs, outputs, |inputs| {
            let [a, b, d_out] = [(); 3].map(|()| inputs.float());
            let (d_a, d_b) = B::silu_mul_backward(a, b, d_out);
            [d_a, d_b].map(Output::Float).into()
        });
        (d_a, d_b)
    }

    fn split_heads(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
    ) -> FloatTensor<Self> {
        let shape = x.shape();
        let out = Shape::new([shape[0], shape[3], shape[1], shape[4]]);
        let out = (out, x.dtype());
        let (epsilon, rotated) = (norm.as_ref().map(|norm| norm.1), rotation.is_some());
        let mut inputs = vec![x];
        inputs.extend(norm.map(|norm| norm.0));
        inputs.extend(rotation.into_iter().flat_map(|(cos, sin)| [cos, sin]));
        let [out] = register::<B, 1>("longcat_split_heads", inputs, [out], move |inputs| {
            let x = inputs.float();
            let norm = epsilon.map(|epsilon| (inputs.float(), epsilon));
            let rotation = rotated.then(|| (inputs.float(), inputs.float()));
            vec![Output::Float(B::split_heads(x, part, norm, rotation))]
        });
        out
    }

    fn layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let out = (x.shape(), x.dtype());
        let inputs = vec![x, weight, d_out];
        let name = "longcat_layer_norm_backward";
        let [out] = register::<B, 1>(name, inputs, [out], move |inputs| {
            let [x, weight, d_out] = [(); 3].map(|()| inputs.float());
            vec![Output::Float(B::layer_norm_backward(
                x, weight, d_out, epsilon,
            ))]
        });
        out
    }

    fn split_heads_backward(
        x: FloatTensor<Self>,
        part: usize,
        norm: Option<(FloatTensor<Self>, f64)>,
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let shape = x.shape();
        let out = Shape::new([shape[0], shape[1], shape[3], shape[4]]);
        let out = (out, x.dtype());
        let (epsilon, rotated) = (norm.as_ref().map(|norm| norm.1), rotation.is_some());
        let mut inputs = vec![x, d_out];
        inputs.extend(norm.map(|norm| norm.0));
        inputs.extend(rotation.into_iter().flat_map(|(cos, sin)| [cos, sin]));
        let name = "longcat_split_heads_backward";
        let [out] = register::<B, 1>(name, inputs, [out], move |inputs| {
            let (x, d_out) = (inputs.float(), inputs.float());
            let norm = epsilon.map(|epsilon| (inputs.float(), epsilon));
            let rotation = rotated.then(|| (inputs.float(), inputs.float()));
            vec![Output::Float(B::split_heads_backward(
                x, part, norm, rotation, d_out,
            ))]
        });
        out
    }

    fn head_norm_backward(
        x: FloatTensor<Self>,
        part: usize,
        (weight, epsilon): (FloatTensor<Self>, f64),
        rotation: Option<(FloatTensor<Self>, FloatTensor<Self>)>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let out = (weight.shape(), accumulator(x.dtype()));
        let rotated = rotation.is_some();
        let mut inputs = vec![x, d_out, weight];
        inputs.extend(rotation.into_iter().flat_map(|(cos, sin)| [cos, sin]));
        let name = "longcat_head_norm_backward";
        let [out] = register::<B, 1>(name, inputs, [out], move |inputs| {
            let [x, d_out, weight] = [(); 3].map(|()| inputs.float());
            let rotation = rotated.then(|| (inputs.float(), inputs.float()));
            let norm = (weight, epsilon);
            vec![Output::Float(B::head_norm_backward(
                x, part, norm, rotation, d_out,
            ))]
        });
        out
    }

    fn add_low_rank(
        y: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        parts: Vec<LowRankPart<Self>>,
    ) -> FloatTensor<Self> {
        let out = (y.shape(), y.dtype());
        let places: Vec<_> = parts.iter().map(|part| (part.first, part.start)).collect();
        let mut inputs = vec![y, hidden];
        inputs.extend(parts.into_iter().map(|part| part.up));
        let [out] = register::<B, 1>("longcat_add_low_rank", inputs, [out], move |inputs| {
            let (y, hidden) = (inputs.float(), inputs.float());
            let parts = places.iter().map(|&(first, start)| LowRankPart {
                up: inputs.float(),
                first,
                start,
            });
            let parts = parts.collect();
            vec![Output::Float(B::add_low_rank(y, hidden, parts))]
        });
        out
    }

    fn matmul_nt(q: FloatTensor<Self>, k: FloatTensor<Self>) -> FloatTensor<Self> {
        let out = (with_last(q.shape(), Some(k.shape()[2])), q.dtype());
        let [out] = register::<B, 1>("longcat_matmul_nt", vec![q, k], [out], |inputs| {
            let (q, k) = (inputs.float(), inputs.float());
            vec![Output::Float(B::matmul_nt(q, k))]
        });
        out
    }
}
