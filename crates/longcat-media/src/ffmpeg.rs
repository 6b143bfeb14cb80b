//! Reading through the `ffmpeg` program.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::{MediaError, VideoFrames, VideoSize};

/// Whether `program` can be run.
pub(crate) fn is_available(program: &Path) -> bool {
    Command::new(program)
        .arg("-version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Reads the first video stream of anything that ffmpeg understands, turned upright, at its
/// constant frame rate.
pub(crate) fn read(program: &Path, path: &Path) -> Result<VideoFrames, MediaError> {
    // ffmpeg would report this as well, in words that do not say which program failed.
    std::fs::metadata(path).map_err(MediaError::io(path))?;
    let probe = run(program, path, &["-frames:v", "1", "-f", "framecrc"])?;
    let (size, fps) = parse_header(&String::from_utf8_lossy(&probe.stdout))
        .ok_or_else(|| MediaError::unreadable(path, "ffmpeg finds no video stream in it"))?;
    let frames = run(program, path, &["-f", "rawvideo"])?.stdout;
    if frames.is_empty() {
        return Err(MediaError::NoFrames {
            path: path.to_path_buf(),
        });
    }
    VideoFrames::new(size, fps, frames)
}

fn run(program: &Path, path: &Path, output: &[&str]) -> Result<Output, MediaError> {
    // A prefix keeps names such as `-x.mp4` or `a:b.mp4` from being taken for something else.
    let mut url = OsString::from("file:");
    url.push(path);
    let result = Command::new(program)
        // Without -xerror, a truncated file would give the frames before the damage and success.
        .args(["-v", "error", "-xerror", "-nostdin", "-i"])
        .arg(url)
        .args(["-map", "0:v:0", "-c:v", "rawvideo", "-pix_fmt", "rgb24"])
        // By default colour is neither interpolated nor rounded with care.
        .args(["-sws_flags", "bilinear+full_chroma_int+accurate_rnd"])
        .args(output)
        .arg("-")
        .stdin(Stdio::null())
        .output()
        .map_err(MediaError::io(program))?;
    let message = String::from_utf8_lossy(&result.stderr);
    if result.status.success() && message.trim().is_empty() {
        return Ok(result);
    }
    let first = message.lines().find(|line| !line.trim().is_empty());
    Err(MediaError::unreadable(
        path,
        format!("ffmpeg says: {}", first.unwrap_or("nothing").trim()),
    ))
}

/// Size and frame rate in the header of a `framecrc` listing (`#tb 0: 1/15`,
/// `#dimensions 0: 832x480`), which describes the frames that ffmpeg puts out.
fn parse_header(listing: &str) -> Option<(VideoSize, f64)> {
    let value = |name: &str| listing.lines().find_map(|line| line.strip_prefix(name));
    let size = value("#dimensions 0:")?.trim().parse().ok()?;
    let (ticks, second) = value("#tb 0:")?.trim().split_once('/')?;
    let fps = second.parse::<f64>().ok()? / ticks.parse::<f64>().ok()?;
    Some((size, fps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_rate_come_from_the_listing() {
        let listing = "#software: Lavf62\n#tb 0: 1001/30000\n#media_type 0: video\n\
             #codec_id 0: rawvideo\n#dimensions 0: 832x480\n#sar 0: 1/1\n\
             0, 0, 0, 1, 1198080, 0x1\n";
        let size = VideoSize::new(832, 480);
        assert_eq!(parse_header(listing), Some((size, 30000.0 / 1001.0)));
        assert_eq!(parse_header("#tb 0: 1/15\n"), None);
    }
}
