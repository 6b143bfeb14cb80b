//! Filling the cache: clips in batches of equal shape, captions one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use burn::tensor::{DType, Tensor};
use longcat_kernels::{KernelBackend, Stage, guard};
use longcat_text::PromptTokenizer;
use longcat_video::{Checkpoint, VideoError};
use longcat_weights::{LoadAs, NamedTensor, WeightFiles, write_safetensors};

use super::dataset::{LatentDataset, TextTable};
use super::key::{Hasher, fingerprint};
use super::latents::latents;
use super::shares::{await_files, missing};
use crate::config::TrainConfig;
use crate::data::CaptionedClip;
use crate::memory::Room;
use crate::observe::stop;
use crate::{Ranks, TrainError, TrainObserver};

/// Encodes clips that are not in the cache yet. The VAE is loaded only if something is missing and gone
/// when this returns.
///
/// Clips that cannot be read are reported; they are an error unless the configuration says to skip
/// them.
///
/// Ranks share out the work, and are through when all of it is done.
///
/// # Errors
/// [`TrainError`] names the clip or file; [`TrainError::Interrupted`]; [`TrainError::Ranks`] where another
/// rank finds other clips.
pub fn encode_clips<B: KernelBackend>(
    config: &TrainConfig,
    clips: &[CaptionedClip],
    device: &B::Device,
    ranks: &Ranks,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<LatentDataset, TrainError> {
    let checkpoint = Checkpoint::open(config.checkpoint()?)?;
    latents::<B>(
        config,
        &checkpoint,
        clips,
        device,
        ranks,
        observer,
        interrupt,
    )
}

/// Encodes captions and prompts that are not in the cache yet. The text encoder is loaded only if
/// something is missing and gone when this returns. Ranks share out the work.
///
/// # Errors
/// [`TrainError`] names the file; [`TrainError::Interrupted`].
pub fn encode_texts<B: KernelBackend>(
    config: &TrainConfig,
    texts: impl IntoIterator<Item = String>,
    device: &B::Device,
    ranks: &Ranks,
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
    let path = |text: &String| {
        let key = Hasher::default()
            .part(b"text 1")
            .part(text.as_bytes())
            .part(&length.to_le_bytes())
            .part(model.as_bytes())
            .finish();
        folder.join(format!("{key}.safetensors"))
    };
    let files: BTreeMap<String, PathBuf> = texts
        .iter()
        .map(|text| (text.clone(), path(text)))
        .collect();
    let is_there = |path: &Path| WeightFiles::open(path).is_ok();
    let paths: Vec<&Path> = files.values().map(PathBuf::as_path).collect();
    let missing = missing(ranks, "captions", &paths, is_there)?;
    let missing: Vec<&Path> = missing.into_iter().map(|index| paths[index]).collect();
    let own = missing.iter().skip(ranks.rank()).step_by(ranks.size());
    let mut own: BTreeSet<&Path> = own.copied().collect();
    let total = texts.len();
    for (done, text) in texts.into_iter().enumerate() {
        stop(interrupt)?;
        observer.caching("captions", done, total);
        let path = &files[&text];
        if own.remove(path.as_path()) {
            if encoder.is_none() {
                let room = Room::now::<B>(config, &checkpoint, device)?;
                let plan = room.text(length)?;
                let load_as = LoadAs {
                    dtype: Some(config.cache.text_precision.dtype()),
                    resident_blocks: (plan.resident < plan.layers).then_some(plan.resident),
                    ..LoadAs::default()
                };
                encoder = Some(guard::<B, _, _>(
                    &devices,
                    Stage::LoadingTextEncoder,
                    || checkpoint.load_text_encoder::<B>(load_as, device),
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
            write_safetensors(path, &tensors, &metadata)?;
        }
    }
    observer.caching("captions", total, total);
    if encoder.take().is_some() {
        B::memory_cleanup(device);
    }
    await_files(ranks, missing.into_iter(), is_there)?;
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
