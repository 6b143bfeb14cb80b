//! Reading golden cases (see `tests/golden/README.md` at the root of the repository).

use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::Value;

/// One case: its `case.json` and where it lies.
pub struct Case {
    pub id: String,
    pub json: Value,
    dir: PathBuf,
}

pub fn root() -> PathBuf {
    match std::env::var_os("LONGCAT_GOLDEN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")),
    }
}

fn json(path: PathBuf) -> Value {
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// All cases of a kind that the manifest lists.
pub fn cases(kind: &str) -> Vec<Case> {
    let manifest = json(root().join("manifest.json"));
    let listed = manifest["cases"].as_array().unwrap();
    listed
        .iter()
        .filter(|case| case["kind"] == kind)
        .map(|case| {
            let dir = root().join(case["path"].as_str().unwrap());
            let file = if dir.is_dir() {
                dir.join("case.json")
            } else {
                dir
            };
            Case {
                id: case["id"].as_str().unwrap().to_string(),
                json: json(file.clone()),
                dir: file.parent().unwrap().to_path_buf(),
            }
        })
        .collect()
}

impl Case {
    pub fn checkpoint(&self) -> PathBuf {
        let name = self.json["checkpoint"].as_str().unwrap();
        root().join("checkpoints").join(name)
    }

    /// Shape and little-endian bytes of a tensor of `inputs` or `expected`.
    fn tensor(&self, file: &str, name: &str) -> (Vec<usize>, Vec<u8>) {
        let path = self.dir.join(format!("{file}.safetensors"));
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let view = tensors.tensor(name).unwrap();
        (view.shape().to_vec(), view.data().to_vec())
    }

    pub fn i64s(&self, file: &str, name: &str) -> (Vec<usize>, Vec<i64>) {
        let (shape, bytes) = self.tensor(file, name);
        let values = bytes
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()));
        (shape, values.collect())
    }

    pub fn f32s(&self, file: &str, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, bytes) = self.tensor(file, name);
        let values = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        (shape, values.collect())
    }
}

/// ‖actual − expected‖ / ‖expected‖.
pub fn relative_error(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let difference: f64 = actual
        .iter()
        .zip(expected)
        .map(|(a, e)| (f64::from(*a) - f64::from(*e)).powi(2))
        .sum();
    let norm: f64 = expected.iter().map(|e| f64::from(*e).powi(2)).sum();
    (difference / norm).sqrt()
}
