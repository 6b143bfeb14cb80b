//! Every example runs, with the built-in model, few steps and a temporary folder.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use longcat_video::media::{ReadOptions, read_video};

/// Runs a program in a folder; what it printed.
fn run(program: &str, dir: &Path, args: &[&str]) -> String {
    let output = Command::new(program)
        .current_dir(dir)
        .args(["--device", "cpu", "--steps", "2"])
        .args(args)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Frames and width of a video that an example wrote.
fn video(dir: &Path, name: &str) -> (usize, usize) {
    let video = read_video(&dir.join(name), &ReadOptions::default()).unwrap();
    (video.len(), video.size().width)
}

#[test]
fn a_video_is_made_continued_and_refined() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(env!("CARGO_BIN_EXE_text_to_video"), dir, &[]);
    assert_eq!(video(dir, "circle.mp4"), (17, 64));
    run(env!("CARGO_BIN_EXE_continuation"), dir, &["circle.mp4"]);
    assert_eq!(video(dir, "continued.mp4"), (17, 64));
    run(env!("CARGO_BIN_EXE_refine"), dir, &["circle.mp4"]);
    assert_eq!(video(dir, "refined.mp4"), (34, 128));
}

#[test]
fn a_picture_becomes_a_video() {
    let dir = tempfile::tempdir().unwrap();
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/train/overfit/ball/0000.png");
    run(
        env!("CARGO_BIN_EXE_image_to_video"),
        dir.path(),
        &[image, "--output", "videos"],
    );
    assert_eq!(video(dir.path(), "videos/from_image.mp4"), (17, 64));
}

#[test]
fn a_long_video_has_its_segments() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = ["a ring moves right", "a ring moves left"];
    run(env!("CARGO_BIN_EXE_long_video"), dir.path(), &prompts);
    // The second segment repeats five frames of the first.
    assert_eq!(video(dir.path(), "long.mp4"), (17 + 12, 64));
}

#[test]
fn adapters_are_used_switched_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(env!("CARGO_BIN_EXE_lora_distilled"), dir, &[]);
    assert_eq!(video(dir, "distilled.mp4"), (17, 64));
    run(env!("CARGO_BIN_EXE_lora_switching"), dir, &[]);
    let bytes = |name: &str| std::fs::read(dir.join(name)).unwrap();
    assert_ne!(bytes("plain.mp4"), bytes("one.mp4"));
    assert_ne!(bytes("one.mp4"), bytes("both.mp4"));
    let printed = run(env!("CARGO_BIN_EXE_lora_merging"), dir, &[]);
    let unmerged = printed.lines().find(|line| line.starts_with("unmerged"));
    assert!(unmerged.unwrap().contains("at most 0 of"), "{printed}");
}

#[test]
fn an_adapter_is_trained_and_used() {
    let dir = tempfile::tempdir().unwrap();
    run(env!("CARGO_BIN_EXE_train_lora"), dir.path(), &[]);
    assert_eq!(video(dir.path(), "ball.gif"), (9, 64));
}

#[test]
fn a_backend_of_ones_own_runs_the_models() {
    let program = env!("CARGO_BIN_EXE_custom_backend");
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
