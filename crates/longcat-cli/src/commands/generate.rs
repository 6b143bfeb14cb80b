//! `longcat t2v`, `i2v` and `continue`.

use anyhow::{Context, Result, bail};
use longcat_video::{
    ContinuationRequest, FrameRange, ImageToVideoRequest, Latents, NoiseSource, Observer,
    PixelFrames, REFINEMENT_LORA, RefineCondition, RefineRequest, SeededNoise, TextToVideoRequest,
    VideoError, VideoPlan, VideoRequest, VideoSize,
};

use crate::args::{Continue, ImageToVideo, Model, Output, Sampler, TextToVideo};
use crate::commands::plan::{self, Task};
use crate::output::{check_output, latents_only};
use crate::prompt::prompt;
use crate::session::{Asked, Job, Session, sampling};
use crate::shape::{check_shape, cropped_for};
use crate::source::{self, Source};

pub fn text_to_video(args: &TextToVideo, task: Task) -> Result<()> {
    Given::text_to_video(args, task)?.alone(task)
}

pub fn image_to_video(args: &ImageToVideo, task: Task) -> Result<()> {
    Given::image_to_video(args, task)?.alone(task)
}

pub fn continue_video(args: &Continue, task: Task) -> Result<()> {
    Given::continue_video(args, task)?.alone(task)
}

/// What can be checked without the checkpoint.
fn check(sampler: &Sampler, output: &Output, task: Task) -> Result<()> {
    if task != Task::Plan {
        check_output(output)?;
    }
    // Refining starts from pixels: it cannot follow a run that stops at latents.
    if sampler.refine && latents_only(&output.file) {
        bail!(
            "--refine needs a video output; use --save-latents for the latents of the first stage"
        );
    }
    Ok(())
}

/// A command whose files were looked at, before a checkpoint is opened.
pub struct Given<'a> {
    command: &'static str,
    prompt: String,
    sampler: &'a Sampler,
    model: &'a Model,
    output: &'a Output,
    size: Option<VideoSize>,
    frames: Option<usize>,
    /// Size of the picture or video that the result takes its shape from.
    shape: Option<VideoSize>,
    start: Start<'a>,
}

/// What a video begins with.
enum Start<'a> {
    Nothing,
    Image(PixelFrames),
    Video(Source, &'a Continue),
}

impl<'a> Given<'a> {
    pub fn text_to_video(args: &'a TextToVideo, task: Task) -> Result<Self> {
        check(&args.sampler, &args.output, task)?;
        Ok(Self {
            command: "t2v",
            prompt: prompt(&args.prompt)?,
            sampler: &args.sampler,
            model: &args.model,
            output: &args.output,
            size: args.size,
            frames: args.frames,
            shape: None,
            start: Start::Nothing,
        })
    }

    pub fn image_to_video(args: &'a ImageToVideo, task: Task) -> Result<Self> {
        check(&args.sampler, &args.output, task)?;
        let prompt = prompt(&args.prompt)?;
        let image = source::picture(&args.image, &args.prompt).context("image")?;
        let (image, shape) = match args.size {
            Some(size) => (cropped_for(size, image), None),
            None => {
                let shape = image.size();
                check_shape("image", shape)?;
                (image, Some(shape))
            }
        };
        Ok(Self {
            command: "i2v",
            prompt,
            sampler: &args.sampler,
            model: &args.model,
            output: &args.output,
            size: args.size,
            frames: args.frames,
            shape,
            start: Start::Image(image),
        })
    }

    pub fn continue_video(args: &'a Continue, task: Task) -> Result<Self> {
        check(&args.sampler, &args.output, task)?;
        let prompt = prompt(&args.prompt)?;
        if args.with_source && latents_only(&args.output.file) {
            bail!("--with-source needs a video output; latents are of the new frames");
        }
        source::check_order(&args.video, &args.prompt).context("video")?;
        let source = Source::open(&args.video, args.size).context("video")?;
        let shape = match args.size {
            Some(_) => None,
            None => Some(source.given_size()),
        };
        if let Some(shape) = shape {
            check_shape("video", shape)?;
        }
        Ok(Self {
            command: "continue",
            prompt,
            sampler: &args.sampler,
            model: &args.model,
            output: &args.output,
            size: args.size,
            frames: args.frames,
            shape,
            start: Start::Video(source, args),
        })
    }

    /// Carries it out with a checkpoint that is opened for it.
    fn alone(self, task: Task) -> Result<()> {
        let sampler = self.sampler;
        let mut session = Session::open(
            self.command,
            self.model,
            Some(sampler),
            sampler.refine,
            self.output,
        )?;
        self.run(&mut session, task)
    }

    /// Carries it out in a session that was opened for others as well.
    pub fn within(self, session: &mut Session, task: Task) -> Result<()> {
        self.turn(session)?;
        self.run(session, task)
    }

    /// Writes what was made of it together with others, as latents `[1, C, T, H, W]`.
    pub fn finish(self, session: &mut Session, latents: &Latents) -> Result<()> {
        self.turn(session)?;
        let (request, run) = self.request(session)?;
        let job = run.begin(session, request.as_video())?;
        session.bar.latents(latents)?;
        run.finish(session, &job, latents)
    }

    /// Turns a session to it.
    fn turn(&self, session: &mut Session) -> Result<()> {
        let sampler = self.sampler;
        session.turn_to(
            self.command,
            self.model,
            Some(sampler),
            sampler.refine,
            self.output,
        )
    }

    fn run(self, session: &mut Session, task: Task) -> Result<()> {
        let (request, run) = self.request(session)?;
        if task == Task::Plan {
            return run.plan(session, request.as_video());
        }
        let job = run.begin(session, request.as_video())?;
        if task == Task::Check {
            return Ok(());
        }
        let latents = match session.left_latents(&job) {
            Some(latents) => latents,
            None => request.make(session, &mut SeededNoise::new(run.sampler.seed))?,
        };
        run.finish(session, &job, &latents)
    }

    /// The request to the pipeline, and what is done around it.
    fn request(self, session: &Session) -> Result<(Request, Run<'a>)> {
        let Self {
            sampler,
            prompt,
            size,
            frames,
            shape,
            start,
            ..
        } = self;
        let run = Run {
            sampler,
            prompt: prompt.clone(),
            shape,
            condition: None,
            source: None,
        };
        let negative_prompt = sampler.negative.clone();
        let sampling = sampling(sampler);
        match start {
            Start::Nothing => {
                let request = TextToVideoRequest {
                    negative_prompt,
                    size,
                    frames,
                    sampling,
                    ..TextToVideoRequest::new(prompt)
                };
                Ok((Request::Text(request), run))
            }
            Start::Image(image) => {
                let condition = sampler.refine.then(|| RefineCondition {
                    pixels: image.clone(),
                    frames: 1,
                });
                let request = ImageToVideoRequest {
                    size,
                    negative_prompt,
                    frames,
                    sampling,
                    ..ImageToVideoRequest::new(image, prompt)
                };
                Ok((Request::Image(request), Run { condition, ..run }))
            }
            Start::Video(source, args) => {
                let defaults = *session.pipeline.checkpoint().defaults();
                let source = source.with_folder_fps(defaults.fps);
                let condition = &args.condition;
                let cond_frames = condition.cond_frames.unwrap_or(defaults.cond_frames);
                let video = source.last(defaults.fps, cond_frames)?;
                let request = ContinuationRequest {
                    size,
                    negative_prompt,
                    frames,
                    cond_frames: condition.cond_frames,
                    sampling,
                    kv_cache: !condition.no_kv_cache,
                    offload_kv_cache: condition.offload_kv_cache,
                    enhance_hf: condition.no_enhance_hf.then_some(false),
                    ..ContinuationRequest::new(video, prompt)
                };
                let asked = VideoRequest::Continuation(&request);
                let plan = session.pipeline.plan(asked)?;
                let condition = match sampler.refine {
                    true => source.condition(defaults.fps, plan.cond_frames)?,
                    false => None,
                };
                let run = Run {
                    condition,
                    source: args.with_source.then_some(source),
                    ..run
                };
                Ok((Request::Continuation(request), run))
            }
        }
    }
}

/// What the pipeline is asked for.
enum Request {
    Text(TextToVideoRequest),
    Image(ImageToVideoRequest),
    Continuation(ContinuationRequest),
}

impl Request {
    fn as_video(&self) -> VideoRequest<'_> {
        match self {
            Self::Text(request) => VideoRequest::TextToVideo(request),
            Self::Image(request) => VideoRequest::ImageToVideo(request),
            Self::Continuation(request) => VideoRequest::Continuation(request),
        }
    }

    fn make(
        &self,
        session: &mut Session,
        noise: &mut dyn NoiseSource,
    ) -> Result<Latents, VideoError> {
        let Session { pipeline, bar, .. } = session;
        match self {
            Self::Text(request) => pipeline.text_to_video(request, noise, bar),
            Self::Image(request) => pipeline.image_to_video(request, noise, bar),
            Self::Continuation(request) => pipeline.continue_video(request, noise, bar),
        }
    }
}

/// What the three commands have in common.
struct Run<'a> {
    sampler: &'a Sampler,
    prompt: String,
    /// Size of the picture or video that the result takes its shape from.
    shape: Option<VideoSize>,
    /// Condition frames of refining.
    condition: Option<RefineCondition>,
    /// What the new frames are put behind.
    source: Option<Source>,
}

impl Run<'_> {
    /// Says what the request takes of memory, and refining its result.
    fn plan(&self, session: &Session, request: VideoRequest<'_>) -> Result<()> {
        let made = session.pipeline.plan(request)?;
        let pipeline = &*session.pipeline;
        let mut passes = vec![plan::Pass::of(pipeline, "", request)?];
        if self.sampler.refine {
            let refining = self.refining(&made);
            passes.push(plan::Pass::of(pipeline, "refining: ", refining)?);
        }
        plan::print(&passes, session.output.json)
    }

    /// Refining what is made.
    fn refining<'a>(&self, video: &'a VideoPlan) -> VideoRequest<'a> {
        VideoRequest::RefinementOf {
            video,
            cond_frames: self.condition.as_ref().map_or(0, |c| c.frames),
        }
    }

    /// Checks the request, and the refining of its result, before any model is loaded.
    fn begin(&self, session: &mut Session, request: VideoRequest<'_>) -> Result<Job> {
        let plan = session.pipeline.plan(request)?;
        let refined = match self.sampler.refine {
            true => Some(session.pipeline.plan(self.refining(&plan))?),
            false => None,
        };
        let fps = session.fps();
        let mut job = session.begin(&Asked {
            prompts: std::slice::from_ref(&self.prompt),
            negative: &self.sampler.negative,
            seed: self.sampler.seed,
            shape: self.shape,
            plan,
            fps,
            refined,
        })?;
        if let Some(source) = &self.source {
            let new = job.settings.frames - self.repeated(&job);
            job.settings.frames = source.count(self.made_at(session))? + new;
        }
        Ok(job)
    }

    /// Condition frames that the result begins with.
    fn repeated(&self, job: &Job) -> usize {
        let factor = if self.sampler.refine { 2 } else { 1 };
        factor * job.latents.cond_frames
    }

    /// Frames per second of what is made, whatever the file says.
    fn made_at(&self, session: &Session) -> f64 {
        let factor = if self.sampler.refine { 2.0 } else { 1.0 };
        factor * session.fps()
    }

    /// Decodes, refines when asked to, and writes.
    fn finish(mut self, session: &mut Session, job: &Job, latents: &Latents) -> Result<()> {
        if session.latents_only() {
            return session.write_latents(latents, job);
        }
        let refined;
        let (latents, range) = if let Some(left) = session.left_refined(job) {
            refined = left;
            (&refined.0, refined.1)
        } else if self.sampler.refine {
            let frames = session.decode(latents)?;
            session.bar.times.pass("refine: ");
            let request = RefineRequest {
                condition: self.condition.take(),
                cache: self.sampler.cache,
                ..RefineRequest::new(frames, &self.prompt)
            };
            let mut noise = SeededNoise::new(self.sampler.seed);
            let made = session
                .pipeline
                .refine_latents(&request, &mut noise, &mut session.bar);
            refined = session
                .or_keep(made)
                .with_context(|| format!("refining with {REFINEMENT_LORA}"))?;
            session.keep_refined(&refined.0, job)?;
            (&refined.0, refined.1)
        } else {
            (latents, FrameRange::ALL)
        };
        let Some(source) = &self.source else {
            return session.write_made(latents, range, job, |_| Ok(()));
        };
        let fps = self.made_at(session);
        let range = range.without_first(self.repeated(job));
        let size = job.settings.size();
        session.write_made(latents, range, job, |writer| {
            source.write(writer, fps, size)
        })
    }
}
