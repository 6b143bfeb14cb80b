//! Merged weights against the golden ones and against the adapters beside the weights; unmerging
//! gives back every bit.

use std::ops::ControlFlow;

use burn::tensor::{DType, Distribution, Tensor};
use burn_flex::FlexDevice;
use longcat_lora::{
    Adapter, CheckpointWeights, LoraMerge, LoraOptions, LoraRegistry, merge_into_checkpoint,
    merge_into_checkpoint_with,
};
use longcat_weights::WeightFiles;
use proptest::prelude::*;

use crate::common::*;

fn options(strength: f64) -> LoraOptions {
    LoraOptions {
        strength,
        ..LoraOptions::default()
    }
}

/// The adapters of a golden case with their strengths.
fn loras(case: &serde_json::Value) -> Vec<(Adapter, f64)> {
    let list = case["params"]["loras"].as_array().unwrap().iter();
    list.map(|lora| {
        let adapter = read(lora["file"].as_str().unwrap());
        (adapter, lora["multiplier"].as_f64().unwrap())
    })
    .collect()
}

#[test]
fn golden_merged_weights() {
    for name in ["lora_merge_refinement", "lora_merge_stacked"] {
        let case = case(name);
        let tolerance = case["tolerance"].as_f64().unwrap();
        let expected =
            WeightFiles::open(&golden(&format!("cases/{name}/expected.safetensors"))).unwrap();
        let loras = loras(&case);

        let mut host = Host::tiny();
        for (index, (adapter, strength)) in loras.iter().enumerate() {
            let name_on_model = index.to_string();
            host.load_adapter(&name_on_model, adapter, options(*strength))
                .unwrap();
        }
        host.merge_adapters().unwrap();

        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("merged");
        let list: Vec<(&Adapter, f64)> = loras.iter().map(|(a, s)| (a, *s)).collect();
        let source = golden("checkpoints/tiny/dit");
        let report = merge_into_checkpoint(&source, &list, &output, table()).unwrap();
        let written = WeightFiles::open(&output).unwrap();
        assert_eq!(written.keys().count(), tiny_checkpoint().keys().count());
        assert!(output.join("config.json").is_file());

        for key in expected.keys() {
            let target = key.strip_prefix("merged.").unwrap();
            let reference: Vec<f64> = expected.tensor_data(key).unwrap().iter::<f64>().collect();
            let loaded = floats(host.layers[target].weight.val());
            let stored = written.tensor_data(&format!("{target}.weight")).unwrap();
            let stored: Vec<f64> = stored.iter::<f64>().collect();
            for (what, values) in [("on the model", loaded), ("in the file", stored)] {
                let error = relative_error(&values, &reference);
                assert!(error <= tolerance, "{name} {target} {what}: {error}");
            }
            assert!(report.merged.contains(&format!("{target}.weight")));
        }
        for key in written
            .keys()
            .filter(|k| !report.merged.contains(&k.to_string()))
        {
            let original = tiny_checkpoint();
            assert_eq!(written.bytes(key).unwrap(), original.bytes(key).unwrap());
        }
    }
}

#[test]
fn merging_into_a_checkpoint_refuses_what_does_not_fit_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("merged");
    let source = golden("checkpoints/tiny/dit");
    let code = |file: &str, strength: f64| {
        let adapter = read(file);
        merge_into_checkpoint(&source, &[(&adapter, strength)], &output, table())
            .unwrap_err()
            .code()
    };
    let good = "checkpoints/tiny/lora/cfg_step_lora.safetensors";
    assert_eq!(
        code("cases/lora_invalid/unknown_module.safetensors", 1.0),
        "unknown_module"
    );
    assert_eq!(
        code("cases/lora_invalid/shape_mismatch.safetensors", 1.0),
        "shape_mismatch"
    );
    assert_eq!(code(good, f64::NAN), "invalid_setting");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    std::fs::create_dir(&output).unwrap();
    assert_eq!(code(good, 1.0), "output_exists");
}

#[test]
fn merging_tells_its_progress_and_leaves_nothing_when_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("merged");
    let source = golden("checkpoints/tiny/dit");
    let adapter = read("checkpoints/tiny/lora/cfg_step_lora.safetensors");
    let merge = |progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>| {
        merge_into_checkpoint_with(&source, &[(&adapter, 1.0)], &output, table(), progress)
    };
    let error = merge(&mut |done, total| match 2 * done < total {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    });
    assert_eq!(error.unwrap_err().code(), "cancelled");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

    let mut told = Vec::new();
    merge(&mut |done, total| {
        told.push((done, total));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(told.len(), tiny_checkpoint().keys().count());
    assert!(told.is_sorted());
    let last = told.last().unwrap();
    assert_eq!(last.0, last.1);
}

#[test]
fn unmerging_restores_every_bit_in_any_type() {
    let files = tiny_checkpoint();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let mut host = Host::from_checkpoint(&files, dtype);
        let before = host.weights();
        let adapter = read("checkpoints/tiny/lora/refinement_lora.safetensors");
        host.load_adapter("a", &adapter, options(0.7)).unwrap();
        let kept = host.weights_to_merge().unwrap();

        host.merge_adapters().unwrap();
        assert_ne!(host.weights(), before);
        assert!(host.adapters()[0].merged);
        assert_eq!(host.merge_adapters().unwrap_err().code(), "merged");
        assert_eq!(host.unload_adapter("a").unwrap_err().code(), "merged");
        assert_eq!(
            host.set_adapter_strength("a", 0.5).unwrap_err().code(),
            "merged"
        );
        host.unmerge_adapters(&CheckpointWeights(&files)).unwrap();
        assert_eq!(host.weights(), before);
        assert!(!host.adapters()[0].merged && host.adapters()[0].enabled);

        host.merge_adapters().unwrap();
        host.unmerge_adapters(&kept).unwrap();
        assert_eq!(host.weights(), before);
    }
}

#[test]
fn unmerging_from_another_checkpoint_changes_nothing() {
    let mut host = Host::tiny();
    let adapter = read("checkpoints/tiny/lora/cfg_step_lora.safetensors");
    host.load_adapter("a", &adapter, options(1.0)).unwrap();
    host.merge_adapters().unwrap();
    let merged = host.weights();
    let other = WeightFiles::open(&golden("checkpoints/tiny_hd128/dit")).unwrap();
    let error = host
        .unmerge_adapters(&CheckpointWeights(&other))
        .unwrap_err();
    assert_eq!(error.code(), "no_original");
    assert_eq!(host.weights(), merged);
}

/// Outputs of the layers that [`adapters`] touch, for one random input each.
fn outputs(host: &Host, inputs: &[(&str, Tensor<B, 3>)]) -> Vec<Vec<f64>> {
    let run = |(name, x): &(&str, Tensor<B, 3>)| {
        let y = host.layers[*name].forward(x.clone());
        y.into_data().iter::<f64>().collect()
    };
    inputs.iter().map(run).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn beside_the_weights_equals_merged_equals_the_definition(
        first in adapters(),
        second in adapters(),
        strengths in (-2.0f64..2.0, -2.0f64..2.0),
    ) {
        let mut host = Host::tiny();
        let before = host.weights();
        host.load_adapter("first", &first, options(strengths.0)).unwrap();
        host.load_adapter("second", &second, options(strengths.1)).unwrap();
        let inputs: Vec<(&str, Tensor<B, 3>)> = first
            .targets()
            .map(|(name, blocks)| {
                let shape = [2, 3, blocks[0].down.cols()];
                let range = Distribution::Uniform(-1.0, 1.0);
                (name, Tensor::random(shape, range, &FlexDevice))
            })
            .collect();
        let beside = outputs(&host, &inputs);
        let base: Vec<Vec<f64>> =
            inputs.iter().map(|(name, _)| floats(host.layers[*name].weight.val())).collect();

        host.merge_adapters().unwrap();
        for (index, merged) in outputs(&host, &inputs).iter().enumerate() {
            let error = relative_error(&beside[index], merged);
            prop_assert!(error < 1e-5, "beside and merged differ by {error}");

            let name = inputs[index].0;
            let mut weight = base[index].clone();
            for (adapter, strength) in [(&first, strengths.0), (&second, strengths.1)] {
                let delta = delta(adapter.get(name).unwrap());
                weight.iter_mut().zip(delta).for_each(|(w, d)| *w += strength * d);
            }
            let error = relative_error(&floats(host.layers[name].weight.val()), &weight);
            prop_assert!(error < 1e-6, "merged and definition differ by {error}");
        }
        host.unmerge_adapters(&CheckpointWeights(&tiny_checkpoint())).unwrap();
        prop_assert!(host.weights() == before);
        prop_assert!(outputs(&host, &inputs) == beside);
    }
}
