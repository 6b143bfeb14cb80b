//! A cut in time changes nothing: golden cases in chunks and portions of other sizes than 1.

use std::ops::ControlFlow;

use burn::tensor::{DType, Tensor};
use burn_flex::{Flex, FlexDevice};
use longcat_vae::{VaeOptions, WanVae};

use crate::golden::{Case, cases, relative_error, values};

fn load(case: &Case, dtype: DType) -> WanVae<Flex> {
    WanVae::load(&case.vae_dir(), dtype, &FlexDevice).unwrap()
}

fn chunks_of(latent_frames_per_chunk: usize) -> VaeOptions {
    VaeOptions {
        latent_frames_per_chunk,
        ..VaeOptions::default()
    }
}

#[test]
fn any_cut_in_time_encodes_the_same() {
    for case in cases("vae_encode") {
        let vae = load(&case, DType::F32);
        let video = case.input("video", &FlexDevice);
        for size in [2, 3, usize::MAX] {
            let posterior = vae
                .encode_with(video.clone(), &chunks_of(size), &mut |_| {
                    ControlFlow::Continue(())
                })
                .unwrap();
            case.check("mean", posterior.mean);
            case.check("logvar", posterior.logvar);
        }
    }
}

#[test]
fn any_cut_in_time_decodes_the_same() {
    for case in cases("vae_decode") {
        let vae = load(&case, DType::F32);
        let latents = case.input("latents", &FlexDevice);
        for size in [2, 3, usize::MAX] {
            let chunks = vae
                .decode_chunks(latents.clone(), &chunks_of(size))
                .unwrap();
            let announced = chunks.len();
            let frames: Vec<_> = chunks.collect();
            assert_eq!(announced, frames.len());
            case.check("video", Tensor::cat(frames, 2));
        }
    }
}

#[test]
fn frames_that_arrive_in_any_portions_encode_the_same() {
    for case in cases("vae_encode") {
        let vae = load(&case, DType::F32);
        let video = case.input("video", &FlexDevice);
        let [_, _, frames, height, width] = video.dims();
        for (portion, per_chunk) in [(1, 1), (3, 1), (2, 2), (7, 2), (frames, 3)] {
            let mut stream = vae
                .encode_stream([height, width], &chunks_of(per_chunk))
                .unwrap();
            for start in (0..frames).step_by(portion) {
                let length = portion.min(frames - start);
                stream.push(video.clone().narrow(2, start, length)).unwrap();
            }
            let posterior = stream.finish().unwrap();
            case.check("mean", posterior.mean);
            case.check("logvar", posterior.logvar);
        }
    }
}

#[test]
fn trailing_frames_are_dropped() {
    let case = &cases("vae_encode")[0];
    let vae = load(case, DType::F32);
    let video = case.input("video", &FlexDevice);
    let first = video.narrow(2, 0, 1);
    let padded = Tensor::cat(vec![first.clone(), first.clone().repeat_dim(2, 3)], 2);
    let (alone, padded) = (vae.encode(first).unwrap(), vae.encode(padded).unwrap());
    assert_eq!(values(alone.mean), values(padded.mean));
}

#[test]
fn half_precision_stays_close() {
    // Weights keep 8 (bf16) or 11 (f16) bits of mantissa.
    for (dtype, bound) in [(DType::BF16, 5e-2), (DType::F16, 5e-3)] {
        for case in cases("vae_decode").iter().take(2) {
            let latents = case.input("latents", &FlexDevice);
            let exact = values(load(case, DType::F32).decode(latents.clone()).unwrap());
            let vae = load(case, dtype);
            assert_eq!(vae.dtype(), dtype);
            let error = relative_error(&values(vae.decode(latents).unwrap()), &exact);
            println!("{}: {dtype:?}: {error:.2e}", case.id);
            assert!(error < bound, "{}: {dtype:?}: {error:e}", case.id);
        }
    }
}
