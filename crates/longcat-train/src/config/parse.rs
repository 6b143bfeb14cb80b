//! From what is written to what it means.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use longcat_lora::{Format, NewAdapter};
use longcat_video::{MemoryLimit, ParseMemoryError, VideoSize};
use regex::Regex;

use super::raw::{RawConfig, RawObjective, RawTimesteps};
use super::{
    BaseWeights, CacheConfig, CheckpointConfig, ConditionShares, DataConfig, LoraConfig, Mode,
    ModelConfig, NoiseLevels, Objective, OptimizerSection, Precision, SampleConfig, SampleFormat,
    Take, TrainConfig, ValidationConfig,
};

/// Pixels per side of a token: 8 of a latent, times a patch of 2.
const MULTIPLE: usize = 16;

/// Key and reason of what is wrong.
pub(super) type Problem = (String, String);

/// Everything that can be told from the configuration alone, checked and brought to its types.
pub(super) fn typed(raw: &RawConfig, file: PathBuf, text: &str) -> Result<TrainConfig, Problem> {
    numbers(raw)?;
    let settings =
        serde_json::to_value(raw).map_err(|e| ("settings".to_string(), e.to_string()))?;
    let data = data(raw)?;
    let samples = samples(raw, &data)?;
    if raw.mode == Mode::Full && raw.model.precision != BaseWeights::F32 {
        return fail(
            "model.precision",
            "whole transformers are trained in f32; set it to \"f32\"",
        );
    }
    let dtype = match raw.model.precision.floats() {
        Some(floats) if ![Precision::F32, floats].contains(&raw.model.dtype) => {
            return fail(
                "model.dtype",
                "weights that are floats are computed with in their own type; leave it out, or pack them \
                 with model.precision",
            );
        }
        Some(floats) => floats,
        None => raw.model.dtype,
    };
    if raw.mode == Mode::Full && raw.model.streamed_blocks > 0 {
        return fail(
            "model.streamed_blocks",
            "weights that are trained stay on the device; set it to 0",
        );
    }
    if raw.model.streamed_blocks > 0 && !raw.train.checkpointing {
        return fail(
            "train.checkpointing",
            "one graph over all blocks keeps the weights of model.streamed_blocks on the device; set it to true",
        );
    }
    Ok(TrainConfig {
        file,
        text: text.to_string(),
        mode: raw.mode,
        output: raw.output.clone(),
        seed: raw.seed,
        memory: memory(raw)?,
        model: ModelConfig {
            checkpoint: given(&raw.model.checkpoint),
            precision: raw.model.precision,
            dtype,
            block_sparse: raw.model.block_sparse,
            streamed_blocks: raw.model.streamed_blocks,
        },
        data,
        cache: CacheConfig {
            path: raw.cache.path.clone(),
            posterior: raw.cache.posterior,
            text_length: raw.cache.text_length,
            text_precision: raw.cache.text_precision,
        },
        caption_dropout: raw.objective.caption_dropout,
        objective: objective(raw)?,
        lora: LoraConfig {
            adapter: NewAdapter {
                rank: raw.lora.rank,
                alpha: raw.lora.alpha,
                rslora: raw.lora.rslora,
                targets: patterns("lora.targets", &raw.lora.targets)?,
                exclude: patterns("lora.exclude", &raw.lora.exclude)?,
                fused: raw.lora.fused,
            },
            start_from: given(&raw.lora.start_from),
            dropout: raw.lora.dropout,
        },
        optimizer: optimizer(raw)?,
        train: raw.train.clone(),
        validation: validation(raw)?,
        samples,
        checkpoints: checkpoints(raw)?,
        settings,
    })
}

fn fail<T>(key: &str, reason: impl Into<String>) -> Result<T, Problem> {
    Err((key.to_string(), reason.into()))
}

/// A path, unless it is empty.
fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_path_buf())
}

/// A number, unless it is 0.
fn positive<T: Default + PartialEq>(number: T) -> Option<T> {
    (number != T::default()).then_some(number)
}

/// The limit of memory, which is kept by streaming frozen blocks.
fn memory(raw: &RawConfig) -> Result<MemoryLimit, Problem> {
    let limit = raw.memory.0.parse();
    let limit = limit.map_err(|e: ParseMemoryError| ("memory".to_string(), e.to_string()))?;
    let can_stream = raw.mode == Mode::Lora && raw.train.checkpointing;
    match limit {
        MemoryLimit::AtMost(_) if !can_stream => fail(
            "memory",
            "a limit is kept by streaming frozen blocks, which needs mode \"lora\" and train.checkpointing",
        ),
        limit => Ok(limit),
    }
}

/// Numbers that must lie in a range of their own.
fn numbers(config: &RawConfig) -> Result<(), Problem> {
    for (key, path) in [("output", &config.output), ("data.path", &config.data.path)] {
        if path.as_os_str().is_empty() {
            return fail(key, "must be given");
        }
    }
    let counts = [
        ("data.repeats", config.data.repeats),
        ("cache.text_length", config.cache.text_length),
        ("lora.rank", config.lora.rank),
        ("train.steps", config.train.steps),
        ("train.batch", config.train.batch),
        ("train.accumulation", config.train.accumulation),
        ("train.log_every", config.train.log_every),
        ("samples.steps", config.samples.steps),
        (
            "objective.continuation_latents",
            config.objective.continuation_latents,
        ),
        ("distill.steps", config.distill.steps),
        ("distill.teacher_steps", config.distill.teacher_steps),
    ];
    if let Some((key, _)) = counts.iter().find(|(_, count)| *count == 0) {
        return fail(key, "must be at least 1");
    }
    if config.train.global_batch > 0 && config.train.accumulation > 1 {
        let reason = "follows from train.global_batch and the number of ranks; give one of the two";
        return fail("train.accumulation", reason);
    }
    let objective = &config.objective;
    let optimizer = &config.optimizer;
    let shares = [
        ("objective.caption_dropout", objective.caption_dropout, true),
        ("objective.image_condition", objective.image_condition, true),
        ("objective.continuation", objective.continuation, true),
        ("objective.refine", objective.refine, true),
        ("lora.dropout", config.lora.dropout, false),
        ("optimizer.ema_decay", optimizer.ema_decay, false),
        ("optimizer.betas", f64::from(optimizer.betas[0]), false),
        ("optimizer.betas", f64::from(optimizer.betas[1]), false),
    ];
    for (key, share, one) in shares {
        if !(0.0..=1.0).contains(&share) || (share == 1.0 && !one) {
            let limit = if one { "at most 1" } else { "below 1" };
            return fail(
                key,
                format!("{share} is not a share: at least 0 and {limit}"),
            );
        }
    }
    let above_zero = [
        ("objective.shift", objective.shift),
        ("objective.logit_std", objective.logit_std),
        ("optimizer.learning_rate", optimizer.learning_rate),
        ("optimizer.lora_plus", optimizer.lora_plus),
        ("optimizer.epsilon", f64::from(optimizer.epsilon)),
    ];
    for (key, value) in above_zero {
        if !(value.is_finite() && value > 0.0) {
            return fail(key, format!("{value} must be above 0"));
        }
    }
    let not_negative = [
        ("data.fps", config.data.fps),
        ("distill.guidance", config.distill.guidance),
        ("optimizer.weight_decay", f64::from(optimizer.weight_decay)),
        ("optimizer.max_grad_norm", optimizer.max_grad_norm),
        ("optimizer.min_learning_rate", optimizer.min_learning_rate),
    ];
    for (key, value) in not_negative {
        if !(value.is_finite() && value >= 0.0) {
            return fail(key, format!("{value} must be 0 or above"));
        }
    }
    let finite = [
        ("lora.alpha", config.lora.alpha),
        ("objective.logit_mean", objective.logit_mean),
        ("samples.guidance", config.samples.guidance),
    ];
    for (key, value) in finite {
        if !value.is_finite() {
            return fail(key, format!("{value} is not a finite number"));
        }
    }
    Ok(())
}

/// Optimiser and schedule.
fn optimizer(config: &RawConfig) -> Result<OptimizerSection, Problem> {
    let optimizer = &config.optimizer;
    // Burn's schedules take rates up to 1.
    if optimizer.learning_rate > 1.0 || optimizer.min_learning_rate > optimizer.learning_rate {
        return fail(
            "optimizer.min_learning_rate",
            "rates must satisfy min_learning_rate ≤ learning_rate ≤ 1",
        );
    }
    if optimizer.warmup_steps >= config.train.steps {
        return fail(
            "optimizer.warmup_steps",
            format!("must be below train.steps ({})", config.train.steps),
        );
    }
    Ok(OptimizerSection {
        learning_rate: optimizer.learning_rate,
        schedule: optimizer.schedule,
        warmup_steps: optimizer.warmup_steps,
        min_learning_rate: optimizer.min_learning_rate,
        betas: optimizer.betas,
        epsilon: optimizer.epsilon,
        weight_decay: optimizer.weight_decay,
        lora_plus: optimizer.lora_plus,
        max_grad_norm: positive(optimizer.max_grad_norm),
        ema_decay: positive(optimizer.ema_decay),
    })
}

fn noise_levels(objective: &RawObjective) -> NoiseLevels {
    match objective.timesteps {
        RawTimesteps::Uniform => NoiseLevels::Uniform,
        RawTimesteps::LogitNormal => NoiseLevels::LogitNormal {
            mean: objective.logit_mean,
            deviation: objective.logit_std,
        },
        RawTimesteps::Shifted => NoiseLevels::Shifted {
            shift: objective.shift,
        },
    }
}

/// What the loss asks for.
fn objective(config: &RawConfig) -> Result<Objective, Problem> {
    let (objective, distill) = (&config.objective, &config.distill);
    let conditions = ConditionShares {
        image: objective.image_condition,
        continuation: objective.continuation,
        latents: objective.continuation_latents,
    };
    let shares = conditions.image + conditions.continuation;
    if shares > 1.0 {
        return fail(
            "objective.continuation",
            format!("with objective.image_condition the shares sum to {shares}, above 1"),
        );
    }
    let threshold = positive(objective.refine);
    match (positive(distill.guidance), threshold) {
        (Some(_), _) if config.mode != Mode::Lora => fail(
            "distill.guidance",
            "the teacher is the base model of an adapter, mode = \"lora\"",
        ),
        (Some(_), Some(_)) => fail(
            "objective.refine",
            "refining is not distilled; set one of the two to 0",
        ),
        (Some(guidance), None) => Ok(Objective::Distill {
            guidance: Some(guidance).filter(|scale| *scale > 1.0),
            steps: distill.steps,
            teacher_steps: distill.teacher_steps,
            conditions,
        }),
        (None, Some(_)) if shares > 0.0 => fail(
            "objective.refine",
            "refining is trained without condition frames; set their shares to 0",
        ),
        (None, Some(threshold)) => Ok(Objective::Refine {
            noise: noise_levels(objective),
            threshold,
        }),
        (None, None) => Ok(Objective::Clips {
            noise: noise_levels(objective),
            conditions,
        }),
    }
}

fn size(key: &str, text: &str) -> Result<VideoSize, Problem> {
    let size = VideoSize::from_str(text).map_err(|e| (key.to_string(), e.to_string()))?;
    let VideoSize { width, height } = size;
    if width == 0 || height == 0 || width % MULTIPLE != 0 || height % MULTIPLE != 0 {
        let near = |side: usize| side.max(1).next_multiple_of(MULTIPLE);
        let near = VideoSize::new(near(width), near(height));
        let reason = format!("{size} is not in multiples of {MULTIPLE}; {near} would be");
        return fail(key, reason);
    }
    Ok(size)
}

fn frame_count(key: &str, frames: usize) -> Result<usize, Problem> {
    if frames % 4 != 1 {
        let below = frames.saturating_sub(1) / 4 * 4 + 1;
        let reason = format!("{frames} is not 4n + 1; {below} or {} would be", below + 4);
        return fail(key, reason);
    }
    Ok(frames)
}

fn data(config: &RawConfig) -> Result<DataConfig, Problem> {
    let data = &config.data;
    let sizes = data.sizes.iter().map(|text| size("data.sizes", text));
    let counts = data.frames.iter().map(|n| frame_count("data.frames", *n));
    let (sizes, frames): (Vec<_>, Vec<_>) = (
        sizes.collect::<Result<_, _>>()?,
        counts.collect::<Result<_, _>>()?,
    );
    if sizes.is_empty() {
        return fail("data.sizes", "at least one size is needed");
    }
    if frames.is_empty() {
        return fail("data.frames", "at least one count is needed");
    }
    if data.take != Take::Start && config.objective.refine > 0.0 {
        return fail(
            "data.take",
            "refining goes from the start of a first-stage clip; set it to \"start\"",
        );
    }
    Ok(DataConfig {
        path: data.path.clone(),
        sizes,
        frames,
        take: data.take,
        windows: positive(data.windows),
        fps: positive(data.fps),
        repeats: data.repeats,
        skip_broken: data.skip_broken,
    })
}

fn patterns(key: &str, patterns: &[String]) -> Result<Vec<Regex>, Problem> {
    let compile = |pattern: &String| {
        Regex::new(pattern).map_err(|e| (key.to_string(), format!("{pattern:?}: {e}")))
    };
    patterns.iter().map(compile).collect()
}

fn validation(config: &RawConfig) -> Result<Option<ValidationConfig>, Problem> {
    let validation = &config.validation;
    if let Some(sigma) = validation.sigmas.iter().find(|s| !(0.0..=1.0).contains(*s)) {
        return fail(
            "validation.sigmas",
            format!("{sigma} is not between 0 and 1"),
        );
    }
    let Some(every) = positive(validation.every) else {
        return Ok(None);
    };
    if validation.sigmas.is_empty() {
        return fail("validation.sigmas", "at least one noise level is needed");
    }
    Ok(Some(ValidationConfig {
        every,
        path: given(&validation.path),
        sigmas: validation.sigmas.clone(),
    }))
}

fn samples(config: &RawConfig, data: &DataConfig) -> Result<Option<SampleConfig>, Problem> {
    let samples = &config.samples;
    let size = match samples.size.as_str() {
        "" => data.sizes[0],
        text => size("samples.size", text)?,
    };
    let frames = match positive(samples.frames) {
        Some(frames) => frame_count("samples.frames", frames)?,
        None => data.frames.iter().copied().max().unwrap_or(1),
    };
    let format = SampleFormat::from_str(&samples.format)
        .map_err(|e| ("samples.format".to_string(), e.to_string()))?;
    let Some(every) = positive(samples.every) else {
        return Ok(None);
    };
    if samples.prompts.is_empty() {
        return fail(
            "samples.prompts",
            "at least one prompt is needed; or set samples.every to 0",
        );
    }
    Ok(Some(SampleConfig {
        every,
        prompts: samples.prompts.clone(),
        negative_prompt: samples.negative_prompt.clone(),
        size,
        frames,
        steps: samples.steps,
        guidance: Some(samples.guidance).filter(|scale| *scale > 1.0),
        seed: samples.seed,
        format,
    }))
}

fn checkpoints(config: &RawConfig) -> Result<CheckpointConfig, Problem> {
    let checkpoints = &config.checkpoints;
    let format = Format::from_str(&checkpoints.format)
        .map_err(|e| ("checkpoints.format".to_string(), e.to_string()))?;
    if matches!(format, Format::FastVideo | Format::DiffSynth) {
        let reason = format!("{format} is only read; official, peft, diffusers, comfyui, kohya");
        return fail("checkpoints.format", reason);
    }
    Ok(CheckpointConfig {
        every: positive(checkpoints.every),
        keep: positive(checkpoints.keep),
        format,
        split: checkpoints.split,
    })
}
