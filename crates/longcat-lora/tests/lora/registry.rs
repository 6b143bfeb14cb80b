//! Adapters on a model: switching, strengths, failures that change nothing.

use burn::tensor::{DType, Distribution, Tensor};
use burn_flex::FlexDevice;
use longcat_lora::{
    Adapter, Block, LoraLinear, LoraLinearConfig, LoraOptions, LoraRegistry, Matrix,
};

use crate::common::*;

const CFG: &str = "checkpoints/tiny/lora/cfg_step_lora.safetensors";
const REFINE: &str = "checkpoints/tiny/lora/refinement_lora.safetensors";
const QKV: &str = "blocks.0.attn.qkv";

fn input() -> Tensor<B, 3> {
    Tensor::random([1, 5, 64], Distribution::Uniform(-1.0, 1.0), &FlexDevice)
}

fn run(host: &Host, x: &Tensor<B, 3>) -> Vec<f64> {
    let y = host.layers[QKV].forward(x.clone());
    y.into_data().iter::<f64>().collect()
}

fn loaded() -> Host {
    let mut host = Host::tiny();
    for (name, path) in [("cfg", CFG), ("refine", REFINE)] {
        host.load_adapter(name, &read(path), LoraOptions::default())
            .unwrap();
    }
    host
}

#[test]
fn switching_leaves_the_weights_alone() {
    let x = input();
    let base = run(&Host::tiny(), &x);
    let mut host = loaded();
    let weights = host.weights();
    let both = run(&host, &x);

    host.use_adapters(&[("cfg", 1.0)]).unwrap();
    let cfg = run(&host, &x);
    host.use_adapters(&[("refine", 1.0)]).unwrap();
    let refine = run(&host, &x);
    // Contributions add up.
    let sum: Vec<f64> = (0..base.len())
        .map(|i| cfg[i] + refine[i] - base[i])
        .collect();
    assert!(relative_error(&both, &sum) < 1e-6);
    assert!(relative_error(&cfg, &base) > 1e-3);

    host.use_adapters(&[]).unwrap();
    assert_eq!(run(&host, &x), base);
    host.set_adapter_enabled("cfg", true).unwrap();
    assert_eq!(run(&host, &x), cfg);
    host.set_adapter_strength("cfg", 0.0).unwrap();
    assert_eq!(run(&host, &x), base);
    host.set_adapter_strength("cfg", 1.0).unwrap();
    host.unload_adapter("refine").unwrap();
    assert_eq!(run(&host, &x), cfg);
    assert_eq!(host.adapters().len(), 1);
    assert_eq!(host.weights(), weights);
}

#[test]
fn strength_scales_the_contribution() {
    let x = input();
    let base = run(&Host::tiny(), &x);
    let mut host = loaded();
    host.use_adapters(&[("cfg", 1.0)]).unwrap();
    let once = run(&host, &x);
    host.use_adapters(&[("cfg", -2.0)]).unwrap();
    let expected: Vec<f64> = base
        .iter()
        .zip(&once)
        .map(|(b, o)| b - 2.0 * (o - b))
        .collect();
    assert!(relative_error(&run(&host, &x), &expected) < 1e-6);
}

#[test]
fn failed_calls_change_nothing() {
    let x = input();
    let mut host = loaded();
    let (before, status) = (run(&host, &x), host.adapters());
    let load = |host: &mut Host, name: &str, path: &str, strength: f64| {
        let options = LoraOptions {
            strength,
            dtype: None,
        };
        host.load_adapter(name, &read(path), options)
            .unwrap_err()
            .code()
    };
    assert_eq!(load(&mut host, "cfg", REFINE, 1.0), "adapter_exists");
    assert_eq!(load(&mut host, "new", CFG, f64::NAN), "invalid_setting");
    let unknown = "cases/lora_invalid/unknown_module.safetensors";
    assert_eq!(load(&mut host, "new", unknown, 1.0), "unknown_module");
    let shape = "cases/lora_invalid/shape_mismatch.safetensors";
    assert_eq!(load(&mut host, "new", shape, 1.0), "shape_mismatch");
    let error = host
        .use_adapters(&[("cfg", 2.0), ("nobody", 1.0)])
        .unwrap_err();
    assert_eq!(error.code(), "unknown_adapter");
    assert!(error.to_string().contains("refine"));
    let error = host.use_adapters(&[("cfg", f64::INFINITY)]).unwrap_err();
    assert_eq!(error.code(), "invalid_setting");
    assert_eq!(
        host.unload_adapter("x").unwrap_err().code(),
        "unknown_adapter"
    );
    assert_eq!(host.adapters(), status);
    assert_eq!(run(&host, &x), before);
}

#[test]
fn factors_can_be_of_another_type_than_the_base() {
    let files = tiny_checkpoint();
    let x = input();
    let mut exact = Host::tiny();
    let adapter = read(CFG);
    exact
        .load_adapter("a", &adapter, LoraOptions::default())
        .unwrap();
    let expected = run(&exact, &x);
    for (base, factors) in [
        (DType::BF16, None),
        (DType::BF16, Some(DType::BF16)),
        (DType::F32, Some(DType::F16)),
    ] {
        let mut host = Host::from_checkpoint(&files, base);
        let options = LoraOptions {
            strength: 1.0,
            dtype: factors,
        };
        host.load_adapter("a", &adapter, options).unwrap();
        let y = host.layers[QKV].forward(x.clone().cast(base));
        assert_eq!(y.dtype(), base);
        let y: Vec<f64> = y.cast(DType::F32).into_data().iter::<f64>().collect();
        assert!(relative_error(&y, &expected) < 1e-2);
    }
}

#[test]
fn parts_without_a_block_keep_the_base_output() {
    let block = |part| Block {
        part,
        of: 3,
        down: Matrix::from_f32(1 + part, 64, &vec![0.1; (1 + part) * 64]),
        up: Matrix::from_f32(64, 1 + part, &vec![0.5; 64 * (1 + part)]),
        scale: 2.0,
    };
    let mut adapter = Adapter::new("q and v");
    adapter.insert(QKV, vec![block(2), block(0)]).unwrap();
    let x = input();
    let base = run(&Host::tiny(), &x);
    let mut host = Host::tiny();
    host.load_adapter("a", &adapter, LoraOptions::default())
        .unwrap();
    for (index, (y, b)) in run(&host, &x).iter().zip(&base).enumerate() {
        match index % 192 / 64 {
            1 => assert_eq!(y, b),
            _ => assert!((y - b).abs() > 1e-6),
        }
    }
}

#[test]
fn a_new_layer_is_drawn_as_in_pytorch_and_only_when_read() {
    let layer: LoraLinear<B> = LoraLinearConfig::new(256, 512).init(&FlexDevice);
    assert!(!layer.weight.is_initialized());
    assert_eq!((layer.d_in(), layer.d_out()), (256, 512));
    assert!(!layer.weight.is_initialized());
    // U(-k, k) with k = 1/16 has the standard deviation k / √3.
    let values = floats(layer.weight.val());
    let square = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
    assert!((square.sqrt() - 0.0625 / 3f64.sqrt()).abs() < 1e-3);
    assert!(values.iter().all(|v| v.abs() <= 0.0625));
}
