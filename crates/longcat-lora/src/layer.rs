//! The linear layer with adapters beside its weight.

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_kernels::{KernelBackend, QuantizedRows, add_low_rank, linear};
use longcat_weights::Weight;

use crate::beside::LoraTerm;

/// Configuration of a [`LoraLinear`].
#[derive(Config, Debug)]
pub struct LoraLinearConfig {
    /// Input features.
    pub d_in: usize,
    /// Output features.
    pub d_out: usize,
    /// Whether the layer has a bias.
    #[config(default = true)]
    pub bias: bool,
}

impl LoraLinearConfig {
    /// A layer without adapters.
    ///
    /// Weight and bias are drawn from U(−1/√d_in, 1/√d_in), as PyTorch's `Linear` does, and only
    /// when first read: loading a checkpoint replaces them before any memory is filled.
    pub fn init<B: Backend>(&self, device: &B::Device) -> LoraLinear<B> {
        let bound = 1.0 / (self.d_in as f64).sqrt();
        let initializer = Initializer::Uniform {
            min: -bound,
            max: bound,
        };
        LoraLinear {
            weight: initializer
                .init::<B, 2, _>([self.d_out, self.d_in], device)
                .into(),
            bias: self.bias.then(|| initializer.init([self.d_out], device)),
            adapters: Vec::new(),
        }
    }
}

/// A linear layer with any number of LoRA adapters computed beside it:
/// `y = x·Wᵀ + b + Σ strength·scale·(x·Aᵀ)·Bᵀ` over the enabled adapters.
///
/// The adapters never form a matrix of the size of `W`, so training keeps no gradient of that size
/// and the base may be of any type. Without adapters the layer is exactly the base layer.
#[derive(Module, Debug)]
pub struct LoraLinear<B: Backend> {
    /// Base weight `[d_out, d_in]`.
    pub weight: Weight<B>,
    /// Bias `[d_out]`.
    pub bias: Option<Param<Tensor<B, 1>>>,
    pub(crate) adapters: Vec<LoraBranch<B>>,
}

/// One adapter on one layer.
///
/// A layer that is several layers fused by rows (query, key and value, say) has one block per part.
/// Blocks may have different ranks, and parts without a block stay as they are.
#[derive(Module, Debug)]
pub struct LoraBranch<B: Backend> {
    pub(crate) name: String,
    /// Rows of all blocks one after another, `[Σ rank, d_in]`; none where there is no block.
    pub(crate) down: Option<Param<Tensor<B, 2>>>,
    /// In order of their output rows, which do not overlap.
    pub(crate) blocks: Vec<LoraBlock<B>>,
    /// Changes of the weight that are no product of two factors.
    pub(crate) terms: Vec<LoraTerm<B>>,
    /// Change of the bias `[d_out]` at strength 1, in f32. Never merged: it costs nothing.
    pub(crate) bias: Option<Tensor<B, 1>>,
    pub(crate) strength: f64,
    pub(crate) enabled: bool,
    /// Already part of the base weight: contributes nothing of its own.
    pub(crate) merged: bool,
}

/// The output side of one part of an adapter.
#[derive(Module, Debug)]
pub struct LoraBlock<B: Backend> {
    /// `[rows, rank]`.
    pub(crate) up: Param<Tensor<B, 2>>,
    /// First output row of the layer that this block adds to.
    pub(crate) start: usize,
    pub(crate) scale: f64,
}

impl<B: Backend> LoraLinear<B> {
    /// Input features.
    pub fn d_in(&self) -> usize {
        self.weight.shape()[1]
    }

    /// Output features.
    pub fn d_out(&self) -> usize {
        self.weight.shape()[0]
    }

    /// The adapters on this layer, in the order in which they were added.
    pub fn adapters(&self) -> &[LoraBranch<B>] {
        &self.adapters
    }
}

impl<B: KernelBackend> LoraLinear<B> {
    /// Applies the layer to the last dimension.
    ///
    /// # Shapes
    /// - `x`: `[..., d_in]`, in the type of a dense base weight, and in any where it is kept otherwise;
    /// - output: `[..., d_out]`, in the type of `x`.
    ///
    /// Factors of another type are cast to that of `x`.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let product = |bias| self.weight.product(x.clone(), bias);
        self.with_adapters(product, || x.clone())
    }

    /// Whether [`forward_quantized`](Self::forward_quantized) is the faster one: the weight is multiplied in
    /// fp8, and the device has kernels that round what they write.
    pub fn takes_quantized(&self) -> bool {
        self.weight.takes_quantized()
    }

    /// Whether adapters compute something beside the weight, for which they need floats.
    pub fn needs_floats(&self) -> bool {
        self.adapters.iter().any(LoraBranch::is_active)
    }

    /// [`forward`](Self::forward) of rows that are rounded to fp8 already. `floats` are the same before that, which
    /// adapters take; without them they take the rounded ones.
    pub fn forward_quantized<const D: usize>(
        &self,
        x: &QuantizedRows<B, D>,
        floats: Option<Tensor<B, D>>,
    ) -> Tensor<B, D> {
        let product = |bias| self.weight.product_quantized(x, bias);
        self.with_adapters(product, || floats.unwrap_or_else(|| x.numbers()))
    }

    /// The product with the weight, given a bias, and what adapters make of `x` beside it.
    fn with_adapters<const D: usize>(
        &self,
        product: impl FnOnce(Option<Tensor<B, 1>>) -> Tensor<B, D>,
        x: impl FnOnce() -> Tensor<B, D>,
    ) -> Tensor<B, D> {
        let active: Vec<_> = self.adapters.iter().filter(|b| b.is_active()).collect();
        let bias = self.bias_with_adapters();
        if active.is_empty() {
            return product(bias);
        }
        let x = x();
        if !active
            .iter()
            .any(|b| b.terms.iter().any(LoraTerm::needs_base))
        {
            return active
                .iter()
                .fold(product(bias), |y, b| b.add_to(y, x.clone(), None));
        }
        // Some adapter rescales the product without the bias.
        let base = product(None);
        let add = |y, b: &&LoraBranch<B>| b.add_to(y, x.clone(), Some(&base));
        let y = active.iter().fold(base.clone(), add);
        match bias {
            Some(bias) => {
                let bias = cast(bias, y.dtype());
                y + bias.unsqueeze::<D>()
            }
            None => y,
        }
    }

    /// The bias with what enabled adapters add to it, rounded once to its type.
    fn bias_with_adapters(&self) -> Option<Tensor<B, 1>> {
        let bias = self.bias.as_ref().map(|bias| bias.val());
        let mut changes = self.adapters.iter().filter_map(|b| {
            let change = b.bias.as_ref().filter(|_| b.enabled && b.strength != 0.0)?;
            Some(change.clone().mul_scalar(b.strength))
        });
        let Some(first) = changes.next() else {
            return bias;
        };
        let change = changes.fold(first, |sum, change| sum + change);
        let bias = bias?;
        let dtype = bias.dtype();
        Some((bias.cast(DType::F32) + change).cast(dtype))
    }
}

impl<B: Backend> LoraBranch<B> {
    /// Name of the adapter this branch belongs to.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Factor on the adapter's own scale.
    pub fn strength(&self) -> f64 {
        self.strength
    }

    /// Whether the adapter takes part in the forward pass (beside the base weight or merged in it).
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whether the base weight already holds this adapter.
    pub(crate) fn is_merged(&self) -> bool {
        self.merged
    }

    /// The input side, `[Σ rank, d_in]`; `None` where the adapter has no factors on this layer.
    pub fn down(&self) -> Option<&Param<Tensor<B, 2>>> {
        self.down.as_ref()
    }

    /// Whether it changes the weight, and not the bias alone.
    pub(crate) fn changes_weight(&self) -> bool {
        self.down.is_some() || !self.terms.is_empty()
    }

    /// The output sides.
    pub fn blocks(&self) -> &[LoraBlock<B>] {
        &self.blocks
    }

    fn is_active(&self) -> bool {
        self.enabled && !self.merged && self.strength != 0.0
    }
}

impl<B: Backend> LoraBlock<B> {
    /// The output side, `[rows, rank]`.
    pub fn up(&self) -> &Param<Tensor<B, 2>> {
        &self.up
    }

    /// Output rows of the layer that this block adds to.
    pub fn rows(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.up.lazy_shape()[0]
    }

    /// Rank of this block.
    pub fn rank(&self) -> usize {
        self.up.lazy_shape()[1]
    }

    /// The scale of the file (alpha over rank, say), without the adapter's strength.
    pub fn scale(&self) -> f64 {
        self.scale
    }
}

impl<B: KernelBackend> LoraBranch<B> {
    /// `y` with the branch's output for `x` added; `base` is the layer's product without a bias.
    /// Factors are cast to the type of `x`: the trained ones are f32, and products in f32 would
    /// cost more than the layer itself.
    fn add_to<const D: usize>(
        &self,
        y: Tensor<B, D>,
        x: Tensor<B, D>,
        base: Option<&Tensor<B, D>>,
    ) -> Tensor<B, D> {
        let mut y = y;
        if let Some(down) = &self.down {
            let dtype = x.dtype();
            let hidden = linear(x.clone(), cast(down.val(), dtype), None);
            let mut first = 0;
            let parts = self.blocks.iter().map(|block| {
                let up = block.up.val().mul_scalar(self.strength * block.scale);
                let part = (first, block.start, cast(up, dtype));
                first += block.rank();
                part
            });
            let parts = parts.collect();
            y = add_low_rank(y, hidden, parts);
        }
        self.terms
            .iter()
            .fold(y, |y, term| term.add_to(y, x.clone(), base, self.strength))
    }
}

pub(crate) fn cast<B: Backend, const D: usize>(x: Tensor<B, D>, dtype: DType) -> Tensor<B, D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}
