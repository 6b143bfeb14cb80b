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

pub(super) fn models(precision: Precision) -> ModelSizes {
    let text = Umt5Config::default();
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
pub(super) fn generating() -> RequestSizes {
    RequestSizes {
        prompts: [1, 512],
        encode: None,
        encodings: 1,
        denoise: DenoiseSizes {
            samples: 1,
            frames: 24,
            grid: [30, 52],
            conditions: 0,
            cached: 0,
            cached_samples: 0,
            text: 512,
            sparse: false,
            exchanged: false,
            adapters: 1_300_000_000,
        },
        decode: ClipSizes {
            samples: 1,
            frames: 93,
            size: [480, 832],
            whole: false,
        },
        steps: 16,
        segments: 1,
        asked: Asked {
            keep_transformer: true,
            ..Asked::default()
        },
    }
}

/// Refining it to 704×1280 and 186 frames.
pub(super) fn refining() -> RequestSizes {
    let mut request = generating();
    request.denoise.frames = 48;
    request.denoise.grid = [44, 80];
    request.denoise.sparse = true;
    request.steps = 5;
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
    // Three pieces of eight frames, whose queries, keys and values together are as large as all tokens.
    let rows = 8 * 1560;
    let least = unit * 5 + rows * 2 * (3 * 4096 + 3 * 11_008 + 4 * 4096);
    let step = sizes.step(&request, pieces);
    assert!((least..least + unit / 2).contains(&step), "{step}");
    // With a frame less the last piece has seven, for which pools keep memory of its own.
    let uneven = DenoiseSizes {
        frames: 23,
        ..request
    };
    let rows = (8 + 7) * 1560;
    let unit_of_23 = unit / 24 * 23;
    let least = unit_of_23 * 5 + rows * 2 * (6 * 4096 + 3 * 11_008 + 4 * 4096);
    let step_of_23 = sizes.step(&uneven, pieces);
    assert!(
        (least..least + unit / 2).contains(&step_of_23),
        "{step_of_23}"
    );
    // A picture in front attends to itself, the others to all; cross-attention is theirs, in pieces of 8 and 7.
    let conditioned = DenoiseSizes {
        conditions: 1,
        ..request
    };
    let frame = unit / 24;
    let apart = (2 * 23 + 4) * frame + 3 * 7 * frame;
    assert_eq!(sizes.step(&conditioned, pieces), step + apart);
    // Queries, keys, values and what was attended to, on their way between devices.
    let shared = DenoiseSizes {
        exchanged: true,
        ..request
    };
    assert_eq!(sizes.step(&shared, pieces), step + 4 * unit);
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
        let step = TrainingSizes {
            tokens: 14_040,
            trained: depth as u64 * 64 * (17 * 4096 + 3 * 11_008),
            averaged: false,
            resident: None,
        };
        TrainingPlan::choose(models.device, &sizes, &step, budget)
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

#[test]
fn times_of_a_known_device_are_those_that_were_measured() {
    let models = models(Precision::Stored);
    let rates = DeviceRates::of_model("NVIDIA H200").unwrap();
    let times = |mut request: RequestSizes, budget| {
        request.denoise.text = 256;
        let plan = MemoryPlan::choose(&models, &request, budget).unwrap();
        ExpectedTimes::new(&models, &request, &plan, &rates)
    };
    let is = |found: f64, measured: f64| {
        let off = (found / measured - 1.0).abs();
        assert!(off < 0.01, "{found} beside {measured}");
    };
    let mut request = generating();
    is(
        times(request, None).denoise,
        16.0 * 48.0 * (0.0647 + 0.0037),
    );
    request.denoise.adapters = 0;
    let found = times(request, None);
    is(found.denoise, 16.0 * 48.0 * 0.0647);
    is(found.text, 0.0258);
    is(found.decode, 1.477);
    assert_eq!(found.encode, None);
    // 11.7 ms less a block in fp8.
    let plan = MemoryPlan::choose(&models, &request, None).unwrap();
    let in_fp8 = ExpectedTimes::new(&models, &request, &plan, &rates.in_fp8());
    let off = in_fp8.denoise / (16.0 * 48.0 * (0.0647 - 0.0117)) - 1.0;
    assert!(off.abs() < 0.01, "{off}");
    // Copies hide behind the work.
    let streamed = times(request, Some(16 * GIB));
    assert_eq!(streamed.denoise, found.denoise);
    let mut refining = refining();
    refining.denoise.adapters = 0;
    is(times(refining, None).denoise, 5.0 * 48.0 * 0.2075);
    // Three segments, and twice the samples under guidance.
    let guided = RequestSizes {
        denoise: DenoiseSizes {
            samples: 2,
            ..request.denoise
        },
        segments: 3,
        // The first one has no condition.
        encode: Some(ClipSizes {
            whole: true,
            ..request.decode
        }),
        encodings: 2,
        ..request
    };
    is(times(guided, None).denoise, 6.0 * found.denoise);
    is(times(guided, None).decode, 3.0 * found.decode);
    is(times(guided, None).encode.unwrap(), 2.0 * 0.950);
}

#[test]
fn only_whole_devices_that_were_measured_are_known() {
    for name in ["NVIDIA H200", "NVIDIA H100 80GB HBM3"] {
        let source = DeviceRates::of_model(name).unwrap().source;
        assert_eq!(source, RatesSource::Known(name));
    }
    for name in [
        "NVIDIA H100 PCIe",
        "NVIDIA H200 NVL",
        "NVIDIA GH200 480GB",
        "NVIDIA H200 MIG 1g.18gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    ] {
        assert_eq!(DeviceRates::of_model(name), None, "{name}");
    }
}

#[test]
fn times_follow_from_work_or_from_copies() {
    const EVER: f64 = f64::INFINITY;
    let mut rates = DeviceRates {
        products: EVER,
        fp8_products: EVER,
        low_rank: EVER,
        attention: EVER,
        fp8_attention: EVER,
        sparse_attention: EVER,
        fp8_sparse_attention: EVER,
        text: EVER,
        encoded: EVER,
        decoded: EVER,
        copies: EVER,
        source: RatesSource::Measured,
    };
    let models = models(Precision::Stored);
    let mut request = refining();
    request.denoise = DenoiseSizes {
        frames: 20,
        grid: [30, 52],
        cached: 4,
        cached_samples: 1,
        sparse: false,
        adapters: 96_000,
        ..request.denoise
    };
    request.steps = 10;
    let seconds = |rates: &DeviceRates, request: &RequestSizes, budget| {
        let plan = MemoryPlan::choose(&models, request, budget).unwrap();
        let times = ExpectedTimes::new(&models, request, &plan, rates);
        (plan, times)
    };
    let (new, old) = (20.0 * 1560.0, 4.0 * 1560.0);
    let c = 4096.0;
    let is = |found: f64, sum: f64| {
        assert!((found / sum - 1.0).abs() < 1e-9, "{found} is not {sum}");
    };
    // One rate at a time.
    let only = |set: fn(&mut DeviceRates)| {
        let mut rates = rates;
        set(&mut rates);
        seconds(&rates, &request, None).1
    };
    let linear = 2.0 * (6.0 * c * c + 3.0 * c * 11_008.0);
    let products = 48.0 * (10.0 * (new * linear + 4.0 * 512.0 * c * c) + old * linear);
    is(only(|rates| rates.products = 1.0).denoise, products);
    let itself = 10.0 * new * (new + old) + old * old;
    let text = 10.0 * new * 512.0;
    let attention = 48.0 * 4.0 * c * (itself + text);
    is(only(|rates| rates.attention = 1.0).denoise, attention);
    // 1,000 numbers a block.
    let factors = 48.0 * 2.0 * 1000.0 * (10.0 * new + old);
    is(only(|rates| rates.low_rank = 1.0).denoise, factors);
    let pixels = 189.0 * 704.0 * 1280.0;
    is(only(|rates| rates.encoded = 1.0).encode.unwrap(), pixels);
    is(only(|rates| rates.decoded = 1.0).decode, pixels);
    let layer = 2.0 * 512.0 * (4.0 * c * c + 3.0 * c * 10_240.0) + 4.0 * 512.0 * 512.0 * c;
    is(only(|rates| rates.text = 1.0).text, 24.0 * layer);
    // Tiles of 640 of a picture of 704×1280: two in one direction and three in the other.
    rates.decoded = 1.0;
    rates.copies = 1.0;
    let (plan, times) = seconds(&rates, &request, Some(16 * GIB));
    assert_eq!(plan.decode.tiling.map(|tiling| tiling.tile), Some([640; 2]));
    is(times.decode, 189.0 * 1280.0 * 1920.0);
    // What does not stay is copied for each pass, and once more for the cache; keys and values for each step.
    let streamed = (48 - plan.transformer.resident) as u64 * models.transformer.blocks.each()[0];
    let cache = 48.0 * 2.0 * old * c * 2.0;
    assert!(streamed > 0 && plan.transformer.offload_kv_cache);
    is(times.denoise, 11.0 * streamed as f64 + 10.0 * cache);
    request.asked.resident_layers = Some(10);
    let times = seconds(&rates, &request, Some(16 * GIB)).1;
    is(times.text, 14.0 * models.text.layers.each()[0] as f64);
    // Block-sparse attention of the release keeps a sixteenth of the blocks of 64 tokens.
    let refining = refining();
    rates.copies = EVER;
    rates.sparse_attention = 1.0;
    let found = seconds(&rates, &refining, None).1.denoise;
    is(found, 5.0 * 48.0 * 4.0 * c * 168_960.0 * (165.0 * 64.0));
}

#[test]
fn rates_of_other_devices_follow_from_a_product_and_a_copy() {
    let known = DeviceRates::of_model("NVIDIA H200").unwrap();
    let measured = DeviceRates::from_measured(705e12 / 4.0, 12e9);
    assert_eq!(
        (measured.copies, measured.source),
        (12e9, RatesSource::Measured)
    );
    for (slow, fast) in [
        (measured.products, known.products),
        (measured.attention, known.attention),
        (measured.sparse_attention, known.sparse_attention),
        (measured.text, known.text),
        (measured.decoded, known.decoded),
    ] {
        assert!((4.0 * slow / fast - 1.0).abs() < 1e-9);
    }
}
