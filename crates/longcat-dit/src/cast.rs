use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use regex::Regex;

use crate::LongCatTransformer;
use crate::names::fp32_islands;

struct Cast {
    path: Vec<String>,
    dtype: DType,
    keep: Regex,
}

impl<B: Backend> ModuleMapper<B> for Cast {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.keep.is_match(&self.path.join(".")) {
            return param;
        }
        let (id, tensor, mapper) = param.consume();
        Param::from_mapped_value(id, tensor.cast(self.dtype), mapper)
    }
}

impl<B: Backend> LongCatTransformer<B> {
    /// The transformer with its weights in another dtype, one after another. The fp32 islands stay
    /// what they are.
    pub fn cast(self, dtype: DType) -> Self {
        self.map(&mut Cast {
            path: Vec::new(),
            dtype,
            keep: fp32_islands(),
        })
    }
}
