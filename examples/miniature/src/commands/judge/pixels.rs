//! Tasks that are judged by how near pixels are.

use anyhow::Result;
use longcat_miniature::{DatasetOptions, Raster, RenderedClip, Sample, ShapesDataset, Split, psnr};
use longcat_video::{
    KernelBackend, LatentDraw, Pipeline, PixelFrames, RefineRequest, SeededNoise, Silent,
    VideoSize, refine_start,
};
use serde_json::{Value, json};

use super::prompts::{Rates, cut};
use super::{Judge, clip, frames, mean};

/// Seed of clips that no training set of the recipes has.
const UNSEEN: u64 = 0x7573_6565;

fn unseen(count: usize) -> Vec<Sample> {
    let dataset = ShapesDataset::new(UNSEEN, Split::HeldOut, DatasetOptions::default());
    dataset.iter().take(count).collect()
}

/// PSNR of encoded and decoded clips, and what the judge still sees in them: no model that makes these
/// latents can do better.
pub(super) fn vae<B: KernelBackend>(judge: &Judge, pipeline: &mut Pipeline<B>) -> Result<Value> {
    let mut found = Vec::new();
    let mut rates = Rates::default();
    for (index, sample) in unseen(judge.count).iter().enumerate() {
        let truth = sample.render(&Raster::default());
        let decoded = through_vae(pipeline, &truth)?;
        judge.keep(index, &decoded)?;
        rates.add(&decoded, &sample.expected);
        found.push(psnr(&truth, &decoded)?);
    }
    let mut report = rates.report("vae");
    report["psnr"] = summary(&found);
    Ok(report)
}

/// PSNR against the true clip: of bilinear upsampling, of refining with and without its adapter, and of
/// the true clip through the VAE, which no refining can better.
pub(super) fn refine<B: KernelBackend>(judge: &Judge, pipeline: &mut Pipeline<B>) -> Result<Value> {
    let raster = Raster::default();
    let size = VideoSize {
        width: 2 * raster.side,
        height: 2 * raster.side,
    };
    let (mut bilinear, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new());
    let mut coded = Vec::new();
    for (index, sample) in unseen(judge.count).iter().enumerate() {
        let truth = sample.render(&raster.refined());
        let low = frames(&sample.render(&raster))?;
        let per_latent = pipeline.vae_config().scale_factor_temporal;
        let upsampled = refine_start::<B>(&low, size, false, per_latent, pipeline.device());
        let upsampled = upsampled.narrow(2, 0, raster.refined().frames);
        let upsampled = PixelFrames::from_tensor(upsampled)?.swap_remove(0);
        bilinear.push(psnr(&truth, &clip(&upsampled)?)?);
        coded.push(kept_by_vae(pipeline, sample, &raster.refined())?);

        let request = RefineRequest {
            size: Some(size),
            latent_draw: LatentDraw::Mode,
            cache: judge.cache,
            ..RefineRequest::new(low, &sample.caption)
        };
        let seed = judge.seed + index as u64;
        let run = |pipeline: &mut Pipeline<B>| {
            let refined = pipeline.refine(&request, &mut SeededNoise::new(seed), &mut Silent)?;
            pipeline.decode_refined(&refined, &mut Silent)
        };
        let refined = pipeline.with_refinement(run)?;
        let refined = clip(&refined)?;
        judge.keep(index, &refined)?;
        with.push(psnr(&truth, &refined)?);

        pipeline.set_bsa(true)?;
        let plain = run(pipeline)?;
        pipeline.set_bsa(false)?;
        without.push(psnr(&truth, &clip(&plain)?)?);
    }
    Ok(json!({
        "task": "refine", "clips": with.len(), "bilinear": summary(&bilinear),
        "refined": summary(&with), "without_lora": summary(&without), "vae": summary(&coded),
        "gain": mean(&with) - mean(&bilinear),
    }))
}

/// PSNR of a sample that is encoded and decoded. The VAE takes 4n + 1 frames, so that a few more than
/// those compared are drawn.
fn kept_by_vae<B: KernelBackend>(
    pipeline: &mut Pipeline<B>,
    sample: &Sample,
    raster: &Raster,
) -> Result<f64> {
    let more = Raster {
        frames: (raster.frames - 1).next_multiple_of(4) + 1,
        ..*raster
    };
    let truth = sample.render(&more);
    let decoded = through_vae(pipeline, &truth)?;
    let compared = |clip: &RenderedClip| cut(clip, 0, raster.frames);
    Ok(psnr(&compared(&truth)?, &compared(&decoded)?)?)
}

/// A clip of 4n + 1 frames, encoded and decoded.
pub(super) fn through_vae<B: KernelBackend>(
    pipeline: &mut Pipeline<B>,
    truth: &RenderedClip,
) -> Result<RenderedClip> {
    let pixels = frames(truth)?.to_tensor::<B>(pipeline.device());
    let vae = pipeline.vae()?;
    let latents = vae.normalize(vae.encode(pixels)?.mean);
    let decoded = vae.decode(latents)?;
    clip(&PixelFrames::from_tensor(decoded)?.swap_remove(0))
}

fn summary(values: &[f64]) -> Value {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    json!({"mean": mean(values), "least": least})
}
