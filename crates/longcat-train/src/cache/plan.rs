//! Which files of the cache belong to a clip, and what they are made of.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use longcat_video::media::{ReadOptions, read_video};
use longcat_video::{Checkpoint, PixelFrames, VideoSize};
use longcat_weights::write_atomic;
use serde_json::json;

use super::key::{Hasher, content, fingerprint};
use crate::TrainError;
use crate::config::{DataConfig, Take, TrainConfig};
use crate::data::{Bucket, CaptionedClip, ClipReader, Media, Windows};
use crate::observe::stop;

/// Bytes of decoded clips that are held at once, if that is more than one clip.
const HELD: usize = 1 << 28;

/// Settings that decide what the latents of a clip are.
pub(super) struct Recipe<'a> {
    data: &'a DataConfig,
    /// Whether clips come with a first-stage clip, for refining.
    refine: bool,
    /// Settings and VAE as text.
    key: String,
    folder: PathBuf,
}

/// A part of a clip: its first frame, its frames at most, and where its latents are once they are
/// there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    pub start: usize,
    pub frames: usize,
    pub path: PathBuf,
    /// Frames of the whole clip, where they were counted.
    pub length: Option<usize>,
}

/// A part of a clip, read from disk and fitted to its bucket.
pub(super) struct Fitted {
    pub bucket: Bucket,
    pub pixels: PixelFrames,
    pub source: Option<PixelFrames>,
    /// Frames of the whole clip, if these are all.
    pub length: Option<usize>,
}

impl<'a> Recipe<'a> {
    pub(super) fn new(
        config: &'a TrainConfig,
        checkpoint: &Checkpoint,
    ) -> Result<Self, TrainError> {
        let folder = config.cache.path.join("latents");
        std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
        let model = fingerprint(checkpoint.vae_path())?;
        let data = &config.data;
        // Spelt as in every cache so far.
        let size = |s: &VideoSize| format!("Size {{ width: {}, height: {} }}", s.width, s.height);
        let sizes: Vec<String> = data.sizes.iter().map(size).collect();
        let (sizes, fps) = (sizes.join(", "), data.fps.unwrap_or(0.0));
        let settings = format!("[{sizes}] {:?} {fps}", data.frames);
        Ok(Self {
            data,
            refine: config.objective.threshold().is_some(),
            key: format!("{settings} {model}"),
            folder,
        })
    }

    /// As many clips as fit in [`HELD`], by the largest that the settings allow.
    pub(super) fn clips_at_once(&self) -> usize {
        let pixels = self.data.sizes.iter().map(|s| s.width * s.height);
        let frames = self.data.frames.iter().copied().max().unwrap_or(1);
        let bytes = 3 * frames * pixels.max().unwrap_or(1);
        (HELD / bytes.max(1)).clamp(1, 1024)
    }

    /// The parts that are taken of a clip.
    pub(super) fn parts(
        &self,
        clip: &CaptionedClip,
        interrupt: &AtomicBool,
    ) -> Result<Vec<Part>, TrainError> {
        // The frames and colours of videos are others since they are read by time and by their tags.
        let made: &[u8] = match clip.media == Media::Video || self.refine {
            true => b"latents 3",
            false => b"latents 2",
        };
        let mut hasher = Hasher::default()
            .part(made)
            .part(content(&clip.path, interrupt)?.as_bytes())
            .part(self.key.as_bytes());
        if self.refine {
            hasher = hasher.part(content(source(clip)?, interrupt)?.as_bytes());
        }
        let whole = hasher.finish();
        let windows = self.windows(clip, &whole)?;
        let part = |start: usize| {
            let key = match start {
                0 => whole.clone(),
                start => Hasher::default()
                    .part(whole.as_bytes())
                    .part(format!("from {start}").as_bytes())
                    .finish(),
            };
            let path = self.folder.join(format!("{key}.safetensors"));
            let length = windows.as_ref().map(|windows| windows.length);
            let frames = windows.as_ref().map(|windows| windows.frames);
            Part {
                start,
                frames: frames.unwrap_or(usize::MAX),
                path,
                length,
            }
        };
        let starts: &[usize] = match &windows {
            Some(windows) => &windows.starts,
            None => &[0],
        };
        Ok(starts.iter().map(|start| part(*start)).collect())
    }

    /// The parts of a clip that has several, from the cache if it knows them.
    fn windows(&self, clip: &CaptionedClip, key: &str) -> Result<Option<Windows>, TrainError> {
        if self.data.take == Take::Start || clip.media == Media::Image {
            return Ok(None);
        }
        let limit = self.data.windows.unwrap_or(0);
        let file = self.folder.join(format!("{key}.windows-{limit}.json"));
        let known = std::fs::read_to_string(&file).ok();
        let known: Option<Windows> = known.and_then(|text| serde_json::from_str(&text).ok());
        if let Some(windows) = known.filter(|windows| !windows.starts.is_empty()) {
            return Ok(Some(windows));
        }
        let windows = clip.windows(self.data)?;
        let text = json!(windows).to_string();
        write_atomic(&file, text.as_bytes())?;
        Ok(Some(windows))
    }

    /// Opens a clip to read parts of it.
    pub(super) fn open<'c>(
        &'c self,
        clip: &'c CaptionedClip,
    ) -> Result<ClipReader<'c>, TrainError> {
        clip.reader(self.data)
    }

    /// Reads a part of an open clip.
    pub(super) fn read(
        &self,
        clip: &CaptionedClip,
        reader: &mut ClipReader<'_>,
        part: &Part,
        interrupt: &AtomicBool,
    ) -> Result<Fitted, TrainError> {
        stop(interrupt)?;
        let fitted = reader.part(part.start, part.frames)?;
        let source = match self.refine {
            true => {
                let video = read_video(source(clip)?, &ReadOptions::default())?;
                Some(PixelFrames::from_video(video)?)
            }
            false => None,
        };
        Ok(Fitted {
            bucket: fitted.bucket,
            pixels: PixelFrames::from_images(&fitted.frames)?,
            source,
            length: part.length.or(fitted.length),
        })
    }
}

fn source(clip: &CaptionedClip) -> Result<&Path, TrainError> {
    clip.source.as_deref().ok_or_else(|| TrainError::Data {
        path: clip.path.clone(),
        reason: "objective.refine needs the first-stage clip, as `source` in the list".into(),
    })
}
