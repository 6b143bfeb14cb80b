use std::path::Path;

use anyhow::Result;
use longcat_runtime::{DeviceTask, on_device};
use longcat_video::media::{ReadOptions, read_image, read_video};
use longcat_video::{KernelBackend, PixelFrames, RefineCondition, RefineRequest, SeededNoise};

use super::generate::read_frames;
use crate::args::Refine;
use crate::session::{Session, check_output};

/// Frame rate of files that state none (a folder of pictures).
const DEFAULT_FPS: f64 = 15.0;

pub fn run(args: Refine) -> Result<()> {
    check_output(&args.output)?;
    let read = read_video(&args.video, &ReadOptions::default())?;
    let task = RefineTask {
        fps: if read.fps() > 0.0 {
            read.fps()
        } else {
            DEFAULT_FPS
        },
        video: PixelFrames::from_video(read)?,
        condition: args.condition.as_deref().map(read_condition).transpose()?,
        args,
    };
    on_device(task.args.model.device.first(), task)?
}

/// The command with the pictures it starts from, read before any model.
struct RefineTask {
    args: Refine,
    video: PixelFrames,
    fps: f64,
    condition: Option<PixelFrames>,
}

fn read_condition(path: &Path) -> Result<PixelFrames> {
    let picture = path
        .extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| ["png", "jpg", "jpeg", "bmp"].contains(&e.to_lowercase().as_str()));
    if picture {
        return Ok(PixelFrames::from_images(&[read_image(path)?])?);
    }
    read_frames(path)
}

impl DeviceTask for RefineTask {
    type Output = Result<()>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Result<()> {
        let args = self.args;
        let mut session = Session::<B>::open(&args.model, false, &args.output, &device)?;
        let request = RefineRequest {
            size: args.size,
            spatial_only: args.spatial_only,
            steps: args.steps,
            threshold: args.threshold,
            condition: self.condition.map(|pixels| RefineCondition {
                pixels,
                frames: args.cond_frames,
            }),
            ..RefineRequest::new(self.video, &args.prompt)
        };
        let mut noise = SeededNoise::new(args.seed);
        let progress = &mut session.progress;
        let frames = session.pipeline.with_refinement(|pipeline| {
            let refined = pipeline.refine(&request, &mut noise, progress)?;
            pipeline.decode_refined(&refined, progress)
        })?;
        let factor = if args.spatial_only { 1.0 } else { 2.0 };
        session.write(&frames, factor * self.fps)
    }
}
