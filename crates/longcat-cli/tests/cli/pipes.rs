//! Output whose reader has gone.

use std::path::Path;
use std::process::Stdio;

use crate::{command, golden};

/// Runs a command whose standard output nobody reads; its exit code and error output.
fn unread(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut child = command(dir, args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), stderr)
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let model = golden("checkpoints/tiny");
    let adapter = model.join("lora/cfg_step_lora.safetensors");
    let (model, adapter) = (model.to_str().unwrap(), adapter.to_str().unwrap());
    for args in [
        &["inspect", model][..],
        &["lora", "inspect", adapter],
        &["lora", "inspect", adapter, "--json"],
        &["devices"],
    ] {
        let (code, stderr) = unread(dir.path(), args);
        assert_eq!(code, Some(141), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    }
    // Help is clap's to print.
    let (_, stderr) = unread(dir.path(), &["--help"]);
    assert!(!stderr.contains("panicked"), "{stderr}");
}
