//! Clips, captions, buckets.

mod bucket;
mod clip;
mod find;
mod scan;

pub(crate) use bucket::Bucket;
use bucket::choose;
pub use clip::{CaptionedClip, Condition, Media};
pub use scan::scan;
