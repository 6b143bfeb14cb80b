//! Checkpoints of single files: opened from a folder or part by part, converted there and back, inspected.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use burn_flex::{Flex, FlexDevice};
use longcat_dit::DitConfig;
use longcat_video::{
    Checkpoint, CheckpointParts, VideoError, WeightsReport, convert_to_comfyui,
    convert_to_official, inspect_weights,
};
use longcat_weights::WeightFiles;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(path)
}

fn tiny() -> PathBuf {
    golden("checkpoints/tiny")
}

fn goes_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A folder with a file for each network of the tiny checkpoint, the transformer's under Kijai's names.
fn single_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tiny_checkpoint = Checkpoint::open(tiny()).unwrap();
    let transformer = dir.path().join("LongCat_comfy.safetensors");
    convert_to_comfyui(&tiny_checkpoint, &transformer, None, &mut goes_on).unwrap();
    fs::create_dir(dir.path().join("vae")).unwrap();
    for (from, to) in [
        ("text_encoder/model.safetensors", "umt5.safetensors"),
        (
            "vae/diffusion_pytorch_model.safetensors",
            "vae/wan_vae.safetensors",
        ),
        ("tokenizer/tokenizer.json", "tokenizer.json"),
    ] {
        fs::copy(tiny().join(from), dir.path().join(to)).unwrap();
    }
    dir
}

fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = longcat_dit::official_weights(&WeightFiles::open(path).unwrap()).unwrap();
    let tensor = |key: &str| (key.to_string(), files.bytes(key).unwrap().into_owned());
    files.keys().map(tensor).collect()
}

#[test]
fn a_checkpoint_goes_to_single_files_and_back_without_a_change() {
    let dir = single_files();
    let transformer = dir.path().join("LongCat_comfy.safetensors");
    let keys = WeightFiles::open(&transformer).unwrap();
    assert!(keys.info("blocks.1.self_attn.k.weight").is_some());
    assert_eq!(tensors(&transformer), tensors(&tiny().join("dit")));

    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.transformer_dir(), transformer);
    let released = Checkpoint::open(tiny()).unwrap();
    // The block-sparse parameters of the tiny checkpoint are its own: no shape tells them.
    assert_eq!(
        checkpoint.transformer_config().unwrap(),
        released.transformer_config().unwrap()
    );
    assert_eq!(
        checkpoint.vae_config().unwrap(),
        released.vae_config().unwrap()
    );
    assert_eq!(
        checkpoint.scheduler().unwrap(),
        released.scheduler().unwrap()
    );
    checkpoint
        .load_transformer::<Flex>(None::<DType>, &FlexDevice)
        .unwrap();
    checkpoint
        .load_text_encoder::<Flex>(DType::F32, &FlexDevice)
        .unwrap();
    checkpoint
        .load_vae::<Flex>(DType::F32, &FlexDevice)
        .unwrap();

    let back = dir.path().join("official");
    convert_to_official(&checkpoint, &back, None, &mut goes_on).unwrap();
    assert_eq!(tensors(&back.join("dit")), tensors(&tiny().join("dit")));
    for part in ["text_encoder", "vae"] {
        let bytes = |root: &Path| {
            let files = WeightFiles::open(&root.join(part)).unwrap();
            let tensor = |key: &str| (key.to_string(), files.bytes(key).unwrap().into_owned());
            files.keys().map(tensor).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(bytes(&back), bytes(&tiny()), "{part}");
    }
    let opened = Checkpoint::open(&back).unwrap();
    let read = DitConfig::read(&tiny().join("dit/config.json")).unwrap();
    assert_eq!(opened.transformer_config().unwrap(), read);
    assert!(whole(
        &inspect_weights::<Flex>(&back, &FlexDevice).unwrap(),
        3
    ));
    let error = convert_to_official(&checkpoint, &back, None, &mut goes_on).unwrap_err();
    assert!(error.to_string().contains("it exists"), "{error}");
}

fn whole(reports: &[WeightsReport], count: usize) -> bool {
    reports.len() == count && reports.iter().all(WeightsReport::is_whole)
}

#[test]
fn parts_come_from_several_places() {
    let parts = CheckpointParts {
        transformer: Some(golden("layouts/kijai_q8_0.gguf")),
        vae: Some(golden("layouts/vae_wan_bf16.pth")),
        ..tiny().into()
    };
    let checkpoint = Checkpoint::open(&parts).unwrap();
    assert_eq!(checkpoint.transformer_config().unwrap().depth, 1);
    assert_eq!(checkpoint.vae_config().unwrap().base_dim, 2);
    assert_eq!(checkpoint.text_encoder_path(), tiny().join("text_encoder"));

    // A text encoder that carries its tokenizer needs no other.
    let parts = CheckpointParts {
        model: None,
        text_encoder: Some(golden("layouts/umt5_fp8_scaled.safetensors")),
        ..parts
    };
    let checkpoint = Checkpoint::open(&parts).unwrap();
    let encoder = checkpoint.load_text_encoder::<Flex>(DType::F32, &FlexDevice);
    let (embeds, mask) = encoder
        .unwrap()
        .encode_prompts(&["a cat".into()], 8)
        .unwrap();
    assert_eq!((embeds.dims(), mask[0].len()), ([1, 1, 8, 48], 8));

    // Packed weights become bf16 where they are written.
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("unpacked.safetensors");
    convert_to_comfyui(&checkpoint, &output, None, &mut goes_on).unwrap();
    let values = |path: &Path, dtype| {
        let files = longcat_dit::official_weights(&WeightFiles::open(path).unwrap()).unwrap();
        let data = |key: &str| files.tensor_data_in(key, Some(dtype)).unwrap();
        files.keys().map(data).collect::<Vec<_>>()
    };
    let packed = golden("layouts/kijai_q8_0.gguf");
    assert_eq!(values(&output, DType::BF16), values(&packed, DType::BF16));
}

#[test]
fn wrong_missing_and_doubled_parts_are_named() {
    let open = |parts: CheckpointParts| Checkpoint::open(parts).unwrap_err();
    let swapped = CheckpointParts {
        transformer: Some(golden("layouts/umt5_q8_0.gguf")),
        ..tiny().into()
    };
    let error = open(swapped);
    assert!(
        matches!(error, VideoError::Invalid { what: "--dit", .. }),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains("UMT5") && message.contains("--text-encoder takes"),
        "{message}"
    );

    let alone = CheckpointParts {
        transformer: Some(golden("layouts/kijai_q8_0.gguf")),
        ..CheckpointParts::default()
    };
    let error = open(alone);
    let named = matches!(
        error,
        VideoError::Invalid {
            what: "--text-encoder",
            ..
        }
    );
    assert!(named, "{error}");

    let dir = single_files();
    fs::copy(
        golden("layouts/kijai_fp8.safetensors"),
        dir.path().join("b.safetensors"),
    )
    .unwrap();
    let message = open(dir.path().into()).to_string();
    for word in ["b.safetensors", "LongCat_comfy.safetensors", "--dit"] {
        assert!(message.contains(word), "{word} not in {message}");
    }
    fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    fs::remove_file(dir.path().join("umt5.safetensors")).unwrap();
    let error = open(dir.path().into());
    let named = matches!(&error, VideoError::MissingComponent { component, .. } if component == "text_encoder/");
    assert!(named, "{error}");
}

#[test]
fn inspecting_tells_what_files_are_and_lack() {
    let inspect = |path: &Path| inspect_weights::<Flex>(path, &FlexDevice).unwrap();
    assert!(whole(&inspect(&tiny()), 3));
    for (name, what, dtype) in [
        ("kijai_mixed.gguf", "Kijai", "Q4_K"),
        ("kijai_fp8_scaled.safetensors", "Kijai", "F8_E4M3 scaled"),
        ("official_int8", "official", "I8 scaled"),
        ("umt5_q8_0.gguf", "llama.cpp", "Q8_0"),
        ("umt5_wan_bf16.pth", "Wan", "BF16"),
        ("vae_wan_bf16.pth", "Wan", "BF16"),
    ] {
        let reports = inspect(&golden("layouts").join(name));
        assert!(whole(&reports, 1), "{name}: {:?}", reports[0].fit);
        assert!(reports[0].holds.contains(what), "{}", reports[0].holds);
        assert!(
            reports[0].dtypes.contains_key(dtype),
            "{:?}",
            reports[0].dtypes
        );
    }
    // One shard of two: half of the blocks are missing.
    let shard = tiny().join("dit/diffusion_pytorch_model-00001-of-00002.safetensors");
    let reports = inspect(&shard);
    assert!(!whole(&reports, 1));
    let other = inspect(&tiny().join("lora/cfg_step_lora.safetensors"));
    assert!(
        !other[0].known && other[0].holds.contains("adapter"),
        "{}",
        other[0].holds
    );
}
