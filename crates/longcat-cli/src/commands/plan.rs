//! `longcat plan`: what a command would take of memory and time.

use anyhow::Result;
use longcat_cli::say;
use longcat_runtime::DynPipeline;
use longcat_video::{
    ExpectedTimes, MemoryPlan, RatesSource, Tiling, TransformerPlan, VaePlan, VideoRequest,
    in_words,
};
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

/// The plan of a run, or of refining its result.
#[derive(Debug)]
pub struct Pass<'a> {
    /// What stands before the names of its stages.
    name: &'a str,
    plan: MemoryPlan,
    times: ExpectedTimes,
}

impl<'a> Pass<'a> {
    /// That of a request.
    pub fn of(
        pipeline: &dyn DynPipeline,
        name: &'a str,
        request: VideoRequest<'_>,
    ) -> Result<Self> {
        let plan = pipeline.memory_plan(request)?;
        let times = pipeline.expected_times(request, &plan)?;
        Ok(Self { name, plan, times })
    }
}

/// Prints what is planned.
pub fn print(passes: &[Pass], as_json: bool) -> Result<()> {
    if as_json {
        let passes: Vec<Value> = passes.iter().map(values).collect();
        say!("{}", serde_json::to_string_pretty(&passes)?);
        return Ok(());
    }
    let Some(first) = passes.first() else {
        return Ok(());
    };
    match first.plan.budget {
        Some(budget) => say!("{} of device memory may be taken", in_words(budget)),
        None => say!("no limit: the device does not tell what is free; --memory sets one"),
    }
    for pass in passes {
        for (stage, what, peak, seconds) in stages(pass) {
            say!(
                "{:<24} {:<56} {:>11} {:>12}",
                format!("{}{stage}", pass.name),
                what,
                in_words(peak),
                duration(seconds)
            );
        }
    }
    let total: f64 = passes.iter().map(|pass| pass.times.total()).sum();
    let source = match first.times.rates.source {
        RatesSource::Known(name) => format!("by what was measured on an {name}"),
        RatesSource::Measured => {
            "roughly, by a product and a copy that were timed on this device".into()
        }
    };
    say!(
        "{} of work, {source}; reading weights comes on top",
        duration(total)
    );
    Ok(())
}

/// Seconds in words.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..7200 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Stages in order: name, what is done, bytes, seconds.
fn stages(pass: &Pass) -> Vec<(&'static str, String, u64, f64)> {
    let Pass { plan, times, .. } = pass;
    let (text, transformer) = (&plan.text, &plan.transformer);
    let mut stages = vec![(
        "text encoder",
        format!("{} of {} layers stay", text.resident, text.layers),
        text.peak,
        times.text,
    )];
    let encode = plan.encode.iter().zip(times.encode);
    stages
        .extend(encode.map(|(plan, seconds)| ("encoding", tiles(plan.tiling), plan.peak, seconds)));
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
    stages.push(("denoising", what, transformer.peak, times.denoise));
    stages.push((
        "decoding",
        tiles(plan.decode.tiling),
        plan.decode.peak,
        times.decode,
    ));
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

fn values(pass: &Pass) -> Value {
    let Pass { name, plan, times } = pass;
    let vae = |plan: &VaePlan, seconds: f64| {
        json!({
            "tile": plan.tiling.map(|tiling| tiling.tile),
            "peak": plan.peak,
            "seconds": seconds,
        })
    };
    let encode = plan.encode.as_ref().zip(times.encode);
    json!({
        "pass": name.trim_end_matches(": "),
        "seconds": times.total(),
        "rates": match times.rates.source {
            RatesSource::Known(name) => name,
            RatesSource::Measured => "measured",
        },
        "budget": plan.budget,
        "peak": plan.peak(),
        "keep_transformer": plan.keep_transformer,
        "keep_text_encoder": plan.keep_text_encoder,
        "text_encoder": {
            "resident_layers": plan.text.resident,
            "layers": plan.text.layers,
            "peak": plan.text.peak,
            "seconds": times.text,
        },
        "encoding": encode.map(|(plan, seconds)| vae(plan, seconds)),
        "denoising": {
            "resident_blocks": plan.transformer.resident,
            "blocks": plan.transformer.depth,
            "piece_tokens": plan.transformer.pieces.most,
            "offload_kv_cache": plan.transformer.offload_kv_cache,
            "peak": plan.transformer.peak,
            "seconds": times.denoise,
        },
        "decoding": vae(&plan.decode, times.decode),
    })
}
