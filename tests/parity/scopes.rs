//! Adapters that act in some steps: what a loop by hand makes, which switches them itself.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use burn::tensor::{DType, Tensor};
use burn_flex::{Flex, FlexDevice};
use longcat_builtin::builtin_checkpoint;
use longcat_dit::{LongCatTransformer, lora_targets};
use longcat_lora::{Adapter, LoraOptions, LoraRegistry};
use longcat_video::{
    CFG_STEP_LORA, ContinuationRequest, LatentDraw, Pipeline, PipelineOptions, Sampling,
    SeededNoise, Silent, TextToVideoRequest, VideoError, VideoRequest,
};

const STRENGTH: f64 = 0.7;

/// The built-in model with its distilled adapter under this scope.
fn pipeline(scope: &str) -> Pipeline<Flex> {
    let checkpoint = builtin_checkpoint().unwrap();
    let mut pipeline =
        Pipeline::open(&checkpoint, PipelineOptions::default(), &FlexDevice).unwrap();
    let adapter = pipeline.checkpoint().bundled_lora(CFG_STEP_LORA).unwrap();
    let scope = scope.parse().unwrap();
    pipeline.load_scoped_lora("fast", &adapter, &scope).unwrap();
    pipeline.use_loras(&[("fast", STRENGTH)]).unwrap();
    pipeline
}

fn request() -> TextToVideoRequest {
    TextToVideoRequest {
        frames: Some(5),
        sampling: sampling(6),
        ..TextToVideoRequest::new("a green star moves up")
    }
}

fn sampling(steps: usize) -> Sampling {
    Sampling {
        steps,
        guidance: 1.0,
        ..Sampling::standard()
    }
}

fn values<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f32> {
    tensor.into_data().into_vec().unwrap()
}

#[test]
fn a_run_in_two_parts_is_that_of_switching_by_hand() {
    let root = builtin_checkpoint().unwrap();
    let (mut model, _) =
        LongCatTransformer::<Flex>::load(&root.join("dit"), Some(DType::F32), &FlexDevice).unwrap();
    let path = root
        .join("lora")
        .join(format!("{CFG_STEP_LORA}.safetensors"));
    let adapter = Adapter::read(&path, lora_targets()).unwrap();
    let options = LoraOptions {
        strength: STRENGTH,
        dtype: Some(DType::F32),
    };
    model.load_adapter("fast", &adapter, options).unwrap();
    for (scope, acts) in [
        ("@steps.0-50%", [true, true, true, false, false, false]),
        ("@steps.50-100%", [false, false, false, true, true, true]),
        ("@steps.2-3", [false, true, true, false, false, false]),
    ] {
        let mut pipeline = pipeline(scope);
        let start = Arc::new(Mutex::new(None));
        let seen = start.clone();
        pipeline.on_step(move |event| {
            seen.lock().unwrap().get_or_insert(event.input.clone());
        });
        let made = pipeline
            .text_to_video(&request(), &mut SeededNoise::new(3), &mut Silent)
            .unwrap();

        let mut latents: Tensor<Flex, 5> = start.lock().unwrap().take().unwrap();
        let frames = latents.dims()[2];
        for (step, acts) in acts.into_iter().enumerate() {
            model.set_adapter_enabled("fast", acts).unwrap();
            let time = made.schedule.timesteps[step];
            let times = Tensor::full([1, frames], time, &FlexDevice);
            let raw = model
                .forward(latents.clone(), times, &made.text, 0)
                .unwrap();
            latents = made.schedule.step(latents, raw.neg(), step);
        }
        assert_eq!(values(latents), values(made.latents), "{scope}");
    }
}

#[test]
fn cached_conditions_are_those_of_the_adapters_that_act() {
    let mut pipeline = pipeline("@steps.50-100%");
    let made = pipeline
        .text_to_video(&request(), &mut SeededNoise::new(3), &mut Silent)
        .unwrap();
    let video = pipeline
        .decode(made.latents, &mut Silent)
        .unwrap()
        .swap_remove(0);
    let mut go_on = |kv_cache| {
        let request = ContinuationRequest {
            frames: Some(9),
            cond_frames: Some(5),
            sampling: sampling(4),
            latent_draw: LatentDraw::Mode,
            kv_cache,
            enhance_hf: Some(false),
            ..ContinuationRequest::new(video.clone(), "the star turns")
        };
        let made = pipeline.continue_video(&request, &mut SeededNoise::new(4), &mut Silent);
        values(made.unwrap().latents)
    };
    let pairs = go_on(true).into_iter().zip(go_on(false));
    let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-3, "{difference}");
}

#[test]
fn what_cannot_be_is_refused_before_work() {
    let mut late = pipeline("@steps.7-9");
    let error = late
        .plan(VideoRequest::TextToVideo(&request()))
        .unwrap_err();
    assert!(matches!(error, VideoError::Invalid { .. }), "{error}");
    assert!(error.to_string().contains("@steps.7-9"), "{error}");
    let error = late.merge_loras().unwrap_err();
    assert!(error.to_string().contains("--merge"), "{error}");

    // One adapter twice: at other times or on other layers it may be, together not.
    let path = late.checkpoint().bundled_lora(CFG_STEP_LORA).unwrap();
    for (name, scope, fits) in [
        ("early", "@steps.1-6", true),
        ("same time", "@steps.9", false),
        ("half", "@attn@steps.1-9", false),
    ] {
        let scope = scope.parse().unwrap();
        late.load_scoped_lora(name, &path, &scope).unwrap();
        let both = late.use_loras(&[("fast", 1.0), (name, 0.5)]);
        assert_eq!(both.is_ok(), fits, "{name}");
    }
    let mut part = pipeline("@blocks.0");
    let rest = "@blocks.1-99".parse().unwrap();
    part.load_scoped_lora("rest", &path, &rest).unwrap();
    part.use_loras(&[("fast", 1.0), ("rest", 0.5)]).unwrap();

    let nowhere = "@blocks.4000".parse().unwrap();
    let error = part.load_scoped_lora("no", &path, &nowhere).unwrap_err();
    let message = error.to_string();
    for word in [
        "@blocks.4000",
        "cfg_step_lora",
        "blocks.{i}.attn.qkv",
        "embedders",
    ] {
        assert!(message.contains(word), "{message}");
    }
}
