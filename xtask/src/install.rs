//! Trained parts into a checkpoint directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::DType;
use clap::Args;
use longcat_weights::{NamedTensor, WeightFiles, write_safetensors};

/// `cargo xtask install-part`.
#[derive(Debug, Args)]
pub struct InstallPart {
    /// What a training run wrote: a folder (`vae`, `dit`, `text_encoder`) or an adapter file.
    source: PathBuf,
    /// Its place in the checkpoint: a folder to replace, or a file.
    target: PathBuf,
    /// Keep weights as they are instead of storing them in bf16, as the release does.
    #[arg(long)]
    keep_precision: bool,
}

impl InstallPart {
    /// Copies the part.
    pub fn run(&self) -> Result<()> {
        if self.source.is_file() {
            return self.copy(&self.source, &self.target);
        }
        let entries = fs::read_dir(&self.source)
            .with_context(|| format!("reading {}", self.source.display()))?;
        let mut found = false;
        for entry in entries {
            let path = entry?.path();
            found |= path.extension().is_some_and(|e| e == "safetensors");
            self.copy(
                &path,
                &self.target.join(path.file_name().unwrap_or_default()),
            )?;
        }
        if !found {
            bail!("there are no weights in {}", self.source.display());
        }
        Ok(())
    }

    fn copy(&self, source: &Path, target: &Path) -> Result<()> {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        if self.keep_precision || source.extension().is_none_or(|e| e != "safetensors") {
            fs::copy(source, target).with_context(|| target.display().to_string())?;
            return Ok(());
        }
        let files = WeightFiles::open(source)?;
        let mut tensors = Vec::new();
        for key in files.keys() {
            let data = files.tensor_data(key)?;
            let data = match data.dtype.is_float() {
                true => data.convert_dtype(DType::BF16),
                false => data,
            };
            let name = key.to_string();
            tensors.push(NamedTensor { name, data });
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        write_safetensors(target, &tensors, files.metadata())?;
        let size = fs::metadata(target)?.len() as f64 / 1e6;
        println!("{}: {size:.2} MB", target.display());
        Ok(())
    }
}
