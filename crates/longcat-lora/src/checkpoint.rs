//! Merging adapters into the files of a checkpoint.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;

use burn::tensor::{Bytes, DType, TensorData};
use longcat_weights::{StoredType, TensorInfo, WeightFiles, WeightsError};
use safetensors::tensor::{View, serialize_to_file};
use safetensors::{Dtype, SafeTensorError};
use serde::Serialize;

use crate::registry::check_strength;
use crate::{Adapter, LoraError, TargetTable};

/// What merging into a checkpoint did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MergeReport {
    /// Keys of the weights that changed.
    pub merged: Vec<String>,
    /// Number of tensors that were copied as they are.
    pub unchanged: usize,
    /// The new directory.
    pub output: PathBuf,
}

/// One adapter and its strength.
type Weighted<'a> = (&'a Adapter, f64);

/// Writes a checkpoint directory with adapters added to its weights,
/// `W + Σ strength · scale · up · down`: products in f32, sums in f64, rounded once to the stored
/// type.
///
/// `directory` holds safetensors files, with or without an index, in the spelling of `table`; all
/// its other files are copied. Tensors are read from the memory-mapped shards and merged one at a
/// time while a shard is written. The output appears under its name only once it is complete.
///
/// # Errors
/// [`LoraError::OutputExists`], [`LoraError::UnknownModule`] where the checkpoint lacks a layer of
/// an adapter, [`LoraError::ShapeMismatch`], [`LoraError::InvalidSetting`] for a strength that is
/// not finite, [`LoraError::File`] for files that cannot be read or written.
pub fn merge_into_checkpoint(
    directory: &Path,
    adapters: &[Weighted],
    output: &Path,
    table: &TargetTable,
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

    let mut name = output.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = output.with_file_name(name);
    let result = write_all(directory, &files, adapters, &temporary, table).and_then(|()| {
        std::fs::rename(&temporary, output)
            .map_err(|e| LoraError::File(WeightsError::io(output, e)))
    });
    if result.is_err() {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    result?;
    Ok(MergeReport {
        unchanged: files.keys().count() - merged.len(),
        merged,
        output: output.to_path_buf(),
    })
}

/// The canonical layer, and part of it, that a checkpoint key is the weight of.
fn target_of(key: &str, table: &TargetTable) -> Option<(String, Option<usize>)> {
    let name = table.canonical(key.strip_suffix(".weight")?)?;
    Some(match name.split_once('#') {
        Some((target, part)) => (target.to_string(), part.parse().ok()),
        None => (name, None),
    })
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
        let Some((target, part)) = target_of(key, table) else {
            continue;
        };
        let Some(info) = files.info(key) else {
            continue;
        };
        let blocks = adapters
            .iter()
            .filter_map(|(a, _)| Some((a, a.get(&target)?)));
        let mut touched = false;
        for (adapter, blocks) in blocks {
            touched = true;
            let rows = match part {
                Some(_) => blocks[0].d_out() / table.parts(&target),
                None => blocks[0].d_out(),
            };
            let expected = [rows, blocks[0].down.cols()];
            if info.shape != expected {
                return Err(LoraError::ShapeMismatch {
                    path: adapter.origin().to_path_buf(),
                    target,
                    key: key.to_string(),
                    found: info.shape,
                    expected: format!("but the adapter is for a weight {expected:?}"),
                });
            }
        }
        if touched {
            // NaN and integers are refused here, before anything is written.
            files.tensor_data(key)?;
            merged.push(key.to_string());
        }
        present.insert(target);
    }
    for (adapter, _) in adapters {
        let absent = adapter.targets().filter(|(t, _)| !present.contains(*t));
        let absent: Vec<String> = absent.map(|(target, _)| target.to_string()).collect();
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
) -> Result<(), LoraError> {
    std::fs::create_dir_all(output).map_err(|e| WeightsError::io(output, e))?;
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
            };
            Some((key, tensor))
        });
        let metadata = source.metadata().clone().into_iter().collect();
        serialize_to_file(tensors, Some(metadata), &file)
            .map_err(|e| WeightsError::io(&file, into_io(e)))?;
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

/// A tensor of the new checkpoint, computed when its turn comes to be written.
struct Tensor<'a> {
    info: TensorInfo,
    source: &'a WeightFiles,
    key: &'a str,
    adapters: &'a [Weighted<'a>],
    table: &'a TargetTable,
}

impl Tensor<'_> {
    /// The type it is written in: the stored one, and bf16 of packed weights.
    fn written(&self) -> Dtype {
        match self.info.dtype {
            StoredType::Plain(Dtype::F8_E4M3 | Dtype::F8_E5M2) | StoredType::Block(_) => {
                Dtype::BF16
            }
            StoredType::Plain(_) if self.info.scaled => Dtype::BF16,
            StoredType::Plain(dtype) => dtype,
        }
    }

    fn stored(&self) -> Cow<'_, [u8]> {
        if StoredType::Plain(self.written()) == self.info.dtype && !self.info.scaled {
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
        let (target, part) = target_of(self.key, self.table)?;
        let &[rows, cols] = self.info.shape.as_slice() else {
            return None;
        };
        let dtype = StoredType::Plain(self.written()).float()?;
        let bytes = Bytes::from_bytes_vec(self.stored().into_owned());
        let data = TensorData::from_bytes(bytes, [rows, cols], dtype);
        let mut weight: Vec<f64> = data.iter::<f64>().collect();
        let first_row = part.unwrap_or(0) * rows;
        let mut touched = false;
        for (adapter, strength) in self.adapters {
            if adapter.get(&target).is_some() {
                touched = true;
                add_delta(&mut weight, cols, first_row, adapter, &target, *strength);
            }
        }
        let sum = TensorData::new(weight, [rows, cols]).convert_dtype(dtype);
        touched.then(|| sum.as_bytes().to_vec())
    }
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        self.written()
    }

    fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.merged() {
            Some(bytes) => bytes.into(),
            None => self.stored(),
        }
    }

    fn data_len(&self) -> usize {
        self.info.shape.iter().product::<usize>() * self.written().bitsize() / 8
    }
}

/// Adds an adapter to the rows of `weight`, which start at `first_row` of the layer.
fn add_delta(
    weight: &mut [f64],
    cols: usize,
    first_row: usize,
    adapter: &Adapter,
    target: &str,
    strength: f64,
) {
    let blocks: Vec<_> = adapter
        .get(target)
        .unwrap_or_default()
        .iter()
        .map(|b| {
            let start = b.part * b.up.rows();
            let scale = strength * b.scale;
            (start, b.rank(), scale, b.up.to_f32(), b.down.to_f32())
        })
        .collect();
    let add_row = |row: usize, sum: &mut [f64]| {
        for (start, rank, scale, up, down) in &blocks {
            let Some(factors) = row
                .checked_sub(*start)
                .and_then(|r| up.get(r * rank..(r + 1) * rank))
            else {
                continue;
            };
            let mut delta = vec![0.0f32; cols];
            for (factor, down) in factors.iter().zip(down.chunks_exact(cols)) {
                delta
                    .iter_mut()
                    .zip(down)
                    .for_each(|(d, a)| *d += factor * a);
            }
            sum.iter_mut()
                .zip(delta)
                .for_each(|(s, d)| *s += scale * f64::from(d));
        }
    };
    let rows = weight.len() / cols;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = rows.div_ceil(threads).max(1);
    thread::scope(|scope| {
        for (index, rows) in weight.chunks_mut(share * cols).enumerate() {
            let add_row = &add_row;
            scope.spawn(move || {
                for (row, sum) in rows.chunks_exact_mut(cols).enumerate() {
                    add_row(first_row + index * share + row, sum);
                }
            });
        }
    });
}
