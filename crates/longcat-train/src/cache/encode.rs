//! Filling the cache: clips in batches of equal shape, captions one by one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use burn::tensor::{DType, Tensor};
use longcat_kernels::{KernelBackend, Stage, guard};
use longcat_text::PromptTokenizer;
use longcat_video::{Checkpoint, VideoError};
use longcat_weights::{NamedTensor, WeightFiles, write_safetensors};

use super::dataset::{LatentDataset, TextTable};
use super::key::{Hasher, fingerprint};
use super::latents::latents;
use crate::config::TrainConfig;
use crate::data::CaptionedClip;
use crate::observe::stop;
use crate::{TrainError, TrainObserver};

/// Encodes clips that are not in the cache yet. The VAE is loaded only if something is missing and gone
/// when this returns.
///
/// Clips that cannot be read are reported; they are an error unless the configuration says to skip
/// them.
///
/// # Errors
/// [`TrainError`] names the clip or file; [`TrainError::Interrupted`].
pub fn encode_clips<B: KernelBackend>(
    config: &TrainConfig,
    clips: &[CaptionedClip],
    device: &B::Device,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<LatentDataset, TrainError> {
    let checkpoint = Checkpoint::open(config.checkpoint()?)?;
    latents::<B>(config, &checkpoint, clips, device, observer, interrupt)
}

/// Encodes captions and prompts that are not in the cache yet. The text encoder is loaded only if
/// something is missing and gone when this returns.
///
/// # Errors
/// [`TrainError`] names the file; [`TrainError::Interrupted`].
pub fn encode_texts<B: KernelBackend>(
    config: &TrainConfig,
    texts: impl IntoIterator<Item = String>,
    device: &B::Device,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<TextTable, TrainError> {
    let texts: Vec<String> = texts.into_iter().collect();
    let checkpoint = Checkpoint::open(config.checkpoint()?)?;
    let folder = config.cache.path.join("text");
    std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
    let tokenizer = checkpoint.tokenizer_path();
    let model = Hasher::default()
        .part(fingerprint(tokenizer)?.as_bytes())
        .part(fingerprint(checkpoint.text_encoder_path())?.as_bytes())
        .part(format!("{:?}", config.cache.text_precision).as_bytes())
        .finish();
    let tokenizer = PromptTokenizer::load(tokenizer).map_err(VideoError::from)?;
    let length = tokenizer.length(config.cache.text_length);
    let devices = [device.clone()];
    let mut encoder = None;
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    let total = texts.len();
    for (done, text) in texts.into_iter().enumerate() {
        stop(interrupt)?;
        observer.caching("captions", done, total);
        if files.contains_key(&text) {
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
                encoder = Some(guard::<B, _, _>(
                    &devices,
                    Stage::LoadingTextEncoder,
                    || checkpoint.load_text_encoder::<B>(dtype, device),
                )?);
            }
            let Some(encoder) = &encoder else {
                unreachable!("it was just loaded")
            };
            let encode = || {
                let (embeds, mask) = encoder
                    .encode_prompts(std::slice::from_ref(&text), length)
                    .map_err(VideoError::from)?;
                // Padding is at the end and carries nothing.
                let tokens = mask.iter().flatten().filter(|valid| **valid).count();
                let embeds: Tensor<B, 4> = embeds.narrow(2, 0, tokens.max(1));
                let [_, _, tokens, width] = embeds.dims();
                named("embeds", embeds.reshape([tokens, width]))
            };
            let tensors = [guard::<B, _, _>(&devices, Stage::EncodingPrompt, encode)?];
            let metadata = BTreeMap::from([("text".to_string(), text.clone())]);
            write_safetensors(&path, &tensors, &metadata)?;
        }
        files.insert(text, path);
    }
    observer.caching("captions", total, total);
    if encoder.take().is_some() {
        B::memory_cleanup(device);
    }
    Ok(TextTable::new(length, files))
}

/// Reads a tensor back under a name, as f32.
pub(super) fn named<B: KernelBackend, const D: usize>(
    name: &str,
    tensor: Tensor<B, D>,
) -> Result<NamedTensor, TrainError> {
    let data = tensor
        .cast(DType::F32)
        .try_into_data()
        .map_err(|e| TrainError::Device {
            what: name.to_string(),
            reason: e.to_string(),
        })?;
    Ok(NamedTensor {
        name: name.to_string(),
        data,
    })
}
