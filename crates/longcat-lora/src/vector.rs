//! A vector parameter, such as the weight of a norm, that adapters can change.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

/// A vector of the model with the differences that adapters add to it. The vector itself never
/// changes, so that taking an adapter off is exact.
#[derive(Module, Debug)]
pub struct LoraVector<B: Backend> {
    /// `[n]`, as loaded.
    pub value: Param<Tensor<B, 1>>,
    pub(crate) patches: Vec<VectorPatch<B>>,
}

/// What one adapter adds to a vector.
#[derive(Module, Debug)]
pub struct VectorPatch<B: Backend> {
    pub(crate) name: String,
    /// In f32, at strength 1.
    pub(crate) difference: Tensor<B, 1>,
    pub(crate) strength: f64,
    pub(crate) enabled: bool,
}

impl<B: Backend> LoraVector<B> {
    /// A vector without adapters.
    pub fn new(value: Param<Tensor<B, 1>>) -> Self {
        Self {
            value,
            patches: Vec::new(),
        }
    }

    /// The vector with what enabled adapters add, summed in f32 and rounded once to its type.
    pub fn val(&self) -> Tensor<B, 1> {
        let value = self.value.val();
        let mut changes = self
            .patches
            .iter()
            .filter(|p| p.enabled && p.strength != 0.0)
            .map(|p| p.difference.clone().mul_scalar(p.strength));
        let Some(first) = changes.next() else {
            return value;
        };
        let change = changes.fold(first, |sum, change| sum + change);
        let dtype = value.dtype();
        (value.cast(DType::F32) + change).cast(dtype)
    }
}
