//! A whole run from its configuration file.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::backend::Autodiff;
use burn::module::Module;
use burn::tensor::DType;
use longcat_kernels::KernelBackend;
use longcat_text::{Umt5Config, Umt5Encoder};
use longcat_video::{Checkpoint, PixelFrames, VideoError};
use rayon::prelude::*;

use crate::cache::{Dataset, TextTable, encode, fingerprint};
use crate::config::{Mode, TrainConfig, read_config};
use crate::data::{Clip, Size, scan};
use crate::trainer::{Outcome, Trainer};
use crate::transformer::{
    JointModel, JointTask, RunInfo, TransformerTask, attach_adapter, fresh_transformer,
};
use crate::vae_task::fresh_vae;
use crate::{Observer, TrainError, VaeTask};

/// Trains as the file at `config` says, on a device without autodiff (it is added here), from the
/// newest checkpoint of the output folder if there is one.
///
/// `default_checkpoint` is the base model of a file that names none.
///
/// `interrupt` may be set at any time (by Ctrl-C): the state is then saved and the run ends without
/// an error.
///
/// # Errors
/// [`TrainError`] names the key, file or clip.
pub fn run<B: KernelBackend>(
    config: &Path,
    default_checkpoint: Option<&Path>,
    device: &B::Device,
    observer: &mut dyn Observer,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let path = config;
    let text = std::fs::read_to_string(config).map_err(|e| TrainError::io(config, e))?;
    let mut config = read_config(config)?;
    if config.model.checkpoint.as_os_str().is_empty() {
        config.model.checkpoint = default_checkpoint
            .ok_or_else(|| TrainError::Config {
                path: path.to_path_buf(),
                key: "model.checkpoint".into(),
                reason: "name the checkpoint directory that training starts from".into(),
            })?
            .to_path_buf();
    }
    match train::<B>(&config, text, device, observer, interrupt) {
        Err(TrainError::Interrupted) => Ok(Outcome {
            step: 0,
            interrupted: true,
            checkpoint: None,
            validation_loss: None,
        }),
        other => other,
    }
}

fn train<B: KernelBackend>(
    config: &TrainConfig,
    config_text: String,
    device: &B::Device,
    observer: &mut dyn Observer,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let checkpoint = Checkpoint::open(&config.model.checkpoint)?;
    std::fs::create_dir_all(&config.output).map_err(|e| TrainError::io(&config.output, e))?;
    if config.mode == Mode::Vae {
        return train_vae::<B>(config, &checkpoint, device, observer, interrupt);
    }
    let data = prepare::<B>(config, device, observer, interrupt)?;
    let info = RunInfo {
        base_model: fingerprint(checkpoint.transformer_dir())?,
        clips: data.training.entries.len(),
        config_text,
    };
    let dtype = config.model.precision.dtype();
    let mut model = match config.model.random_weights {
        true => {
            B::seed(device, config.seed);
            fresh_transformer::<B>(&checkpoint.transformer_config()?, device)
        }
        false => checkpoint.load_transformer(Some(dtype), device)?,
    };
    if config.mode == Mode::Lora {
        model = model.no_grad();
        attach_adapter(&mut model, &config.lora, DType::F32, config.seed)?;
    }
    model.set_bsa(config.model.block_sparse)?;
    let task = TransformerTask::<Autodiff<B>>::new(
        config,
        data.training,
        data.validation,
        data.texts,
        info,
        device,
    )?;
    if !config.model.train_text_encoder {
        let (trainer, model) = Trainer::new(config, &task, model, device, observer, interrupt)?;
        return trainer.run(model);
    }
    let folder = checkpoint.root().join("text_encoder");
    let text = match config.model.random_weights {
        true => {
            let text = Umt5Config::read(&folder.join("config.json")).map_err(VideoError::from)?;
            Umt5Encoder::<Autodiff<B>>::new(&text, device)
        }
        false => {
            let loaded = Umt5Encoder::load(&folder, DType::F32, device);
            loaded.map_err(VideoError::from)?.0
        }
    };
    let task = JointTask::new(task, checkpoint.root())?;
    let model = JointModel { dit: model, text };
    let (trainer, model) = Trainer::new(config, &task, model, device, observer, interrupt)?;
    trainer.run(model)
}

/// The VAE of a small model, on clips in host memory.
fn train_vae<B: KernelBackend>(
    config: &TrainConfig,
    checkpoint: &Checkpoint,
    device: &B::Device,
    observer: &mut dyn Observer,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let training = pixels(config, &config.data.path, observer)?;
    let validation = match config.validation.path.as_os_str().is_empty() {
        true => None,
        false => Some(pixels(config, &config.validation.path, observer)?),
    };
    let model = match config.model.random_weights {
        true => {
            B::seed(device, config.seed);
            fresh_vae::<B>(&checkpoint.vae_config()?, device)
        }
        false => checkpoint.load_vae(DType::F32, device)?,
    };
    let mut model = model.computing_in(config.model.precision.dtype());
    if config.vae.decoder_only {
        model = model.freeze_encoder();
    }
    let task = VaeTask::<Autodiff<B>>::new(config, training, validation, device)?;
    let (trainer, model) = Trainer::new(config, &task, model, device, observer, interrupt)?;
    trainer.run(model)
}

/// The clips at `path`, fitted to their buckets, and how often each comes in an epoch.
fn pixels(
    config: &TrainConfig,
    path: &Path,
    observer: &mut dyn Observer,
) -> Result<Vec<(PixelFrames, usize)>, TrainError> {
    let sizes = config.data.sizes.iter();
    let sizes: Vec<Size> = sizes.filter_map(|s| s.parse().ok()).collect();
    let clips = clips(config, path, observer)?;
    let read: Vec<Result<PixelFrames, TrainError>> = clips
        .par_iter()
        .map(|clip| {
            let fitted = clip.read(&sizes, &config.data.frames, config.data.fps)?;
            Ok(PixelFrames::from_images(&fitted.frames)?)
        })
        .collect();
    let mut fitted = Vec::with_capacity(clips.len());
    for (clip, read) in clips.iter().zip(read) {
        match read {
            Ok(frames) => fitted.push((frames, clip.repeats)),
            Err(error) => crate::cache::skip(config, error.of_clip(&clip.path), observer)?,
        }
    }
    Ok(fitted)
}

/// What training needs of the data, all of it on disk.
struct Prepared {
    training: Dataset,
    validation: Dataset,
    texts: TextTable,
}

/// Finds clips, and encodes what the cache lacks.
fn prepare<B: KernelBackend>(
    config: &TrainConfig,
    device: &B::Device,
    observer: &mut dyn Observer,
    interrupt: &AtomicBool,
) -> Result<Prepared, TrainError> {
    let training = clips(config, &config.data.path, observer)?;
    let held_out = match config.validation.path.as_os_str().is_empty() {
        true => Vec::new(),
        false => clips(config, &config.validation.path, observer)?,
    };
    let mut texts = vec![String::new()];
    if config.samples.every > 0 {
        texts.extend(config.samples.prompts.iter().cloned());
        texts.push(config.samples.negative_prompt.clone());
    }
    let all: Vec<Clip> = training.iter().chain(&held_out).cloned().collect();
    let (dataset, texts) = encode::<B>(config, &all, &texts, device, observer, interrupt)?;
    let (training, held_out): (Vec<_>, Vec<_>) = dataset
        .entries
        .into_iter()
        .partition(|entry| entry.number < training.len());
    let validation = match config.validation.path.as_os_str().is_empty() {
        true => training.clone(),
        false => held_out,
    };
    Ok(Prepared {
        training: Dataset { entries: training },
        validation: Dataset {
            entries: validation,
        },
        texts,
    })
}

fn clips(
    config: &TrainConfig,
    path: &Path,
    observer: &mut dyn Observer,
) -> Result<Vec<Clip>, TrainError> {
    let (clips, problems) = scan(path)?;
    for problem in problems {
        crate::cache::skip(config, problem, observer)?;
    }
    Ok(clips)
}
