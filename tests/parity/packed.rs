//! Models whose matrices are packed: the results of the numbers that they unpack to, and videos that stay near.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{DType, Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use longcat_builtin::builtin_checkpoint;
use longcat_dit::{LongCatTransformer, TextCondition, lora_targets, official_weights, packable};
use longcat_lora::{Adapter, LoraHost, LoraMerge, LoraOptions, LoraRegistry};
use longcat_text::Umt5Encoder;
use longcat_video::{
    CFG_STEP_LORA, Checkpoint, KeptWeights, KernelBackend, Pipeline, PipelineOptions, PixelFrames,
    Products, Sampling, SeededNoise, Silent, TextToVideoRequest, TransformerSizes, VideoError,
    inspect_weights, quantize,
};
use longcat_weights::{LoadAs, Precision, Weight, WeightFiles, WeightHost};

/// All that pack, with how far a weight of the built-in model may be off, as a share of the root mean square.
const PACKED: [(Precision, f64); 4] = [
    (Precision::Fp8, 0.03),
    (Precision::Int8, 0.015),
    (Precision::Q8_0, 0.008),
    (Precision::Q4K, 0.1),
];

fn kept(precision: Precision) -> LoadAs {
    LoadAs {
        dtype: Some(DType::F32),
        precision,
        ..LoadAs::default()
    }
}

fn builtin<B: KernelBackend>(precision: Precision, device: &B::Device) -> LongCatTransformer<B> {
    let checkpoint = Checkpoint::open(builtin_checkpoint().unwrap()).unwrap();
    checkpoint
        .load_transformer(kept(precision), device)
        .unwrap()
}

/// The same model with floats in the place of what is packed.
fn unpacked<B: KernelBackend, M: WeightHost<B>>(model: &M) -> M {
    let mut model = model.clone();
    model.visit_weights_mut(&mut |weight| {
        if weight.packed_kind().is_some() {
            *weight = Weight::Dense(Param::from_tensor(weight.val()));
        }
    });
    model
}

fn packed_layers<B: KernelBackend>(model: &LongCatTransformer<B>) -> Vec<String> {
    let mut names = Vec::new();
    model.visit_lora(&mut |name, layer| {
        if layer.weight.packed_kind().is_some() {
            names.push(name.to_string());
        }
    });
    names
}

fn floats(data: TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}

/// The root of the mean square of a difference, as a share of that of `b`.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (squares / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

fn ramp<B: KernelBackend, const D: usize>(shape: [usize; D], device: &B::Device) -> Tensor<B, D> {
    let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.37).sin());
    let data = TensorData::new(values.collect::<Vec<f32>>(), shape);
    Tensor::from_data(data, device)
}

fn predict<B: KernelBackend>(model: &LongCatTransformer<B>, device: &B::Device) -> Vec<f64> {
    let text = TextCondition {
        embeds: ramp([1, 5, model.config().caption_channels], device),
        mask: None,
    };
    let timesteps = Tensor::full([1, 2], 500.0, device);
    let latents = ramp([1, model.config().in_channels, 2, 4, 4], device);
    let out = model.forward(latents, timesteps, &text, 0).unwrap();
    floats(out.into_data())
}

fn is_that_of_its_numbers<B: KernelBackend>(device: &B::Device) {
    let full = builtin::<B>(Precision::Dense, device);
    let weights = |model: &LongCatTransformer<B>| {
        let mut all = BTreeMap::new();
        model.visit_lora(&mut |name, layer| {
            all.insert(name.to_string(), floats(layer.weight.val().into_data()));
        });
        all
    };
    let original = weights(&full);
    let is_packable = packable(full.config());
    for (precision, limit) in PACKED {
        let model = builtin::<B>(precision, device);
        let layers = packed_layers(&model);
        let expected: Vec<String> = original
            .keys()
            .filter(|name| is_packable(&format!("{name}.weight")))
            .cloned()
            .collect();
        let sorted: std::collections::BTreeSet<String> = layers.iter().cloned().collect();
        assert_eq!(sorted.into_iter().collect::<Vec<_>>(), expected);
        assert!(expected.iter().any(|name| name == "blocks.2.ffn.w2"));
        for floats in ["adaLN", "attn.qkv", "blocks.0.", "blocks.5."] {
            assert!(!expected.iter().any(|name| name.contains(floats)));
        }
        for (name, values) in weights(&model) {
            let off = distance(&values, &original[&name]);
            let limit = if layers.contains(&name) { limit } else { 1e-12 };
            assert!(off < limit, "{precision}: {name} is off by {off}");
        }
        let (out, same) = (predict(&model, device), predict(&unpacked(&model), device));
        let off = distance(&out, &same);
        assert!(off < 1e-5, "{precision}: off by {off}");
        assert!(distance(&out, &predict(&full, device)) > 1e-6);
    }
}

#[test]
fn a_packed_model_is_that_of_its_numbers_on_the_cpu() {
    is_that_of_its_numbers::<Flex>(&FlexDevice);
}

#[cfg(feature = "wgpu")]
#[test]
fn a_packed_model_is_that_of_its_numbers_on_wgpu() {
    is_that_of_its_numbers::<burn_wgpu::Wgpu>(&burn_wgpu::WgpuDevice::default());
}

#[test]
fn files_of_every_packed_type_stay_packed() {
    let layouts = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/layouts");
    for (name, packed) in [
        ("kijai_bf16.safetensors", false),
        ("kijai_fp8_scaled.safetensors", true),
        ("kijai_fp8.safetensors", true),
        ("comfy_quant.safetensors", true),
        ("official_int8", true),
        ("quanto_int8.safetensors", true),
        ("kijai_q8_0.gguf", true),
        // Parts of fused layers have different types.
        ("kijai_mixed.gguf", true),
    ] {
        let path = layouts.join(name);
        let load = |precision| {
            let load_as = kept(precision);
            LongCatTransformer::<Flex>::load(&path, load_as, &FlexDevice)
                .unwrap()
                .0
        };
        let (stored, dense) = (load(Precision::Stored), load(Precision::Dense));
        assert_eq!(packed_layers(&stored).is_empty(), !packed, "{name}");
        assert!(packed_layers(&dense).is_empty(), "{name}");
        let [stored, dense] = [stored, dense].map(|model| predict(&model, &FlexDevice));
        let off = distance(&stored, &dense);
        assert!(off < 1e-6, "{name}: off by {off}");
    }
    for name in ["umt5_fp8_scaled.safetensors", "umt5_q8_0.gguf"] {
        let [stored, dense] = [Precision::Stored, Precision::Dense].map(|precision| {
            let path = layouts.join(name);
            let encoder = Umt5Encoder::<Flex>::load(&path, kept(precision), &FlexDevice);
            let encoder = encoder.unwrap().0;
            let mut packed = 0;
            encoder
                .visit_weights(&mut |weight| packed += usize::from(weight.packed_kind().is_some()));
            assert_eq!(packed > 0, precision == Precision::Stored, "{name}");
            let ids = Tensor::from_data([[5, 9, 17, 1]], &FlexDevice);
            let mask = Tensor::from_data([[true, true, true, false]], &FlexDevice);
            floats(encoder.forward(ids, mask).into_data())
        });
        assert!(distance(&stored, &dense) < 1e-6, "{name}");
    }
}

/// Bytes of the matrices of each block on a device.
fn bytes_of_blocks(model: &LongCatTransformer<Flex>) -> Vec<u64> {
    let mut blocks = vec![0; model.depth()];
    model.visit_lora(&mut |name, layer| {
        let Some((block, _)) = name.strip_prefix("blocks.").and_then(|n| n.split_once('.')) else {
            return;
        };
        let numbers = match &layer.weight {
            Weight::Packed(parts) => parts
                .iter()
                .map(|part| part.words.dims()[0] + part.scale.as_ref().map_or(0, |s| s.dims()[0]))
                .sum(),
            weight => weight.shape().iter().product::<usize>(),
        };
        blocks[block.parse::<usize>().unwrap()] += 4 * numbers as u64;
    });
    blocks
}

#[test]
fn plans_count_the_bytes_that_are_loaded() {
    let mut packing = vec![Precision::Stored, Precision::Dense];
    packing.extend(PACKED.map(|(precision, _)| precision));
    for precision in packing {
        let model = builtin::<Flex>(precision, &FlexDevice);
        let sizes = TransformerSizes::new(model.config(), DType::F32, &precision.into());
        assert_eq!(sizes.blocks.each(), bytes_of_blocks(&model), "{precision}");
    }
    let layouts = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/layouts");
    for name in [
        "kijai_fp8.safetensors",
        "kijai_q8_0.gguf",
        "kijai_mixed.gguf",
    ] {
        let path = layouts.join(name);
        let files = official_weights(&WeightFiles::open(&path).unwrap()).unwrap();
        for precision in [Precision::Stored, Precision::Dense, Precision::Q8_0] {
            let load_as = kept(precision);
            let (model, _) = LongCatTransformer::<Flex>::load(&path, load_as, &FlexDevice).unwrap();
            let kept = KeptWeights {
                precision,
                transformer: Some(files.clone()),
                text: None,
            };
            let sizes = TransformerSizes::new(model.config(), DType::F32, &kept);
            let found = bytes_of_blocks(&model);
            assert_eq!(sizes.blocks.each(), found, "{name} as {precision}");
        }
    }
}

#[test]
fn adapters_lie_beside_packed_weights_and_are_not_merged_into_them() {
    let root = builtin_checkpoint().unwrap();
    let file = root.join("lora/cfg_step_lora.safetensors");
    let adapter = Adapter::read(&file, lora_targets()).unwrap();
    for precision in [Precision::Fp8, Precision::Q4K] {
        let mut model = builtin::<Flex>(precision, &FlexDevice);
        let mut same = unpacked(&model);
        let without = predict(&model, &FlexDevice);
        for model in [&mut model, &mut same] {
            let options = LoraOptions::default();
            model.load_adapter("distilled", &adapter, options).unwrap();
        }
        let beside = predict(&model, &FlexDevice);
        assert!(distance(&beside, &predict(&same, &FlexDevice)) < 1e-5);
        assert!(distance(&beside, &without) > 1e-3);
        let refused = model.merge_adapters().unwrap_err();
        assert_eq!(refused.code(), "packed_base");
        assert!(
            refused.to_string().contains("--precision dense"),
            "{refused}"
        );
        assert_eq!(predict(&model, &FlexDevice), beside);
    }
}

fn goes_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_quantized_checkpoint_is_what_is_packed_while_loading() {
    let dir = tempfile::tempdir().unwrap();
    let original = Checkpoint::open(builtin_checkpoint().unwrap()).unwrap();
    for (precision, _) in PACKED {
        let path = dir.path().join(precision.to_string());
        quantize(&original, &path, precision, &mut goes_on).unwrap();
        let written = Checkpoint::open(&path).unwrap();
        let [packed, stored] = [(&original, precision), (&written, Precision::Stored)].map(
            |(checkpoint, precision)| {
                let load_as = kept(precision);
                let model = checkpoint.load_transformer::<Flex>(load_as, &FlexDevice);
                let text = checkpoint.load_text_encoder::<Flex>(load_as, &FlexDevice);
                let prompt = ["a red circle".to_string()];
                let (embeds, _) = text.unwrap().encode_prompts(&prompt, 16).unwrap();
                (
                    predict(&model.unwrap(), &FlexDevice),
                    floats(embeds.into_data()),
                )
            },
        );
        assert!(packed == stored, "{precision}");
        let reports = inspect_weights::<Flex>(&path.join("dit"), &FlexDevice).unwrap();
        let kinds = format!("{:?}", reports);
        let kind = match precision {
            Precision::Fp8 => "F8_E4M3",
            Precision::Int8 => "I8",
            Precision::Q8_0 => "Q8_0",
            _ => "Q4_",
        };
        assert!(kinds.contains(kind), "{kind} is not in {kinds}");
    }
    let taken = dir.path().join("fp8");
    let refused = quantize(&original, &taken, Precision::Fp8, &mut goes_on).unwrap_err();
    assert!(refused.to_string().contains("fp8"), "{refused}");
    // Nothing is left of a run that was stopped.
    let stopped = dir.path().join("stopped");
    let mut stop = |done: u64, _: u64| match done > 100_000 {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let error = quantize(&original, &stopped, Precision::Q8_0, &mut stop).unwrap_err();
    assert!(matches!(error, VideoError::Cancelled), "{error}");
    let left: Vec<PathBuf> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(left.len(), PACKED.len(), "{left:?}");
}

/// Videos of packed models beside those of floats; printed with --nocapture. Measured: fp8 38 and 39 dB, int8
/// 47, q8_0 52 and 54, q4_k 29 and 32.
#[test]
fn videos_of_packed_models_stay_near() {
    let videos = |precision, products| {
        let options = PipelineOptions {
            precision,
            products,
            keep_text_encoder: true,
            ..PipelineOptions::default()
        };
        let checkpoint = builtin_checkpoint().unwrap();
        let mut pipeline = Pipeline::<Flex>::open(&checkpoint, options, &FlexDevice).unwrap();
        let adapter = pipeline.checkpoint().bundled_lora(CFG_STEP_LORA).unwrap();
        pipeline.load_lora("fast", &adapter).unwrap();
        pipeline.use_loras(&[("fast", 1.0)]).unwrap();
        ["a green star moves up", "a red circle moves right"].map(|prompt| -> PixelFrames {
            let request = TextToVideoRequest {
                frames: Some(13),
                sampling: Sampling::distilled(),
                ..TextToVideoRequest::new(prompt)
            };
            let noise = &mut SeededNoise::new(7);
            let made = pipeline
                .text_to_video(&request, noise, &mut Silent)
                .unwrap();
            let mut videos = pipeline.decode(made.latents, &mut Silent).unwrap();
            videos.swap_remove(0)
        })
    };
    let full = videos(Precision::Stored, Products::Dense);
    for (precision, products, limit) in [
        (Precision::Fp8, Products::Dense, 35.0),
        (Precision::Fp8, Products::Fp8, 25.0),
        (Precision::Int8, Products::Dense, 35.0),
        (Precision::Q8_0, Products::Dense, 35.0),
        (Precision::Q4K, Products::Dense, 25.0),
    ] {
        for (full, packed) in full.iter().zip(&videos(precision, products)) {
            let psnr = psnr(full, packed);
            println!("{precision}, {products} products: PSNR {psnr:.1} dB");
            assert!(psnr > limit, "{precision}, {products}: {psnr}");
        }
    }
}

fn psnr(a: &PixelFrames, b: &PixelFrames) -> f64 {
    let pairs = a.as_bytes().iter().zip(b.as_bytes());
    let squares: f64 = pairs
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum();
    10.0 * (255.0f64.powi(2) * a.as_bytes().len() as f64 / squares.max(1.0)).log10()
}
