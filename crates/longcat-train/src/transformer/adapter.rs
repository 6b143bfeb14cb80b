use burn::tensor::DType;
use burn::tensor::backend::Backend;
use longcat_dit::{LongCatTransformer, lora_targets};
use longcat_lora::{Adapter, Block, LoraError, LoraHost, LoraOptions, LoraRegistry, Matrix};
use rand::Rng;
use regex::Regex;

use crate::TrainError;
use crate::config::{Fused, LoraConfig};
use crate::sampling::{Purpose, stream};

/// Nickname of the adapter that is trained.
pub const ADAPTER: &str = "trained";

/// Puts the adapter of a configuration on a frozen model: a new one, or a copy of the file to start
/// from. Factors are of
/// `dtype` (f32 to train them) and the only parameters that require gradients.
///
/// New input sides are drawn from U(−1/√d_in, 1/√d_in) by the run's seed, the same on every
/// device; output sides are zero, so that the model computes what it did.
///
/// # Errors
/// [`TrainError::Lora`] names layers and shapes that do not fit; [`TrainError::Config`] when the
/// targets match no layer.
pub fn attach_adapter<B: Backend>(
    model: &mut LongCatTransformer<B>,
    config: &LoraConfig,
    dtype: DType,
    seed: u64,
) -> Result<(), TrainError> {
    let adapter = match config.start_from.as_os_str().is_empty() {
        true => fresh(model, config, seed)?,
        false => Adapter::read(&config.start_from, lora_targets())?,
    };
    let options = LoraOptions {
        strength: 1.0,
        dtype: Some(dtype),
    };
    model.load_adapter(ADAPTER, &adapter, options)?;
    Ok(())
}

fn fresh<B: Backend>(
    model: &LongCatTransformer<B>,
    config: &LoraConfig,
    seed: u64,
) -> Result<Adapter, TrainError> {
    let patterns = |key: &str, list: &[String]| -> Result<Vec<Regex>, TrainError> {
        let compile = |pattern: &String| {
            Regex::new(pattern).map_err(|e| problem(key, format!("{pattern:?}: {e}")))
        };
        list.iter().map(compile).collect()
    };
    let targets = patterns("lora.targets", &config.targets)?;
    let exclude = patterns("lora.exclude", &config.exclude)?;
    let chosen = |name: &str| {
        targets.iter().any(|r| r.is_match(name)) && !exclude.iter().any(|r| r.is_match(name))
    };
    let mut layers = Vec::new();
    let mut names = Vec::new();
    model.visit_lora(&mut |name, layer| {
        names.push(name.to_string());
        if chosen(name) {
            layers.push((name.to_string(), layer.d_in(), layer.d_out()));
        }
    });
    for (pattern, regex) in config.targets.iter().zip(&targets) {
        if !names.iter().any(|name| regex.is_match(name)) {
            let reason = format!(
                "{pattern:?} matches none of the model's {} layers ({}, …)",
                names.len(),
                names[..names.len().min(4)].join(", ")
            );
            return Err(problem("lora.targets", reason));
        }
    }
    if layers.is_empty() {
        let reason = "together with lora.exclude no layer is left".to_string();
        return Err(problem("lora.targets", reason));
    }
    let rank = config.rank as f64;
    let scale = match config.rslora {
        true => config.alpha / rank.sqrt(),
        false => config.alpha / rank,
    };
    let mut rng = stream(seed, Purpose::Factors, 0);
    let mut adapter = Adapter::new(ADAPTER);
    for (name, d_in, d_out) in layers {
        let parts = match config.fused {
            Fused::Parts => lora_targets().parts(&name),
            Fused::Whole => 1,
        };
        let bound = 1.0 / (d_in as f32).sqrt();
        let blocks: Vec<Block> = (0..parts)
            .map(|part| {
                let count = config.rank * d_in;
                let down: Vec<f32> = (0..count)
                    .map(|_| rng.random_range(-bound..bound))
                    .collect();
                Block {
                    part,
                    of: parts,
                    down: matrix(config.rank, d_in, &down),
                    up: matrix(
                        d_out / parts,
                        config.rank,
                        &vec![0.0; d_out / parts * config.rank],
                    ),
                    scale,
                }
            })
            .collect();
        adapter.insert(&name, blocks)?;
    }
    Ok(adapter)
}

fn matrix(rows: usize, cols: usize, values: &[f32]) -> Matrix {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Matrix::from_bytes(rows, cols, DType::F32, bytes)
}

fn problem(key: &str, reason: String) -> TrainError {
    TrainError::Lora(LoraError::InvalidSetting {
        what: format!("{key}: {reason}"),
    })
}
