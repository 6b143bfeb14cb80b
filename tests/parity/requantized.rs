//! Adapters merged into packed weights, which are packed again: the bits of packing what merging floats gives.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::module::Param;
use burn::tensor::DType;
use burn_flex::{Flex, FlexDevice};
use longcat_builtin::builtin_checkpoint;
use longcat_dit::{LongCatTransformer, lora_targets};
use longcat_lora::{
    Adapter, LoraHost, LoraMerge, LoraOptions, LoraRegistry, merge_into_checkpoint,
    merge_into_packed_checkpoint,
};
use longcat_video::{
    CFG_STEP_LORA, Checkpoint, Latents, Observer, Pipeline, PipelineOptions, Requantized, Sampling,
    SeededNoise, TextToVideoRequest, convert_to_official, quantize,
};
use longcat_weights::{
    LoadAs, Precision, Quantization, Weight, WeightFiles, WeightHost, requantize,
};

fn goes_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn distilled() -> Adapter {
    let root = builtin_checkpoint().unwrap();
    let file = root.join(format!("lora/{CFG_STEP_LORA}.safetensors"));
    Adapter::read(&file, lora_targets()).unwrap()
}

#[test]
fn merging_into_packed_files_packs_the_merged_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let builtin = Checkpoint::open(builtin_checkpoint().unwrap()).unwrap();
    let adapter = distilled();
    let adapters = [(&adapter, 0.8)];
    for precision in [
        Precision::Fp8,
        Precision::Int8,
        Precision::Q8_0,
        Precision::Q4K,
    ] {
        let at = |name: &str| dir.path().join(format!("{name}-{precision}"));
        quantize(&builtin, &at("packed"), precision, &mut goes_on).unwrap();
        let packed = Checkpoint::open(at("packed")).unwrap();
        // The same numbers as floats, merged as these.
        let floats = at("floats");
        convert_to_official(&packed, &floats, Some(DType::F32), &mut goes_on).unwrap();
        let (merged, again) = (at("merged"), at("again"));
        merge_into_checkpoint(&floats.join("dit"), &adapters, &merged, lora_targets()).unwrap();
        let source = packed.transformer_dir();
        let targets = lora_targets();
        let report =
            merge_into_packed_checkpoint(source, &adapters, &again, targets, &mut goes_on).unwrap();
        let [before, merged, after] = [source, merged.as_path(), again.as_path()]
            .map(|path| WeightFiles::open(path).unwrap());
        assert!(after.keys().eq(before.keys()));
        let (mut matrices, mut differences, mut numbers) = (0, 0.0, 0.0);
        for key in after.keys() {
            let found = after.stored(key).unwrap();
            let scale = found.parts[0].scale.as_ref().map(|s| s.values.to_vec());
            if !report.merged.iter().any(|merged| merged == key) {
                let original = before.stored(key).unwrap();
                assert_eq!(found.parts[0].bytes, original.parts[0].bytes, "{key}");
                assert_eq!(found.parts[0].scale, original.parts[0].scale, "{key}");
                continue;
            }
            let Some(layout) = after.packed_layout(key).unwrap() else {
                continue;
            };
            let values: Vec<f32> = merged.tensor_data(key).unwrap().iter::<f32>().collect();
            let to = Quantization::like(&layout).unwrap();
            let expected = longcat_weights::quantize(&values, layout.shape, to);
            assert!(after.bytes(key).unwrap() == expected.bytes, "{key}");
            assert_eq!(scale, expected.scale, "{key}");
            matrices += 1;
            let now = after.tensor_data(key).unwrap();
            for (now, value) in now.iter::<f64>().zip(&values) {
                differences += (now - f64::from(*value)).powi(2);
                numbers += f64::from(*value).powi(2);
            }
        }
        let off = report.requantized.unwrap();
        assert!(matrices > 0 && off.matrices == matrices, "{off:?}");
        let error = (differences / numbers).sqrt();
        assert!((off.error / error - 1.0).abs() < 1e-6, "{error}: {off:?}");
        assert!(off.largest.unwrap().1 >= off.error);
        LongCatTransformer::<Flex>::load(&again, DType::F32, &FlexDevice).unwrap();
    }
}

#[test]
fn merging_on_a_device_packs_the_merged_numbers() {
    let checkpoint = Checkpoint::open(builtin_checkpoint().unwrap()).unwrap();
    let adapter = distilled();
    for resident_blocks in [None, Some(2)] {
        let load_as = LoadAs {
            dtype: Some(DType::F32),
            precision: Precision::Fp8,
            resident_blocks,
            ..LoadAs::default()
        };
        let mut packed = checkpoint
            .load_transformer::<Flex>(load_as, &FlexDevice)
            .unwrap();
        let mut floats = packed.clone();
        floats.visit_weights_mut(&mut |weight| {
            *weight = Weight::Dense(Param::from_tensor(weight.val()));
        });
        for model in [&mut packed, &mut floats] {
            let options = LoraOptions::default();
            model.load_adapter("distilled", &adapter, options).unwrap();
        }
        let originals = floats.weights_to_merge().unwrap();
        floats.merge_adapters().unwrap();
        let off = packed.merge_adapters_requantized().unwrap();
        let mut merged = BTreeMap::new();
        floats.visit_lora(&mut |name, layer| {
            let values = layer.weight.val().into_data();
            merged.insert(name.to_string(), values.iter::<f32>().collect::<Vec<_>>());
        });
        let mut matrices = 0;
        packed.visit_lora(&mut |name, layer| {
            let layouts = layer.weight.layouts();
            if layouts.is_empty() || adapter.get(name).is_none() {
                return;
            }
            matrices += 1;
            let (expected, _) = layer.weight.requantized(&merged[name]).unwrap();
            let [found, expected] = [&layer.weight, &expected].map(|w| w.val().into_data());
            assert_eq!(found.as_bytes(), expected.as_bytes(), "{name}");
            let (bytes, _) = requantize(&merged[name], &layouts[0]).unwrap();
            assert_eq!(bytes.layout, layouts[0], "{name}");
        });
        assert!(matrices > 0 && off.matrices == matrices, "{off:?}");
        assert!((0.005..0.1).contains(&off.error), "{off:?}");
        let error = packed.unmerge_adapters(&originals).unwrap_err();
        assert_eq!(error.code(), "no_original");
        assert_eq!(packed.merge_adapters().unwrap_err().code(), "merged");
    }
}

/// Keeps what a run tells of packing.
#[derive(Default)]
struct Told(Vec<Requantized>);

impl Observer for Told {
    fn requantized(&mut self, off: &Requantized) {
        self.0.push(off.clone());
    }
}

#[test]
fn a_pipeline_merges_into_packed_weights_where_it_is_asked_to() {
    let open = |precision| {
        let options = PipelineOptions {
            precision,
            keep_text_encoder: true,
            ..PipelineOptions::default()
        };
        let root = builtin_checkpoint().unwrap();
        let mut pipeline = Pipeline::<Flex>::open(&root, options, &FlexDevice).unwrap();
        let file = pipeline.checkpoint().bundled_lora(CFG_STEP_LORA).unwrap();
        pipeline.load_lora("fast", &file).unwrap();
        pipeline.use_loras(&[("fast", 1.0)]).unwrap();
        pipeline
    };
    let mut pipeline = open(Precision::Fp8);
    let request = TextToVideoRequest {
        sampling: Sampling {
            steps: 2,
            ..Sampling::distilled()
        },
        frames: Some(9),
        ..TextToVideoRequest::new("a red circle")
    };
    let mut told = Told::default();
    let run = |pipeline: &mut Pipeline<Flex>, told: &mut Told| -> Vec<f64> {
        let noise = &mut SeededNoise::new(3);
        let made = pipeline.text_to_video(&request, noise, told).unwrap();
        let latents: Latents = pipeline.read_latents(made.latents).unwrap();
        latents.values().iter().copied().map(f64::from).collect()
    };
    let beside = run(&mut pipeline, &mut told);
    let refused = pipeline.merge_loras().unwrap_err().to_string();
    assert!(refused.contains("--requantize"), "{refused}");
    pipeline.merge_loras_requantized().unwrap();
    let merged = run(&mut pipeline, &mut told);
    assert_eq!(told.0.len(), 1);
    let squares = |a: &[f64]| a.iter().map(|a| a * a).sum::<f64>();
    let off: Vec<f64> = merged.iter().zip(&beside).map(|(a, b)| a - b).collect();
    let off = (squares(&off) / squares(&beside)).sqrt();
    assert!((1e-6..0.2).contains(&off), "{off}");
    // The same again, and then the adapter beside the weights of the file.
    assert_eq!(run(&mut pipeline, &mut told), merged);
    assert_eq!(told.0.len(), 1);
    pipeline.unmerge_loras().unwrap();
    assert_eq!(run(&mut pipeline, &mut told), beside);

    // Of floats nothing is packed, and nothing told.
    let mut floats = open(Precision::Stored);
    floats.merge_loras_requantized().unwrap();
    run(&mut floats, &mut told);
    assert_eq!(told.0.len(), 1);
}
