//! Training on several ranks, as processes of this host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{command, golden, succeed};

/// A configuration of so many steps, in a folder of its own.
fn config(dir: &Path, name: &str, steps: usize) -> PathBuf {
    let checkpoint = fs::canonicalize(golden("checkpoints/tiny")).unwrap();
    let clips = golden("../../examples/train/overfit");
    let clips = fs::canonicalize(clips).unwrap();
    let text = format!(
        "output = '{name}'\nmodel.checkpoint = '{}'\ndata.path = '{}'\n\
         data.sizes = ['32x32']\ndata.frames = [5]\ndata.fps = 0.0\ndata.repeats = 4\n\
         cache.path = 'cache'\ncache.text_length = 8\nlora.rank = 2\nlora.alpha = 2.0\n\
         train.steps = {steps}\ntrain.global_batch = 2\ncheckpoints.every = 2\n",
        checkpoint.display(),
        clips.display()
    );
    let path = dir.join(format!("{name}.toml"));
    fs::write(&path, text).unwrap();
    path
}

fn losses(dir: &Path, name: &str) -> Vec<f64> {
    let text = fs::read_to_string(dir.join(name).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["loss"].as_f64().unwrap()
    });
    lines.collect()
}

/// Starts two ranks on the CPU and waits for the first checkpoint.
fn started(dir: &Path, name: &str) -> Child {
    let config = config(dir, name, 100_000);
    let child = command(dir, &["train-lora", "--devices", "cpu,cpu", "--config"])
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(120);
    while !dir.join(name).join("checkpoints/step-000002").is_dir() {
        assert!(Instant::now() < patience, "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[cfg(unix)]
fn send(signal: &str, process: &str) {
    let command = format!("kill -{signal} {process}");
    let status = Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(status.success());
}

#[test]
fn two_processes_train_as_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let config = |name: &str| config(dir.path(), name, 3).to_string_lossy().into_owned();
    let (one, two) = (config("one"), config("two"));
    succeed(
        dir.path(),
        &["train-lora", "--device", "cpu", "--config", &one],
    );
    let words = succeed(
        dir.path(),
        &[
            "train-lora",
            "--devices",
            "cpu,cpu",
            "--json",
            "--config",
            &two,
        ],
    );
    let result: serde_json::Value = serde_json::from_str(&words).unwrap();
    assert_eq!(result["step"], 3);
    let (one, two) = (losses(dir.path(), "one"), losses(dir.path(), "two"));
    assert_eq!((one.len(), two.len()), (3, 3));
    for (one, two) in one.into_iter().zip(two) {
        assert!((one - two).abs() < 1e-5 * one, "{one} {two}");
    }
    assert!(dir.path().join("two/adapter.safetensors").is_file());
    // In a shell that srun started, which is one rank by itself.
    let uneven = command(
        dir.path(),
        &[
            "train-lora",
            "--devices",
            "cpu,cpu,cpu",
            "--config",
            &config("uneven"),
        ],
    )
    .envs([
        ("SLURM_PROCID", "0"),
        ("SLURM_STEP_NUM_TASKS", "1"),
        ("SLURM_LOCALID", "0"),
    ])
    .output()
    .unwrap();
    let words = String::from_utf8_lossy(&uneven.stderr);
    assert_eq!(uneven.status.code(), Some(1), "{words}");
    assert!(words.contains("train.global_batch"), "{words}");
    // And not that the same command goes on: it would fail again.
    let end = "and all others with it";
    assert!(words.trim_end().ends_with(end), "{words}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_ends_all_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let child = started(dir.path(), "run");
    send("INT", &child.id().to_string());
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let steps = losses(dir.path(), "run").len();
    let last = format!("run/checkpoints/step-{steps:06}");
    assert!(dir.path().join(&last).is_dir(), "{last}: {words}");
}

#[cfg(unix)]
#[test]
fn a_rank_that_is_killed_ends_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let child = started(dir.path(), "run");
    // The rank that writes is the one that holds the folder.
    let first = fs::read_to_string(dir.path().join("run/.lock")).unwrap();
    send("KILL", first.trim());
    let killed = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(60));
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    for part in ["rank 0 (", "is gone", "rank 0 on cpu ended with signal: 9"] {
        assert!(words.contains(part), "{part}: {words}");
    }
}
