//! Encoded clips and captions on disk, so that neither encoder is there while training.
//!
//! Every file is named by a hash of what it was made from: the clip's bytes (or the caption), the
//! settings, and a fingerprint of the encoder. A cache that was interrupted is continued, and one
//! that no longer fits is left alone.

mod dataset;
mod encode;
mod key;
mod latents;
mod plan;
mod shares;
mod vae;

pub use dataset::{CachedLatents, Entry, LatentDataset, TextTable};
pub use encode::{encode_clips, encode_texts};
pub use key::fingerprint;
