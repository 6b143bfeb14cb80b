//! Several ranks: threads of this process, and processes on this host.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use burn_flex::FlexDevice;
use longcat_train::{
    Outcome, Quiet, RankError, RankPlace, Ranks, StepReport, TrainError, TrainObserver,
    encode_clips, read_config, run_ranks,
};

use crate::golden::Inner;
use crate::runs::StopAfter;
use crate::workshop::Workshop;

type Ended = Result<Outcome, TrainError>;

/// What each of some ranks gives, each on a thread of its own; `None` of one that panics.
fn on_ranks<T: Send>(size: usize, work: impl Fn(Ranks, &AtomicBool) -> T + Sync) -> Vec<Option<T>> {
    let flags: Vec<Arc<AtomicBool>> = (0..size).map(|_| Arc::default()).collect();
    let (ranks, work) = (Ranks::in_threads(&flags), &work);
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranks
            .into_iter()
            .zip(&flags)
            .map(|(ranks, flag)| scope.spawn(move || work(ranks, flag)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().ok())
            .collect()
    })
}

fn train(
    config: &Path,
    ranks: Ranks,
    observer: &mut dyn TrainObserver,
    flag: &AtomicBool,
) -> Ended {
    run_ranks::<Inner>(config, None, &FlexDevice, ranks, observer, flag)
}

/// Trains on so many ranks.
fn together(config: &Path, size: usize) -> Vec<Outcome> {
    let ended = on_ranks(size, |ranks, flag| {
        train(config, ranks, &mut Quiet, flag).unwrap()
    });
    ended.into_iter().map(Option::unwrap).collect()
}

fn assert_same_losses(shop: &Workshop, a: &str, b: &str) {
    let (a, b) = (shop.losses(a), shop.losses(b));
    assert_eq!(a.len(), b.len());
    for ((step, a), (other, b)) in a.into_iter().zip(b) {
        assert_eq!(step, other);
        assert!((a - b).abs() < 1e-6 * a.abs(), "step {step}: {a} {b}");
    }
}

/// With a large epsilon the factors show the sums of gradients themselves; everything that is drawn, is.
const DRAWN: &str = "data.repeats = 2\nobjective.caption_dropout = 0.5\nlora.dropout = 0.2\n\
    optimizer.epsilon = 1e-2\noptimizer.schedule = 'cosine'\noptimizer.ema_decay = 0.9\n";

#[test]
fn ranks_train_as_accumulation_does() {
    let shop = Workshop::new();
    for (size, each) in [(2, 2), (3, 1)] {
        let with = |name: &str, passes: usize| {
            let extra = format!("{DRAWN}train.accumulation = {passes}\nvalidation.every = 2");
            shop.config(&format!("{name}-{size}"), 4, &extra)
        };
        let one = with("one", size * each);
        shop.run(&one);
        let outcomes = together(&with("ranks", each), size);
        assert!(outcomes.iter().all(|outcome| outcome.step == 4));
        let writing = outcomes
            .iter()
            .filter(|outcome| outcome.checkpoint.is_some());
        assert_eq!(writing.count(), 1);
        let [one, ranks] = [format!("one-{size}"), format!("ranks-{size}")];
        assert_same_losses(&shop, &one, &ranks);
        let error = shop.difference(&one, &ranks);
        assert!(
            error < 1e-6,
            "{size} ranks: relative difference {error:.2e}"
        );
        assert!(
            shop.path(&ranks)
                .join("adapter-average.safetensors")
                .is_file()
        );
    }
}

#[test]
fn a_run_goes_from_two_ranks_to_one_and_back() {
    let shop = Workshop::new();
    let extra = format!("{DRAWN}train.global_batch = 4\ncheckpoints.every = 4");
    shop.run(&shop.config("whole", 6, &extra));
    let config = shop.config("run", 6, &extra);
    // One that does not write is interrupted, and all stop after the same step.
    let stopped = on_ranks(2, |ranks, flag| match ranks.rank() {
        0 => train(&config, ranks, &mut Quiet, flag).unwrap(),
        _ => train(&config, ranks, &mut StopAfter(2, flag), flag).unwrap(),
    });
    for outcome in stopped.into_iter().map(Option::unwrap) {
        assert_eq!((outcome.step, outcome.interrupted), (2, true));
    }
    let flag = AtomicBool::new(false);
    let alone = train(&config, Ranks::alone(), &mut StopAfter(3, &flag), &flag).unwrap();
    assert_eq!((alone.step, alone.interrupted), (3, true));
    assert!(
        together(&config, 2)
            .iter()
            .all(|outcome| !outcome.interrupted)
    );
    assert_same_losses(&shop, "whole", "run");
    let error = shop.difference("whole", "run");
    assert!(error < 1e-6, "relative difference {error:.2e}");
}

#[test]
fn ranks_share_out_what_the_cache_lacks() {
    /// How many clips and captions a rank has to do with.
    #[derive(Default)]
    struct Totals(usize);
    impl TrainObserver for Totals {
        fn caching(&mut self, what: &str, _done: usize, total: usize) {
            if what == "clips" {
                self.0 = total;
            }
        }
    }
    let shop = Workshop::new();
    let config = shop.config("run", 1, "");
    let totals = on_ranks(2, |ranks, flag| {
        let mut totals = Totals::default();
        train(&config, ranks, &mut totals, flag).unwrap();
        totals.0
    });
    assert_eq!(totals, [Some(1), Some(1)]);
    let files = |kind: &str| fs::read_dir(shop.path("cache").join(kind)).unwrap().count();
    assert_eq!((files("latents"), files("text")), (2, 3));
    // What one rank cannot read is left out on all of them.
    fs::write(shop.path("clips/c.png"), b"not a picture").unwrap();
    fs::write(shop.path("clips/c.txt"), "nothing").unwrap();
    together(&shop.config("skipping", 2, "data.skip_broken = true"), 3);
    let text = fs::read_to_string(shop.path("skipping/clips.jsonl")).unwrap();
    assert!(text.contains("c.png"), "{text}");
}

#[test]
fn ranks_that_are_not_alike_do_not_begin() {
    let shop = Workshop::new();
    let config = shop.config("run", 1, "");
    let refused = |size: usize, config: &(dyn Fn(usize) -> std::path::PathBuf + Sync)| {
        let ended = on_ranks(size, |ranks, flag| {
            let config = config(ranks.rank());
            train(&config, ranks, &mut Quiet, flag)
                .unwrap_err()
                .to_string()
        });
        assert!(!shop.path("cache").exists(), "something was encoded");
        ended
            .into_iter()
            .map(Option::unwrap)
            .collect::<Vec<String>>()
    };
    let other = shop.path("other.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&other, text.replace("rate = 1e-2", "rate = 2e-2")).unwrap();
    let chosen = |rank: usize| match rank {
        1 => other.clone(),
        _ => config.clone(),
    };
    for error in refused(3, &chosen) {
        for word in ["rank 1 ", "optimizer.learning_rate"] {
            assert!(error.contains(word), "{error}");
        }
    }
    let uneven = shop.config("uneven", 1, "train.global_batch = 4");
    for error in refused(3, &|_| uneven.clone()) {
        assert!(error.contains("train.global_batch"), "{error}");
    }

    // Files that one host has otherwise.
    let read = read_config(&config).unwrap();
    let found = read.find_clips(
        "data.path",
        &read.data.path,
        &mut Quiet,
        &AtomicBool::new(false),
    );
    let clips = found.unwrap().clips;
    for change in [
        |clips: &mut Vec<longcat_train::CaptionedClip>| clips[1].captions[0].push('!'),
        |clips: &mut Vec<longcat_train::CaptionedClip>| clips[1].path = clips[0].path.clone(),
    ] {
        let errors = on_ranks(2, |ranks, flag| {
            let mut clips = clips.clone();
            if ranks.rank() == 1 {
                change(&mut clips);
            }
            encode_clips::<Inner>(&read, &clips, &FlexDevice, &ranks, &mut Quiet, flag).unwrap_err()
        });
        for error in errors.into_iter().map(Option::unwrap) {
            let TrainError::Ranks(RankError::Differs { rank: 1, reason }) = error else {
                panic!("{error}");
            };
            assert!(reason.contains(".png"), "{reason}");
        }
    }
}

/// Panics after a step.
struct PanicAfter(usize);

impl TrainObserver for PanicAfter {
    fn step(&mut self, report: &StepReport) {
        assert!(report.step < self.0, "as it was asked to");
    }
}

#[test]
fn a_rank_that_fails_ends_the_others() {
    let shop = Workshop::new();
    let config = shop.config("run", 6, "checkpoints.every = 2");
    let ended = on_ranks(3, |ranks, flag| match ranks.rank() {
        1 => train(&config, ranks, &mut PanicAfter(3), flag),
        _ => train(&config, ranks, &mut Quiet, flag),
    });
    let mut ended = ended.into_iter();
    for rank in 0..3 {
        match (rank, ended.next().unwrap()) {
            (1, None) => {}
            (_, Some(Err(TrainError::Ranks(RankError::Failed { rank: 1, .. })))) => {}
            (rank, other) => panic!("rank {rank}: {other:?}"),
        }
    }
    assert!(shop.path("run/checkpoints/step-000002").is_dir());
    assert_eq!(shop.run(&config).step, 6);
}

/// Names the configuration to the processes of [`a_rank_that_is_killed_is_named_and_the_run_goes_on`].
const KILLED_RANK: &str = "LONGCAT_TEST_KILLED_RANK";

#[test]
fn the_rank_that_is_killed() {
    let Some(config) = std::env::var_os(KILLED_RANK) else {
        return;
    };
    let interrupt = Arc::new(AtomicBool::new(false));
    let place = RankPlace::from_env().unwrap().unwrap();
    let ranks = Ranks::meet(&place, &interrupt).unwrap();
    if let Err(error) = train(Path::new(&config), ranks, &mut Quiet, &interrupt) {
        eprintln!("ended with: {error}");
        std::process::exit(3);
    }
}

#[test]
fn a_rank_that_is_killed_is_named_and_the_run_goes_on() {
    let shop = Workshop::new();
    let config = shop.config("run", 400, "checkpoints.every = 1\ncheckpoints.keep = 2");
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let start = |rank: usize| -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ranks::the_rank_that_is_killed", "--nocapture"])
            .env(KILLED_RANK, &config)
            .envs([("RANK", rank.to_string()), ("LOCAL_RANK", rank.to_string())])
            .envs([("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")])
            .env("MASTER_PORT", (port - 1).to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let (mut first, mut second) = (start(0), start(1));
    let patience = Instant::now() + Duration::from_secs(120);
    while !shop.path("run/checkpoints/step-000002").is_dir() {
        assert!(first.try_wait().unwrap().is_none(), "rank 0 ended");
        assert!(Instant::now() < patience, "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    second.kill().unwrap();
    second.wait().unwrap();
    let killed = Instant::now();
    let status = first.wait().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(60));
    let mut words = String::new();
    first
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut words)
        .unwrap();
    assert_eq!(status.code(), Some(3), "{words}");
    let place = format!("process {}", second.id());
    assert!(
        words.contains("rank 1 (") && words.contains(&place),
        "{words}"
    );
    // The newest checkpoint is whole, and any number of ranks goes on from it.
    let names = fs::read_dir(shop.path("run/checkpoints")).unwrap();
    let names = names.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let steps = names.filter_map(|name| name.strip_prefix("step-")?.parse::<usize>().ok());
    let more = steps.max().unwrap() + 1;
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("steps = 400", &format!("steps = {more}")),
    )
    .unwrap();
    assert_eq!(shop.run(&config).step, more);
}
