//! Packed weights: scales in every spelling, rounding, and what is refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use longcat_weights::{WeightFiles, WeightsError, other_model};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};

pub(crate) fn layouts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/layouts")
}

type Stored<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A file of these tensors.
fn open(tensors: &[Stored<'_>]) -> Result<WeightFiles, WeightsError> {
    open_with(tensors, None)
}

fn open_with(
    tensors: &[Stored<'_>],
    metadata: Option<(&str, &str)>,
) -> Result<WeightFiles, WeightsError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("packed.safetensors");
    let views = tensors.iter().map(|(key, dtype, shape, bytes)| {
        (*key, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let metadata = metadata.map(|(key, value)| [(key.to_string(), value.to_string())].into());
    serialize_to_file(views, metadata, &path).unwrap();
    WeightFiles::open(&path)
}

fn values(files: &WeightFiles, key: &str) -> Vec<f32> {
    files.tensor_data(key).unwrap().to_vec::<f32>().unwrap()
}

/// 1, -2, 0.5, 448 in F8_E4M3.
const E4M3: [u8; 4] = [0x38, 0xc0, 0x30, 0x7e];

#[test]
fn a_scale_belongs_to_its_weight_in_every_spelling() {
    let weight = || ("a.weight", Dtype::F8_E4M3, vec![2, 2], E4M3.to_vec());
    for name in ["a.scale_weight", "a.weight_scale"] {
        for (shape, scale, expected) in [
            (vec![], vec![0.5], [0.5, -1.0, 0.25, 224.0]),
            (vec![1], vec![2.0], [2.0, -4.0, 1.0, 896.0]),
            (vec![2], vec![2.0, 4.0], [2.0, -4.0, 2.0, 1792.0]),
            (vec![2, 1], vec![2.0, 4.0], [2.0, -4.0, 2.0, 1792.0]),
            (
                vec![2, 2, 1],
                vec![1.0, 2.0, 3.0, 4.0],
                [1.0, -4.0, 1.5, 1792.0],
            ),
        ] {
            let marker = ("scaled_fp8", Dtype::F8_E4M3, vec![2], vec![0; 2]);
            let input = ("a.scale_input", Dtype::F32, vec![], floats(&[3.0]));
            let scale = (name, Dtype::F32, shape, floats(&scale));
            let files = open(&[weight(), scale, marker, input]).unwrap();
            assert_eq!(files.keys().collect::<Vec<_>>(), ["a.weight"]);
            assert_eq!(values(&files, "a.weight"), expected);
            assert!(files.info("a.weight").unwrap().scaled);
        }
    }
    let files = open(&[weight()]).unwrap();
    assert_eq!(values(&files, "a.weight"), [1.0, -2.0, 0.5, 448.0]);
}

#[test]
fn int8_needs_a_scale_and_takes_one_per_row() {
    let bytes = vec![1, 0xff, 127, 0x80];
    let scale = ("a.weight_scale", Dtype::F32, vec![2], floats(&[0.5, 0.25]));
    let expected = [0.5, -0.5, 31.75, -32.0];
    let files = open(&[
        ("a.weight_int8", Dtype::I8, vec![2, 2], bytes.clone()),
        scale.clone(),
    ]);
    assert_eq!(values(&files.unwrap(), "a.weight"), expected);

    let files = open(&[("a.weight", Dtype::I8, vec![2, 2], bytes)]).unwrap();
    let error = files.tensor_data("a.weight").unwrap_err().to_string();
    assert!(
        error.contains("a.weight") && error.contains("I8"),
        "{error}"
    );
}

#[test]
fn values_are_rounded_once_to_the_type_that_is_asked_for() {
    let halves: Vec<f32> = (0..5000).map(|i| (i as f32 * 0.7311).sin() * 1.5).collect();
    let bytes = floats(&halves);
    let files = open(&[("w", Dtype::F32, vec![5000], bytes)]).unwrap();
    let of = |dtype| files.tensor_data_in("w", Some(dtype)).unwrap();
    let expected: Vec<bf16> = halves.iter().map(|v| bf16::from_f32(*v)).collect();
    assert_eq!(of(DType::BF16), TensorData::new(expected, [5000]));
    let expected: Vec<f16> = halves.iter().map(|v| f16::from_f32(*v)).collect();
    assert_eq!(of(DType::F16), TensorData::new(expected, [5000]));
    let expected: Vec<f64> = halves.iter().map(|v| f64::from(*v)).collect();
    assert_eq!(of(DType::F64), TensorData::new(expected, [5000]));
}

#[test]
fn packed_values_that_are_not_finite_are_refused_by_name() {
    let weight = vec![0x38; 9000];
    for bad in [0usize, 4095, 4096, 8999] {
        let mut weight = weight.clone();
        weight[bad] = 0x7f;
        let files = open(&[("a.weight", Dtype::F8_E4M3, vec![9000], weight)]).unwrap();
        match files.tensor_data("a.weight").unwrap_err() {
            WeightsError::NotFinite { key, index, .. } => {
                assert_eq!((key.as_str(), index), ("a.weight", bad));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn what_is_packed_otherwise_is_refused_by_name() {
    let weight = |dtype| ("l.weight", dtype, vec![2, 2], vec![1; 4]);
    let scale = ("l.weight_scale", Dtype::F32, vec![], floats(&[1.0]));
    let quant = |json: &str| {
        (
            "l.comfy_quant",
            Dtype::U8,
            vec![json.len()],
            json.as_bytes().to_vec(),
        )
    };
    let fp8 = Dtype::F8_E4M3;
    let cases = [
        (
            vec![weight(Dtype::U8), quant(r#"{"format": "nvfp4"}"#)],
            "nvfp4",
        ),
        (
            vec![
                weight(Dtype::U8),
                ("l.weight_scale_2", Dtype::F32, vec![], floats(&[1.0])),
            ],
            "nvfp4",
        ),
        (
            vec![
                weight(fp8),
                ("l.weight_scale", Dtype::F8_E8M0, vec![2, 1], vec![1; 2]),
            ],
            "mxfp8",
        ),
        (
            vec![
                weight(Dtype::I8),
                scale.clone(),
                quant(r#"{"format": "int8_tensorwise", "convrot": true}"#),
            ],
            "convrot",
        ),
        (
            vec![weight(fp8), scale.clone(), quant("no json")],
            "not described",
        ),
        (
            vec![
                weight(fp8),
                ("l.weight_scale", Dtype::F32, vec![3], floats(&[1.0; 3])),
            ],
            "[3]",
        ),
        (
            vec![
                weight(fp8),
                scale.clone(),
                ("l.scale_weight", Dtype::F32, vec![], floats(&[1.0])),
            ],
            "two scales",
        ),
        (
            vec![
                weight(Dtype::I8),
                ("l.weight_int8", Dtype::I8, vec![2, 2], vec![1; 4]),
            ],
            "l.weight_int8",
        ),
    ];
    for (tensors, word) in cases {
        let error = open(&tensors).unwrap_err().to_string();
        assert!(error.contains("l.") || error.contains("l:"), "{error}");
        assert!(error.contains(word), "{word:?} not in {error:?}");
    }
    let metadata = r#"{"layers": {"l": {"format": "mxfp8"}}}"#;
    let error = open_with(&[weight(fp8)], Some(("_quantization_metadata", metadata)));
    assert!(error.unwrap_err().to_string().contains("mxfp8"));
}

#[test]
fn a_scale_without_a_weight_stays_a_key_that_loading_reports() {
    let scale = ("l.scale_weight", Dtype::F32, vec![], floats(&[1.0]));
    let files = open(&[scale]).unwrap();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["l.scale_weight"]);
}

#[test]
fn files_of_other_models_are_named() {
    let open = |keys: &[&str]| {
        let one = |key| (key, Dtype::F32, vec![1], floats(&[1.0]));
        let tensors: BTreeMap<&str, _> = keys.iter().map(|key| (*key, one(*key))).collect();
        open(&tensors.into_values().collect::<Vec<_>>()).unwrap()
    };
    for (keys, model) in [
        (
            &[
                "model.diffusion_model.blocks.0.self_attn.q.weight",
                "model.diffusion_model.blocks.0.ffn.0.weight",
                "model.diffusion_model.time_projection.1.weight",
            ][..],
            Some("Wan video transformer"),
        ),
        (
            &[
                "double_blocks.0.img_attn.qkv.weight",
                "txt_in.individual_token_refiner.blocks.0.norm1.weight",
            ],
            Some("HunyuanVideo"),
        ),
        (
            &["patchify_proj.weight", "adaln_single.linear.weight"],
            Some("LTX-Video"),
        ),
        (
            &[
                "blocks.0.attn.qkv.weight",
                "blocks.0.audio_cross_attn.q.weight",
            ],
            Some("Avatar"),
        ),
        (
            &[
                "blocks.0.attn.qkv.lora_A.weight",
                "blocks.0.attn.qkv.lora_B.weight",
            ],
            Some("--lora"),
        ),
        (&["blocks.0.attn.qkv.weight"], None),
    ] {
        let found = other_model(&open(keys));
        match model {
            Some(model) => assert!(found.unwrap().contains(model), "{found:?}"),
            None => assert_eq!(found, None),
        }
    }
}
