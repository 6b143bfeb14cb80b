//! `longcat batch`: many videos with one loaded model, by one process or by many.

mod before;
mod claim;
mod heartbeat;
mod list;
mod process;
mod results;
mod shard;
mod work;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use longcat_cli::{interrupt, note, printable, say};
use longcat_video::{Observer, VideoError};
use serde_json::Value;

use crate::args::Batch;
use crate::commands::plan::Task;
use crate::session::Session;

use before::Before;
use claim::Claims;
use list::{Line, Problem};
use results::Results;
use shard::Shard;
use work::{Count, Ended, Work};

pub use shard::ShardArg;

/// Seconds after which a silent process counts as gone, where it was not said.
const PATIENCE: u64 = 120;

pub fn run(args: &Batch) -> Result<()> {
    fs::create_dir_all(&args.output)
        .with_context(|| format!("{} cannot be made", args.output.display()))?;
    let (mut lines, problems) = list::read(&args.list, &args.output, &args.set)?;
    refuse(&args.list, &problems)?;
    if lines.is_empty() {
        bail!("{} has no requests", args.list.display());
    }
    let part = match args.claim {
        Some(_) => None,
        None => Shard::find(args.shard, |name| std::env::var(name).ok())?,
    };
    if let Some((shard, from)) = part {
        let all = lines.len();
        lines.retain(|line| shard.has(line.index));
        note!(
            "part {shard} (from {from}): {} of {}",
            lines.len(),
            in_words(all)
        );
    }
    for line in &mut lines {
        let output = line.request.output_mut();
        output.file.no_metadata = args.no_metadata;
        // Whether what is there may be replaced is decided here.
        output.file.overwrite = true;
    }
    let before = Before::find();
    let mut results = Results::open(&args.output, before.as_ref().map(|before| before.begun))?;
    let patience = Duration::from_secs(args.claim.unwrap_or(PATIENCE));
    let claims = Claims::new(&args.output, patience)
        .with_context(|| format!("{} cannot be written in", args.output.display()))?;
    let (all, mut problems) = (lines.len(), Vec::new());
    let mut open = Vec::new();
    for line in lines {
        match standing(&line, &claims, &mut results, args.overwrite)? {
            Standing::Made => claims.sweep(&line.name)?,
            Standing::Open => open.push(line),
            Standing::Other(reason) => problems.push(Problem {
                line: line.number,
                reason,
            }),
        }
    }
    refuse(&args.list, &problems)?;
    // A device that fails again for the same lines ends the work: the others have had their turn by then.
    open.sort_by_key(|line| results.failed_before(&line.name));
    let follows = before.is_some();
    let before = before.unwrap_or_default();
    let mut count = Count {
        made: before.made,
        there: (all - open.len()).saturating_sub(before.made),
        failed: 0,
    };
    if !open.is_empty() {
        let mut session = open_session(args, follows)?;
        // Else the process before this one has checked them.
        if !follows {
            let problems = check(&open, &mut session, &claims, &mut results)?;
            refuse(&args.list, &problems)?;
        }
        if args.check {
            say!("{} can be made", in_words(open.len()));
            return Ok(());
        }
        session.bar.over(open.len());
        let mut work = Work::new(args, &mut session, &claims, &mut results, &before);
        let ended = work.run(open, patience);
        let (made, device_failures, alone) = (work.count, work.device_failures, work.alone);
        session.bar.end();
        count.made += made.made;
        count.there += made.there;
        count.failed += made.failed;
        // Where a device failed this may break, too, which changes nothing of what became of the lines.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(session)));
        let cancelled = matches!(
            ended.as_ref().err().and_then(|error| error.downcast_ref()),
            Some(VideoError::Cancelled)
        );
        let failed = matches!(ended, Ok(Ended::DeviceFailed));
        // A new process would not know of a Ctrl-C that came while the device failed.
        if cancelled || (failed && interrupt()?.load(Ordering::SeqCst)) {
            bail!(
                "stopped after {}; the same command goes on",
                in_words(count.made)
            );
        }
        if ended? == Ended::DeviceFailed {
            // A process that lives holds lines only while it makes them.
            drop(claims);
            let next = Before {
                begun: results.begun(),
                made: count.made,
                device_failures,
                alone,
                ..before
            };
            return next.go_on(&args.list);
        }
    }
    let Count {
        made,
        there,
        failed,
    } = count;
    let all = in_words(all);
    note!("{made} made, {there} there already, {failed} failed, of {all}");
    match failed {
        0 => Ok(()),
        failed => bail!(
            "{failed} of {all} failed; {} says why, and the same command tries them again",
            results.path().display()
        ),
    }
}

fn open_session(args: &Batch, follows: bool) -> Result<Session> {
    let session = Session::for_many("batch", &args.place, args.low_memory);
    match follows {
        true => session
            .context("the device failed, and cannot be opened again; the same command goes on"),
        false => session,
    }
}

/// Whether a line is to be made.
enum Standing {
    /// It was made.
    Made,
    Open,
    /// What is there came from something else, as this says.
    Other(String),
}

fn standing(
    line: &Line,
    claims: &Claims,
    results: &mut Results,
    overwrite: bool,
) -> Result<Standing> {
    if !line.request.output().file.output.exists() {
        return Ok(Standing::Open);
    }
    // Claims end after records are written: who looks at them first misses neither.
    if claims.request_of(&line.name).as_ref() == Some(&line.object) {
        return Ok(Standing::Open);
    }
    results.refresh()?;
    let from = match results.made(&line.name) {
        Some(request) if *request == line.object => return Ok(Standing::Made),
        _ if overwrite => return Ok(Standing::Open),
        Some(_) => "was made from another line",
        None => "is there, and the results do not tell what it was made from",
    };
    Ok(Standing::Other(format!(
        "output: {} {from}; name another output, or have it made anew by --overwrite (-y)",
        line.name
    )))
}

/// What is wrong with lines, now that the checkpoint is open. Nothing is loaded but adapters.
fn check(
    lines: &[Line],
    session: &mut Session,
    claims: &Claims,
    results: &mut Results,
) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    // Those with the same adapters after one another, which are then read once.
    let mut order: Vec<&Line> = lines.iter().collect();
    order.sort_by_cached_key(|line| {
        let keys = ["distill", "lora", "refine_lora", "refine-lora"];
        keys.map(|key| line.object.get(key).map(ToString::to_string))
    });
    session.bar.over(lines.len());
    for line in order {
        if session.bar.cancelled() {
            return Err(VideoError::Cancelled.into());
        }
        session.bar.begin_request(format!("checking {}", line.name));
        let output = line.request.output();
        let files = [Some(&output.file.output), output.save_latents.as_ref()];
        let mut folders = files.into_iter().flatten().filter_map(|path| path.parent());
        let made = folders.try_for_each(fs::create_dir_all);
        let checked = made
            .context("output")
            .and_then(|()| line.request.run(session, Task::Check));
        if let Err(error) = checked {
            // Another process may have made it meanwhile: what is there is then no obstacle.
            let there = output.file.output.exists()
                && !matches!(standing(line, claims, results, false)?, Standing::Other(_));
            if !there {
                problems.push(Problem {
                    line: line.number,
                    reason: format!("{error:#}"),
                });
            }
        } else if is_negative_unused(line, session) {
            let text = "negative has no effect without guidance above 1";
            let aside = || note!("warning: line {}: {text}", line.number);
            session.bar.aside(aside);
        }
        session.bar.done(1);
    }
    session.bar.end();
    problems.sort_by_key(|problem| problem.line);
    Ok(problems)
}

/// Whether the line that a session began last has a negative prompt that does nothing.
fn is_negative_unused(line: &Line, session: &Session) -> bool {
    let given = line.object.get("negative").and_then(Value::as_str);
    let given = given.is_some_and(|text| !text.is_empty());
    let made = session.begun();
    given && made.is_some_and(|made| made.negative_prompt.is_empty())
}

/// Prints what is wrong with lines and ends the command, if something is.
fn refuse(list: &Path, problems: &[Problem]) -> Result<()> {
    /// A list of the wrong kind has one for each line.
    const SHOWN: usize = 50;
    if problems.is_empty() {
        return Ok(());
    }
    let list = list.display();
    for Problem { line, reason } in problems.iter().take(SHOWN) {
        note!("{}", printable(&format!("{list}:{line}: {reason}")));
    }
    if problems.len() > SHOWN {
        note!("and {} more", problems.len() - SHOWN);
    }
    let count = problems.len();
    let are = if count == 1 { "is" } else { "are" };
    Err(VideoError::Invalid {
        what: "batch",
        reason: format!("{} {are} at fault; nothing was begun", in_words(count)),
    }
    .into())
}

/// A number of lines.
fn in_words(count: usize) -> String {
    match count {
        1 => "1 line".into(),
        count => format!("{count} lines"),
    }
}
