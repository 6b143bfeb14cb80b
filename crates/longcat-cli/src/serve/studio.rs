//! The models of a server: one set of them on each device, and one without weights that checks requests.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use longcat_cli::device_or_best;
use longcat_dit::lora_targets;
use longcat_lora::AdapterReport as LoraReport;
use longcat_runtime::{DeviceList, DeviceSpec};
use longcat_serve::{
    About, AdapterReport, Defaults, MakeError, Maker, Order, Planned, PulledAdapter, Refusal,
    Studio, Watch,
};
use longcat_video::{CFG_STEP_LORA, MemoryLimit, REFINEMENT_LORA, Sampling};

use super::follower::Follower;
use super::order::{make_error, refusal, request};
use crate::args::{Place, Serve};
use crate::commands::lora_lines;
use crate::commands::models::{Seen, adapters};
use crate::commands::plan::Task;
use crate::left_latents::refined_beside;
use crate::session::Session;

/// What an adapter is called while it is compared with the model.
const INSPECTED: &str = "inspected";

/// A checkpoint and where it runs.
pub struct LoadedStudio {
    place: Place,
    low_memory: bool,
    /// Of each worker.
    devices: Vec<DeviceList>,
    about: About,
    /// Sees whether requests can be made. It loads no weights, so that what is free on the device says
    /// nothing to it.
    checks: Mutex<Session>,
    /// Of the Hugging Face cache.
    seen: Mutex<Seen>,
}

impl LoadedStudio {
    /// Opens the checkpoint.
    pub fn open(args: &Serve) -> Result<Self> {
        let asked = device_or_best(args.place.device.clone());
        let devices = match args.share_devices {
            true => vec![asked],
            false => {
                let names = asked.to_string();
                let each = names.split(',').map(str::parse::<DeviceSpec>);
                let each = each.collect::<Result<Vec<_>, _>>()?;
                each.into_iter().map(DeviceList::from).collect()
            }
        };
        let place = args.place.clone();
        let session = Session::for_many(
            "serve",
            &Place {
                device: devices.first().cloned(),
                memory: MemoryLimit::Unlimited,
                ..place.clone()
            },
            true,
        )?;
        Ok(Self {
            about: about(&session, &devices)?,
            low_memory: args.low_memory,
            checks: Mutex::new(session),
            seen: Mutex::default(),
            place,
            devices,
        })
    }
}

fn about(session: &Session, devices: &[DeviceList]) -> Result<About> {
    let checkpoint = session.pipeline.checkpoint();
    let vae = checkpoint.vae_config()?;
    let transformer = checkpoint.transformer_config()?;
    let (plain, distilled) = (Sampling::standard(), Sampling::distilled());
    let defaults = checkpoint.defaults();
    Ok(About {
        version: env!("CARGO_PKG_VERSION").into(),
        model: session.base().model.clone(),
        devices: devices.iter().map(DeviceList::to_string).collect(),
        dtype: session.base().dtype.clone(),
        sizes: defaults.all_sizes(),
        distill: checkpoint.bundled_lora(CFG_STEP_LORA).is_ok(),
        refine: checkpoint.bundled_lora(REFINEMENT_LORA).is_ok(),
        defaults: Defaults {
            size: defaults.size,
            frames: defaults.frames,
            fps: defaults.fps,
            cond_frames: defaults.cond_frames,
            steps: plain.steps,
            guidance: plain.guidance,
            distill_steps: distilled.steps,
            distill_guidance: distilled.guidance,
        },
        size_multiple: vae.scale_factor_spatial * transformer.patch_size[1],
        frames_multiple: vae.scale_factor_temporal,
    })
}

impl Studio for LoadedStudio {
    fn about(&self) -> About {
        self.about.clone()
    }

    fn check(&self, order: &Order) -> Result<Planned, Refusal> {
        let request = request(order)?;
        let mut session = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let checked = request.run(&mut session, Task::Check);
        checked.map_err(|error| refusal(&error, order))?;
        let Some(made) = session.begun() else {
            unreachable!("a request that was checked was begun");
        };
        let mut warnings = Vec::new();
        if made.negative_prompt.is_empty() && !order.settings.negative_prompt.is_empty() {
            warnings.push("the negative prompt has no effect without guidance above 1".into());
        }
        Ok(Planned {
            width: made.width,
            height: made.height,
            frames: made.frames,
            fps: made.fps,
            warnings,
        })
    }

    fn inspect(&self, adapter: &Path) -> AdapterReport {
        let mut report = match LoraReport::inspect(adapter, lora_targets()) {
            Ok(report) => described(&report),
            Err(error) => AdapterReport {
                problems: vec![error.to_string()],
                ..AdapterReport::default()
            },
        };
        if report.problems.is_empty() {
            // Names alone do not tell whether it is one of this model.
            let mut session = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
            let pipeline = &mut session.pipeline;
            let fits = pipeline.load_lora(INSPECTED, adapter);
            if let Err(error) = fits.and_then(|()| pipeline.unload_lora(INSPECTED)) {
                report.problems.push(error.to_string());
            }
        }
        report
    }

    fn pulled(&self) -> Vec<PulledAdapter> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A cache that cannot be read has none, as a folder has.
        adapters(&mut seen).unwrap_or_default()
    }

    /// What a device holds after a fault is of no use to the process that it belongs to.
    fn outlives_faults(&self) -> bool {
        false
    }

    fn worker(&self, number: usize) -> Result<Box<dyn Maker>, MakeError> {
        let place = Place {
            device: self.devices.get(number).cloned(),
            ..self.place.clone()
        };
        let mut session = Session::for_many("serve", &place, self.low_memory)
            .map_err(|error| MakeError::Device(format!("{error:#}")))?;
        session.resumes = true;
        Ok(Box::new(SessionMaker { session }))
    }
}

fn described(report: &LoraReport) -> AdapterReport {
    let (first, last) = (report.ranks.keys().next(), report.ranks.keys().next_back());
    AdapterReport {
        format: Some(report.format.as_str().to_string()),
        rank: first.zip(last).map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first} to {last}"),
        }),
        layers: Some(report.layers),
        warnings: report.warnings.clone(),
        problems: report.problems.clone(),
        details: lora_lines(report),
    }
}

/// A worker: models on a device.
struct SessionMaker {
    session: Session,
}

impl Maker for SessionMaker {
    fn make(&mut self, order: &Order, watch: &Watch) -> Result<(), MakeError> {
        let request = request(order).map_err(|refusal| MakeError::Invalid(refusal.message))?;
        let session = &mut self.session;
        let follower = Follower::new(watch, &*session.pipeline, order.settings.refine);
        session.bar.follow(follower);
        session.bar.begin_request(String::new());
        let made = request.run(session, Task::Make);
        // Its file tells the same.
        session.take_result();
        made.map_err(|error| make_error(&error, order))?;
        // They served to go on, had the server ended before the video was there.
        let _ = std::fs::remove_file(refined_beside(&order.files.latents()));
        Ok(())
    }
}
