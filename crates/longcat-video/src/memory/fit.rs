//! Requests that do not fit, and what would.

use super::limit::in_words;
use super::plan::MemoryPlan;
use super::sizes::ModelSizes;
use super::work::RequestSizes;

/// A request takes more memory than there is, whatever is done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{stage} takes at least {} of device memory, and {} may be used (--memory); {}",
    in_words(*needed), in_words(*budget), self.help()
)]
pub struct DoesNotFit {
    /// The stage that takes too much.
    pub stage: &'static str,
    /// Bytes that it takes at least.
    pub needed: u64,
    /// Bytes that may be taken.
    pub budget: u64,
    /// The most frames of this size that fit.
    pub frames: Option<usize>,
    /// The largest pixels `[height, width]` of about this shape that fit.
    pub size: Option<[usize; 2]>,
}

impl DoesNotFit {
    pub(super) fn new(
        models: &ModelSizes,
        request: &RequestSizes,
        budget: u64,
        (stage, needed): (&'static str, u64),
    ) -> Self {
        let fits = |request: &RequestSizes| MemoryPlan::within(models, request, budget).is_ok();
        let latents = request.denoise.frames;
        let shorter = (1..latents).rev().map(|frames| {
            let mut shorter = *request;
            shorter.denoise.frames = frames;
            let frames = (frames + request.denoise.cached - 1) * models.vae.frames + 1;
            shorter.decode.frames = frames;
            if let Some(clip) = &mut shorter.encode {
                clip.frames = clip.frames.min(frames);
            }
            (shorter, frames)
        });
        let frames = shorter.filter(|(request, _)| fits(request));
        let frames = frames.map(|(_, frames)| frames).next();
        let [height, width] = request.denoise.grid;
        let smaller = (1..height).rev().filter_map(|rows| {
            let columns = (rows * width + height / 2) / height;
            let mut smaller = *request;
            smaller.denoise.grid = [rows, columns];
            let sides = models.transformer.sides;
            let size = [rows * sides[0], columns * sides[1]].map(|n| n * models.vae.factor);
            smaller.decode.size = size;
            if let Some(clip) = &mut smaller.encode {
                clip.size = size;
            }
            (columns > 0).then_some((smaller, size))
        });
        let size = smaller.filter(|(request, _)| fits(request));
        let size = size.map(|(_, size)| size).next();
        Self {
            stage,
            needed,
            budget,
            frames,
            size,
        }
    }

    /// Without what would fit.
    pub(super) fn of_stage((stage, needed): (&'static str, u64), budget: u64) -> Self {
        Self {
            stage,
            needed,
            budget,
            frames: None,
            size: None,
        }
    }

    /// What would fit.
    fn help(&self) -> String {
        let frames = self
            .frames
            .map(|frames| format!("{frames} frames of this size"));
        let size = self
            .size
            .map(|[height, width]| format!("{width}x{height} pixels"));
        let fitting: Vec<String> = frames.into_iter().chain(size).collect();
        let narrower = "weights in a narrower type (--precision, --dtype) take less";
        match fitting.is_empty() {
            true => narrower.to_string(),
            false => format!("{} would fit, and {narrower}", fitting.join(" or ")),
        }
    }
}
