//! Clips, captions, buckets.

mod bucket;
mod clip;
mod scan;

pub use bucket::{Bucket, Size, choose};
pub use clip::{Clip, Condition, Media};
pub use scan::scan;
