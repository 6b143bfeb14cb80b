//! What a `vae/` directory may hold, and what is said where it may not.

use std::path::Path;

use burn::tensor::{DType, Tensor};
use burn_flex::{Flex, FlexDevice};
use longcat_vae::{
    LatentColours, Tiling, VaeOptions, WanVae, WanVaeConfig, canonical_names, internal_names,
};
use longcat_weights::{ConfigError, WeightFiles, collect_module, write_safetensors};
use serde_json::{Value, json};

use crate::draws;
use crate::golden::{self, cases};

fn tiny() -> std::path::PathBuf {
    cases("vae_decode")[0].vae_dir()
}

fn tiny_json() -> Value {
    serde_json::from_slice(&std::fs::read(tiny().join("config.json")).unwrap()).unwrap()
}

fn read(config: &Value) -> Result<WanVaeConfig, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    WanVaeConfig::read(&path)
}

fn small() -> WanVaeConfig {
    WanVaeConfig {
        base_dim: 2,
        decoder_base_dim: 4,
        z_dim: 2,
        dim_mult: vec![1, 2],
        num_res_blocks: 1,
        temperal_downsample: vec![true],
        latents_mean: vec![0.1, -0.2],
        latents_std: vec![0.5, 2.0],
        in_channels: 3,
        out_channels: 3,
        scale_factor_spatial: 2,
        scale_factor_temporal: 2,
        colours: Some(LatentColours {
            factors: vec![[0.1, -0.3, 0.7], [0.0, 1e-7, 2.5]],
            bias: [0.0, -0.1, 0.2],
        }),
    }
}

#[test]
fn absent_keys_mean_the_released_network() {
    assert_eq!(read(&json!({})).unwrap(), WanVaeConfig::default());
    let config = read(&json!({ "base_dim": 32 })).unwrap();
    assert_eq!((config.base_dim, config.decoder_base_dim), (32, 32));
}

#[test]
fn configs_survive_writing_and_reading() {
    for config in [
        small(),
        WanVaeConfig::default(),
        read(&tiny_json()).unwrap(),
    ] {
        assert_eq!(read(&config.to_json()).unwrap(), config);
    }
}

#[test]
fn colours_are_those_of_the_config_or_of_released_latents() {
    let released = Some(LatentColours::released());
    assert_eq!(WanVaeConfig::default().latent_colours(), released);
    let narrow = read(&json!({ "base_dim": 32 })).unwrap();
    assert_eq!(narrow.latent_colours(), released);
    let other = read(&json!({ "latents_mean": vec![0.5; 16] })).unwrap();
    assert_eq!(other.latent_colours(), None);
    assert_eq!(small().latent_colours(), small().colours);
}

#[test]
fn values_that_ask_for_something_else_are_refused_by_name() {
    let cases = [
        ("_class_name", json!("AutoencoderKL"), "AutoencoderKLWan"),
        ("is_residual", json!(true), "false"),
        ("patch_size", json!(2), "null"),
        ("attn_scales", json!([1.0]), "[]"),
        ("dropout", json!(0.1), "0.0"),
        ("causal", json!(false), "unknown key"),
        ("base_dim", json!("wide"), "wide"),
        ("z_dim", json!(0), "0"),
        ("dim_mult", json!([]), "positive"),
        ("temperal_downsample", json!([true]), "3 are needed"),
        ("scale_factor_spatial", json!(16), "2^3"),
        ("scale_factor_temporal", json!(8), "2^2"),
        ("latents_mean", json!([0.0]), "z_dim is 16"),
        ("latents_std", json!([1.0]), "z_dim is 16"),
        ("latents_std", json!(vec![0.0; 16]), "positive"),
        (
            "_latent_colours",
            json!({ "factors": [[1.0, 0.0, 0.0]], "bias": [0.0, 0.0, 0.0] }),
            "z_dim is 16",
        ),
        (
            "_latent_colours",
            json!({ "factors": [[1.0, 0.0]], "bias": [0.0, 0.0, 0.0] }),
            "factors",
        ),
    ];
    for (key, value, mentions) in cases {
        let mut config = tiny_json();
        config[key] = value;
        let message = read(&config).unwrap_err().to_string();
        for word in ["config.json", key, mentions] {
            assert!(message.contains(word), "{key}: {word:?} not in {message:?}");
        }
    }
    for text in ["[]", "{"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let message = WanVaeConfig::read(&path).unwrap_err().to_string();
        assert!(message.contains("config.json"), "{message}");
    }
    let message = WanVaeConfig::read(Path::new("nowhere/config.json")).unwrap_err();
    assert!(message.to_string().contains("nowhere/config.json"));
}

#[test]
fn weights_of_another_width_are_refused_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = tiny_json();
    config["base_dim"] = json!(6);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let file = "diffusion_pytorch_model.safetensors";
    std::fs::copy(tiny().join(file), dir.path().join(file)).unwrap();
    let error = WanVae::<Flex>::load(dir.path(), DType::F32, &FlexDevice).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("decoder.conv_in.bias"), "{message}");
}

#[test]
fn names_lead_to_the_module_tree_and_back() {
    let files = WeightFiles::open(&tiny()).unwrap();
    let (there, back) = (canonical_names(), internal_names());
    for key in files.keys() {
        assert_eq!(back.map(&there.map(key)), key);
    }
}

#[test]
fn a_new_vae_of_any_config_encodes_and_decodes() {
    let config = small();
    let vae = draws::vae::<Flex>(&config);
    let video = Tensor::zeros([2, 3, 4, 8, 6], &FlexDevice);
    let posterior = vae.encode(video).unwrap();
    assert_eq!(posterior.mean.dims(), [2, 2, config.latent_frames(4), 4, 3]);
    let latents = vae.normalize(posterior.mean.clone());
    let back = vae.denormalize(latents.clone());
    let back = golden::relative_error(&golden::values(back), &golden::values(posterior.mean));
    assert!(back < 1e-6, "{back:e}");
    let video = vae.decode(latents).unwrap();
    assert_eq!(video.dims(), [2, 3, config.frames(2), 8, 6]);
}

#[test]
fn a_saved_vae_loads_as_it_was() {
    let config = small();
    let vae = draws::vae::<Flex>(&config);
    let dir = tempfile::tempdir().unwrap();
    let json = config.to_json().to_string();
    std::fs::write(dir.path().join("config.json"), json).unwrap();
    write_safetensors(
        &dir.path().join("diffusion_pytorch_model.safetensors"),
        &collect_module(&vae, &internal_names()).unwrap(),
        &Default::default(),
    )
    .unwrap();
    let loaded = WanVae::<Flex>::load(dir.path(), DType::F32, &FlexDevice).unwrap();
    assert_eq!(loaded.config(), &config);
    let latents = Tensor::ones([1, 2, 2, 3, 3], &FlexDevice);
    let decode = |vae: &WanVae<Flex>| golden::values(vae.decode(latents.clone()).unwrap());
    assert_eq!(decode(&loaded), decode(&vae));
}

#[test]
fn sampling_adds_the_noise_in_standard_deviations() {
    let posterior = longcat_vae::Posterior::<Flex> {
        mean: Tensor::full([1, 1, 1, 1, 2], 0.5, &FlexDevice),
        logvar: Tensor::full([1, 1, 1, 1, 2], 4.0_f64.ln(), &FlexDevice),
    };
    let noise = Tensor::<Flex, 1>::from_floats([1.5, -0.25], &FlexDevice).reshape([1, 1, 1, 1, 2]);
    let sample = golden::values(posterior.sample(noise));
    // A variance of 4 is a standard deviation of 2.
    for (value, expected) in sample.iter().zip([3.5, 0.0]) {
        assert!((value - expected).abs() < 1e-6, "{value} {expected}");
    }
}

#[test]
fn tensors_and_options_that_do_not_fit_are_refused() {
    let vae = draws::vae::<Flex>(&small());
    let zeros = |shape| Tensor::<Flex, 5>::zeros(shape, &FlexDevice);
    let chunked = |latent_frames_per_chunk| VaeOptions {
        latent_frames_per_chunk,
        ..VaeOptions::default()
    };
    let tiled = |tile, stride| VaeOptions {
        tiling: Some(Tiling { tile, stride }),
        ..VaeOptions::default()
    };
    let latents = || zeros([1, 2, 1, 4, 4]);
    let refused = [
        (vae.encode(zeros([1, 3, 1, 7, 8])).err(), "multiples of 2"),
        (vae.encode(zeros([1, 4, 1, 8, 8])).err(), "3 channels"),
        (vae.decode(zeros([1, 3, 1, 4, 4])).err(), "2 channels"),
        (
            vae.encode_stream([8, 5], &chunked(1)).err(),
            "multiples of 2",
        ),
        (
            vae.encode_stream([8, 8], &chunked(1))
                .unwrap()
                .finish()
                .err(),
            "at least one frame",
        ),
        (
            vae.encode_stream([8, 8], &chunked(1))
                .unwrap()
                .push(zeros([1, 3, 1, 8, 4]))
                .err(),
            "expected [B, 3, F, 8, 8]",
        ),
        (
            vae.decode_chunks(latents(), &chunked(0)).err(),
            "latent_frames_per_chunk = 0",
        ),
        (
            vae.decode_chunks(latents(), &tiled([5, 4], [4, 4])).err(),
            "multiples of 2",
        ),
        (
            vae.decode_chunks(latents(), &tiled([4, 4], [4, 0])).err(),
            "multiples of 2",
        ),
        (
            vae.decode_chunks(latents(), &tiled([4, 4], [4, 6])).err(),
            "gaps",
        ),
    ];
    for (error, mentions) in refused {
        let message = error.unwrap().to_string();
        assert!(
            message.contains(mentions),
            "{mentions:?} not in {message:?}"
        );
    }
}
