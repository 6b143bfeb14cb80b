//! Adapters of every format: loaded, stacked, merged and refused.

use burn::tensor::{DType, Tensor, TensorData};
use longcat_dit::{LongCatTransformer, lora_targets};
use longcat_kernels::KernelBackend;
use longcat_lora::{
    Adapter, Change, CheckpointWeights, LoraHost, LoraMerge, LoraOptions, LoraRegistry,
};
use longcat_weights::WeightFiles;
use serde_json::Value;

use crate::{Case, Golden, dit};

fn attach<B: KernelBackend>(
    golden: &Golden,
    model: &mut LongCatTransformer<B>,
    list: &Value,
    dtype: DType,
) {
    for row in list.as_array().unwrap() {
        let path = golden.path(row["file"].as_str().unwrap());
        let adapter = Adapter::read(&path, lora_targets()).unwrap();
        let options = LoraOptions {
            strength: row["multiplier"].as_f64().unwrap_or(1.0),
            dtype: Some(dtype),
        };
        model
            .load_adapter(row["name"].as_str().unwrap(), &adapter, options)
            .unwrap();
    }
}

fn output<B: KernelBackend>(
    model: &LongCatTransformer<B>,
    case: &Case,
    device: &B::Device,
) -> Tensor<B, 5> {
    let latents: Tensor<B, 5> = case.input("hidden_states", device);
    let timesteps = dit::timesteps::<B>(case, latents.dims()[2], device);
    model
        .forward(latents, timesteps, &dit::text(case, device), 0)
        .unwrap()
}

pub(crate) fn forward<B: KernelBackend>(
    golden: &Golden,
    case: &mut Case,
    device: &B::Device,
    dtype: DType,
) {
    let mut model = dit::load::<B>(golden, case, device, dtype);
    attach(golden, &mut model, case.param("loras"), dtype);
    if let Some(disabled) = case.param("loaded_then_disabled").as_array() {
        attach(golden, &mut model, &Value::Array(disabled.clone()), dtype);
        for row in disabled {
            let name = row["name"].as_str().unwrap();
            model.set_adapter_enabled(name, false).unwrap();
        }
    }
    case.check_tensor("out", output(&model, case, device));
}

pub(crate) fn formats<B: KernelBackend>(
    golden: &Golden,
    case: &mut Case,
    device: &B::Device,
    dtype: DType,
) {
    let mut model = dit::load::<B>(golden, case, device, dtype);
    let path = golden.path(case.param("adapter").as_str().unwrap());
    let adapter = Adapter::read(&path, lora_targets()).unwrap();
    let options = LoraOptions {
        dtype: Some(dtype),
        ..LoraOptions::default()
    };
    model.load_adapter("format", &adapter, options).unwrap();
    case.check_tensor("out", output(&model, case, device));
}

pub(crate) fn merge<B: KernelBackend>(golden: &Golden, case: &mut Case, device: &B::Device) {
    let mut model = dit::load::<B>(golden, case, device, DType::F32);
    let before = weights(&model);
    attach(golden, &mut model, case.param("loras"), DType::F32);
    model.merge_adapters().unwrap();
    for (name, weight) in weights(&model) {
        let key = format!("merged.{name}");
        if case.expected_names().contains(&key) {
            case.check(&key, weight);
        }
    }
    let files = WeightFiles::open(&golden.checkpoint(case).join("dit")).unwrap();
    model.unmerge_adapters(&CheckpointWeights(&files)).unwrap();
    for ((name, before), (_, after)) in before.iter().zip(&weights(&model)) {
        if before.as_bytes() != after.as_bytes() {
            case.fail(format!("{name} is not bit-identical after unmerging"));
        }
    }
}

fn weights<B: KernelBackend>(model: &LongCatTransformer<B>) -> Vec<(String, TensorData)> {
    let mut all = Vec::new();
    model.visit_lora(&mut |name, layer| {
        all.push((name.to_string(), layer.weight.val().into_data()))
    });
    all
}

fn applied_as_dora(case: &Case, file: &str) -> bool {
    let adapter = Adapter::read(&case.dir.join(file), lora_targets()).unwrap();
    let mut patches = adapter.patches().flat_map(|(_, patches)| patches);
    patches.any(|patch| matches!(patch.change, Change::Decomposed { .. }))
}

pub(crate) fn invalid<B: KernelBackend>(golden: &Golden, case: &mut Case, device: &B::Device) {
    let mut model = dit::load::<B>(golden, case, device, DType::F32);
    let before = weights(&model);
    let rows = case.json["invalid"].as_array().unwrap().clone();
    for row in rows {
        let file = row["file"].as_str().unwrap();
        let result = Adapter::read(&case.dir.join(file), lora_targets())
            .and_then(|adapter| model.load_adapter("bad", &adapter, LoraOptions::default()));
        let error = match result {
            // Rows of this code "must be refused or applied as DoRA, never ignored".
            Ok(_) if row["code"] == "unsupported_dora" && applied_as_dora(case, file) => {
                model.unload_adapter("bad").unwrap();
                continue;
            }
            Ok(_) => {
                case.fail(format!("{file} was accepted"));
                continue;
            }
            Err(error) => error,
        };
        let message = error.to_string();
        // A PEFT file without its settings is refused for that, whatever else it is.
        let codes = match row["code"].as_str().unwrap() {
            "unsupported_dora" => vec!["unsupported_dora", "missing_config"],
            code => vec![code],
        };
        if !codes.contains(&error.code()) {
            case.fail(format!("{file}: code {} ({message})", error.code()));
        }
        let words = row["must_mention"].as_array().unwrap().iter();
        for word in words.map(|w| w.as_str().unwrap()).chain([file]) {
            if !message.contains(word) {
                case.fail(format!("{file}: {word:?} is not in {message:?}"));
            }
        }
        // The file's own spelling of the factor, not only the canonical name of the layer.
        if error.code() == "shape_mismatch" && !message.contains("___lorahyphen___proj.lora_") {
            case.fail(format!("{file}: the key is not in {message:?}"));
        }
        if !model.adapters().is_empty() {
            case.fail(format!("{file}: the failed load left an adapter"));
        }
    }
    for ((name, before), (_, after)) in before.iter().zip(&weights(&model)) {
        if before.as_bytes() != after.as_bytes() {
            case.fail(format!("{name} changed in a failed load"));
        }
    }
}
