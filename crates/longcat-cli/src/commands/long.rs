//! `longcat long`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use longcat_video::LongVideoRequest;

use crate::args::Long;
use crate::output::{check_output, latents_only};
use crate::session::{Session, sampling};

pub fn run(args: &Long) -> Result<()> {
    check_output(&args.output)?;
    if latents_only(&args.output.file) {
        bail!("a long video cannot be written as latents; name a video file");
    }
    if args.sampler.refine {
        bail!("--refine: refine the finished long video with `longcat refine`");
    }
    let request = LongVideoRequest {
        segments: args.segments.unwrap_or(args.prompts.len()),
        negative_prompt: args.sampler.negative.clone(),
        size: args.size,
        frames: args.frames,
        cond_frames: args.condition.cond_frames,
        sampling: sampling(&args.sampler),
        kv_cache: !args.condition.no_kv_cache,
        offload_kv_cache: args.condition.offload_kv_cache,
        enhance_hf: args.condition.no_enhance_hf.then_some(false),
        seed: args.sampler.seed,
        ..LongVideoRequest::new(&args.prompts)
    };
    let mut session = Session::open(&args.model, args.sampler.distill, &args.output)?;
    let video = session
        .pipeline
        .long_video(&request, &work_dir(args), &mut session.bar)?;
    let mut writer = session.writer(session.pipeline.checkpoint().defaults().fps);
    for clip in video.clips() {
        writer.push(&clip?)?;
    }
    writer.finish()?;
    if args.work_dir.is_none() {
        video.remove()?;
    }
    Ok(())
}

/// Beside the output, so that a stopped run is found again by the same command.
fn work_dir(args: &Long) -> PathBuf {
    args.work_dir.clone().unwrap_or_else(|| {
        let output = &args.output.file.output;
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(".segments");
        output.with_file_name(name)
    })
}
