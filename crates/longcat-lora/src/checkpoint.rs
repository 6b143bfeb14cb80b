//! Merging adapters into the files of a checkpoint.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Bytes, DType, TensorData};
use longcat_partial::Partial;
use longcat_weights::{StoredType, TensorInfo, WeightFiles, WeightsError};
use safetensors::tensor::{View, serialize_to_file};
use safetensors::{Dtype, SafeTensorError};
use serde::Serialize;

use crate::registry::check_strength;
use crate::terms::Terms;
use crate::{Adapter, LoraError, Requantized, TargetTable};

/// What merging into a checkpoint did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MergeReport {
    /// Keys of the weights that changed.
    pub merged: Vec<String>,
    /// Number of tensors that were copied as they are.
    pub unchanged: usize,
    /// What packing merged matrices again changed, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requantized: Option<Requantized>,
    /// The new directory.
    pub output: PathBuf,
}

/// One adapter and its strength.
pub(crate) type Weighted<'a> = (&'a Adapter, f64);

/// Told of bytes that were written and of all that will be, after every tensor; may stop.
pub type MergeProgress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Writes a checkpoint directory with adapters added to its weights, biases and norms,
/// `W + Σ strength · scale · up · down` for those of two factors: products in f32, sums in f64,
/// rounded once to the stored type. Every adapter is relative to the weights in `directory`.
///
/// `directory` holds safetensors files, with or without an index, in the spelling of `table`; all
/// its other files are copied. Tensors are read from the memory-mapped shards and merged one at a
/// time while a shard is written. The output appears under its name only once it is complete.
///
/// # Errors
/// [`LoraError::OutputExists`], [`LoraError::UnknownModule`] where the checkpoint lacks a layer of
/// an adapter, [`LoraError::ShapeMismatch`], [`LoraError::InvalidSetting`] for a strength that is
/// not finite, [`LoraError::Overflow`] where a sum is larger than the stored type holds,
/// [`LoraError::File`] for files that cannot be read or written.
pub fn merge_into_checkpoint(
    directory: &Path,
    adapters: &[Weighted],
    output: &Path,
    table: &TargetTable,
) -> Result<MergeReport, LoraError> {
    merge_into_checkpoint_with(directory, adapters, output, table, &mut |_, _| {
        ControlFlow::Continue(())
    })
}

/// As [`merge_into_checkpoint`], with progress.
///
/// # Errors
/// Also [`LoraError::Cancelled`] where `progress` stops it; nothing is left then.
pub fn merge_into_checkpoint_with(
    directory: &Path,
    adapters: &[Weighted],
    output: &Path,
    table: &TargetTable,
    progress: MergeProgress,
) -> Result<MergeReport, LoraError> {
    staged(directory, adapters, output, table, |files, temporary| {
        write_all(directory, files, adapters, temporary, table, progress)
    })
}

/// Lets `write` fill a directory under a temporary name, which it gives up when it is whole.
pub(crate) fn staged(
    directory: &Path,
    adapters: &[Weighted],
    output: &Path,
    table: &TargetTable,
    write: impl FnOnce(&WeightFiles, &Path) -> Result<(), LoraError>,
) -> Result<MergeReport, LoraError> {
    for (_, strength) in adapters {
        check_strength(*strength)?;
    }
    if output.exists() {
        return Err(LoraError::OutputExists {
            path: output.to_path_buf(),
        });
    }
    let files = WeightFiles::open(directory)?;
    let merged = check(&files, adapters, table)?;

    let partial = Partial::new(output);
    let io = |e| LoraError::File(WeightsError::io(output, e));
    std::fs::create_dir_all(partial.path()).map_err(io)?;
    write(&files, partial.path())?;
    partial.finish().map_err(io)?;
    Ok(MergeReport {
        unchanged: files.keys().count() - merged.len(),
        merged,
        requantized: None,
        output: output.to_path_buf(),
    })
}

/// A parameter of the checkpoint that adapters can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) layer: String,
    /// The part that a checkpoint stores by itself.
    pub(crate) part: Option<usize>,
    pub(crate) bias: bool,
}

impl Parameter {
    pub(crate) fn of(key: &str, table: &TargetTable) -> Option<Self> {
        let (module, bias) = match key.strip_suffix(".bias") {
            Some(module) => (module, true),
            None => (key.strip_suffix(".weight")?, false),
        };
        let name = table.canonical(module)?;
        let (layer, part) = match name.split_once('#') {
            Some((layer, part)) => (layer.to_string(), part.parse().ok()),
            None => (name, None),
        };
        Some(Self { layer, part, bias })
    }

    /// That of a key, if adapters change it.
    pub(crate) fn changed(key: &str, adapters: &[Weighted], table: &TargetTable) -> Option<Self> {
        let parameter = Self::of(key, table)?;
        let touches = |adapter: &Adapter| {
            let patches = adapter.patches_of(&parameter.layer);
            patches.iter().any(|p| p.bias == parameter.bias)
                || (!parameter.bias && adapter.get(&parameter.layer).is_some())
        };
        let changed = adapters.iter().any(|(adapter, _)| touches(adapter));
        changed.then_some(parameter)
    }

    /// Its values with what adapters add.
    pub(crate) fn merged(&self, values: TensorData, adapters: &[Weighted]) -> Vec<f64> {
        let [rows, cols] = matrix_shape(&values.shape);
        let mut weight: Vec<f64> = values.iter::<f64>().collect();
        let terms = Terms::of(adapters, &self.layer, self.bias);
        terms.add_to(&mut weight, cols, self.first_row(rows));
        weight
    }

    /// As it is called where an adapter addresses it and the checkpoint has none.
    fn name(layer: &str, bias: bool) -> String {
        match bias {
            true => format!("{layer}.bias"),
            false => layer.to_string(),
        }
    }

    /// Why an adapter's change does not fit the stored shape.
    fn check(
        &self,
        key: &str,
        shape: &[usize],
        adapter: &Adapter,
        table: &TargetTable,
    ) -> Result<bool, LoraError> {
        let blocks = adapter.get(&self.layer).filter(|_| !self.bias);
        let blocks = blocks.unwrap_or_default();
        let patches = adapter.patches_of(&self.layer).iter();
        let patches = patches.filter(|p| p.bias == self.bias);
        let wanted = blocks
            .iter()
            .map(|b| [b.d_out(), b.down.cols()])
            .chain(patches.map(|p| [p.d_out(), p.shape()[1]]));
        let mut touched = false;
        for [d_out, cols] in wanted {
            touched = true;
            let rows = match self.part {
                Some(_) => d_out / table.parts(&self.layer),
                None => d_out,
            };
            if matrix_shape(shape) != [rows, cols] {
                return Err(LoraError::ShapeMismatch {
                    path: adapter.origin().to_path_buf(),
                    target: self.layer.clone(),
                    key: key.to_string(),
                    found: shape.to_vec(),
                    expected: format!("but the adapter is for a weight [{rows}, {cols}]"),
                });
            }
        }
        Ok(touched)
    }

    /// The first row of the layer that the checkpoint's tensor of so many rows holds.
    fn first_row(&self, rows: usize) -> usize {
        self.part.unwrap_or(0) * rows
    }
}

/// Sums in the type of a weight.
///
/// # Errors
/// [`LoraError::Overflow`] where it does not hold one.
pub(crate) fn rounded(
    key: &str,
    sums: Vec<f64>,
    shape: &[usize],
    dtype: DType,
) -> Result<TensorData, LoraError> {
    let sums = TensorData::new(sums, shape.to_vec()).convert_dtype(dtype);
    let finite = sums.iter::<f64>().all(f64::is_finite);
    match finite {
        true => Ok(sums),
        false => Err(LoraError::Overflow {
            target: key.to_string(),
            dtype: format!("{dtype:?}").to_lowercase(),
        }),
    }
}

/// Rows, and everything else as columns: kernels of convolutions are flat, vectors one column.
pub(crate) fn matrix_shape(shape: &[usize]) -> [usize; 2] {
    match shape {
        [rows, rest @ ..] => [*rows, rest.iter().product()],
        [] => [1, 1],
    }
}

/// Checks names, shapes and values; returns the keys that will change.
fn check(
    files: &WeightFiles,
    adapters: &[Weighted],
    table: &TargetTable,
) -> Result<Vec<String>, LoraError> {
    let mut merged = Vec::new();
    let mut present = BTreeSet::new();
    for key in files.keys() {
        if files
            .stored(key)
            .is_ok_and(|tensor| tensor.float().is_none())
        {
            // Packed values are made numbers while the new file is written, which cannot fail.
            files.tensor_data(key)?;
        }
        let (Some(parameter), Some(info)) = (Parameter::of(key, table), files.info(key)) else {
            continue;
        };
        let mut touched = false;
        for (adapter, _) in adapters {
            touched |= parameter.check(key, &info.shape, adapter, table)?;
        }
        if touched {
            // NaN and integers are refused here, before anything is written.
            files.tensor_data(key)?;
            let [rows, _] = matrix_shape(&info.shape);
            let terms = Terms::of(adapters, &parameter.layer, parameter.bias);
            if terms.need_more_than(parameter.first_row(rows), rows) {
                return Err(LoraError::InvalidSetting {
                    what: format!(
                        "{key}: the DoRA adapter needs the whole layer, which this checkpoint \
                         stores in parts; merge into the official one"
                    ),
                });
            }
            merged.push(key.to_string());
        }
        present.insert(Parameter::name(&parameter.layer, parameter.bias));
    }
    for (adapter, _) in adapters {
        let weights = adapter.targets().map(|(layer, _)| (layer, false));
        let patches = adapter.patches();
        let patches = patches.flat_map(|(l, patches)| patches.iter().map(move |p| (l, p.bias)));
        let mut absent: Vec<String> = weights
            .chain(patches)
            .map(|(layer, bias)| Parameter::name(layer, bias))
            .filter(|name| !present.contains(name))
            .collect();
        absent.dedup();
        if !absent.is_empty() {
            return Err(LoraError::UnknownModule {
                path: adapter.origin().to_path_buf(),
                targets: absent,
            });
        }
    }
    Ok(merged)
}

fn write_all(
    directory: &Path,
    files: &WeightFiles,
    adapters: &[Weighted],
    output: &Path,
    table: &TargetTable,
    progress: MergeProgress,
) -> Result<(), LoraError> {
    let sizes = files.keys().filter_map(|key| files.info(key));
    let run = RefCell::new(Run {
        done: 0,
        total: sizes.map(|info| written_bytes(&info) as u64).sum(),
        progress,
        failure: None,
    });
    let shards: BTreeSet<&Path> = files.files().collect();
    for shard in &shards {
        let source = WeightFiles::open(shard)?;
        let file = output
            .join(shard.file_name().unwrap_or_default())
            .with_extension("safetensors");
        let tensors = source.keys().filter_map(|key| {
            let tensor = Tensor {
                info: source.info(key)?,
                source: &source,
                key,
                adapters,
                table,
                run: &run,
            };
            Some((key, tensor))
        });
        let metadata = source.metadata().clone().into_iter().collect();
        serialize_to_file(tensors, Some(metadata), &file)
            .map_err(|e| WeightsError::io(&file, into_io(e)))?;
        if let Some(error) = run.borrow_mut().failure.take() {
            return Err(error);
        }
    }
    // A single file has nothing beside it that belongs to it.
    if !directory.is_dir() {
        return Ok(());
    }
    let entries = std::fs::read_dir(directory).map_err(|e| WeightsError::io(directory, e))?;
    for entry in entries {
        let path = entry.map_err(|e| WeightsError::io(directory, e))?.path();
        if path.is_file() && !shards.contains(path.as_path()) {
            let copy = output.join(path.file_name().unwrap_or_default());
            std::fs::copy(&path, copy).map_err(|e| WeightsError::io(&path, e))?;
        }
    }
    Ok(())
}

fn into_io(error: SafeTensorError) -> std::io::Error {
    match error {
        SafeTensorError::IoError(error) => error,
        other => std::io::Error::other(other.to_string()),
    }
}

/// What has been written. The writer takes no errors: after one it is given nothing more to write, and
/// the file is removed.
struct Run<'a> {
    done: u64,
    total: u64,
    progress: MergeProgress<'a>,
    failure: Option<LoraError>,
}

impl Run<'_> {
    fn wrote(&mut self, bytes: usize) {
        self.done += bytes as u64;
        let stop = (self.progress)(self.done, self.total).is_break();
        if stop && self.failure.is_none() {
            self.failure = Some(LoraError::Cancelled);
        }
    }
}

/// The type a tensor is written in: the stored one, and bf16 of packed weights.
fn written(info: &TensorInfo) -> Dtype {
    match info.dtype {
        StoredType::Plain(Dtype::F8_E4M3 | Dtype::F8_E5M2) | StoredType::Block(_) => Dtype::BF16,
        StoredType::Plain(_) if info.scaled => Dtype::BF16,
        StoredType::Plain(dtype) => dtype,
    }
}

fn written_bytes(info: &TensorInfo) -> usize {
    info.shape.iter().product::<usize>() * written(info).bitsize() / 8
}

/// A tensor of the new checkpoint, computed when its turn comes to be written.
struct Tensor<'a, 'p> {
    info: TensorInfo,
    source: &'a WeightFiles,
    key: &'a str,
    adapters: &'a [Weighted<'a>],
    table: &'a TargetTable,
    run: &'a RefCell<Run<'p>>,
}

impl Tensor<'_, '_> {
    fn stored(&self) -> Cow<'_, [u8]> {
        if StoredType::Plain(written(&self.info)) == self.info.dtype && !self.info.scaled {
            return self.source.bytes(self.key).unwrap_or_default();
        }
        // Its values were found to be finite before anything was written.
        let data = self.source.tensor_data_in(self.key, Some(DType::BF16));
        Cow::Owned(
            data.map(|data| data.as_bytes().to_vec())
                .unwrap_or_default(),
        )
    }

    fn merged(&self) -> Option<Vec<u8>> {
        let parameter = Parameter::changed(self.key, self.adapters, self.table)?;
        let shape = matrix_shape(&self.info.shape);
        let dtype = StoredType::Plain(written(&self.info)).float()?;
        let bytes = Bytes::from_bytes_vec(self.stored().into_owned());
        let data = TensorData::from_bytes(bytes, shape, dtype);
        let sum = parameter.merged(data, self.adapters);
        match rounded(self.key, sum, &shape, dtype) {
            Ok(sum) => Some(sum.as_bytes().to_vec()),
            Err(error) => {
                self.run.borrow_mut().failure = Some(error);
                // Of the planned length; it is not kept.
                Some(vec![0; self.data_len()])
            }
        }
    }
}

impl View for Tensor<'_, '_> {
    fn dtype(&self) -> Dtype {
        written(&self.info)
    }

    fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.run.borrow().failure.is_some() {
            return Cow::Borrowed(&[]);
        }
        let data: Cow<'_, [u8]> = match self.merged() {
            Some(bytes) => bytes.into(),
            None => self.stored(),
        };
        self.run.borrow_mut().wrote(data.len());
        data
    }

    fn data_len(&self) -> usize {
        written_bytes(&self.info)
    }
}
