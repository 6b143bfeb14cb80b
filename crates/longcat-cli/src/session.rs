//! A pipeline on a device, with where its results go.

mod job;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use longcat_builtin::builtin_checkpoint;
use longcat_cli::{device_or_best, note, warn_of_slower_ways};
use longcat_runtime::{DeviceSpec, DynPipeline, RuntimeOptions, open_pipeline};
use longcat_video::{
    AttentionNumbers, EasyCache, Latents, PixelFrames, Precision, Products, RefineRequest,
    Sampling, Settings, StageSettings, Tiling, UsedCache, VideoError,
};
use serde_json::Value;

use crate::adapters::{self, Used};
use crate::args::{Attended, Kept, Model, Multiplied, Output, OutputFile, Place, Sampler};
use crate::finished;
use crate::lora_arg::LoraArg;
use crate::output::{Writer, Written, latents_only};
use crate::preview_file::{self, PreviewFile};
use crate::report::Report;
use crate::stage_bar::StageBar;
use crate::stage_times::StageTimes;

pub use job::{Asked, Job};

/// A model on a device, with where its results go.
pub struct Session {
    pub pipeline: Box<dyn DynPipeline>,
    pub bar: StageBar,
    pub output: OutputFile,
    pub save_latents: Option<PathBuf>,
    /// What is known of the result before the request.
    base: Settings,
    /// The adapters that were put on last, with what asked for them.
    adapters: Option<(AskedAdapters, Used)>,
    results: Results,
    /// Whether latents that an earlier run of the same request has left are taken up.
    pub resumes: bool,
    /// What is known of the result of the request that was begun last.
    begun: Option<Settings>,
}

/// What a session does with what is to be told of a result.
enum Results {
    /// It is printed.
    Printed,
    /// It is kept for the caller.
    Kept(Option<Value>),
}

/// What decides which adapters are on.
#[derive(PartialEq)]
struct AskedAdapters {
    loras: Vec<LoraArg>,
    distill: Option<Option<LoraArg>>,
    refine_lora: Option<LoraArg>,
    generates: bool,
    refines: bool,
    merge: bool,
    requantize: bool,
}

/// The folder of what `--model` names, a folder or a repository in the Hugging Face cache; by default the
/// built-in checkpoint.
pub fn checkpoint_dir(model: Option<&Path>) -> Result<PathBuf> {
    match model {
        Some(file) if file.is_file() => bail!(
            "--model: {} is a file, where a folder or a name is needed; --dit takes the file of a transformer, \
             and --lora that of an adapter",
            file.display()
        ),
        Some(model) => Ok(longcat_hub::find_model(model)?),
        None => builtin_checkpoint().context("unpacking the built-in model"),
    }
}

impl Session {
    /// Opens the checkpoint and the adapters of each stage: those of generating with a sampler, those
    /// of refining if it `refines`.
    pub fn open(
        command: &str,
        model: &Model,
        sampler: Option<&Sampler>,
        refines: bool,
        output: &Output,
    ) -> Result<Self> {
        let mut session =
            Self::without_adapters(command, &model.place, model.low_memory, &output.file)?;
        session.turn_to(command, model, sampler, refines, output)?;
        Ok(session)
    }

    /// Turns to another request of the same models: from now on its adapters act, and results go where it
    /// says. Adapters that are on already stay.
    pub fn turn_to(
        &mut self,
        command: &str,
        model: &Model,
        sampler: Option<&Sampler>,
        refines: bool,
        output: &Output,
    ) -> Result<()> {
        self.output = output.file.clone();
        self.save_latents = output.save_latents.clone();
        self.bar.previews = None;
        if output.preview {
            self.keep_previews()?;
        }
        let used = self.put_on(model, sampler, refines)?;
        self.base.command = command.to_string();
        self.base.generation = sampler.map(|args| {
            let sampling = sampling(args);
            StageSettings {
                steps: sampling.steps,
                guidance: sampling.guidance,
                distilled: sampling.distill,
                threshold: None,
                cache: cache_of(args.cache),
                adapters: used.generation,
                merged: model.merge,
            }
        });
        self.base.refinement = refines.then_some(StageSettings {
            steps: RefineRequest::STEPS,
            guidance: 1.0,
            distilled: false,
            threshold: Some(RefineRequest::THRESHOLD),
            cache: cache_of(sampler.and_then(|args| args.cache)),
            adapters: used.refinement,
            merged: model.merge,
        });
        Ok(())
    }

    fn put_on(&mut self, model: &Model, sampler: Option<&Sampler>, refines: bool) -> Result<Used> {
        let asked = AskedAdapters {
            loras: model.loras.clone(),
            distill: sampler.and_then(|sampler| sampler.distill.clone()),
            refine_lora: model.refine_lora.clone(),
            generates: sampler.is_some(),
            refines,
            merge: model.merge,
            requantize: model.requantize,
        };
        if let Some((_, used)) = self.adapters.as_ref().filter(|(on, _)| *on == asked) {
            return Ok(used.clone());
        }
        // After an error some of them are on.
        self.adapters = None;
        let used = adapters::put_on(&mut *self.pipeline, model, sampler, refines)?;
        adapters::forget_others(&mut *self.pipeline, &used)?;
        self.adapters = Some((asked, used.clone()));
        Ok(used)
    }

    /// Opens the checkpoint for requests that come one after another ([`Self::turn_to`]): models stay as far
    /// as memory allows, and what is to be told of results is kept for the caller ([`Self::take_result`]).
    pub fn for_many(command: &str, place: &Place, low_memory: bool) -> Result<Self> {
        let mut session = Self::with(command, place, low_memory, true)?;
        session.results = Results::Kept(None);
        Ok(session)
    }

    /// Opens the checkpoint for a command that uses no adapters.
    pub fn without_adapters(
        command: &str,
        place: &Place,
        low_memory: bool,
        output: &OutputFile,
    ) -> Result<Self> {
        let mut session = Self::with(command, place, low_memory, false)?;
        session.output = output.clone();
        Ok(session)
    }

    fn with(command: &str, place: &Place, low_memory: bool, many: bool) -> Result<Self> {
        let mut times = StageTimes::new();
        times.begin("open");
        let devices = device_or_best(place.device.clone());
        longcat_runtime::set_cublas_enabled(!place.no_cublas);
        // Large libraries, which are opened while the device starts.
        let libraries = matches!(devices.first(), DeviceSpec::Cuda(_)).then(|| {
            std::thread::spawn(|| {
                [
                    longcat_runtime::cublas_problem(),
                    longcat_runtime::cudnn_problem(),
                ]
            })
        });
        let options = RuntimeOptions {
            dtype: place.dtype.map(Into::into),
            precision: place.precision.into(),
            products: place.products.into(),
            attention: place.attention.into(),
            low_memory,
            keep_text_encoder: many && !low_memory,
            memory: place.memory,
            tiling: place.vae_tiling.then(Tiling::default),
        };
        let parts = place.weights.with(place.model.as_deref())?;
        let pipeline = open_pipeline(&devices, parts, &options)?;
        let problems = libraries.and_then(|libraries| libraries.join().ok());
        for problem in problems.into_iter().flatten().flatten() {
            note!("warning: {problem}");
        }
        let interrupt = longcat_cli::interrupt()?;
        let base = Settings {
            model: match place.model.as_ref().or(place.weights.dit.as_ref()) {
                Some(dir) => file_name(dir),
                None => "built-in".into(),
            },
            device: devices.to_string(),
            dtype: format!("{:?}", pipeline.options().dtype).to_lowercase(),
            precision: match place.precision {
                Kept::Stored => String::new(),
                kept => Precision::from(kept).to_string(),
            },
            products: match place.products {
                Multiplied::Dense => String::new(),
                multiplied => Products::from(multiplied).to_string(),
            },
            attention: match place.attention {
                Attended::Bf16 => String::new(),
                attended => AttentionNumbers::from(attended).to_string(),
            },
            vae_tiling: place.vae_tiling,
            ..Settings::new(command)
        };
        Ok(Self {
            pipeline,
            bar: StageBar::new(interrupt, times),
            output: OutputFile::default(),
            save_latents: None,
            base,
            adapters: None,
            results: Results::Printed,
            resumes: false,
            begun: None,
        })
    }

    /// Keeps previews beside the output.
    fn keep_previews(&mut self) -> Result<()> {
        let vae = self.pipeline.checkpoint().vae_config()?;
        let colours = vae.latent_colours().with_context(|| {
            format!(
                "--preview: the colours of this VAE's latents are not known; leave it out, or add \
                 _latent_colours to {}",
                self.pipeline.checkpoint().vae_path().display()
            )
        })?;
        let fps = self.fps() / vae.scale_factor_temporal as f64;
        let path = preview_file::beside(&self.output.output);
        self.bar.previews = Some(PreviewFile::new(path, colours, fps));
        Ok(())
    }

    /// Frames per second of what the checkpoint makes.
    pub fn fps(&self) -> f64 {
        self.pipeline.checkpoint().defaults().fps
    }

    /// What is known of the result of the request that was begun last.
    pub fn begun(&self) -> Option<&Settings> {
        self.begun.as_ref()
    }

    /// What all results have in common.
    pub fn base(&self) -> &Settings {
        &self.base
    }

    /// Settings, unless files shall not have them.
    pub fn kept<'a>(&self, settings: &'a Settings) -> Option<&'a Settings> {
        (!self.output.no_metadata).then_some(settings)
    }

    /// The video of latents.
    pub fn decode(&mut self, latents: &Latents) -> Result<PixelFrames> {
        let decoded = self.pipeline.decode(latents, &mut self.bar);
        Ok(self.or_keep(decoded)?.swap_remove(0))
    }

    /// The result of a run, or an error after which finished latents are in a file.
    pub fn or_keep<T>(&self, result: Result<T, VideoError>) -> Result<T> {
        finished::or_keep(result, self.bar.finished.as_ref(), &self.output.output)
    }

    /// Writes latents as the result.
    pub fn write_latents(&mut self, latents: &Latents, job: &Job) -> Result<()> {
        self.bar.times.begin("write");
        let settings = self.bar.with_saved(&job.latents);
        latents.write_with(&self.output.output, self.kept(&settings))?;
        self.report(None, Some(&settings))
    }

    /// A file for the result, which keeps what it was made with.
    pub fn writer(&self, fps: f64, settings: Option<&Settings>) -> Writer<'_> {
        let kept = settings.and_then(|settings| self.kept(settings));
        Writer::new(&self.output, fps, kept.map(Settings::to_json))
    }

    /// Tells of the result: a video, or latents alone.
    pub fn report(&mut self, video: Option<Written>, settings: Option<&Settings>) -> Result<()> {
        self.bar.finish();
        warn_of_slower_ways();
        let report = Report {
            output: &self.output,
            latents: self.save_latents.as_deref(),
            video,
            settings,
            times: &self.bar.times,
        };
        match &mut self.results {
            Results::Printed => report.print()?,
            Results::Kept(result) => *result = Some(serde_json::from_str(&report.to_json()?)?),
        }
        Ok(())
    }

    /// What is to be told of the last result of a session [`Self::for_many`], as `--json` prints it.
    pub fn take_result(&mut self) -> Option<Value> {
        match &mut self.results {
            Results::Printed => None,
            Results::Kept(result) => result.take(),
        }
    }

    /// Whether the run ends at latents.
    pub fn latents_only(&self) -> bool {
        latents_only(&self.output)
    }
}

/// The last part of a path; empty where it has none.
pub fn file_name(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The sampling settings of a command line.
pub fn sampling(args: &Sampler) -> Sampling {
    let base = match args.distill {
        Some(_) => Sampling::distilled(),
        None => Sampling::standard(),
    };
    Sampling {
        steps: args.steps.unwrap_or(base.steps),
        guidance: args.guidance.unwrap_or(base.guidance),
        cache: args.cache,
        ..base
    }
}

/// What files tell of the passes that may be left out.
fn cache_of(rule: Option<EasyCache>) -> Option<UsedCache> {
    rule.map(|rule| UsedCache {
        rule: rule.to_string(),
        ..UsedCache::default()
    })
}
