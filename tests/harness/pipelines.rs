//! Whole pipelines, step by step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use burn::tensor::{DType, Tensor, TensorData};
use longcat_kernels::KernelBackend;
use longcat_video::{
    ContinuationRequest, Generated, ImageToVideoRequest, LatentDraw, Latents, NoisePurpose,
    NoiseSource, Observer, Pipeline, PipelineOptions, PixelFrames, RefineCondition, RefineRequest,
    Sampling, StepEvent, TextToVideoRequest, VideoSize,
};

use crate::vae::unit_frames;
use crate::{Case, Golden};

/// The noise that a case prescribes.
struct GivenNoise(HashMap<NoisePurpose, Vec<f32>>);

impl GivenNoise {
    fn new(case: &Case) -> Self {
        let mut noise = HashMap::new();
        let mut add = |purpose, name: &str| {
            if case.has_input(name) {
                noise.insert(purpose, case.input_data(name).into_vec::<f32>().unwrap());
            }
        };
        add(NoisePurpose::Initial, "latents");
        add(NoisePurpose::Refine, "refine_noise");
        for n in 0..2 {
            add(NoisePurpose::Posterior(n), &format!("vae_noise.{n}"));
        }
        Self(noise)
    }
}

impl NoiseSource for GivenNoise {
    fn draw(&mut self, purpose: NoisePurpose, shape: [usize; 5]) -> Vec<f32> {
        let values = self.0[&purpose].clone();
        assert_eq!(
            values.len(),
            shape.iter().product::<usize>(),
            "{purpose:?} {shape:?}"
        );
        values
    }
}

/// What the cases expect of the steps.
struct Steps<B: KernelBackend> {
    initial: Option<Tensor<B, 5>>,
    first_prediction: Option<Tensor<B, 5>>,
    latents: Vec<Tensor<B, 5>>,
}

impl<B: KernelBackend> Steps<B> {
    fn keep(&mut self, event: &StepEvent<'_, B>) {
        self.initial.get_or_insert_with(|| event.input.clone());
        self.first_prediction
            .get_or_insert_with(|| event.prediction.clone());
        self.latents.push(event.latents.clone());
    }
}

/// Keeps what the cases expect of a run.
struct Recorder<B: KernelBackend> {
    steps: Arc<Mutex<Steps<B>>>,
    kept: Option<Latents>,
}

impl<B: KernelBackend> Recorder<B> {
    fn of(pipeline: &mut Pipeline<B>) -> Self {
        let steps = Arc::new(Mutex::new(Steps {
            initial: None,
            first_prediction: None,
            latents: Vec::new(),
        }));
        let hook = steps.clone();
        pipeline.on_step(move |event| hook.lock().unwrap().keep(event));
        Self { steps, kept: None }
    }
}

impl<B: KernelBackend> Observer for Recorder<B> {
    fn latents(&mut self, latents: &Latents) -> Result<(), longcat_video::VideoError> {
        self.kept = Some(latents.clone());
        Ok(())
    }
}

fn open<B: KernelBackend>(golden: &Golden, case: &Case, device: &B::Device) -> Pipeline<B> {
    let mut pipeline =
        Pipeline::open(golden.checkpoint(case), PipelineOptions::default(), device).unwrap();
    let mut chosen = Vec::new();
    for row in case.param("loras").as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        pipeline
            .load_lora(name, &golden.path(row["file"].as_str().unwrap()))
            .unwrap();
        chosen.push((name.to_string(), row["multiplier"].as_f64().unwrap()));
    }
    let chosen: Vec<(&str, f64)> = chosen.iter().map(|(n, s)| (n.as_str(), *s)).collect();
    pipeline.use_loras(&chosen).unwrap();
    pipeline.set_bsa(case.flag("enable_bsa")).unwrap();
    pipeline
}

fn prompts(case: &Case) -> Vec<String> {
    let one_or_many = |value: &serde_json::Value| match value {
        serde_json::Value::Array(list) => list
            .iter()
            .map(|p| p.as_str().unwrap().to_string())
            .collect(),
        value => vec![value.as_str().unwrap().to_string(); case.usize_param("batch")],
    };
    match case.param("prompts") {
        serde_json::Value::Null => one_or_many(case.param("prompt")),
        list => one_or_many(list),
    }
}

fn negative(case: &Case) -> String {
    case.param("negative_prompt")
        .as_str()
        .unwrap_or_default()
        .to_string()
}

fn sampling(case: &Case) -> Sampling {
    Sampling {
        steps: case.usize_param("num_inference_steps"),
        guidance: case.param("guidance_scale").as_f64().unwrap(),
        distill: case.flag("use_distill"),
        max_sequence_length: case.usize_param("max_sequence_length"),
        cache: None,
    }
}

fn size(case: &Case) -> VideoSize {
    VideoSize {
        width: case.usize_param("width"),
        height: case.usize_param("height"),
    }
}

fn latent_draw(case: &Case) -> LatentDraw {
    match case.param("posterior").as_str() {
        Some("mode") => LatentDraw::Mode,
        _ => LatentDraw::Sample,
    }
}

/// A picture `[H, W, 3]` or frames `[F, H, W, 3]`.
fn pixels(case: &Case, name: &str) -> PixelFrames {
    let data = case.input_data(name);
    let shape = data.shape.to_vec();
    let [height, width] = [shape[shape.len() - 3], shape[shape.len() - 2]];
    PixelFrames::from_bytes(data.into_vec::<u8>().unwrap(), VideoSize { width, height }).unwrap()
}

fn compare<B: KernelBackend>(
    case: &mut Case,
    generated: Generated<B>,
    recorder: Recorder<B>,
    video: Tensor<B, 5>,
) {
    let vector = |values: &[f32]| TensorData::new(values.to_vec(), [values.len()]);
    let text = generated.text;
    case.check_tensor::<B, 4>("prompt_embeds", text.embeds.unsqueeze_dim(1));
    let mask = text.mask.unwrap();
    let shape = [mask.len(), mask[0].len()];
    let mask: Vec<i64> = mask.iter().flatten().map(|m| i64::from(*m)).collect();
    case.check("prompt_attention_mask", TensorData::new(mask, shape));
    case.check("timesteps", vector(&generated.schedule.timesteps));
    case.check("sigmas", vector(&generated.schedule.sigmas));
    let mut steps = recorder.steps.lock().unwrap();
    case.check_tensor("initial_latents", steps.initial.take().unwrap());
    case.check_tensor("dit_out_step0", steps.first_prediction.take().unwrap());
    let step_latents = std::mem::take(&mut steps.latents);
    case.check_tensor::<B, 6>("step_latents", Tensor::stack(step_latents, 0));
    let kept = recorder
        .kept
        .expect("latents are handed out before decoding");
    let latents = Latents::from_tensor(generated.latents.clone()).unwrap();
    assert_eq!(kept, latents);
    case.check_tensor("latents", generated.latents);
    case.check_tensor("frames", unit_frames(video.cast(DType::F32)));
}

pub(crate) fn text_to_video<B: KernelBackend>(
    golden: &Golden,
    case: &mut Case,
    device: &B::Device,
) {
    let mut pipeline = open::<B>(golden, case, device);
    let request = TextToVideoRequest {
        prompts: prompts(case),
        negative_prompt: negative(case),
        size: Some(size(case)),
        frames: Some(case.usize_param("num_frames")),
        sampling: sampling(case),
    };
    let mut recorder = Recorder::of(&mut pipeline);
    let made = pipeline
        .text_to_video(&request, &mut GivenNoise::new(case), &mut recorder)
        .unwrap();
    let video = pipeline
        .decode_pixels(made.latents.clone(), &mut recorder)
        .unwrap();
    compare(case, made, recorder, video);
}

pub(crate) fn image_to_video<B: KernelBackend>(
    golden: &Golden,
    case: &mut Case,
    device: &B::Device,
) {
    let mut pipeline = open::<B>(golden, case, device);
    let request = ImageToVideoRequest {
        image: pixels(case, "image"),
        size: Some(size(case)),
        prompts: prompts(case),
        negative_prompt: negative(case),
        frames: Some(case.usize_param("num_frames")),
        sampling: sampling(case),
        latent_draw: latent_draw(case),
    };
    let mut recorder = Recorder::of(&mut pipeline);
    let made = pipeline
        .image_to_video(&request, &mut GivenNoise::new(case), &mut recorder)
        .unwrap();
    let video = pipeline
        .decode_pixels(made.latents.clone(), &mut recorder)
        .unwrap();
    compare(case, made, recorder, video);
}

pub(crate) fn continuation<B: KernelBackend>(golden: &Golden, case: &mut Case, device: &B::Device) {
    let mut pipeline = open::<B>(golden, case, device);
    let request = ContinuationRequest {
        video: pixels(case, "video"),
        size: Some(size(case)),
        prompts: prompts(case),
        negative_prompt: negative(case),
        frames: Some(case.usize_param("num_frames")),
        cond_frames: Some(case.usize_param("num_cond_frames")),
        sampling: sampling(case),
        latent_draw: latent_draw(case),
        kv_cache: case.flag("use_kv_cache"),
        offload_kv_cache: false,
        enhance_hf: Some(case.flag("enhance_hf")),
    };
    let mut recorder = Recorder::of(&mut pipeline);
    let made = pipeline
        .continue_video(&request, &mut GivenNoise::new(case), &mut recorder)
        .unwrap();
    let video = pipeline
        .decode_pixels(made.latents.clone(), &mut recorder)
        .unwrap();
    compare(case, made, recorder, video);
}

pub(crate) fn refine<B: KernelBackend>(golden: &Golden, case: &mut Case, device: &B::Device) {
    let mut pipeline = open::<B>(golden, case, device);
    let frames = case.usize_param("num_cond_frames");
    let condition = case.param("cond").as_str().map(|kind| RefineCondition {
        pixels: pixels(case, &format!("cond_{kind}")),
        frames,
    });
    let request = RefineRequest {
        video: pixels(case, "stage1_video"),
        prompt: prompts(case).remove(0),
        size: Some(size(case)),
        spatial_only: case.flag("spatial_refine_only"),
        condition,
        steps: case.usize_param("num_inference_steps"),
        threshold: case.param("t_thresh").as_f64().unwrap() as f32,
        max_sequence_length: case.usize_param("max_sequence_length"),
        latent_draw: latent_draw(case),
        cache: None,
    };
    let mut recorder = Recorder::of(&mut pipeline);
    let refined = pipeline
        .refine(&request, &mut GivenNoise::new(case), &mut recorder)
        .unwrap();
    let video = pipeline
        .decode_pixels(refined.generated.latents.clone(), &mut recorder)
        .unwrap()
        .narrow(2, refined.first_frame, refined.frames);
    compare(case, refined.generated, recorder, video);
}
