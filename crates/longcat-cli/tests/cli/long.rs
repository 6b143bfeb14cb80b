//! Refined long videos.

use longcat_video::media::VideoSize;

use crate::{succeed, video};

#[test]
fn a_long_video_is_refined_segment_by_segment() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let rest = "--refine --frames 5 --steps 2 --guidance 1 --cache easy=1000 --cond-frames 1";
    let rest: Vec<&str> = rest.split(' ').collect();
    let long = "long ring --segments 2 --no-enhance-hf -o long/ --json";
    let long: Vec<&str> = long.split(' ').collect();
    let json = succeed(dir, &[&long[..], &rest].concat());
    let made = video(&dir.join("long"));
    // Each later segment repeats one frame, which refining makes two.
    assert_eq!((made.len(), made.size()), (18, VideoSize::new(128, 128)));
    let result: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(result["settings"]["frames"], 18);
    assert_eq!(result["settings"]["fps"], 30.0);
    assert!(!dir.join("long.segments").exists());
    // Of two steps both are computed, of those of refining some are left out.
    let cache = |stage: &str| {
        let cache = &result["settings"][stage]["cache"];
        ["saved", "passes"].map(|key| cache[key].as_u64().unwrap())
    };
    assert_eq!(cache("generation"), [0, 4]);
    let [saved, passes] = cache("refinement");
    assert!(0 < saved && saved < passes && passes % 2 == 0, "{result}");

    // The first segment is the refined video of its prompt and seed.
    let one = ["t2v", "ring", "-o", "one/"];
    succeed(dir, &[&one[..], &rest[..9]].concat());
    let one = video(&dir.join("one"));
    assert_eq!(one.len(), 10);
    assert!(one.frames().zip(made.frames()).all(|(a, b)| a == b));
}
