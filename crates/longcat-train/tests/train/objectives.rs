//! Distilling, refining and batched encoding on the CPU.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use burn::tensor::DType;
use burn_flex::FlexDevice;
use image::{Rgb, RgbImage};
use longcat_dit::lora_targets;
use longcat_lora::Adapter;
use longcat_train::{Metric, Quiet, Ranks, encode_clips, read_config, read_metrics, run};
use longcat_vae::WanVae;
use longcat_video::PixelFrames;
use longcat_video::media::read_image;
use tempfile::TempDir;

use crate::golden::{Inner, golden};

/// A folder of pictures of 32 × 32 pixels as videos of one frame.
fn workshop(names: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (i, name) in names.iter().enumerate() {
        let shade = 60 * i as u8;
        let image = RgbImage::from_fn(32, 32, |x, y| Rgb([shade, (x * 8) as u8, (y * 7) as u8]));
        image.save(dir.path().join(format!("{name}.png"))).unwrap();
        let caption = dir.path().join(format!("{name}.txt"));
        fs::write(caption, format!("the {name} picture")).unwrap();
    }
    dir
}

fn config(dir: &Path, name: &str, extra: &str) -> PathBuf {
    let checkpoint = fs::canonicalize(golden("checkpoints/tiny")).unwrap();
    let text = format!(
        "output = '{name}'\nmodel.checkpoint = '{}'\n\
         data.sizes = ['32x32']\ncache.path = 'cache'\ncache.posterior = 'mode'\n\
         cache.text_length = 8\nlora.rank = 2\nlora.alpha = 2.0\n{extra}\n",
        checkpoint.display()
    );
    let path = dir.join(format!("{name}.toml"));
    fs::write(&path, text).unwrap();
    path
}

fn first_loss(dir: &Path, name: &str, extra: &str) -> f64 {
    let config = config(dir, name, extra);
    run::<Inner>(
        &config,
        None,
        &FlexDevice,
        &mut Quiet,
        &AtomicBool::new(false),
    )
    .unwrap();
    let lines = read_metrics(&dir.join(name).join("metrics.jsonl")).unwrap();
    let losses = lines.iter().find_map(|line| match line {
        Metric::Step { loss, .. } => Some(*loss),
        Metric::Validation { .. } => None,
    });
    losses.unwrap()
}

#[test]
fn clips_encoded_together_have_the_latents_of_each() {
    let names = ["first", "second", "third"];
    let dir = workshop(&names);
    let extra = "data.path = '.'\ndata.frames = [1]";
    let config = read_config(&config(dir.path(), "run", extra)).unwrap();
    let interrupt = AtomicBool::new(false);
    let found = config.find_clips("data.path", dir.path(), &mut Quiet, &interrupt);
    let clips = found.unwrap().clips;
    let dataset = encode_clips::<Inner>(
        &config,
        &clips,
        &FlexDevice,
        &Ranks::alone(),
        &mut Quiet,
        &interrupt,
    )
    .unwrap();
    let vae = golden("checkpoints/tiny/vae");
    let vae = WanVae::<Inner>::load(&vae, DType::F32, &FlexDevice).unwrap();
    assert_eq!(dataset.entries.len(), names.len());
    for (entry, name) in dataset.entries.iter().zip(names) {
        assert_eq!(entry.captions, [format!("the {name} picture")]);
        let image = read_image(&dir.path().join(format!("{name}.png"))).unwrap();
        let pixels = PixelFrames::from_images(&[image]).unwrap();
        let posterior = vae.encode(pixels.to_tensor(&FlexDevice)).unwrap();
        let expected = vae.normalize(posterior.mean).into_data();
        let found = entry.read(0).unwrap().mean;
        for (a, b) in found.iter::<f32>().zip(expected.iter::<f32>()) {
            assert!((a - b).abs() < 1e-4, "{name}: {a} {b}");
        }
    }
}

/// A fresh adapter is the base model: the teacher without guidance, in as many steps, is the student.
#[test]
fn only_guidance_and_steps_are_distilled() {
    let dir = workshop(&["one", "two"]);
    let loss = |name: &str, guidance: f64, teacher_steps: usize| {
        let extra = format!(
            "data.path = '.'\ndata.frames = [1]\ntrain.steps = 1\ntrain.batch = 2\n\
             objective.caption_dropout = 0.0\ndistill.guidance = {guidance}\n\
             distill.steps = 4\ndistill.teacher_steps = {teacher_steps}"
        );
        first_loss(dir.path(), name, &extra)
    };
    let same = loss("same", 1.0, 1);
    assert!(same < 1e-8, "{same}");
    let (steps, guided) = (loss("steps", 1.0, 3), loss("guided", 4.0, 1));
    assert!(steps > 1e-6 && guided > 1e-6, "{steps} {guided}");
}

#[test]
fn refining_needs_the_first_stage_and_trains_on_padded_latents() {
    let dir = workshop(&["clip", "other"]);
    // Two frames of the refined size and one of half of it: padded to 4 latents, 13 frames.
    let refined = dir.path().join("refined");
    let low = dir.path().join("low");
    for (folder, side, frames) in [(&refined, 32, 13), (&low, 16, 1)] {
        fs::create_dir(folder).unwrap();
        for frame in 0..frames {
            let image = RgbImage::from_fn(side, side, |x, y| {
                Rgb([(x * 255 / side) as u8, (y * 255 / side) as u8, 90])
            });
            image.save(folder.join(format!("{frame:03}.png"))).unwrap();
        }
    }
    let list = |source: &str| {
        let line = format!("{{\"path\": \"refined\", \"caption\": \"a slope\"{source}}}\n");
        fs::write(dir.path().join("list.jsonl"), line).unwrap();
    };
    let extra = "data.path = 'list.jsonl'\ndata.frames = [13]\ndata.fps = 0.0\n\
                 train.steps = 2\nobjective.refine = 0.5\nvalidation.every = 2";
    list("");
    let path = config(dir.path(), "without", extra);
    let error = run::<Inner>(
        &path,
        None,
        &FlexDevice,
        &mut Quiet,
        &AtomicBool::new(false),
    );
    let message = error.unwrap_err().to_string();
    assert!(message.contains("refined"), "{message}");
    list(", \"source\": \"low\"");
    let loss = first_loss(dir.path(), "with", extra);
    assert!(loss.is_finite() && loss > 0.0);
}

/// The first step of AdamW without decay is the learning rate, whatever the size of the gradient.
#[test]
fn lora_plus_is_a_factor_on_the_rate_of_one_side() {
    let dir = workshop(&["one"]);
    let factors = |name: &str, rate: &str, plus: f64| {
        let extra = format!(
            "data.path = '.'\ndata.frames = [1]\ntrain.steps = 2\noptimizer.weight_decay = 0.0\n\
             optimizer.max_grad_norm = 0.0\noptimizer.learning_rate = {rate}\n\
             optimizer.lora_plus = {plus:.1}"
        );
        first_loss(dir.path(), name, &extra);
        let path = dir.path().join(name).join("adapter.safetensors");
        let adapter = Adapter::read(&path, lora_targets()).unwrap();
        let blocks = adapter.targets().flat_map(|(_, blocks)| blocks.to_vec());
        let pairs = blocks.map(|block| (block.down.to_f32(), block.up.to_f32()));
        pairs.collect::<Vec<_>>()
    };
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let none = factors("none", "1e-12", 1.0);
    let plain = factors("plain", "1e-4", 1.0);
    let plus = factors("plus", "1e-4", 8.0);
    for ((none, plain), plus) in none.iter().zip(plain).zip(plus) {
        // Up factors begin at zero and go two steps; down factors have a gradient from the second on.
        let ratio = largest(&plus.1) / largest(&plain.1);
        assert!((ratio - 8.0).abs() < 0.1, "{ratio}");
        for down in [&plain.0, &plus.0] {
            let moved: Vec<f32> = down.iter().zip(&none.0).map(|(a, b)| a - b).collect();
            assert!(largest(&moved) < 1.1e-4, "{}", largest(&moved));
        }
    }
}
