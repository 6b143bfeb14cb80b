//! What a run trains on, in few words and as a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use longcat_weights::write_atomic;
use serde_json::json;

use crate::TrainError;
use crate::cache::{Entry, LatentDataset};
use crate::config::TrainConfig;
use crate::data::{Condition, Ignored};

/// Lines of one kind that are shown; the file has all.
const SHOWN: usize = 5;

/// What a run trains on, and what it leaves out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DataSummary {
    /// What comes in batches of its own.
    pub buckets: Vec<BucketSummary>,
    /// Clips to validate on.
    pub held_out: usize,
    /// Files and folders that are not used.
    pub ignored: Vec<Ignored>,
    /// Broken clips that are left out.
    pub skipped: Vec<String>,
    /// What may not be as it was meant.
    pub remarks: Vec<String>,
}

/// Clips of one size and number of frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketSummary {
    /// Size and frames, `832x480x33`.
    pub bucket: String,
    /// Clips, each counted once.
    pub clips: usize,
    /// Parts that are taken of them.
    pub parts: usize,
    /// Samples in an epoch.
    pub samples: usize,
    /// Frames of the shortest and of the longest clip, of those that were read to their end.
    pub lengths: Option<(usize, usize)>,
    /// Clips of which only the start was read, or whose length an older cache does not tell.
    pub unread: usize,
}

impl DataSummary {
    pub(crate) fn new(
        config: &TrainConfig,
        training: &LatentDataset,
        held_out: Option<&LatentDataset>,
        ignored: Vec<Ignored>,
        skipped: Vec<String>,
    ) -> Self {
        let clips = |entries: &[Entry]| {
            let mut numbers: Vec<usize> = entries.iter().map(|entry| entry.number).collect();
            numbers.dedup();
            numbers.len()
        };
        let mut buckets: BTreeMap<String, BucketSummary> = BTreeMap::new();
        for of_clip in training.entries.chunk_by(|a, b| a.number == b.number) {
            let bucket = buckets.entry(of_clip[0].bucket.clone()).or_default();
            bucket.bucket.clone_from(&of_clip[0].bucket);
            bucket.clips += 1;
            bucket.unread += usize::from(of_clip[0].length.is_none());
            for entry in of_clip {
                bucket.parts += entry.latents.len();
                let samples = entry.repeats.saturating_mul(config.data.repeats);
                bucket.samples = bucket.samples.saturating_add(samples);
                if let Some(length) = entry.length {
                    let (least, most) = bucket.lengths.unwrap_or((length, length));
                    bucket.lengths = Some((least.min(length), most.max(length)));
                }
            }
        }
        let mut remarks = remarks(config, training);
        let held_out = held_out.map_or(&[][..], |held_out| &held_out.entries);
        let trained: BTreeSet<_> = training.entries.iter().flat_map(|e| &e.latents).collect();
        let both = |entry: &&Entry| entry.latents.iter().any(|part| trained.contains(part));
        let both = held_out.iter().filter(both).count();
        if both > 0 {
            remarks.push(format!(
                "{both} of the clips to validate on are trained on too"
            ));
        }
        Self {
            buckets: buckets.into_values().collect(),
            held_out: clips(held_out),
            ignored,
            skipped,
            remarks,
        }
    }

    /// Writes a line per clip and per file that is not used.
    ///
    /// # Errors
    /// [`TrainError::Weights`].
    pub(crate) fn write(&self, data: &LatentDataset, path: &Path) -> Result<(), TrainError> {
        let mut text = String::new();
        for of_clip in data.entries.chunk_by(|a, b| a.number == b.number) {
            let entry = &of_clip[0];
            let parts: usize = of_clip.iter().map(|entry| entry.latents.len()).sum();
            let line = json!({
                "clip": entry.clip,
                "bucket": entry.bucket,
                "frames": entry.length,
                "parts": parts,
                "captions": entry.captions.len(),
                "repeats": entry.repeats,
            });
            text += &format!("{line}\n");
        }
        for Ignored { path, reason } in &self.ignored {
            text += &format!("{}\n", json!({ "ignored": path, "reason": reason }));
        }
        for reason in &self.skipped {
            text += &format!("{}\n", json!({ "skipped": reason }));
        }
        Ok(write_atomic(path, text.as_bytes())?)
    }
}

/// Conditions that some clips are too short for.
fn remarks(config: &TrainConfig, training: &LatentDataset) -> Vec<String> {
    let shares = config.objective.conditions();
    let mut remarks = Vec::new();
    for (condition, key, share, wanted) in [
        (Condition::Image, "image_condition", shares.image, 1),
        (
            Condition::Continuation,
            "continuation",
            shares.continuation,
            shares.latents,
        ),
    ] {
        let short = |entry: &&Entry| {
            let asked = match entry.condition {
                Some(given) => given == condition,
                None => share > 0.0,
            };
            asked && entry.shape[1] <= wanted
        };
        let mut short = training.entries.iter().filter(short).peekable();
        if let Some(first) = short.peek().map(|entry| entry.clip.display().to_string()) {
            let count = short.count();
            remarks.push(format!(
                "{count} of the parts to train on, {first} first, have no frames beside the \
                 {wanted} latent frames of objective.{key} and are trained without that condition"
            ));
        }
    }
    remarks
}

impl fmt::Display for DataSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clips: usize = self.buckets.iter().map(|bucket| bucket.clips).sum();
        write!(f, "training on {clips} clips")?;
        if self.held_out > 0 {
            write!(f, ", validating on {} others", self.held_out)?;
        }
        for bucket in &self.buckets {
            write!(f, "\n  {}: {} clips", bucket.bucket, bucket.clips)?;
            match bucket.lengths {
                Some((least, most)) if least == most => write!(f, " of {most} frames")?,
                Some((least, most)) => write!(f, " of {least} to {most} frames")?,
                None => {}
            }
            if bucket.unread > 0 {
                write!(f, ", {} not read to their end", bucket.unread)?;
            }
            if bucket.parts > bucket.clips {
                write!(f, ", {} parts of them", bucket.parts)?;
            }
            write!(f, ", {} samples an epoch", bucket.samples)?;
        }
        let mut reasons: BTreeMap<&str, Vec<&Path>> = BTreeMap::new();
        for Ignored { path, reason } in &self.ignored {
            reasons.entry(reason).or_default().push(path);
        }
        for (reason, paths) in reasons {
            write!(f, "\n  not used ({reason}):")?;
            for path in paths.iter().take(SHOWN) {
                write!(f, " {}", path.display())?;
            }
            if paths.len() > SHOWN {
                write!(f, " and {} more", paths.len() - SHOWN)?;
            }
        }
        if !self.skipped.is_empty() {
            write!(f, "\n  broken and left out: {}", self.skipped.len())?;
        }
        for remark in &self.remarks {
            write!(f, "\n  note: {remark}")?;
        }
        Ok(())
    }
}
