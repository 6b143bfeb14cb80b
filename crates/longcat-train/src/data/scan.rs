//! Finding clips and their captions.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{CaptionedClip, Condition, Media};
use crate::TrainError;

const VIDEOS: &[&str] = &["mp4", "m4v", "mov", "mkv", "webm", "avi", "gif", "webp"];
const IMAGES: &[&str] = &["png", "jpg", "jpeg", "bmp"];

/// A line of `metadata.jsonl`, a row of `metadata.csv`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(alias = "file_name", alias = "video", alias = "image")]
    path: PathBuf,
    #[serde(alias = "text", alias = "prompt")]
    caption: String,
    #[serde(default)]
    repeats: Option<usize>,
    #[serde(default)]
    source: Option<PathBuf>,
    #[serde(default)]
    condition: Option<Condition>,
}

/// The clips of a folder or list, with their captions, and a list of what is wrong with others.
///
/// A `.jsonl` or `.csv` file lists clips (`path`, `caption`, optional `repeats`, `source` and
/// `condition`), relative to itself. A folder is searched with its subfolders: every video or picture
/// needs a `.txt` of the same name beside it, unless `metadata.jsonl` or `metadata.csv` in the folder
/// list them.
///
/// # Errors
/// [`TrainError::Io`], [`TrainError::Data`] for a list that cannot be parsed.
pub fn scan(path: &Path) -> Result<(Vec<CaptionedClip>, Vec<TrainError>), TrainError> {
    if path.is_file() {
        return list(path);
    }
    for name in ["metadata.jsonl", "metadata.csv"] {
        let file = path.join(name);
        if file.is_file() {
            return list(&file);
        }
    }
    let mut files = Vec::new();
    walk(path, &mut files)?;
    files.sort();
    let (mut clips, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        let Some(media) = media(&file) else {
            continue;
        };
        let caption = file.with_extension("txt");
        match std::fs::read_to_string(&caption) {
            Ok(text) => clips.push(CaptionedClip {
                path: file,
                media,
                caption: text.trim().to_string(),
                repeats: 1,
                source: None,
                condition: None,
            }),
            Err(error) => problems.push(TrainError::Data {
                path: file,
                reason: format!("its caption {} cannot be read: {error}", caption.display()),
            }),
        }
    }
    Ok((clips, problems))
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), TrainError> {
    let entries = std::fs::read_dir(folder).map_err(|e| TrainError::io(folder, e))?;
    for entry in entries {
        let path = entry.map_err(|e| TrainError::io(folder, e))?.path();
        match path.is_dir() {
            true => walk(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

fn media(path: &Path) -> Option<Media> {
    let extension = path.extension()?.to_str()?.to_lowercase();
    if VIDEOS.contains(&extension.as_str()) {
        Some(Media::Video)
    } else if IMAGES.contains(&extension.as_str()) {
        Some(Media::Image)
    } else {
        None
    }
}

fn list(file: &Path) -> Result<(Vec<CaptionedClip>, Vec<TrainError>), TrainError> {
    let data = |line: usize, reason: String| TrainError::Data {
        path: file.to_path_buf(),
        reason: format!("line {line}: {reason}"),
    };
    let text = std::fs::read_to_string(file).map_err(|e| TrainError::io(file, e))?;
    let rows: Vec<Row> = match file.extension().is_some_and(|e| e == "csv") {
        true => csv::Reader::from_reader(text.as_bytes())
            .deserialize()
            .enumerate()
            .map(|(i, row)| row.map_err(|e| data(i + 2, e.to_string())))
            .collect::<Result<_, _>>()?,
        false => text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(i, line)| serde_json::from_str(line).map_err(|e| data(i + 1, e.to_string())))
            .collect::<Result<_, _>>()?,
    };
    let folder = file.parent().unwrap_or(Path::new(""));
    let (mut clips, mut problems) = (Vec::new(), Vec::new());
    for row in rows {
        let path = folder.join(&row.path);
        let media = if path.is_dir() {
            Some(Media::Video)
        } else {
            media(&path)
        };
        let problem = match media {
            _ if !path.exists() => "there is no such file",
            None => "neither a video nor a picture, by its ending",
            Some(media) => {
                clips.push(CaptionedClip {
                    path,
                    media,
                    caption: row.caption.trim().to_string(),
                    repeats: row.repeats.unwrap_or(1),
                    source: row.source.map(|source| folder.join(source)),
                    condition: row.condition,
                });
                continue;
            }
        };
        problems.push(TrainError::Data {
            path,
            reason: format!("{problem} (listed in {})", file.display()),
        });
    }
    Ok((clips, problems))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{create_dir, write};

    use super::*;

    fn names(clips: &[CaptionedClip]) -> Vec<(String, String, usize)> {
        clips
            .iter()
            .map(|c| {
                let name = c.path.file_name().unwrap().to_string_lossy().into_owned();
                (name, c.caption.clone(), c.repeats)
            })
            .collect()
    }

    #[test]
    fn a_folder_gives_clips_with_captions_and_names_those_without() {
        let dir = tempfile::tempdir().unwrap();
        create_dir(dir.path().join("more")).unwrap();
        for (name, text) in [
            ("b.mp4", ""),
            ("b.txt", " a dog\n"),
            ("a.png", ""),
            ("a.txt", "a cat"),
            ("lost.mp4", ""),
            ("notes.md", ""),
            ("more/c.GIF", ""),
            ("more/c.txt", "a bird"),
        ] {
            write(dir.path().join(name), text).unwrap();
        }
        let (clips, problems) = scan(dir.path()).unwrap();
        let expected = [
            ("a.png", "a cat", 1),
            ("b.mp4", "a dog", 1),
            ("c.GIF", "a bird", 1),
        ];
        assert_eq!(
            names(&clips),
            expected.map(|(n, c, r)| (n.to_string(), c.to_string(), r))
        );
        assert_eq!(clips[0].media, Media::Image);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().contains("lost.mp4"));
    }

    #[test]
    fn lists_give_captions_and_repeats() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("a.png"), "").unwrap();
        let jsonl = "{\"file_name\": \"a.png\", \"text\": \"one\", \"repeats\": 3}\n\n\
                     {\"path\": \"gone.mp4\", \"caption\": \"two\"}\n";
        write(dir.path().join("metadata.jsonl"), jsonl).unwrap();
        let (clips, problems) = scan(dir.path()).unwrap();
        assert_eq!(names(&clips), [("a.png".into(), "one".into(), 3)]);
        assert!(problems[0].to_string().contains("gone.mp4"));

        let csv = dir.path().join("list.csv");
        write(
            &csv,
            "path,caption,condition\na.png,one,continuation\na.png,two,\n",
        )
        .unwrap();
        let conditions: Vec<_> = scan(&csv).unwrap().0.iter().map(|c| c.condition).collect();
        assert_eq!(conditions, [Some(Condition::Continuation), None]);
        write(&csv, "path,caption\na.png,\"one, two\"\n").unwrap();
        assert_eq!(
            names(&scan(&csv).unwrap().0),
            [("a.png".into(), "one, two".into(), 1)]
        );
    }

    #[test]
    fn a_bad_list_names_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.jsonl");
        write(
            &file,
            "{\"path\": \"a.png\", \"caption\": \"\", \"wieght\": 1}\n",
        )
        .unwrap();
        let message = scan(&file).unwrap_err().to_string();
        for word in ["x.jsonl", "line 1", "wieght"] {
            assert!(message.contains(word), "{message}");
        }
    }
}
