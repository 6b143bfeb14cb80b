//! A device that fails while a run is on it.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn_flex::{Flex, FlexDevice};
use longcat_kernels::{DeviceFault, KernelDevice, Stage};
use longcat_train::{StepReport, TrainError, TrainObserver, run};

use crate::golden::Inner;
use crate::workshop::Workshop;

/// When the device fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    /// As this many clips or captions are in the cache.
    Caching(&'static str, usize),
    /// As all of them are.
    Cached(&'static str),
    /// After this step.
    Step(usize),
    /// As this step was validated.
    Validated(usize),
}

struct Failing(When);

impl Failing {
    fn at(&self, now: When) {
        if self.0 == now {
            let fault = DeviceFault::new("can't allocate buffer of size: 1048576\n");
            Flex::keep_fault(&FlexDevice, fault);
        }
    }
}

impl TrainObserver for Failing {
    fn caching(&mut self, what: &str, done: usize, total: usize) {
        for known in ["clips", "captions"] {
            if known == what {
                self.at(When::Caching(known, done));
            }
            if known == what && done == total {
                self.at(When::Cached(known));
            }
        }
    }

    fn step(&mut self, report: &StepReport) {
        self.at(When::Step(report.step));
    }

    fn validated(&mut self, step: usize, _loss: f64) {
        self.at(When::Validated(step));
    }
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// The error of a run on a device that fails.
fn fails(shop: &Workshop, when: When) -> Stage {
    fails_with(shop, "", when)
}

/// The same of a run with further settings. On a thread of its own, whose CPU is not that of others.
fn fails_with(shop: &Workshop, further: &str, when: When) -> Stage {
    let every = "checkpoints.every = 2\nvalidation.every = 3\nvalidation.sigmas = [0.5]";
    let config = shop.config("run", 4, &format!("{every}\n{further}"));
    let run = || {
        run::<Inner>(
            &config,
            None,
            &FlexDevice,
            &mut Failing(when),
            &AtomicBool::new(false),
        )
    };
    let error = std::thread::scope(|scope| scope.spawn(run).join().unwrap()).unwrap_err();
    let message = error.to_string();
    let TrainError::Failed(error) = error else {
        panic!("{when:?}: {message}");
    };
    assert!(message.contains("1.0 MiB"), "{message}");
    error.stage
}

#[test]
fn nothing_of_a_failed_device_is_kept() {
    let shop = Workshop::new();
    let path = |name: &str| shop.path(name);
    let clips = When::Caching("clips", 0);
    assert_eq!(fails(&shop, clips), Stage::EncodingFrames);
    assert_eq!(files(&path("cache/latents")), [""; 0]);
    let captions = When::Caching("captions", 1);
    assert_eq!(fails(&shop, captions), Stage::EncodingPrompt);
    assert_eq!(files(&path("cache/latents")).len(), 2);
    assert_eq!(files(&path("cache/text")).len(), 1);
    let last = When::Cached("captions");
    assert_eq!(fails(&shop, last), Stage::LoadingTransformer);

    let validated = When::Validated(0);
    assert_eq!(fails(&shop, validated), Stage::Training { step: 1 });
    assert_eq!(fails(&shop, When::Step(1)), Stage::Training { step: 2 });
    assert_eq!(files(&path("run/checkpoints")), [""; 0]);
    // A checkpoint is due after this step, and the device failed before it was read.
    assert_eq!(fails(&shop, When::Step(2)), Stage::Saving);
    assert_eq!(files(&path("run/checkpoints")), [""; 0]);
    // From the checkpoint of step 2 on.
    assert_eq!(fails(&shop, When::Step(3)), Stage::Validating);
    assert_eq!(files(&path("run/checkpoints")), ["step-000002"]);
    assert_eq!(fails(&shop, When::Step(4)), Stage::Validating);
    assert!(!path("run/adapter.safetensors").exists());

    // What was kept is right: the run ends as one that nothing happened to.
    let config = path("run.toml");
    assert_eq!(shop.run(&config).step, 4);
    let (losses, adapter) = (shop.losses("run"), shop.adapter("run"));
    fs::remove_dir_all(path("run")).unwrap();
    fs::remove_dir_all(path("cache")).unwrap();
    assert_eq!(shop.run(&config).step, 4);
    assert_eq!(shop.losses("run"), losses);
    assert!(shop.adapter("run") == adapter, "the adapters differ");
}

#[test]
fn nothing_is_lost_over_packed_and_streamed_weights() {
    for further in [
        "model.precision = 'fp8'",
        "train.checkpointing = true\nmodel.streamed_blocks = 2",
        "train.checkpointing = true\nmodel.streamed_blocks = 2\nmodel.precision = 'int8'",
    ] {
        let shop = Workshop::new();
        let path = |name: &str| shop.path(name);
        let fails = |when| fails_with(&shop, further, when);
        let last = When::Cached("captions");
        assert_eq!(fails(last), Stage::LoadingTransformer, "{further}");
        assert_eq!(
            fails(When::Step(1)),
            Stage::Training { step: 2 },
            "{further}"
        );
        assert_eq!(files(&path("run/checkpoints")), [""; 0]);
        assert_eq!(fails(When::Step(3)), Stage::Validating, "{further}");
        assert_eq!(files(&path("run/checkpoints")), ["step-000002"]);
        let config = path("run.toml");
        assert_eq!(shop.run(&config).step, 4);
        let adapter = shop.adapter("run");
        fs::remove_dir_all(path("run")).unwrap();
        assert_eq!(shop.run(&config).step, 4);
        assert!(
            shop.adapter("run") == adapter,
            "{further}: the adapters differ"
        );
    }
}
