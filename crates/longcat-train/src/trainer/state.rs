//! Saved states: a folder per step, written under a temporary name and renamed when complete.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::optim::AdamWState;
use burn::optim::AdaptiveMomentumState;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_weights::{NamedTensor, WeightFiles, write_atomic, write_safetensors};
use serde::{Deserialize, Serialize};

use crate::{Parameter, TrainError};

const STATE: &str = "state.json";
const TENSORS: &str = "state.safetensors";
/// What a state is called while it is removed.
const REMOVED: &str = ".old";

/// What a run needs to go on exactly where it was.
pub(super) struct State<B: Backend> {
    pub position: Position,
    pub parameters: BTreeMap<String, Parameter<B>>,
    pub moments: BTreeMap<String, AdamWState<B, 1>>,
    pub average: BTreeMap<String, Tensor<B, 1>>,
}

/// `state.json`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Optimiser steps done.
    pub step: usize,
    /// Samples seen: the position of data order and random numbers.
    pub samples: u64,
    /// Seed of the run.
    pub seed: u64,
    /// The configuration, as JSON.
    pub config: serde_json::Value,
}

/// The state to go on from.
pub(super) struct Newest<B: Backend> {
    pub state: State<B>,
    pub folder: PathBuf,
    /// Newer ones, and what is wrong with them.
    pub broken: Vec<(PathBuf, TrainError)>,
}

/// The folders of a run's states.
pub(super) struct Store {
    folder: PathBuf,
    /// Whether this process writes there.
    writes: bool,
}

impl Store {
    /// Opens the folder and removes what an interrupted writer left. What others put there stays.
    pub(super) fn open(folder: PathBuf) -> Result<Self, TrainError> {
        fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
        for (name, path) in entries(&folder)? {
            let ours = name == REMOVED || name.starts_with(".step-");
            if ours && path.is_dir() {
                fs::remove_dir_all(&path).map_err(|e| TrainError::io(&path, e))?;
            }
        }
        let writes = true;
        Ok(Self { folder, writes })
    }

    /// The folder of states that another process writes.
    pub(super) fn look_at(folder: PathBuf) -> Self {
        let writes = false;
        Self { folder, writes }
    }

    /// The newest state that can be read, its folder, and why newer ones cannot; those get another
    /// name, so that they are neither tried again nor counted. `None` if there is none.
    ///
    /// # Errors
    /// [`TrainError::State`] where none of those that are there can be read.
    pub(super) fn newest<B: Backend>(
        &self,
        device: &B::Device,
    ) -> Result<Option<Newest<B>>, TrainError> {
        let mut broken: Vec<(PathBuf, TrainError)> = Vec::new();
        if !self.writes && !self.folder.is_dir() {
            return Ok(None);
        }
        for (_, folder) in steps(&self.folder)?.into_iter().rev() {
            match read(&folder, device) {
                Ok(state) => {
                    for (folder, _) in broken.iter().filter(|_| self.writes) {
                        set_aside(folder)?;
                    }
                    return Ok(Some(Newest {
                        state,
                        folder,
                        broken,
                    }));
                }
                Err(error) => broken.push((folder, error)),
            }
        }
        match broken.into_iter().next() {
            None => Ok(None),
            Some((folder, error)) => Err(TrainError::State {
                reason: format!(
                    "{error}; no older checkpoint is whole, so the run cannot go on: move {} away \
                     to begin anew",
                    self.folder.display()
                ),
                path: folder,
            }),
        }
    }

    /// Writes a state; `export` adds files of its own to the folder. Then all but the newest
    /// `keep` states go. Returns the folder.
    pub(super) fn save<B: Backend>(
        &self,
        state: &State<B>,
        keep: Option<usize>,
        export: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<PathBuf, TrainError> {
        let name = format!("step-{:06}", state.position.step);
        let target = self.folder.join(&name);
        let temporary = self.folder.join(format!(".{name}.new"));
        let old = self.folder.join(format!(".{name}.old"));
        fs::create_dir_all(&temporary).map_err(|e| TrainError::io(&temporary, e))?;
        write(&temporary, state)?;
        export(&temporary)?;
        sync(&temporary)?;
        // A state of this step is there only if it was refused or came from a longer run.
        if target.exists() {
            fs::rename(&target, &old).map_err(|e| TrainError::io(&target, e))?;
        }
        fs::rename(&temporary, &target).map_err(|e| TrainError::io(&target, e))?;
        sync(&self.folder)?;
        if old.exists() {
            fs::remove_dir_all(&old).map_err(|e| TrainError::io(&old, e))?;
        }
        let steps = steps(&self.folder)?;
        let surplus = keep.map_or(0, |keep| steps.len().saturating_sub(keep));
        for (_, folder) in &steps[..surplus] {
            // Renamed first: a state that is half removed must not look like one.
            let hidden = folder.with_file_name(REMOVED);
            fs::rename(folder, &hidden).map_err(|e| TrainError::io(folder, e))?;
            fs::remove_dir_all(&hidden).map_err(|e| TrainError::io(&hidden, e))?;
        }
        Ok(target)
    }
}

fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, TrainError> {
    let io = |e| TrainError::io(folder, e);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        entries.push((name, entry.path()));
    }
    Ok(entries)
}

/// Steps with a state, ascending, and their folders. What else lies there is not looked at.
fn steps(folder: &Path) -> Result<Vec<(usize, PathBuf)>, TrainError> {
    let state = |(name, path): (String, PathBuf)| {
        let step = name.strip_prefix("step-")?.parse().ok()?;
        path.is_dir().then_some((step, path))
    };
    let mut steps: Vec<(usize, PathBuf)> = entries(folder)?.into_iter().filter_map(state).collect();
    steps.sort();
    Ok(steps)
}

/// Gives the folder of a broken state a name that is not looked at.
fn set_aside(folder: &Path) -> Result<(), TrainError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.with_file_name(format!("broken-{name}"));
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(|e| TrainError::io(&aside, e))?;
    }
    fs::rename(folder, &aside).map_err(|e| TrainError::io(folder, e))
}

/// The position of the newest state that has one, and its folder, without reading any tensor.
pub(super) fn newest_position(folder: &Path) -> Result<Option<(PathBuf, Position)>, TrainError> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let steps = steps(folder)?.into_iter().rev();
    let mut positions = steps.filter_map(|(_, folder)| {
        let position = read_position(&folder).ok()?;
        Some((folder, position))
    });
    Ok(positions.next())
}

/// Makes the names in a folder durable.
fn sync(folder: &Path) -> Result<(), TrainError> {
    #[cfg(unix)]
    fs::File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| TrainError::io(folder, e))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

fn write<B: Backend>(folder: &Path, state: &State<B>) -> Result<(), TrainError> {
    let mut tensors = Vec::new();
    let mut push = |name: String, values: &Tensor<B, 1>| -> Result<(), TrainError> {
        let data = values
            .clone()
            .try_into_data()
            .map_err(|e| TrainError::Device {
                what: name.clone(),
                reason: e.to_string(),
            })?;
        tensors.push(NamedTensor { name, data });
        Ok(())
    };
    let mut times = BTreeMap::new();
    for (path, parameter) in &state.parameters {
        push(format!("parameter.{path}"), &parameter.values)?;
    }
    for (path, moments) in &state.moments {
        push(format!("moment_1.{path}"), &moments.momentum.moment_1)?;
        push(format!("moment_2.{path}"), &moments.momentum.moment_2)?;
        times.insert(path.clone(), moments.momentum.time.to_string());
    }
    for (path, values) in &state.average {
        push(format!("average.{path}"), values)?;
    }
    // The loss of the next step would show it, but by then this were the newest state.
    let broken = |tensor: &&NamedTensor| !tensor.data.iter::<f32>().all(f32::is_finite);
    if let Some(tensor) = tensors.iter().find(broken) {
        return Err(TrainError::State {
            path: folder.to_path_buf(),
            reason: format!(
                "{} is no longer made of numbers after step {}; lower optimizer.learning_rate. The \
                 checkpoint before it stays",
                tensor.name, state.position.step
            ),
        });
    }
    write_safetensors(&folder.join(TENSORS), &tensors, &times)?;
    let path = folder.join(STATE);
    let text = serde_json::to_string_pretty(&state.position).map_err(|e| TrainError::State {
        path: path.clone(),
        reason: e.to_string(),
    })?;
    Ok(write_atomic(&path, text.as_bytes())?)
}

/// Reads `state.json` of a saved state.
fn read_position(folder: &Path) -> Result<Position, TrainError> {
    let path = folder.join(STATE);
    let text = fs::read_to_string(&path).map_err(|e| TrainError::io(&path, e))?;
    serde_json::from_str(&text).map_err(|e| TrainError::State {
        path,
        reason: e.to_string(),
    })
}

fn read<B: Backend>(folder: &Path, device: &B::Device) -> Result<State<B>, TrainError> {
    let position = read_position(folder)?;
    let path = folder.join(TENSORS);
    let files = WeightFiles::open(&path)?;
    let tensor = |key: &str| -> Result<(Tensor<B, 1>, Vec<usize>), TrainError> {
        let data: TensorData = files.tensor_data(key)?;
        let (dtype, shape): (DType, Vec<usize>) = (data.dtype, data.shape.to_vec());
        Ok((Tensor::from_data(data, (device, dtype)), shape))
    };
    let mut state = State {
        position,
        parameters: BTreeMap::new(),
        moments: BTreeMap::new(),
        average: BTreeMap::new(),
    };
    for key in files.keys() {
        let Some((kind, name)) = key.split_once('.') else {
            continue;
        };
        let name = name.to_string();
        match kind {
            "parameter" => {
                let (values, shape) = tensor(key)?;
                state.parameters.insert(name, Parameter { values, shape });
            }
            "average" => {
                state.average.insert(name, tensor(key)?.0);
            }
            "moment_1" => {
                let time = files.metadata().get(&name).and_then(|t| t.parse().ok());
                let time = time.ok_or_else(|| TrainError::State {
                    path: path.clone(),
                    reason: format!("no step count for {name}"),
                })?;
                let moments = AdaptiveMomentumState {
                    time,
                    moment_1: tensor(key)?.0,
                    moment_2: tensor(&format!("moment_2.{name}"))?.0,
                    max_moment_2: None,
                };
                state.moments.insert(name, AdamWState::new(moments));
            }
            _ => {}
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn_flex::{Flex, FlexDevice};

    use super::*;

    #[test]
    fn parameters_that_are_no_numbers_are_not_saved() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_path_buf()).unwrap();
        let state = |step: usize, value: f32| {
            let values = Tensor::<Flex, 1>::from_data([1.0, value], &FlexDevice);
            let shape = vec![2];
            State {
                position: Position {
                    step,
                    samples: 1,
                    seed: 0,
                    config: serde_json::Value::Null,
                },
                parameters: BTreeMap::from([("up".to_string(), Parameter { values, shape })]),
                moments: BTreeMap::new(),
                average: BTreeMap::new(),
            }
        };
        store.save(&state(1, 2.0), None, |_| Ok(())).unwrap();
        let error = store.save(&state(2, f32::INFINITY), None, |_| Ok(()));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("parameter.up") && error.contains("step 2"));
        let newest = Store::open(dir.path().to_path_buf()).unwrap();
        let newest = newest.newest::<Flex>(&FlexDevice).unwrap().unwrap();
        assert_eq!((newest.state.position.step, newest.broken.len()), (1, 0));
    }
}
