//! `longcat plan`: what a command would take of memory.

use anyhow::Result;
use longcat_cli::say;
use longcat_video::{MemoryPlan, Tiling, TransformerPlan, VaePlan, in_words};
use serde_json::{Value, json};

/// What a command does with its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Makes the video.
    Make,
    /// Sees whether it could be made.
    Check,
    /// Says what it would take.
    Plan,
}

/// Prints the plans of a run and of refining its result, by their names.
///
/// Without times: those of a device are not known before something was measured on it.
pub fn print(passes: &[(&str, MemoryPlan)], as_json: bool) -> Result<()> {
    if as_json {
        let passes: Vec<Value> = passes
            .iter()
            .map(|(name, plan)| values(name, plan))
            .collect();
        say!("{}", serde_json::to_string_pretty(&passes)?);
        return Ok(());
    }
    match passes.first().and_then(|(_, plan)| plan.budget) {
        Some(budget) => say!("{} of device memory may be taken", in_words(budget)),
        None => say!("no limit: the device does not tell what is free; --memory sets one"),
    }
    for (name, plan) in passes {
        for (stage, what, peak) in stages(plan) {
            say!(
                "{:<24} {:<56} {:>11}",
                format!("{name}{stage}"),
                what,
                in_words(peak)
            );
        }
    }
    Ok(())
}

/// Stages in order: name, what is done, bytes.
fn stages(plan: &MemoryPlan) -> Vec<(&'static str, String, u64)> {
    let (text, transformer) = (&plan.text, &plan.transformer);
    let mut stages = vec![(
        "text encoder",
        format!("{} of {} layers stay", text.resident, text.layers),
        text.peak,
    )];
    stages.extend(
        plan.encode
            .iter()
            .map(|plan| ("encoding", tiles(plan.tiling), plan.peak)),
    );
    let mut what = format!(
        "{} of {} blocks stay",
        transformer.resident, transformer.depth
    );
    // Those that are taken whatever memory there is need no mention.
    let usual = TransformerPlan::resident(transformer.depth).pieces;
    if let Some(tokens) = transformer
        .pieces
        .most
        .filter(|_| transformer.pieces != usual)
    {
        what += &format!(", pieces of {tokens} tokens");
    }
    if transformer.offload_kv_cache {
        what += ", KV cache on the host";
    }
    stages.push(("denoising", what, transformer.peak));
    stages.push(("decoding", tiles(plan.decode.tiling), plan.decode.peak));
    stages
}

fn tiles(tiling: Option<Tiling>) -> String {
    match tiling {
        None => "whole pictures".into(),
        Some(Tiling {
            tile: [height, width],
            ..
        }) => format!("tiles of {width}x{height}"),
    }
}

fn values(name: &str, plan: &MemoryPlan) -> Value {
    let vae = |plan: &VaePlan| {
        json!({
            "tile": plan.tiling.map(|tiling| tiling.tile),
            "peak": plan.peak,
        })
    };
    json!({
        "pass": name.trim_end_matches(": "),
        "budget": plan.budget,
        "peak": plan.peak(),
        "keep_transformer": plan.keep_transformer,
        "keep_text_encoder": plan.keep_text_encoder,
        "text_encoder": {
            "resident_layers": plan.text.resident,
            "layers": plan.text.layers,
            "peak": plan.text.peak,
        },
        "encoding": plan.encode.as_ref().map(vae),
        "denoising": {
            "resident_blocks": plan.transformer.resident,
            "blocks": plan.transformer.depth,
            "piece_tokens": plan.transformer.pieces.most,
            "offload_kv_cache": plan.transformer.offload_kv_cache,
            "peak": plan.transformer.peak,
        },
        "decoding": vae(&plan.decode),
    })
}
