//! Plans of the released model, against sums by hand.
#![allow(clippy::unwrap_used)]

use burn::tensor::DType;
use longcat_dit::{DitConfig, TokenPieces};
use longcat_kernels::BsaParams;
use longcat_text::Umt5Config;
use longcat_vae::WanVaeConfig;
use longcat_weights::Precision;

use super::*;

const GIB: u64 = 1 << 30;

fn released() -> DitConfig {
    DitConfig {
        bsa_params: Some(BsaParams {
            sparsity: Some(0.9375),
            cdf_threshold: None,
            chunk_3d_shape_q: [4; 3],
            chunk_3d_shape_k: [4; 3],
            empty_selection: Default::default(),
        }),
        ..DitConfig::default()
    }
}

fn models(precision: Precision) -> ModelSizes {
    let text = Umt5Config {
        vocab_size: 256_384,
        d_model: 4096,
        d_kv: 64,
        d_ff: 10_240,
        num_layers: 24,
        num_heads: 64,
        relative_attention_num_buckets: 32,
        relative_attention_max_distance: 128,
        layer_norm_epsilon: 1e-6,
    };
    let device = DeviceSizes {
        context: 800_000_000,
        convolutions: 1 << 30,
    };
    let dtypes = (DType::BF16, DType::BF16);
    ModelSizes::new(
        (&released(), Some(&text), &WanVaeConfig::default()),
        dtypes,
        &precision.into(),
        device,
    )
}

/// Text to video at 480p with an adapter, without guidance.
fn generating() -> RequestSizes {
    RequestSizes {
        prompts: [1, 512],
        encode: None,
        denoise: DenoiseSizes {
            samples: 1,
            frames: 24,
            grid: [30, 52],
            cached: 0,
            cached_samples: 0,
            text: 512,
            sparse: false,
            adapters: 1_300_000_000,
        },
        decode: ClipSizes {
            samples: 1,
            frames: 93,
            size: [480, 832],
            whole: false,
        },
        asked: Asked {
            keep_transformer: true,
            ..Asked::default()
        },
    }
}

/// Refining it to 704×1280 and 186 frames.
fn refining() -> RequestSizes {
    let mut request = generating();
    request.denoise.frames = 48;
    request.denoise.grid = [44, 80];
    request.denoise.sparse = true;
    request.decode.frames = 189;
    request.decode.size = [704, 1280];
    request.encode = Some(ClipSizes {
        whole: true,
        ..request.decode
    });
    request
}

#[test]
fn sizes_of_the_released_models_are_the_published_ones() {
    let sizes = models(Precision::Stored).transformer;
    // 8 C² + 3 C F linear weights in bf16, and 6 C T weights of the modulation in f32.
    let linear = 8 * 4096 * 4096 + 3 * 4096 * 11_008;
    assert_eq!(linear, 269_484_032);
    let modulation = 4 * 6 * 4096 * 512;
    let dense = 2 * linear + modulation;
    assert_eq!(sizes.blocks, Parts::new(vec![dense; 48]));
    assert_eq!(sizes.unpacked, 0);
    let all = sizes.weights(48);
    assert!((28_000_000_000..29_000_000_000).contains(&all), "{all}");
    // A scale for each of eight matrices, or for each of their rows; GGUF's blocks have theirs inside. The first
    // and the last block stay floats.
    let rows = 8 * 4096 + 2 * 11_008 + 4096;
    for (precision, packed) in [
        (Precision::Fp8, linear + 4 * 8),
        (Precision::Int8, linear + 4 * rows),
        (Precision::Q8_0, linear / 32 * 34),
        (Precision::Q4K, linear / 256 * 144),
    ] {
        let sizes = models(precision).transformer;
        let mut blocks = vec![packed + modulation; 48];
        (blocks[0], blocks[47]) = (dense, dense);
        assert_eq!(sizes.blocks.each(), blocks, "{precision}");
        assert_eq!(sizes.unpacked, 2 * (6 * 4096 * 4096 + 4096 * 11_008));
        assert_eq!(
            sizes.weights(48),
            sizes.fixed + sizes.unpacked + 46 * (packed + modulation) + 2 * dense
        );
    }
    let text = models(Precision::Stored).text;
    let layer = 4 * 4096 * 4096 + 3 * 4096 * 10_240;
    assert_eq!(text.layers, Parts::new(vec![2 * layer; 24]));
    let packed = models(Precision::Fp8).text;
    assert_eq!(packed.layers, Parts::new(vec![layer + 4 * 7; 24]));
    assert_eq!(packed.unpacked, 2 * (4096 * 4096 + 4096 * 10_240));
    let all = text.weights(24);
    assert!((11_300_000_000..11_450_000_000).contains(&all), "{all}");
    let vae = models(Precision::Stored).vae.weights;
    assert!((250_000_000..256_000_000).contains(&vae), "{vae}");
}

#[test]
fn a_step_holds_tokens_and_pieces() {
    let sizes = models(Precision::Stored).transformer;
    let request = generating().denoise;
    let whole = TokenPieces::default();
    // In tensors of all tokens: 5, queries, keys and values together 3, feed-forward 3 F / C, the last
    // layer 4.
    let unit = 37_440 * 4096 * 2;
    let least = unit * 12 + 3 * 37_440 * 11_008 * 2;
    let step = sizes.step(&request, whole);
    assert!((least..least + unit / 2).contains(&step), "{step}");
    let pieces = TokenPieces::of(16_384);
    // Three pieces of eight frames.
    let rows = 8 * 1560;
    let least = unit * 5 + rows * 2 * (7 * 4096 + 3 * 11_008 + 4 * 4096);
    let step = sizes.step(&request, pieces);
    assert!((least..least + unit / 2).contains(&step), "{step}");
    // Refining adds what chooses blocks: 2640² scores of 32 heads.
    let request = refining().denoise;
    let unit = 168_960 * 4096 * 2;
    let step = sizes.step(&request, pieces);
    assert!(step > 5 * unit + 32 * 2640 * 2640 * 4);
    assert!(step < 8 * unit, "{step}");
}

#[test]
fn plans_keep_to_their_budget_and_grow_with_it() {
    let mut cached = generating();
    cached.denoise.frames = 20;
    cached.denoise.cached = 4;
    cached.denoise.cached_samples = 1;
    let mut guided = generating();
    guided.denoise.samples = 2;
    for precision in [Precision::Stored, Precision::Fp8, Precision::Q4K] {
        let models = models(precision);
        for request in [generating(), cached, guided, refining()] {
            let (mut before, mut layers, mut fits) = (0, 0, false);
            for budget in (0..640).map(|n| n * GIB / 8) {
                let plan = match MemoryPlan::choose(&models, &request, Some(budget)) {
                    Ok(plan) => plan,
                    Err(error) => {
                        assert!(!fits && error.needed > budget, "{budget}: {error}");
                        continue;
                    }
                };
                fits = true;
                assert!(plan.peak() <= budget, "{budget}: {plan:?}");
                assert!(plan.transformer.resident >= before, "{budget}: {plan:?}");
                assert!(plan.text.resident >= layers, "{budget}: {plan:?}");
                (before, layers) = (plan.transformer.resident, plan.text.resident);
            }
            assert_eq!((before, layers), (48, 24));
        }
    }
}

#[test]
fn the_released_model_fits_small_cards() {
    let plan = |precision, request: &RequestSizes, gib| {
        MemoryPlan::choose(&models(precision), request, Some(gib * GIB)).unwrap()
    };
    for gib in [12, 16, 24] {
        let plan = plan(Precision::Stored, &generating(), gib);
        assert!(plan.transformer.resident < 48 && !plan.keep_transformer);
        // The same pieces as without a limit, and so the same products.
        assert_eq!(plan.transformer.pieces.most, Some(16_384), "{gib}");
        plan_is_within(&plan, gib);
    }
    plan_is_within(&plan(Precision::Stored, &refining(), 24), 24);
    // In fp8 all blocks stay on a card of 24 GiB.
    assert_eq!(
        plan(Precision::Fp8, &generating(), 24).transformer.resident,
        48
    );
    let everything = MemoryPlan::choose(&models(Precision::Stored), &generating(), None).unwrap();
    assert!(everything.keep_transformer && everything.transformer.resident == 48);
    assert_eq!(everything.decode.tiling, None);
}

fn plan_is_within(plan: &MemoryPlan, gib: u64) {
    assert!(plan.peak() <= gib * GIB, "{gib}: {plan:?}");
}

#[test]
fn what_does_not_fit_says_what_would() {
    let error =
        MemoryPlan::choose(&models(Precision::Stored), &refining(), Some(8 * GIB)).unwrap_err();
    let [frames, size] = [error.frames.map(|n| [n; 2]), error.size].map(Option::unwrap);
    assert!(frames[0] < 189 && size[0] < 704, "{error}");
    let text = error.to_string();
    for part in [&format!("{} frames", frames[0]), "--memory", "8.00 GiB"] {
        assert!(text.contains(part), "{text}");
    }
    // Cached keys and values leave before blocks do.
    let mut cached = generating();
    cached.denoise.cached = 4;
    cached.denoise.cached_samples = 1;
    let sizes = models(Precision::Stored);
    let whole = MemoryPlan::choose(&sizes, &cached, None).unwrap();
    let least = whole.transformer.peak - 1;
    let plan = MemoryPlan::choose(&sizes, &cached, Some(least)).unwrap();
    assert!(plan.transformer.offload_kv_cache && plan.transformer.resident == 48);
}

#[test]
fn training_streams_what_does_not_fit() {
    let models = models(Precision::Stored);
    let plan = |depth, budget| {
        let sizes = TransformerSizes {
            blocks: Parts::new(vec![models.transformer.blocks.each()[0]; depth]),
            ..models.transformer.clone()
        };
        // 33 frames at 480x832, rank 64 on seven kinds of layers.
        let trained = depth as u64 * 64 * (17 * 4096 + 3 * 11_008);
        TrainingPlan::choose(models.device, &sizes, 14_040, trained, budget)
    };
    // 13.51 GB were measured.
    let measured = plan(8, None).unwrap();
    assert!((13_000_000_000..14_000_000_000).contains(&measured.peak));
    let whole = plan(48, None).unwrap();
    assert_eq!(whole.resident, 48);
    let small = plan(48, Some(24 * GIB)).unwrap();
    assert!(small.resident < 48 && small.peak <= 24 * GIB, "{small:?}");
    let error = plan(48, Some(8 * GIB)).unwrap_err().to_string();
    assert!(error.contains("a training step"), "{error}");
}
