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

/// Shares of videos, out of 18: one wrong video is a share of 0.94, three are 0.83.
fn assert_shares(report: &Value, least: f64) {
    for what in ["colour", "background", "motion"] {
        let share = report[what].as_f64().unwrap();
        assert!(share >= least, "{what}: {report}");
    }
}

#[test]
fn videos_show_what_their_prompts_say() {
    assert_shares(&judge("text", &["--count", "18"]), 0.8);
}

#[test]
fn the_distilled_adapter_needs_no_guidance() {
    assert_shares(&judge("text", &["--count", "18", "--distill"]), 0.8);
}

#[test]
fn the_vae_loses_little() {
    let report = judge("vae", &["--count", "18"]);
    assert!(report["psnr"]["mean"].as_f64().unwrap() >= 29.0, "{report}");
    assert_shares(&report, 0.9);
}
