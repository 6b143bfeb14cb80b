//! Previews of the built-in model: the colours of its latents are those that fit its VAE.

use burn_flex::{Flex, FlexDevice};
use longcat_builtin::builtin_checkpoint;
use longcat_miniature::{DatasetOptions, Raster, ShapesDataset, Split};
use longcat_video::{
    Latents, Pipeline, PipelineOptions, PixelFrames, VideoSize, fit_latent_colours, mean_colours,
};

/// Clips as the VAE decodes them, with their latents.
fn decoded(
    pipeline: &mut Pipeline<Flex>,
    split: Split,
    count: usize,
) -> Vec<(Latents, PixelFrames)> {
    let vae = pipeline.vae().unwrap();
    let raster = Raster::default();
    let dataset = ShapesDataset::new(5, split, DatasetOptions::default());
    let samples = dataset.iter().take(count);
    let clips = samples.map(|sample| {
        let size = VideoSize::new(raster.side, raster.side);
        let clip = PixelFrames::from_bytes(sample.render(&raster).into_data(), size).unwrap();
        let posterior = vae.encode(clip.to_tensor(&FlexDevice)).unwrap();
        let latents = vae.normalize(posterior.mean);
        let video = vae.decode(latents.clone()).unwrap();
        let video = PixelFrames::from_tensor(video).unwrap().swap_remove(0);
        (Latents::from_tensor(latents).unwrap(), video)
    });
    clips.collect()
}

#[test]
fn colours_of_the_built_in_vae_are_fitted_to_it() {
    let checkpoint = builtin_checkpoint().unwrap();
    let options = PipelineOptions::default();
    let mut pipeline = Pipeline::open(checkpoint, options, &FlexDevice).unwrap();
    let kept = pipeline.vae_config().latent_colours().unwrap();

    let fitted = fit_latent_colours(&decoded(&mut pipeline, Split::Train, 64)).unwrap();
    let of = |colours: &longcat_video::LatentColours| -> Vec<f32> {
        let factors = colours.factors.iter().flatten();
        factors.chain(&colours.bias).copied().collect()
    };
    let pairs = of(&kept).into_iter().zip(of(&fitted));
    let furthest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let json = serde_json::to_string(&fitted).unwrap();
    assert!(furthest < 2e-3, "{furthest} apart; fitted: {json}");

    // Combinations of shape, colour and motion that the fit has not seen.
    let mut squares = Vec::new();
    for (latents, video) in decoded(&mut pipeline, Split::HeldOut, 16) {
        let preview = latents.preview(&kept).unwrap();
        let [_, _, frames, height, width] = latents.dims();
        let expected = mean_colours(&video, [frames, height, width]).unwrap();
        let pairs = preview.as_bytes().iter().zip(expected);
        squares.extend(pairs.map(|(a, b)| (f64::from(*a) / 255.0 - (b + 1.0) / 2.0).powi(2)));
    }
    let mean = squares.iter().sum::<f64>() / squares.len() as f64;
    let near = -10.0 * mean.log10();
    assert!(near >= 15.0, "{near:.1} dB");
    println!("previews are {near:.1} dB from decoded frames at their resolution");
}
