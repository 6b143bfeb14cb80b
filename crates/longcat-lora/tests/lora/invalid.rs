//! Bad files get the error they must get.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use longcat_lora::{Adapter, AdapterReport, LoraError, TargetTable};
use longcat_weights::{NamedTensor, write_safetensors};

use crate::common::*;

#[test]
fn inspect_reports_what_loading_refuses() {
    let case = case("lora_invalid");
    for invalid in case["invalid"].as_array().unwrap() {
        let file = invalid["file"].as_str().unwrap();
        let path = golden(&format!("cases/lora_invalid/{file}"));
        let code = invalid["code"].as_str().unwrap();
        match (AdapterReport::inspect(&path, table()), code) {
            // A file that names other layers than this model's is in itself a good one.
            (Ok(_), "unknown_module") => {}
            (Ok(_), "shape_mismatch") if file.starts_with("shape") => {}
            // "Must be refused or applied as DoRA, never ignored."
            (Ok(report), "unsupported_dora") if report.other_changes.contains_key("DoRA") => {}
            (Err(error), "unsupported_dora") => assert_eq!(error.code(), "missing_config"),
            (Ok(report), _) => assert!(!report.problems.is_empty(), "{file}"),
            (Err(error), _) => assert_eq!(error.code(), code),
        }
    }
}

/// Writes a file of small zero matrices and scalars, and reads it as an adapter.
fn read_keys(keys: &[(&str, &[usize])], metadata: &[(&str, &str)]) -> Result<Adapter, LoraError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    let tensors: Vec<NamedTensor> = keys
        .iter()
        .map(|(name, shape)| NamedTensor {
            name: name.to_string(),
            data: TensorData::new(vec![1.0f32; shape.iter().product()], shape.to_vec()),
        })
        .collect();
    let metadata: BTreeMap<String, String> = metadata
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect();
    write_safetensors(&path, &tensors, &metadata).unwrap();
    Adapter::read(&path, table())
}

fn code(keys: &[(&str, &[usize])]) -> &'static str {
    read_keys(keys, &[]).unwrap_err().code()
}

#[test]
fn other_kinds_of_adapters_are_refused_by_name() {
    let proj = "lora_unet_blocks_0_attn_proj";
    let with = |ending: &str, shape: &'static [usize]| {
        let key = format!("{proj}.{ending}");
        let error = read_keys(&[(&key, shape)], &[]).unwrap_err();
        assert!(error.to_string().contains(&key), "{error}");
        error.code()
    };
    assert_eq!(with("hada_w1_a", &[4, 2]), "unsupported_loha");
    assert_eq!(with("hada_t1", &[2, 2]), "unsupported_loha");
    assert_eq!(with("lokr_w1", &[2, 2]), "unsupported_lokr");
    assert_eq!(with("lokr_w2_b", &[2, 2]), "unsupported_lokr");
    assert_eq!(with("dora_scale", &[4, 1]), "unsupported_dora");
    assert_eq!(with("a1.weight", &[4, 4]), "unsupported_glora");
    assert_eq!(with("oft_blocks", &[2, 4, 4]), "unsupported_oft");
    assert_eq!(with("lora_mid.weight", &[4, 4]), "unsupported_tucker");
    assert_eq!(with("w_norm", &[4]), "unsupported_norm");
    assert_eq!(with("on_input", &[1]), "unsupported_ia3");
}

const A: &str = "diffusion_model.blocks.0.attn.proj.lora_A.weight";
const B_KEY: &str = "diffusion_model.blocks.0.attn.proj.lora_B.weight";

#[test]
fn keys_that_fit_nothing_are_errors() {
    let good: [(&str, &[usize]); 2] = [(A, &[2, 4]), (B_KEY, &[4, 2])];
    assert!(read_keys(&good, &[]).is_ok());
    let with = |key: &'static str, shape: &'static [usize]| code(&[good[0], good[1], (key, shape)]);
    assert_eq!(with("something.else", &[1]), "unused_keys");
    assert_eq!(
        with("transformer.blocks.1.attn.proj.lora_A.weight", &[2, 4]),
        "unused_keys"
    );
    assert_eq!(
        with("diffusion_model.blocks.0.other.lora_A.weight", &[2, 4]),
        "unknown_module"
    );
    assert_eq!(
        with(
            "diffusion_model.blocks.0.attn.proj.lora_down.weight",
            &[2, 4]
        ),
        "duplicate"
    );
    assert_eq!(code(&[(A, &[2, 4])]), "missing_up");
    assert_eq!(code(&[(B_KEY, &[2, 4])]), "missing_down");
    assert_eq!(code(&[(A, &[2, 4, 1]), (B_KEY, &[4, 2])]), "shape_mismatch");
    assert_eq!(code(&[(A, &[0, 4]), (B_KEY, &[4, 0])]), "shape_mismatch");
}

#[test]
fn a_fused_layer_given_whole_and_in_parts_is_an_error() {
    assert_eq!(
        code(&[
            ("blocks.0.attn.qkv.lora_A.weight", &[2, 4]),
            ("blocks.0.attn.qkv.lora_B.weight", &[12, 2]),
            ("blocks.0.attn.to_q.lora_A.weight", &[2, 4]),
            ("blocks.0.attn.to_q.lora_B.weight", &[4, 2]),
        ]),
        "duplicate"
    );
    // Parts of one layer have equal output rows.
    assert_eq!(
        code(&[
            ("blocks.0.attn.to_k.lora_A.weight", &[2, 4]),
            ("blocks.0.attn.to_k.lora_B.weight", &[5, 2]),
            ("blocks.0.attn.to_q.lora_A.weight", &[2, 4]),
            ("blocks.0.attn.to_q.lora_B.weight", &[4, 2]),
        ]),
        "shape_mismatch"
    );
}

#[test]
fn a_flattened_name_of_two_layers_is_ambiguous() {
    use longcat_lora::Target;
    let target = |name| Target {
        name,
        parts: 1,
        split: &[],
    };
    let table = TargetTable::new(&[target("a.b_c"), target("a_b.c")], &[]);
    assert_eq!(table.unflatten("a_b_c"), ["a.b_c", "a_b.c"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let tensor = NamedTensor {
        name: "lora_unet_a_b_c.lora_down.weight".into(),
        data: TensorData::new(vec![0.0f32; 4], [1, 4]),
    };
    write_safetensors(&path, &[tensor], &BTreeMap::new()).unwrap();
    let error = Adapter::read(&path, &table).unwrap_err();
    assert_eq!(error.code(), "ambiguous_name");
    assert!(error.to_string().contains("a_b.c"), "{error}");
}

#[test]
fn peft_settings_that_change_the_numbers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = golden("cases/lora_formats_peft/adapter");
    let weights = "adapter_model.safetensors";
    std::fs::copy(source.join(weights), dir.path().join(weights)).unwrap();
    let config = std::fs::read_to_string(source.join("adapter_config.json")).unwrap();
    let with = |changes: &[(&str, serde_json::Value)]| {
        let mut json: serde_json::Value = serde_json::from_str(&config).unwrap();
        for (key, value) in changes {
            json[*key] = value.clone();
        }
        std::fs::write(dir.path().join("adapter_config.json"), json.to_string()).unwrap();
        Adapter::read(dir.path(), table()).map_err(|e| e.code())
    };
    assert_eq!(with(&[("use_dora", true.into())]), Err("unsupported_dora"));
    assert_eq!(
        with(&[("peft_type", "LOHA".into())]),
        Err("unsupported_loha")
    );
    assert_eq!(with(&[("peft_type", "IA3".into())]), Err("invalid_config"));
    assert_eq!(with(&[("r", 5.into())]), Err("invalid_config"));
    assert_eq!(
        with(&[("init_lora_weights", "pissa_niter_4".into())]),
        Err("invalid_config")
    );
    assert_eq!(
        with(&[("rank_pattern", serde_json::json!({"(": 6}))]),
        Err("invalid_config")
    );
    // The first pattern that matches a name or its end counts.
    let alphas = serde_json::json!({"ffn.w1": 3, "blocks.1.ffn.w1": 4, r"blocks\.1\..*": 5});
    let adapter = with(&[("alpha_pattern", alphas)]).unwrap();
    let scale = |target: &str| adapter.get(target).unwrap()[0].scale;
    assert_eq!(scale("blocks.0.ffn.w1"), 3.0 / 6.0);
    assert_eq!(scale("blocks.1.ffn.w1"), 3.0 / 6.0);
    assert_eq!(scale("blocks.1.ffn.w2"), 5.0 / 6.0);
    assert_eq!(scale("blocks.0.ffn.w2"), 9.0 / 6.0);

    std::fs::remove_file(dir.path().join("adapter_config.json")).unwrap();
    let error = Adapter::read(dir.path(), table()).unwrap_err();
    assert_eq!(error.code(), "missing_config");
}
