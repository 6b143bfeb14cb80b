//! The example of docs/training.md: an adapter of the built-in model learns one clip, here in fewer steps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use longcat_miniature::{RenderedClip, psnr};
use longcat_train::{Metric, read_metrics};
use longcat_video::media::{ReadOptions, read_image, read_video};

fn examples(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../train")
        .join(path)
}

fn sample(output: &Path, step: &str) -> RenderedClip {
    let path = output.join("samples").join(step).join("00.gif");
    let video = read_video(&path, &ReadOptions::default()).unwrap();
    let size = video.size();
    RenderedClip::new(size.width, size.height, video.data().to_vec()).unwrap()
}

#[test]
fn one_clip_is_learnt() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("run");
    let text = fs::read_to_string(examples("overfit.toml")).unwrap();
    let text = text
        .replace("../../target/train/overfit", output.to_str().unwrap())
        .replace("\"overfit\"", &format!("{:?}", examples("overfit")))
        .replace("\nsteps = 400\n", "\nsteps = 120\n")
        .replace("\nevery = 400\n", "\nevery = 120\n");
    let config = dir.path().join("overfit.toml");
    fs::write(&config, text).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_miniature"))
        .args(["train", "--config"])
        .arg(&config)
        .status()
        .unwrap();
    assert!(status.success());

    let losses: Vec<f64> = read_metrics(&output.join("metrics.jsonl"))
        .unwrap()
        .iter()
        .filter_map(|line| match line {
            Metric::Validation {
                validation_loss, ..
            } => Some(*validation_loss),
            _ => None,
        })
        .collect();
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < first / 5.0, "{first} {last}");

    let frames = (0..9).flat_map(|i| {
        let path = examples("overfit/ball").join(format!("{i:04}.png"));
        read_image(&path).unwrap().into_raw()
    });
    let truth = RenderedClip::new(64, 64, frames.collect()).unwrap();
    let without = psnr(&truth, &sample(&output, "step-000000")).unwrap();
    let with = psnr(&truth, &sample(&output, "step-000120")).unwrap();
    assert!(with > without + 3.0, "{with} {without}");
}
