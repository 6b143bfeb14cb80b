//! Plans of what was run on a device, against the peaks that were seen there.
#![allow(clippy::unwrap_used)]

use burn::tensor::DType;
use longcat_dit::DitConfig;
use longcat_weights::Precision;

use super::tests::{generating, models, refining};
use super::*;

const MIB: f64 = 1_048_576.0;

/// An adapter of rank 128 on the seven kinds of layers of so many blocks.
fn adapter(depth: usize) -> u64 {
    (depth * 128 * 2 * (17 * 4096 + 3 * 11_008)) as u64
}

/// Not below what was seen, and at most a tenth above.
fn is_near(peak: u64, seen: f64) {
    let off = peak as f64 / MIB / seen - 1.0;
    assert!((0.0..0.1).contains(&off), "{peak} beside {seen} MiB: {off}");
}

/// Peaks of an H200 by `nvidia-smi`, see "Memory" in `BENCHMARKS.md`.
#[test]
fn plans_predict_what_an_h200_took() {
    // Text to video at 832×480, 93 frames and rank 128: blocks, those and layers that stay, MiB.
    for (depth, blocks, layers, seen) in [
        (48, 31, 24, 23.0 * 1024.0),
        (48, 16, 24, 14.7 * 1024.0),
        (48, 9, 24, 11.2 * 1024.0),
        (12, 12, 24, 11_421.0),
        (12, 7, 15, 9_099.0),
        (12, 1, 7, 5_913.0),
    ] {
        let mut models = models(Precision::Stored);
        let config = DitConfig {
            depth,
            ..DitConfig::default()
        };
        let kept = KeptWeights::default();
        models.transformer = TransformerSizes::new(&config, DType::BF16, &kept);
        let mut request = generating();
        request.denoise.adapters = adapter(depth);
        request.asked.resident_blocks = Some(blocks);
        request.asked.resident_layers = Some(layers);
        request.asked.keep_transformer = false;
        let plan = MemoryPlan::choose(&models, &request, None).unwrap();
        let text = plan.text.peak;
        is_near(text.max(plan.transformer.peak), seen);
    }
    // Decoded beside the transformer; the other one in fp8, products too.
    let mut request = generating();
    request.denoise.adapters = adapter(48);
    let plan = |models: &ModelSizes, request: &RequestSizes| {
        MemoryPlan::choose(models, request, None).unwrap()
    };
    is_near(plan(&models(Precision::Stored), &request).peak(), 38_923.0);
    let mut fp8 = models(Precision::Fp8);
    fp8.transformer.rounded = true;
    let peaks = plan(&fp8, &request);
    is_near(peaks.transformer.peak, 20_377.0);
    is_near(peaks.peak(), 27_081.0);

    // Refining to 1280×704 and 186 frames, with an adapter of modulation and last layer, too.
    let modulation = 48 * (6 * 128 * 512 + 128 * 6 * 4096);
    let last = 2 * 128 * 512 + 128 * 2 * 4096 + 128 * (4096 + 64);
    let mut request = refining();
    request.denoise.adapters = adapter(48) + 2 * (modulation + last);
    let whole = plan(&models(Precision::Stored), &request);
    is_near(whole.decode.peak, 50.2 * 1024.0);
    request.asked.resident_blocks = Some(18);
    let streamed = plan(&models(Precision::Stored), &request);
    is_near(streamed.transformer.peak, 23.2 * 1024.0);
}

#[test]
fn what_other_runs_left_is_counted() {
    let models = models(Precision::Stored);
    let first = generating();
    let mut later = first;
    later.asked.used_before = true;
    let [first, later] = [first, later].map(|r| MemoryPlan::choose(&models, &r, None).unwrap());
    let vae = models.vae.weights;
    assert_eq!(later.transformer.peak, first.transformer.peak + vae);
    let held = models.transformer.held(48) + generating().denoise.adapters;
    assert_eq!(later.text.peak, first.text.peak + vae + held);
    assert_eq!(later.decode.peak, first.decode.peak);
    // Frames are encoded after prompts and before denoising.
    let mut encoded = generating();
    encoded.encode = refining().encode;
    let encoded = MemoryPlan::choose(&models, &encoded, None).unwrap();
    assert_eq!(encoded.text.peak, first.text.peak);
    assert_eq!(encoded.transformer.peak, later.transformer.peak);
}

#[test]
fn what_other_runs_left_leaves_where_it_must() {
    let models = models(Precision::Stored);
    let mut request = generating();
    let fits = |request: &RequestSizes, budget| MemoryPlan::choose(&models, request, Some(budget));
    // One stage after another.
    let mut least = 0;
    let first = loop {
        match fits(&request, least) {
            Ok(plan) => break plan,
            Err(error) => least = error.needed,
        }
    };
    request.asked.used_before = true;
    assert_eq!(fits(&request, least), Ok(first));
    assert!(fits(&request, least - 1).is_err());
}
