//! Uploads: what they are, and whether they are within the limits, before they are decoded as a whole.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use longcat_media::{ReadOptions, VideoReader, read_image};

use crate::limits::Limits;
use crate::studio::{INPUTS, InputKind, Refusal};

/// Names the kind of an upload by its first bytes, whatever its client calls it.
fn ending(head: &[u8]) -> Option<&'static str> {
    const ANIMATED: u8 = 0b10;
    let at = |place: usize, bytes: &[u8]| {
        head.get(place..)
            .is_some_and(|rest| rest.starts_with(bytes))
    };
    if at(0, b"\x89PNG\r\n\x1a\n") {
        Some("png")
    } else if at(0, b"\xff\xd8\xff") {
        Some("jpg")
    } else if at(0, b"BM") {
        Some("bmp")
    } else if at(0, b"GIF8") {
        Some("gif")
    } else if at(0, b"RIFF") && at(8, b"WEBP") {
        let moves = at(12, b"VP8X") && head.get(20).is_some_and(|flags| flags & ANIMATED != 0);
        Some(if moves { "moving.webp" } else { "webp" })
    } else if at(4, b"ftyp") {
        Some("mp4")
    } else if at(0, b"\x1a\x45\xdf\xa3") {
        Some("mkv")
    } else {
        None
    }
}

/// The kind of an upload that its first bytes show.
pub(crate) fn kind_of(head: &[u8]) -> Option<InputKind> {
    let ending = ending(head)?;
    INPUTS
        .iter()
        .find(|(known, ..)| *known == ending)
        .map(|(_, kind, _)| *kind)
}

/// Checks the upload at `path`, a file in a folder of its own, and gives it the name of its kind there.
///
/// # Errors
/// Says what is wrong; `param` is the part of the form.
pub(crate) fn take(
    path: &Path,
    param: &str,
    limits: &Limits,
) -> std::io::Result<Result<InputKind, Refusal>> {
    let mut head = Vec::new();
    File::open(path)?.take(32).read_to_end(&mut head)?;
    let refuse = |message: &str| Ok(Err(Refusal::of(param, message)));
    let (Some(ending), Some(kind)) = (ending(&head), kind_of(&head)) else {
        return refuse(
            "neither a picture (PNG, JPEG, WebP, BMP) nor a video (mp4, WebM, GIF, animated WebP)",
        );
    };
    match (param, kind) {
        ("image", InputKind::Video) => return refuse("this is a video; send it as `video`"),
        ("video", InputKind::Image) => return refuse("this is a picture; send it as `image`"),
        _ => {}
    }
    let target = path.with_file_name(format!("input.{ending}"));
    fs::rename(path, &target)?;
    let checked = match kind {
        InputKind::Image => check_image(&target, limits),
        InputKind::Video => check_video(&target, limits),
    };
    Ok(checked.map(|()| kind).map_err(|message| {
        // Where it lies is nobody's business.
        let shown = format!("{}: ", target.display());
        Refusal::of(param, message.replace(&shown, ""))
    }))
}

fn check_image(path: &Path, limits: &Limits) -> Result<(), String> {
    let reader = image::ImageReader::open(path)
        .and_then(image::ImageReader::with_guessed_format)
        .map_err(|error| error.to_string())?;
    let (width, height) = reader
        .into_dimensions()
        .map_err(|error| error.to_string())?;
    check_pixels(u64::from(width), u64::from(height), limits)?;
    read_image(path).map_err(|error| error.to_string())?;
    Ok(())
}

/// Frame by frame, so that no more than two of them are in memory.
fn check_video(path: &Path, limits: &Limits) -> Result<(), String> {
    let words = |error: longcat_media::MediaError| error.to_string();
    let mut reader = VideoReader::open(path, &ReadOptions::default()).map_err(words)?;
    let size = reader.size();
    check_pixels(size.width as u64, size.height as u64, limits)?;
    let mut frames = 0;
    while let Some(frame) = reader.next_frame().map_err(words)? {
        frames += 1;
        // No more than 120 of them are a second.
        if frame.start > limits.video_seconds as f64 || frames > 120 * limits.video_seconds {
            return Err(format!("longer than {} seconds", limits.video_seconds));
        }
        if (size.width * size.height) as u64 * frames > limits.video_pixels {
            return Err(format!(
                "its frames have more than {} pixels together; make it shorter or smaller",
                limits.video_pixels
            ));
        }
    }
    Ok(())
}

fn check_pixels(width: u64, height: u64, limits: &Limits) -> Result<(), String> {
    match width.saturating_mul(height) > limits.picture_pixels {
        true => Err(format!(
            "{width}x{height} is more than {} pixels; make it smaller",
            limits.picture_pixels
        )),
        false => Ok(()),
    }
}

/// A file of an earlier job under another name: a link where the file system can, else a copy.
pub(crate) fn link(from: &Path, to: PathBuf) -> std::io::Result<()> {
    match fs::hard_link(from, &to) {
        Ok(()) => Ok(()),
        Err(_) => fs::copy(from, &to).map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_tell_the_kind() {
        let webp = |flags: u8| {
            let mut head = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0".to_vec();
            head.push(flags);
            head
        };
        for (head, expected) in [
            (b"\x89PNG\r\n\x1a\n\0\0".to_vec(), Some(InputKind::Image)),
            (b"\xff\xd8\xff\xe0".to_vec(), Some(InputKind::Image)),
            (webp(0), Some(InputKind::Image)),
            (webp(2), Some(InputKind::Video)),
            (b"\0\0\0\x20ftypisom".to_vec(), Some(InputKind::Video)),
            (b"GIF89a".to_vec(), Some(InputKind::Video)),
            (b"#EXTM3U\nfile:///etc/passwd".to_vec(), None),
            (b"<html>".to_vec(), None),
            (b"ffconcat version 1.0".to_vec(), None),
            (Vec::new(), None),
        ] {
            assert_eq!(kind_of(&head), expected, "{head:?}");
        }
    }
}
