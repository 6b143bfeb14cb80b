//! What the server drives: something that checks requests and makes videos.

use std::path::{Path, PathBuf};

use longcat_media::VideoSize;
use serde::{Deserialize, Serialize};

use crate::{Settings, Watch};

/// The part of a model that all requests share: what it can make, without making it.
///
/// Its methods are called from several threads, also while videos are made, and should take seconds at
/// most.
pub trait Studio: Send + Sync {
    /// What can be asked for.
    fn about(&self) -> About;

    /// Checks settings with their upload and says what comes of them, before they are accepted. Adapters
    /// are known to be usable by then.
    ///
    /// # Errors
    /// [`Refusal`] names the setting and says what to do.
    fn check(&self, order: &Order) -> Result<Planned, Refusal>;

    /// Looks at an adapter, as `longcat lora inspect` does.
    fn inspect(&self, adapter: &Path) -> AdapterReport;

    /// Adapters on this machine that clients may use beside those of the server's folder. Asked whenever adapters
    /// are looked up, so that it should cost little; each is [inspected](Self::inspect) before it is used.
    fn pulled(&self) -> Vec<PulledAdapter> {
        Vec::new()
    }

    /// A worker of its own thread, on the device of this number; called when it has its first job, and
    /// again after a job that [broke](MakeError::breaks) it or panicked.
    ///
    /// # Errors
    /// [`MakeError`]: the job fails with it.
    fn worker(&self, number: usize) -> Result<Box<dyn Maker>, MakeError>;

    /// Whether a worker can be made anew in this process after a job [broke](MakeError::breaks) one. Where it
    /// cannot, the server ends when all workers have ended their jobs, for a process that follows
    /// ([`Ended::Broken`](crate::Ended::Broken)).
    fn outlives_faults(&self) -> bool {
        true
    }
}

/// A worker, which makes one video after the other.
pub trait Maker {
    /// Makes a video: leaves its file at [`JobFiles::video`], written atomically, and the latents that it
    /// is decoded from at [`JobFiles::latents`] before they are decoded. What an earlier, interrupted run
    /// of the same job has left in its folder may be taken up.
    ///
    /// # Errors
    /// [`MakeError`]; the job fails with it, or is cancelled.
    fn make(&mut self, order: &Order, watch: &Watch) -> Result<(), MakeError>;
}

/// What a server's model is and can make.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// Version of the program.
    pub version: String,
    /// Name of the model.
    pub model: String,
    /// Devices; each has a worker.
    pub devices: Vec<String>,
    /// Type of computation.
    pub dtype: String,
    /// Sizes that the model was trained on.
    pub sizes: Vec<VideoSize>,
    /// Whether there is a distilled adapter.
    pub distill: bool,
    /// Whether videos can be refined.
    pub refine: bool,
    /// What requests may leave open.
    pub defaults: Defaults,
    /// Sides are multiples of it.
    pub size_multiple: usize,
    /// Frames are 1 more than a multiple of it.
    pub frames_multiple: usize,
}

/// What is made where a request leaves it open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// Size of a video that no picture gives its shape.
    pub size: VideoSize,
    /// Frames.
    pub frames: usize,
    /// Frames per second of what is made, unrefined.
    pub fps: f64,
    /// Condition frames of a continuation.
    pub cond_frames: usize,
    /// Steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
    /// Steps with the distilled adapter.
    pub distill_steps: usize,
    /// Guidance scale with the distilled adapter.
    pub distill_guidance: f64,
}

/// What is to be made, and the files that belong to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The settings.
    pub settings: Settings,
    /// The adapters of the settings, in their order.
    pub adapters: Vec<OrderedAdapter>,
    /// Its folder. Before it is accepted, one that holds the upload only.
    pub files: JobFiles,
}

/// An adapter and how it acts.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderedAdapter {
    /// File or folder.
    pub path: PathBuf,
    /// Factor on its own scale.
    pub strength: f64,
    /// Where and when it acts, without the first `@`; empty for everywhere.
    pub scope: String,
}

/// What comes of settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Frames of the result.
    pub frames: usize,
    /// Frames per second of the result.
    pub fps: f64,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// Why settings are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The member of the request that is at fault, if it is one.
    pub param: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal of one member of the request.
    pub fn of(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            message: message.into(),
        }
    }
}

/// Why a video was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakeError {
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The request cannot work.
    #[error("{0}")]
    Invalid(String),
    /// The device has not the memory.
    #[error("{0}")]
    OutOfMemory(String),
    /// The device failed otherwise.
    #[error("{0}")]
    Device(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl MakeError {
    /// Its name in the API.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Invalid(_) => "invalid",
            Self::OutOfMemory(_) => "out_of_memory",
            Self::Device(_) => "device",
            Self::Failed(_) => "failed",
        }
    }

    /// Whether a worker is made anew afterwards: what a device holds cannot be relied upon.
    pub fn breaks(&self) -> bool {
        matches!(self, Self::OutOfMemory(_) | Self::Device(_))
    }
}

/// What an adapter is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdapterReport {
    /// Its format.
    pub format: Option<String>,
    /// Its rank, or the range of its ranks.
    pub rank: Option<String>,
    /// How many layers it acts on.
    pub layers: Option<usize>,
    /// What a user should know.
    pub warnings: Vec<String>,
    /// Why it cannot be used; empty where it can.
    pub problems: Vec<String>,
    /// A longer description, line by line.
    pub details: Vec<String>,
}

/// An adapter that was downloaded from a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledAdapter {
    /// The repository, `OWNER/NAME` or `OWNER/NAME@REVISION`.
    pub repository: String,
    /// Its path in the repository, with `/` between folders.
    pub file: String,
    /// Where it lies, which clients are not told.
    pub path: PathBuf,
}

/// The folder of a job, and the names of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFiles {
    folder: PathBuf,
}

/// What was uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// A picture.
    Image,
    /// A video.
    Video,
}

/// Endings of uploads, which the server gives by their contents.
pub(crate) const INPUTS: &[(&str, InputKind, &str)] = &[
    ("png", InputKind::Image, "image/png"),
    ("jpg", InputKind::Image, "image/jpeg"),
    ("bmp", InputKind::Image, "image/bmp"),
    ("webp", InputKind::Image, "image/webp"),
    ("mp4", InputKind::Video, "video/mp4"),
    ("mkv", InputKind::Video, "video/webm"),
    ("gif", InputKind::Video, "image/gif"),
    ("moving.webp", InputKind::Video, "image/webp"),
];

impl JobFiles {
    /// The files in a folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The folder; files of a maker's own may lie in it, too.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The result, H.264 in mp4.
    pub fn video(&self) -> PathBuf {
        self.folder.join("video.mp4")
    }

    /// The latents that the result is decoded from.
    pub fn latents(&self) -> PathBuf {
        self.folder.join("latents.safetensors")
    }

    /// The first frame, small.
    pub fn thumbnail(&self) -> PathBuf {
        self.folder.join("thumbnail.jpg")
    }

    /// What the last step made.
    pub fn preview(&self) -> PathBuf {
        self.folder.join("preview.webp")
    }

    /// The image or video that was uploaded or is an earlier result, if there is one.
    pub fn input(&self) -> Option<(InputKind, PathBuf)> {
        self.input_with_type().map(|(kind, _, path)| (kind, path))
    }

    /// The latents of the earlier result that is the input, if there are some.
    pub fn input_latents(&self) -> Option<PathBuf> {
        let path = self.folder.join("input.safetensors");
        path.is_file().then_some(path)
    }

    pub(crate) fn input_with_type(&self) -> Option<(InputKind, &'static str, PathBuf)> {
        INPUTS.iter().find_map(|(ending, kind, media_type)| {
            let path = self.folder.join(format!("input.{ending}"));
            path.is_file().then_some((*kind, *media_type, path))
        })
    }
}
