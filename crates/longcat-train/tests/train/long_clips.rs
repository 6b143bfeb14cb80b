//! Clips of which parts are taken, and clips with several captions.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use burn_flex::FlexDevice;
use image::{Rgb, RgbImage};
use longcat_train::run;

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
