//! Strict loading of a module: every key and every parameter must match.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, DType, Int, Shape, Tensor};
use longcat_kernels::KernelBackend;
use regex::Regex;
use serde::Serialize;

use crate::fill::{Source, filled};
use crate::packing::Packing;
use crate::{NameMap, Precision, Weight, WeightFiles, WeightsError};

/// How weights are applied.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The type of the weights on the device; the stored one where `None`.
    pub dtype: Option<DType>,
    /// How the matrices that [`load_host`] finds are kept.
    pub precision: Precision,
    /// Internal paths whose weights stay f32 whatever `dtype` says (fp32 islands), unless they stay
    /// packed.
    pub keep_f32: Option<Regex>,
    /// Internal paths whose floats are not packed while they are loaded.
    pub keep_dense: Option<Regex>,
    /// Internal paths of the matrices that [`load_host`] leaves in host memory, from where they pass through
    /// the device. Those whose parts are packed in different ways go to the device all the same.
    pub on_host: Option<Regex>,
    /// File keys that may be left unused.
    pub ignore_unused: Vec<Regex>,
}

/// What became of every key of a file and every parameter of a module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Internal paths that received a tensor.
    pub applied: Vec<String>,
    /// File keys that no parameter took.
    pub unused: Vec<String>,
    /// Internal paths without a tensor.
    pub missing: Vec<String>,
    /// Key, shape in the file, shape of the parameter.
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl LoadReport {
    /// Whether every key found its parameter and every parameter its key.
    pub fn is_complete(&self) -> bool {
        self.unused.is_empty() && self.missing.is_empty() && self.mismatched.is_empty()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let mut list = |what: &str, names: &[String]| -> fmt::Result {
            if names.is_empty() {
                return Ok(());
            }
            write!(
                f,
                "{} {what} ({}",
                names.len(),
                names[..names.len().min(SHOWN)].join(", ")
            )?;
            write!(f, "{}); ", if names.len() > SHOWN { ", …" } else { "" })
        };
        list("missing", &self.missing)?;
        list("unused", &self.unused)?;
        let shapes: Vec<String> = self
            .mismatched
            .iter()
            .map(|(key, found, expected)| {
                format!("{key} has shape {found:?} and the model needs {expected:?}")
            })
            .collect();
        list("with another shape", &shapes)?;
        write!(f, "{} matched", self.applied.len())
    }
}

/// A module with matrices that need not be parameters.
pub trait WeightHost<B: Backend>: Module<B> {
    /// Calls `visit` with all of them, in a fixed order.
    fn visit_weights(&self, visit: &mut dyn FnMut(&Weight<B>));

    /// As [`Self::visit_weights`], mutably, in the same order.
    fn visit_weights_mut(&mut self, visit: &mut dyn FnMut(&mut Weight<B>));
}

/// Applies every tensor of `files` to `module`, and leaves nothing out silently. All become parameters:
/// packed ones are unpacked.
///
/// `names` turns file keys into module paths. Structs named `Linear` of Burn's own library hold
/// their weight transposed to the files and are handled; other modules take tensors as stored.
/// A load that fails leaves the module as it was.
///
/// # Errors
/// [`WeightsError::Mismatch`] with the report when keys or shapes do not fit,
/// [`WeightsError::TooLarge`] for a tensor that the device has no room for in one piece,
/// [`WeightsError::Device`] when the device fails, and what [`WeightFiles::tensor_data`] refuses.
pub fn load_module<B: KernelBackend, M: Module<B>>(
    module: &mut M,
    files: &WeightFiles,
    names: &NameMap,
    options: &LoadOptions,
) -> Result<LoadReport, WeightsError> {
    Ok(load(module, files, names, options, &BTreeSet::new())?.0)
}

/// As [`load_module`], with the module's matrices kept as [`LoadOptions::precision`] says. Those of packed
/// types that devices do not compute with are unpacked whatever it says.
///
/// # Errors
/// As [`load_module`].
pub fn load_host<B: KernelBackend, M: WeightHost<B>>(
    module: &mut M,
    files: &WeightFiles,
    names: &NameMap,
    options: &LoadOptions,
) -> Result<LoadReport, WeightsError> {
    let mut matrices = BTreeSet::new();
    module.visit_weights(&mut |weight| matrices.extend(weight.param_id()));
    let (report, mut made) = load(module, files, names, options, &matrices)?;
    module.visit_weights_mut(&mut |weight| {
        if let Some(made) = weight.param_id().and_then(|id| made.remove(&id)) {
            *weight = made;
        }
    });
    Ok(report)
}

/// Matrices that are no parameters, by the parameters whose place they take.
pub(crate) type WeightById<B> = BTreeMap<ParamId, Weight<B>>;

/// Fills the parameters of a module, those of `matrices` only where they are floats on the device.
fn load<B: KernelBackend, M: Module<B>>(
    module: &mut M,
    files: &WeightFiles,
    names: &NameMap,
    options: &LoadOptions,
    matrices: &BTreeSet<ParamId>,
) -> Result<(LoadReport, WeightById<B>), WeightsError> {
    let mut parameters = Parameters::<B>::default();
    module.visit(&mut parameters);
    let (report, taken) = parameters.compare(files, names, options);
    if !report.is_complete() {
        return Err(WeightsError::Mismatch {
            path: files.path().to_path_buf(),
            report: Box::new(report),
        });
    }
    let sources: Vec<Source<B>> = parameters
        .order
        .iter()
        .map(|place| {
            let key = taken[&place.path];
            let within = |paths: &Option<Regex>| {
                let mut paths = paths.iter();
                paths.any(|paths| paths.is_match(&place.path))
            };
            let is_matrix = matrices.contains(&place.id);
            let packing = match is_matrix {
                true => {
                    let floats_stay = within(&options.keep_dense);
                    Packing::of(&files.stored(key)?, options.precision, floats_stay)
                }
                false => None,
            };
            Ok(Source {
                key,
                dtype: match within(&options.keep_f32) {
                    true => Some(DType::F32),
                    false => options.dtype,
                },
                packing,
                on_host: is_matrix && within(&options.on_host),
                transposed: place.transposed,
                device: place.device.clone(),
            })
        })
        .collect::<Result<_, WeightsError>>()?;
    for (place, source) in parameters.order.iter().zip(&sources) {
        has_room(files, source, &parameters.shapes[&place.path])?;
    }
    let (filled, made) = filled(module, files, &sources)?;
    *module = filled;
    Ok((report, made))
}

/// Whether the device of a parameter has tensors that large.
fn has_room<B: KernelBackend>(
    files: &WeightFiles,
    source: &Source<'_, B>,
    shape: &[usize],
) -> Result<(), WeightsError> {
    let dtype = match source.dtype {
        Some(dtype) => dtype,
        None => files.stored(source.key)?.natural_dtype(),
    };
    let bytes = (shape.iter().product::<usize>() * dtype.size()) as u64;
    let most = B::max_tensor_bytes(&source.device);
    match bytes <= most {
        true => Ok(()),
        false => Err(WeightsError::TooLarge {
            path: files.path().to_path_buf(),
            key: source.key.to_string(),
            bytes,
            dtype,
            most,
        }),
    }
}

/// What [`load_module`] would do, without reading any tensor.
pub fn check_module<B: Backend, M: Module<B>>(
    module: &M,
    files: &WeightFiles,
    names: &NameMap,
    options: &LoadOptions,
) -> LoadReport {
    let mut parameters = Parameters::<B>::default();
    module.visit(&mut parameters);
    parameters.compare(files, names, options).0
}

/// Paths and shapes of a module's parameters, as they are stored in files.
struct Parameters<B: Backend> {
    path: Vec<String>,
    containers: Vec<String>,
    shapes: BTreeMap<String, Vec<usize>>,
    /// In the order of the module.
    order: Vec<Place<B>>,
}

/// A parameter of a module.
struct Place<B: Backend> {
    path: String,
    id: ParamId,
    /// Whether files have it transposed.
    transposed: bool,
    device: B::Device,
}

impl<B: Backend> Default for Parameters<B> {
    fn default() -> Self {
        Self {
            path: Vec::new(),
            containers: Vec::new(),
            shapes: BTreeMap::new(),
            order: Vec::new(),
        }
    }
}

impl<B: Backend> Parameters<B> {
    /// What becomes of every key and parameter, and the key of each parameter.
    fn compare<'a>(
        &self,
        files: &'a WeightFiles,
        names: &NameMap,
        options: &LoadOptions,
    ) -> (LoadReport, BTreeMap<String, &'a str>) {
        let mut report = LoadReport::default();
        let mut taken: BTreeMap<String, &str> = BTreeMap::new();
        for key in files.keys() {
            let path = names.map(key);
            let Some(info) = files.info(key) else {
                continue;
            };
            let Some(expected) = self.shapes.get(&path) else {
                if !options.ignore_unused.iter().any(|r| r.is_match(key)) {
                    report.unused.push(key.to_string());
                }
                continue;
            };
            if info.shape != *expected {
                report
                    .mismatched
                    .push((key.to_string(), info.shape, expected.clone()));
                taken.insert(path, key);
                continue;
            }
            if taken.insert(path.clone(), key).is_some() {
                // Two keys for one parameter: the second would silently win.
                report.unused.push(key.to_string());
                continue;
            }
            report.applied.push(path);
        }
        report.missing = self
            .shapes
            .keys()
            .filter(|path| !taken.contains_key(*path))
            .cloned()
            .collect();
        (report, taken)
    }

    fn add(&mut self, id: ParamId, shape: Shape, device: B::Device) {
        let mut shape = shape.to_vec();
        let transposed = self
            .containers
            .iter()
            .rev()
            .find(|c| c.starts_with("Struct:"))
            .is_some_and(|c| c == "Struct:Linear")
            && shape.len() == 2;
        if transposed {
            shape.reverse();
        }
        let path = self.path.join(".");
        self.order.push(Place {
            path: path.clone(),
            id,
            transposed,
            device,
        });
        self.shapes.insert(path, shape);
    }
}

impl<B: Backend> ModuleVisitor<B> for Parameters<B> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_string());
        self.containers.push(container_type.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.add(param.id, param.lazy_shape(), param.lazy_device());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<B, D, Int>>) {
        self.add(param.id, param.lazy_shape(), param.lazy_device());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<B, D, Bool>>) {
        self.add(param.id, param.lazy_shape(), param.lazy_device());
    }
}
