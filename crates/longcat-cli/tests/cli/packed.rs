//! Packed weights: while loading, and in a checkpoint that `longcat quantize` writes.

use std::fs;
use std::path::Path;

use crate::adapters::{SHORT, bundled, difference, text};
use crate::{fail, succeed};

/// A short video of a ring on the CPU.
fn make(dir: &Path, name: &str, extra: &[&str]) {
    let args = [
        "t2v",
        "a ring",
        "--device",
        "cpu",
        "--no-metadata",
        "-o",
        name,
    ];
    succeed(dir, &[&args[..], &SHORT[..], extra].concat());
}

#[test]
fn a_quantized_checkpoint_makes_the_video_of_its_precision() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let video = |name: &str, extra: &[&str]| {
        make(dir, name, extra);
        fs::read(dir.join(name)).unwrap()
    };
    let floats = video("floats.safetensors", &[]);
    for precision in ["fp8", "q4_k"] {
        let told = succeed(dir, &["quantize", "--to", precision, "-o", precision]);
        assert!(told.contains(precision), "{told}");
        let packed = video("packed.safetensors", &["--precision", precision, "-y"]);
        let stored = video("stored.safetensors", &["--model", precision, "-y"]);
        assert!(packed == stored, "{precision}");
        assert!(packed != floats, "{precision}");
        let inspected = succeed(dir, &["inspect", precision]);
        let kind = if precision == "fp8" {
            "F8_E4M3"
        } else {
            "Q4_0"
        };
        assert!(inspected.contains(kind), "{inspected}");
    }
    let refused = fail(dir, 1, &["quantize", "--to", "fp8", "-o", "fp8"]);
    assert!(refused.contains("fp8 exists"), "{refused}");
}

#[test]
fn products_in_fp8_are_asked_for_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let run = ["t2v", "a ring", "--device", "cpu", "-y", "-o"];
    let run = |name: &'static str, extra: &[&'static str]| {
        [&run[..], &[name][..], &SHORT[..], extra].concat()
    };
    let fp8 = ["--precision", "fp8", "--products", "fp8"];
    let told = succeed(
        dir,
        &run("fp8.safetensors", &[&fp8[..], &["--json"][..]].concat()),
    );
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["settings"]["products"], "fp8");
    let told = succeed(
        dir,
        &run("dense.safetensors", &["--precision", "fp8", "--json"]),
    );
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["settings"].get("products"), None);
    let off = difference(dir, "fp8.safetensors", "dense.safetensors");
    assert!(off > 0.0 && off < 0.5, "{off}");
    for precision in ["stored", "int8"] {
        let extra = ["--products", "fp8", "--precision", precision];
        let refused = fail(dir, 2, &run("v.mp4", &extra));
        assert!(refused.contains("--precision fp8"), "{refused}");
    }
    assert!(!dir.join("v.mp4").exists());
}

#[test]
fn layers_that_suffer_stay_out_of_fp8() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let refused = fail(dir, 1, &["calibrate", "a ring", "--device", "cpu"]);
    assert!(refused.contains("--output"), "{refused}");
    succeed(dir, &["quantize", "--to", "fp8", "-o", "model"]);
    let calibrate = ["calibrate", "a ring", "--device", "cpu", "--model", "model"];
    let short = ["--frames", "5", "--steps", "1", "--json"];
    let told = succeed(dir, &[&calibrate[..], &short[..]].concat());
    let mut layers: serde_json::Value = serde_json::from_str(&told).unwrap();
    let errors = layers["errors"].as_object().unwrap().clone();
    let worst = errors.values().map(|e| e.as_f64().unwrap());
    let worst = worst.fold(0.0, f64::max);
    assert!(errors.len() > 4 && worst > 0.0 && worst < 0.5, "{told}");
    let kept = layers["floats"].as_array().unwrap();
    assert_eq!(kept.len(), errors.len() / 20);
    let of = |name: &str| errors[name].as_f64().unwrap();
    let kept: Vec<f64> = kept.iter().map(|name| of(name.as_str().unwrap())).collect();
    let least = kept.iter().copied().fold(worst, f64::min);
    let beyond = errors.keys().filter(|name| of(name) > least).count();
    assert!(beyond <= kept.len().saturating_sub(1));

    let video = |name: &str, products: &str| {
        let run = [
            "t2v",
            "a ring",
            "--device",
            "cpu",
            "--no-metadata",
            "-y",
            "-o",
            name,
        ];
        let with = ["--model", "model", "--products", products];
        succeed(dir, &[&run[..], &with[..], &SHORT[..]].concat());
        fs::read(dir.join(name)).unwrap()
    };
    let (dense, fp8) = (
        video("a.safetensors", "dense"),
        video("b.safetensors", "fp8"),
    );
    assert!(dense != fp8);
    let file = dir.join("model/dit/fp8_layers.json");
    assert!(file.exists());
    // With all layers out of it, nothing is multiplied in fp8.
    layers["floats"] = errors.keys().cloned().collect::<Vec<_>>().into();
    fs::write(&file, layers.to_string()).unwrap();
    assert!(video("c.safetensors", "fp8") == dense);
    fs::write(&file, "{}").unwrap();
    let told = fail(
        dir,
        1,
        &[
            "t2v",
            "a ring",
            "--device",
            "cpu",
            "-o",
            "d.mp4",
            "--model",
            "model",
            "--products",
            "fp8",
        ],
    );
    assert!(told.contains("fp8_layers.json"), "{told}");
}

#[test]
fn adapters_are_not_merged_into_packed_weights() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let style = bundled("cfg_step_lora");
    let args = [
        "t2v",
        "a ring",
        "--device",
        "cpu",
        "-o",
        "v.mp4",
        "--lora",
        text(&style),
        "--merge",
        "--precision",
        "fp8",
    ];
    let refused = fail(dir, 2, &[&args[..], &SHORT[..]].concat());
    for word in ["--merge", "--precision dense"] {
        assert!(refused.contains(word), "{word} is not in {refused}");
    }
    assert!(!dir.join("v.mp4").exists());
    let dense = [
        "t2v",
        "a ring",
        "--device",
        "cpu",
        "-o",
        "v.mp4",
        "--precision",
        "dense",
    ];
    let merged = ["--lora", text(&style), "--merge"];
    succeed(dir, &[&dense[..], &merged[..], &SHORT[..]].concat());
}

#[test]
fn adapters_are_merged_into_packed_weights_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let style = bundled("cfg_step_lora");
    succeed(dir, &["quantize", "--to", "fp8", "-o", "fp8"]);
    let merge = ["lora", "merge", text(&style), "--model", "fp8"];
    let told = ["--requantize", "-o", "merged", "--json"];
    let told = succeed(dir, &[&merge[..], &told[..]].concat());
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let off = &told["requantized"];
    assert!(off["matrices"].as_u64().unwrap() > 0, "{told}");
    let error = off["error"].as_f64().unwrap();
    assert!((0.005..0.1).contains(&error), "{told}");
    let run = |name: &str, extra: &[&str]| make(dir, name, extra);
    let adapter = ["--model", "fp8", "--lora", text(&style)];
    run("files.safetensors", &["--model", "merged"]);
    run("beside.safetensors", &adapter);
    let merged = ["--merge", "--requantize"];
    run("device.safetensors", &[&adapter[..], &merged[..]].concat());
    // Sums in f64 and in f32 are packed to the same bits but for a few.
    let off = difference(dir, "files.safetensors", "device.safetensors");
    let beside = difference(dir, "beside.safetensors", "device.safetensors");
    assert!(off < beside && beside < 0.2, "{off}, {beside}");
    let refused = fail(dir, 2, &["t2v", "a ring", "--requantize", "-o", "v.mp4"]);
    assert!(refused.contains("--merge"), "{refused}");
}

#[test]
fn attention_in_fp8_is_refused_where_there_is_no_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let run = |extra: &[&'static str]| {
        let run = ["t2v", "a ring", "--device", "cpu", "-o", "v.mp4"];
        [&run[..], &SHORT[..], extra].concat()
    };
    let refused = fail(dir, 2, &run(&["--attention", "fp8"]));
    assert!(refused.contains("--dtype bf16"), "{refused}");
    let half = ["--attention", "fp8", "--dtype", "bf16"];
    let refused = fail(dir, 2, &run(&half));
    assert!(refused.contains("heads of 128 channels"), "{refused}");
    assert!(!dir.join("v.mp4").exists());
}
