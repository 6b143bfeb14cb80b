//! What is in the cache: entries to read while training.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::TensorData;
use longcat_weights::WeightFiles;

use crate::TrainError;
use crate::data::Condition;

/// One encoded clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its number in the list of clips.
    pub number: usize,
    /// The clip it was made from.
    pub clip: PathBuf,
    /// Its latents on disk: of the part that is taken of it, or of each of several.
    pub latents: Vec<PathBuf>,
    /// Shape of the latents of a part, `[C, T, H, W]`.
    pub shape: [usize; 4],
    /// Size and frames of a part, for people.
    pub bucket: String,
    /// Frames of the whole clip, where the cache knows them.
    pub length: Option<usize>,
    /// Its captions, at least one.
    pub captions: Vec<String>,
    /// How often it comes in an epoch.
    pub repeats: usize,
    /// What is always given of it.
    pub condition: Option<Condition>,
}

/// Encoded clips.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LatentDataset {
    /// In the order of the clips.
    pub entries: Vec<Entry>,
}

/// What is kept of a clip, normalised for the transformer, `[C, T, H, W]` each.
#[derive(Debug, Clone)]
pub struct CachedLatents {
    /// Mean of the posterior.
    pub mean: TensorData,
    /// Its standard deviation.
    pub deviation: TensorData,
    /// Mean of the upsampled first-stage clip, where refining is trained.
    pub source: Option<TensorData>,
}

impl Entry {
    /// The latents of part number `part` of the clip.
    ///
    /// # Errors
    /// [`TrainError::Weights`].
    pub fn read(&self, part: usize) -> Result<CachedLatents, TrainError> {
        let files = WeightFiles::open(&self.latents[part])?;
        Ok(CachedLatents {
            mean: files.tensor_data("mean")?,
            deviation: files.tensor_data("deviation")?,
            source: match files.info("source") {
                Some(_) => Some(files.tensor_data("source")?),
                None => None,
            },
        })
    }
}

/// Encoded captions and prompts.
#[derive(Debug, Clone, Default)]
pub struct TextTable {
    /// Text tokens per caption, padding included.
    pub length: usize,
    files: BTreeMap<String, PathBuf>,
}

impl TextTable {
    pub(super) fn new(length: usize, files: BTreeMap<String, PathBuf>) -> Self {
        Self { length, files }
    }

    /// Embeddings `[length, width]`, zero where there is padding, and the mask.
    ///
    /// # Errors
    /// [`TrainError::Weights`]; [`TrainError::Data`] for a text that was not encoded.
    pub fn read(&self, text: &str) -> Result<(TensorData, Vec<bool>), TrainError> {
        let path = self.files.get(text).ok_or_else(|| TrainError::Data {
            path: text.into(),
            reason: "this caption is not in the cache".into(),
        })?;
        let data = WeightFiles::open(path)?
            .tensor_data("embeds")?
            .convert::<f32>();
        let (tokens, width) = (data.shape[0], data.shape[1]);
        let mut values: Vec<f32> = data.iter().collect();
        values.resize(self.length * width, 0.0);
        let mask = (0..self.length).map(|i| i < tokens).collect();
        Ok((TensorData::new(values, [self.length, width]), mask))
    }
}
