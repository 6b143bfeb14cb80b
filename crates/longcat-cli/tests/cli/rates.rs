//! Given videos of other frame rates than the model's.

use std::path::Path;

use longcat_video::media::{VideoFrames, VideoSize, WriteOptions, write_video};

use crate::{succeed, video};

/// A video whose frames are grey, each 7 levels brighter than the one before.
fn clip(path: &Path, fps: f64, count: u8) {
    let size = VideoSize::new(64, 64);
    let frame = |i: u8| vec![7 * i; 3 * 64 * 64];
    let frames = VideoFrames::new(size, fps, (0..count).flat_map(frame).collect()).unwrap();
    write_video(path, &frames, &WriteOptions::default()).unwrap();
}

#[test]
fn a_fast_video_is_continued_at_its_speed_and_may_stand_in_front() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    clip(&dir.join("fast.mp4"), 60.0, 33);
    let args = "continue fast.mp4 ring -o c.mp4 --cond-frames 5 --frames 9 --steps 1 --guidance 1";
    let args: Vec<&str> = args.split(' ').collect();
    let json = succeed(dir, &[&args[..], &["--with-source", "--json"]].concat());
    let result: serde_json::Value = serde_json::from_str(&json).unwrap();
    let made = video(&dir.join("c.mp4"));
    // Every fourth frame up to the last, then four new ones.
    assert_eq!((made.len(), made.fps().round()), (9 + 4, 15.0));
    assert_eq!(result["settings"]["frames"], 13);
    let greys = made.frames().take(9).map(|frame| frame[0]);
    for (i, grey) in greys.enumerate() {
        assert!(grey.abs_diff(28 * i as u8) <= 4, "{i}: {grey}");
    }
    // Files tell what they are and were made with.
    let inspect = |name: &str| -> serde_json::Value {
        serde_json::from_str(&succeed(dir, &["inspect", name, "--json"])).unwrap()
    };
    let found = inspect("c.mp4");
    assert_eq!(found["kind"], "video");
    assert_eq!((&found["width"], &found["fps"]), (&64.into(), &15.0.into()));
    assert_eq!(found["metadata"]["prompts"][0], "ring");
    let latents = ["-y", "--no-metadata", "--save-latents", "l.safetensors"];
    succeed(dir, &[&args[..], &latents].concat());
    assert_eq!(video(&dir.join("c.mp4")).len(), 9);
    assert!(inspect("c.mp4")["metadata"].is_null());
    let found = inspect("l.safetensors");
    assert_eq!(found["kind"], "latents");
    assert_eq!(found["shape"][0], 1);
    assert!(succeed(dir, &["inspect", "c.mp4"]).contains("metadata: none"));
}

#[test]
fn refining_keeps_the_length_of_a_video_of_any_rate() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    clip(&dir.join("film.mp4"), 30.0, 10);
    for (output, extra) in [("a.mp4", &[][..]), ("b.mp4", &["--spatial-only"])] {
        let base = ["refine", "film.mp4", "ring", "-o", output];
        succeed(dir, &[&base[..], extra].concat());
        let made = video(&dir.join(output));
        assert_eq!((made.len(), made.fps().round()), (10, 30.0), "{output}");
    }
}
