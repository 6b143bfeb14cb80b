//! Weights in every layout and packed type: the numbers that the `gguf` package and PyTorch unpack them
//! to, bit for bit, under the official names, and the same forward passes as from an official directory.
//!
//! `tests/golden/write_layouts.py` wrote the files.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use longcat_dit::{DitConfig, LongCatTransformer, TextCondition, kijai_names};
use longcat_kernels::KernelBackend;
use longcat_text::{Umt5Config, Umt5Encoder};
use longcat_vae::{WanVae, WanVaeConfig};
use longcat_weights::{
    LoadAs, NamedTensor, Precision, WeightFiles, collect_module, write_safetensors,
};
use sha2::{Digest, Sha256};

fn layouts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/layouts")
}

/// For every file the official names, shapes and hashes of its tensors.
fn expected() -> BTreeMap<String, BTreeMap<String, serde_json::Value>> {
    let text = std::fs::read(layouts().join("expected.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// A file under official names.
fn official(name: &str) -> WeightFiles {
    let files = WeightFiles::open(&layouts().join(name)).unwrap();
    if name.starts_with("umt5") {
        longcat_text::official_weights(&files).unwrap()
    } else if name.starts_with("vae") {
        longcat_vae::official_weights(&files).unwrap()
    } else {
        longcat_dit::official_weights(&files).unwrap()
    }
}

fn transformers() -> Vec<String> {
    let others = ["umt5", "vae", "fp8_patterns"];
    let mut names: Vec<String> = expected().into_keys().collect();
    names.retain(|name| !others.iter().any(|other| name.starts_with(other)));
    assert_eq!(names.len(), 9);
    names
}

#[test]
fn every_layout_unpacks_to_the_numbers_of_the_reference() {
    for (name, tensors) in expected() {
        let files = official(&name);
        let keys: Vec<&str> = files.keys().filter(|key| *key != "spiece_model").collect();
        assert_eq!(keys, tensors.keys().collect::<Vec<_>>(), "{name}");
        for (key, expected) in &tensors {
            let data = files.tensor_data_in(key, Some(DType::F32)).unwrap();
            let shape: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
            assert_eq!(data.shape.to_vec(), shape, "{name}: {key}");
            let digest = Sha256::digest(data.as_bytes());
            let hash: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hash, expected["sha256"], "{name}: {key}");
        }
    }
}

/// Writes what a file unpacks to as an official directory.
fn official_directory(files: &WeightFiles, config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tensors: Vec<NamedTensor> = files
        .keys()
        .filter(|key| *key != "spiece_model")
        .map(|key| NamedTensor {
            name: key.to_string(),
            data: files.tensor_data_in(key, Some(DType::F32)).unwrap(),
        })
        .collect();
    let path = dir.path().join("model.safetensors");
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    dir
}

fn ramp<const D: usize>(shape: [usize; D]) -> Tensor<Flex, D> {
    let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.37).sin());
    Tensor::from_data(
        TensorData::new(values.collect::<Vec<f32>>(), shape),
        &FlexDevice,
    )
}

/// Unpacked while it is loaded.
fn dense(dtype: DType) -> LoadAs {
    LoadAs {
        dtype: Some(dtype),
        precision: Precision::Dense,
        ..LoadAs::default()
    }
}

/// Loads a path as `dtype` and predicts.
fn predict(path: &Path, dtype: DType) -> (DitConfig, TensorData) {
    let (model, _) = LongCatTransformer::<Flex>::load(path, dense(dtype), &FlexDevice).unwrap();
    let text = TextCondition {
        embeds: ramp([1, 3, 24]).cast(dtype),
        mask: None,
    };
    let timesteps = Tensor::full([1, 2], 500.0, &FlexDevice);
    let out = model.forward(ramp([1, 16, 2, 4, 4]).cast(dtype), timesteps, &text, 0);
    (model.config().clone(), out.unwrap().into_data())
}

#[test]
fn transformers_predict_as_from_an_official_directory() {
    for name in transformers() {
        let (config, packed) = predict(&layouts().join(&name), DType::F32);
        assert_eq!(
            (config.depth, config.hidden_size, config.num_heads),
            (1, 32, 2),
            "{name}"
        );
        let json = serde_json::to_string(&config).unwrap();
        let dir = official_directory(&official(&name), &json);
        assert_eq!(predict(dir.path(), DType::F32), (config, packed), "{name}");
    }
    // In another type: each weight is rounded once, wherever it comes from.
    let name = "kijai_mixed.gguf";
    let (config, packed) = predict(&layouts().join(name), DType::BF16);
    let json = serde_json::to_string(&config).unwrap();
    let dir = official_directory(&official(name), &json);
    assert_eq!(predict(dir.path(), DType::BF16).1, packed);
}

/// Loads packed weights and reads back what the device has.
fn check_on<B: KernelBackend>(device: &B::Device) {
    let name = "kijai_mixed.gguf";
    let path = layouts().join(name);
    let (model, _) = LongCatTransformer::<B>::load(&path, dense(DType::F32), device).unwrap();
    let files = official(name);
    let tensors = collect_module::<B, _>(&model, &longcat_dit::internal_names()).unwrap();
    assert_eq!(tensors.len(), files.keys().count());
    for NamedTensor { name, data } in tensors {
        let unpacked = files.tensor_data_in(&name, Some(DType::F32)).unwrap();
        // The kernel of the patch embedding is a matrix in the model.
        let unpacked = TensorData::new(unpacked.into_vec::<f32>().unwrap(), data.shape.clone());
        assert_eq!(data, unpacked, "{name}");
    }
}

#[test]
fn packed_weights_reach_the_device_unpacked() {
    check_on::<Flex>(&FlexDevice);
    #[cfg(feature = "wgpu")]
    check_on::<burn_wgpu::Wgpu>(&burn_wgpu::WgpuDevice::default());
}

#[test]
fn text_encoders_of_every_layout_encode_alike() {
    let encode = |path: &Path| {
        let (encoder, config) =
            Umt5Encoder::<Flex>::load(path, dense(DType::F32), &FlexDevice).unwrap();
        let ids = Tensor::from_data([[5, 9, 17, 1, 0]], &FlexDevice);
        let mask = Tensor::from_data([[true, true, true, true, false]], &FlexDevice);
        (config, encoder.forward(ids, mask).into_data())
    };
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/checkpoints/tiny/text_encoder");
    let released = Umt5Config::read(&tiny.join("config.json")).unwrap();
    for name in [
        "umt5_wan_bf16.pth",
        "umt5_fp8_scaled.safetensors",
        "umt5_q8_0.gguf",
    ] {
        let (config, states) = encode(&layouts().join(name));
        assert_eq!(config, released, "{name}");
        let dir = official_directory(&official(name), &config.to_json().to_string());
        assert_eq!(encode(dir.path()), (config, states), "{name}");
    }
}

#[test]
fn a_vae_under_wan_s_names_decodes_as_under_those_of_diffusers() {
    let decode = |path: &Path| {
        let vae = WanVae::<Flex>::load(path, DType::F32, &FlexDevice).unwrap();
        let video = vae.decode(ramp([1, 16, 2, 1, 1])).unwrap();
        (vae.config().clone(), video.into_data())
    };
    let name = "vae_wan_bf16.pth";
    let (config, video) = decode(&layouts().join(name));
    let expected = WanVaeConfig {
        base_dim: 2,
        decoder_base_dim: 2,
        ..WanVaeConfig::default()
    };
    assert_eq!(config, expected);
    let dir = official_directory(&official(name), &config.to_json().to_string());
    assert_eq!(decode(dir.path()), (config, video));
}

#[test]
fn the_shapes_of_the_tiny_checkpoint_tell_its_config() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/checkpoints/tiny");
    let open = |part: &str| WeightFiles::open(&tiny.join(part)).unwrap();
    let read = DitConfig::read(&tiny.join("dit/config.json")).unwrap();
    let told = DitConfig::of_weights(&open("dit")).unwrap();
    let bsa_params = told.bsa_params.clone();
    assert_eq!(told, DitConfig { bsa_params, ..read });
    let read = WanVaeConfig::read(&tiny.join("vae/config.json")).unwrap();
    assert_eq!(WanVaeConfig::of_weights(&open("vae")).unwrap(), read);
}

#[test]
fn names_lead_to_kijai_s_and_back() {
    let files = official("kijai_bf16.safetensors");
    let stored = WeightFiles::open(&layouts().join("kijai_bf16.safetensors")).unwrap();
    let stored = stored.without_prefix(&["model.diffusion_model."]);
    let mut theirs: Vec<String> = kijai_names(&files)
        .into_iter()
        .flat_map(|(_, parts)| parts)
        .collect();
    theirs.sort();
    assert_eq!(theirs, stored.keys().collect::<Vec<_>>());
}

#[test]
fn shapes_that_make_no_model_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.safetensors");
    let header = r#"{"x_embedder.proj.weight": {"dtype": "F32", "shape": [4611686018427387904, 0, 1, 2, 2], "data_offsets": [0, 0]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = DitConfig::of_weights(&WeightFiles::open(&path).unwrap()).unwrap_err();
    let message = error.to_string();
    for word in [
        "odd.safetensors",
        "x_embedder.proj.weight",
        "4611686018427387904",
    ] {
        assert!(message.contains(word), "{word} not in {message}");
    }
}
