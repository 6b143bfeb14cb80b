//! Trained parts into a checkpoint directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{DType, TensorData};
use clap::Args;
use longcat_weights::{NamedTensor, WeightFiles, write_safetensors};

/// `miniature install-part`.
#[derive(Debug, Args)]
pub struct InstallPart {
    /// What a training run wrote: a folder (`vae`, `dit`, `text_encoder`) or an adapter file. Of
    /// several folders, by runs beside each other from the same weights, the mean is installed.
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// Its place in the checkpoint: a folder to replace, or a file.
    target: PathBuf,
    /// Keep weights as they are instead of storing them in bf16, as the release does.
    #[arg(long)]
    keep_precision: bool,
}

impl InstallPart {
    /// Copies the part.
    pub fn run(&self) -> Result<()> {
        let first = &self.sources[0];
        if first.is_file() {
            ensure!(
                self.sources.len() == 1,
                "{} is a file: the mean of several adapters' factors would not be the mean of what they do",
                first.display()
            );
            return self.copy(&self.sources, &self.target);
        }
        let entries =
            fs::read_dir(first).with_context(|| format!("reading {}", first.display()))?;
        let mut found = false;
        for entry in entries {
            let name = entry?.file_name();
            found |= is_weights(Path::new(&name));
            let files: Vec<PathBuf> = self.sources.iter().map(|s| s.join(&name)).collect();
            self.copy(&files, &self.target.join(&name))?;
        }
        if !found {
            bail!("there are no weights in {}", first.display());
        }
        Ok(())
    }

    /// Writes a file, or the mean of several with weights.
    fn copy(&self, sources: &[PathBuf], target: &Path) -> Result<()> {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let first = &sources[0];
        if !is_weights(first) || (self.keep_precision && sources.len() == 1) {
            fs::copy(first, target).with_context(|| target.display().to_string())?;
            return Ok(());
        }
        let files: Result<Vec<WeightFiles>, _> =
            sources.iter().map(|s| WeightFiles::open(s)).collect();
        let files = files?;
        for (file, path) in files.iter().zip(sources).skip(1) {
            ensure_alike(&files[0], file)
                .with_context(|| format!("{} beside {}", path.display(), first.display()))?;
        }
        let mut tensors = Vec::new();
        for key in files[0].keys() {
            let mut data = mean_of(&files, key)?;
            if data.dtype.is_float() && !self.keep_precision {
                data = data.convert_dtype(DType::BF16);
            }
            let name = key.to_string();
            tensors.push(NamedTensor { name, data });
        }
        let mut metadata = files[0].metadata().clone();
        if files.len() > 1 {
            metadata.insert("ss_averaged_runs".into(), files.len().to_string());
        }
        write_safetensors(target, &tensors, &metadata)?;
        let size = fs::metadata(target)?.len() as f64 / 1e6;
        println!("{}: {size:.2} MB", target.display());
        Ok(())
    }
}

fn is_weights(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "safetensors")
}

/// That two files hold tensors of the same names and shapes.
fn ensure_alike(first: &WeightFiles, other: &WeightFiles) -> Result<()> {
    ensure!(first.keys().eq(other.keys()), "they hold different tensors");
    for key in first.keys() {
        let [expected, found] = [first, other].map(|file| file.info(key).map(|info| info.shape));
        ensure!(
            expected == found,
            "{key} has the shapes {:?} and {:?}",
            expected.unwrap_or_default(),
            found.unwrap_or_default()
        );
    }
    Ok(())
}

/// The mean of a tensor over files that are alike, in the precision of the first.
fn mean_of(files: &[WeightFiles], key: &str) -> Result<TensorData> {
    let first = files[0].tensor_data(key)?;
    if files.len() == 1 || !first.dtype.is_float() {
        return Ok(first);
    }
    let mut sums: Vec<f64> = first.iter::<f64>().collect();
    for file in &files[1..] {
        let other = file.tensor_data(key)?;
        for (sum, value) in sums.iter_mut().zip(other.iter::<f64>()) {
            *sum += value;
        }
    }
    let count = files.len() as f64;
    let mean = sums.into_iter().map(|sum| sum / count).collect();
    Ok(TensorData::new::<f64, _>(mean, first.shape.clone()).convert_dtype(first.dtype))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A folder with one tensor and a `config.json` that says `name`.
    fn part(root: &Path, name: &str, key: &str, values: Vec<f32>) -> PathBuf {
        let folder = root.join(name);
        fs::create_dir(&folder).unwrap();
        let tensor = NamedTensor {
            name: key.into(),
            data: TensorData::new(values.clone(), [values.len()]),
        };
        let file = folder.join("model.safetensors");
        write_safetensors(&file, &[tensor], &Default::default()).unwrap();
        fs::write(folder.join("config.json"), name).unwrap();
        folder
    }

    #[test]
    fn of_several_runs_the_mean_is_installed() {
        let root = tempfile::tempdir().unwrap();
        let parts = [
            ("a", vec![1.0, -3.0]),
            ("b", vec![2.0, 0.0]),
            ("c", vec![4.5, 3.0]),
        ];
        let sources: Vec<_> = parts
            .map(|(name, values)| part(root.path(), name, "w", values))
            .into();
        for (count, expected) in [(1, [1.0, -3.0]), (3, [2.5, 0.0])] {
            for (keep_precision, dtype) in [(false, DType::BF16), (true, DType::F32)] {
                let target = root.path().join("installed");
                let install = InstallPart {
                    sources: sources[..count].to_vec(),
                    target: target.clone(),
                    keep_precision,
                };
                install.run().unwrap();
                let written = WeightFiles::open(&target.join("model.safetensors")).unwrap();
                let data = written.tensor_data("w").unwrap();
                assert_eq!(data.dtype, dtype);
                assert_eq!(data.iter::<f32>().collect::<Vec<_>>(), expected);
                let runs = written.metadata().get("ss_averaged_runs");
                assert_eq!(runs.is_some_and(|runs| runs == "3"), count == 3);
                let config = fs::read_to_string(target.join("config.json")).unwrap();
                assert_eq!(config, "a");
            }
        }
    }

    #[test]
    fn different_models_and_adapters_have_no_mean() {
        let root = tempfile::tempdir().unwrap();
        let first = part(root.path(), "a", "w", vec![1.0, 2.0]);
        let shorter = part(root.path(), "b", "w", vec![1.0]);
        let other = part(root.path(), "c", "v", vec![1.0, 2.0]);
        let file = first.join("model.safetensors");
        let target = root.path().join("installed");
        for (sources, expected) in [
            ([&first, &shorter], "w has the shapes [2] and [1]"),
            ([&first, &other], "hold different tensors"),
            ([&file, &file], "model.safetensors is a file"),
        ] {
            let install = InstallPart {
                sources: sources.map(Clone::clone).into(),
                target: target.clone(),
                keep_precision: false,
            };
            let message = format!("{:#}", install.run().unwrap_err());
            assert!(message.contains(expected), "{message}");
            assert!(!target.join("model.safetensors").exists());
        }
    }
}
