//! `longcat refine`.

use std::path::Path;

use anyhow::Result;
use longcat_video::media::{ReadOptions, read_video};
use longcat_video::{PixelFrames, RefineCondition, RefineRequest, SeededNoise, VideoRequest};

use crate::args::Refine;
use crate::output::{check_output, latents_only};
use crate::prompt::prompt;
use crate::session::{Asked, Session};

/// Frame rate of files that state none (a folder of pictures).
const DEFAULT_FPS: f64 = 15.0;

pub fn run(args: &Refine) -> Result<()> {
    check_output(&args.output)?;
    if latents_only(&args.output.file) {
        anyhow::bail!("refining ends at a video; name one, and use --save-latents for latents");
    }
    let prompt = prompt(&args.prompt)?;
    let read = read_video(&args.video, &ReadOptions::default())?;
    let fps = match read.fps() > 0.0 {
        true => read.fps(),
        false => DEFAULT_FPS,
    };
    let video = PixelFrames::from_video(read)?;
    let condition = args.condition.as_deref().map(read_condition).transpose()?;
    let mut session = Session::open("refine", &args.model, None, true, &args.output)?;
    let request = RefineRequest {
        size: args.size,
        spatial_only: args.spatial_only,
        steps: args.steps,
        threshold: args.threshold,
        condition: condition.map(|pixels| RefineCondition {
            pixels,
            frames: args.cond_frames,
        }),
        ..RefineRequest::new(video, &prompt)
    };
    let plan = session.pipeline.plan(VideoRequest::Refinement(&request))?;
    let factor = if args.spatial_only { 1.0 } else { 2.0 };
    session.refine_with(args.steps, args.threshold);
    let job = session.begin(&Asked {
        prompts: std::slice::from_ref(&prompt),
        negative: "",
        seed: args.seed,
        shape: None,
        plan,
        fps: factor * fps,
        refined: None,
    });
    let mut noise = SeededNoise::new(args.seed);
    let refined = session
        .pipeline
        .refine(&request, &mut noise, &mut session.bar);
    let frames = session.or_keep(refined)?;
    session.write(&frames, &job)
}

fn read_condition(path: &Path) -> Result<PixelFrames> {
    let picture = path
        .extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| ["png", "jpg", "jpeg", "bmp"].contains(&e.to_lowercase().as_str()));
    Ok(match picture {
        true => PixelFrames::read_image(path)?,
        false => PixelFrames::read_video(path)?,
    })
}
