//! In which numbers weights are multiplied and attention is computed: whether that can be, and what the former
//! changes layer by layer.

use std::collections::BTreeMap;

use burn::prelude::DeviceOps;
use burn::tensor::{DType, Tensor};
use longcat_dit::{DitConfig, LongCatTransformer, TextCondition};
use longcat_kernels::{AttentionNumbers, KernelBackend, Products, Stage};
use longcat_weights::{LoadAs, Precision, StoredType};

use super::{Observer, Pipeline, PipelineOptions, Sampling, TextToVideoRequest};
use crate::VideoError;
use crate::checkpoint::Checkpoint;
use crate::noise::{NoisePurpose, NoiseSource, noise_tensor};

/// Shares of noise that layers are looked at with.
const NOISE: [f32; 3] = [0.9, 0.5, 0.1];

/// Whether a device multiplies so, and the weights are such that it can.
///
/// # Errors
/// [`VideoError::Invalid`] says what is needed.
pub(super) fn check_products<B: KernelBackend>(
    checkpoint: &Checkpoint,
    config: &DitConfig,
    options: &PipelineOptions,
    device: &B::Device,
) -> Result<(), VideoError> {
    if options.products == Products::Dense {
        return Ok(());
    }
    check_multiplies::<B>(device)?;
    let stored = match options.precision {
        Precision::Fp8 => return Ok(()),
        Precision::Stored => checkpoint.transformer_weights()?,
        other => {
            let reason =
                format!("fp8 products need weights in fp8, not {other}; take --precision fp8");
            return Err(VideoError::invalid("products", reason));
        }
    };
    // The first and last blocks may be kept as they are.
    let key = format!("blocks.{}.ffn.w1.weight", config.depth / 2);
    match stored.info(&key) {
        Some(info) if info.dtype == StoredType::FP8 => Ok(()),
        _ => Err(VideoError::invalid(
            "products",
            "fp8 products need weights in fp8 (e4m3), which the checkpoint does not hold; take \
             --precision fp8",
        )),
    }
}

/// Whether a device attends so to heads of this width in this dtype.
///
/// # Errors
/// [`VideoError::Invalid`] says what is needed.
pub(super) fn check_attention<B: KernelBackend>(
    config: &DitConfig,
    options: &PipelineOptions,
    device: &B::Device,
) -> Result<(), VideoError> {
    /// Channels of a head that there are kernels for.
    const HEAD: usize = 128;

    if options.attention == AttentionNumbers::Floats {
        return Ok(());
    }
    let reason = if !matches!(options.dtype, DType::BF16 | DType::F16) {
        format!(
            "attention in fp8 is for computation in bf16 or f16, not {:?}; take --dtype bf16, or leave \
             --attention out",
            options.dtype
        )
    } else if config.head_dim() != HEAD {
        format!(
            "attention in fp8 is for heads of {HEAD} channels, and this transformer's have {}; leave \
             --attention out",
            config.head_dim()
        )
    } else {
        return check_attends::<B>(options.dtype, device);
    };
    Err(VideoError::invalid("attention", reason))
}

/// Whether a device that shares the work computes in the numbers that the first one does: it would take floats
/// without a word, and its share would be another model's.
///
/// # Errors
/// [`VideoError::Invalid`] names the device and says what is needed.
pub(super) fn check_shares<B: KernelBackend>(
    options: &PipelineOptions,
    device: &B::Device,
) -> Result<(), VideoError> {
    if options.products == Products::Fp8 {
        check_multiplies::<B>(device)?;
    }
    match options.attention {
        AttentionNumbers::Floats => Ok(()),
        AttentionNumbers::Fp8 => check_attends::<B>(options.dtype, device),
    }
}

fn check_multiplies<B: KernelBackend>(device: &B::Device) -> Result<(), VideoError> {
    if B::has_fp8_products(device) {
        return Ok(());
    }
    let reason = format!(
        "{} does not multiply in fp8, which takes an NVIDIA GPU of compute capability 8.9 or higher and \
         cuBLASLt (the CPU can, no faster); leave --products out",
        named::<B>(device)
    );
    Err(VideoError::invalid("products", reason))
}

fn check_attends<B: KernelBackend>(dtype: DType, device: &B::Device) -> Result<(), VideoError> {
    if B::has_fp8_attention(device, dtype) {
        return Ok(());
    }
    let reason = format!(
        "{} does not attend in fp8, which takes an NVIDIA GPU of compute capability 9.0 (Hopper) and NVRTC, \
         without LONGCAT_NO_HOPPER; leave --attention out",
        named::<B>(device)
    );
    Err(VideoError::invalid("attention", reason))
}

/// A device in a message: by model and number where it has a model, as CUDA devices do, of which there may be
/// several.
fn named<B: KernelBackend>(device: &B::Device) -> String {
    match B::model(device) {
        Some(model) => format!("device {} ({model})", device.to_id().index_id),
        None => "this device".into(),
    }
}

impl<B: KernelBackend> Pipeline<B> {
    /// What weights of transformer and text encoder become.
    pub(super) fn load_as(&self, resident_blocks: usize) -> LoadAs {
        LoadAs {
            dtype: Some(self.options().dtype),
            precision: self.options().precision,
            products: self.options().products,
            resident_blocks: Some(resident_blocks),
        }
    }

    /// How far the prediction is off with one layer multiplied in fp8 and all others as floats, by the official
    /// names of the layers that can be: root mean squares over three noise levels of the video that the
    /// request makes without guidance.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] for a pipeline that is not opened with [`Products::Fp8`]; else as
    /// [`Self::text_to_video`].
    pub fn fp8_errors(
        &mut self,
        request: &TextToVideoRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<BTreeMap<String, f64>, VideoError> {
        if self.options().products != Products::Fp8 {
            let reason = "errors of fp8 products are those of a model opened with --products fp8";
            return Err(VideoError::invalid("products", reason));
        }
        let request = TextToVideoRequest {
            sampling: Sampling {
                guidance: 1.0,
                cache: None,
                ..request.sampling.clone()
            },
            ..request.clone()
        };
        let made = self.text_to_video(&request, noise, observer)?;
        let (clean, text) = (made.latents, made.text);
        let noise = noise_tensor(noise, NoisePurpose::Refine, clean.dims(), self.device());
        let [samples, _, frames, _, _] = clean.dims();
        let device = self.device().clone();
        let inputs = NOISE.map(|share| {
            let latents = clean.clone() * (1.0 - share) + noise.clone() * share;
            let timesteps = Tensor::full([samples, frames], 1000.0 * share, (&device, DType::F32));
            (latents, timesteps)
        });
        observer.stage("layers");
        let stage = Stage::Denoising { step: 1, total: 1 };
        let errors = self.guarded(stage, |pipeline| {
            let model = &mut pipeline.transformers()?[0];
            errors(model, &inputs, &text, observer)
        });
        // The layers are not as they were loaded.
        self.drop_transformers();
        errors
    }
}

type Input<B> = (Tensor<B, 5>, Tensor<B, 2>);

fn errors<B: KernelBackend>(
    model: &mut LongCatTransformer<B>,
    inputs: &[Input<B>],
    text: &TextCondition<B>,
    observer: &mut dyn Observer,
) -> Result<BTreeMap<String, f64>, VideoError> {
    model.set_products(Products::Dense, &|_| true);
    let exact = predictions(model, inputs, text)?;
    let names = model.fp8_layers();
    let mut errors = BTreeMap::new();
    for (index, name) in names.iter().enumerate() {
        if observer.cancelled() {
            return Err(VideoError::Cancelled);
        }
        model.set_products(Products::Fp8, &|layer| layer == name);
        let found = predictions(model, inputs, text)?;
        model.set_products(Products::Dense, &|layer| layer == name);
        let pairs = found.into_iter().zip(&exact);
        let squares: f64 = pairs
            .map(|(found, exact)| square(found - exact.clone()) / square(exact.clone()))
            .sum();
        errors.insert(name.clone(), (squares / inputs.len() as f64).sqrt());
        observer.progress(index + 1, names.len());
    }
    Ok(errors)
}

fn predictions<B: KernelBackend>(
    model: &LongCatTransformer<B>,
    inputs: &[Input<B>],
    text: &TextCondition<B>,
) -> Result<Vec<Tensor<B, 5>>, VideoError> {
    let inputs = inputs.iter().cloned();
    let each = inputs.map(|(latents, timesteps)| model.forward(latents, timesteps, text, 0));
    Ok(each.collect::<Result<_, _>>()?)
}

/// The sum of the squares.
fn square<B: KernelBackend>(x: Tensor<B, 5>) -> f64 {
    let sum = (x.clone() * x).sum().into_data();
    sum.iter::<f64>().sum()
}
