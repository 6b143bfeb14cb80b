//! The built-in model does what prompts say, as far as image analysis sees it: a part of what
//! `miniature judge` measures in full (README.md).
//!
//! That takes minutes and depends on the weights alone, as long as what is computed with them stays the
//! same. So the videos of a few cases are stored beside the fingerprint of the weights that were judged
//! (`tests/data`), and compared. All cases are judged when the weights are others, with
//! `LONGCAT_JUDGE=full`, and with `LONGCAT_JUDGE=store`, which then stores the videos anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use longcat_miniature::{RenderedClip, psnr};
use longcat_video::media::{ReadOptions, VideoFrames, WriteOptions, read_video, write_video};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Of stored videos, every this many frames is there.
const KEPT: usize = 4;
/// How near a video must come to the stored one, in dB: no difference that an eye could see.
const NEAR: f64 = 35.0;

/// What stored videos are made by: a name, and the arguments of `judge`.
const STORED: [(&str, &[&str]); 4] = [
    ("text", &["text", "--count", "4", "--distill"]),
    ("image", &["image", "--count", "1"]),
    ("continue", &["continue", "--count", "1", "--distill"]),
    ("refine", &["refine", "--count", "1"]),
];

/// What is judged in full.
const CASES: [fn(); 8] = [
    videos_show_what_their_prompts_say,
    few_steps_without_guidance_need_the_adapter,
    few_steps_come_near_the_teacher_with_the_adapter,
    combinations_that_were_not_trained_are_made_too,
    the_vae_loses_little,
    a_video_begins_with_its_image,
    a_continued_video_does_not_jump,
    refining_needs_its_adapter,
];

#[test]
fn the_built_in_model_is_what_was_judged() {
    let mode = std::env::var("LONGCAT_JUDGE").unwrap_or_default();
    let record = data().join("fingerprint.txt");
    let judged = fs::read_to_string(&record).unwrap_or_default();
    let (changed, now) = (judged.trim() != fingerprint(), fingerprint());
    if changed || mode == "full" || mode == "store" {
        for case in CASES {
            case();
        }
    }
    if mode == "store" {
        store();
        fs::write(&record, format!("{now}\n")).unwrap();
    } else if changed {
        println!("judged anew; LONGCAT_JUDGE=store stores videos of these weights");
    } else {
        compare();
    }
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/longcat-builtin/assets")
}

/// A hash of all files of the model and their names.
fn fingerprint() -> String {
    fn files(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files(&path, into),
                false => into.push(path),
            }
        }
    }
    let mut found = Vec::new();
    files(&model(), &mut found);
    found.sort();
    let mut hash = Sha256::new();
    for file in found {
        let name = file
            .strip_prefix(model())
            .unwrap()
            .to_string_lossy()
            .into_owned();
        hash.update(name.as_bytes());
        hash.update(Sha256::digest(fs::read(&file).unwrap()));
    }
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the videos of [`STORED`] and hands each with the path of its stored one to `take`.
fn make(mut take: impl FnMut(&Path, &VideoFrames)) {
    for (name, arguments) in STORED {
        let folder = tempfile::tempdir().unwrap();
        let save = ["--save", folder.path().to_str().unwrap()];
        judge(arguments[0], &[&arguments[1..], &save].concat());
        let mut made: Vec<PathBuf> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        made.sort();
        assert!(!made.is_empty(), "{name}");
        for (i, path) in made.iter().enumerate() {
            let video = read_video(path, &ReadOptions::default()).unwrap();
            let frames = video.frames().step_by(KEPT).flatten().copied();
            let kept = VideoFrames::new(video.size(), video.fps(), frames.collect());
            take(&data().join(format!("{name}-{i}.webp")), &kept.unwrap());
        }
    }
}

fn store() {
    fs::create_dir_all(data()).unwrap();
    make(|path, video| write_video(path, video, &WriteOptions::default()).unwrap());
}

fn compare() {
    make(|path, video| {
        let stored = read_video(path, &ReadOptions::default()).unwrap();
        let near = psnr(&clip(&stored), &clip(video)).unwrap();
        assert!(near >= NEAR, "{}: {near:.1} dB", path.display());
    });
}

fn clip(video: &VideoFrames) -> RenderedClip {
    let size = video.size();
    RenderedClip::new(size.width, size.height, video.data().to_vec()).unwrap()
}

fn judge(task: &str, more: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_miniature"))
        .args(["judge", task, "--json", "--model"])
        .arg(model())
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

fn videos_show_what_their_prompts_say() {
    assert_shares(&judge("text", &["--count", "20"]), 0.95);
}

fn few_steps_without_guidance_need_the_adapter() {
    let with = judge("text", &["--count", "50", "--distill"]);
    let without = judge("text", &["--count", "50", "--distill-without-lora"]);
    assert_shares(&with, 0.9);
    let gain = number(&with, "object") - number(&without, "object");
    assert!(gain >= 0.1, "{with} {without}");
}

fn few_steps_come_near_the_teacher_with_the_adapter() {
    let report = judge("teacher", &["--count", "6"]);
    let gain = number(&report, "psnr_with_lora") - number(&report, "psnr_without_lora");
    assert!(gain >= 4.0, "{report}");
}

fn combinations_that_were_not_trained_are_made_too() {
    assert_shares(&judge("text", &["--count", "20", "--held-out"]), 0.85);
}

fn the_vae_loses_little() {
    let report = judge("vae", &["--count", "18"]);
    assert!(number(&report, "psnr.mean") >= 30.0, "{report}");
    assert_shares(&report, 0.95);
}

fn a_video_begins_with_its_image() {
    let report = judge("image", &["--count", "10"]);
    assert!(
        number(&report, "first_frame_psnr.least") >= 28.0,
        "{report}"
    );
    assert_shares(&report, 0.8);
}

fn a_continued_video_does_not_jump() {
    let report = judge("continue", &["--count", "6"]);
    assert!(number(&report, "jump_below_2_pixels") >= 1.0, "{report}");
    assert_shares(&report, 0.8);
}

fn refining_needs_its_adapter() {
    let report = judge("refine", &["--count", "2"]);
    let gain_over =
        |other: &str| number(&report, "refined.mean") - number(&report, &format!("{other}.mean"));
    assert!(gain_over("without_lora") > 5.0, "{report}");
    assert!(gain_over("bilinear") >= 2.0, "{report}");
}
