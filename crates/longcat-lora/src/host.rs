//! What a model implements to carry adapters.

use burn::tensor::backend::Backend;

use crate::{LoraLinear, LoraVector, TargetTable};

/// A model whose layers can carry adapters.
///
/// Names are the canonical ones, those of the files the model was released in
/// (`blocks.0.attn.qkv`), whatever the Rust fields are called.
pub trait LoraHost<B: Backend> {
    /// Calls `visit` with every layer and its name, in a fixed order.
    fn visit_lora(&self, visit: &mut dyn FnMut(&str, &LoraLinear<B>));

    /// As [`Self::visit_lora`], mutably, in the same order.
    fn visit_lora_mut(&mut self, visit: &mut dyn FnMut(&str, &mut LoraLinear<B>));

    /// Calls `visit` with every vector that adapters can change and the name of its tensor
    /// (`blocks.0.attn.q_norm.weight`), in a fixed order. A model may have none.
    fn visit_vectors(&self, _visit: &mut dyn FnMut(&str, &LoraVector<B>)) {}

    /// As [`Self::visit_vectors`], mutably, in the same order.
    fn visit_vectors_mut(&mut self, _visit: &mut dyn FnMut(&str, &mut LoraVector<B>)) {}

    /// How the layers are named, fused and spelled in adapter files.
    fn target_table(&self) -> &TargetTable;
}
