//! Gradients reach every weight, are right, and do not depend on how a clip is cut in time.

use std::ops::ControlFlow;

use burn::backend::Autodiff;
use burn::module::{AutodiffModule, Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, Optimizer, SgdConfig};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use burn_flex::{Flex, FlexDevice};
use longcat_kernels::KernelBackend;
use longcat_vae::{VaeOptions, WanVae, WanVaeConfig};

use crate::draws;

type Training = Autodiff<Flex>;

fn config() -> WanVaeConfig {
    WanVaeConfig {
        base_dim: 4,
        decoder_base_dim: 4,
        z_dim: 2,
        dim_mult: vec![1, 2],
        num_res_blocks: 1,
        temperal_downsample: vec![true],
        latents_mean: vec![0.1, -0.2],
        latents_std: vec![0.5, 2.0],
        in_channels: 3,
        out_channels: 3,
        scale_factor_spatial: 2,
        scale_factor_temporal: 2,
        colours: None,
    }
}

/// A clip, noise for its latents, and the weights of the pixels in the loss.
struct Sample<B: Backend> {
    video: Tensor<B, 5>,
    noise: Tensor<B, 5>,
    weights: Tensor<B, 5>,
}

impl<B: KernelBackend> Sample<B> {
    /// A smooth function of everything that is decoded from a drawn latent.
    fn loss(&self, vae: &WanVae<B>, latent_frames_per_chunk: usize) -> Tensor<B, 1> {
        let options = VaeOptions {
            latent_frames_per_chunk,
            clamp: false,
            ..VaeOptions::default()
        };
        let go_on = &mut |_| ControlFlow::Continue(());
        let posterior = vae
            .encode_with(self.video.clone(), &options, go_on)
            .unwrap();
        let latents = vae.normalize(posterior.sample(self.noise.clone()));
        let decoded = vae.decode_with(latents, &options, go_on).unwrap();
        (decoded * self.weights.clone()).sum()
    }
}

/// A VAE and a sample, the same in every run: the loss of a very bent draw has no slope that f32
/// can measure.
struct Drawn {
    vae: WanVae<Training>,
    sample: Sample<Training>,
    inner: Sample<Flex>,
}

fn draw(video: [usize; 5], latents: [usize; 5]) -> Drawn {
    let _guard = draws::alone();
    Flex::seed(&FlexDevice, 7);
    let vae = draws::initialized(&config());
    let random = draws::uniform;
    let inner = Sample {
        video: random(video),
        noise: random(latents),
        weights: random(video),
    };
    let sample = Sample {
        video: Tensor::from_inner(inner.video.clone()),
        noise: Tensor::from_inner(inner.noise.clone()),
        weights: Tensor::from_inner(inner.weights.clone()),
    };
    Drawn { vae, sample, inner }
}

fn gradients(vae: &WanVae<Training>, sample: &Sample<Training>, chunk: usize) -> GradientsParams {
    GradientsParams::from_grads(sample.loss(vae, chunk).backward(), vae)
}

/// All gradients in one list; fails where a weight has none.
struct Flatten<'a> {
    gradients: &'a GradientsParams,
    values: Vec<f64>,
}

impl ModuleVisitor<Training> for Flatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Training, D>>) {
        let gradient = self.gradients.get::<Flex, D>(param.id).unwrap();
        let data = gradient.cast(DType::F32).into_data();
        assert!(data.iter::<f32>().all(f32::is_finite));
        assert!(data.iter::<f32>().any(|v| v != 0.0), "{:?}", data.shape);
        self.values.extend(data.iter::<f32>().map(f64::from));
    }
}

fn flatten(vae: &WanVae<Training>, gradients: &GradientsParams) -> Vec<f64> {
    let mut flatten = Flatten {
        gradients,
        values: Vec::new(),
    };
    vae.visit(&mut flatten);
    flatten.values
}

#[test]
fn gradients_are_the_slope_of_the_loss() {
    let Drawn { vae, sample, inner } = draw([1, 3, 5, 8, 6], [1, 2, 3, 4, 3]);
    let gradients = || gradients(&vae, &sample, 1);
    let slope: f64 = flatten(&vae, &gradients()).iter().map(|g| g * g).sum();

    let loss_at = |distance: f64| -> f64 {
        let moved = SgdConfig::new()
            .init()
            .step(-distance, vae.clone(), gradients());
        inner.loss(&moved.valid(), 1).into_scalar().into()
    };
    // Far less than the weights, and far more than f32 can tell apart.
    let step = 3e-4 / slope.sqrt();
    let measured = (loss_at(step) - loss_at(-step)) / (2.0 * step);
    println!("|gradient|² {slope:.5e}, slope of the loss {measured:.5e}");
    assert!((measured / slope - 1.0).abs() < 2e-2, "{measured} {slope}");
}

#[test]
fn a_cut_in_time_does_not_change_the_gradients() {
    let Drawn { vae, sample, .. } = draw([2, 3, 7, 6, 8], [2, 2, 4, 3, 4]);
    let whole = flatten(&vae, &gradients(&vae, &sample, usize::MAX));
    for chunk in [1, 2] {
        let cut = flatten(&vae, &gradients(&vae, &sample, chunk));
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let error = square(&mut whole.iter().zip(&cut).map(|(a, b)| a - b));
        let error = (error / square(&mut whole.iter().copied())).sqrt();
        assert!(error < 1e-4, "{chunk}: {error:e}");
    }
}
