//! Finding clips and their captions.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::kind::Kind;
use super::list::list;
use super::walk::walk;
use super::{CaptionedClip, Ignored};
use crate::TrainError;
use crate::observe::stop;

/// What a folder or list holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Clips with their captions, which may be empty.
    pub clips: Vec<CaptionedClip>,
    /// What is wrong with others.
    pub problems: Vec<TrainError>,
    /// What was left out.
    pub ignored: Vec<Ignored>,
}

/// The clips of a folder or list.
///
/// A `.jsonl` or `.csv` file lists clips (`path`, `caption` or `captions`, optional `repeats`, `source`
/// and `condition`), relative to itself. A folder is searched with its subfolders, but those of
/// `without` (canonical): every video or picture needs a `.txt` of the same name beside it, unless
/// `metadata.jsonl` or `metadata.csv` in the folder list them.
///
/// # Errors
/// [`TrainError::Io`], [`TrainError::Data`] for a list that cannot be parsed,
/// [`TrainError::Interrupted`].
pub(super) fn scan(
    path: &Path,
    without: &[PathBuf],
    interrupt: &AtomicBool,
) -> Result<Found, TrainError> {
    if path.is_file() {
        return match Kind::of(path) {
            Kind::Other => list(path),
            _ => Err(TrainError::Data {
                path: path.to_path_buf(),
                reason: "a folder of clips or a list of them (.jsonl, .csv) is needed".into(),
            }),
        };
    }
    for name in ["metadata.jsonl", "metadata.csv"] {
        let file = path.join(name);
        if file.is_file() {
            return list(&file);
        }
    }
    let walked = walk(path, without, interrupt)?;
    let texts: BTreeSet<&Path> = walked
        .files
        .iter()
        .map(PathBuf::as_path)
        .filter(|file| file.extension().is_some_and(|e| e == "txt"))
        .collect();
    let mut found = Found {
        ignored: walked.ignored,
        ..Found::default()
    };
    for file in &walked.files {
        stop(interrupt)?;
        let caption = file.with_extension("txt");
        let captioned = texts.contains(caption.as_path());
        let left_out = match Kind::of(file) {
            Kind::Clip(media) | Kind::WithCaption(media) if captioned => {
                match std::fs::read_to_string(&caption) {
                    Ok(text) => found.clips.push(CaptionedClip {
                        path: file.clone(),
                        media,
                        captions: vec![text.trim_start_matches('\u{feff}').trim().to_string()],
                        repeats: 1,
                        source: None,
                        condition: None,
                    }),
                    Err(e) => found.problems.push(TrainError::Data {
                        path: file.clone(),
                        reason: format!("its caption {} cannot be read: {e}", caption.display()),
                    }),
                }
                continue;
            }
            Kind::Clip(media) => {
                found.clips.push(CaptionedClip {
                    path: file.clone(),
                    media,
                    captions: vec![String::new()],
                    repeats: 1,
                    source: None,
                    condition: None,
                });
                continue;
            }
            Kind::WithCaption(_) => "without a caption, and its ending has other uses too",
            Kind::Unread => "files of this ending are not read; convert them to png or mp4",
            Kind::Other => continue,
        };
        found.ignored.push(Ignored {
            path: file.clone(),
            reason: left_out.into(),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{create_dir, write};

    use super::*;
    use crate::data::Media;

    fn found(path: &Path) -> Found {
        scan(path, &[], &AtomicBool::new(false)).unwrap()
    }

    fn names(clips: &[CaptionedClip]) -> Vec<(String, String, usize)> {
        clips
            .iter()
            .map(|c| {
                let name = c.path.file_name().unwrap().to_string_lossy().into_owned();
                (name, c.captions.join("|"), c.repeats)
            })
            .collect()
    }

    #[test]
    fn a_folder_gives_clips_with_captions_and_names_what_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        create_dir(dir.path().join("more")).unwrap();
        let still = b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\0\0\0\0\0\0\0\0\0\0\0\0\0";
        for (name, text) in [
            ("b.mp4", &b""[..]),
            ("b.txt", b"\xef\xbb\xbf a dog\n"),
            ("a.png", b""),
            ("a.txt", b"a cat"),
            ("lost.mp4", b""),
            ("latin.png", b""),
            ("latin.txt", b"caf\xe9"),
            ("notes.md", b""),
            ("index.ts", b""),
            ("s.webp", still),
            ("s.txt", b"still"),
            ("m.webp", b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0"),
            ("m.txt", b"moves"),
            ("t.ts", b""),
            ("t.txt", b"a train"),
            ("h.heic", b""),
            ("h.txt", b"a house"),
            ("more/c.GIF", b""),
            ("more/c.txt", b"a bird"),
        ] {
            write(dir.path().join(name), text).unwrap();
        }
        let found = found(dir.path());
        let expected = [
            ("a.png", "a cat", 1),
            ("b.mp4", "a dog", 1),
            ("lost.mp4", "", 1),
            ("m.webp", "moves", 1),
            ("c.GIF", "a bird", 1),
            ("s.webp", "still", 1),
            ("t.ts", "a train", 1),
        ];
        assert_eq!(
            names(&found.clips),
            expected.map(|(n, c, r)| (n.to_string(), c.to_string(), r))
        );
        let media: Vec<Media> = found.clips.iter().map(|c| c.media).collect();
        let [i, v] = [Media::Image, Media::Video];
        assert_eq!(media, [i, v, v, v, v, i, v]);
        assert_eq!(found.problems.len(), 1);
        assert!(found.problems[0].to_string().contains("latin.txt"));
        let ignored: Vec<_> = found.ignored.iter().map(|i| i.path.clone()).collect();
        assert_eq!(ignored, ["h.heic", "index.ts"].map(|n| dir.path().join(n)));
    }

    #[test]
    fn lists_give_captions_and_repeats() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("a.png"), "").unwrap();
        let jsonl = "{\"file_name\": \"a.png\", \"text\": \"one\", \"repeats\": 3}\n\n\
                     {\"path\": \"gone.mp4\", \"caption\": \"two\"}\n";
        write(dir.path().join("metadata.jsonl"), jsonl).unwrap();
        let listed = found(dir.path());
        assert_eq!(names(&listed.clips), [("a.png".into(), "one".into(), 3)]);
        assert!(listed.problems[0].to_string().contains("gone.mp4"));

        let csv = dir.path().join("list.csv");
        write(
            &csv,
            "path,caption,condition\na.png,one,continuation\na.png,two,\n",
        )
        .unwrap();
        let conditions: Vec<_> = found(&csv).clips.iter().map(|c| c.condition).collect();
        assert_eq!(conditions, [Some(crate::Condition::Continuation), None]);
        write(&csv, "path,caption\na.png,\"one, two\"\n").unwrap();
        assert_eq!(
            names(&found(&csv).clips),
            [("a.png".into(), "one, two".into(), 1)]
        );
    }

    #[test]
    fn a_clip_is_no_list() {
        let dir = tempfile::tempdir().unwrap();
        let clip = dir.path().join("clip.mp4");
        write(&clip, "").unwrap();
        let message = scan(&clip, &[], &AtomicBool::new(false)).unwrap_err();
        let message = message.to_string();
        assert!(message.contains("clip.mp4") && message.contains(".jsonl"));
    }
}
