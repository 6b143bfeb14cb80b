//! A whole run from its configuration.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::backend::Autodiff;
use burn::module::Module;
use burn::tensor::DType;
use longcat_dit::lora_targets;
use longcat_kernels::{KernelBackend, Stage, guard};
use longcat_lora::Adapter;
use longcat_video::Checkpoint;
use longcat_weights::LoadAs;

use crate::cache::fingerprint;
use crate::config::{Mode, TrainConfig, read_config};
use crate::prepare::TrainingData;
use crate::trainer::{Outcome, OutputFolder, Trainer};
use crate::transformer::{BatchTransform, RunInfo, TransformerTask, attach_adapter};
use crate::{TrainError, TrainObserver};

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
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let mut config = read_config(config)?;
    if let (None, Some(checkpoint)) = (&config.model.checkpoint, default_checkpoint) {
        config = config.with_checkpoint(checkpoint);
    }
    train::<B>(&config, Vec::new(), device, observer, interrupt)
}

/// As [`run`], of a configuration that is read already, with transforms of every batch.
///
/// # Errors
/// [`TrainError`] names the key, file or clip.
pub fn train<B: KernelBackend>(
    config: &TrainConfig,
    transforms: Vec<Box<dyn BatchTransform<Autodiff<B>>>>,
    device: &B::Device,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    match uninterrupted::<B>(config, transforms, device, observer, interrupt) {
        Err(TrainError::Interrupted) => Ok(Outcome::before_training()),
        other => other,
    }
}

fn uninterrupted<B: KernelBackend>(
    config: &TrainConfig,
    transforms: Vec<Box<dyn BatchTransform<Autodiff<B>>>>,
    device: &B::Device,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let checkpoint = Checkpoint::open(config.checkpoint()?)?;
    let _folder = OutputFolder::claim(config)?;
    // What cannot be read is told before anything is encoded.
    if let (Mode::Lora, Some(file)) = (config.mode, &config.lora.start_from) {
        Adapter::read(file, lora_targets())?;
    }
    let data = TrainingData::prepare::<B>(config, device, observer, interrupt)?;
    let texts = data.encode_texts::<B>(config, device, observer, interrupt)?;
    let info = RunInfo {
        base_model: fingerprint(checkpoint.transformer_dir())?,
        clips: data.training.entries.len(),
    };
    let streamed = config.model.streamed_blocks;
    let depth = checkpoint.transformer_config()?.depth;
    let load_as = LoadAs {
        dtype: Some(config.model.precision.dtype()),
        precision: longcat_video::Precision::Dense,
        resident_blocks: (streamed > 0).then(|| depth.saturating_sub(streamed)),
    };
    let load = || {
        let mut model = checkpoint.load_transformer::<Autodiff<B>>(load_as, device)?;
        if config.mode == Mode::Lora {
            model = model.no_grad();
            attach_adapter(&mut model, &config.lora, DType::F32, config.seed)?;
        }
        model.set_bsa(config.model.block_sparse)?;
        Ok::<_, TrainError>(model)
    };
    let model = guard::<B, _, _>(
        std::slice::from_ref(device),
        Stage::LoadingTransformer,
        load,
    )?;
    let task = TransformerTask::<Autodiff<B>>::new(config, data, texts, transforms, info, device)?;
    let (trainer, model) = Trainer::new(config, &task, model, device, observer, interrupt)?;
    trainer.run(model)
}
