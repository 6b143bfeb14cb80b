//! The `bsa` cases computed with the official code.

use std::{fs, path::PathBuf};

use burn::tensor::{Tensor, TensorData, backend::Backend};
use burn_autodiff::{
    Autodiff,
    checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing},
};
use burn_flex::Flex;
use longcat_kernels::{BsaParams, EmptySelection, bsa};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::relative_error;

fn golden_dir() -> PathBuf {
    std::env::var_os("LONGCAT_GOLDEN_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/golden")),
        PathBuf::from,
    )
}

struct Case {
    name: String,
    spec: Value,
    inputs: Vec<u8>,
    expected: Vec<u8>,
}

impl Case {
    fn all() -> Vec<Self> {
        let root = golden_dir();
        let manifest = fs::read_to_string(root.join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        let cases = manifest["cases"].as_array().unwrap().iter();
        cases
            .filter(|case| case["kind"] == "bsa")
            .map(|case| {
                let dir = root.join(case["path"].as_str().unwrap());
                let spec = fs::read_to_string(dir.join("case.json")).unwrap();
                Self {
                    name: case["id"].as_str().unwrap().to_owned(),
                    spec: serde_json::from_str(&spec).unwrap(),
                    inputs: fs::read(dir.join("inputs.safetensors")).unwrap(),
                    expected: fs::read(dir.join("expected.safetensors")).unwrap(),
                }
            })
            .collect()
    }

    fn grid(&self, key: &str) -> [usize; 3] {
        serde_json::from_value(self.spec["params"][key].clone()).unwrap()
    }

    fn params(&self) -> BsaParams {
        let params = &self.spec["params"];
        BsaParams {
            sparsity: params["sparsity"].as_f64(),
            cdf_threshold: params["cdf_threshold"].as_f64(),
            chunk_3d_shape_q: self.grid("chunk_3d_shape_q"),
            chunk_3d_shape_k: self.grid("chunk_3d_shape_k"),
            empty_selection: EmptySelection::Zero,
        }
    }

    fn check<B: Backend, const D: usize>(&self, key: &str, got: Tensor<B, D>) {
        let device = got.device();
        let tolerance = self.spec["tolerances"][key]
            .as_f64()
            .unwrap_or_else(|| self.spec["tolerance"].as_f64().unwrap());
        let error = relative_error(got, read(&self.expected, key, &device).unwrap());
        assert!(
            error <= tolerance,
            "{} {key}: relative error {error:e}, allowed {tolerance:e}",
            self.name
        );
    }

    fn run<C: CheckpointStrategy>(&self) {
        type Ad<C> = Autodiff<Flex, C>;
        let device = Default::default();
        let (grid_q, grid_k) = (self.grid("latent_shape_q"), self.grid("latent_shape_k"));
        let params = self.params();
        let input = |key| read::<Flex, 4>(&self.inputs, key, &device).unwrap();

        let mask = bsa::block_mask(input("q"), input("k"), grid_q, grid_k, &params);
        let expected = bools(&self.expected, "block_mask");
        let got: Vec<bool> = mask.into_data().iter::<bool>().collect();
        assert_eq!(got, expected, "{}: block mask", self.name);

        let (out, lse) = bsa::bsa_attention_with_lse(
            input("q"),
            input("k"),
            input("v"),
            grid_q,
            grid_k,
            &params,
        );
        self.check("out", out);
        if let Some(expected) = read::<Flex, 3>(&self.expected, "lse", &device) {
            assert_eq!(lse.dims(), expected.dims());
            self.check("lse", lse);
        }

        let tracked = |key| Tensor::<Ad<C>, 4>::from_inner(input(key)).require_grad();
        let (q, k, v) = (tracked("q"), tracked("k"), tracked("v"));
        let out = longcat_kernels::bsa_attention(
            q.clone(),
            k.clone(),
            v.clone(),
            grid_q,
            grid_k,
            &params,
        );
        self.check("out", out.clone().inner());
        let grads = (out * Tensor::from_inner(input("d_out"))).sum().backward();
        self.check("dq", q.grad(&grads).unwrap());
        self.check("dk", k.grad(&grads).unwrap());
        self.check("dv", v.grad(&grads).unwrap());
    }
}

fn read<B: Backend, const D: usize>(
    file: &[u8],
    key: &str,
    device: &B::Device,
) -> Option<Tensor<B, D>> {
    let file = SafeTensors::deserialize(file).unwrap();
    let view = file.tensor(key).ok()?;
    let values = view.data().chunks_exact(4);
    let values = values.map(|x| f32::from_le_bytes(x.try_into().unwrap()));
    let data = TensorData::new(values.collect::<Vec<f32>>(), view.shape().to_vec());
    Some(Tensor::from_data(data, device))
}

fn bools(file: &[u8], key: &str) -> Vec<bool> {
    let file = SafeTensors::deserialize(file).unwrap();
    let data = file.tensor(key).unwrap().data().to_vec();
    data.into_iter().map(|x| x != 0).collect()
}

#[test]
fn official_cases() {
    let cases = Case::all();
    assert!(!cases.is_empty());
    for case in cases {
        case.run::<NoCheckpointing>();
    }
}

#[test]
fn official_cases_with_checkpointing() {
    for case in Case::all() {
        case.run::<BalancedCheckpointing>();
    }
}

#[test]
fn best_block_is_kept_where_the_official_code_keeps_none() {
    let cases = Case::all();
    let case = cases
        .iter()
        .find(|case| bools(&case.expected, "block_mask").iter().all(|kept| !kept));
    let case = case.expect("a case in which nothing is selected");
    let params = BsaParams {
        empty_selection: EmptySelection::KeepBest,
        ..case.params()
    };
    let device = Default::default();
    let input = |key| read::<Flex, 4>(&case.inputs, key, &device).unwrap();
    let (grid_q, grid_k) = (case.grid("latent_shape_q"), case.grid("latent_shape_k"));
    let mask = bsa::block_mask(input("q"), input("k"), grid_q, grid_k, &params);
    let kept = mask.int().sum_dim(3);
    assert!(kept.into_data().iter::<i64>().all(|count| count == 1));
}
