//! Writing what was trained.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::AutodiffModule;
use longcat_dit::{LongCatTransformer, lora_targets, official_tensors};
use longcat_kernels::{Stage, guard};
use longcat_lora::{Format, LoraTraining, WriteOptions};
use longcat_weights::{write_atomic, write_safetensors};
use regex::Regex;

use super::ADAPTER;
use crate::config::{Mode, TrainConfig};
use crate::trainer::{Position, Weights};
use crate::{TrainBackend, TrainError};

/// What the header of a trained file says of its run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunInfo {
    /// Fingerprint of the base transformer's files.
    pub base_model: String,
    /// Number of training clips.
    pub clips: usize,
}

/// Writes the adapter in the chosen format, or the weights of the whole transformer.
pub(super) fn export<B: TrainBackend>(
    config: &TrainConfig,
    info: &RunInfo,
    model: &LongCatTransformer<B>,
    folder: &Path,
    weights: Weights,
    position: &Position,
    device: &B::Device,
) -> Result<(), TrainError> {
    let devices = [device.clone()];
    let metadata = metadata(config, info, position);
    if config.mode == Mode::Full {
        let folder = folder.join(format!("dit{}", weights.suffix()));
        std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
        let path = folder.join("config.json");
        let text = serde_json::to_string_pretty(model.config()).map_err(|e| TrainError::State {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        write_atomic(&path, text.as_bytes())?;
        let collect = || official_tensors(&model.valid()).map_err(TrainError::from);
        let tensors = guard::<B::InnerBackend, _, _>(&devices, Stage::Saving, collect)?;
        let file = folder.join("diffusion_pytorch_model.safetensors");
        return Ok(write_safetensors(&file, &tensors, &metadata)?);
    }
    let export = || model.export_adapter(ADAPTER).map_err(TrainError::from);
    let mut adapter = guard::<B::InnerBackend, _, _>(&devices, Stage::Saving, export)?;
    adapter.metadata = metadata;
    let name = format!("adapter{}", weights.suffix());
    let path = match config.checkpoints.format {
        Format::Peft => folder.join(name),
        _ => folder.join(format!("{name}.safetensors")),
    };
    let options = WriteOptions {
        format: config.checkpoints.format,
        split: config.checkpoints.split,
    };
    adapter.write(&path, lora_targets(), options)?;
    Ok(())
}

/// Header strings in the customs of kohya's trainers (`ss_*`) and of Stability's model spec.
/// Nothing depends on place or time, so that equal runs write equal files.
fn metadata(config: &TrainConfig, info: &RunInfo, position: &Position) -> BTreeMap<String, String> {
    let lora = &config.lora;
    let optimizer = &config.optimizer;
    let accumulation = match config.train.global_batch {
        0 => config.train.accumulation,
        clips => clips / config.train.batch,
    };
    let mut map = BTreeMap::from([
        ("modelspec.sai_model_spec", "1.0.0".to_string()),
        ("modelspec.implementation", "longcat-video-burn".into()),
        ("modelspec.prediction_type", "v".into()),
        ("modelspec.hash_base_model", info.base_model.clone()),
        ("ss_steps", position.step.to_string()),
        ("ss_max_train_steps", config.train.steps.to_string()),
        ("ss_seed", config.seed.to_string()),
        ("ss_num_train_videos", info.clips.to_string()),
        ("ss_batch_size_per_device", config.train.batch.to_string()),
        ("ss_gradient_accumulation_steps", accumulation.to_string()),
        ("ss_learning_rate", optimizer.learning_rate.to_string()),
        (
            "ss_lr_scheduler",
            format!("{:?}", optimizer.schedule).to_lowercase(),
        ),
        ("ss_lr_warmup_steps", optimizer.warmup_steps.to_string()),
        ("ss_optimizer", "AdamW".into()),
        (
            "ss_max_grad_norm",
            optimizer.max_grad_norm.unwrap_or(0.0).to_string(),
        ),
        ("ss_base_model_hash", info.base_model.clone()),
        ("ss_training_config", config.text.clone()),
    ]);
    match config.mode {
        Mode::Full => {
            map.insert("modelspec.architecture", "longcat-video".into());
        }
        Mode::Lora => {
            map.insert("modelspec.architecture", "longcat-video/lora".into());
            map.insert("ss_network_module", "networks.lora".into());
            map.insert("ss_network_dim", lora.adapter.rank.to_string());
            map.insert("ss_network_alpha", lora.adapter.alpha.to_string());
            map.insert("ss_network_dropout", lora.dropout.to_string());
            if optimizer.lora_plus != 1.0 {
                let ratio = optimizer.lora_plus.to_string();
                map.insert("ss_loraplus_lr_ratio", ratio);
            }
            map.insert("ss_network_args", network_args(config));
        }
    }
    map.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
}

fn network_args(config: &TrainConfig) -> String {
    let adapter = &config.lora.adapter;
    let texts = |patterns: &[Regex]| -> Vec<String> {
        patterns.iter().map(|p| p.as_str().to_string()).collect()
    };
    serde_json::json!({
        "targets": texts(&adapter.targets),
        "exclude": texts(&adapter.exclude),
        "rslora": adapter.rslora,
        "fused": adapter.fused,
    })
    .to_string()
}
