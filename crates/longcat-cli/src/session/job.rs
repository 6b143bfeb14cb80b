//! A request that a session takes up: what is known of its result before it is made.

use anyhow::Result;
use longcat_cli::note;
use longcat_video::{EasyCache, Settings, VideoPlan, VideoSize};

use super::{Results, Session, cache_of};
use crate::output::check_video;
use crate::shape::stretched_back;

/// What a command is about to make.
#[derive(Debug, Clone)]
pub struct Job {
    /// What the file is made with.
    pub settings: Settings,
    /// The same for the latents of the first pass.
    pub latents: Settings,
    /// The same for those of refining what that makes.
    pub refined: Option<Settings>,
}

/// The request of a command, as its result will tell of it.
pub struct Asked<'a> {
    pub prompts: &'a [String],
    pub negative: &'a str,
    pub seed: u64,
    /// Size of the picture or video that the result takes its shape from.
    pub shape: Option<VideoSize>,
    /// What is made first.
    pub plan: VideoPlan,
    /// Rate at which it plays.
    pub fps: f64,
    /// What that is refined to.
    pub refined: Option<VideoPlan>,
}

impl Session {
    /// Says that refining takes other settings than those of the release.
    pub fn refine_with(&mut self, steps: usize, threshold: f32, cache: Option<EasyCache>) {
        if let Some(refinement) = &mut self.base.refinement {
            refinement.steps = steps;
            refinement.threshold = Some(threshold);
            refinement.cache = cache_of(cache);
        }
    }

    /// Takes up a request that was checked: all that can be known of the result is known then, also
    /// whether its file can hold it.
    pub fn begin(&mut self, asked: &Asked<'_>) -> Result<Job> {
        let guided = self
            .base
            .generation
            .as_ref()
            .is_some_and(|g| g.guidance > 1.0);
        let negative_prompt = match guided {
            true => asked.negative.to_string(),
            false => String::new(),
        };
        let printed = matches!(self.results, Results::Printed);
        if !guided && !asked.negative.is_empty() && printed {
            note!("warning: --negative has no effect without guidance above 1");
        }
        let base = Settings {
            prompts: asked.prompts.to_vec(),
            negative_prompt,
            seed: asked.seed,
            ..self.base.clone()
        };
        let of = |plan: &VideoPlan, fps: f64| {
            let shape = asked.shape.unwrap_or(plan.size);
            let size = stretched_back(plan.size, shape);
            Settings {
                width: size.width,
                height: size.height,
                frames: plan.frames,
                fps: self.output.fps.unwrap_or(fps),
                cond_frames: plan.cond_frames,
                first_frame: plan.first_frame,
                ..base.clone()
            }
        };
        let first = of(&asked.plan, asked.fps);
        let job = match &asked.refined {
            Some(plan) => {
                let refined = of(plan, 2.0 * asked.fps);
                Job {
                    settings: refined.clone(),
                    latents: Settings {
                        refinement: None,
                        ..first
                    },
                    refined: Some(refined),
                }
            }
            None => Job {
                settings: first.clone(),
                latents: first,
                refined: None,
            },
        };
        let job = Job {
            settings: Settings {
                first_frame: 0,
                ..job.settings
            },
            ..job
        };
        if !self.latents_only() {
            check_video(&self.output, Some(job.settings.size()), job.settings.fps)?;
        }
        let settings = self.kept(&job.latents).cloned();
        self.bar.keep_latents(self.save_latents.clone(), settings);
        self.begun = Some(job.settings.clone());
        Ok(job)
    }
}
