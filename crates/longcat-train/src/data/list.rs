//! Lists of clips: JSON lines, or CSV with a header.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::kind::Kind;
use super::scan::Found;
use super::{CaptionedClip, Condition, Ignored, Media};
use crate::TrainError;

/// Columns by what they hold; of several that hold the same, the first that is given counts.
const PATH: &[&str] = &["path", "file_name", "video", "image"];
const CAPTION: &[&str] = &["caption", "captions", "text", "prompt"];
const OTHERS: &[&str] = &["repeats", "source", "condition"];

/// Reads a list. Columns that mean nothing here are left alone and named, as data sets made for others
/// have them; one that looks like a slip of a column that is missing is an error.
///
/// # Errors
/// [`TrainError::Io`]; [`TrainError::Data`] names file, line and column.
pub(super) fn list(file: &Path) -> Result<Found, TrainError> {
    let error = |line: usize, reason: String| TrainError::Data {
        path: file.to_path_buf(),
        reason: format!("line {line}: {reason}"),
    };
    let text = std::fs::read_to_string(file).map_err(|e| TrainError::io(file, e))?;
    let text = text.trim_start_matches('\u{feff}');
    let rows = match file.extension().is_some_and(|e| e == "csv") {
        true => csv_rows(text),
        false => json_rows(text),
    };
    let folder = file.parent().unwrap_or(Path::new(""));
    let (mut found, mut unused) = (Found::default(), BTreeSet::new());
    for row in rows {
        let (line, row) = row.map_err(|(line, reason)| error(line, reason))?;
        let row = Row(row);
        unused.extend(row.unused().map_err(|reason| error(line, reason))?);
        match row.clip(folder).map_err(|reason| error(line, reason))? {
            Ok(clip) => found.clips.push(clip),
            Err((path, problem)) => found.problems.push(TrainError::Data {
                path,
                reason: format!("{problem} (listed in {})", file.display()),
            }),
        }
    }
    if !unused.is_empty() {
        let unused: Vec<String> = unused.into_iter().collect();
        found.ignored.push(Ignored {
            path: file.to_path_buf(),
            reason: format!("columns that mean nothing here: {}", unused.join(", ")),
        });
    }
    Ok(found)
}

/// Rows with their lines, or the line and reason of what cannot be read.
type Rows = Vec<Result<(usize, Map<String, Value>), (usize, String)>>;

fn json_rows(text: &str) -> Rows {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let row = |(i, line): (usize, &str)| match serde_json::from_str(line) {
        Ok(row) => Ok((i + 1, row)),
        Err(e) => Err((i + 1, e.to_string())),
    };
    lines.map(row).collect()
}

fn csv_rows(text: &str) -> Rows {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = match reader.headers() {
        Ok(headers) => headers.clone(),
        Err(e) => return vec![Err((1, e.to_string()))],
    };
    let row = |(i, record): (usize, Result<csv::StringRecord, csv::Error>)| {
        let record = record.map_err(|e| (i + 2, e.to_string()))?;
        let line = record.position().map_or(i + 2, |p| p.line() as usize);
        let cells = headers.iter().zip(&record);
        let row = cells.map(|(name, cell)| (name.trim().to_string(), cell.into()));
        Ok((line, row.collect()))
    };
    reader.records().enumerate().map(row).collect()
}

struct Row(Map<String, Value>);

impl Row {
    /// The name and value of the first of these columns that holds something.
    fn get(&self, names: &[&'static str]) -> Option<(&'static str, &Value)> {
        let mut given = names
            .iter()
            .filter_map(|name| Some((*name, self.0.get(*name)?)));
        given.find(|(_, value)| !value.is_null() && value.as_str() != Some(""))
    }

    fn text(&self, names: &[&'static str]) -> Result<Option<&str>, String> {
        match self.get(names) {
            None => Ok(None),
            Some((_, Value::String(text))) => Ok(Some(text)),
            Some((name, value)) => Err(format!("{name}: {value} is not a text")),
        }
    }

    /// Columns that are not used.
    fn unused(&self) -> Result<Vec<String>, String> {
        let known = [PATH, CAPTION, OTHERS].concat();
        let used = [
            self.get(PATH).map(|(name, _)| name),
            self.get(CAPTION).map(|(name, _)| name),
        ];
        let mut unused = Vec::new();
        for name in self.0.keys().filter(|name| !name.is_empty()) {
            if OTHERS.contains(&name.as_str()) || used.contains(&Some(name.as_str())) {
                continue;
            }
            let slip = |known: &&&str| {
                let missing = match known {
                    k if PATH.contains(k) => used[0].is_none(),
                    k if CAPTION.contains(k) => used[1].is_none(),
                    k => !self.0.contains_key(**k),
                };
                missing && strsim::osa_distance(name, known) == 1
            };
            if let Some(near) = known.iter().find(slip) {
                return Err(format!("unknown column {name:?}; did you mean {near}?"));
            }
            unused.push(name.clone());
        }
        Ok(unused)
    }

    fn captions(&self) -> Result<Vec<String>, String> {
        let Some((name, value)) = self.get(CAPTION) else {
            return Ok(vec![String::new()]);
        };
        let texts = match value {
            Value::Array(texts) => texts.as_slice(),
            text => std::slice::from_ref(text),
        };
        let texts: Option<Vec<String>> = texts
            .iter()
            .map(|text| Some(text.as_str()?.trim().to_string()))
            .collect();
        match texts {
            Some(texts) if texts.is_empty() => Ok(vec![String::new()]),
            Some(texts) => Ok(texts),
            None => Err(format!(
                "{name}: {value} is neither a text nor a list of texts"
            )),
        }
    }

    fn repeats(&self) -> Result<usize, String> {
        let Some((name, value)) = self.get(&["repeats"]) else {
            return Ok(1);
        };
        let number = match value {
            Value::String(text) => text.trim().parse().ok(),
            // Other programs write 3.0.
            value => value.as_u64().or_else(|| {
                let number = value.as_f64()?;
                let whole = number.fract() == 0.0 && (0.0..2f64.powi(53)).contains(&number);
                whole.then_some(number as u64)
            }),
        };
        number
            .and_then(|number: u64| number.try_into().ok())
            .ok_or_else(|| format!("{name}: {value} is not a count"))
    }

    fn condition(&self) -> Result<Option<Condition>, String> {
        match self.text(&["condition"])?.map(str::trim) {
            None => Ok(None),
            Some("image") => Ok(Some(Condition::Image)),
            Some("continuation") => Ok(Some(Condition::Continuation)),
            Some(other) => Err(format!(
                "condition: {other:?} is neither image nor continuation"
            )),
        }
    }

    /// The clip, or the file that is none and why.
    #[allow(clippy::type_complexity)]
    fn clip(
        &self,
        folder: &Path,
    ) -> Result<Result<CaptionedClip, (PathBuf, &'static str)>, String> {
        let path = self
            .text(PATH)?
            .ok_or_else(|| format!("no path; one of {}", PATH.join(", ")))?;
        let path = folder.join(path);
        let media = match Kind::of(&path) {
            _ if !path.exists() => return Ok(Err((path, "there is no such file"))),
            _ if path.is_dir() => Media::Video,
            Kind::Clip(media) | Kind::WithCaption(media) => media,
            Kind::Unread | Kind::Other => {
                return Ok(Err((path, "neither a video nor a picture, by its ending")));
            }
        };
        Ok(Ok(CaptionedClip {
            path,
            media,
            captions: self.captions()?,
            repeats: self.repeats()?,
            source: self.text(&["source"])?.map(|source| folder.join(source)),
            condition: self.condition()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::write;

    use super::*;

    /// What a list of this name and content gives, beside a picture `a.png`.
    fn read(name: &str, text: &str) -> Result<Found, TrainError> {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("a.png"), "").unwrap();
        write(dir.path().join(name), text).unwrap();
        list(&dir.path().join(name))
    }

    fn captions(found: &Found) -> Vec<Vec<String>> {
        found.clips.iter().map(|c| c.captions.clone()).collect()
    }

    #[test]
    fn lists_of_other_programs_are_read_and_their_columns_named() {
        let jsonl = "\u{feff}{\"file_name\": \"a.png\", \"text\": \"one\", \"width\": 96, \
                     \"score\": 0.5, \"condition\": null, \"repeats\": 2.0}\r\n";
        let found = read("x.jsonl", jsonl).unwrap();
        assert_eq!(captions(&found), [["one"]]);
        assert_eq!(found.clips[0].repeats, 2);
        assert!(found.ignored[0].reason.ends_with("score, width"));
        let csv = "\u{feff}path,caption,duration,repeats,condition\n\
                   a.png,\"one, two\",3.5,,continuation\na.png,three,,4,\n";
        let found = read("x.csv", csv).unwrap();
        assert_eq!(captions(&found), [["one, two"], ["three"]]);
        let repeats: Vec<_> = found.clips.iter().map(|c| c.repeats).collect();
        assert_eq!(repeats, [1, 4]);
        let conditions: Vec<_> = found.clips.iter().map(|c| c.condition).collect();
        assert_eq!(conditions, [Some(Condition::Continuation), None]);
        assert!(found.ignored[0].reason.ends_with("duration"));
    }

    #[test]
    fn a_clip_may_have_several_captions() {
        let jsonl = "{\"path\": \"a.png\", \"captions\": [\"one\", \" two\\n\"]}\n\
                     {\"path\": \"a.png\", \"caption\": [\"three\"]}\n\
                     {\"path\": \"a.png\", \"captions\": []}\n";
        let expected: [&[&str]; 3] = [&["one", "two"], &["three"], &[""]];
        assert_eq!(captions(&read("x.jsonl", jsonl).unwrap()), expected);
    }

    #[test]
    fn what_is_wrong_with_a_list_is_named_with_its_line() {
        for (name, text, word) in [
            (
                "x.jsonl",
                "\n{\"path\": \"a.png\", \"captoin\": \"x\"}",
                "caption",
            ),
            (
                "x.jsonl",
                "\n{\"path\": \"a.png\", \"caption\": \"x\", \"repeat\": 1}",
                "repeats",
            ),
            ("x.jsonl", "\n{\"path\": \"a.png\", \"repeats\": -1}", "-1"),
            ("x.jsonl", "\n{\"path\": \"a.png\", \"caption\": 5}", "5"),
            ("x.jsonl", "\n{\"path\": \"a.png\"", "EOF"),
            ("x.jsonl", "\n{\"caption\": \"a\"}", "file_name"),
            ("x.csv", "path,caption,condition\na.png,x,first", "first"),
            ("x.csv", "path,caption\na.png,x,y", "fields"),
        ] {
            let message = read(name, text).unwrap_err().to_string();
            for word in [name, "line 2", word] {
                assert!(message.contains(word), "{text}: {message}");
            }
        }
    }
}
