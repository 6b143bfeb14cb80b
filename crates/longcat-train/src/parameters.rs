//! The trained parameters of a module by their path, as flat tensors.
//!
//! Optimiser, averages and checkpoint files work element by element, so they see every parameter
//! as one dimension and know its shape only where it is written.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{DType, Tensor};

use crate::TrainError;

/// A trained parameter, or its gradient.
#[derive(Debug, Clone)]
pub struct Parameter<B: burn::tensor::backend::Backend> {
    /// All elements, row-major.
    pub values: Tensor<B, 1>,
    /// The shape in the module.
    pub shape: Vec<usize>,
}

/// Gradients of the trained parameters by module path, without autodiff graph.
#[derive(Debug, Clone)]
pub struct Gradients<B: burn::tensor::backend::Backend> {
    map: BTreeMap<String, Parameter<B>>,
}

impl<B: burn::tensor::backend::Backend> Default for Gradients<B> {
    fn default() -> Self {
        Self {
            map: BTreeMap::new(),
        }
    }
}

impl<B: burn::tensor::backend::Backend> Gradients<B> {
    /// Module paths and gradients, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Parameter<B>)> {
        self.map.iter().map(|(path, g)| (path.as_str(), g))
    }

    /// The gradient of the parameter at this path.
    pub fn get(&self, path: &str) -> Option<&Parameter<B>> {
        self.map.get(path)
    }

    /// Number of parameters with a gradient.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nothing has a gradient.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Elements of all gradients.
    pub fn num_elements(&self) -> usize {
        let sizes = self.map.values().map(|g| g.shape.iter().product::<usize>());
        sizes.sum()
    }

    /// Adds other gradients, parameter by parameter.
    pub fn add(&mut self, other: Self) {
        for (path, gradient) in other.map {
            match self.map.remove(&path) {
                Some(sum) => self.map.insert(
                    path,
                    Parameter {
                        values: sum.values + gradient.values,
                        shape: sum.shape,
                    },
                ),
                None => self.map.insert(path, gradient),
            };
        }
    }

    /// Multiplies all gradients.
    pub fn scale(&mut self, factor: f64) {
        for gradient in self.map.values_mut() {
            gradient.values = gradient.values.clone() * factor;
        }
    }

    /// Multiplies one gradient, element by element.
    pub(crate) fn multiply(&mut self, path: &str, factor: Tensor<B, 1>) {
        if let Some(gradient) = self.map.get_mut(path) {
            gradient.values = gradient.values.clone() * factor;
        }
    }

    /// The same under longer paths.
    pub fn under(self, prefix: &str) -> Self {
        let map = self.map.into_iter();
        Self {
            map: map
                .map(|(path, g)| (format!("{prefix}.{path}"), g))
                .collect(),
        }
    }

    pub(crate) fn into_map(self) -> BTreeMap<String, Parameter<B>> {
        self.map
    }
}

/// Reads a flat tensor back as f32; `what` names it in errors.
///
/// # Errors
/// [`TrainError::Device`].
pub fn read_values<B: burn::tensor::backend::Backend>(
    tensor: Tensor<B, 1>,
    what: &str,
) -> Result<Vec<f32>, TrainError> {
    let device = |reason: String| TrainError::Device {
        what: what.to_string(),
        reason,
    };
    let data = tensor
        .cast(DType::F32)
        .try_into_data()
        .map_err(|e| device(e.to_string()))?;
    data.into_vec::<f32>().map_err(|e| device(format!("{e:?}")))
}

/// Where a visitor or mapper is in the module tree.
#[derive(Debug, Clone, Default)]
struct Path(Vec<String>);

impl Path {
    fn under(prefix: &str) -> Self {
        Self(
            prefix
                .split('.')
                .filter(|s| !s.is_empty())
                .map(str::to_string)
                .collect(),
        )
    }

    fn text(&self) -> String {
        self.0.join(".")
    }
}

/// Collects gradients of the parameters below a module into `into`, under `prefix`.
pub fn collect_gradients<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    prefix: &str,
    gradients: &B::Gradients,
    into: &mut Gradients<B::InnerBackend>,
) {
    struct Collector<'a, B: AutodiffBackend> {
        path: Path,
        gradients: &'a B::Gradients,
        found: Gradients<B::InnerBackend>,
    }
    impl<B: AutodiffBackend> ModuleVisitor<B> for Collector<'_, B> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.0.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            if !param.is_require_grad() {
                return;
            }
            if let Some(gradient) = param.val().grad(self.gradients) {
                let shape = gradient.dims().to_vec();
                let values = gradient.flatten(0, D - 1);
                self.found
                    .map
                    .insert(self.path.text(), Parameter { values, shape });
            }
        }
    }
    let mut collector = Collector::<B> {
        path: Path::under(prefix),
        gradients,
        found: Gradients::default(),
    };
    module.visit(&mut collector);
    into.add(collector.found);
}

/// The trained parameters of a module (those that require gradients) by path.
pub fn trained<B: AutodiffBackend, M: Module<B>>(
    module: &M,
) -> BTreeMap<String, Parameter<B::InnerBackend>> {
    struct Collector<B: AutodiffBackend> {
        path: Path,
        found: BTreeMap<String, Parameter<B::InnerBackend>>,
    }
    impl<B: AutodiffBackend> ModuleVisitor<B> for Collector<B> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.0.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            if param.is_require_grad() {
                let tensor = param.val().inner();
                let shape = tensor.dims().to_vec();
                let values = tensor.flatten(0, D - 1);
                self.found
                    .insert(self.path.text(), Parameter { values, shape });
            }
        }
    }
    let mut collector = Collector::<B> {
        path: Path::default(),
        found: BTreeMap::new(),
    };
    module.visit(&mut collector);
    collector.found
}

/// Parameters, or gradients, without their shapes.
pub(crate) fn flat<B: burn::tensor::backend::Backend>(
    parameters: BTreeMap<String, Parameter<B>>,
) -> BTreeMap<String, Tensor<B, 1>> {
    let parameters = parameters.into_iter();
    parameters.map(|(path, p)| (path, p.values)).collect()
}

/// The paths of the trained parameters of a module.
pub(crate) fn trained_paths<B: AutodiffBackend, M: Module<B>>(module: &M) -> Vec<String> {
    struct Collector {
        path: Path,
        found: Vec<String>,
    }
    impl<B: AutodiffBackend> ModuleVisitor<B> for Collector {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.0.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            if param.is_require_grad() {
                self.found.push(self.path.text());
            }
        }
    }
    let mut collector = Collector {
        path: Path::default(),
        found: Vec::new(),
    };
    module.visit(&mut collector);
    collector.found
}

/// Gives trained parameters new values: `change` gets path and flat values and returns the new
/// ones (of the same length), or `None` to leave the parameter as it is.
pub fn update<B: AutodiffBackend, M: Module<B>>(
    module: M,
    change: impl FnMut(&str, Tensor<B::InnerBackend, 1>) -> Option<Tensor<B::InnerBackend, 1>>,
) -> M {
    struct Mapper<F> {
        path: Path,
        change: F,
    }
    impl<B, F> ModuleMapper<B> for Mapper<F>
    where
        B: AutodiffBackend,
        F: FnMut(&str, Tensor<B::InnerBackend, 1>) -> Option<Tensor<B::InnerBackend, 1>>,
    {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.0.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.0.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            if !param.is_require_grad() {
                return param;
            }
            let (id, tensor, mapper) = param.consume();
            let inner = tensor.clone().inner();
            let shape = inner.dims();
            let tensor = match (self.change)(&self.path.text(), inner.flatten(0, D - 1)) {
                Some(values) => Tensor::from_inner(values.reshape(shape)).require_grad(),
                None => tensor,
            };
            Param::from_mapped_value(id, tensor, mapper)
        }
    }
    module.map(&mut Mapper {
        path: Path::default(),
        change,
    })
}
