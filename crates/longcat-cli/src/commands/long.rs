//! `longcat long`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use longcat_video::{LongVideoRequest, VideoRequest};

use crate::args::Long;
use crate::commands::plan::{self, Task};
use crate::output::{check_folder, check_output, latents_only};
use crate::prompt::prompts;
use crate::session::{Asked, Session, sampling};

pub fn run(args: &Long, task: Task) -> Result<()> {
    let prompts = check(args, task)?;
    let sampler = &args.sampler;
    let mut session = Session::open(
        "long",
        &args.model,
        Some(sampler),
        sampler.refine,
        &args.output,
    )?;
    make(args, &prompts, &mut session, task)
}

/// Carries it out in a session that was opened for others as well.
pub fn within(args: &Long, session: &mut Session, task: Task) -> Result<()> {
    let prompts = check(args, task)?;
    let sampler = &args.sampler;
    session.turn_to(
        "long",
        &args.model,
        Some(sampler),
        sampler.refine,
        &args.output,
    )?;
    make(args, &prompts, session, task)
}

/// What can be checked without the checkpoint; gives the prompts.
fn check(args: &Long, task: Task) -> Result<Vec<String>> {
    if task != Task::Plan {
        check_output(&args.output)?;
        check_folder(&work_dir(args))?;
    }
    if latents_only(&args.output.file) {
        bail!("a long video cannot be written as latents; name a video file");
    }
    if args.output.save_latents.is_some() {
        bail!("--save-latents: a long video has none of the whole; --work-dir keeps its segments");
    }
    prompts(&args.prompts)
}

fn make(args: &Long, prompts: &[String], session: &mut Session, task: Task) -> Result<()> {
    let sampler = &args.sampler;
    let request = LongVideoRequest {
        segments: args.segments.unwrap_or(prompts.len()),
        negative_prompt: sampler.negative.clone(),
        size: args.size,
        frames: args.frames,
        cond_frames: args.condition.cond_frames,
        sampling: sampling(sampler),
        kv_cache: !args.condition.no_kv_cache,
        offload_kv_cache: args.condition.offload_kv_cache,
        enhance_hf: args.condition.no_enhance_hf.then_some(false),
        seed: sampler.seed,
        ..LongVideoRequest::new(prompts)
    };
    let refine = sampler.refine;
    if task == Task::Plan {
        let of = |name, request| plan::Pass::of(&*session.pipeline, name, request);
        let mut passes = vec![of("", VideoRequest::LongVideo(&request))?];
        if refine {
            let refining = VideoRequest::RefinementOfLongVideo(&request);
            passes.push(of("refining: ", refining)?);
        }
        return plan::print(&passes, session.output.json);
    }
    let plan = session.pipeline.plan(VideoRequest::LongVideo(&request))?;
    let refined = match refine {
        true => {
            let request = VideoRequest::RefinementOfLongVideo(&request);
            Some(session.pipeline.plan(request)?)
        }
        false => None,
    };
    let fps = session.fps();
    let job = session.begin(&Asked {
        prompts,
        negative: &sampler.negative,
        seed: sampler.seed,
        shape: None,
        plan,
        fps,
        refined,
    })?;
    if task == Task::Check {
        return Ok(());
    }
    let made = session
        .pipeline
        .long_video(&request, &work_dir(args), &mut session.bar);
    let video = session.or_keep(made)?;
    let refined = match refine {
        true => {
            session.bar.times.pass("refine: ");
            let refined = session
                .pipeline
                .refine_long_video(&video, &request, &mut session.bar);
            Some(session.or_keep(refined)?)
        }
        false => None,
    };
    session.bar.times.pass("");
    session.bar.times.begin("write");
    let settings = session.bar.with_saved(&job.settings);
    let mut writer = session.writer(settings.fps, Some(&settings));
    for clip in refined.as_ref().unwrap_or(&video).clips() {
        writer.push(&clip?)?;
    }
    let written = writer.finish()?;
    if args.work_dir.is_none() {
        // Refined segments lie within.
        video.remove()?;
    }
    session.report(Some(written), Some(&settings))
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
