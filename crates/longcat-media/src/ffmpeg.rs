//! Reading through the `ffmpeg` program.
//!
//! It decodes, and turns upright; colour is this crate's work, so that it is the same whoever decodes.
//! Frames come through a pipe as they are stored, their times on the error stream in the format
//! `framecrc`, among messages.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::MediaError;
use crate::probe::Probe;
use crate::source::{Opened, Place, Source, StoredFrame};

/// What messages of a file that ends too early contain, of formats whose readers call that an end.
const TRUNCATED: &[&str] = &["ended prematurely", "partial file", "truncated"];
/// Messages that are kept.
const MESSAGES: usize = 50;
/// With one thread a processor, each would hold frames.
const THREADS: &str = "4";

/// An `ffmpeg` program that can be run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    path: PathBuf,
    /// What keeps every frame and its time.
    passthrough: [&'static str; 2],
}

impl Program {
    /// Looks whether it can be run, and how old it is, once for each program.
    pub(crate) fn find(path: &Path) -> Result<Self, MediaError> {
        static FOUND: Mutex<Vec<Program>> = Mutex::new(Vec::new());
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = found.iter().find(|program| program.path == path) {
            return Ok(program.clone());
        }
        let program = Self::try_out(path)?;
        found.push(program.clone());
        Ok(program)
    }

    fn try_out(path: &Path) -> Result<Self, MediaError> {
        let output = Command::new(path)
            .arg("-version")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .map_err(MediaError::io(path))?;
        if !output.status.success() {
            return Err(MediaError::unreadable(path, "it does not run"));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let old = version(&text).is_some_and(|version| version < (5, 1));
        Ok(Self {
            path: path.to_path_buf(),
            passthrough: if old {
                ["-vsync", "passthrough"]
            } else {
                ["-fps_mode", "passthrough"]
            },
        })
    }

    /// Opens the first video stream of anything that ffmpeg understands; covers are none.
    pub(crate) fn open(&self, path: &Path, place: Place) -> Result<Opened, MediaError> {
        // ffmpeg would report this as well, in words that do not say which program failed.
        std::fs::metadata(path).map_err(MediaError::io(path))?;
        let probe = self.probe(path)?;
        let stored = probe.stored(path)?;
        let place = match (place, probe.seconds) {
            (Place::BeforeEnd(before), Some(all)) if before >= all => Place::Start,
            (place, _) => place,
        };
        let mut command = self.command("error", path, place);
        let [mode, passthrough] = self.passthrough;
        command
            .args(["-c:v", "rawvideo", "-pix_fmt", &probe.output_format()])
            // For formats that become RGB: by default colour is neither interpolated nor rounded
            // with care.
            .args(["-sws_flags", "bilinear+full_chroma_int+accurate_rnd"])
            .args([mode, passthrough, "-enc_time_base", &probe.time_base])
            .args(["-f", "tee", "[f=framecrc]pipe:2|[f=rawvideo]pipe:1"])
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(MediaError::io(&self.path))?;
        let (Some(frames), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            unreachable!("both are piped");
        };
        let (sender, records) = channel();
        let log = std::thread::spawn(move || listen(errors, &sender));
        Ok(Opened {
            source: Box::new(Pipe {
                path: path.to_path_buf(),
                bytes: stored.bytes(),
                child,
                frames,
                records,
                log: Some(log),
                tick: 1.0,
                count: 0,
            }),
            stored,
            fps: probe.fps,
            whole: place == Place::Start,
        })
    }

    fn probe(&self, path: &Path) -> Result<Probe, MediaError> {
        let look = |level: &str| {
            self.command(level, path, Place::Start)
                .args(["-frames:v", "1", "-vf", "showinfo", "-f", "null", "-"])
                .stdout(Stdio::null())
                .output()
                .map_err(MediaError::io(&self.path))
        };
        let output = look("verbose")?;
        if let Some(probe) = Probe::parse(&String::from_utf8_lossy(&output.stderr)) {
            return Ok(probe);
        }
        // The same without all that is no error.
        let output = look("error")?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if text.trim().is_empty() || text.contains("matches no streams") {
            let reason = "ffmpeg finds no video stream in it";
            return Err(MediaError::unreadable(path, reason));
        }
        Err(said(path, text.lines()))
    }

    /// ffmpeg with its input and the choice of the stream.
    fn command(&self, level: &str, path: &Path, place: Place) -> Command {
        // A prefix keeps names such as `-x.mp4` or `a:b.mp4` from being taken for something else.
        let mut url = OsString::from("file:");
        url.push(path);
        let mut command = Command::new(&self.path);
        command
            // Without -xerror, a damaged file would give some frames and success.
            .args([
                "-hide_banner",
                "-nostats",
                "-nostdin",
                "-xerror",
                "-v",
                level,
            ])
            .args(["-threads", THREADS]);
        if let Place::BeforeEnd(seconds) = place {
            command.args(["-sseof", &format!("-{seconds:.3}")]);
        }
        command
            .arg("-i")
            .arg(url)
            .args(["-map", "0:V:0"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

/// The frames of a running ffmpeg.
struct Pipe {
    path: PathBuf,
    /// Of a frame.
    bytes: usize,
    child: Child,
    frames: ChildStdout,
    records: Receiver<Record>,
    log: Option<JoinHandle<Vec<String>>>,
    /// Seconds in a tick of its clock.
    tick: f64,
    count: usize,
}

impl Source for Pipe {
    fn next(&mut self) -> Result<Option<StoredFrame>, MediaError> {
        loop {
            match self.records.recv() {
                Ok(Record::TimeBase(tick)) => self.tick = tick,
                Ok(Record::Frame {
                    start,
                    duration,
                    bytes,
                }) => {
                    if bytes != self.bytes {
                        let reason = format!("frame {} has another size", self.count);
                        return Err(MediaError::unreadable(&self.path, reason));
                    }
                    let mut frame = vec![0; bytes];
                    if self.frames.read_exact(&mut frame).is_err() {
                        return self.end();
                    }
                    self.count += 1;
                    return Ok(Some(StoredFrame {
                        start: start as f64 * self.tick,
                        duration: duration as f64 * self.tick,
                        bytes: frame,
                    }));
                }
                Err(_) => return self.end(),
            }
        }
    }
}

impl Pipe {
    /// Whether all went well, by what ffmpeg returns. What it says on the way does not matter: it
    /// complains of many things that do no harm.
    fn end(&mut self) -> Result<Option<StoredFrame>, MediaError> {
        let status = self.child.wait().map_err(MediaError::io(&self.path))?;
        let Some(log) = self.log.take() else {
            return Ok(None);
        };
        let log = log.join().unwrap_or_default();
        let truncated = |line: &&String| TRUNCATED.iter().any(|word| line.contains(word));
        if let Some(line) = log.iter().find(truncated) {
            return Err(said(&self.path, [line.as_str()].into_iter()));
        }
        if !status.success() {
            return Err(said(&self.path, log.iter().map(String::as_str)));
        }
        Ok(None)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // It may have ended, or be of no more use; a failure changes nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of a `framecrc` listing.
#[derive(Debug, PartialEq)]
enum Record {
    /// Seconds in a tick.
    TimeBase(f64),
    /// Times are in ticks.
    Frame {
        start: i64,
        duration: i64,
        bytes: usize,
    },
}

impl Record {
    /// Finds it in a line, before which a message may have begun: both are written to one stream.
    fn parse(line: &str) -> Option<Self> {
        if let Some((_, base)) = line.split_once("#tb 0:") {
            let (ticks, second) = base.trim().split_once('/')?;
            let (ticks, second) = (ticks.parse::<f64>().ok()?, second.parse::<f64>().ok()?);
            return Some(Self::TimeBase(ticks / second));
        }
        line.match_indices("0,").find_map(|(at, _)| {
            // Stream, decoding time, time, duration, bytes, checksum.
            let mut fields = line[at..].split(',').map(str::trim);
            let (stream, _) = (fields.next()?, fields.next()?);
            let (start, duration) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let bytes = fields.next()?.parse().ok()?;
            (stream == "0" && fields.next()?.starts_with("0x")).then_some(Self::Frame {
                start,
                duration,
                bytes,
            })
        })
    }
}

/// Passes records on; gives back what else was said.
fn listen(errors: ChildStderr, records: &Sender<Record>) -> Vec<String> {
    let mut errors = BufReader::new(errors);
    let mut messages = Vec::new();
    let mut line = Vec::new();
    while errors
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        let text = String::from_utf8_lossy(&line).trim().to_string();
        line.clear();
        match Record::parse(&text) {
            Some(record) => {
                // Nobody listens when the rest of the file is not wanted.
                let _ = records.send(record);
            }
            None if text.is_empty() || text.starts_with('#') => {}
            None if messages.len() < MESSAGES => messages.push(text),
            None => {}
        }
    }
    messages
}

fn said<'a>(path: &Path, mut lines: impl Iterator<Item = &'a str>) -> MediaError {
    let first = lines.find(|line| !line.trim().is_empty());
    let first = first.unwrap_or("nothing").trim();
    MediaError::unreadable(path, format!("ffmpeg says: {first}"))
}

/// Major and minor version; `None` for a build without, which is a new one.
fn version(text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once("ffmpeg version ")?;
    let mut numbers = rest
        .trim_start_matches('n')
        .split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_among_messages() {
        let frame = |start, bytes| {
            Some(Record::Frame {
                start,
                duration: 1024,
                bytes,
            })
        };
        let line = "0,      -1024,       1024,     1024,    9216, 0xcc781baf, F=0x0";
        assert_eq!(Record::parse(line), frame(1024, 9216));
        let line = "[h264 @ 0x55a910d7fe40] 0,          0,          0,     1024,   30000, 0x1c2b";
        assert_eq!(Record::parse(line), frame(0, 30000));
        assert_eq!(Record::parse("#tb 0: 1/4"), Some(Record::TimeBase(0.25)));
        assert_eq!(Record::parse("#dimensions 0: 832x480"), None);
        assert_eq!(
            Record::parse("[h264 @ 0x5] error while decoding MB 3 0, bytestream -15"),
            None
        );
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(
            version("ffmpeg version 5.1.9-0+deb12u1 Copyright"),
            Some((5, 1))
        );
        assert_eq!(version("ffmpeg version n4.4.2 Copyright"), Some((4, 4)));
        assert_eq!(version("ffmpeg version N-113000-g123 Copyright"), None);
    }
}
