//! Tasks that are judged by what videos show.

use anyhow::Result;
use longcat_miniature::{
    Agreement, DatasetOptions, Expected, Motion, Raster, RenderedClip, Sample, ShapesDataset,
    Split, judge, psnr, seam_jump,
};
use longcat_video::{
    CFG_STEP_LORA, ContinuationRequest, ImageToVideoRequest, KernelBackend, LatentDraw, Pipeline,
    Sampling, SeededNoise, Silent, TextToVideoRequest, VideoSize,
};
use serde_json::{Value, json};

use super::pixels::through_vae;
use super::{Judge, Passes, clip, frames, mean};

/// Frames that a continued video keeps to: two latents.
const CONDITION: usize = 5;
/// Segments of a long video.
const SEGMENTS: usize = 5;
/// Seed of videos to continue, which no training set of the recipes has.
const CONTINUED: u64 = 0x636f_6e74;

/// Counts what agrees with the prompts.
#[derive(Default)]
pub(super) struct Rates {
    agreements: Vec<Agreement>,
}

impl Rates {
    pub(super) fn add(&mut self, clip: &RenderedClip, expected: &Expected) {
        self.agreements.push(judge(clip).agrees(expected));
    }

    /// Numbers of the clips whose objects are not as expected, as `--save` counts them.
    fn failed(&self) -> Vec<usize> {
        let numbered = self.agreements.iter().enumerate();
        let failed = numbered.filter(|(_, agreement)| !agreement.object());
        failed.map(|(index, _)| index).collect()
    }

    fn share(&self, of: impl Fn(&Agreement) -> bool) -> f64 {
        let count = self.agreements.iter().filter(|a| of(a)).count();
        count as f64 / self.agreements.len().max(1) as f64
    }

    pub(super) fn report(&self, task: &str) -> Value {
        json!({
            "task": task, "clips": self.agreements.len(),
            "colour": self.share(|a| a.colour), "shape": self.share(|a| a.shape),
            "motion": self.share(|a| a.motion), "object": self.share(Agreement::object),
            "background": self.share(|a| a.background), "count": self.share(|a| a.count),
            "all": self.share(Agreement::all), "failed": self.failed(),
        })
    }
}

fn text_request(judge: &Judge, prompts: Vec<String>) -> TextToVideoRequest {
    let raster = Raster::default();
    TextToVideoRequest {
        prompts,
        size: Some(VideoSize::new(raster.side, raster.side)),
        frames: Some(raster.frames),
        sampling: judge.sampling(),
        ..TextToVideoRequest::new("")
    }
}

pub(super) fn text<B: KernelBackend>(args: &Judge, pipeline: &mut Pipeline<B>) -> Result<Value> {
    let mut rates = Rates::default();
    let mut passes = Passes::default();
    let samples = args.prompts();
    for (part, samples) in samples.chunks(args.batch).enumerate() {
        let first = part * args.batch;
        let prompts = samples.iter().map(|s| s.caption.clone()).collect();
        let mut noise = SeededNoise::new(args.seed + first as u64);
        let request = text_request(args, prompts);
        let made = pipeline.text_to_video(&request, &mut noise, &mut passes)?;
        let videos = pipeline.decode(made.latents, &mut Silent)?;
        for (i, (video, sample)) in videos.iter().zip(samples).enumerate() {
            let video = clip(video)?;
            args.keep(first + i, &video)?;
            rates.add(&video, &sample.expected);
        }
        eprintln!("{} of {} videos", rates.agreements.len(), args.count);
    }
    let mut report = rates.report("text");
    if args.cache.is_some() {
        report["passes_saved"] = json!([passes.saved, passes.all]);
    }
    Ok(report)
}

/// How near videos of few steps without guidance come to those that the teacher makes from the same
/// noise in all its steps with guidance: with the distilled adapter, and without it.
pub(super) fn teacher<B: KernelBackend>(args: &Judge, pipeline: &mut Pipeline<B>) -> Result<Value> {
    let path = pipeline.checkpoint().bundled_lora(CFG_STEP_LORA)?;
    pipeline.load_lora(CFG_STEP_LORA, &path)?;
    let samples = args.prompts();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for (part, samples) in samples.chunks(args.batch).enumerate() {
        let first = part * args.batch;
        let mut make = |sampling: Sampling, adapted: bool| -> Result<Vec<RenderedClip>> {
            pipeline.use_loras(&[(CFG_STEP_LORA, 1.0)][..usize::from(adapted)])?;
            let prompts = samples.iter().map(|s| s.caption.clone()).collect();
            let request = TextToVideoRequest {
                sampling,
                ..text_request(args, prompts)
            };
            let mut noise = SeededNoise::new(args.seed + first as u64);
            let made = pipeline.text_to_video(&request, &mut noise, &mut Silent)?;
            let videos = pipeline.decode(made.latents, &mut Silent)?;
            videos.iter().map(clip).collect()
        };
        let teacher = make(Sampling::standard(), false)?;
        let adapted = make(Sampling::distilled(), true)?;
        let plain = make(Sampling::distilled(), false)?;
        for (i, teacher) in teacher.iter().enumerate() {
            with.push(psnr(teacher, &adapted[i])?);
            without.push(psnr(teacher, &plain[i])?);
        }
        eprintln!("{} of {} videos", with.len(), args.count);
    }
    let nearer = with
        .iter()
        .zip(&without)
        .filter(|(with, without)| with > without)
        .count();
    Ok(json!({
        "task": "teacher", "clips": with.len(),
        "psnr_with_lora": mean(&with), "psnr_without_lora": mean(&without),
        "nearer_with_lora": nearer as f64 / with.len().max(1) as f64,
    }))
}

pub(super) fn image<B: KernelBackend>(args: &Judge, pipeline: &mut Pipeline<B>) -> Result<Value> {
    let mut rates = Rates::default();
    let mut first_frames = Vec::new();
    for (index, sample) in args.prompts().iter().enumerate() {
        let truth = sample.render(&Raster::default());
        let first = frames(&cut(&truth, 0, 1)?)?;
        let request = ImageToVideoRequest {
            size: Some(first.size()),
            frames: Some(Raster::default().frames),
            sampling: args.sampling(),
            latent_draw: LatentDraw::Mode,
            ..ImageToVideoRequest::new(first, &sample.caption)
        };
        let mut noise = SeededNoise::new(args.seed + index as u64);
        let made = pipeline.image_to_video(&request, &mut noise, &mut Silent)?;
        let videos = pipeline.decode(made.latents, &mut Silent)?;
        let video = clip(&videos[0])?;
        args.keep(index, &video)?;
        rates.add(&video, &sample.expected);
        first_frames.push(psnr(&cut(&truth, 0, 1)?, &cut(&video, 0, 1)?)?);
    }
    let mut report = rates.report("image");
    let least = first_frames.iter().copied().fold(f64::INFINITY, f64::min);
    report["first_frame_psnr"] = json!({"mean": mean(&first_frames), "least": least});
    Ok(report)
}

/// Continues true clips of steady motion, and measures the jump at the seam.
pub(super) fn continuation<B: KernelBackend>(
    args: &Judge,
    pipeline: &mut Pipeline<B>,
) -> Result<Value> {
    let raster = Raster::default();
    let total = 2 * raster.frames - CONDITION;
    let long = Raster {
        frames: total,
        ..raster
    };
    let options = DatasetOptions {
        two_objects: 0.0,
        seconds: long.seconds(),
        ..DatasetOptions::default()
    };
    let dataset = ShapesDataset::new(CONTINUED, Split::Train, options);
    let steady = |s: &Sample| s.scene.objects[0].motion.direction().is_some();
    let mut rates = Rates::default();
    let mut jumps = Vec::new();
    for (index, sample) in dataset.iter().filter(steady).take(args.count).enumerate() {
        let given = sample.render(&raster);
        let made = continue_clip(args, pipeline, &given, &sample.caption, index)?;
        let joined = join(&given, &cut(&made, CONDITION, raster.frames)?)?;
        args.keep(index, &joined)?;
        rates.add(&joined, &sample.expected);
        let verdict = judge(&joined);
        let jump = verdict.objects.first();
        jumps.push(jump.and_then(|o| seam_jump(&o.track, raster.frames)));
    }
    let seen: Vec<f64> = jumps.iter().copied().flatten().collect();
    let smooth = seen.iter().filter(|jump| **jump < 2.0).count();
    let mut report = rates.report("continue");
    report["jump_below_2_pixels"] = json!(smooth as f64 / jumps.len().max(1) as f64);
    report["mean_jump"] = json!(mean(&seen));
    Ok(report)
}

/// Five segments of objects that stay where they are; beside the last of them, what the judge sees in
/// true clips at that time that went through the VAE.
pub(super) fn long<B: KernelBackend>(args: &Judge, pipeline: &mut Pipeline<B>) -> Result<Value> {
    let stays = |s: &Sample| {
        let motion = s.scene.objects[0].motion;
        matches!(motion, Motion::Bouncing | Motion::Rotating)
    };
    let raster = Raster::default();
    let mut rates: [Rates; SEGMENTS] = Default::default();
    let mut true_rates = Rates::default();
    for (index, sample) in args.prompts().into_iter().filter(stays).enumerate() {
        let request = text_request(args, vec![sample.caption.clone()]);
        let mut noise = SeededNoise::new(args.seed + (SEGMENTS * index) as u64);
        let made = pipeline.text_to_video(&request, &mut noise, &mut Silent)?;
        let videos = pipeline.decode(made.latents, &mut Silent)?;
        let mut last = clip(&videos[0])?;
        let mut video = last.clone();
        let seconds = ((SEGMENTS - 1) * (raster.frames - CONDITION)) as f64 / raster.fps;
        let truth = sample.scene.clone().later(seconds).render(&raster);
        true_rates.add(&through_vae(pipeline, &truth)?, &sample.expected);
        rates[0].add(&last, &sample.expected);
        for (segment, rates) in rates.iter_mut().enumerate().skip(1) {
            let number = SEGMENTS * index + segment;
            last = continue_clip(args, pipeline, &last, &sample.caption, number)?;
            video = join(&video, &cut(&last, CONDITION, raster.frames)?)?;
            rates.add(&last, &sample.expected);
        }
        args.keep(index, &video)?;
    }
    let by_segment = rates.each_ref().map(|rates| rates.share(|a| a.shape));
    let [first, .., last] = &rates;
    let pairs = first.agreements.iter().zip(&last.agreements);
    let kept = Rates {
        agreements: pairs
            .filter(|(first, _)| first.object())
            .map(|(_, last)| *last)
            .collect(),
    };
    let mut report = last.report("last segment of long");
    report["shape_by_segment"] = json!(by_segment);
    report["shape_of_true_clips"] = json!(true_rates.share(|a| a.shape));
    report["kept_if_right_at_first"] = json!(kept.share(Agreement::object));
    Ok(report)
}

fn continue_clip<B: KernelBackend>(
    args: &Judge,
    pipeline: &mut Pipeline<B>,
    given: &RenderedClip,
    caption: &str,
    number: usize,
) -> Result<RenderedClip> {
    let video = frames(given)?;
    let request = ContinuationRequest {
        size: Some(video.size()),
        frames: Some(Raster::default().frames),
        cond_frames: Some(CONDITION),
        sampling: args.sampling(),
        latent_draw: LatentDraw::Mode,
        ..ContinuationRequest::new(video, caption)
    };
    let mut noise = SeededNoise::new(args.seed + number as u64);
    let made = pipeline.continue_video(&request, &mut noise, &mut Silent)?;
    let videos = pipeline.decode(made.latents, &mut Silent)?;
    clip(&videos[0])
}

/// Frames `from..to`.
pub(super) fn cut(clip: &RenderedClip, from: usize, to: usize) -> Result<RenderedClip> {
    let data = clip.frames().take(to).skip(from).flatten().copied();
    Ok(RenderedClip::new(
        clip.width(),
        clip.height(),
        data.collect(),
    )?)
}

fn join(a: &RenderedClip, b: &RenderedClip) -> Result<RenderedClip> {
    let data = [a.data(), b.data()].concat();
    Ok(RenderedClip::new(a.width(), a.height(), data)?)
}
