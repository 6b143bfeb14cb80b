//! Weights of a module in another dtype.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use regex::Regex;

struct Cast<'a> {
    path: Vec<String>,
    dtype: DType,
    keep: Option<&'a Regex>,
}

impl<B: Backend> ModuleMapper<B> for Cast<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.keep.is_some_and(|k| k.is_match(&self.path.join("."))) {
            return param;
        }
        let (id, tensor, mapper) = param.consume();
        Param::from_mapped_value(id, tensor.cast(self.dtype), mapper)
    }
}

/// The module with its float weights in another dtype, converted one after another. Weights whose
/// path matches `keep` stay what they are.
pub fn cast_module<B: Backend, M: Module<B>>(module: M, dtype: DType, keep: Option<&Regex>) -> M {
    module.map(&mut Cast {
        path: Vec::new(),
        dtype,
        keep,
    })
}
