//! What files of weights are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longcat_dit::{DitConfig, LongCatTransformer};
use longcat_kernels::KernelBackend;
use longcat_text::{Umt5Config, Umt5Encoder};
use longcat_vae::{WanVae, WanVaeConfig};
use longcat_weights::{LoadReport, WeightFiles, other_model};
use serde::Serialize;
use serde_json::Value;

use crate::{Checkpoint, Component, VideoError};

/// Tensors of one stored type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StoredAmount {
    /// How many there are.
    pub tensors: usize,
    /// Bytes in the file.
    pub bytes: usize,
}

/// What a file of weights, or a folder with one network, is.
#[derive(Debug, Clone, Serialize)]
pub struct WeightsReport {
    /// The file or folder.
    pub path: PathBuf,
    /// Which network it holds and whose names its keys have, or which other model it is of.
    pub holds: String,
    /// Whether the network is one of LongCat-Video's.
    pub known: bool,
    /// Stored types, `F8_E4M3 scaled` where values have a scale beside them.
    pub dtypes: BTreeMap<String, StoredAmount>,
    /// Stored types of tensors whose names differ in numbers only, with how many there are of each.
    pub layers: BTreeMap<String, BTreeMap<String, usize>>,
    /// The config that it has or that shapes tell.
    pub config: Option<Value>,
    /// Which keys the network takes, which are left over or misshaped, and what it lacks.
    pub fit: Option<LoadReport>,
    /// Why it cannot be loaded, where that is not a matter of single keys.
    pub problem: Option<String>,
}

impl WeightsReport {
    /// Whether the file is one of LongCat-Video's networks with all that it needs and nothing else.
    pub fn is_whole(&self) -> bool {
        self.known && self.fit.as_ref().is_some_and(LoadReport::is_complete)
    }
}

/// Tells what a file is, or what each network of a checkpoint or of a folder of single files is. No tensor
/// is read; `device` is not used to compute.
///
/// # Errors
/// [`VideoError`] when nothing can be said: the file or folder cannot be read.
pub fn inspect_weights<B: KernelBackend>(
    path: &Path,
    device: &B::Device,
) -> Result<Vec<WeightsReport>, VideoError> {
    let single = WeightFiles::open(path);
    if single.is_ok() || !path.is_dir() {
        return Ok(vec![report::<B>(path, &single?, device)]);
    }
    let checkpoint = Checkpoint::open(path)?;
    let parts = [
        checkpoint.transformer_dir(),
        checkpoint.text_encoder_path(),
        checkpoint.vae_path(),
    ];
    let reports = parts.map(|part| Ok(report::<B>(part, &WeightFiles::open(part)?, device)));
    reports.into_iter().collect()
}

fn report<B: KernelBackend>(path: &Path, files: &WeightFiles, device: &B::Device) -> WeightsReport {
    let component = Component::of(files);
    let holds = match (component, other_model(files)) {
        (Some(component), _) => component.to_string(),
        (None, Some(other)) => other.to_string(),
        (None, None) => "tensors of no model that is known".to_string(),
    };
    let mut report = WeightsReport {
        path: path.to_path_buf(),
        holds,
        known: component.is_some(),
        dtypes: BTreeMap::new(),
        layers: BTreeMap::new(),
        config: None,
        fit: None,
        problem: None,
    };
    for key in files.keys() {
        let Some(info) = files.info(key) else {
            continue;
        };
        let scaled = if info.scaled { " scaled" } else { "" };
        let dtype = format!("{}{scaled}", info.dtype);
        let amount = report.dtypes.entry(dtype.clone()).or_default();
        amount.tensors += 1;
        amount.bytes += files.stored_bytes(key);
        let layer = report.layers.entry(pattern(key)).or_default();
        *layer.entry(dtype).or_default() += 1;
    }
    if let Some(component) = component {
        match fit::<B>(component, path, files, device) {
            Ok((config, fit)) => (report.config, report.fit) = (Some(config), Some(fit)),
            Err(error) => report.problem = Some(error.to_string()),
        }
    }
    report
}

/// The config of a network, and what loading it would do.
fn fit<B: KernelBackend>(
    component: Component,
    path: &Path,
    files: &WeightFiles,
    device: &B::Device,
) -> Result<(Value, LoadReport), VideoError> {
    Ok(match component {
        Component::Transformer(_) => {
            let files = longcat_dit::official_weights(files)?;
            let config = DitConfig::beside(path, &files)?;
            let fit = LongCatTransformer::<B>::check(&config, &files, device);
            (serde_json::to_value(config).unwrap_or_default(), fit)
        }
        Component::TextEncoder(_) => {
            let files = longcat_text::official_weights(files)?;
            let config = Umt5Config::beside(path, &files)?;
            let fit = Umt5Encoder::<B>::check(&config, &files, device)?;
            (config.to_json(), fit)
        }
        Component::Vae(_) => {
            let files = longcat_vae::official_weights(files)?;
            let config = WanVaeConfig::beside(path, &files)?;
            (
                config.to_json(),
                WanVae::<B>::check(&config, &files, device),
            )
        }
    })
}

/// A name with `{i}` for its numbers.
fn pattern(key: &str) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = key
        .split('.')
        .map(|part| if number(part) { "{i}" } else { part })
        .collect();
    parts.join(".")
}
