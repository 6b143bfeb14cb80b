//! Adapters on every command: applied in each stage, or refused before any work.

use std::fs;
use std::path::{Path, PathBuf};

use longcat_video::Latents;

use crate::{fail, succeed, video};

/// An adapter of the built-in model.
pub fn bundled(name: &str) -> PathBuf {
    let root = longcat_builtin::builtin_checkpoint().unwrap();
    root.join("lora").join(format!("{name}.safetensors"))
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub const SHORT: [&str; 6] = ["--frames", "5", "--steps", "1", "--guidance", "1"];

/// Largest difference of two files of latents.
pub fn difference(dir: &Path, a: &str, b: &str) -> f32 {
    let read = |name: &str| Latents::read(&dir.join(name)).unwrap();
    let (a, b) = (read(a), read(b));
    let pairs = a.values().iter().zip(b.values());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn refining_takes_adapters_and_merges_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    succeed(dir, &[&["t2v", "a ring", "-o", "v/"], &SHORT[..]].concat());
    let style = bundled("cfg_step_lora");
    let (strong, none) = (format!("{}=8", text(&style)), format!("{}=0", text(&style)));
    let refine = |name: &str, extra: &[&str]| {
        let latents = format!("{name}.safetensors");
        let output = format!("{name}/");
        let base = [
            "refine",
            "v",
            "a ring",
            "--steps",
            "10",
            "--save-latents",
            &latents,
            "-o",
            &output,
        ];
        succeed(dir, &[&base[..], extra].concat());
    };
    refine("plain", &[]);
    refine("none", &["--lora", &none]);
    refine("strong", &["--lora", &strong]);
    refine("merged", &["--lora", &strong, "--merge"]);
    let differs = |a: &str, b: &str| {
        difference(
            dir,
            &format!("{a}.safetensors"),
            &format!("{b}.safetensors"),
        )
    };
    assert_eq!(differs("plain", "none"), 0.0);
    assert!(differs("plain", "strong") > 0.1);
    // Products of rounded weights: close, not equal.
    assert!(differs("strong", "merged") < 1e-2);

    // The latents know of the padding that refining adds.
    succeed(dir, &["decode", "plain.safetensors", "-o", "again/"]);
    let (first, again) = (video(&dir.join("plain")), video(&dir.join("again")));
    assert_eq!(first.data(), again.data());
}

#[test]
fn both_stages_merge_their_adapters() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = [
        "t2v",
        "a green star",
        "--distill",
        "--refine",
        "--frames",
        "5",
        "--steps",
        "2",
    ];
    succeed(dir, &[&base[..], &["-o", "beside/"]].concat());
    succeed(dir, &[&base[..], &["-o", "merged/", "--merge"]].concat());
    let (beside, merged) = (video(&dir.join("beside")), video(&dir.join("merged")));
    assert_eq!((beside.len(), beside.size()), (merged.len(), merged.size()));
    let pairs = beside.data().iter().zip(merged.data());
    let most = pairs.map(|(a, b)| a.abs_diff(*b)).max();
    assert!(most.is_some_and(|most| most <= 3), "{most:?}");
}

#[test]
fn one_adapter_under_two_names_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::copy(bundled("cfg_step_lora"), dir.join("style.safetensors")).unwrap();
    fs::copy(bundled("refinement_lora"), dir.join("sharp.safetensors")).unwrap();
    let convert = [
        "lora",
        "convert",
        "style.safetensors",
        "--to",
        "peft",
        "-o",
        "peft",
    ];
    succeed(dir, &convert);
    let t2v = ["t2v", "a ring", "-o", "a.mp4"];
    let cases: [(Vec<&str>, [&str; 2]); 4] = [
        (
            [&t2v[..], &["--distill", "--lora", "style.safetensors"]].concat(),
            ["style.safetensors", "cfg_step_lora"],
        ),
        (
            [&t2v[..], &["--distill", "--lora", "peft=0.5"]].concat(),
            ["peft", "cfg_step_lora"],
        ),
        (
            [&t2v[..], &["--lora", "peft", "--lora", "style.safetensors"]].concat(),
            ["peft", "style.safetensors"],
        ),
        (
            [&t2v[..], &["--refine", "--lora", "sharp.safetensors"]].concat(),
            ["sharp.safetensors", "refinement_lora"],
        ),
    ];
    for (args, words) in cases {
        let message = fail(dir, 2, &args);
        for word in words.iter().chain(&["twice"]) {
            assert!(message.contains(word), "{args:?}: {message}");
        }
    }
    assert!(!dir.join("a.mp4").exists());
}

#[test]
fn other_adapters_take_the_place_of_the_bundled_ones() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::copy(bundled("cfg_step_lora"), dir.join("d.safetensors")).unwrap();
    let make = |output: &str, extra: &[&str]| {
        let base = [
            "t2v", "a ring", "-o", output, "--frames", "5", "--steps", "2",
        ];
        succeed(dir, &[&base[..], extra].concat());
    };
    make("own.safetensors", &["--distill"]);
    make("named.safetensors", &["--distill=d.safetensors"]);
    make("half.safetensors", &["--distill=d.safetensors=0.5"]);
    assert_eq!(difference(dir, "own.safetensors", "named.safetensors"), 0.0);
    assert!(difference(dir, "own.safetensors", "half.safetensors") > 1e-3);

    let base = ["t2v", "a ring", "-o", "a.mp4"];
    for (extra, word) in [
        (&["--refine-lora", "d.safetensors"][..], "--refine"),
        (
            &["--refine", "--refine-lora", "gone.safetensors"],
            "gone.safetensors",
        ),
        (&["--distill=gone.safetensors"], "gone.safetensors"),
    ] {
        let message = fail(dir, 1, &[&base[..], extra].concat());
        assert!(message.contains(word), "{message}");
    }
}
