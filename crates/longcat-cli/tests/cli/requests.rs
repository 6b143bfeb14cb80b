//! What requests come to: defaults, shapes, prompts, settings, and refusals before any work.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use longcat_video::Latents;
use longcat_video::media::{VideoFrames, VideoSize, WriteOptions, read_metadata, write_video};
use serde_json::Value;

use crate::{command, fail, succeed, video};

const SHORT: [&str; 6] = ["--frames", "5", "--steps", "1", "--guidance", "1"];

/// A folder of pictures, black where they are nearer to the middle than half their height, else white.
fn pictures(path: &Path, size: VideoSize, count: usize) {
    let middle = (size.width - size.height) / 2..(size.width + size.height) / 2;
    let row = (0..size.width).flat_map(|x| [if middle.contains(&x) { 0 } else { 255 }; 3]);
    let frame = row.collect::<Vec<u8>>().repeat(size.height);
    let frames = VideoFrames::new(size, 15.0, frame.repeat(count)).unwrap();
    write_video(path, &frames, &WriteOptions::default()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[test]
fn a_copy_of_the_miniature_makes_what_the_miniature_makes() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("copy");
    copy(&longcat_builtin::builtin_checkpoint().unwrap(), &model);
    // As a copy is that knows only the official layout.
    fs::remove_file(model.join("longcat.json")).unwrap();
    let base = ["t2v", "a ring", "--steps", "1", "--guidance", "1", "--json"];
    let made = |extra: &[&str]| -> Value {
        serde_json::from_str(&succeed(dir.path(), &[&base[..], extra].concat())).unwrap()
    };
    let own = made(&["-o", "a.mp4"]);
    let copied = made(&["-o", "b.mp4", "--model", "copy"]);
    for key in ["width", "height", "frames", "fps"] {
        assert_eq!(own[key], copied[key], "{key}");
    }
    assert_eq!(copied["settings"]["model"], "copy");
}

#[test]
fn results_have_the_shape_of_the_picture_or_the_size_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(&dir.join("wide/"), VideoSize::new(128, 32), 3);
    pictures(&dir.join("line/"), VideoSize::new(400, 16), 1);
    let wide = "wide/frame_00000.png";
    let run = |args: &[&str]| succeed(dir, &[args, &SHORT[..]].concat());
    let size = |name: &str| video(&dir.join(name)).size();

    run(&[
        "i2v",
        wide,
        "ring",
        "-o",
        "a.mp4",
        "--save-latents",
        "a.safetensors",
    ]);
    assert_eq!(size("a.mp4"), VideoSize::new(256, 64));
    succeed(dir, &["decode", "a.safetensors", "-o", "again.mp4"]);
    let bytes = |name: &str| fs::read(dir.join(name)).unwrap();
    assert_eq!(bytes("a.mp4"), bytes("again.mp4"));
    // In pieces or, as with tiles (here there is one), at once: the file is the same.
    let decode = "decode a.safetensors --vae-tiling -o whole.mp4";
    succeed(dir, &decode.split(' ').collect::<Vec<_>>());
    assert_eq!(bytes("again.mp4"), bytes("whole.mp4"));
    run(&[
        "continue",
        "wide",
        "ring",
        "-o",
        "c.mp4",
        "--cond-frames",
        "1",
    ]);
    assert_eq!(size("c.mp4"), VideoSize::new(256, 64));

    // Cropped, not squeezed: of a black square between white ones, the black one.
    run(&["i2v", wide, "ring", "-o", "b/", "--size", "64x64"]);
    let cropped = video(&dir.join("b"));
    assert_eq!(cropped.size(), VideoSize::new(64, 64));
    let first = cropped.frames().next().unwrap();
    let mean = first.iter().map(|v| f64::from(*v)).sum::<f64>() / first.len() as f64;
    assert!(mean < 60.0, "{mean}");

    let message = fail(
        dir,
        2,
        &["i2v", "line/frame_00000.png", "ring", "-o", "d.mp4"],
    );
    assert!(
        message.contains("400x16") && message.contains("--size"),
        "{message}"
    );
    // All frames of a short clip may condition, and no more.
    let message = fail(
        dir,
        2,
        &[
            "continue",
            "wide",
            "ring",
            "-o",
            "d.mp4",
            "--cond-frames",
            "5",
        ],
    );
    assert!(message.contains("the video has 3"), "{message}");
}

#[test]
fn prompts_come_from_files_and_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("prompt.txt"), "a red circle\n").unwrap();
    let args = |prompt: &'static str, output: &'static str| {
        [&["t2v", prompt, "-o", output], &SHORT[..]].concat()
    };
    succeed(dir, &args("a red circle", "a.safetensors"));
    succeed(dir, &args("@prompt.txt", "b.safetensors"));
    let mut child = command(dir, &args("-", "c.safetensors"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"a red circle").unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
    let bytes = |name: &str| fs::read(dir.join(name)).unwrap();
    assert_eq!(bytes("a.safetensors"), bytes("b.safetensors"));
    assert_eq!(bytes("a.safetensors"), bytes("c.safetensors"));
    let message = fail(dir, 1, &["t2v", "@gone.txt", "-o", "a.mp4"]);
    assert!(message.contains("gone.txt"), "{message}");
    let message = fail(dir, 2, &["t2v", " ", "-o", "a.mp4"]);
    assert!(message.contains("prompt: "), "{message}");
}

#[test]
fn results_tell_what_they_were_made_with() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = "t2v ring --seed 7 --frames 5 --steps 2 --distill --json";
    let base: Vec<&str> = base.split(' ').collect();
    let args = ["-o", "a.mp4", "--save-latents", "a.safetensors", "--refine"];
    let text = succeed(dir, &[&base[..], &args].concat());
    assert_eq!(text.lines().count(), 1, "{text}");
    let result: Value = serde_json::from_str(&text).unwrap();
    let settings = &result["settings"];
    for (found, expected) in [
        (&settings["command"], Value::from("t2v")),
        (&settings["model"], "built-in".into()),
        (&settings["prompts"][0], "ring".into()),
        (&settings["seed"], 7.into()),
        (&settings["width"], 128.into()),
        (&settings["frames"], 10.into()),
        (&settings["fps"], 30.0.into()),
        (&settings["generation"]["steps"], 2.into()),
        (&settings["generation"]["guidance"], 1.0.into()),
        (
            &settings["generation"]["adapters"][0]["name"],
            "cfg_step_lora.safetensors".into(),
        ),
        (&settings["refinement"]["threshold"], 0.5.into()),
    ] {
        assert_eq!(*found, expected, "{settings}");
    }
    let stages = result["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().filter_map(|s| s["stage"].as_str()).collect();
    for name in [
        "open",
        "text",
        "transformer",
        "denoise",
        "decode",
        "refine: encode",
        "refine: denoise",
        "refine: decode",
        "write",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let seconds = stages.iter().filter_map(|s| s["seconds"].as_f64());
    let (sum, total) = (seconds.sum::<f64>(), result["seconds"].as_f64().unwrap());
    assert!((0.95 * total..=total).contains(&sum), "{sum} of {total} s");

    let text = read_metadata(&dir.join("a.mp4")).unwrap().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), *settings);

    // The latents are those of the first pass.
    let latents = dir.join("a.safetensors");
    let kept = Latents::read_settings(&latents).unwrap().unwrap();
    assert_eq!((kept.seed, kept.width, kept.frames), (7, 64, 5));
    assert_eq!(kept.refinement, None);
    assert_eq!(Latents::read(&latents).unwrap().dims(), [1, 16, 2, 8, 8]);

    let args = ["-o", "b.safetensors", "--no-metadata"];
    succeed(dir, &[&base[..], &args].concat());
    let latents = dir.join("b.safetensors");
    assert_eq!(Latents::read_settings(&latents).unwrap(), None);
    let args = "decode a.safetensors -o b.mp4 --no-metadata";
    succeed(dir, &args.split(' ').collect::<Vec<_>>());
    assert_eq!(read_metadata(&dir.join("b.mp4")).unwrap(), None);
}

#[test]
fn passes_that_were_left_out_are_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Of six steps the first two and the last one are computed, whatever the threshold.
    let base = "t2v ring --frames 5 --steps 6 --cache easy=1000";
    let base: Vec<&str> = base.split(' ').collect();
    let args = "-o a.mp4 --refine --json --save-latents a.safetensors";
    let args: Vec<&str> = args.split(' ').collect();
    let text = succeed(dir, &[&base[..], &args].concat());
    let result: Value = serde_json::from_str(&text).unwrap();
    let settings = &result["settings"];
    let cache = &settings["generation"]["cache"];
    let expected = serde_json::json!({"rule": "easy=1000", "saved": 6, "passes": 12});
    assert_eq!(*cache, expected, "{settings}");
    let cache = &settings["refinement"]["cache"];
    let [saved, passes] = ["saved", "passes"].map(|key| cache[key].as_u64().unwrap());
    assert!(0 < saved && saved < passes, "{settings}");
    let text = read_metadata(&dir.join("a.mp4")).unwrap().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), *settings);
    let kept = Latents::read_settings(&dir.join("a.safetensors")).unwrap();
    let cache = kept.unwrap().generation.unwrap().cache.unwrap();
    assert_eq!((cache.saved, cache.passes), (6, 12));

    let text = succeed(dir, &[&base[..], &["-o", "b.mp4"]].concat());
    assert!(text.contains("6 of 12 passes saved"), "{text}");
    let message = fail(
        dir,
        2,
        &["t2v", "ring", "-o", "c.mp4", "--cache", "easy=no"],
    );
    assert!(message.contains("easy=0.05"), "{message}");
}

#[test]
fn what_cannot_be_written_is_refused_before_a_model_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/mine"), b"mine").unwrap();
    let long = "a".repeat(300) + ".mp4";
    for (args, word) in [
        (vec!["-o", "a.mp4", "--fps", "0"], "0 frames per second"),
        (
            vec!["-o", "a.safetensors", "--fps", "0"],
            "0 frames per second",
        ),
        (vec!["-o", "a.gif", "--fps", "60"], "60 frames per second"),
        (vec!["-o", long.as_str()], "too long"),
        (vec!["-o", "full", "-y"], "not empty"),
        (vec!["-o", "a.mp4", "--save-latents", "full", "-y"], "full"),
    ] {
        let base = ["t2v", "ring", "--model", "nowhere"];
        let message = fail(dir, 1, &[&base[..], &args[..]].concat());
        assert!(message.contains(word), "{word}: {message}");
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn what_the_second_stage_cannot_do_is_refused_before_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Refined, it would have 96 pixels, which no chunks of block-sparse attention divide.
    let args = "t2v ring -o a.mp4 --save-latents a.safetensors --refine --size 48x48";
    let args: Vec<&str> = args.split(' ').collect();
    let message = fail(dir, 2, &args);
    assert!(
        message.contains("96x96") && message.contains("64"),
        "{message}"
    );
    let long = "long a b -o l.mp4 --segments 3";
    let message = fail(dir, 2, &long.split(' ').collect::<Vec<_>>());
    assert!(message.contains("2 prompts for 3 segments"), "{message}");
    let long = "long a -o l.mp4 --segments 2 --size 60x64 --work-dir work";
    let message = fail(dir, 2, &long.split(' ').collect::<Vec<_>>());
    assert!(message.contains("60x64"), "{message}");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
}

#[test]
fn a_work_folder_of_another_video_says_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let run = "long ring -o a.mp4 --frames 5 --guidance 1 --steps 1 --work-dir work --verbose -y";
    let run: Vec<&str> = run.split(' ').collect();
    let told = String::from_utf8(crate::longcat(dir, &run).stderr).unwrap();
    assert!(told.contains("denoise"), "{told}");
    let message = fail(dir, 2, &[&run[..], &["--seed", "3"]].concat());
    assert!(message.contains("seed 0, now 3"), "{message}");
}
