//! The built-in model does what prompts say, as far as image analysis sees it: a part of what
//! `miniature judge` measures in full (README.md).

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn judge(task: &str, more: &[&str]) -> Value {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/longcat-builtin/assets");
    let output = Command::new(env!("CARGO_BIN_EXE_miniature"))
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
    for what in ["colour", "background", "motion", "shape"] {
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
    assert_shares(&judge("text", &["--count", "20"]), 0.95);
}

#[test]
fn few_steps_without_guidance_need_the_adapter() {
    let with = judge("text", &["--count", "50", "--distill"]);
    let without = judge("text", &["--count", "50", "--distill-without-lora"]);
    assert_shares(&with, 0.9);
    let gain = number(&with, "object") - number(&without, "object");
    assert!(gain >= 0.1, "{with} {without}");
}

#[test]
fn few_steps_come_near_the_teacher_with_the_adapter() {
    let report = judge("teacher", &["--count", "6"]);
    let gain = number(&report, "psnr_with_lora") - number(&report, "psnr_without_lora");
    assert!(gain >= 4.0, "{report}");
}

#[test]
fn combinations_that_were_never_taught_are_made_too() {
    assert_shares(&judge("text", &["--count", "20", "--held-out"]), 0.85);
}

#[test]
fn the_vae_loses_little() {
    let report = judge("vae", &["--count", "18"]);
    assert!(number(&report, "psnr.mean") >= 30.0, "{report}");
    assert_shares(&report, 0.95);
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
    let gain_over =
        |other: &str| number(&report, "refined.mean") - number(&report, &format!("{other}.mean"));
    assert!(gain_over("without_lora") > 5.0, "{report}");
    assert!(gain_over("bilinear") >= 2.0, "{report}");
}
