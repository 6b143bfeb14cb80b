//! Clips, captions, buckets.

mod bucket;
mod clip;
mod find;
mod frames;
mod kind;
mod list;
mod scan;
mod walk;
mod windows;

use std::path::PathBuf;

pub(crate) use bucket::Bucket;
use bucket::choose;
pub use clip::{CaptionedClip, Condition, Media};
pub(crate) use clip::{ClipReader, Windows};
pub use find::FoundClips;
use windows::starts;

/// A file or folder that is not used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// The file or folder.
    pub path: PathBuf,
    /// Why it is not used; the same text for all of a kind.
    pub reason: String,
}
