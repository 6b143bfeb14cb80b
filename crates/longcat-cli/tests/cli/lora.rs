//! `longcat lora`: adapters without a device.

use std::fs;

use crate::{fail, golden, longcat, succeed};

#[test]
fn adapters_are_inspected_converted_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = golden("checkpoints/tiny/lora/cfg_step_lora.safetensors");
    let adapter = adapter.to_str().unwrap();
    let json = succeed(dir.path(), &["lora", "inspect", adapter, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["format"], "official");
    assert_eq!(report["unmatched"].as_array().unwrap().len(), 0);
    let text = succeed(dir.path(), &["lora", "inspect", adapter]);
    assert!(text.contains("blocks.*.attn.qkv"), "{text}");

    for format in ["peft", "diffusers", "comfyui", "kohya", "fastvideo"] {
        let there = format!("{format}.out");
        let back = format!("{format}.safetensors");
        succeed(
            dir.path(),
            &["lora", "convert", adapter, "--to", format, "-o", &there],
        );
        succeed(
            dir.path(),
            &["lora", "convert", &there, "--to", "official", "-o", &back],
        );
        for output in [&there, &back] {
            let again = ["lora", "convert", adapter, "--to", format, "-o", output];
            let message = fail(dir.path(), 1, &again);
            assert!(message.contains("--overwrite"), "{message}");
        }
        let json = succeed(dir.path(), &["lora", "inspect", &back, "--json"]);
        let again: serde_json::Value = serde_json::from_str(&json).unwrap();
        for key in ["layers", "parameters", "ranks", "scales", "targets"] {
            assert_eq!(again[key], report[key], "{format}: {key}");
        }
    }

    // Several at once, into a directory that opens as a model and holds what they do together.
    let model = golden("checkpoints/tiny");
    let model = model.to_str().unwrap();
    let other = golden("checkpoints/tiny/lora/refinement_lora.safetensors");
    let loras = [
        format!("{adapter}=0.5"),
        format!("{}=-0.25", other.display()),
    ];
    let [first, second] = &loras;
    let both = [
        "lora", "merge", first, second, "--model", model, "-o", "merged",
    ];
    succeed(dir.path(), &both);
    let combine = ["lora", "combine", first, second, "-o", "both.safetensors"];
    succeed(dir.path(), &combine);
    let merge = [
        "lora",
        "merge",
        "both.safetensors",
        "--model",
        model,
        "-o",
        "again",
    ];
    succeed(dir.path(), &merge);
    let weights = |folder: &str| {
        let files = longcat_weights::WeightFiles::open(&dir.path().join(folder)).unwrap();
        let key = "blocks.0.attn.qkv.weight";
        let data = files.tensor_data(key).unwrap();
        data.iter::<f64>().collect::<Vec<f64>>()
    };
    let (merged, again) = (weights("merged"), weights("again"));
    let off = merged.iter().zip(&again).map(|(a, b)| (a - b).abs());
    assert!(off.fold(0.0, f64::max) < 1e-5);
    let t2v =
        "t2v ring -o a.safetensors --steps 1 --guidance 1 --frames 1 --size 64x64 --model merged";
    succeed(dir.path(), &t2v.split(' ').collect::<Vec<_>>());
    // Also inside of the checkpoint, of which it is no part.
    let inside = "merged/inside";
    let into = ["lora", "merge", first, "--model", "merged", "-o", inside];
    succeed(dir.path(), &into);
    let names = |folder: &str| {
        let entries = fs::read_dir(dir.path().join(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(inside), names("again"));
    let mut left = [names(""), names("merged")].concat();
    left.retain(|name| longcat_partial::is_partial(name));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_bad_adapter_is_shown_problems_first_and_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let bad = golden("cases/lora_invalid/missing_up_block.safetensors");
    let run = longcat(dir.path(), &["lora", "inspect", bad.to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(1));
    let shown = String::from_utf8(run.stdout).unwrap();
    let problem = shown.lines().nth(2).unwrap();
    assert!(problem.contains("output block 1 of 3"), "{shown}");
}
