use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{DType, Tensor, TensorData};
use longcat_kernels::KernelBackend;
use longcat_video::{Checkpoint, PixelFrames};
use longcat_weights::{NamedTensor, WeightFiles, write_safetensors};

use super::key::{Hasher, content, fingerprint};
use crate::config::TrainConfig;
use crate::data::{Clip, Size};
use crate::{Observer, TrainError};

/// One encoded clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its number in the list of clips.
    pub number: usize,
    /// The clip it was made from.
    pub clip: PathBuf,
    /// Its latents on disk.
    pub latents: PathBuf,
    /// Shape of the latents, `[C, T, H, W]`.
    pub shape: [usize; 4],
    /// The caption.
    pub caption: String,
    /// How often it comes in an epoch.
    pub repeats: usize,
}

/// Encoded clips.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dataset {
    /// In the order of the clips.
    pub entries: Vec<Entry>,
}

impl Entry {
    /// Mean and standard deviation of the latents, normalised for the transformer, each
    /// `[C, T, H, W]`.
    ///
    /// # Errors
    /// [`TrainError::Weights`].
    pub fn read(&self) -> Result<[TensorData; 2], TrainError> {
        let files = WeightFiles::open(&self.latents)?;
        Ok([files.tensor_data("mean")?, files.tensor_data("deviation")?])
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

/// Encodes what is not in the cache yet, latents first; each encoder is loaded only if something
/// is missing and gone when this returns. `texts` are prompts beyond the captions.
///
/// Clips that cannot be read are reported; they are an error unless the configuration says to skip
/// them.
///
/// # Errors
/// [`TrainError`] names the clip or file; [`TrainError::Interrupted`].
pub fn encode<B: KernelBackend>(
    config: &TrainConfig,
    clips: &[Clip],
    texts: &[String],
    device: &B::Device,
    observer: &mut dyn Observer,
    interrupt: &AtomicBool,
) -> Result<(Dataset, TextTable), TrainError> {
    let checkpoint = Checkpoint::open(&config.model.checkpoint)?;
    let dataset = latents::<B>(config, &checkpoint, clips, device, observer, interrupt)?;
    let captions = dataset.entries.iter().map(|e| e.caption.clone());
    let texts: Vec<String> = captions.chain(texts.iter().cloned()).collect();
    let table = captions_of::<B>(config, &checkpoint, texts, device, observer, interrupt)?;
    Ok((dataset, table))
}

fn latents<B: KernelBackend>(
    config: &TrainConfig,
    checkpoint: &Checkpoint,
    clips: &[Clip],
    device: &B::Device,
    observer: &mut dyn Observer,
    interrupt: &AtomicBool,
) -> Result<Dataset, TrainError> {
    let folder = config.cache.path.join("latents");
    std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
    let sizes: Vec<Size> = config
        .data
        .sizes
        .iter()
        .filter_map(|size| Size::from_str(size).ok())
        .collect();
    let model = fingerprint(&checkpoint.root().join("vae"))?;
    let settings = format!("{sizes:?} {:?} {}", config.data.frames, config.data.fps);
    let mut vae = None;
    let mut dataset = Dataset::default();
    for (done, clip) in clips.iter().enumerate() {
        stop(interrupt)?;
        observer.caching("clips", done, clips.len());
        let mut encode = || -> Result<Entry, TrainError> {
            let key = Hasher::default()
                .part(b"latents 1")
                .part(content(&clip.path)?.as_bytes())
                .part(settings.as_bytes())
                .part(model.as_bytes())
                .finish();
            let path = folder.join(format!("{key}.safetensors"));
            if latent_shape(&path).is_none() {
                let fitted = clip.read(&sizes, &config.data.frames, config.data.fps)?;
                if vae.is_none() {
                    vae = Some(checkpoint.load_vae::<B>(DType::F32, device)?);
                }
                let Some(vae) = &vae else {
                    unreachable!("it was just loaded")
                };
                let pixels = PixelFrames::from_images(&fitted.frames)?;
                let posterior = vae
                    .encode(pixels.to_tensor(device))
                    .map_err(longcat_video::VideoError::from)?;
                let mean = vae.normalize(posterior.mean);
                let std = &vae.config().latents_std;
                let std = TensorData::new(std.clone(), [1, std.len(), 1, 1, 1]);
                let deviation = (posterior.logvar * 0.5).exp()
                    / Tensor::<B, 5>::from_data(std, (device, DType::F32));
                let bucket = fitted.bucket.to_string();
                let origin = clip.path.to_string_lossy().into_owned();
                let metadata =
                    BTreeMap::from([("clip".to_string(), origin), ("bucket".to_string(), bucket)]);
                let tensors = [named("mean", mean)?, named("deviation", deviation)?];
                write_safetensors(&path, &tensors, &metadata)?;
            }
            let shape = latent_shape(&path).ok_or_else(|| TrainError::Data {
                path: path.clone(),
                reason: "the cached latents cannot be read back".into(),
            })?;
            Ok(Entry {
                number: done,
                clip: clip.path.clone(),
                latents: path,
                shape,
                caption: clip.caption.clone(),
                repeats: clip.repeats,
            })
        };
        match encode() {
            Ok(entry) => dataset.entries.push(entry),
            Err(error) => skip(config, error.of_clip(&clip.path), observer)?,
        }
    }
    observer.caching("clips", clips.len(), clips.len());
    if vae.take().is_some() {
        B::memory_cleanup(device);
    }
    Ok(dataset)
}

fn captions_of<B: KernelBackend>(
    config: &TrainConfig,
    checkpoint: &Checkpoint,
    texts: Vec<String>,
    device: &B::Device,
    observer: &mut dyn Observer,
    interrupt: &AtomicBool,
) -> Result<TextTable, TrainError> {
    let folder = config.cache.path.join("text");
    std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
    let model = Hasher::default()
        .part(fingerprint(&checkpoint.root().join("tokenizer"))?.as_bytes())
        .part(fingerprint(&checkpoint.root().join("text_encoder"))?.as_bytes())
        .part(format!("{:?}", config.cache.text_precision).as_bytes())
        .finish();
    let length = config.cache.text_length;
    let mut encoder = None;
    let mut table = TextTable {
        length,
        files: BTreeMap::new(),
    };
    let total = texts.len();
    for (done, text) in texts.into_iter().enumerate() {
        stop(interrupt)?;
        observer.caching("captions", done, total);
        if table.files.contains_key(&text) {
            continue;
        }
        let key = Hasher::default()
            .part(b"text 1")
            .part(text.as_bytes())
            .part(&length.to_le_bytes())
            .part(model.as_bytes())
            .finish();
        let path = folder.join(format!("{key}.safetensors"));
        if WeightFiles::open(&path).is_err() {
            if encoder.is_none() {
                let dtype = config.cache.text_precision.dtype();
                encoder = Some(checkpoint.load_text_encoder::<B>(dtype, device)?);
            }
            let Some(encoder) = &encoder else {
                unreachable!("it was just loaded")
            };
            let (embeds, mask) = encoder
                .encode_prompts(std::slice::from_ref(&text), length)
                .map_err(longcat_video::VideoError::from)?;
            // Padding is at the end and carries nothing.
            let tokens = mask.iter().flatten().filter(|valid| **valid).count();
            let embeds: Tensor<B, 4> = embeds.narrow(2, 0, tokens.max(1));
            let [_, _, tokens, width] = embeds.dims();
            let tensors = [named("embeds", embeds.reshape([tokens, width]))?];
            let metadata = BTreeMap::from([("text".to_string(), text.clone())]);
            write_safetensors(&path, &tensors, &metadata)?;
        }
        table.files.insert(text, path);
    }
    observer.caching("captions", total, total);
    if encoder.take().is_some() {
        B::memory_cleanup(device);
    }
    Ok(table)
}

/// Shape `[C, T, H, W]` of cached latents; `None` where the file is absent or damaged.
fn latent_shape(path: &Path) -> Option<[usize; 4]> {
    let files = WeightFiles::open(path).ok()?;
    let mean = files.info("mean")?;
    files.info("deviation").filter(|d| d.shape == mean.shape)?;
    let shape: [usize; 5] = mean.shape.try_into().ok()?;
    Some([shape[1], shape[2], shape[3], shape[4]])
}

fn named<B: KernelBackend, const D: usize>(
    name: &str,
    tensor: Tensor<B, D>,
) -> Result<NamedTensor, TrainError> {
    let data = tensor.try_into_data().map_err(|e| TrainError::Device {
        what: name.to_string(),
        reason: e.to_string(),
    })?;
    Ok(NamedTensor {
        name: name.to_string(),
        data,
    })
}

pub(crate) fn skip(
    config: &TrainConfig,
    error: TrainError,
    observer: &mut dyn Observer,
) -> Result<(), TrainError> {
    if config.data.skip_broken && error.is_about_a_clip() {
        observer.skipped(&error);
        return Ok(());
    }
    Err(error)
}

fn stop(interrupt: &AtomicBool) -> Result<(), TrainError> {
    match interrupt.load(Ordering::Relaxed) {
        true => Err(TrainError::Interrupted),
        false => Ok(()),
    }
}
