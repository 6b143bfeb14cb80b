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
use crate::memory::Room;
use crate::prepare::TrainingData;
use crate::ranks::{RankError, Ranks};
use crate::trainer::{Outcome, OutputFolder, Trainer, differences};
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
    let alone = Ranks::alone();
    run_ranks::<B>(
        config,
        default_checkpoint,
        device,
        alone,
        observer,
        interrupt,
    )
}

/// As [`run`], together with other ranks: each computes its share of the batches of a step on its device,
/// and all make the same step with the mean of their gradients. The first one writes.
///
/// `interrupt` is the flag that the ranks were given.
///
/// # Errors
/// [`TrainError`] names the key, file or clip; [`TrainError::Ranks`] where another rank is gone, has failed
/// or was started with other settings. All ranks end with the same error.
pub fn run_ranks<B: KernelBackend>(
    config: &Path,
    default_checkpoint: Option<&Path>,
    device: &B::Device,
    ranks: Ranks,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let mut config = match read_config(config) {
        Ok(config) => config,
        Err(error) => {
            ranks.fail(&error);
            return Err(error);
        }
    };
    if let (None, Some(checkpoint)) = (&config.model.checkpoint, default_checkpoint) {
        config = config.with_checkpoint(checkpoint);
    }
    train::<B>(&config, Vec::new(), device, ranks, observer, interrupt)
}

/// As [`run`], of a configuration that is read already, with transforms of every batch.
///
/// # Errors
/// [`TrainError`] names the key, file or clip.
pub fn train<B: KernelBackend>(
    config: &TrainConfig,
    transforms: Vec<Box<dyn BatchTransform<Autodiff<B>>>>,
    device: &B::Device,
    mut ranks: Ranks,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let result = uninterrupted::<B>(config, transforms, device, &mut ranks, observer, interrupt);
    let result = result.map_err(|error| match ranks.failure() {
        // What it began with, here or on another rank.
        Some(failure) => failure.into(),
        None => {
            ranks.fail(&error);
            error
        }
    });
    match result {
        Err(TrainError::Interrupted | TrainError::Ranks(RankError::Interrupted { .. })) => {
            Ok(Outcome::before_training())
        }
        other => other,
    }
}

fn uninterrupted<B: KernelBackend>(
    config: &TrainConfig,
    transforms: Vec<Box<dyn BatchTransform<Autodiff<B>>>>,
    device: &B::Device,
    ranks: &mut Ranks,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let checkpoint = Checkpoint::open(config.checkpoint()?)?;
    let base_model = fingerprint(checkpoint.transformer_dir())?;
    started_alike::<B>(ranks, config, &base_model)?;
    config.accumulation(ranks.size())?;
    ranks.join_devices::<B>(device)?;
    let ranks = &*ranks;
    let _folder = match ranks.is_first() {
        true => Some(OutputFolder::claim(config)?),
        false => None,
    };
    // What cannot be read is told before anything is encoded.
    if let (Mode::Lora, Some(file)) = (config.mode, &config.lora.start_from) {
        Adapter::read(file, lora_targets())?;
    }
    // As is a limit that no step keeps to.
    Room::now::<B>(config, &checkpoint, device)?.training()?;
    let data = TrainingData::prepare::<B>(config, device, ranks, observer, interrupt)?;
    let texts = data.encode_texts::<B>(config, device, ranks, observer, interrupt)?;
    let info = RunInfo {
        base_model,
        clips: data.training.entries.len(),
    };
    let room = Room::now::<B>(config, &checkpoint, device)?;
    let plan = room.training()?;
    let streams = plan.filter(|plan| plan.resident < plan.depth);
    let load_as = LoadAs {
        dtype: Some(config.model.dtype.dtype()),
        precision: config.model.precision.kept(),
        resident_blocks: streams.map(|plan| plan.resident),
        ..LoadAs::default()
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
    let task = TransformerTask::<Autodiff<B>>::new(config, data, texts, transforms, info, device)?
        .with_sample_tiling(room.sample_tiling(plan.as_ref()));
    let (trainer, model) = Trainer::new(config, &task, model, device, ranks, observer, interrupt)?;
    trainer.run(model)
}

/// An error on all ranks unless they have the same program, settings, base model and kind of device.
fn started_alike<B: KernelBackend>(
    ranks: &Ranks,
    config: &TrainConfig,
    base_model: &str,
) -> Result<(), TrainError> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let mine = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "backend": std::any::type_name::<B>(),
        "base model": base_model,
        "settings": config.settings(),
    });
    let differs = |first: &[u8]| {
        let first: serde_json::Value = serde_json::from_slice(first).unwrap_or_default();
        let changed = differences(&first, &mine);
        let keys: Vec<&str> = changed
            .iter()
            .map(|key| key.strip_prefix("settings.").unwrap_or(key))
            .collect();
        (!keys.is_empty()).then(|| {
            format!(
                "it was started with another {}; give all ranks the same program, configuration and \
                 kind of device",
                keys.join(" and ")
            )
        })
    };
    Ok(ranks.same(mine.to_string().into_bytes(), differs)?)
}
