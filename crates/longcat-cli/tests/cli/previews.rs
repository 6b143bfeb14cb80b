//! `--preview`: what a video is coming to, beside it.

use std::fs;

use longcat_video::media::VideoSize;

use crate::{fail, succeed, video};

const SHORT: [&str; 6] = ["--distill", "--frames", "9", "--steps", "4", "--json"];

#[test]
fn a_moving_preview_lies_beside_the_same_video() {
    let dir = tempfile::tempdir().unwrap();
    let run = |output: &[&str]| {
        let prompt = ["t2v", "a red circle moves right", "-o"];
        succeed(dir.path(), &[&prompt[..], output, &SHORT].concat())
    };
    run(&["plain.mp4"]);
    run(&["seen.mp4", "--preview"]);
    let bytes = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(bytes("plain.mp4"), bytes("seen.mp4"));

    let preview = video(&dir.path().join("seen.preview.webp"));
    assert_eq!(
        (preview.len(), preview.size()),
        (3, VideoSize::new(128, 128))
    );
    // A red circle: red is the colour that leaves grey furthest.
    let redness = |frame: &[u8]| {
        let pixels = frame
            .chunks(3)
            .map(|p| i32::from(p[0]) - i32::from(p[1].max(p[2])));
        pixels.max()
    };
    assert!(preview.frames().all(|frame| redness(frame) > Some(60)));
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["plain.mp4", "seen.mp4", "seen.preview.webp"]);
}

#[test]
fn a_preview_that_exists_is_not_replaced_unasked() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.preview.webp"), b"mine").unwrap();
    let args = ["t2v", "a ring", "-o", "a.mp4", "--preview"];
    let message = fail(dir.path(), 1, &args);
    assert!(message.contains("a.preview.webp"), "{message}");
    let steps = ["--steps", "1", "--guidance", "1", "-y", "--frames", "5"];
    succeed(dir.path(), &[&args[..], &steps].concat());
    assert_eq!(video(&dir.path().join("a.preview.webp")).len(), 2);
}
