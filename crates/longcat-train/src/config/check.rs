use std::str::FromStr;

use longcat_lora::Format;
use regex::Regex;

use super::{Mode, Precision, TrainConfig};
use crate::data::Size;

/// Pixels per side of a token: 8 of a latent, times a patch of 2.
const MULTIPLE: u32 = 16;

type Problem = (String, String);

/// Everything that can be told from the configuration alone.
pub(super) fn check(config: &TrainConfig) -> Result<(), Problem> {
    let fail = |key: &str, reason: String| Err((key.to_string(), reason));
    for (key, path) in [("output", &config.output), ("data.path", &config.data.path)] {
        if path.as_os_str().is_empty() {
            return fail(key, "must be given".into());
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
        return fail(key, "must be at least 1".into());
    }
    let objective = &config.objective;
    let optimizer = &config.optimizer;
    let shares = [
        ("objective.caption_dropout", objective.caption_dropout, true),
        ("objective.image_condition", objective.image_condition, true),
        ("objective.continuation", objective.continuation, true),
        (
            "objective.own_continuation",
            objective.own_continuation,
            true,
        ),
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
    if objective.image_condition + objective.continuation > 1.0 {
        let sum = objective.image_condition + objective.continuation;
        return fail(
            "objective.continuation",
            format!("with objective.image_condition the shares sum to {sum}, above 1"),
        );
    }
    let positive = [
        ("objective.shift", objective.shift),
        ("objective.logit_std", objective.logit_std),
        ("optimizer.learning_rate", optimizer.learning_rate),
        ("optimizer.epsilon", f64::from(optimizer.epsilon)),
    ];
    for (key, value) in positive {
        if !(value.is_finite() && value > 0.0) {
            return fail(key, format!("{value} must be above 0"));
        }
    }
    let not_negative = [
        ("data.fps", config.data.fps),
        ("distill.guidance", config.distill.guidance),
        ("vae.kl_weight", config.vae.kl_weight),
        ("vae.mse_weight", config.vae.mse_weight),
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
    // Burn's schedules take rates up to 1.
    if optimizer.learning_rate > 1.0 || optimizer.min_learning_rate > optimizer.learning_rate {
        return fail(
            "optimizer.min_learning_rate",
            "rates must satisfy min_learning_rate ≤ learning_rate ≤ 1".into(),
        );
    }
    if optimizer.warmup_steps >= config.train.steps {
        return fail(
            "optimizer.warmup_steps",
            format!("must be below train.steps ({})", config.train.steps),
        );
    }
    guidance(config)?;
    aims(config)?;
    data(config)?;
    patterns("lora.targets", &config.lora.targets)?;
    patterns("lora.exclude", &config.lora.exclude)?;
    if config.mode == Mode::Full && config.model.precision != Precision::F32 {
        return fail(
            "model.precision",
            "whole transformers are trained in f32; set it to \"f32\"".into(),
        );
    }
    if config.vae.decoder_only && config.model.random_weights {
        return fail(
            "vae.decoder_only",
            "needs a trained encoder; set model.random_weights to false".into(),
        );
    }
    if config.mode != Mode::Full && config.model.train_text_encoder {
        return fail(
            "model.train_text_encoder",
            "the text encoder is trained with a whole transformer, mode = \"full\"".into(),
        );
    }
    if config.mode == Mode::Lora && config.model.random_weights {
        return fail(
            "model.random_weights",
            "an adapter needs the weights it adapts; set it to false".into(),
        );
    }
    outputs(config)
}

/// Guidance that predictions are trained with.
fn guidance(config: &TrainConfig) -> Result<(), Problem> {
    let objective = &config.objective;
    let guidance = objective.guidance;
    let scales = [
        ("objective.guidance", guidance),
        ("objective.own_guidance", objective.own_guidance),
    ];
    for (key, scale) in scales {
        if !(scale.is_finite() && scale >= 1.0) {
            return Err((key.into(), format!("{scale} must be 1 or above")));
        }
    }
    let fail = |reason: &str| Err(("objective.guidance".into(), reason.into()));
    if guidance > 1.0 && objective.caption_dropout == 0.0 {
        return fail("needs predictions without caption; set objective.caption_dropout above 0");
    }
    if guidance > 1.0 && config.distill.guidance > 0.0 {
        return fail("what is distilled is used without guidance; leave it at 1");
    }
    Ok(())
}

/// Distilling and refining.
fn aims(config: &TrainConfig) -> Result<(), Problem> {
    let objective = &config.objective;
    let distilling = config.distill.guidance > 0.0;
    if distilling && config.mode != Mode::Lora {
        let reason = "the teacher is the base model of an adapter, mode = \"lora\"";
        return Err(("distill.guidance".into(), reason.into()));
    }
    if objective.refine > 0.0 && distilling {
        let reason = "refining is not distilled; set one of the two to 0";
        return Err(("objective.refine".into(), reason.into()));
    }
    if objective.refine > 0.0 && objective.image_condition + objective.continuation > 0.0 {
        let reason = "refining is trained without condition frames; set their shares to 0";
        return Err(("objective.refine".into(), reason.into()));
    }
    Ok(())
}

fn data(config: &TrainConfig) -> Result<(), Problem> {
    let sizes = config.data.sizes.iter().map(|s| ("data.sizes", s));
    let sample = Some(&config.samples.size).filter(|s| !s.is_empty());
    for (key, size) in sizes.chain(sample.map(|s| ("samples.size", s))) {
        let size = Size::from_str(size).map_err(|reason| (key.to_string(), reason))?;
        if size.width % MULTIPLE != 0 || size.height % MULTIPLE != 0 {
            let near = |side: u32| side.next_multiple_of(MULTIPLE);
            let (w, h) = (near(size.width), near(size.height));
            let reason = format!("{size} is not in multiples of {MULTIPLE}; {w}x{h} would be");
            return Err((key.to_string(), reason));
        }
    }
    if config.data.sizes.is_empty() {
        return Err(("data.sizes".into(), "at least one size is needed".into()));
    }
    if config.data.frames.is_empty() {
        return Err(("data.frames".into(), "at least one count is needed".into()));
    }
    let sample = Some(config.samples.frames).filter(|f| *f != 0);
    let counts = config.data.frames.iter().map(|f| ("data.frames", *f));
    for (key, frames) in counts.chain(sample.map(|f| ("samples.frames", f))) {
        if frames % 4 != 1 {
            let below = frames.saturating_sub(1) / 4 * 4 + 1;
            let reason = format!("{frames} is not 4n + 1; {below} or {} would be", below + 4);
            return Err((key.into(), reason));
        }
    }
    Ok(())
}

fn patterns(key: &str, patterns: &[String]) -> Result<(), Problem> {
    for pattern in patterns {
        Regex::new(pattern).map_err(|e| (key.to_string(), format!("{pattern:?}: {e}")))?;
    }
    Ok(())
}

fn outputs(config: &TrainConfig) -> Result<(), Problem> {
    let validation = &config.validation;
    if validation.every > 0 && validation.sigmas.is_empty() {
        let reason = "at least one noise level is needed";
        return Err(("validation.sigmas".into(), reason.into()));
    }
    if let Some(sigma) = validation.sigmas.iter().find(|s| !(0.0..=1.0).contains(*s)) {
        let reason = format!("{sigma} is not between 0 and 1");
        return Err(("validation.sigmas".into(), reason));
    }
    let samples = &config.samples;
    if samples.every > 0 && samples.prompts.is_empty() && config.mode != Mode::Vae {
        return Err((
            "samples.prompts".into(),
            "at least one prompt is needed; or set samples.every to 0".into(),
        ));
    }
    if !["mp4", "gif", "webp"].contains(&samples.format.as_str()) {
        let reason = format!("{:?} is none of mp4, gif, webp", samples.format);
        return Err(("samples.format".into(), reason));
    }
    let format = Format::from_str(&config.checkpoints.format)
        .map_err(|e| ("checkpoints.format".to_string(), e.to_string()))?;
    if matches!(format, Format::FastVideo | Format::DiffSynth) {
        let reason = format!("{format} is only read; official, peft, diffusers, comfyui, kohya");
        return Err(("checkpoints.format".into(), reason));
    }
    Ok(())
}
