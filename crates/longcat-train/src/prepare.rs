//! The data of a run, encoded on disk.

use std::sync::atomic::AtomicBool;

use longcat_kernels::KernelBackend;

use crate::cache::{LatentDataset, TextTable, encode_clips, encode_texts};
use crate::config::TrainConfig;
use crate::data::CaptionedClip;
use crate::{DataSummary, Ranks, TrainError, TrainObserver};

/// Encoded clips of a run.
#[derive(Debug, Clone, Default)]
pub struct TrainingData {
    /// The clips to train on.
    pub training: LatentDataset,
    /// Held-out clips; those to train on where there are none.
    pub validation: LatentDataset,
}

impl TrainingData {
    /// Finds the clips of a configuration, and encodes what the cache lacks. What is found is told to
    /// the observer and written to `clips.jsonl` in the output folder, which must be there. Ranks share
    /// out the work.
    ///
    /// # Errors
    /// As [`TrainConfig::find_clips`] and [`encode_clips`].
    pub fn prepare<B: KernelBackend>(
        config: &TrainConfig,
        device: &B::Device,
        ranks: &Ranks,
        observer: &mut dyn TrainObserver,
        interrupt: &AtomicBool,
    ) -> Result<Self, TrainError> {
        let mut observer = Listener {
            inner: observer,
            skipped: Vec::new(),
        };
        let path = &config.data.path;
        let found = config.find_clips("data.path", path, &mut observer, interrupt)?;
        let (mut clips, mut ignored) = (found.clips, found.ignored);
        let count = clips.len();
        let held_out = config.validation.as_ref().and_then(|v| v.path.as_ref());
        if let Some(path) = held_out {
            let found = config.find_clips("validation.path", path, &mut observer, interrupt)?;
            clips.extend(found.clips);
            for left_out in found.ignored {
                if !ignored.contains(&left_out) {
                    ignored.push(left_out);
                }
            }
        }
        without_conditions(config, &clips)?;
        let encoded = encode_clips::<B>(config, &clips, device, ranks, &mut observer, interrupt)?;
        let entries = encoded.entries.into_iter();
        let (training, rest): (Vec<_>, Vec<_>) = entries.partition(|entry| entry.number < count);
        config.some_clip("data.path", path, training.iter().map(|e| e.repeats))?;
        if let Some(path) = held_out {
            config.some_clip("validation.path", path, rest.iter().map(|e| e.repeats))?;
        }
        let training = LatentDataset { entries: training };
        let rest = LatentDataset { entries: rest };
        let others = held_out.map(|_| &rest);
        let skipped = std::mem::take(&mut observer.skipped);
        let summary = DataSummary::new(config, &training, others, ignored, skipped);
        if ranks.is_first() {
            summary.write(&training, &config.output.join("clips.jsonl"))?;
        }
        observer.data(&summary);
        let validation = match held_out {
            None => training.clone(),
            Some(_) => rest,
        };
        Ok(Self {
            training,
            validation,
        })
    }

    /// Encodes what the cache lacks of the captions, the empty one, and the prompts of samples.
    ///
    /// # Errors
    /// As [`encode_texts`].
    pub fn encode_texts<B: KernelBackend>(
        &self,
        config: &TrainConfig,
        device: &B::Device,
        ranks: &Ranks,
        observer: &mut dyn TrainObserver,
        interrupt: &AtomicBool,
    ) -> Result<TextTable, TrainError> {
        let entries = self.training.entries.iter().chain(&self.validation.entries);
        let mut texts: Vec<String> = entries.flat_map(|e| e.captions.iter().cloned()).collect();
        texts.push(String::new());
        if let Some(samples) = &config.samples {
            texts.extend(samples.prompts.iter().cloned());
            texts.push(samples.negative_prompt.clone());
        }
        encode_texts::<B>(config, texts, device, ranks, observer, interrupt)
    }
}

/// An error where refining is trained on clips that have conditions.
fn without_conditions(config: &TrainConfig, clips: &[CaptionedClip]) -> Result<(), TrainError> {
    let conditioned = clips.iter().find(|clip| clip.condition.is_some());
    match (conditioned, config.objective.threshold()) {
        (Some(clip), Some(_)) => {
            let clip = clip.path.display();
            let reason = format!("refining is trained without conditions, and {clip} has one");
            Err(config.problem("objective.refine", reason))
        }
        _ => Ok(()),
    }
}

/// Remembers which clips are skipped, and passes on what preparing tells.
struct Listener<'a> {
    inner: &'a mut dyn TrainObserver,
    skipped: Vec<String>,
}

impl TrainObserver for Listener<'_> {
    fn caching(&mut self, what: &str, done: usize, total: usize) {
        self.inner.caching(what, done, total);
    }

    fn skipped(&mut self, problem: &TrainError) {
        self.skipped.push(problem.to_string());
        self.inner.skipped(problem);
    }

    fn data(&mut self, summary: &DataSummary) {
        self.inner.data(summary);
    }
}
