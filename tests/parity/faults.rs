//! A device that fails: nothing that it made afterwards is used, and the error says at what it was.
//!
//! The CPU fails on demand, at each stage of each pipeline; Vulkan, in software, for want of room.
#![cfg(feature = "cpu")]
#![allow(missing_docs, clippy::unwrap_used)]

#[cfg(feature = "wgpu")]
mod limited;

use std::path::PathBuf;

use burn_flex::{Flex, FlexDevice};
use longcat_kernels::KernelDevice;
use longcat_runtime::{DeviceSpec, DynPipeline, RuntimeOptions, open_pipeline};
use longcat_tests::Golden;
use longcat_video::{
    CFG_STEP_LORA, ContinuationRequest, DeviceFault, ImageToVideoRequest, Latents,
    LongVideoRequest, Observer, Pipeline, PipelineOptions, PixelFrames, Precision, RefineRequest,
    Sampling, SeededNoise, Silent, Stage, TextToVideoRequest, VideoError, VideoSize,
};

const SIZE: VideoSize = VideoSize {
    width: 64,
    height: 64,
};
const STEPS: usize = 3;

fn checkpoint() -> PathBuf {
    Golden::open().root().join("checkpoints/tiny")
}

fn pipeline() -> Box<dyn DynPipeline> {
    let options = RuntimeOptions::default();
    open_pipeline(&DeviceSpec::Cpu.into(), checkpoint(), &options).unwrap()
}

/// From here on, what this thread asks of the CPU fails.
fn fail() {
    let fault = DeviceFault::new("BufferTooBig { size: 5368709120, backtrace: none }");
    Flex::keep_fault(&FlexDevice, fault);
}

/// When the device fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    /// As the stage of this name begins, for the so manieth time.
    Stage(&'static str, usize),
    /// After the step of this number, from 0.
    Step(usize),
}

struct Failing {
    when: When,
    seen: usize,
    latents: usize,
}

impl Observer for Failing {
    fn stage(&mut self, name: &'static str) {
        if let When::Stage(stage, number) = self.when
            && stage == name
        {
            self.seen += 1;
            if self.seen == number {
                fail();
            }
        }
    }

    fn step(&mut self, step: usize, _total: usize, _timestep: f32) {
        if self.when == When::Step(step) {
            fail();
        }
    }

    fn latents(&mut self, _latents: &Latents) -> Result<(), VideoError> {
        self.latents += 1;
        Ok(())
    }
}

/// Runs a request on a device that fails; it must name the stage, and tell of so many latents before.
///
/// On a thread of its own, whose CPU is not that of other tests.
fn fails<T>(
    when: When,
    expected: Stage,
    latents: usize,
    run: impl FnOnce(&mut dyn DynPipeline, &mut dyn Observer) -> Result<T, VideoError> + Send,
) {
    fails_in(pipeline, when, (expected, latents), run);
}

/// The same in a pipeline that is opened so.
fn fails_in<T>(
    open: impl FnOnce() -> Box<dyn DynPipeline> + Send,
    when: When,
    (expected, latents): (Stage, usize),
    run: impl FnOnce(&mut dyn DynPipeline, &mut dyn Observer) -> Result<T, VideoError> + Send,
) {
    let run = || {
        let mut observer = Failing {
            when,
            seen: 0,
            latents: 0,
        };
        let result = run(&mut *open(), &mut observer);
        let error = result.map(|_| ()).unwrap_err();
        let message = error.to_string();
        let VideoError::Device(error) = error else {
            panic!("{when:?}: {message}");
        };
        assert_eq!(
            (error.stage, observer.latents),
            (expected, latents),
            "{when:?}"
        );
        assert_eq!(error.fault.requested(), Some(5 << 30));
        for word in ["5.00 GiB", &expected.to_string()] {
            assert!(message.contains(word), "{when:?}: {message}");
        }
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
}

fn sampling() -> Sampling {
    Sampling {
        steps: STEPS,
        ..Sampling::standard()
    }
}

/// A moving pattern.
fn clip(frames: usize) -> PixelFrames {
    let bytes = (0..frames * 64 * 64 * 3).map(|i| (i * 7 % 251) as u8);
    PixelFrames::from_bytes(bytes.collect(), SIZE).unwrap()
}

const fn step(step: usize) -> Stage {
    Stage::Denoising { step, total: STEPS }
}

#[test]
fn text_to_video_names_the_stage() {
    for (when, expected, latents) in [
        (When::Stage("text", 1), Stage::LoadingTextEncoder, 0),
        (When::Stage("transformer", 1), Stage::LoadingTransformer, 0),
        (When::Stage("denoise", 1), step(1), 0),
        (When::Step(0), step(2), 0),
        (When::Step(STEPS - 1), Stage::Saving, 0),
        (When::Stage("decode", 1), Stage::Decoding, 1),
    ] {
        fails(when, expected, latents, |pipeline, observer| {
            let request = TextToVideoRequest {
                size: Some(SIZE),
                frames: Some(5),
                sampling: sampling(),
                ..TextToVideoRequest::new("ring")
            };
            let made = pipeline.text_to_video(&request, &mut SeededNoise::new(0), observer)?;
            pipeline.decode(&made, observer)
        });
    }
}

/// Matrices that are packed, that live in host memory, and both.
const KEPT: [(Precision, Option<usize>); 3] = [
    (Precision::Fp8, None),
    (Precision::Stored, Some(0)),
    (Precision::Int8, Some(0)),
];

/// A pipeline with so many blocks of the transformer on the device.
fn kept((precision, resident_blocks): (Precision, Option<usize>)) -> Box<dyn DynPipeline> {
    let options = PipelineOptions {
        precision,
        resident_blocks,
        ..PipelineOptions::default()
    };
    Box::new(Pipeline::<Flex>::open(checkpoint(), options, &FlexDevice).unwrap())
}

#[test]
fn packed_and_streamed_models_name_the_stage() {
    for model in KEPT {
        for (when, expected, latents) in [
            (When::Stage("text", 1), Stage::LoadingTextEncoder, 0),
            (When::Stage("transformer", 1), Stage::LoadingTransformer, 0),
            (When::Stage("denoise", 1), step(1), 0),
            (When::Step(0), step(2), 0),
            (When::Step(STEPS - 1), Stage::Saving, 0),
            (When::Stage("decode", 1), Stage::Decoding, 1),
        ] {
            let open = || kept(model);
            fails_in(open, when, (expected, latents), |pipeline, observer| {
                let request = TextToVideoRequest {
                    size: Some(SIZE),
                    frames: Some(5),
                    sampling: sampling(),
                    ..TextToVideoRequest::new("ring")
                };
                let made = pipeline.text_to_video(&request, &mut SeededNoise::new(0), observer)?;
                pipeline.decode(&made, observer)
            });
        }
        let caching = (Stage::CachingCondition, 0);
        let open = || kept(model);
        fails_in(
            open,
            When::Stage("denoise", 1),
            caching,
            |pipeline, observer| {
                let request = ContinuationRequest {
                    size: Some(SIZE),
                    frames: Some(9),
                    sampling: sampling(),
                    ..ContinuationRequest::new(clip(5), "ring")
                };
                pipeline.continue_video(&request, &mut SeededNoise::new(0), observer)
            },
        );
        for (when, expected, latents) in [
            (When::Stage("transformer", 1), Stage::LoadingTransformer, 0),
            (When::Stage("decode", 1), Stage::Decoding, 1),
        ] {
            let open = || kept(model);
            fails_in(open, when, (expected, latents), |pipeline, observer| {
                let request = RefineRequest {
                    size: Some(SIZE),
                    steps: 2,
                    ..RefineRequest::new(clip(2), "ring")
                };
                pipeline.refine(&request, &mut SeededNoise::new(0), observer)
            });
        }
    }
}

#[test]
fn pipelines_with_frames_name_the_stage() {
    fails(
        When::Stage("encode", 1),
        Stage::EncodingFrames,
        0,
        |pipeline, observer| {
            let request = ImageToVideoRequest {
                size: Some(SIZE),
                frames: Some(5),
                sampling: sampling(),
                ..ImageToVideoRequest::new(clip(1), "ring")
            };
            pipeline.image_to_video(&request, &mut SeededNoise::new(0), observer)
        },
    );
    for (when, expected) in [
        (When::Stage("encode", 1), Stage::EncodingFrames),
        (When::Stage("denoise", 1), Stage::CachingCondition),
    ] {
        fails(when, expected, 0, |pipeline, observer| {
            let request = ContinuationRequest {
                size: Some(SIZE),
                frames: Some(9),
                sampling: sampling(),
                ..ContinuationRequest::new(clip(5), "ring")
            };
            pipeline.continue_video(&request, &mut SeededNoise::new(0), observer)
        });
    }
    for (when, expected, latents) in [
        (When::Stage("text", 1), Stage::LoadingTextEncoder, 0),
        (When::Stage("encode", 1), Stage::EncodingFrames, 0),
        (When::Stage("transformer", 1), Stage::LoadingTransformer, 0),
        (When::Stage("decode", 1), Stage::Decoding, 1),
    ] {
        fails(when, expected, latents, |pipeline, observer| {
            let request = RefineRequest {
                size: Some(SIZE),
                steps: 2,
                ..RefineRequest::new(clip(2), "ring")
            };
            pipeline.refine(&request, &mut SeededNoise::new(0), observer)
        });
    }
}

fn thirteen_frames(pipeline: &mut dyn DynPipeline, observer: &mut dyn Observer) -> Latents {
    let request = TextToVideoRequest {
        size: Some(SIZE),
        frames: Some(13),
        sampling: sampling(),
        ..TextToVideoRequest::new("ring")
    };
    let made = pipeline.text_to_video(&request, &mut SeededNoise::new(0), observer);
    made.unwrap()
}

#[test]
fn frames_come_as_they_are_decoded() {
    let mut pipeline = pipeline();
    let made = thirteen_frames(&mut *pipeline, &mut Silent);
    let whole = pipeline.decode(&made, &mut Silent).unwrap();
    let (mut bytes, mut lengths) = (Vec::new(), Vec::new());
    let mut take = |videos: Vec<PixelFrames>| {
        lengths.push(videos[0].len());
        bytes.extend_from_slice(videos[0].as_bytes());
        Ok(())
    };
    pipeline.decode_each(&made, &mut Silent, &mut take).unwrap();
    assert_eq!(lengths, [1, 4, 4, 4]);
    assert_eq!(pipeline.decoded_shape(&made).unwrap(), (SIZE, 13));
    assert!(bytes == whole[0].as_bytes(), "other pixels");
}

#[test]
fn frames_are_handed_on_only_while_the_device_is_sound() {
    fails(
        When::Stage("decode", 1),
        Stage::Decoding,
        1,
        |pipeline, observer| {
            let made = thirteen_frames(pipeline, observer);
            pipeline.decode_each(&made, observer, &mut |_| panic!("pixels of nothing"))
        },
    );
    // While the first frames are written.
    fails(
        When::Step(STEPS),
        Stage::Decoding,
        1,
        |pipeline, observer| {
            let made = thirteen_frames(pipeline, observer);
            let mut pieces = 0;
            let result = pipeline.decode_each(&made, observer, &mut |_| {
                pieces += 1;
                fail();
                Ok(())
            });
            assert_eq!(pieces, 1);
            result
        },
    );
}

#[test]
fn segments_before_the_failure_are_kept_and_right() {
    let dir = tempfile::tempdir().unwrap();
    let request = LongVideoRequest {
        size: Some(SIZE),
        frames: Some(9),
        cond_frames: Some(5),
        sampling: sampling(),
        ..LongVideoRequest::new(["ring", "star"])
    };
    let (whole, work) = (dir.path().join("whole"), dir.path().join("work"));
    let expected = pipeline()
        .long_video(&request, &whole, &mut Silent)
        .unwrap();
    fails(
        When::Stage("decode", 2),
        Stage::Decoding,
        2,
        |pipeline, observer| pipeline.long_video(&request, &work, observer),
    );
    let files = std::fs::read_dir(&work)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut files: Vec<_> = files.filter_map(|name| name.into_string().ok()).collect();
    files.sort();
    assert_eq!(files, ["segment-0000.safetensors", "settings.txt"]);
    let resumed = pipeline().long_video(&request, &work, &mut Silent).unwrap();
    let clips = |video: longcat_video::LongVideo| -> Vec<PixelFrames> {
        video.clips().map(Result::unwrap).collect()
    };
    assert_eq!(clips(resumed), clips(expected));
}

#[test]
fn merging_names_the_stage() {
    let merge = |requantize: bool| {
        move |pipeline: &mut dyn DynPipeline,
              observer: &mut dyn Observer|
              -> Result<(), VideoError> {
            let adapter = pipeline.checkpoint().bundled_lora(CFG_STEP_LORA)?;
            pipeline.load_lora(CFG_STEP_LORA, &adapter)?;
            pipeline.use_loras(&[(CFG_STEP_LORA, 1.0)])?;
            let request = TextToVideoRequest {
                size: Some(SIZE),
                frames: Some(1),
                sampling: sampling(),
                ..TextToVideoRequest::new("ring")
            };
            // Merging is put off until the transformer is loaded.
            pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
            observer.step(0, 1, 0.0);
            match requantize {
                true => pipeline.merge_loras_requantized(),
                false => pipeline.merge_loras(),
            }
        }
    };
    let merging = (Stage::MergingAdapters, 0);
    fails_in(pipeline, When::Step(0), merging, merge(false));
    for model in KEPT {
        fails_in(|| kept(model), When::Step(0), merging, merge(true));
    }
}
