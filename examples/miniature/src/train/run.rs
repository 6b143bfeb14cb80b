//! A run from its configuration.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::backend::Autodiff;
use burn::tensor::DType;
use longcat_kernels::KernelBackend;
use longcat_text::{Umt5Config, Umt5Encoder};
use longcat_train::{
    BatchTransform, Mode, Outcome, OutputFolder, Ranks, RunInfo, TextTable, TrainConfig,
    TrainError, TrainObserver, Trainer, TrainingData, TransformerTask, fingerprint, train,
};
use longcat_video::{Checkpoint, PixelFrames, VideoError};
use rayon::prelude::*;

use super::conditions::ModelConditions;
use super::config::{MiniatureConfig, VaeConfig};
use super::fresh::fresh_transformer;
use super::guidance::GuidedTarget;
use super::joint::{JointModel, JointTask};
use super::vae::{VaeTask, fresh_vae};

/// Trains as the configuration says, from the newest checkpoint of the output folder if there is one.
///
/// `interrupt` may be set at any time: the state is then saved and the run ends without an error.
///
/// # Errors
/// [`TrainError`] names the key, file or clip.
pub fn run<B: KernelBackend>(
    config: &MiniatureConfig,
    device: &B::Device,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let lab = &config.laboratory;
    let result = match &lab.vae {
        Some(vae) => train_vae::<B>(config, vae, device, observer, interrupt),
        None if lab.random_weights || lab.train_text_encoder => {
            train_whole::<B>(config, device, observer, interrupt)
        }
        None => {
            let transforms = transforms::<B>(config);
            let alone = Ranks::alone();
            train::<B>(&config.run, transforms, device, alone, observer, interrupt)
        }
    };
    match result {
        Err(TrainError::Interrupted) => Ok(Outcome::before_training()),
        other => other,
    }
}

/// What the laboratory makes of batches.
fn transforms<B: KernelBackend>(
    config: &MiniatureConfig,
) -> Vec<Box<dyn BatchTransform<Autodiff<B>>>> {
    let lab = &config.laboratory;
    let mut transforms: Vec<Box<dyn BatchTransform<Autodiff<B>>>> = Vec::new();
    if lab.model_continuation > 0.0 {
        transforms.push(Box::new(ModelConditions {
            seed: config.run.seed,
            share: lab.model_continuation,
            guidance: lab.model_guidance,
        }));
    }
    if lab.guidance > 1.0 {
        transforms.push(Box::new(GuidedTarget(lab.guidance)));
    }
    transforms
}

/// All weights of the transformer, from scratch or with the text encoder.
fn train_whole<B: KernelBackend>(
    config: &MiniatureConfig,
    device: &B::Device,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let (run, lab) = (&config.run, &config.laboratory);
    debug_assert_eq!(run.mode, Mode::Full);
    let (checkpoint, _folder) = open(run)?;
    let alone = &Ranks::alone();
    let data = TrainingData::prepare::<B>(run, device, alone, observer, interrupt)?;
    let texts = match lab.train_text_encoder {
        true => TextTable::default(),
        false => data.encode_texts::<B>(run, device, alone, observer, interrupt)?,
    };
    let info = RunInfo {
        base_model: fingerprint(checkpoint.transformer_dir())?,
        clips: data.training.entries.len(),
    };
    let mut model = match lab.random_weights {
        true => {
            B::seed(device, run.seed);
            fresh_transformer::<B>(&checkpoint.transformer_config()?, device)
        }
        false => checkpoint.load_transformer(Some(DType::F32), device)?,
    };
    model.set_bsa(run.model.block_sparse)?;
    let transforms = transforms::<B>(config);
    let task = TransformerTask::new(run, data, texts, transforms, info, device)?;
    if !lab.train_text_encoder {
        let (trainer, model) = Trainer::new(run, &task, model, device, alone, observer, interrupt)?;
        return trainer.run(model);
    }
    let folder = checkpoint.root().join("text_encoder");
    let text = match lab.random_weights {
        true => {
            let text = Umt5Config::read(&folder.join("config.json")).map_err(VideoError::from)?;
            Umt5Encoder::<Autodiff<B>>::new(&text, device)
        }
        false => {
            let loaded = Umt5Encoder::load(&folder, DType::F32, device);
            loaded.map_err(VideoError::from)?.0
        }
    };
    let task = JointTask::new(run, task, checkpoint.root(), device)?;
    let model = JointModel { dit: model, text };
    let (trainer, model) = Trainer::new(run, &task, model, device, alone, observer, interrupt)?;
    trainer.run(model)
}

/// The VAE, on clips in host memory.
fn train_vae<B: KernelBackend>(
    config: &MiniatureConfig,
    vae: &VaeConfig,
    device: &B::Device,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let run = &config.run;
    let (checkpoint, _folder) = open(run)?;
    let alone = &Ranks::alone();
    let training = pixels(run, "data.path", &run.data.path, observer, interrupt)?;
    let held_out = run.validation.as_ref().and_then(|v| v.path.as_ref());
    let validation = match held_out {
        None => None,
        Some(path) => Some(pixels(run, "validation.path", path, observer, interrupt)?),
    };
    let model = match config.laboratory.random_weights {
        true => {
            B::seed(device, run.seed);
            fresh_vae::<B>(&checkpoint.vae_config()?, device)
        }
        false => checkpoint.load_vae(DType::F32, device)?,
    };
    let mut model = model.computing_in(vae.precision.dtype());
    if vae.decoder_only {
        model = model.freeze_encoder();
    }
    let task = VaeTask::<Autodiff<B>>::new(run, vae, training, validation, device)?;
    let (trainer, model) = Trainer::new(run, &task, model, device, alone, observer, interrupt)?;
    trainer.run(model)
}

/// The checkpoint of a run, and its output folder, which no other run may write to meanwhile.
fn open(run: &TrainConfig) -> Result<(Checkpoint, OutputFolder), TrainError> {
    let checkpoint = Checkpoint::open(run.checkpoint()?)?;
    Ok((checkpoint, OutputFolder::claim(run)?))
}

/// The clips at `path`, which `key` names, fitted to their buckets, and how often each comes in an
/// epoch.
fn pixels(
    run: &TrainConfig,
    key: &str,
    path: &Path,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Vec<(PixelFrames, usize)>, TrainError> {
    let clips = run.find_clips(key, path, observer, interrupt)?.clips;
    let read: Vec<Result<PixelFrames, TrainError>> =
        clips.par_iter().map(|clip| clip.fit(&run.data)).collect();
    let mut fitted = Vec::with_capacity(clips.len());
    for (clip, read) in clips.iter().zip(read) {
        match read {
            Ok(frames) => fitted.push((frames, clip.repeats)),
            Err(error) => run.data.skip(error.of_clip(&clip.path), observer)?,
        }
    }
    run.some_clip(key, path, fitted.iter().map(|(_, repeats)| *repeats))?;
    Ok(fitted)
}
