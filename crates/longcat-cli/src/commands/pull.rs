//! `longcat pull`: a model from the Hugging Face hub.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressStyle};
use longcat_cli::{note, printable, say};
use longcat_hub::{
    Hub, HubSettings, Progress, PullOptions, PullPlan, RepoName, Selection, Snapshot,
};
use serde_json::{Value, json};

use crate::args::Pull;

pub fn run(args: &Pull) -> Result<()> {
    let name = match &args.revision {
        Some(revision) => args.repo.at(revision)?,
        None => args.repo.clone(),
    };
    let selection = Selection::new(&args.include, &args.exclude)?;
    let settings = HubSettings::from_env()?;
    let offline = settings.offline;
    let hub = Hub::new(settings, PullOptions::default());
    if offline {
        let snapshot = hub.offline(&name)?;
        note!("HF_HUB_OFFLINE is set: this is what the cache has of {name}");
        tell(&name, &snapshot, 0, args.json);
        return Ok(());
    }
    let plan = hub.plan(&name, &selection)?;
    if args.dry_run {
        show(&plan, args.json);
        return Ok(());
    }
    let to_come = plan.to_come();
    note!(
        "{name}: {} files, {}, of which {} are still to come",
        plan.files.len(),
        BinaryBytes(plan.total()),
        BinaryBytes(to_come)
    );
    let bar = PullBar::new(&plan)?;
    let pulled = hub.pull(&plan, &mut |progress| bar.show(progress));
    bar.bar.finish_and_clear();
    let snapshot = pulled?;
    note!("use it with --model {name}");
    tell(&name, &snapshot, to_come, args.json);
    Ok(())
}

/// Prints where the files are.
fn tell(name: &RepoName, snapshot: &Snapshot, downloaded: u64, as_json: bool) {
    if !as_json {
        say!("{}", printable(&snapshot.path.to_string_lossy()));
        return;
    }
    let result = json!({
        "repo": name.id(),
        "commit": snapshot.commit,
        "path": snapshot.path,
        "downloaded": downloaded,
        "files": snapshot.files,
    });
    say!("{result:#}");
}

/// Prints what would be downloaded.
fn show(plan: &PullPlan, as_json: bool) {
    if as_json {
        let files = plan.files.iter().map(|planned| {
            json!({
                "name": planned.file.name,
                "bytes": planned.file.size,
                "present": planned.present,
            })
        });
        let result = json!({
            "repo": plan.name.id(),
            "commit": plan.commit,
            "bytes": plan.total(),
            "to_come": plan.to_come(),
            "files": files.collect::<Vec<Value>>(),
        });
        say!("{result:#}");
        return;
    }
    for planned in &plan.files {
        let size = BinaryBytes(planned.file.size).to_string();
        let there = match planned.present {
            0 => String::new(),
            all if all == planned.file.size => "  in the cache".into(),
            part => format!("  {} in the cache", BinaryBytes(part)),
        };
        say!("{size:>12}  {}{there}", printable(&planned.file.name));
    }
    let total = BinaryBytes(plan.total()).to_string();
    let to_come = BinaryBytes(plan.to_come());
    say!("{total:>12}  in all, of which {to_come} are still to come");
}

/// Parts of the whole after each of which a line is written where there is no terminal.
const LINES: u64 = 20;

/// Progress, speed and time left on standard error, and Ctrl-C.
struct PullBar {
    bar: ProgressBar,
    /// Parts that were told of.
    told: Cell<u64>,
    interrupt: Arc<AtomicBool>,
}

impl PullBar {
    fn new(plan: &PullPlan) -> Result<Self> {
        let style = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
        let style =
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(plan.total()).with_style(style);
        // What is there already says nothing of the speed.
        let present = plan.total() - plan.to_come();
        bar.set_position(present);
        bar.reset_eta();
        Ok(Self {
            bar,
            told: Cell::new(parts(present, plan.total())),
            interrupt: longcat_cli::interrupt()?,
        })
    }

    /// Shows how far it is; says whether to go on.
    fn show(&self, progress: &Progress) -> ControlFlow<()> {
        for text in &progress.notes {
            self.bar.suspend(|| note!("{}", printable(text)));
        }
        let current = match progress.current.as_slice() {
            [] => String::new(),
            [one] => printable(one).into_owned(),
            [one, rest @ ..] => format!("{} and {} more", printable(one), rest.len()),
        };
        self.bar.set_message(current);
        self.bar.set_position(progress.done);
        let parts = parts(progress.done, progress.total);
        if self.bar.is_hidden() && parts > self.told.replace(parts) {
            note!(
                "{} of {}, {} left",
                BinaryBytes(progress.done),
                BinaryBytes(progress.total),
                HumanDuration(self.bar.eta())
            );
        }
        match self.interrupt.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

fn parts(done: u64, total: u64) -> u64 {
    done * LINES / total.max(1)
}
