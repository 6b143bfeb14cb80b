//! Prompts that were encoded are not encoded again.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use burn_flex::{Flex, FlexDevice};
use longcat_builtin::builtin_checkpoint;
use longcat_video::{
    LatentDraw, Pipeline, PipelineOptions, PixelFrames, RefineRequest, Sampling, SeededNoise,
    Silent, TextToVideoRequest, VideoSize,
};

const STAR: &str = "a green star moves up";

/// The latents of a short video in two guided steps, and its frames.
fn first_stage(pipeline: &mut Pipeline<Flex>) -> (Vec<f32>, PixelFrames) {
    let request = TextToVideoRequest {
        frames: Some(5),
        sampling: Sampling {
            steps: 2,
            ..Sampling::standard()
        },
        ..TextToVideoRequest::new(STAR)
    };
    let made = pipeline
        .text_to_video(&request, &mut SeededNoise::new(3), &mut Silent)
        .unwrap();
    let latents = made.latents.clone().into_data().into_vec().unwrap();
    let mut videos = pipeline.decode(made.latents, &mut Silent).unwrap();
    (latents, videos.swap_remove(0))
}

fn refined(pipeline: &mut Pipeline<Flex>, video: &PixelFrames) -> Vec<f32> {
    let request = RefineRequest {
        size: Some(VideoSize::new(64, 64)),
        steps: 2,
        latent_draw: LatentDraw::Mode,
        ..RefineRequest::new(video.clone(), STAR)
    };
    let made = pipeline.refine(&request, &mut SeededNoise::new(9), &mut Silent);
    made.unwrap()
        .generated
        .latents
        .into_data()
        .into_vec()
        .unwrap()
}

#[test]
fn a_second_stage_needs_no_text_encoder() {
    let whole = builtin_checkpoint().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("model");
    copy(Path::new(&whole), &other);

    let open = |root: &Path| {
        Pipeline::<Flex>::open(root, PipelineOptions::default(), &FlexDevice).unwrap()
    };
    let mut pipeline = open(&other);
    let (latents, video) = first_stage(&mut pipeline);
    fs::remove_dir_all(other.join("text_encoder")).unwrap();
    // The prompt of the second stage is half of the batch that the first one encoded.
    let far = refined(&mut open(&whole), &video)
        .into_iter()
        .zip(refined(&mut pipeline, &video))
        .map(|(expected, got)| (expected - got).abs())
        .fold(0.0, f32::max);
    assert!(far < 1e-5, "{far}");
    assert_eq!(first_stage(&mut pipeline).0, latents);
    let new = TextToVideoRequest::new("a red circle moves right");
    let unknown = pipeline.text_to_video(&new, &mut SeededNoise::new(3), &mut Silent);
    let message = unknown.unwrap_err().to_string();
    assert!(message.contains("text_encoder"), "{message}");
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}
