//! Videos of several requests that are denoised at once.

use anyhow::Result;
use longcat_video::{
    Latents, NoisePurpose, NoiseSource, SeededNoise, TextToVideoRequest, VideoRequest,
};

use crate::args::TextToVideo;
use crate::prompt::prompt;
use crate::session::{Session, sampling};

/// Whether two requests differ in prompts, seeds and files alone. Passes that are left out are left out for
/// all videos at once, so that requests with `cache` stay alone.
pub fn alike(a: &TextToVideo, b: &TextToVideo) -> bool {
    let of = |args: &TextToVideo| {
        (
            (args.size, args.frames, args.sampler.refine),
            (sampling(&args.sampler), args.sampler.negative.clone()),
            (args.sampler.distill.clone(), args.model.loras.clone()),
            args.model.refine_lora.clone(),
        )
    };
    a.sampler.cache.is_none() && !a.output.preview && !b.output.preview && of(a) == of(b)
}

/// How many requests like this one, up to `most`, are denoised at once by no other means than one alone:
/// with as many weights on the device, in the same pieces.
pub fn fitting(session: &mut Session, like: &TextToVideo, most: usize) -> Result<usize> {
    turn_to(session, like)?;
    let means = |count: usize| {
        let request = request_for(&vec![like; count])?;
        let request = VideoRequest::TextToVideo(&request);
        let plan = session.pipeline.memory_plan(request)?;
        let (text, transformer) = (plan.text, plan.transformer);
        Ok::<_, anyhow::Error>((
            (text.resident, transformer.resident, transformer.pieces),
            (plan.keep_transformer, plan.keep_text_encoder),
            plan.decode.tiling,
        ))
    };
    let alone = means(1)?;
    let mut counts = (2..=most).rev();
    let found = counts.find(|count| means(*count).is_ok_and(|means| means == alone));
    Ok(found.unwrap_or(1))
}

/// The latents of each request. Each has the noise of its own seed.
pub fn make(session: &mut Session, all: &[&TextToVideo]) -> Result<Vec<Latents>> {
    let [first, ..] = all else {
        return Ok(Vec::new());
    };
    turn_to(session, first)?;
    // They are kept for each video.
    session.bar.keep_latents(None, None);
    let request = request_for(all)?;
    let mut noise = OwnSeeds(all.iter().map(|args| args.sampler.seed).collect());
    let Session { pipeline, bar, .. } = session;
    let latents = pipeline.text_to_video(&request, &mut noise, bar)?;
    Ok(latents.samples())
}

fn turn_to(session: &mut Session, args: &TextToVideo) -> Result<()> {
    let (sampler, output) = (&args.sampler, &args.output);
    session.turn_to("t2v", &args.model, Some(sampler), sampler.refine, output)
}

fn request_for(all: &[&TextToVideo]) -> Result<TextToVideoRequest> {
    let prompts = all.iter().map(|args| prompt(&args.prompt));
    let first = all[0];
    Ok(TextToVideoRequest {
        prompts: prompts.collect::<Result<_>>()?,
        negative_prompt: first.sampler.negative.clone(),
        size: first.size,
        frames: first.frames,
        sampling: sampling(&first.sampler),
    })
}

/// Noise of a seed for each video of a batch, as each has it alone.
struct OwnSeeds(Vec<u64>);

impl NoiseSource for OwnSeeds {
    fn draw(&mut self, purpose: NoisePurpose, mut shape: [usize; 5]) -> Vec<f32> {
        shape[0] = 1;
        let seeds = self.0.iter();
        seeds
            .flat_map(|seed| SeededNoise::new(*seed).draw(purpose, shape))
            .collect()
    }
}
