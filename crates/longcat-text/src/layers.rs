//! The parts of one encoder block.

use burn::module::{Initializer, Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, DType, Int, Tensor};
use longcat_kernels::{KernelBackend, StreamedWeight, matmul_nt, merge_heads};
use longcat_weights::Weight;

use crate::Umt5Config;

/// Root-mean-square norm without mean subtraction or bias, computed in f32.
#[derive(Module, Debug)]
pub(crate) struct RmsNorm<B: Backend> {
    weight: Param<Tensor<B, 1>>,
    epsilon: f64,
}

impl<B: Backend> RmsNorm<B> {
    pub(crate) fn new(config: &Umt5Config, device: &B::Device) -> Self {
        Self {
            weight: Initializer::Ones.init([config.d_model], device),
            epsilon: config.layer_norm_epsilon,
        }
    }

    /// `[n, L, d_model]` of any float type to the same shape in the type of the weight.
    pub(crate) fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let weight = self.weight.val();
        let x = x.cast(DType::F32);
        let mean_square = x.clone().square().mean_dim(2);
        let normed = x / (mean_square + self.epsilon).sqrt();
        normed.cast(weight.dtype()) * weight.unsqueeze()
    }
}

/// Self-attention with a relative position bias of its own; scores are not scaled.
#[derive(Module, Debug)]
pub(crate) struct SelfAttention<B: Backend> {
    q: Weight<B>,
    k: Weight<B>,
    v: Weight<B>,
    o: Weight<B>,
    relative_attention_bias: Param<Tensor<B, 2>>,
    heads: usize,
}

impl<B: Backend> SelfAttention<B> {
    fn new(config: &Umt5Config, device: &B::Device) -> Self {
        let (inner, d_model) = (config.inner_dim(), config.d_model);
        let from_model = (d_model as f64).powf(-0.5);
        Self {
            // The factor 1/√d_kv that attention does not apply sits in the queries' scale.
            q: normal(
                [inner, d_model],
                ((d_model * config.d_kv) as f64).powf(-0.5),
                device,
            )
            .into(),
            k: normal([inner, d_model], from_model, device).into(),
            v: normal([inner, d_model], from_model, device).into(),
            o: normal([d_model, inner], (inner as f64).powf(-0.5), device).into(),
            relative_attention_bias: normal(
                [config.relative_attention_num_buckets, config.num_heads],
                from_model,
                device,
            ),
            heads: config.num_heads,
        }
    }
}

impl<B: KernelBackend> SelfAttention<B> {
    /// `x` `[n, L, d_model]`, `buckets` `[L·L]`, `padding` `[n, 1, 1, L]` (true: not attended).
    fn forward(
        &self,
        x: Tensor<B, 3>,
        buckets: Tensor<B, 1, Int>,
        padding: Tensor<B, 4, Bool>,
    ) -> Tensor<B, 3> {
        let [n, length, _] = x.dims();
        let dtype = x.dtype();
        let heads = |weight: &Weight<B>| -> Tensor<B, 4> {
            let y = weight.product(x.clone(), None);
            let width = y.dims()[2] / self.heads;
            y.reshape([n, length, self.heads, width]).swap_dims(1, 2)
        };
        let (q, k, v) = (heads(&self.q), heads(&self.k), heads(&self.v));
        let bias = self
            .relative_attention_bias
            .val()
            .cast(DType::F32)
            .select(0, buckets)
            .reshape([1, length, length, self.heads])
            .permute([0, 3, 1, 2]);
        let scores = matmul_nt(q, k).cast(DType::F32) + bias;
        // A finite fill, as in the reference: a sequence of nothing but padding stays finite.
        let padding = padding.expand([n, self.heads, length, length]);
        let weights = softmax(scores.mask_fill(padding, f32::MIN), 3).cast(dtype);
        let mixed = matmul_nt(weights, v.swap_dims(2, 3));
        self.o.product(merge_heads(mixed), None)
    }
}

/// `wo(gelu(wi_0 x) · wi_1 x)` with the tanh form of GELU.
#[derive(Module, Debug)]
pub(crate) struct GatedFeedForward<B: Backend> {
    wi_0: Weight<B>,
    wi_1: Weight<B>,
    wo: Weight<B>,
}

impl<B: Backend> GatedFeedForward<B> {
    fn new(config: &Umt5Config, device: &B::Device) -> Self {
        let (d_ff, d_model) = (config.d_ff, config.d_model);
        let from_model = (d_model as f64).powf(-0.5);
        Self {
            wi_0: normal([d_ff, d_model], from_model, device).into(),
            wi_1: normal([d_ff, d_model], from_model, device).into(),
            wo: normal([d_model, d_ff], (d_ff as f64).powf(-0.5), device).into(),
        }
    }
}

impl<B: KernelBackend> GatedFeedForward<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let gate = gelu_tanh(self.wi_0.product(x.clone(), None));
        let hidden = gate * self.wi_1.product(x, None);
        // wo stays f32 when the rest is f16, whose range its sums exceed.
        let dtype = match (self.wo.dtype(), hidden.dtype()) {
            (Some(dtype), _) => dtype,
            (None, DType::F16) => DType::F32,
            (None, dtype) => dtype,
        };
        self.wo.product(hidden.cast(dtype), None)
    }
}

/// One block: attention, then feed-forward, each normed before and added to the stream.
#[derive(Module, Debug)]
pub(crate) struct Block<B: Backend> {
    attention_norm: RmsNorm<B>,
    attention: SelfAttention<B>,
    feed_forward_norm: RmsNorm<B>,
    feed_forward: GatedFeedForward<B>,
}

impl<B: Backend> Block<B> {
    pub(crate) fn new(config: &Umt5Config, device: &B::Device) -> Self {
        Self {
            attention_norm: RmsNorm::new(config, device),
            attention: SelfAttention::new(config, device),
            feed_forward_norm: RmsNorm::new(config, device),
            feed_forward: GatedFeedForward::new(config, device),
        }
    }

    /// The matrices of all linear layers.
    fn weights(&self) -> [&Weight<B>; 7] {
        let SelfAttention { q, k, v, o, .. } = &self.attention;
        let GatedFeedForward { wi_0, wi_1, wo } = &self.feed_forward;
        [q, k, v, o, wi_0, wi_1, wo]
    }

    /// Calls `visit` with the matrices of all linear layers.
    pub(crate) fn visit_weights(&self, visit: &mut dyn FnMut(&Weight<B>)) {
        self.weights().into_iter().for_each(visit);
    }

    /// The same, in the same order.
    pub(crate) fn visit_weights_mut(&mut self, visit: &mut dyn FnMut(&mut Weight<B>)) {
        let SelfAttention { q, k, v, o, .. } = &mut self.attention;
        let GatedFeedForward { wi_0, wi_1, wo } = &mut self.feed_forward;
        [q, k, v, o, wi_0, wi_1, wo].into_iter().for_each(visit);
    }
}

impl<B: KernelBackend> Block<B> {
    /// The matrices that pass through the device.
    pub(crate) fn streamed(&self) -> Vec<&StreamedWeight<B>> {
        let weights = self.weights().into_iter();
        weights.filter_map(Weight::streamed).collect()
    }

    pub(crate) fn forward(
        &self,
        x: Tensor<B, 3>,
        buckets: Tensor<B, 1, Int>,
        padding: Tensor<B, 4, Bool>,
    ) -> Tensor<B, 3> {
        let stream = x.dtype();
        let normed = self.attention_norm.forward(x.clone());
        let attended = self.attention.forward(normed, buckets, padding);
        let x = x + attended.cast(stream);
        let normed = self.feed_forward_norm.forward(x.clone());
        x + self.feed_forward.forward(normed).cast(stream)
    }
}

/// GELU in its tanh form; the cube is written out because `pow` of a negative base is undefined on
/// some devices.
fn gelu_tanh<B: Backend>(x: Tensor<B, 3>) -> Tensor<B, 3> {
    const SQRT_2_OVER_PI: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    let cube = x.clone() * x.clone() * x.clone();
    let inner = (x.clone() + cube * 0.044715) * SQRT_2_OVER_PI;
    x * (inner.tanh() + 1.0) * 0.5
}

pub(crate) fn normal<B: Backend>(
    shape: [usize; 2],
    std: f64,
    device: &B::Device,
) -> Param<Tensor<B, 2>> {
    Initializer::Normal { mean: 0.0, std }.init(shape, device)
}
