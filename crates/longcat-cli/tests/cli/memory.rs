//! Limits of memory, and plans before anything is loaded.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{fail, succeed};

/// A directory with the configs of the released sizes and nothing else.
fn released_configs(dir: &Path) {
    let builtin = longcat_builtin::builtin_checkpoint().unwrap();
    let edit = |file: &str, keys: Value| {
        let mut config: Value =
            serde_json::from_slice(&fs::read(builtin.join(file)).unwrap()).unwrap();
        for (key, value) in keys.as_object().unwrap() {
            config[key] = value.clone();
        }
        let path = dir.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, config.to_string()).unwrap();
    };
    edit(
        "dit/config.json",
        json!({
            "hidden_size": 4096, "depth": 48, "num_heads": 32, "caption_channels": 4096,
            "adaln_tembed_dim": 512,
        }),
    );
    edit(
        "text_encoder/config.json",
        json!({
            "d_model": 4096, "d_ff": 10_240, "d_kv": 64, "num_heads": 64, "num_layers": 24,
            "vocab_size": 256_384,
        }),
    );
    edit(
        "vae/config.json",
        json!({"base_dim": 96, "decoder_base_dim": 96, "dim_mult": [1, 2, 4, 4]}),
    );
    edit("scheduler/scheduler_config.json", json!({}));
    fs::create_dir_all(dir.join("tokenizer")).unwrap();
}

#[test]
fn a_plan_needs_no_weights_and_says_what_fits() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    released_configs(&dir.join("full"));
    let base = ["plan", "t2v", "a cat", "--model", "full", "--device", "cpu"];
    let asked = ["--size", "832x480", "--frames", "93", "--guidance", "1"];
    let with = |extra: &[&'static str]| [&base[..], &asked, extra].concat();
    let text = succeed(dir, &with(&["--memory", "40GiB", "--json"]));
    let passes: Value = serde_json::from_str(&text).unwrap();
    let plan = &passes[0];
    let budget = 40_u64 << 30;
    assert_eq!(plan["budget"], budget);
    assert!(plan["peak"].as_u64().unwrap() <= budget, "{text}");
    let blocks = plan["denoising"]["resident_blocks"].as_u64().unwrap();
    assert!((1..48).contains(&blocks), "{text}");
    assert_eq!(plan["text_encoder"]["layers"], 24);
    // Of fifty steps of a whole model on a processor.
    assert_eq!(plan["rates"], "measured");
    let stages = ["text_encoder", "denoising", "decoding"];
    let seconds = stages.map(|stage| plan[stage]["seconds"].as_f64().unwrap());
    assert!(seconds.iter().all(|seconds| *seconds > 0.0), "{text}");
    let total = plan["seconds"].as_f64().unwrap();
    assert!((total / seconds.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    assert!(seconds[1] > 0.9 * total, "{text}");
    let text = succeed(dir, &with(&["--memory", "40GiB"]));
    assert!(
        text.contains(&format!("{blocks} of 48 blocks stay")),
        "{text}"
    );
    assert!(text.contains("timed on this device"), "{text}");
    let text = succeed(dir, &with(&["--memory", "unlimited"]));
    assert!(text.contains("48 of 48 blocks stay"), "{text}");
    let message = fail(dir, 2, &with(&["--memory", "5.9GiB"]));
    for part in ["5.90 GiB", "frames of this size", "--precision"] {
        assert!(message.contains(part), "{message}");
    }
    let left: Vec<_> = fs::read_dir(dir).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_limited_run_makes_the_same_latents() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let request = [
        "t2v",
        "a red circle",
        "--device",
        "cpu",
        "--frames",
        "561",
        "--steps",
        "1",
        "--guidance",
        "1",
        "--no-metadata",
    ];
    let limited = ["--memory", "54MB"];
    let planned = [
        &["plan"],
        &request[..],
        &limited,
        &["--json", "-o", "a.safetensors"],
    ]
    .concat();
    let planned: Value = serde_json::from_str(&succeed(dir, &planned)).unwrap();
    let blocks = planned[0]["denoising"]["resident_blocks"].as_u64().unwrap();
    assert!(blocks < 6, "{planned}");
    succeed(
        dir,
        &[&request[..], &limited, &["-o", "limited.safetensors"]].concat(),
    );
    succeed(dir, &[&request[..], &["-o", "free.safetensors"]].concat());
    let bytes = |name: &str| fs::read(dir.join(name)).unwrap();
    assert!(bytes("limited.safetensors") == bytes("free.safetensors"));
    let message = fail(
        dir,
        2,
        &[&request[..], &["--memory", "1MB", "-o", "b.mp4"]].concat(),
    );
    assert!(message.contains("--memory"), "{message}");
    let message = fail(
        dir,
        2,
        &[&request[..], &["--memory", "12", "-o", "b.mp4"]].concat(),
    );
    assert!(message.contains("GiB"), "{message}");
}

#[test]
fn a_plan_of_training_says_what_streams() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    released_configs(&dir.join("full"));
    let limit = |memory: &str| {
        let config = format!(
            "output = 'run'\nmemory = '{memory}'\nmodel = {{ checkpoint = 'full', precision = 'bf16' }}\n\
             data = {{ path = 'clips', sizes = ['832x480'], frames = [33] }}\n"
        );
        fs::write(dir.join("run.toml"), config).unwrap();
    };
    let base = [
        "plan",
        "train-lora",
        "--config",
        "run.toml",
        "--device",
        "cpu",
    ];
    limit("24GiB");
    let text = succeed(dir, &[&base[..], &["--json"]].concat());
    let plan: Value = serde_json::from_str(&text).unwrap();
    let step = &plan["step"];
    let blocks = step["resident_blocks"].as_u64().unwrap();
    assert!((1..12).contains(&blocks), "{text}");
    assert!(step["peak"].as_u64().unwrap() <= 24 << 30, "{text}");
    assert_eq!(plan["captions"]["resident_layers"], 24, "{text}");
    let text = succeed(dir, &base);
    assert!(
        text.contains(&format!("{blocks} of 48 blocks stay")),
        "{text}"
    );
    // In f32 the text encoder takes 22.8 GB: its layers stream.
    limit("21GiB");
    let text = succeed(dir, &[&base[..], &["--json"]].concat());
    let plan: Value = serde_json::from_str(&text).unwrap();
    assert!(
        plan["captions"]["resident_layers"].as_u64().unwrap() < 24,
        "{text}"
    );
    assert!(
        plan["clips"]["peak"].as_u64().unwrap() <= 21 << 30,
        "{text}"
    );
    limit("12GiB");
    let message = fail(dir, 1, &base);
    for part in ["memory", "a training step", "12.00 GiB"] {
        assert!(message.contains(part), "{message}");
    }
}
