//! Clips of which parts are taken, and clips with several captions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use burn_flex::FlexDevice;
use image::{Rgb, RgbImage};
use longcat_train::{Quiet, run};

use crate::golden::Inner;
use crate::runs::StopAfter;
use crate::workshop::Workshop;

impl Workshop {
    /// Writes frames of a moving scene as a folder of pictures.
    fn frames(&self, name: &str, range: std::ops::Range<u32>) {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        for n in range {
            let frame = RgbImage::from_fn(48, 32, |x, y| {
                Rgb([(n * 19) as u8, (x * 5 + n * 9) as u8, (y * 7) as u8])
            });
            frame.save(folder.join(format!("{n:03}.png"))).unwrap();
        }
    }

    /// A configuration `run` on a list, with clips of five frames.
    fn of_five(&self, list: &str, steps: usize, extra: &str) -> PathBuf {
        fs::write(self.path("list.jsonl"), list).unwrap();
        let config = self.config("run", steps, extra);
        let text = fs::read_to_string(&config).unwrap();
        let text = text.replace("data.path = 'clips'", "data.path = 'list.jsonl'");
        fs::write(&config, text.replace("frames = [1]", "frames = [5]")).unwrap();
        config
    }
}

#[test]
fn windows_are_what_clips_of_those_frames_would_be() {
    let shop = Workshop::new();
    shop.frames("long", 0..13);
    let long = "{\"path\": \"long\", \"caption\": \"x\"}\n";
    shop.run(&shop.of_five(long, 4, "data.take = 'every'"));
    let losses = shop.losses("run");
    fs::remove_dir_all(shop.path("run")).unwrap();
    shop.frames("first", 0..5);
    shop.frames("last", 8..13);
    let two =
        "{\"path\": \"first\", \"caption\": \"x\"}\n{\"path\": \"last\", \"caption\": \"x\"}\n";
    shop.run(&shop.of_five(two, 4, ""));
    assert_eq!(losses, shop.losses("run"));
    fs::remove_dir_all(shop.path("run")).unwrap();
    shop.run(&shop.of_five(long, 4, "data.take = 'every'\ndata.windows = 1"));
    assert_ne!(losses, shop.losses("run"));
}

#[test]
fn a_resumed_run_draws_the_windows_and_captions_it_would_have_drawn() {
    let shop = Workshop::new();
    shop.frames("long", 0..21);
    let list = "{\"path\": \"long\", \"captions\": [\"one\", \"two\", \"three\"]}\n";
    let config = shop.of_five(list, 6, "data.take = 'random'");
    shop.run(&config);
    let (losses, adapter) = (shop.losses("run"), shop.adapter("run"));
    assert_eq!(fs::read_dir(shop.path("cache/text")).unwrap().count(), 4);
    fs::remove_dir_all(shop.path("run")).unwrap();
    let interrupt = AtomicBool::new(false);
    let mut stop = StopAfter(3, &interrupt);
    run::<Inner>(&config, None, &FlexDevice, &mut stop, &interrupt).unwrap();
    shop.run(&config);
    assert_eq!(losses, shop.losses("run"));
    assert!(shop.adapter("run") == adapter, "the adapters differ");
    // With one of either the draws of noise are the same, and the losses are not.
    fs::remove_dir_all(shop.path("run")).unwrap();
    shop.run(&shop.of_five(list, 6, ""));
    assert_ne!(losses, shop.losses("run"));
}

/// Names the configuration to the process that trains.
const CONFIG: &str = "LONGCAT_TEST_LONG_CLIPS";

/// Runs ffmpeg; says whether it is there, which it must be in the gate.
fn ffmpeg(args: &[&str]) -> bool {
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error"])
        .args(args)
        .status();
    let required = std::env::var_os("LONGCAT_REQUIRE_TOOLS").is_some();
    assert!(made.is_ok() || !required, "ffmpeg is not on the PATH");
    made.is_ok_and(|status| status.success())
}

/// Most memory that a process took that trains on a configuration, in MB.
fn peak_of_training(config: &Path, bundled: bool) -> u64 {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process
        .args(["long_clips::hours_of_full_hd_take_little_memory", "--exact"])
        .arg("--nocapture")
        .env(CONFIG, config);
    if bundled {
        process.env("PATH", "");
    }
    let ended = process.output().unwrap();
    let text = String::from_utf8_lossy(&ended.stdout);
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let peak = peak.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&ended.stderr)));
    peak / 1024
}

#[test]
fn hours_of_full_hd_take_little_memory() {
    if let Some(config) = std::env::var_os(CONFIG) {
        let (never, device) = (AtomicBool::new(false), FlexDevice);
        run::<Inner>(Path::new(&config), None, &device, &mut Quiet, &never).unwrap();
        return println!("{}", fs::read_to_string("/proc/self/status").unwrap());
    }
    if !Path::new("/proc/self/status").exists() {
        return;
    }
    let shop = Workshop::new();
    let path = |name: &str| shop.path(name).to_string_lossy().into_owned();
    // A frame a minute: 370 MB of pictures in an hour, and most of an hour is left out.
    let source = "testsrc=s=1920x1080:r=1/60:d=600";
    let coded = [
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
    ];
    let short = path("short.mp4");
    if !ffmpeg(
        &[
            &["-f", "lavfi", "-i", source],
            &coded[..],
            &[short.as_str()],
        ]
        .concat(),
    ) {
        return;
    }
    for (name, again) in [("a", "5"), ("b", "6")] {
        let long = path(&format!("clips/{name}.mp4"));
        assert!(ffmpeg(&[
            "-stream_loop",
            again,
            "-i",
            &short,
            "-c",
            "copy",
            &long
        ]));
        fs::remove_file(path(&format!("clips/{name}.png"))).unwrap();
    }
    let extra = "data.fps = 0.0\ndata.take = 'every'\ndata.windows = 2";
    let config = shop.config("run", 1, extra);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("frames = [1]", "frames = [5]")).unwrap();
    for bundled in [true, false] {
        let peak = peak_of_training(&config, bundled);
        assert!(peak < 300, "bundled {bundled}: {peak} MB");
        let parts = fs::read_to_string(path("run/clips.jsonl")).unwrap();
        assert!(
            parts.contains("a.mp4") && parts.contains("b.mp4"),
            "{parts}"
        );
        for made in ["run", "cache"] {
            fs::remove_dir_all(path(made)).unwrap();
        }
    }
}
