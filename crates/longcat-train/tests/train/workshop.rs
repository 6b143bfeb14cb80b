//! Short runs on two pictures. The tests of the laboratory include this file too.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use longcat_train::{Metric, read_metrics};
use tempfile::TempDir;

pub(crate) fn golden(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(relative)
}

/// A folder with two pictures and their captions, and the golden checkpoint.
pub(crate) struct Workshop {
    dir: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clips = dir.path().join("clips");
        fs::create_dir(&clips).unwrap();
        for (name, colour, caption) in [("a", 40, "a fox in the snow"), ("b", 200, "a red boat")] {
            let image =
                RgbImage::from_fn(48, 32, |x, y| Rgb([colour, (x * 5) as u8, (y * 7) as u8]));
            image.save(clips.join(format!("{name}.png"))).unwrap();
            fs::write(clips.join(format!("{name}.txt")), caption).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration for the output folder `name`.
    pub(crate) fn config(&self, name: &str, steps: usize, extra: &str) -> PathBuf {
        let checkpoint = fs::canonicalize(golden("checkpoints/tiny")).unwrap();
        let text = format!(
            "output = '{name}'\nseed = 5\n\
             model.checkpoint = '{}'\n\
             data.path = 'clips'\ndata.sizes = ['48x32']\ndata.frames = [1]\n\
             cache.path = 'cache'\ncache.text_length = 8\n\
             lora.rank = 2\nlora.alpha = 2.0\n\
             optimizer.learning_rate = 1e-2\n\
             train.steps = {steps}\n{extra}\n",
            checkpoint.display()
        );
        let path = self.path(&format!("{name}.toml"));
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn losses(&self, name: &str) -> Vec<(usize, f64)> {
        let lines = read_metrics(&self.path(name).join("metrics.jsonl")).unwrap();
        let steps = lines.iter().filter_map(|line| match line {
            Metric::Step { step, loss, .. } => Some((*step, *loss)),
            Metric::Validation { .. } => None,
        });
        steps.collect()
    }
}
