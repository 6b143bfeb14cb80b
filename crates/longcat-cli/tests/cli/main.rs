//! The command as a newcomer meets it: the built-in model on the CPU.
#![allow(clippy::unwrap_used)]

mod adapters;
mod batch;
#[cfg(unix)]
mod device_loss;
#[cfg(unix)]
mod hub;
mod long;
mod lora;
mod memory;
mod outputs;
mod packed;
mod pipes;
mod previews;
mod ranks;
mod rates;
mod requests;
mod scopes;
mod serve;
#[cfg(target_os = "linux")]
mod stopping;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use longcat_video::media::{ReadOptions, VideoFrames, VideoSize, read_video};

fn longcat(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longcat"));
    command.current_dir(dir).args(args);
    command
}

fn succeed(dir: &Path, args: &[&str]) -> String {
    let output = longcat(dir, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// The error message of a command that must fail with this exit code.
fn fail(dir: &Path, code: i32, args: &[&str]) -> String {
    let output = longcat(dir, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    stderr
}

fn video(path: &Path) -> VideoFrames {
    read_video(path, &ReadOptions::default()).unwrap()
}

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(path)
}

#[test]
fn a_prompt_becomes_a_video_and_the_seed_decides_which() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let prompt = "a red circle moves right";
    let json = succeed(
        dir.path(),
        &[
            "t2v",
            prompt,
            "-o",
            "a.mp4",
            "--distill",
            "--json",
            "--save-latents",
            "a.safetensors",
        ],
    );
    let result: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&result["frames"], &result["width"]),
        (&17.into(), &64.into())
    );
    let made = video(&at("a.mp4"));
    assert_eq!((made.len(), made.size()), (17, VideoSize::new(64, 64)));
    assert!(at("a.safetensors").is_file());

    succeed(dir.path(), &["t2v", prompt, "-o", "b.mp4", "--distill"]);
    succeed(
        dir.path(),
        &["t2v", prompt, "-o", "c.mp4", "--distill", "--seed", "1"],
    );
    let bytes = |name: &str| fs::read(at(name)).unwrap();
    assert_eq!(bytes("a.mp4"), bytes("b.mp4"));
    assert_ne!(bytes("a.mp4"), bytes("c.mp4"));
}

#[test]
fn both_stages_run_from_one_command_and_double_size_and_rate() {
    let dir = tempfile::tempdir().unwrap();
    succeed(
        dir.path(),
        &[
            "t2v",
            "a green star",
            "-o",
            "a.mp4",
            "--distill",
            "--refine",
            "--frames",
            "5",
        ],
    );
    let made = video(&dir.path().join("a.mp4"));
    assert_eq!((made.len(), made.size()), (10, VideoSize::new(128, 128)));
    assert!((made.fps() - 30.0).abs() < 0.01, "{}", made.fps());
}

#[test]
fn images_and_videos_are_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let steps = ["--steps", "2", "--guidance", "1"];
    let run = |args: &[&str]| succeed(dir.path(), &[args, &steps].concat());
    run(&["t2v", "a ring", "-o", "frames/", "--frames", "9"]);
    let first = "frames/frame_00000.png";
    run(&[
        "i2v",
        first,
        "the ring grows",
        "-o",
        "i.mp4",
        "--frames",
        "9",
    ]);
    run(&[
        "continue",
        "frames",
        "the ring grows",
        "-o",
        "c.gif",
        "--frames",
        "9",
    ]);
    let refine = "refine c.gif ring --steps 10 -o r.mp4";
    succeed(dir.path(), &refine.split(' ').collect::<Vec<_>>());
    let args = "continue frames ring -o d.gif --cond-frames 4";
    let args: Vec<&str> = args.split(' ').collect();
    let message = fail(dir.path(), 2, &args);
    assert!(message.contains("condition frames: 4 "), "{message}");
    assert_eq!(video(&dir.path().join("i.mp4")).len(), 9);
    assert_eq!(video(&dir.path().join("c.gif")).len(), 9);
    assert_eq!(video(&dir.path().join("r.mp4")).len(), 18);
}

#[test]
fn a_long_video_goes_on_after_a_kill_and_is_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let args = |output: &'static str, work: &'static str| {
        vec![
            "long",
            "a ring",
            "--segments",
            "4",
            "--frames",
            "9",
            "--steps",
            "8",
            "--guidance",
            "1",
            "-o",
            output,
            "--work-dir",
            work,
        ]
    };
    succeed(dir.path(), &args("whole.mp4", "whole"));

    let mut child = command(dir.path(), &args("resumed.mp4", "resumed"))
        .spawn()
        .unwrap();
    let second = dir.path().join("resumed/segment-0001.safetensors");
    let started = Instant::now();
    while !second.exists() && started.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(second.exists());
    let kept = fs::metadata(&second).unwrap().modified().unwrap();
    let left = dir
        .path()
        .join("resumed/.segment-0002.safetensors.1.0.partial");
    fs::write(&left, b"half").unwrap();

    succeed(dir.path(), &args("resumed.mp4", "resumed"));
    assert!(!left.exists(), "what a killed run was writing stays");
    assert_eq!(fs::metadata(&second).unwrap().modified().unwrap(), kept);
    let bytes = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(bytes("whole.mp4"), bytes("resumed.mp4"));
    // Each later segment repeats five frames of the one before.
    assert_eq!(video(&dir.path().join("whole.mp4")).len(), 9 + 3 * 4);
}

#[test]
fn bad_requests_are_refused_by_name_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("there.mp4"), b"mine").unwrap();
    let base = |extra: &[&'static str]| [&["t2v", "a ring"], extra].concat();
    let cases: &[(i32, Vec<&str>, &str)] = &[
        (1, base(&["-o", "a.xyz"]), "a.xyz"),
        (1, base(&["-o", "there.mp4"]), "there.mp4"),
        (1, base(&["-o", "no/such/a.mp4"]), "no/such"),
        (2, base(&["-o", "a.mp4", "--size", "60x64"]), "60x64"),
        (2, base(&["-o", "a.mp4", "--size", "64"]), "WIDTHxHEIGHT"),
        (2, base(&["-o", "a.mp4", "--frames", "16"]), "17"),
        (2, base(&["-o", "a.mp4", "--steps", "0"]), "steps"),
        (2, base(&["-o", "a.mp4", "--device", "tpu"]), "tpu"),
        (2, base(&["-o", "a.mp4", "--seed", "-1"]), "from 0 on"),
        (2, base(&["-o", "a.mp4", "--guidance", "-1"]), "below 0"),
        (2, base(&["-o", "a.mp4", "--memory", "16"]), "12GiB"),
        (
            1,
            base(&["-o", "a.mp4", "--model", "there.mp4"]),
            "--dit takes",
        ),
        (
            1,
            vec!["i2v", "a ring", "there.mp4", "-o", "a.mp4"],
            "the file comes first",
        ),
        (1, base(&["-o", "a.mp4", "--model", "nowhere"]), "nowhere"),
        (
            1,
            base(&["-o", "a.mp4", "--lora", "gone.safetensors"]),
            "gone.safetensors",
        ),
        (
            1,
            vec!["i2v", "gone.png", "a ring", "-o", "a.mp4"],
            "gone.png",
        ),
        (
            1,
            vec!["continue", "gone.mp4", "a ring", "-o", "a.mp4"],
            "gone.mp4",
        ),
    ];
    for (code, args, word) in cases {
        let message = fail(dir.path(), *code, args);
        assert!(message.contains(word), "{args:?}: {message}");
        let parts: Vec<&str> = message.trim_end().split(": ").collect();
        let twice = parts
            .iter()
            .enumerate()
            .any(|(i, part)| parts[..i].contains(part));
        assert!(!twice, "a cause is named twice: {message}");
    }
    assert_eq!(fs::read(dir.path().join("there.mp4")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_lora_that_does_not_fit_stops_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let bad = golden("cases/lora_invalid/unknown_module.safetensors");
    let bad = bad.to_str().unwrap();
    let model = golden("checkpoints/tiny");
    let model = model.to_str().unwrap();
    let args = [
        "t2v", "a ring", "-o", "a.mp4", "--model", model, "--lora", bad,
    ];
    let message = fail(dir.path(), 1, &args);
    for word in ["blocks.7.attn.proj", "unknown_module.safetensors"] {
        assert!(message.contains(word), "{message}");
    }
    assert!(!dir.path().join("a.mp4").exists());
}

#[test]
fn an_adapter_too_strong_for_any_picture_is_no_black_video() {
    let dir = tempfile::tempdir().unwrap();
    let model = golden("checkpoints/tiny");
    let adapter = model.join("lora/cfg_step_lora.safetensors");
    let adapter = format!("{}=1e38", adapter.display());
    let model = model.to_str().unwrap();
    let args = "t2v ring -o a.mp4 --save-latents a.safetensors --size 64x64 --frames 5";
    let mut args: Vec<&str> = args.split(' ').collect();
    args.extend(["--model", model, "--lora", &adapter]);
    let message = fail(dir.path(), 1, &args);
    for word in ["step 1 of 50", "not finite", "strength"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn latents_are_decoded_to_the_video_that_the_run_would_have_written() {
    let dir = tempfile::tempdir().unwrap();
    let steps = ["--steps", "2", "--guidance", "1", "--frames", "5"];
    let run = |output: &str| {
        succeed(
            dir.path(),
            &[&["t2v", "a ring", "-o", output], &steps[..]].concat(),
        )
    };
    run("whole.mp4");
    run("latents.safetensors");
    succeed(
        dir.path(),
        &["decode", "latents.safetensors", "-o", "decoded.mp4"],
    );
    let bytes = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(bytes("whole.mp4"), bytes("decoded.mp4"));

    // Two channels, where the VAE has sixteen.
    let header = r#"{"latents":{"dtype":"F32","shape":[1,2,1,1,1],"data_offsets":[0,8]}} "#;
    let mut other = (header.len() as u64).to_le_bytes().to_vec();
    other.extend_from_slice(header.as_bytes());
    other.extend_from_slice(&[0; 8]);
    fs::write(dir.path().join("other.safetensors"), other).unwrap();
    let message = fail(
        dir.path(),
        2,
        &["decode", "other.safetensors", "-o", "a.mp4"],
    );
    assert!(message.contains("[1, 2, 1, 1, 1]"), "{message}");
    let adapter = golden("checkpoints/tiny/lora/cfg_step_lora.safetensors");
    let adapter = adapter.to_str().unwrap();
    let message = fail(dir.path(), 1, &["decode", adapter, "-o", "a.mp4"]);
    assert!(message.contains("cfg_step_lora"), "{message}");
    assert!(!dir.path().join("a.mp4").exists());
}

#[test]
fn a_device_that_the_command_chose_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let args = "t2v ring -o a.mp4 --steps 1 --guidance 1 --frames 1";
    let args: Vec<&str> = args.split(' ').collect();
    let said = |args: &[&str]| String::from_utf8(longcat(dir.path(), args).stderr).unwrap();
    assert!(said(&args).contains("running on "));
    let asked = [&args[..], &["--device", "cpu", "-y"]].concat();
    assert!(!said(&asked).contains("running on "));
}

#[test]
fn devices_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let json = succeed(dir.path(), &["devices", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    let cpu = list
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["device"] == "cpu");
    assert!(
        cpu.unwrap()["dtypes"]
            .as_array()
            .unwrap()
            .contains(&"f32".into())
    );
}

#[test]
fn a_device_that_fails_leaves_no_video_and_keeps_finished_latents() {
    let dir = tempfile::tempdir().unwrap();
    let run = |output: &str, stage: &str| {
        let args = "t2v ring --steps 2 --guidance 1 --frames 5 --device cpu -o";
        let args: Vec<&str> = args.split(' ').chain([output]).collect();
        let mut command = command(dir.path(), &args);
        let output = command.env("LONGCAT_FAIL_AT", stage).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), stderr)
    };
    let files = || fs::read_dir(dir.path()).unwrap().count();
    for stage in [
        "loading the text encoder",
        "encoding the prompt",
        "loading the transformer",
        "denoising, step 1 of 2",
        "reading results back",
    ] {
        let (code, message) = run("a.mp4", stage);
        assert_eq!((code, files()), (Some(1), 0), "{stage}: {message}");
        assert!(message.contains(stage), "{message}");
    }
    assert_eq!(run("whole.mp4", "").0, Some(0));
    let (code, message) = run("a.mp4", "decoding");
    assert_eq!((code, files()), (Some(1), 2), "{message}");
    for word in [
        "decoding",
        "longcat decode a.latents.safetensors",
        "--memory",
    ] {
        assert!(message.contains(word), "{message}");
    }
    succeed(
        dir.path(),
        &["decode", "a.latents.safetensors", "-o", "a.mp4"],
    );
    let bytes = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(bytes("a.mp4"), bytes("whole.mp4"));
}

#[test]
fn single_files_make_the_same_video_as_the_directory_they_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = golden("checkpoints/tiny").display().to_string();
    let made = |places: &[&str], name: &str| {
        let mut args = vec![
            "t2v", "a cat", "--size", "32x32", "--frames", "5", "--steps", "1",
        ];
        args.extend(["--device", "cpu", "--no-metadata", "-o", name]);
        args.extend(places);
        succeed(dir.path(), &args);
        fs::read(dir.path().join(name)).unwrap()
    };
    let comfyui = [
        "convert",
        "--model",
        &tiny,
        "--to",
        "comfyui",
        "-o",
        "dit.safetensors",
    ];
    succeed(dir.path(), &comfyui);
    let part = |name: &str| format!("{tiny}/{name}");
    let (text, vae) = (
        part("text_encoder"),
        part("vae/diffusion_pytorch_model.safetensors"),
    );
    let tokenizer = part("tokenizer/tokenizer.json");
    let files = [
        "--dit",
        "dit.safetensors",
        "--text-encoder",
        &text,
        "--vae",
        &vae,
    ];
    let files = [&files[..], &["--tokenizer", &tokenizer]].concat();
    let directory = made(&["--model", &tiny], "directory.safetensors");
    assert!(made(&files, "files.safetensors") == directory);

    let json = succeed(dir.path(), &["inspect", "dit.safetensors", "--json"]);
    let reports: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(
        reports[0]["holds"].as_str().unwrap().contains("Kijai"),
        "{json}"
    );
    let text = succeed(dir.path(), &["inspect", &tiny]);
    for what in ["transformer", "UMT5", "VAE", "blocks.{i}.attn.qkv.weight"] {
        assert!(text.contains(what), "{what} not in {text}");
    }
    let lora = part("lora/cfg_step_lora.safetensors");
    assert!(fail(dir.path(), 1, &["inspect", &lora]).contains("cannot be loaded"));

    let swapped = ["--model", &tiny, "--vae", "dit.safetensors", "-o", "no.mp4"];
    let message = fail(dir.path(), 2, &[&["t2v", "a cat"], &swapped[..]].concat());
    assert!(
        message.contains("--vae") && message.contains("--dit"),
        "{message}"
    );
}
