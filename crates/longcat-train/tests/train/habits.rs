//! Runs on what people's folders hold, and as people start and stop them.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::TensorData;
use burn_flex::FlexDevice;
use longcat_train::{
    DataSummary, Metric, OutputFolder, Quiet, TrainObserver, read_config, read_metrics, run,
};
use longcat_video::media::{VideoFrames, VideoSize, WriteOptions, write_video};
use longcat_weights::{NamedTensor, WeightFiles, write_safetensors};

use crate::golden::Inner;
use crate::runs::StopAfter;
use crate::workshop::Workshop;

/// Remembers what a run tells.
#[derive(Default)]
struct Heard {
    summary: Option<DataSummary>,
    warnings: Vec<String>,
}

impl TrainObserver for Heard {
    fn data(&mut self, summary: &DataSummary) {
        self.summary = Some(summary.clone());
    }

    fn warned(&mut self, message: &str) {
        self.warnings.push(message.to_string());
    }
}

impl Workshop {
    fn heard(&self, config: &Path) -> Heard {
        let mut heard = Heard::default();
        let interrupt = AtomicBool::new(false);
        run::<Inner>(config, None, &FlexDevice, &mut heard, &interrupt).unwrap();
        heard
    }

    fn error(&self, config: &Path) -> String {
        let interrupt = AtomicBool::new(false);
        let ended = run::<Inner>(config, None, &FlexDevice, &mut Quiet, &interrupt);
        ended.unwrap_err().to_string()
    }

    fn cached(&self, kind: &str) -> usize {
        let folder = fs::read_dir(self.path("cache").join(kind));
        folder.map_or(0, Iterator::count)
    }

    /// Writes a list of clips, and names it in a configuration.
    fn list(&self, name: &str, text: &str, extra: &str) -> std::path::PathBuf {
        fs::write(self.path(name), text).unwrap();
        let config = self.config("run", 2, extra);
        let text = fs::read_to_string(&config).unwrap();
        let text = text.replace("data.path = 'clips'", &format!("data.path = '{name}'"));
        fs::write(&config, text).unwrap();
        config
    }
}

#[test]
fn a_limit_that_no_step_keeps_to_is_refused_before_clips_are_encoded() {
    let shop = Workshop::new();
    let error = shop.error(&shop.config("run", 1, "memory = '0.001MB'"));
    for part in ["memory", "a training step"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!((shop.cached("latents"), shop.cached("text")), (0, 0));
}

#[test]
fn equal_clips_are_encoded_once() {
    let shop = Workshop::new();
    fs::copy(shop.path("clips/a.png"), shop.path("clips/c.png")).unwrap();
    fs::write(shop.path("clips/c.txt"), "the same fox").unwrap();
    let list = "path,caption\nclips/a.png,one\nclips/a.png,two\nclips/c.png,three\n";
    // Held-out clips that are those to train on, too.
    let validation = "validation = { every = 2, path = 'clips' }";
    let heard = shop.heard(&shop.list("list.csv", list, validation));
    assert_eq!(shop.cached("latents"), 2);
    let summary = heard.summary.unwrap();
    assert_eq!((summary.buckets[0].clips, summary.held_out), (3, 3));
    let remark = "2 of the clips to validate on are trained on too";
    assert_eq!(summary.remarks, [remark]);
    assert_eq!(shop.losses("run").len(), 2);
}

#[test]
fn a_folder_is_told_of_before_training() {
    let shop = Workshop::new();
    fs::write(shop.path("clips/._a.png"), "Mac OS X").unwrap();
    fs::create_dir(shop.path("clips/.ipynb_checkpoints")).unwrap();
    fs::copy(
        shop.path("clips/a.png"),
        shop.path("clips/.ipynb_checkpoints/a-checkpoint.png"),
    )
    .unwrap();
    fs::write(shop.path("clips/c.heic"), "").unwrap();
    fs::write(shop.path("clips/c.txt"), "a house").unwrap();
    let heard = shop.heard(&shop.config("run", 1, "objective.image_condition = 1.0"));
    let text = heard.summary.unwrap().to_string();
    for words in [
        "training on 2 clips\n",
        "48x32x1: 2 clips of 1 frames, 2 samples an epoch\n",
        "._a.png",
        ".ipynb_checkpoints",
        "c.heic",
        "objective.image_condition",
    ] {
        assert!(text.contains(words), "{text}");
    }
    let lines = fs::read_to_string(shop.path("run/clips.jsonl")).unwrap();
    assert!(lines.contains("a.png") && lines.contains("c.heic"));
}

#[test]
fn a_run_goes_on_with_its_output_among_the_clips_and_foreign_files_in_it() {
    let shop = Workshop::new();
    let text = fs::read_to_string(shop.config("run", 2, "")).unwrap();
    let extra = "samples = { every = 1, prompts = ['a fox'], steps = 1, format = 'gif' }";
    let text = text.replace("output = 'run'", "output = 'clips/run'");
    let text = text.replace("cache.path = 'cache'\n", "") + extra;
    let config = shop.path("run.toml");
    fs::write(&config, text).unwrap();
    let interrupt = AtomicBool::new(false);
    let mut stop = StopAfter(1, &interrupt);
    run::<Inner>(&config, None, &FlexDevice, &mut stop, &interrupt).unwrap();
    let run = shop.path("clips/run");
    fs::write(run.join("checkpoints/.DS_Store"), "").unwrap();
    fs::create_dir(run.join("checkpoints/.ipynb_checkpoints")).unwrap();
    fs::write(run.join("checkpoints/step-000009"), "").unwrap();
    assert_eq!(shop.run(&config).step, 2);
    assert!(run.join("samples/step-000000/00.gif").is_file());
    assert!(run.join("checkpoints/.ipynb_checkpoints").is_dir());
    // Another run beside it does not train on its samples.
    let other = fs::read_to_string(&config).unwrap();
    fs::write(&config, other.replace("clips/run", "clips/other")).unwrap();
    let summary = shop.heard(&config).summary.unwrap();
    assert_eq!(summary.buckets[0].clips, 2);
}

#[test]
fn two_runs_do_not_write_to_one_folder() {
    let shop = Workshop::new();
    let config = shop.config("run", 1, "");
    let other = OutputFolder::claim(&read_config(&config).unwrap()).unwrap();
    let error = shop.refused(&config);
    let process = format!("(process {})", std::process::id());
    for words in [&*shop.path("run").to_string_lossy(), &process] {
        assert!(error.contains(words), "{error}");
    }
    drop(other);
    assert_eq!(shop.run(&config).step, 1);
}

#[test]
fn data_that_cannot_be_trained_on_is_refused_first() {
    let shop = Workshop::new();
    fs::create_dir(shop.path("empty")).unwrap();
    let config = shop.config("run", 1, "validation = { every = 1, path = 'empty' }");
    let error = shop.refused(&config);
    assert!(error.contains("validation.path: no clip in"), "{error}");

    let never = "{\"path\": \"clips/a.png\", \"caption\": \"x\", \"repeats\": 0}";
    let error = shop.refused(&shop.list("list.jsonl", never, ""));
    assert!(error.contains("data.path: no clip in"), "{error}");

    let often = "{\"path\": \"clips/a.png\", \"caption\": \"x\", \"repeats\": 100000000}";
    shop.run(&shop.list("list.jsonl", often, ""));

    fs::write(shop.path("clips/a.txt"), " \n").unwrap();
    fs::remove_file(shop.path("clips/b.txt")).unwrap();
    let error = shop.refused(&shop.config("run", 1, ""));
    assert!(
        error.contains("a.png") && error.contains("caption"),
        "{error}"
    );
    let config = shop.config("none", 1, "objective.caption_dropout = 1.0");
    let summary = shop.heard(&config).summary.unwrap();
    assert_eq!(summary.buckets[0].clips, 2);

    // Another adapter than that of the checkpoint.
    let error = shop.refused(&shop.config("none", 2, "lora.dropout = 0.5"));
    assert!(error.contains("lora.dropout"), "{error}");
}

#[test]
fn broken_clips_alone_are_no_validation() {
    let shop = Workshop::new();
    fs::create_dir(shop.path("held-out")).unwrap();
    for name in ["x", "y"] {
        fs::write(shop.path(&format!("held-out/{name}.png")), "no picture").unwrap();
        fs::write(shop.path(&format!("held-out/{name}.txt")), "x").unwrap();
    }
    let extra = "data.skip_broken = true\nvalidation = { every = 1, path = 'held-out' }";
    let error = shop.error(&shop.config("run", 1, extra));
    assert!(error.contains("validation.path: no clip in"), "{error}");
}

#[test]
fn a_broken_checkpoint_leaves_the_one_before_it() {
    let shop = Workshop::new();
    let config = shop.config("run", 6, "checkpoints.every = 2\ncheckpoints.keep = 1");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("keep = 1", "keep = 3")).unwrap();
    shop.run(&config);
    let (losses, adapter) = (shop.losses("run"), shop.adapter("run"));
    let newest = shop.path("run/checkpoints/step-000006/state.safetensors");
    let whole = fs::read(&newest).unwrap();
    fs::write(&newest, &whole[..whole.len() / 2]).unwrap();
    let heard = shop.heard(&config);
    let warning = &heard.warnings[0];
    assert!(warning.contains("step-000006") && warning.contains("from step 4"));
    assert_eq!(shop.losses("run"), losses);
    assert!(shop.adapter("run") == adapter, "the adapters differ");
    for step in fs::read_dir(shop.path("run/checkpoints")).unwrap() {
        let _ = fs::write(step.unwrap().path().join("state.json"), "{");
    }
    let error = shop.error(&config);
    for words in ["step-000006", "no older checkpoint is whole", "begin anew"] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn an_interrupted_cache_keeps_what_is_encoded() {
    struct StopAtOne<'a>(&'a AtomicBool);
    impl TrainObserver for StopAtOne<'_> {
        fn caching(&mut self, what: &str, done: usize, _total: usize) {
            if what == "clips" && done == 1 {
                self.0.store(true, Ordering::Relaxed);
            }
        }
    }
    let shop = Workshop::new();
    let config = shop.config("run", 1, "");
    let interrupt = AtomicBool::new(false);
    let mut stop = StopAtOne(&interrupt);
    let outcome = run::<Inner>(&config, None, &FlexDevice, &mut stop, &interrupt).unwrap();
    assert!(outcome.interrupted && outcome.checkpoint.is_none());
    assert_eq!((shop.cached("latents"), shop.cached("text")), (1, 0));
    assert_eq!(shop.run(&config).step, 1);
    assert_eq!(shop.cached("latents"), 2);
}

#[test]
fn a_loss_that_is_no_number_names_step_and_clip() {
    let shop = Workshop::new();
    shop.run(&shop.config("first", 1, ""));
    for file in fs::read_dir(shop.path("cache/latents")).unwrap() {
        let file = file.unwrap().path();
        let files = WeightFiles::open(&file).unwrap();
        let metadata = files.metadata().clone();
        let large = metadata["clip"].ends_with("b.png");
        let tensors = ["mean", "deviation"].map(|name| {
            let data = files.tensor_data(name).unwrap();
            let (shape, values) = (data.shape.clone(), data.iter::<f32>());
            let values: Vec<f32> = values.map(|v| if large { 1e30 } else { v }).collect();
            NamedTensor {
                name: name.into(),
                data: TensorData::new(values, shape),
            }
        });
        drop(files);
        write_safetensors(&file, &tensors, &metadata).unwrap();
    }
    let error = shop.error(&shop.config("run", 4, "checkpoints.every = 1"));
    let named = error.starts_with("step 1: the loss") || error.starts_with("step 2: the loss");
    assert!(
        named && error.contains("b.png") && !error.contains("a.png"),
        "{error}"
    );
    let extra = "validation = { every = 1, path = 'clips' }";
    let error = shop.error(&shop.config("validated", 1, extra));
    assert!(error.starts_with("step 0: the validation loss"), "{error}");
}

#[test]
fn validation_and_samples_are_interrupted_and_made_when_the_run_goes_on() {
    let shop = Workshop::new();
    let extra = "validation = { every = 1, path = 'clips' }\n\
                 samples = { every = 1, prompts = ['a fox'], steps = 1, format = 'gif' }";
    let config = shop.config("run", 2, extra);
    let interrupt = AtomicBool::new(false);
    // The step is reported before it is validated.
    let mut stop = StopAfter(1, &interrupt);
    let outcome = run::<Inner>(&config, None, &FlexDevice, &mut stop, &interrupt).unwrap();
    assert_eq!((outcome.step, outcome.interrupted), (1, true));
    let samples = |step: usize| shop.path(&format!("run/samples/step-{step:06}/00.gif"));
    assert!(samples(0).is_file() && !samples(1).is_file());
    assert_eq!(shop.run(&config).step, 2);
    assert!(samples(1).is_file() && samples(2).is_file());
    let lines = read_metrics(&shop.path("run/metrics.jsonl")).unwrap();
    let validated = lines.iter().filter_map(|line| match line {
        Metric::Validation { step, .. } => Some(*step),
        Metric::Step { .. } => None,
    });
    assert_eq!(validated.collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn webp_files_are_pictures_or_videos_by_what_they_hold() {
    let shop = Workshop::new();
    let still = image::RgbImage::from_pixel(48, 32, image::Rgb([90, 60, 30]));
    still.save(shop.path("clips/still.webp")).unwrap();
    let pixels = (0..5).flat_map(|i| vec![40 * i; 48 * 32 * 3]).collect();
    let moving = VideoFrames::new(VideoSize::new(48, 32), 15.0, pixels).unwrap();
    let path = shop.path("clips/moving.webp");
    write_video(&path, &moving, &WriteOptions::default()).unwrap();
    for name in ["still", "moving"] {
        fs::write(shop.path(&format!("clips/{name}.txt")), name).unwrap();
    }
    let config = shop.config("run", 2, "");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("frames = [1]", "frames = [1, 5]")).unwrap();
    let summary = shop.heard(&config).summary.unwrap();
    let buckets = summary.buckets.iter();
    let mut clips: Vec<_> = buckets.map(|b| (b.bucket.as_str(), b.clips)).collect();
    clips.sort_unstable();
    assert_eq!(clips, [("48x32x1", 3), ("48x32x5", 1)]);
    assert!(summary.ignored.is_empty() && summary.skipped.is_empty());
    assert_eq!(shop.losses("run").len(), 2);
}

#[test]
fn folders_that_cannot_be_written_are_told_of_before_anything_is_encoded() {
    let shop = Workshop::new();
    // A file where a folder is to be; and where no one, not even root, makes files.
    let mut places = vec![shop.path("clips/a.png")];
    places.extend(Path::new("/proc/self").is_dir().then(|| "/proc".into()));
    for place in places {
        let place = place.to_str().unwrap();
        for key in ["output = 'run'", "cache.path = 'cache'"] {
            let config = shop.config("run", 1, "");
            let text = fs::read_to_string(&config).unwrap();
            let (name, _) = key.split_once(' ').unwrap();
            let other = text.replace(key, &format!("{name} = '{place}/made'"));
            fs::write(&config, other).unwrap();
            let error = shop.error(&config);
            assert!(error.contains(place), "{key}: {error}");
            assert_eq!(shop.cached("latents"), 0, "{key}");
        }
    }
}
