//! Refined long videos.

use longcat_video::media::VideoSize;

use crate::{succeed, video};

#[test]
fn a_long_video_is_refined_segment_by_segment() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let rest = "--refine --frames 5 --steps 2 --guidance 1 --cond-frames 1".split(' ');
    let rest: Vec<&str> = rest.collect();
    let long = ["long", "a ring", "--segments", "2", "-o", "long/", "--json"];
    let json = succeed(dir, &[&long[..], &rest].concat());
    let made = video(&dir.join("long"));
    // Each later segment repeats one frame, which refining makes two.
    assert_eq!((made.len(), made.size()), (18, VideoSize::new(128, 128)));
    let result: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(result["settings"]["frames"], 18);
    assert_eq!(result["settings"]["fps"], 30.0);
    assert!(!dir.join("long.segments").exists());

    // The first segment is the refined video of its prompt and seed.
    let one = ["t2v", "a ring", "-o", "one/"];
    succeed(dir, &[&one[..], &rest[..7]].concat());
    let one = video(&dir.join("one"));
    assert_eq!(one.len(), 10);
    assert!(one.frames().zip(made.frames()).all(|(a, b)| a == b));
}
