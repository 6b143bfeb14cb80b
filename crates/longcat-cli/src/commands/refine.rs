//! `longcat refine`.

use std::path::Path;

use anyhow::{Context, Result};
use longcat_video::media::is_picture;
use longcat_video::{
    FrameRange, PixelFrames, RefineCondition, RefineRequest, SeededNoise, VideoRequest,
};

use crate::args::Refine;
use crate::commands::plan::{self, Task};
use crate::output::{check_output, latents_only};
use crate::prompt::prompt;
use crate::session::{Asked, Session};
use crate::source::{Source, check_order};

pub fn run(args: &Refine, task: Task) -> Result<()> {
    let given = Given::new(args, task)?;
    let mut session = Session::open("refine", &args.model, None, true, &args.output)?;
    given.run(&mut session, task)
}

/// The command, whose files were looked at.
pub struct Given<'a> {
    args: &'a Refine,
    prompt: String,
    source: Source,
}

impl<'a> Given<'a> {
    pub fn new(args: &'a Refine, task: Task) -> Result<Self> {
        if task != Task::Plan {
            check_output(&args.output)?;
        }
        if latents_only(&args.output.file) {
            anyhow::bail!("refining ends at a video; name one, and use --save-latents for latents");
        }
        check_order(&args.video, &args.prompt).context("video")?;
        Ok(Self {
            args,
            prompt: prompt(&args.prompt)?,
            source: Source::open(&args.video, None).context("video")?,
        })
    }

    /// Carries it out in a session that was opened for others as well.
    pub fn within(self, session: &mut Session, task: Task) -> Result<()> {
        session.turn_to("refine", &self.args.model, None, true, &self.args.output)?;
        self.run(session, task)
    }

    fn run(self, session: &mut Session, task: Task) -> Result<()> {
        let Self {
            args,
            prompt,
            source,
        } = self;
        let model_fps = session.fps();
        let source = source.with_folder_fps(model_fps);
        // The model doubles the rate that it was trained at, whatever that of the video is.
        let (video, fps) = match args.spatial_only {
            true => source.whole()?,
            false => (source.whole_at(model_fps)?, 2.0 * model_fps),
        };
        let condition = args.condition.as_deref();
        let condition = condition
            .map(|path| read_condition(path, args.cond_frames, fps).context("condition"))
            .transpose()?;
        let request = RefineRequest {
            size: args.size,
            spatial_only: args.spatial_only,
            steps: args.steps,
            threshold: args.threshold,
            cache: args.cache,
            condition: condition.map(|pixels| RefineCondition {
                pixels,
                frames: args.cond_frames,
            }),
            ..RefineRequest::new(video, &prompt)
        };
        let asked = VideoRequest::Refinement(&request);
        if task == Task::Plan {
            let passes = [plan::Pass::of(&*session.pipeline, "", asked)?];
            return plan::print(&passes, session.output.json);
        }
        let plan = session.pipeline.plan(asked)?;
        session.refine_with(args.steps, args.threshold, args.cache);
        let job = session.begin(&Asked {
            prompts: std::slice::from_ref(&prompt),
            negative: "",
            seed: args.seed,
            shape: None,
            plan,
            fps,
            refined: None,
        })?;
        if task == Task::Check {
            return Ok(());
        }
        let (latents, range) = match session.left_latents(&job) {
            Some(latents) => {
                let made = &job.latents;
                (latents, FrameRange::new(made.first_frame, made.frames))
            }
            None => {
                let mut noise = SeededNoise::new(args.seed);
                let Session { pipeline, bar, .. } = session;
                let refined = pipeline.refine_latents(&request, &mut noise, bar);
                session.or_keep(refined)?
            }
        };
        session.write_made(&latents, range, &job, |_| Ok(()))
    }
}

/// A picture, or the last `count` frames of a video at the rate of the result.
fn read_condition(path: &Path, count: usize, fps: f64) -> Result<PixelFrames> {
    match is_picture(path) {
        true => Ok(PixelFrames::read_image(path)?),
        false => Source::open(path, None)?
            .with_folder_fps(fps)
            .last(fps, count),
    }
}
