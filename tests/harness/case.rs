//! Golden cases: their files, what they expect, and what was found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A folder of golden cases.
pub struct Golden {
    root: PathBuf,
    manifest: Value,
}

impl Golden {
    /// Opens `LONGCAT_GOLDEN_DIR`, or the folder in this repository.
    pub fn open() -> Self {
        let root = match std::env::var_os("LONGCAT_GOLDEN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"),
        };
        let manifest = read_json(&root.join("manifest.json"));
        Self { root, manifest }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// All cases of the manifest.
    pub fn cases(&self) -> Vec<Case> {
        let list = self.manifest["cases"].as_array().unwrap();
        list.iter().map(|row| Case::read(&self.root, row)).collect()
    }

    /// The checkpoint directory of a case.
    pub fn checkpoint(&self, case: &Case) -> PathBuf {
        let name = case.json["checkpoint"].as_str().unwrap();
        self.root.join("checkpoints").join(name)
    }
}

/// One case: inputs, expected tensors, and what differed.
pub struct Case {
    /// Name in the manifest.
    pub id: String,
    /// What is computed.
    pub kind: String,
    /// `case.json`.
    pub json: Value,
    /// The folder of the case.
    pub dir: PathBuf,
    inputs: BTreeMap<String, TensorData>,
    expected: BTreeMap<String, TensorData>,
    compared: BTreeMap<String, f64>,
    failures: Vec<String>,
    tolerance: Option<f64>,
    recording: bool,
}

impl Case {
    fn read(root: &Path, row: &Value) -> Self {
        let dir = root.join(row["path"].as_str().unwrap());
        let json = read_json(&dir.join("case.json"));
        let load = |which: &str| match json["files"][which].as_str() {
            Some(name) => read_tensors(&dir.join(name)),
            None => BTreeMap::new(),
        };
        Self {
            id: row["id"].as_str().unwrap().into(),
            kind: row["kind"].as_str().unwrap().into(),
            inputs: load("inputs"),
            expected: load("expected"),
            compared: BTreeMap::new(),
            failures: Vec::new(),
            tolerance: None,
            recording: false,
            json,
            dir,
        }
    }

    pub(crate) fn override_tolerance(&mut self, tolerance: Option<f64>) {
        self.tolerance = tolerance;
    }

    /// Rounds the timesteps to `dtype`, as the transformer does with them; whether that changes any.
    pub(crate) fn round_timesteps(&mut self, dtype: DType) -> bool {
        let Some(timesteps) = self.inputs.get_mut("timestep") else {
            return false;
        };
        let rounded = timesteps.clone().convert_dtype(dtype);
        let rounded = rounded.convert_dtype(timesteps.dtype);
        let changed = rounded.as_bytes() != timesteps.as_bytes();
        *timesteps = rounded;
        changed
    }

    /// While on, what is checked is taken for what is expected.
    pub(crate) fn record(&mut self, on: bool) {
        self.recording = on;
    }

    /// A value of `params`.
    pub fn param(&self, name: &str) -> &Value {
        &self.json["params"][name]
    }

    pub(crate) fn usize_param(&self, name: &str) -> usize {
        self.param(name)
            .as_u64()
            .unwrap_or_else(|| panic!("{}: {name}", self.id)) as usize
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.param(name).as_bool().unwrap_or(false)
    }

    pub(crate) fn has_input(&self, name: &str) -> bool {
        self.inputs.contains_key(name)
    }

    pub(crate) fn input_data(&self, name: &str) -> TensorData {
        match self.inputs.get(name) {
            Some(data) => data.clone(),
            None => panic!("{}: no input {name}", self.id),
        }
    }

    pub(crate) fn input<B: Backend, const D: usize>(
        &self,
        name: &str,
        device: &B::Device,
    ) -> Tensor<B, D> {
        Tensor::from_data(self.input_data(name), (device, DType::F32))
    }

    pub(crate) fn int_input<B: Backend, const D: usize>(
        &self,
        name: &str,
        device: &B::Device,
    ) -> Tensor<B, D, Int> {
        Tensor::from_data(self.input_data(name), device)
    }

    /// A mask `[n, L]` as rows.
    pub(crate) fn mask(&self, name: &str) -> Vec<Vec<bool>> {
        let data = self.input_data(name);
        let width = data.shape[1];
        let flat: Vec<bool> = data.iter::<i64>().map(|v| v != 0).collect();
        flat.chunks(width).map(<[bool]>::to_vec).collect()
    }

    pub(crate) fn expected_names(&self) -> Vec<String> {
        self.expected.keys().cloned().collect()
    }

    pub(crate) fn fail(&mut self, message: impl std::fmt::Display) {
        self.failures.push(format!("{}: {message}", self.id));
    }

    /// Compares a float tensor by relative L2 error, an integer tensor exactly.
    pub(crate) fn check(&mut self, name: &str, actual: TensorData) {
        if self.recording {
            self.expected.insert(name.to_string(), actual);
            return;
        }
        let Some(expected) = self.expected.get(name).cloned() else {
            return self.fail(format!("nothing is expected for {name}"));
        };
        if actual.shape != expected.shape {
            let message = format!("{name}: shape {:?}, not {:?}", actual.shape, expected.shape);
            return self.fail(message);
        }
        let error = if expected.dtype.is_float() {
            relative_l2(&actual, &expected)
        } else {
            let a: Vec<i64> = as_integers(&actual);
            let e: Vec<i64> = as_integers(&expected);
            f64::from(u8::from(a != e))
        };
        let limit = self.limit(name);
        self.compared.insert(name.to_string(), error);
        if error > limit || error.is_nan() {
            self.fail(format!("{name}: error {error:.3e}, tolerance {limit:.0e}"));
        }
    }

    pub(crate) fn check_tensor<B: Backend, const D: usize>(
        &mut self,
        name: &str,
        actual: Tensor<B, D>,
    ) {
        self.check(name, actual.cast(DType::F32).into_data());
    }

    fn limit(&self, name: &str) -> f64 {
        let json = &self.json;
        let own = json["tolerances"][name].as_f64();
        let stated = own.unwrap_or_else(|| json["tolerance"].as_f64().unwrap());
        self.tolerance.map_or(stated, |t| t.max(stated))
    }

    /// All differences, and every expected tensor that nobody compared.
    pub fn failures(&self) -> Vec<String> {
        let forgotten = self
            .expected
            .keys()
            .filter(|name| !self.compared.contains_key(*name))
            .filter(|name| !self.failures.iter().any(|f| f.contains(name.as_str())))
            .map(|name| format!("{}: {name} was not compared", self.id));
        self.failures.iter().cloned().chain(forgotten).collect()
    }

    /// The largest error in units of its tolerance.
    pub fn summary(&self) -> String {
        let worst = self
            .compared
            .iter()
            .map(|(name, error)| (error / self.limit(name).max(f64::MIN_POSITIVE), name))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match worst {
            Some((share, name)) => format!("{:.3} of the tolerance at {name}", share),
            None => "compared exactly".into(),
        }
    }
}

fn as_integers(data: &TensorData) -> Vec<i64> {
    match data.dtype {
        DType::Bool(_) => data.iter::<bool>().map(i64::from).collect(),
        _ => data.iter::<i64>().collect(),
    }
}

fn relative_l2(actual: &TensorData, expected: &TensorData) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (a, e) in actual.iter::<f64>().zip(expected.iter::<f64>()) {
        difference += (a - e) * (a - e);
        norm += e * e;
    }
    if norm == 0.0 {
        difference.sqrt()
    } else {
        (difference / norm).sqrt()
    }
}

pub(crate) fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All tensors of a file: floats as f32, integers as i64, booleans and bytes as they are.
pub(crate) fn read_tensors(path: &Path) -> BTreeMap<String, TensorData> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file =
        SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let (raw, shape) = (view.data(), view.shape().to_vec());
            let data = match view.dtype() {
                Dtype::F32 => TensorData::new(
                    raw.chunks_exact(4)
                        .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
                        .collect::<Vec<_>>(),
                    shape,
                ),
                Dtype::I64 => TensorData::new(
                    raw.chunks_exact(8)
                        .map(|c| i64::from_le_bytes(c.try_into().unwrap()))
                        .collect::<Vec<_>>(),
                    shape,
                ),
                Dtype::BOOL => {
                    TensorData::new(raw.iter().map(|b| *b != 0).collect::<Vec<_>>(), shape)
                }
                Dtype::U8 => TensorData::new(raw.to_vec(), shape),
                other => panic!("{}: {name} is {other:?}", path.display()),
            };
            (name, data)
        })
        .collect()
}
