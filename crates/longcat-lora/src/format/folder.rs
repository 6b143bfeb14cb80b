//! Which file of a folder is the adapter.

use std::path::{Path, PathBuf};

use longcat_weights::{WeightFiles, WeightsError};

use crate::LoraError;

/// Names that PEFT and diffusers give.
const USUAL: [&str; 2] = [
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
];
const INDEX: &str = ".safetensors.index.json";
/// Endings of PyTorch's files, as older programs wrote adapters.
const OLDER: [&str; 4] = ["bin", "pt", "pth", "ckpt"];

/// An adapter's file, or the shards of a folder, with the folder in which its settings lie.
pub(super) fn open(path: &Path) -> Result<(WeightFiles, PathBuf), LoraError> {
    if !path.is_dir() {
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        if path.to_string_lossy().ends_with(INDEX) {
            return Ok((WeightFiles::open(&folder)?, folder));
        }
        return Ok((WeightFiles::open(path)?, folder));
    }
    let folder = path.to_path_buf();
    let usual = USUAL.map(|name| path.join(name));
    if let Some(file) = usual.iter().find(|file| file.is_file()) {
        return Ok((WeightFiles::open(file)?, folder));
    }
    let entries = std::fs::read_dir(path).map_err(|e| WeightsError::io(path, e))?;
    let mut names: Vec<String> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| WeightsError::io(path, e))?;
        // Files of macOS (`._name`) and of editors are no adapters.
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    if names.iter().any(|name| name.ends_with(INDEX)) {
        return Ok((WeightFiles::open(path)?, folder));
    }
    let files: Vec<String> = names
        .iter()
        .filter(|name| name.ends_with(".safetensors"))
        .cloned()
        .collect();
    match files.as_slice() {
        [one] => Ok((WeightFiles::open(&path.join(one))?, folder)),
        [] => {
            let is_older = |name: &&String| {
                let ending = name.rsplit_once('.').map(|(_, ending)| ending);
                ending.is_some_and(|e| OLDER.contains(&e))
            };
            match names.iter().find(is_older) {
                Some(name) => Ok((WeightFiles::open(&path.join(name))?, folder)),
                None => Err(LoraError::File(WeightsError::NoWeights { path: folder })),
            }
        }
        _ => Err(LoraError::SeveralFiles {
            path: folder,
            files,
        }),
    }
}
