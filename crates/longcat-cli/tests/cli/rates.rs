//! Given videos of other frame rates and lengths than the model's, and pictures of every kind.

use std::path::Path;

use image::RgbImage;
use longcat_video::media::{VideoFrames, VideoSize, WriteOptions, write_video};

use crate::{fail, succeed, video};

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
        let base = ["refine", "film.mp4", "ring", "--steps", "10", "-o", output];
        succeed(dir, &[&base[..], extra].concat());
        let made = video(&dir.join(output));
        assert_eq!((made.len(), made.fps().round()), (10, 30.0), "{output}");
    }
    // Known only when the video is open: it is told before the model works, and nothing is left.
    clip(&dir.join("fast.mp4"), 60.0, 10);
    let args = "refine fast.mp4 ring -o fast.gif --spatial-only --save-latents l.safetensors";
    let message = fail(dir, 1, &args.split(' ').collect::<Vec<_>>());
    assert!(message.contains("60 frames per second"), "{message}");
    assert!(!dir.join("fast.gif").exists() && !dir.join("l.safetensors").exists());
}

#[test]
fn a_clip_shorter_than_the_condition_frames_is_continued_from_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // The built-in model takes five by default, and one or five of what is shorter than nine.
    for (name, count) in [("one.mp4", 1), ("four.mp4", 4)] {
        clip(&dir.join(name), 15.0, count);
        let args = format!("continue {name} ring -o c.mp4 -y --frames 9 --steps 1 --guidance 1");
        let args: Vec<&str> = args.split(' ').collect();
        let json = succeed(dir, &[&args[..], &["--json"]].concat());
        let result: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(result["frames"], 9, "{name}");
        let made = video(&dir.join("c.mp4"));
        assert_eq!((made.len(), made.size()), (9, VideoSize::new(64, 64)));
        let message = fail(dir, 2, &[&args[..], &["--cond-frames", "5"]].concat());
        let told = format!("5 are asked for and the video has {count}");
        assert!(message.contains(&told), "{message}");
    }
}

#[test]
fn a_webp_picture_is_a_picture_and_of_an_animation_the_first_frame_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let grey = |level: u8| RgbImage::from_pixel(64, 64, image::Rgb([level; 3]));
    grey(80).save(dir.join("still.webp")).unwrap();
    grey(80).save(dir.join("still.png")).unwrap();
    clip(&dir.join("moving.webp"), 15.0, 3);
    clip(&dir.join("first/"), 15.0, 1);
    let run = |args: &str, output: &str| {
        let base = format!("{args} -o {output}/ --no-metadata");
        succeed(dir, &base.split(' ').collect::<Vec<_>>());
        video(&dir.join(output))
    };
    let made = |image: &str, output: &str| {
        let steps = "--frames 5 --steps 1 --guidance 1";
        run(&format!("i2v {image} ring {steps}"), output)
    };
    assert_eq!(made("still.webp", "a"), made("still.png", "b"));
    let first = "first/frame_00000.png";
    assert_eq!(made("moving.webp", "c"), made(first, "d"));
    let refined = |condition: &str, output: &str| {
        let condition = format!("--condition {condition} --cond-frames 1");
        run(&format!("refine a ring --steps 10 {condition}"), output)
    };
    assert_eq!(refined("still.webp", "e"), refined("still.png", "f"));
}
