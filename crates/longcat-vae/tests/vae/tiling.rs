//! Tiles: what they change, and that they are put together as described.

use std::ops::{ControlFlow, Range};

use burn::tensor::{DType, Tensor};
use burn_flex::{Flex, FlexDevice};
use longcat_vae::{ChunkProgress, Tiling, VaeError, VaeOptions, WanVae};

use crate::draws::random;
use crate::golden::{cases, relative_error, values};

fn go_on(_: ChunkProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn tiny() -> WanVae<Flex> {
    let dir = cases("vae_decode")[0].vae_dir();
    WanVae::load(&dir, DType::F32, &FlexDevice).unwrap()
}

fn tiles(tile: usize, stride: usize) -> VaeOptions {
    VaeOptions {
        tiling: Some(Tiling {
            tile: [tile; 2],
            stride: [stride; 2],
        }),
        ..VaeOptions::default()
    }
}

#[test]
fn a_picture_no_larger_than_a_tile_is_not_cut() {
    let (vae, options) = (tiny(), tiles(64, 48));
    let latents = random([1, 16, 2, 8, 8]);
    let whole = vae.decode(latents.clone()).unwrap();
    let tiled = vae.decode_with(latents, &options, &mut go_on).unwrap();
    assert_eq!(values(whole), values(tiled));

    let video = random([1, 3, 5, 64, 40]);
    let whole = vae.encode(video.clone()).unwrap();
    let tiled = vae.encode_with(video, &options, &mut go_on).unwrap();
    assert_eq!(values(whole.mean), values(tiled.mean));
    assert_eq!(values(whole.logvar), values(tiled.logvar));
}

/// Cross-fades pictures `[.., H, W]` that start at `starts` along one axis, value by value.
fn blend_at(position: usize, spans: &[Range<usize>], tile: &dyn Fn(usize, usize) -> f64) -> f64 {
    let mut value = tile(0, position.min(spans[0].end - 1));
    for (i, span) in spans.iter().enumerate().skip(1) {
        if !span.contains(&position) {
            continue;
        }
        let next = tile(i, position - span.start);
        let end = spans[i - 1].end;
        value = if position < end {
            let ramp = (position - span.start) as f64 + 0.5;
            let weight = ramp / (end - span.start) as f64;
            value * (1.0 - weight) + next * weight
        } else {
            next
        };
    }
    value
}

#[test]
fn tiles_are_decoded_alone_and_cross_faded() {
    let vae = tiny();
    // Tiles of 8 latents, at most 5 apart: two over the height of 10, three over the width of 14.
    let (rows, columns) = ([0..8, 2..10], [0..8, 3..11, 6..14]);
    let latents = random([1, 16, 2, 10, 14]);
    let alone: Vec<Vec<Vec<f32>>> = rows
        .iter()
        .map(|r| {
            let decode = |c: &Range<usize>| {
                let tile = latents.clone().narrow(3, r.start, 8).narrow(4, c.start, 8);
                values(vae.decode(tile).unwrap())
            };
            columns.iter().map(decode).collect()
        })
        .collect();
    let pixels = |spans: &[Range<usize>]| -> Vec<Range<usize>> {
        spans.iter().map(|s| s.start * 8..s.end * 8).collect()
    };
    let (rows, columns) = (pixels(&rows), pixels(&columns));
    let mut expected = Vec::new();
    for plane in 0..3 * 5 {
        for y in 0..80 {
            for x in 0..112 {
                let value = blend_at(y, &rows, &|row, y| {
                    blend_at(x, &columns, &|column, x| {
                        f64::from(alone[row][column][(plane * 64 + y) * 64 + x])
                    })
                });
                expected.push(value as f32);
            }
        }
    }
    let options = tiles(64, 40);
    let tiled = vae.decode_with(latents.clone(), &options, &mut go_on);
    let error = relative_error(&values(tiled.unwrap()), &expected);
    assert!(error < 1e-6, "{error:e}");

    let chunks = vae.decode_chunks(latents, &options).unwrap().collect();
    let error = relative_error(&values(Tensor::cat(chunks, 2)), &expected);
    assert!(error < 1e-6, "{error:e}");
}

#[test]
fn overlap_and_size_bring_tiles_closer_to_the_whole_picture() {
    // The attention sees whole pictures, so tiles never agree exactly; least so with random weights.
    let vae = tiny();
    let latents = random([1, 16, 1, 16, 16]);
    let whole = values(vae.decode(latents.clone()).unwrap());
    let decode_error = |tile, stride| {
        let tiled = vae.decode_with(latents.clone(), &tiles(tile, stride), &mut go_on);
        relative_error(&values(tiled.unwrap()), &whole)
    };
    let video = random([1, 3, 1, 128, 128]);
    let whole = values(vae.encode(video.clone()).unwrap().mean);
    let encode_error = |tile, stride| {
        let tiled = vae.encode_with(video.clone(), &tiles(tile, stride), &mut go_on);
        relative_error(&values(tiled.unwrap().mean), &whole)
    };
    let cuts = [(64, 64), (64, 32), (96, 64)];
    for errors in [
        cuts.map(|(tile, stride)| decode_error(tile, stride)),
        cuts.map(|(tile, stride)| encode_error(tile, stride)),
    ] {
        println!("apart, overlapping, larger: {errors:.3?}");
        let [apart, overlapping, larger] = errors;
        assert!(larger < 0.8 * overlapping && overlapping < 0.8 * apart);
    }
}

#[test]
fn frames_that_arrive_one_by_one_are_tiled_the_same() {
    let (vae, options) = (tiny(), tiles(32, 24));
    let video = random([1, 3, 9, 48, 64]);
    let whole = vae
        .encode_with(video.clone(), &options, &mut go_on)
        .unwrap();
    let mut stream = vae.encode_stream([48, 64], &options).unwrap();
    for t in 0..9 {
        stream.push(video.clone().narrow(2, t, 1)).unwrap();
    }
    let streamed = stream.finish().unwrap();
    let error = relative_error(&values(streamed.mean), &values(whole.mean));
    assert!(error < 1e-6, "{error:e}");
}

#[test]
fn progress_counts_every_chunk_of_every_tile_and_may_stop() {
    let (vae, options) = (tiny(), tiles(32, 24));
    let mut seen = Vec::new();
    let mut watch = |progress: ChunkProgress| {
        seen.push((progress.done, progress.total));
        ControlFlow::Continue(())
    };
    // 4 tiles of 32 pixels over 40x40, 3 latent frames each.
    let latents = random([1, 16, 3, 5, 5]);
    vae.decode_with(latents.clone(), &options, &mut watch)
        .unwrap();
    let all: Vec<_> = (1..=12).map(|done| (done, 12)).collect();
    assert_eq!(seen, all);

    let mut stop = |progress: ChunkProgress| match progress.done {
        2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let stopped = vae.decode_with(latents, &options, &mut stop);
    assert!(matches!(stopped, Err(VaeError::Cancelled)));
    let stopped = vae.encode_with(random([1, 3, 9, 32, 32]), &options, &mut stop);
    assert!(matches!(stopped, Err(VaeError::Cancelled)));
}
