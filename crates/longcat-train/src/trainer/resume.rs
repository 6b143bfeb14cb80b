//! Going on from a saved state.

use std::path::Path;

use super::Task;
use super::state::{Position, State};
use crate::config::TrainConfig;
use crate::parameters::{trained_paths, update};
use crate::{TrainBackend, TrainError};

/// Settings that differ from those of a saved state; an error for those that cannot.
pub(super) fn compatible(
    config: &TrainConfig,
    position: &Position,
    folder: &Path,
) -> Result<Vec<String>, TrainError> {
    let state = |reason: String| TrainError::State {
        path: folder.to_path_buf(),
        reason,
    };
    let changed = differences(&position.config, config.settings());
    let fixed = |key: &&String| key.starts_with("lora.") || *key == "mode" || *key == "seed";
    if let Some(key) = changed.iter().find(fixed) {
        return Err(state(format!(
            "this checkpoint was made with another {key}; restore it, or choose another output \
             folder for a new run"
        )));
    }
    Ok(changed)
}

/// The keys of `b` that `a` has with another value, or not at all.
pub(crate) fn differences(a: &serde_json::Value, b: &serde_json::Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(a, b, "", &mut found);
    found
}

fn compare(a: &serde_json::Value, b: &serde_json::Value, prefix: &str, into: &mut Vec<String>) {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        if a != b {
            into.push(prefix.trim_end_matches('.').to_string());
        }
        return;
    };
    for (key, value) in b {
        let other = a.get(key).unwrap_or(&serde_json::Value::Null);
        compare(other, value, &format!("{prefix}{key}."), into);
    }
}

pub(super) fn restore<B: TrainBackend, T: Task<B>>(
    model: T::Model,
    state: &State<B::InnerBackend>,
    folder: &Path,
) -> Result<T::Model, TrainError> {
    let mut paths = trained_paths::<B, _>(&model);
    paths.sort();
    let mismatch = |reason: String| TrainError::State {
        path: folder.to_path_buf(),
        reason,
    };
    if !paths.iter().eq(state.parameters.keys()) {
        return Err(mismatch(format!(
            "it holds {} trained parameters and the model has {}, or their names differ",
            state.parameters.len(),
            paths.len()
        )));
    }
    let mut wrong = None;
    let model = update::<B, _>(model, |path, values| {
        let saved = &state.parameters[path].values;
        if saved.dims() != values.dims() {
            wrong = Some(path.to_string());
            return None;
        }
        Some(saved.clone().cast(values.dtype()))
    });
    match wrong {
        Some(path) => Err(mismatch(format!("{path} has another size in the model"))),
        None => Ok(model),
    }
}
