//! The data of a run, encoded on disk.

use std::sync::atomic::AtomicBool;

use longcat_kernels::KernelBackend;

use crate::cache::{LatentDataset, TextTable, encode_clips, encode_texts};
use crate::config::TrainConfig;
use crate::{TrainError, TrainObserver};

/// Encoded clips of a run.
#[derive(Debug, Clone, Default)]
pub struct TrainingData {
    /// The clips to train on.
    pub training: LatentDataset,
    /// Held-out clips; those to train on where there are none.
    pub validation: LatentDataset,
}

impl TrainingData {
    /// Finds the clips of a configuration, and encodes what the cache lacks.
    ///
    /// # Errors
    /// As [`DataConfig::find_clips`](crate::DataConfig::find_clips) and [`encode_clips`].
    pub fn prepare<B: KernelBackend>(
        config: &TrainConfig,
        device: &B::Device,
        observer: &mut dyn TrainObserver,
        interrupt: &AtomicBool,
    ) -> Result<Self, TrainError> {
        let mut clips = config.data.find_clips(&config.data.path, observer)?;
        let count = clips.len();
        let held_out = config.validation.as_ref().and_then(|v| v.path.as_ref());
        if let Some(path) = held_out {
            clips.extend(config.data.find_clips(path, observer)?);
        }
        let encoded = encode_clips::<B>(config, &clips, device, observer, interrupt)?;
        let entries = encoded.entries.into_iter();
        let (training, rest): (Vec<_>, Vec<_>) = entries.partition(|entry| entry.number < count);
        let validation = match held_out {
            None => training.clone(),
            Some(_) => rest,
        };
        Ok(Self {
            training: LatentDataset { entries: training },
            validation: LatentDataset {
                entries: validation,
            },
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
        observer: &mut dyn TrainObserver,
        interrupt: &AtomicBool,
    ) -> Result<TextTable, TrainError> {
        let entries = self.training.entries.iter().chain(&self.validation.entries);
        let mut texts: Vec<String> = entries.map(|entry| entry.caption.clone()).collect();
        texts.push(String::new());
        if let Some(samples) = &config.samples {
            texts.extend(samples.prompts.iter().cloned());
            texts.push(samples.negative_prompt.clone());
        }
        encode_texts::<B>(config, texts, device, observer, interrupt)
    }
}
