//! A tiny model and golden cases for the tests of this crate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::backend::Autodiff;
use burn::module::Module;
use burn::tensor::{DType, Distribution, Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use longcat_dit::{LongCatTransformer, TextCondition, lora_targets};
use longcat_lora::{Adapter, Fused, LoraOptions, LoraRegistry, LoraTraining, NewAdapter};
use longcat_train::{
    Batch, LoraOptimizer, OptimizerConfig, StepOutput, TrainStep, official_tensors, trained, update,
};
use longcat_weights::{LoadAs, Precision};
use regex::Regex;
use safetensors::SafeTensors;

/// The base backend.
pub type Inner = Flex;
/// The training backend.
pub type B = Autodiff<Flex>;

/// The layers that `cfg_step_lora` adapts.
pub const SEVEN: &[&str] = &[
    "attn.qkv",
    "attn.proj",
    "cross_attn.q_linear",
    "cross_attn.kv_linear",
    "ffn.w1",
    "ffn.w2",
    "ffn.w3",
];

pub fn golden(relative: &str) -> PathBuf {
    let root = match std::env::var_os("LONGCAT_GOLDEN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).into(),
    };
    root.join(relative)
}

/// The golden checkpoint's transformer, all of it trained.
pub fn tiny() -> LongCatTransformer<B> {
    let dir = golden("checkpoints/tiny/dit");
    LongCatTransformer::load(&dir, None::<burn::tensor::DType>, &FlexDevice)
        .unwrap()
        .0
}

/// The same, frozen, with an adapter whose factors are all random (a fresh one has zeros).
pub fn tiny_with_adapter(targets: &[&str]) -> LongCatTransformer<B> {
    with_adapter(tiny(), targets)
}

/// The same with packed matrices.
pub fn packed_with_adapter(precision: Precision, targets: &[&str]) -> LongCatTransformer<B> {
    let dir = golden("checkpoints/tiny/dit");
    let load_as = LoadAs {
        dtype: Some(DType::F32),
        precision,
        ..LoadAs::default()
    };
    let (model, _) = LongCatTransformer::load(&dir, load_as, &FlexDevice).unwrap();
    with_adapter(model, targets)
}

fn with_adapter(model: LongCatTransformer<B>, targets: &[&str]) -> LongCatTransformer<B> {
    let mut model = model.no_grad();
    let pattern = |target: &&str| Regex::new(&format!("{}$", regex::escape(target))).unwrap();
    let new = NewAdapter {
        rank: 3,
        alpha: 6.0,
        rslora: false,
        targets: targets.iter().map(pattern).collect(),
        exclude: Vec::new(),
        fused: Fused::Parts,
    };
    // The factors are drawn below.
    let created = model.create_adapter("train", &new, DType::F32, &mut |_| 0.0);
    created.unwrap();
    update::<B, _>(model, |_, values| {
        Some(values.random_like(Distribution::Normal(0.0, 0.1)))
    })
}

/// Noise as latents, with two captions' worth of noise as text.
pub fn random_batch(samples: usize, [t, h, w]: [usize; 3], num_cond: usize) -> Batch<Inner> {
    let shape = [samples, 16, t, h, w];
    let normal = Distribution::Normal(0.0, 1.0);
    Batch {
        x0: Tensor::random(shape, normal, &FlexDevice),
        noise: Tensor::random(shape, normal, &FlexDevice),
        sigma: Tensor::random([samples], Distribution::Uniform(0.1, 0.9), &FlexDevice),
        text: TextCondition {
            embeds: Tensor::random([samples, 6, 48], normal, &FlexDevice),
            mask: Some(vec![vec![true, true, true, true, false, false]; samples]),
        },
        num_cond,
    }
}

fn bits<const D: usize>(tensor: &Tensor<Inner, D>) -> Vec<u8> {
    tensor.to_data().as_bytes().to_vec()
}

/// Loss, output and all gradients have the same bits.
pub fn assert_same(a: &StepOutput<B>, b: &StepOutput<B>) {
    assert!(bits(&a.loss) == bits(&b.loss), "loss");
    assert!(bits(&a.out) == bits(&b.out), "out");
    assert_eq!(a.gradients.len(), b.gradients.len());
    for (path, gradient) in a.gradients.iter() {
        let other = b.gradients.get(path).unwrap();
        assert!(bits(&gradient.values) == bits(&other.values), "{path}");
    }
}

/// A `lora_grad` case.
pub struct Golden {
    json: serde_json::Value,
    inputs: BTreeMap<String, TensorData>,
    expected: BTreeMap<String, TensorData>,
}

impl Golden {
    pub fn open(case: &str) -> Self {
        let dir = golden("cases").join(case);
        let text = std::fs::read_to_string(dir.join("case.json")).unwrap();
        Self {
            json: serde_json::from_str(&text).unwrap(),
            inputs: read(&dir.join("inputs.safetensors")),
            expected: read(&dir.join("expected.safetensors")),
        }
    }

    fn input<const D: usize>(&self, name: &str) -> Tensor<Inner, D> {
        Tensor::from_data(self.inputs[name].clone(), (&FlexDevice, DType::F32))
    }

    fn check(&self, name: &str, actual: &TensorData) {
        let expected = &self.expected[name];
        assert_eq!(actual.num_elements(), expected.num_elements(), "{name}");
        let (mut difference, mut norm) = (0.0, 0.0);
        for (a, e) in actual.iter::<f64>().zip(expected.iter::<f64>()) {
            difference += (a - e) * (a - e);
            norm += e * e;
        }
        let error = f64::sqrt(difference / norm);
        let limit = self.json["tolerances"][name].as_f64().unwrap();
        assert!(
            error <= limit,
            "{name}: error {error:.2e}, tolerance {limit:.0e}"
        );
    }

    /// Loss, gradients and the adapter after one AdamW step.
    pub fn check_step(&self) {
        let params = &self.json["params"];
        let mut model = tiny().no_grad();
        let file = golden(params["loras"][0]["file"].as_str().unwrap());
        let adapter = Adapter::read(&file, lora_targets()).unwrap();
        model
            .load_adapter("train", &adapter, LoraOptions::default())
            .unwrap();
        let mask = &self.inputs["encoder_attention_mask"];
        let flat: Vec<bool> = mask.iter::<i64>().map(|v| v != 0).collect();
        let num_cond = params["num_cond_latents"].as_u64().unwrap_or(0) as usize;
        let batch = Batch {
            x0: self.input("x0"),
            noise: self.input("noise"),
            sigma: self.input("s"),
            text: TextCondition {
                embeds: self.input::<4>("encoder_hidden_states").squeeze_dim(1),
                mask: Some(flat.chunks(mask.shape[1]).map(<[bool]>::to_vec).collect()),
            },
            num_cond,
        };
        let output = TrainStep { checkpointed: true }
            .run::<B>(&model, &batch)
            .unwrap();
        self.check("x_t", &output.x_t.to_data());
        self.check("out", &output.out.to_data());
        self.check("loss", &output.loss.to_data());
        let timesteps = match num_cond {
            0 => output.timesteps.clone().narrow(1, 0, 1),
            _ => output.timesteps.clone(),
        };
        self.check("timestep", &timesteps.to_data());
        let gradients = official_tensors(output.gradients.iter()).unwrap();
        let compared = gradients.len() + 4;
        for (key, gradient) in gradients {
            self.check(&format!("grad.{key}"), &gradient);
        }
        let number = |value: &serde_json::Value| value.as_f64().unwrap() as f32;
        let mut optimizer = LoraOptimizer::<Inner>::new(&OptimizerConfig {
            betas: [number(&params["betas"][0]), number(&params["betas"][1])],
            epsilon: number(&params["eps"]),
            weight_decay: number(&params["weight_decay"]),
        });
        let lr = params["lr"].as_f64().unwrap();
        let model = optimizer.step::<B, _>(model, output.gradients, lr);
        let after = trained::<B, _>(&model);
        let after = official_tensors(after.iter().map(|(path, p)| (path.as_str(), p))).unwrap();
        assert_eq!(compared + after.len(), self.expected.len());
        for (key, value) in after {
            self.check(&format!("after.{key}"), &value);
        }
    }
}

fn read(path: &Path) -> BTreeMap<String, TensorData> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let (raw, shape) = (view.data(), view.shape().to_vec());
            let data = match view.dtype() {
                safetensors::Dtype::F32 => TensorData::new(
                    raw.chunks_exact(4)
                        .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
                        .collect::<Vec<_>>(),
                    shape,
                ),
                safetensors::Dtype::I64 => TensorData::new(
                    raw.chunks_exact(8)
                        .map(|c| i64::from_le_bytes(c.try_into().unwrap()))
                        .collect::<Vec<_>>(),
                    shape,
                ),
                other => panic!("{name} is {other:?}"),
            };
            (name, data)
        })
        .collect()
}
