//! Previews of the built-in model: the colours of its latents are those that fit its VAE.

use burn_flex::{Flex, FlexDevice};
use longcat_builtin::builtin_checkpoint;
use longcat_miniature::{DatasetOptions, Raster, ShapesDataset, Split};
use longcat_video::{
    LatentColours, Latents, Observer, Pipeline, PipelineOptions, PixelFrames, Sampling,
    SeededNoise, Silent, TextToVideoRequest, VideoError, VideoSize, fit_latent_colours,
    mean_colours,
};

fn pipeline() -> Pipeline<Flex> {
    let checkpoint = builtin_checkpoint().unwrap();
    Pipeline::open(checkpoint, PipelineOptions::default(), &FlexDevice).unwrap()
}

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

/// How near two lists of values in [0, 1] are, in dB.
fn psnr(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for (a, b) in pairs {
        sum += (a - b).powi(2);
        count += 1.0;
    }
    -10.0 * (sum / count).log10()
}

fn values(frames: &[PixelFrames]) -> impl Iterator<Item = f64> {
    let bytes = frames.iter().flat_map(PixelFrames::as_bytes);
    bytes.map(|byte| f64::from(*byte) / 255.0)
}

#[test]
fn colours_of_the_built_in_vae_are_fitted_to_it() {
    let mut pipeline = pipeline();
    let kept = pipeline.vae_config().latent_colours().unwrap();
    let fitted = fit_latent_colours(&decoded(&mut pipeline, Split::Train, 12)).unwrap();

    // Combinations of shape, colour and motion that the fit has not seen.
    let others = decoded(&mut pipeline, Split::HeldOut, 4);
    let previews = |colours: &LatentColours| -> Vec<PixelFrames> {
        let latents = others.iter().map(|(latents, _)| latents);
        latents
            .map(|latents| latents.preview(colours).unwrap())
            .collect()
    };
    let (kept, fitted) = (previews(&kept), previews(&fitted));
    let near = psnr(values(&kept).zip(values(&fitted)));
    assert!(
        near >= 24.0,
        "another fit makes other previews: {near:.1} dB"
    );

    let expected = others.iter().flat_map(|(latents, video)| {
        let [_, _, frames, height, width] = latents.dims();
        mean_colours(video, [frames, height, width]).unwrap()
    });
    let near = psnr(values(&kept).zip(expected.map(|value| (value + 1.0) / 2.0)));
    assert!(near >= 15.0, "{near:.1} dB from decoded frames");
}

/// Keeps what it is shown.
#[derive(Default)]
struct Seen {
    previews: Vec<Latents>,
    finished: Option<Latents>,
}

impl Observer for Seen {
    fn wants_previews(&self) -> bool {
        true
    }

    fn preview(&mut self, step: usize, total: usize, latents: &Latents) {
        assert_eq!((step, total), (self.previews.len(), 4));
        self.previews.push(latents.clone());
    }

    fn latents(&mut self, latents: &Latents) -> Result<(), VideoError> {
        self.finished = Some(latents.clone());
        Ok(())
    }
}

#[test]
fn previews_come_nearer_to_the_video_and_do_not_change_it() {
    let mut pipeline = pipeline();
    let request = TextToVideoRequest {
        frames: Some(9),
        sampling: Sampling {
            steps: 4,
            ..Sampling::standard()
        },
        ..TextToVideoRequest::new("a red circle moves right")
    };
    let mut seen = Seen::default();
    let noise = || SeededNoise::new(1);
    pipeline
        .text_to_video(&request, &mut noise(), &mut seen)
        .unwrap();
    let plain = pipeline.text_to_video(&request, &mut noise(), &mut Silent);
    let plain = pipeline.read_latents(plain.unwrap().latents).unwrap();
    assert_eq!(seen.finished.as_ref(), Some(&plain));

    let away = |preview: &Latents| {
        let pairs = preview.values().iter().zip(plain.values());
        pairs.map(|(a, b)| (a - b).abs()).sum::<f32>() / plain.values().len() as f32
    };
    let away: Vec<f32> = seen.previews.iter().map(away).collect();
    assert_eq!(away.len(), 4);
    assert!(away.is_sorted_by(|a, b| a > b), "{away:?}");
    assert!(away[3] < 1e-5, "{away:?}");
}
