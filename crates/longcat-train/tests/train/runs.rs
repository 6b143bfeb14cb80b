//! Whole runs on the CPU: resuming, accumulating, interrupting, killing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use burn_flex::FlexDevice;
use longcat_dit::lora_targets;
use longcat_lora::Adapter;
use longcat_train::{
    Metric, Outcome, Quiet, StepReport, TrainError, TrainObserver, read_metrics, run,
};

use crate::golden::Inner;
use crate::workshop::Workshop;

impl Workshop {
    pub(crate) fn run(&self, config: &Path) -> Outcome {
        run::<Inner>(
            config,
            None,
            &FlexDevice,
            &mut Quiet,
            &AtomicBool::new(false),
        )
        .unwrap()
    }

    /// The error of a run that is refused before anything is encoded.
    pub(crate) fn refused(&self, config: &Path) -> String {
        struct Nothing;
        impl TrainObserver for Nothing {
            fn caching(&mut self, what: &str, _done: usize, _total: usize) {
                panic!("{what} are encoded");
            }
        }
        let interrupt = AtomicBool::new(false);
        let error = run::<Inner>(config, None, &FlexDevice, &mut Nothing, &interrupt).unwrap_err();
        error.to_string()
    }

    pub(crate) fn adapter(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name).join("adapter.safetensors")).unwrap()
    }

    /// How far the factors of two runs are apart, relative to their size.
    pub(crate) fn difference(&self, a: &str, b: &str) -> f64 {
        let read = |name: &str| {
            let path = self.path(name).join("adapter.safetensors");
            Adapter::read(&path, lora_targets()).unwrap()
        };
        let (a, b) = (read(a), read(b));
        let (mut difference, mut norm) = (0.0f64, 0.0f64);
        for ((_, a), (_, b)) in a.targets().zip(b.targets()) {
            for (a, b) in a.iter().zip(b) {
                for (a, b) in [(&a.down, &b.down), (&a.up, &b.up)] {
                    for (x, y) in a.to_f32().iter().zip(b.to_f32()) {
                        difference += f64::from(x - y).powi(2);
                        norm += f64::from(*x).powi(2);
                    }
                }
            }
        }
        (difference / norm).sqrt()
    }
}

/// Interrupts after some steps.
pub(crate) struct StopAfter<'a>(pub usize, pub &'a AtomicBool);

impl TrainObserver for StopAfter<'_> {
    fn step(&mut self, report: &StepReport) {
        if report.step == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

/// Dropout, averaging, both kinds of condition drawn: everything that has a state.
const EVERYTHING: &str = "optimizer.ema_decay = 0.9\noptimizer.schedule = 'cosine'\n\
    optimizer.warmup_steps = 2\nlora.dropout = 0.2\nobjective.caption_dropout = 0.3\n\
    train.accumulation = 2\ncheckpoints.every = 3\ncheckpoints.keep = 2";

#[test]
fn a_resumed_run_is_bit_identical_to_an_uninterrupted_one() {
    let shop = Workshop::new();
    // The header holds the configuration as written, so both runs use one text.
    let whole = shop.config("run", 8, EVERYTHING);
    assert_eq!(shop.run(&whole).step, 8);
    let (losses, adapter) = (shop.losses("run"), shop.adapter("run"));
    let average = fs::read(shop.path("run/adapter-average.safetensors")).unwrap();
    fs::rename(shop.path("run"), shop.path("first")).unwrap();

    for stop in [2, 3, 5] {
        let interrupt = AtomicBool::new(false);
        let outcome = run::<Inner>(
            &whole,
            None,
            &FlexDevice,
            &mut StopAfter(stop, &interrupt),
            &interrupt,
        );
        let outcome = outcome.unwrap();
        assert_eq!((outcome.step, outcome.interrupted), (stop, true));
    }
    assert_eq!(shop.run(&whole).step, 8);
    assert_eq!(shop.losses("run"), losses);
    assert!(shop.adapter("run") == adapter, "the adapters differ");
    let resumed = fs::read(shop.path("run/adapter-average.safetensors")).unwrap();
    assert!(resumed == average, "the averages differ");
    assert_ne!(adapter, average);
}

#[test]
fn accumulating_four_equals_a_batch_of_four() {
    let shop = Workshop::new();
    // Adam divides by the size of each gradient, which turns the rounding of the smallest ones into
    // whole steps; with a large epsilon the factors show the sums themselves.
    let extra = "data.repeats = 2\nobjective.caption_dropout = 0.5\noptimizer.epsilon = 1e-2\n";
    shop.run(&shop.config("four", 3, &format!("{extra}train.batch = 4")));
    shop.run(&shop.config("one", 3, &format!("{extra}train.accumulation = 4")));
    for ((step, a), (_, b)) in shop.losses("four").iter().zip(shop.losses("one")) {
        assert!((a - b).abs() < 1e-6 * a.abs(), "step {step}: {a} {b}");
    }
    let error = shop.difference("four", "one");
    assert!(error < 1e-6, "relative difference {error:.2e}");
}

#[test]
fn training_reduces_the_validation_loss_and_keeps_the_last_checkpoints() {
    let shop = Workshop::new();
    let extra = "validation.every = 10\ncheckpoints.every = 10\ncheckpoints.keep = 2\n\
                 objective.timesteps = 'uniform'";
    let outcome = shop.run(&shop.config("run", 40, extra));
    let lines = read_metrics(&shop.path("run/metrics.jsonl")).unwrap();
    let validation: Vec<(usize, f64)> = lines
        .iter()
        .filter_map(|line| match line {
            Metric::Validation {
                step,
                validation_loss,
                ..
            } => Some((*step, *validation_loss)),
            Metric::Step { .. } => None,
        })
        .collect();
    let steps: Vec<usize> = validation.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 10, 20, 30, 40]);
    assert_eq!(outcome.validation_loss, Some(validation[4].1));
    assert!(validation[4].1 < 0.8 * validation[0].1, "{validation:?}");
    let mut names: Vec<String> = fs::read_dir(shop.path("run/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["step-000030", "step-000040"]);
    assert!(shop.path("run/loss.svg").is_file());
}

#[test]
fn the_adapter_tells_of_its_run_and_is_written_in_every_format() {
    let shop = Workshop::new();
    let mut official = None;
    for format in ["official", "peft", "diffusers", "comfyui", "kohya"] {
        let extra = format!("checkpoints.format = '{format}'");
        shop.run(&shop.config(format, 2, &extra));
        let path = match format {
            "peft" => shop.path(format).join("adapter"),
            _ => shop.path(format).join("adapter.safetensors"),
        };
        let adapter = Adapter::read(&path, lora_targets()).unwrap();
        let blocks: Vec<_> = adapter
            .targets()
            .map(|(n, b)| (n.to_string(), b.to_vec()))
            .collect();
        assert_eq!(blocks.len(), 14);
        match &official {
            None => {
                let metadata = &adapter.metadata;
                assert_eq!(metadata["ss_network_dim"], "2");
                assert_eq!(metadata["ss_steps"], "2");
                assert_eq!(metadata["ss_seed"], "5");
                assert_eq!(metadata["modelspec.architecture"], "longcat-video/lora");
                assert_eq!(metadata["ss_base_model_hash"].len(), 64);
                assert!(metadata["ss_training_config"].contains("lora.rank = 2"));
                official = Some(blocks);
            }
            Some(official) => assert_eq!(official, &blocks, "{format}"),
        }
    }
}

#[test]
fn a_broken_clip_is_named_and_left_out_only_on_request() {
    let shop = Workshop::new();
    fs::write(shop.path("clips/broken.png"), b"not a picture").unwrap();
    fs::write(shop.path("clips/broken.txt"), "nothing").unwrap();
    let config = shop.config("run", 1, "");
    let interrupt = AtomicBool::new(false);
    let error = run::<Inner>(&config, None, &FlexDevice, &mut Quiet, &interrupt).unwrap_err();
    assert!(error.to_string().contains("broken.png"), "{error}");

    #[derive(Default)]
    struct Skipped(Vec<String>);
    impl TrainObserver for Skipped {
        fn skipped(&mut self, problem: &TrainError) {
            self.0.push(problem.to_string());
        }
    }
    let mut skipped = Skipped::default();
    let config = shop.config("run", 1, "data.skip_broken = true");
    run::<Inner>(&config, None, &FlexDevice, &mut skipped, &interrupt).unwrap();
    assert_eq!(skipped.0.len(), 1);
    assert!(skipped.0[0].contains("broken.png"));
}

#[test]
fn a_folder_without_clips_is_named_with_the_configuration() {
    let shop = Workshop::new();
    fs::create_dir(shop.path("empty")).unwrap();
    let config = shop.config("run", 1, "");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("'clips'", "'empty'")).unwrap();
    let error = shop.refused(&config);
    for word in ["run.toml: data.path", "empty"] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn the_cache_is_not_made_twice() {
    let shop = Workshop::new();
    shop.run(&shop.config("one", 1, ""));
    let times = || {
        let mut times = Vec::new();
        for kind in ["latents", "text"] {
            for entry in fs::read_dir(shop.path("cache").join(kind)).unwrap() {
                let entry = entry.unwrap();
                times.push((entry.path(), entry.metadata().unwrap().modified().unwrap()));
            }
        }
        times.sort();
        times
    };
    let before = times();
    assert_eq!(
        before.len(),
        5,
        "two clips, two captions, the empty caption"
    );
    // A damaged file is made again, the others stay.
    fs::write(&before[0].0, b"cut off").unwrap();
    shop.run(&shop.config("two", 1, ""));
    let after = times();
    assert_eq!(after[1..], before[1..]);
    assert!(fs::metadata(&after[0].0).unwrap().len() > 100);
}

#[test]
fn another_adapter_does_not_continue_from_a_checkpoint() {
    let shop = Workshop::new();
    shop.run(&shop.config("run", 1, ""));
    let config = shop.config("run", 2, "lora.dropout = 0.5");
    let error = run::<Inner>(
        &config,
        None,
        &FlexDevice,
        &mut Quiet,
        &AtomicBool::new(false),
    );
    let message = error.unwrap_err().to_string();
    assert!(message.contains("lora.dropout"), "{message}");
}

#[test]
fn all_weights_of_a_model_can_be_trained_and_loaded() {
    let shop = Workshop::new();
    let extra = "mode = 'full'\nvalidation.every = 20";
    let text = fs::read_to_string(shop.config("run", 20, "")).unwrap();
    let text = text.replace("learning_rate = 1e-2", "learning_rate = 1e-3");
    let config = shop.path("run.toml");
    fs::write(&config, format!("{extra}\n{text}")).unwrap();
    let outcome = shop.run(&config);
    let lines = read_metrics(&shop.path("run/metrics.jsonl")).unwrap();
    let Metric::Validation {
        validation_loss, ..
    } = &lines[0]
    else {
        panic!("no validation before the first step");
    };
    assert!(outcome.validation_loss.unwrap() < *validation_loss);
    let dir = shop.path("run/dit");
    longcat_dit::LongCatTransformer::<Inner>::load(&dir, None::<burn::tensor::DType>, &FlexDevice)
        .unwrap();
}

/// Names the configuration to the process that is to be killed.
const KILLED_RUN: &str = "LONGCAT_TEST_KILLED_RUN";

/// Trains in the process that [`a_run_killed_twenty_times_goes_on_from_its_newest_checkpoint`] starts.
#[test]
fn the_run_that_is_killed() {
    if let Some(config) = std::env::var_os(KILLED_RUN) {
        let interrupt = AtomicBool::new(false);
        let config = Path::new(&config);
        run::<Inner>(config, None, &FlexDevice, &mut Quiet, &interrupt).unwrap();
    }
}

#[test]
fn a_run_killed_twenty_times_goes_on_from_its_newest_checkpoint() {
    let shop = Workshop::new();
    let config = shop.config("run", 400, "checkpoints.every = 1\ncheckpoints.keep = 2");
    let newest = || {
        let steps = fs::read_dir(shop.path("run/checkpoints"))
            .into_iter()
            .flatten();
        let names = steps.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let steps = names.filter_map(|n| n.strip_prefix("step-")?.parse::<usize>().ok());
        steps.max().unwrap_or(0)
    };
    let mut before = 0;
    for kill in 0..20u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "runs::the_run_that_is_killed"])
            .env(KILLED_RUN, &config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // At first until there is a checkpoint, then at moments spread over several steps.
        while newest() <= before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_micros(kill * 7919 % 60_000));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.code().is_none(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let now = newest();
        assert!(now > before, "kill {kill}: {before} then {now}");
        before = now;
        let adapter = shop.path(&format!(
            "run/checkpoints/step-{now:06}/adapter.safetensors"
        ));
        Adapter::read(&adapter, lora_targets()).unwrap();
    }
    // What is left behind is what an undisturbed run writes.
    let interrupt = AtomicBool::new(false);
    let stop = before + 2;
    run::<Inner>(
        &config,
        None,
        &FlexDevice,
        &mut StopAfter(stop, &interrupt),
        &interrupt,
    )
    .unwrap();
    let losses = shop.losses("run");
    fs::remove_dir_all(shop.path("run")).unwrap();
    let interrupt = AtomicBool::new(false);
    run::<Inner>(
        &config,
        None,
        &FlexDevice,
        &mut StopAfter(stop, &interrupt),
        &interrupt,
    )
    .unwrap();
    assert_eq!(losses, shop.losses("run"));
}
