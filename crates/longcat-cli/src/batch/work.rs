//! Making the lines of a list, one after another or several at once.

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use longcat_cli::{note, printable, say};
use longcat_video::{Observer, VideoError};
use serde_json::{Map, Value, json};

use super::before::Before;
use super::claim::{Claim, Claims, Left, Taken};
use super::list::Line;
use super::process::Process;
use super::results::Results;
use crate::args::{Batch, TextToVideo};
use crate::commands::generate::Given;
use crate::commands::plan::Task;
use crate::commands::together;
use crate::failure::device_error;
use crate::request::Request;
use crate::session::Session;

/// Failures of the device one after another, after which it is taken to be lost.
const DEVICE_FAILURES: usize = 3;
/// How often lines of others are looked at, at most.
const LOOK: Duration = Duration::from_secs(2);

/// The work of one process.
pub struct Work<'a> {
    args: &'a Batch,
    session: &'a mut Session,
    claims: &'a Claims,
    results: &'a mut Results,
    me: Process,
    pub count: Count,
    /// Failures of the device since the last video.
    pub device_failures: usize,
    /// Whether lines are made one by one, whatever was asked for.
    pub alone: bool,
}

/// Why the work of a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// There is nothing left to do.
    Done,
    /// The device failed, and lines are left for another process: what it computes from now on is of no use to
    /// this one.
    DeviceFailed,
}

/// What became of lines that were to be made.
enum Made {
    /// All are settled.
    All,
    /// The device failed when so many were settled.
    DeviceFailed(usize),
}

/// What became of lines.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count {
    pub made: usize,
    /// Made before, or by other processes.
    pub there: usize,
    pub failed: usize,
}

/// A line that is this process's to make.
struct Mine {
    line: Line,
    claim: Claim,
}

/// What is to be done for a line.
enum Step {
    Nothing,
    Make(Mine),
    /// Another process has it.
    Wait(Line, Process),
}

impl<'a> Work<'a> {
    pub fn new(
        args: &'a Batch,
        session: &'a mut Session,
        claims: &'a Claims,
        results: &'a mut Results,
        before: &Before,
    ) -> Self {
        Self {
            args,
            session,
            claims,
            results,
            me: Process::this(),
            count: Count::default(),
            device_failures: before.device_failures,
            alone: before.alone,
        }
    }

    /// Makes all lines, and waits for those that others make: if these stop, their lines are taken over.
    pub fn run(&mut self, lines: Vec<Line>, patience: Duration) -> Result<Ended> {
        let mut queue = VecDeque::from(lines);
        let mut told = 0;
        loop {
            let (before, mut held) = (queue.len(), Vec::new());
            while let Some(line) = queue.pop_front() {
                self.go_on()?;
                match self.take(line)? {
                    Step::Nothing => self.session.bar.done(1),
                    Step::Make(mine) => {
                        let group = self.with_others(mine, &mut queue, &mut held)?;
                        let count = group.len();
                        let made = self.make(&group)?;
                        self.session.bar.done(count);
                        if let Made::DeviceFailed(settled) = made {
                            let left = settled < count || !queue.is_empty() || !held.is_empty();
                            return Ok(if left {
                                Ended::DeviceFailed
                            } else {
                                Ended::Done
                            });
                        }
                    }
                    Step::Wait(line, by) => held.push((line, by)),
                }
            }
            let Some((_, by)) = held.first() else {
                return Ok(Ended::Done);
            };
            let count = held.len();
            // Else there was something to do meanwhile, and some of them are done by now.
            if count == before {
                if told != count {
                    told = count;
                    let text =
                        format!("waiting for lines that others make ({count}; {by} has one)");
                    self.session.bar.aside(|| note!("{text}"));
                }
                self.sleep(LOOK.min(patience / 4))?;
            }
            queue.extend(held.into_iter().map(|(line, _)| line));
        }
    }

    /// Ends the work where the user asks for it.
    fn go_on(&self) -> Result<()> {
        match self.session.bar.cancelled() {
            true => Err(VideoError::Cancelled.into()),
            false => Ok(()),
        }
    }

    fn sleep(&self, time: Duration) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < time {
            self.go_on()?;
            std::thread::sleep(time.min(Duration::from_millis(50)));
        }
        Ok(())
    }

    /// Takes a line, unless there is nothing more to do for it; else says who has it.
    fn take(&mut self, line: Line) -> Result<Step> {
        self.results.refresh()?;
        if self.is_settled(&line) {
            self.claims.sweep(&line.name)?;
            return Ok(Step::Nothing);
        }
        let taken = self.claims.take(&line.name, &line.object);
        let claim = match taken.with_context(|| format!("taking {}", line.name))? {
            Taken::Held(by) => return Ok(Step::Wait(line, by)),
            Taken::Mine(claim) => claim,
        };
        // Its holder may have come to the end before this process took it.
        self.results.refresh()?;
        if self.is_settled(&line) {
            return Ok(Step::Nothing);
        }
        let path = &line.request.output().file.output;
        if let Some(Left { by, request }) = &claim.left {
            let latents = line.request.output().save_latents.as_ref();
            for file in [Some(path), latents].into_iter().flatten() {
                longcat_partial::sweep(file, by.pid);
            }
            let made_before = self.results.made(&line.name).is_some();
            if *request == line.object && path.exists() && !made_before {
                // Its process ended between the video and the record; what it took is not known.
                self.tell(&line, &claim, Map::new())?;
                self.count.there += 1;
                return Ok(Step::Nothing);
            }
        }
        // One from another line would be taken for the new one, should this process be cut off.
        if path.is_file() {
            fs::remove_file(path)?;
        }
        Ok(Step::Make(Mine { line, claim }))
    }

    /// Whether the line was made or failed since this process began, and counts it.
    fn is_settled(&mut self, line: &Line) -> bool {
        let path = &line.request.output().file.output;
        let made = self.results.made(&line.name) == Some(&line.object);
        if made && path.exists() {
            self.count.there += 1;
            return true;
        }
        let failure = self.results.failed(&line.name);
        if failure.is_some_and(|failure| failure.request == line.object) {
            self.count.failed += 1;
            return true;
        }
        false
    }

    /// Takes further lines that are denoised at once with this one, as far as that was asked for and fits.
    fn with_others(
        &mut self,
        mine: Mine,
        queue: &mut VecDeque<Line>,
        held: &mut Vec<(Line, Process)>,
    ) -> Result<Vec<Mine>> {
        let mut group = vec![mine];
        if self.args.together == 1 || self.alone {
            return Ok(group);
        }
        let Request::T2v(first) = &group[0].line.request else {
            return Ok(group);
        };
        let alike = |line: &Line| match &line.request {
            Request::T2v(args) => together::alike(first, args),
            _ => false,
        };
        let found: Vec<usize> = (0..queue.len()).filter(|i| alike(&queue[*i])).collect();
        let most = found.len().min(self.args.together - 1);
        // What is wrong with it is told when it is made.
        let most = together::fitting(self.session, first, 1 + most).unwrap_or(1);
        // From behind, so that indices stay.
        let others: Vec<Line> = found[..most - 1]
            .iter()
            .rev()
            .filter_map(|i| queue.remove(*i))
            .collect();
        for line in others.into_iter().rev() {
            match self.take(line)? {
                Step::Nothing => self.session.bar.done(1),
                Step::Make(mine) => group.push(mine),
                Step::Wait(line, by) => held.push((line, by)),
            }
        }
        Ok(group)
    }

    fn make(&mut self, group: &[Mine]) -> Result<Made> {
        if let [_] = group {
            return self.make_each(group);
        }
        let started = Instant::now();
        self.begin(&group[0].line, group.len());
        let requests: Vec<&TextToVideo> = group
            .iter()
            .filter_map(|mine| match &mine.line.request {
                Request::T2v(args) => Some(&**args),
                _ => None,
            })
            .collect();
        let made = together::make(self.session, &requests);
        self.go_on()?;
        let latents = match made {
            Ok(latents) => latents,
            Err(error) => {
                // One of them may be at fault.
                let reason = format!("{error:#}");
                let count = group.len();
                self.session.bar.aside(|| {
                    note!(
                        "{count} lines at once failed ({}); one by one",
                        printable(&reason)
                    )
                });
                if device_error(&error).is_some() {
                    self.alone = true;
                    return Ok(Made::DeviceFailed(0));
                }
                return self.make_each(group);
            }
        };
        let share = started.elapsed().as_secs_f64() / group.len() as f64;
        let all = group.iter().zip(&requests).zip(&latents);
        for (index, ((mine, args), latents)) in all.enumerate() {
            self.begin(&mine.line, 1);
            let given = Given::text_to_video(args, Task::Make);
            let written = given.and_then(|given| given.finish(self.session, latents));
            if !self.settle(mine, written, Some((group.len(), share)))? {
                return Ok(Made::DeviceFailed(index + 1));
            }
        }
        Ok(Made::All)
    }

    /// Makes lines one by one.
    fn make_each(&mut self, group: &[Mine]) -> Result<Made> {
        for (index, mine) in group.iter().enumerate() {
            self.begin(&mine.line, 1);
            let made = mine.line.request.run(self.session, Task::Make);
            if !self.settle(mine, made, None)? {
                return Ok(Made::DeviceFailed(index + 1));
            }
        }
        Ok(Made::All)
    }

    fn begin(&mut self, line: &Line, count: usize) {
        let name = match count {
            1 => line.name.clone(),
            count => format!("{} and {} more", line.name, count - 1),
        };
        self.session.bar.begin_request(name);
    }

    /// Records what became of a line, and says whether the device can be used for the next one. Of lines that
    /// were denoised at once with others `shared` are their number and the seconds of each.
    fn settle(
        &mut self,
        mine: &Mine,
        made: Result<()>,
        shared: Option<(usize, f64)>,
    ) -> Result<bool> {
        let Mine { line, claim } = mine;
        let mut record = match self.session.take_result() {
            Some(Value::Object(result)) => result,
            _ => Map::new(),
        };
        if let Some((count, seconds)) = shared {
            let own = record.get("seconds").and_then(Value::as_f64);
            record.insert("seconds".into(), json!(own.unwrap_or(0.0) + seconds));
            record.insert("together".into(), json!(count));
        }
        let Err(error) = made else {
            self.device_failures = 0;
            self.count.made += 1;
            self.tell(line, claim, record)?;
            return Ok(true);
        };
        // Not its fault, and tried again.
        self.go_on()?;
        let lost = device_error(&error).is_some();
        self.device_failures = if lost { self.device_failures + 1 } else { 0 };
        self.count.failed += 1;
        let reason = format!("{error:#}");
        record.insert("error".into(), json!(reason));
        self.tell(line, claim, record)?;
        match self.device_failures {
            DEVICE_FAILURES => bail!(
                "the device failed for {DEVICE_FAILURES} lines one after another, the last time with: \
                 {reason}; the same command goes on, with these lines last"
            ),
            _ => Ok(!lost),
        }
    }

    /// Adds a record to the results, and prints it.
    fn tell(&mut self, line: &Line, claim: &Claim, result: Map<String, Value>) -> Result<()> {
        if !claim.is_still_mine() {
            let name = printable(&line.name).to_string();
            let text = "was taken over, because this process was silent for too long";
            self.session.bar.aside(|| note!("warning: {name} {text}"));
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut record = Map::new();
        record.insert("line".into(), json!(line.number));
        record.insert("output".into(), json!(line.name));
        record.extend(result.into_iter().filter(|(key, _)| key != "output"));
        record.insert("request".into(), Value::Object(line.object.clone()));
        record.insert("host".into(), json!(self.me.host));
        record.insert("pid".into(), json!(self.me.pid));
        let now = now.map(|time| time.as_secs()).unwrap_or_default();
        record.insert("time".into(), json!(now));
        self.results.append(&record)?;
        let text = match self.args.json {
            true => serde_json::to_string(&record)?,
            false => in_words(&record),
        };
        let failed = record.contains_key("error") && !self.args.json;
        self.session.bar.aside(|| match failed {
            true => note!("error: {}", printable(&text)),
            false => say!("{}", printable(&text)),
        });
        Ok(())
    }
}

/// A record for a reader.
fn in_words(record: &Map<String, Value>) -> String {
    let text = |key: &str| match record.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let (line, output) = (text("line"), text("output"));
    if record.contains_key("error") {
        return format!("line {line}, {output}: {}", text("error"));
    }
    let Some(seconds) = record.get("seconds").and_then(Value::as_f64) else {
        return format!("line {line}, {output}: was there already");
    };
    match record.get("frames") {
        Some(Value::Number(frames)) => {
            let (width, height) = (text("width"), text("height"));
            format!("line {line}, {output}: {frames} frames of {width}x{height}, {seconds:.1} s")
        }
        _ => format!("line {line}, {output}: latents, {seconds:.1} s"),
    }
}
