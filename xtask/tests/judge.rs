//! The built-in model does what prompts say, as far as image analysis sees it: a part of what
//! `cargo xtask judge` measures in full (examples/train/miniature).
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn judge(task: &str, more: &[&str]) -> Value {
    let model =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/longcat-video/assets/builtin");
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["judge", task, "--json", "--model"])
        .arg(model)
        .args(more)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Shares of videos.
fn assert_shares(report: &Value, least: f64) {
    for what in ["colour", "background", "motion"] {
        assert!(number(report, what) >= least, "{what}: {report}");
    }
}

fn number(report: &Value, path: &str) -> f64 {
    let parts = path.split('.');
    let value = parts.fold(report, |value, part| &value[part]);
    value.as_f64().unwrap_or(f64::NAN)
}

#[test]
fn videos_show_what_their_prompts_say() {
    let report = judge("text", &["--count", "18"]);
    assert_shares(&report, 0.85);
    assert!(number(&report, "shape") >= 0.4, "{report}");
}

#[test]
fn the_distilled_adapter_needs_no_guidance() {
    let report = judge("text", &["--count", "18", "--distill"]);
    assert_shares(&report, 0.85);
    assert!(number(&report, "shape") >= 0.4, "{report}");
}

#[test]
fn the_vae_loses_little() {
    let report = judge("vae", &["--count", "18"]);
    assert!(number(&report, "psnr.mean") >= 30.0, "{report}");
    assert_shares(&report, 0.95);
    assert!(number(&report, "shape") >= 0.9, "{report}");
}

#[test]
fn a_video_begins_with_its_image() {
    let report = judge("image", &["--count", "10"]);
    assert!(
        number(&report, "first_frame_psnr.least") >= 28.0,
        "{report}"
    );
    assert_shares(&report, 0.8);
}

#[test]
fn a_continued_video_does_not_jump() {
    let report = judge("continue", &["--count", "6"]);
    assert!(number(&report, "jump_below_2_pixels") >= 1.0, "{report}");
    assert_shares(&report, 0.8);
}

#[test]
fn refining_needs_its_adapter() {
    let report = judge("refine", &["--count", "2"]);
    let refined = number(&report, "refined.mean");
    assert!(
        refined > number(&report, "without_lora.mean") + 5.0,
        "{report}"
    );
    assert!(refined > number(&report, "bilinear.mean") - 1.0, "{report}");
}
