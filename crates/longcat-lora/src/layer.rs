use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_kernels::{KernelBackend, linear};

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
            weight: initializer.init([self.d_out, self.d_in], device),
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
    pub weight: Param<Tensor<B, 2>>,
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
    /// Rows of all blocks one after another, `[Σ rank, d_in]`.
    pub(crate) down: Param<Tensor<B, 2>>,
    /// In order of their output rows, which do not overlap.
    pub(crate) blocks: Vec<LoraBlock<B>>,
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
        self.weight.lazy_shape()[1]
    }

    /// Output features.
    pub fn d_out(&self) -> usize {
        self.weight.lazy_shape()[0]
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
    /// - `x`: `[..., d_in]`, in the type of the base weight;
    /// - output: `[..., d_out]`, in the type of `x`.
    ///
    /// Each adapter runs in the type of its own factors; its result is cast to that of `x`.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let d_out = self.d_out();
        let base = linear(
            x.clone(),
            self.weight.val(),
            self.bias.as_ref().map(|b| b.val()),
        );
        self.adapters
            .iter()
            .filter(|branch| branch.is_active())
            .fold(base, |y, branch| y + branch.forward(x.clone(), d_out))
    }
}

impl<B: Backend> LoraBranch<B> {
    /// Nickname of the adapter this branch belongs to.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Factor on the adapter's own scale.
    pub fn strength(&self) -> f64 {
        self.strength
    }

    /// Whether the adapter takes part in the forward pass (beside the base weight or merged in it).
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whether the base weight already holds this adapter.
    pub fn is_merged(&self) -> bool {
        self.merged
    }

    /// The input side, `[Σ rank, d_in]`.
    pub fn down(&self) -> &Param<Tensor<B, 2>> {
        &self.down
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
    fn forward<const D: usize>(&self, x: Tensor<B, D>, d_out: usize) -> Tensor<B, D> {
        let dtype = x.dtype();
        let device = x.device();
        let down = self.down.val();
        let hidden = linear(cast(x, down.dtype()), down, None);
        let mut shape = hidden.dims();
        let mut zeros = |rows: usize| {
            shape[D - 1] = rows;
            Tensor::zeros(shape, (&device, dtype))
        };

        let mut outputs = Vec::with_capacity(self.blocks.len());
        let (mut row, mut rank) = (0, 0);
        for block in &self.blocks {
            let rows = block.rows();
            if rows.start > row {
                outputs.push(zeros(rows.start - row));
            }
            let part = hidden.clone().narrow(D - 1, rank, block.rank());
            let output = cast(linear(part, block.up.val(), None), dtype);
            outputs.push(output.mul_scalar(self.strength * block.scale));
            row = rows.end;
            rank += block.rank();
        }
        if row < d_out {
            outputs.push(zeros(d_out - row));
        }
        match outputs.len() {
            1 => outputs.remove(0),
            _ => Tensor::cat(outputs, D - 1),
        }
    }
}

fn cast<B: Backend, const D: usize>(x: Tensor<B, D>, dtype: DType) -> Tensor<B, D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}
