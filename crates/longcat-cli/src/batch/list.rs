//! The lines of a list, read and checked as far as that goes without a checkpoint.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use longcat_video::VideoError;
use serde_json::{Map, Value};

use super::{claim, results};
use crate::args::Setting;
use crate::request::{Folders, Request, RequestError};

/// A line of a list.
pub struct Line {
    /// Counted from 1, as editors do.
    pub number: usize,
    /// Where it is among all requests, from 0.
    pub index: usize,
    /// What it says, with what was set for all.
    pub object: Map<String, Value>,
    pub request: Request,
    /// Its result, within the folder of results.
    pub name: String,
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    pub line: usize,
    pub reason: String,
}

/// The lines of a list that are requests, and what is wrong with the others.
pub fn read(list: &Path, results: &Path, set: &[Setting]) -> Result<(Vec<Line>, Vec<Problem>)> {
    for Setting { key, .. } in set {
        Request::check_key(key).map_err(unfit)?;
    }
    let bytes = std::fs::read(list).with_context(|| list.display().to_string())?;
    let text = String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("{} is not UTF-8 text", list.display()))?;
    let folders = Folders {
        inputs: list.parent().unwrap_or(Path::new("")),
        outputs: results,
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let (mut lines, mut problems) = (Vec::new(), Vec::new());
    let numbered = text.lines().zip(1..).map(|(text, n)| (n, text.trim()));
    for (number, text) in numbered.filter(|(_, text)| !text.is_empty()) {
        match line(number, text, folders, set) {
            Ok(line) => lines.push(Line {
                index: lines.len() + problems.len(),
                ..line
            }),
            Err(reason) => problems.push(Problem {
                line: number,
                reason,
            }),
        }
    }
    // What else is wrong with a line may be its command.
    if problems.is_empty() && !lines.is_empty() {
        for Setting { key, .. } in set {
            Request::check_use(lines.iter().map(|line| &line.object), key).map_err(unfit)?;
        }
    }
    problems.extend(of_one_name(&lines, results));
    problems.sort_by_key(|problem| problem.line);
    Ok((lines, problems))
}

/// Why `--set` is of no use.
fn unfit(error: RequestError) -> VideoError {
    VideoError::Invalid {
        what: "--set",
        reason: error.to_string(),
    }
}

fn line(number: usize, text: &str, folders: Folders<'_>, set: &[Setting]) -> Result<Line, String> {
    let value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let Value::Object(mut object) = value else {
        return Err(r#"expected an object, as {"prompt": "a red circle"}"#.into());
    };
    for Setting { key, value } in set {
        if Request::takes(&object, key) {
            object.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let default = format!("{number:05}.mp4");
    let told = |error: RequestError| error.to_string();
    let request = Request::read(&object, folders, &default).map_err(told)?;
    let name = name_of(&request.output().file.output, folders.outputs);
    Ok(Line {
        number,
        index: 0,
        object,
        request,
        name,
    })
}

/// The name of a file in the folder of results, the same however its path is written.
fn name_of(path: &Path, results: &Path) -> String {
    let name = path.strip_prefix(results).unwrap_or(path);
    let parts = name
        .components()
        .map(|part| part.as_os_str().to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}

/// Whether this is the name of something that the batch itself keeps among the results.
fn is_own(name: &str) -> bool {
    let first = name.split('/').next().unwrap_or_default();
    [results::FILE, claim::FOLDER].contains(&first)
}

/// Lines whose files are those of a line before them, or of the batch itself.
fn of_one_name(lines: &[Line], results: &Path) -> Vec<Problem> {
    let mut first: HashMap<String, (usize, &str)> = HashMap::new();
    let mut problems = Vec::new();
    for line in lines {
        let latents = line.request.output().save_latents.as_deref();
        let segments = match &line.request {
            Request::Long(args) => args.work_dir.as_deref(),
            _ => None,
        };
        let others = [("save_latents", latents), ("work_dir", segments)];
        let others = others
            .into_iter()
            .filter_map(|(key, path)| Some((key, name_of(path?, results))));
        for (key, name) in [("output", line.name.clone())].into_iter().chain(others) {
            if is_own(&name) {
                problems.push(Problem {
                    line: line.number,
                    reason: format!("{key}: {name} is kept by the batch itself; give another name"),
                });
                continue;
            }
            match first.get(&name) {
                Some((number, other)) => problems.push(Problem {
                    line: line.number,
                    reason: format!("{key}: {name} is the {other} of line {number} already"),
                }),
                None => {
                    first.insert(name, (line.number, key));
                }
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_requests_or_say_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list.jsonl");
        let text = "\u{feff}{\"prompt\": \"a\", \"steps\": 4}\r\n\n{\"prompt\": \"b\", \"output\": \"x/b.gif\"}\n\
                    {\"prompt\": }\n[]\n{\"promt\": \"c\"}\n{\"prompt\": \"d\", \"output\": \"00001.mp4\"}\n\
                    {\"prompt\": \"e\", \"save_latents\": \"x/./b.gif\"}\n\
                    {\"prompts\": [\"f\"], \"work_dir\": \"x//b.gif\"}\n\
                    {\"prompt\": \"g\", \"save_latents\": \"results.jsonl\"}\n\
                    {\"prompt\": \"h\", \"output\": \".claims/h/\"}\n";
        std::fs::write(&list, text).unwrap();
        // Of no use to `t2v`, and no fault of its.
        let set = ["steps=2", "threshold=0.3"].map(|text| text.parse::<Setting>().unwrap());
        let (lines, problems) = read(&list, Path::new("out"), &set).unwrap();
        let unknown: Setting = "stepps=2".parse().unwrap();
        let error = read(&list, Path::new("out"), &[unknown]).err().unwrap();
        assert!(
            format!("{error:#}").contains("did you mean `steps`"),
            "{error:#}"
        );
        // One that is of no use to any line is a mistake.
        let read_set = |text: &str, set: &str| {
            std::fs::write(&list, text).unwrap();
            read(&list, Path::new("out"), &[set.parse().unwrap()]).map(|(lines, _)| lines.len())
        };
        let both =
            "{\"prompt\": \"a\"}\n{\"prompt\": \"a\", \"video\": \"v\", \"command\": \"refine\"}";
        assert_eq!(read_set(both, "threshold=0.3").unwrap(), 2);
        let error = read_set("{\"prompt\": \"a\"}", "spatial_only=true").unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("--set: spatial_only: is a key of refine"),
            "{error}"
        );
        let found = lines.iter().map(|line| (line.number, line.name.as_str()));
        let expected = [
            (1, "00001.mp4"),
            (3, "x/b.gif"),
            (7, "00001.mp4"),
            (8, "00008.mp4"),
            (9, "00009.mp4"),
            (10, "00010.mp4"),
            (11, ".claims/h"),
        ];
        assert!(found.eq(expected));
        let steps = lines.iter().map(|line| line.object["steps"].as_u64());
        assert!(steps.eq([4, 2, 2, 2, 2, 2, 2].map(Some)));
        let expected = [
            (4, "no JSON"),
            (5, "an object"),
            (6, "`prompt`"),
            (7, "00001.mp4 is the output of line 1"),
            (8, "save_latents: x/b.gif is the output of line 3"),
            (9, "work_dir: x/b.gif is the output of line 3"),
            (10, "save_latents: results.jsonl is kept by the batch"),
            (11, "output: .claims/h is kept by the batch"),
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, (line, words)) in problems.iter().zip(expected) {
            assert!(
                problem.line == line && problem.reason.contains(words),
                "{problem:?}"
            );
        }
    }
}
