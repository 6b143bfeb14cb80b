//! `results.jsonl`: what was made of each line, by all processes.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// The file among the results.
pub const FILE: &str = "results.jsonl";

/// What is known of results. The file is read as it grows.
pub struct Results {
    path: PathBuf,
    /// Bytes that were read: whole lines.
    read: u64,
    /// As many were there when this run began.
    begun: u64,
    /// What each output was made from, by its name.
    made: HashMap<String, Map<String, Value>>,
    /// Requests that failed since this was opened, by the name of their output.
    failed: HashMap<String, Failure>,
    /// The outputs whose requests failed in earlier runs.
    failed_before: HashSet<String>,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub request: Map<String, Value>,
    pub error: String,
}

impl Results {
    /// Reads what earlier runs made; what failed in them is tried again. A run that goes on in another process
    /// has `begun` after so many bytes.
    pub fn open(folder: &Path, begun: Option<u64>) -> Result<Self> {
        let mut results = Self {
            path: folder.join(FILE),
            read: 0,
            begun: 0,
            made: HashMap::new(),
            failed: HashMap::new(),
            failed_before: HashSet::new(),
        };
        results.refresh_up_to(begun.unwrap_or(u64::MAX))?;
        results.begun = results.read;
        results.failed_before = std::mem::take(&mut results.failed).into_keys().collect();
        results.refresh()?;
        Ok(results)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes there were when this run began.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// What an output was made from, as far as is known.
    pub fn made(&self, name: &str) -> Option<&Map<String, Value>> {
        self.made.get(name)
    }

    /// How an output failed in this run, perhaps in another process.
    pub fn failed(&self, name: &str) -> Option<&Failure> {
        self.failed.get(name)
    }

    /// Whether an output failed when it was tried last, before this run.
    pub fn failed_before(&self, name: &str) -> bool {
        self.failed_before.contains(name)
    }

    /// Reads what was added.
    pub fn refresh(&mut self) -> Result<()> {
        self.refresh_up_to(u64::MAX)
    }

    fn refresh_up_to(&mut self, end: u64) -> Result<()> {
        let text = self
            .added(end)
            .with_context(|| self.path.display().to_string())?;
        // What has no end yet is being written, or was cut off.
        let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(());
        };
        self.read += end as u64 + 1;
        for line in text[..end].split(|byte| *byte == b'\n') {
            // A line that was cut off says nothing.
            if let Ok(Value::Object(record)) = serde_json::from_slice(line) {
                self.learn(record);
            }
        }
        Ok(())
    }

    fn added(&mut self, end: u64) -> std::io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(text),
            file => file?,
        };
        if file.metadata()?.len() < self.read {
            // Somebody began it anew.
            self.read = 0;
        }
        file.seek(SeekFrom::Start(self.read))?;
        let left = end.saturating_sub(self.read);
        file.take(left).read_to_end(&mut text)?;
        Ok(text)
    }

    fn learn(&mut self, mut record: Map<String, Value>) {
        let (Some(Value::String(name)), Some(Value::Object(request))) =
            (record.remove("output"), record.remove("request"))
        else {
            return;
        };
        match record.get("error").and_then(Value::as_str) {
            Some(error) => {
                let error = error.to_string();
                self.failed.insert(name, Failure { request, error });
            }
            None => {
                self.failed.remove(&name);
                self.made.insert(name, request);
            }
        }
    }

    /// Adds a record as one line, whole whoever else writes at the time.
    pub fn append(&mut self, record: &Map<String, Value>) -> Result<()> {
        let mut text = serde_json::to_vec(record)?;
        text.push(b'\n');
        self.write(text)
            .with_context(|| format!("{} cannot be written", self.path.display()))?;
        self.refresh()
    }

    fn write(&self, mut text: Vec<u8>) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .read(true)
            .append(true)
            .open(&self.path)?;
        // Appending is whole on one machine; over a network it takes a lock as well, where there are some.
        let _ = file.lock();
        if file.seek(SeekFrom::End(0))? > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // A process was cut off in its line.
                text.insert(0, b'\n');
            }
        }
        file.write_all(&text)?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use std::fs;
    use std::thread::scope;

    fn record(output: &str, prompt: &str, error: Option<&str>) -> Map<String, Value> {
        let mut record = json!({"output": output, "request": {"prompt": prompt}});
        if let Some(error) = error {
            record["error"] = error.into();
        }
        record.as_object().unwrap().clone()
    }

    #[test]
    fn records_of_many_are_whole_and_a_cut_one_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut results = Results::open(dir.path(), None).unwrap();
        results.append(&record("a.mp4", "a", None)).unwrap();
        let path = dir.path().join(FILE);
        let mut cut = fs::read(&path).unwrap();
        cut.extend_from_slice(b"{\"output\": \"b.mp4\", \"requ");
        fs::write(&path, &cut).unwrap();
        let folder = dir.path();
        scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let mut results = Results::open(folder, None).unwrap();
                    for number in 0..25 {
                        let name = format!("{thread}-{number}.mp4");
                        results.append(&record(&name, "more", None)).unwrap();
                    }
                });
            }
        });
        results.refresh().unwrap();
        assert_eq!(results.made("a.mp4").unwrap()["prompt"], "a");
        assert_eq!(results.made("b.mp4"), None);
        for (thread, number) in (0..4).flat_map(|t| (0..25).map(move |n| (t, n))) {
            let name = format!("{thread}-{number}.mp4");
            assert!(results.made(&name).is_some(), "{name}");
        }
        // The one that was cut off, and nothing else, is no object.
        let text = fs::read_to_string(&path).unwrap();
        let broken = text
            .lines()
            .filter(|line| serde_json::from_str::<Value>(line).is_err());
        assert_eq!((broken.count(), text.lines().count()), (1, 102));
    }

    #[test]
    fn failures_are_those_of_this_run() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Results::open(dir.path(), None).unwrap();
        let mut second = Results::open(dir.path(), None).unwrap();
        first.append(&record("a.mp4", "a", Some("no"))).unwrap();
        second.refresh().unwrap();
        assert_eq!(second.failed("a.mp4").unwrap().error, "no");
        let mut later = Results::open(dir.path(), None).unwrap();
        assert_eq!(later.failed("a.mp4"), None);
        // Unless the run goes on in another process.
        let other = Results::open(dir.path(), Some(second.begun())).unwrap();
        assert_eq!(other.failed("a.mp4").unwrap().error, "no");
        assert_eq!(other.begun(), 0);
        second.append(&record("a.mp4", "a", None)).unwrap();
        later.refresh().unwrap();
        assert_eq!(
            later.made("a.mp4"),
            first.failed("a.mp4").map(|f| &f.request)
        );
    }
}
