//! Reading golden cases (see `tests/golden/README.md` at the root of the repository).

use std::path::PathBuf;

use burn::tensor::{DType, Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
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
    let cases: Vec<Case> = listed
        .iter()
        .filter(|case| case["kind"] == kind)
        .map(|case| {
            let dir = root().join(case["path"].as_str().unwrap());
            Case {
                id: case["id"].as_str().unwrap().to_string(),
                json: json(dir.join("case.json")),
                dir,
            }
        })
        .collect();
    assert!(!cases.is_empty(), "no {kind} cases in {}", root().display());
    cases
}

impl Case {
    pub fn vae_dir(&self) -> PathBuf {
        let name = self.json["checkpoint"].as_str().unwrap();
        root().join("checkpoints").join(name).join("vae")
    }

    fn f32s(&self, file: &str, name: &str) -> (Vec<usize>, Vec<f32>) {
        let bytes = std::fs::read(self.dir.join(format!("{file}.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let view = tensors.tensor(name).unwrap();
        let values = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        (view.shape().to_vec(), values.collect())
    }

    pub fn input(&self, name: &str, device: &FlexDevice) -> Tensor<Flex, 5> {
        let (shape, values) = self.f32s("inputs", name);
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    }

    /// Compares with the expected tensor, within the tolerance of the case.
    pub fn check(&self, name: &str, actual: Tensor<Flex, 5>) {
        let (shape, expected) = self.f32s("expected", name);
        assert_eq!(actual.dims().to_vec(), shape, "{}: {name}", self.id);
        let error = relative_error(&values(actual), &expected);
        let tolerance = self.json["tolerances"][name]
            .as_f64()
            .or(self.json["tolerance"].as_f64())
            .unwrap();
        println!(
            "{}: {name}: {error:.2e} (tolerance {tolerance:.0e})",
            self.id
        );
        assert!(error <= tolerance, "{}: {name}: {error:e}", self.id);
    }
}

pub fn values(tensor: Tensor<Flex, 5>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().into_vec().unwrap()
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
