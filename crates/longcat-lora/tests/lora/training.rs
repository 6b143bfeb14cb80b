//! New adapters, and reading trained ones back.

use burn::tensor::{DType, Distribution, Tensor};
use burn_flex::FlexDevice;
use longcat_lora::{Fused, LoraError, LoraOptions, LoraRegistry, LoraTraining, NewAdapter};
use regex::Regex;

use crate::common::*;

/// An adapter on the layers with these names, or with names that end in them from a dot on.
fn new(targets: &[&str]) -> NewAdapter {
    let pattern = |target: &&str| Regex::new(&format!(r"(^|\.){}$", regex::escape(target)));
    NewAdapter {
        rank: 4,
        alpha: 2.0,
        rslora: false,
        targets: targets.iter().map(|t| pattern(t).unwrap()).collect(),
        exclude: Vec::new(),
        fused: Fused::Parts,
    }
}

fn create(host: &mut Host, new: &NewAdapter) -> Result<Vec<String>, LoraError> {
    // Multiples of the golden ratio fill the range evenly.
    let mut drawn = 0.0f32;
    let mut uniform = |bound: f32| {
        drawn = (drawn + 0.618_034).fract();
        bound * (2.0 * drawn - 1.0)
    };
    host.create_adapter("mine", new, DType::F32, &mut uniform)
}

#[test]
fn a_new_adapter_does_not_change_the_model() {
    let mut host = Host::tiny();
    let x: Tensor<B, 3> = Tensor::random([1, 5, 64], Distribution::Uniform(-1.0, 1.0), &FlexDevice);
    let run = |host: &Host| {
        host.layers["blocks.0.attn.qkv"]
            .forward(x.clone())
            .into_data()
    };
    let before = run(&host);
    let layers = create(&mut host, &new(&["attn.qkv", "blocks.1.ffn.w1"])).unwrap();
    assert_eq!(
        layers,
        ["blocks.0.attn.qkv", "blocks.1.attn.qkv", "blocks.1.ffn.w1"]
    );
    assert_eq!(run(&host), before);

    let adapter = host.export_adapter("mine").unwrap();
    let blocks = adapter.get("blocks.0.attn.qkv").unwrap();
    assert_eq!(blocks.len(), 3);
    for (part, block) in blocks.iter().enumerate() {
        assert_eq!((block.part, block.of, block.rank()), (part, 3, 4));
        assert_eq!(block.scale, 0.5);
        assert!(block.up.to_f32().iter().all(|v| *v == 0.0));
        // U(-1/8, 1/8) for 64 input features.
        let down = block.down.to_f32();
        assert!(down.iter().all(|v| v.abs() <= 0.125));
        assert!(down.iter().any(|v| v.abs() > 0.06));
    }
}

#[test]
fn loaded_adapters_are_exported_as_they_were() {
    for file in ["cfg_step_lora", "refinement_lora"] {
        let adapter = read(&format!("checkpoints/tiny/lora/{file}.safetensors"));
        let mut host = Host::tiny();
        host.load_adapter("a", &adapter, LoraOptions::default())
            .unwrap();
        let exported = host.export_adapter("a").unwrap();
        assert_eq!(exported.len(), adapter.len());
        for (name, blocks) in exported.targets() {
            assert_eq!(blocks, adapter.get(name).unwrap());
        }
    }
}

#[test]
fn impossible_requests_are_refused() {
    let mut host = Host::tiny();
    let error = create(&mut host, &new(&["attn.qkv", "attn.q"])).unwrap_err();
    assert_eq!(error.code(), "unknown_module");
    assert!(error.to_string().contains(r"attn\.q$"));
    let zero = NewAdapter {
        rank: 0,
        ..new(&["attn.qkv"])
    };
    let error = create(&mut host, &zero).unwrap_err();
    assert_eq!(error.code(), "invalid_setting");
    let nothing = NewAdapter {
        exclude: vec![Regex::new("qkv").unwrap()],
        ..new(&["attn.qkv"])
    };
    let error = create(&mut host, &nothing).unwrap_err();
    assert_eq!(error.code(), "invalid_setting");
    assert!(host.adapters().is_empty());
    assert_eq!(
        host.export_adapter("a").unwrap_err().code(),
        "unknown_adapter"
    );
    create(&mut host, &new(&["attn.qkv"])).unwrap();
    let error = create(&mut host, &new(&["attn.qkv"])).unwrap_err();
    assert_eq!(error.code(), "adapter_exists");
}

#[test]
fn fused_layers_have_one_pair_over_all_parts_if_asked_and_rslora_divides_by_the_root() {
    let mut host = Host::tiny();
    let whole = NewAdapter {
        rslora: true,
        fused: Fused::Whole,
        ..new(&["attn.qkv"])
    };
    create(&mut host, &whole).unwrap();
    let adapter = host.export_adapter("mine").unwrap();
    let blocks = adapter.get("blocks.0.attn.qkv").unwrap();
    assert_eq!((blocks.len(), blocks[0].of, blocks[0].scale), (1, 1, 1.0));
}
