//! What only the laboratory trains: the VAE, the text encoder, guidance.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workshop::{Workshop, golden};
use burn::tensor::{DType, Distribution, Tensor};
use burn_flex::{Flex, FlexDevice};
use longcat_train::{Metric, read_metrics};
use longcat_vae::{WanVae, WanVaeConfig};

impl Workshop {
    fn run(&self, config: &Path) {
        let program = Command::new(env!("CARGO_BIN_EXE_miniature"))
            .args(["train", "--config"])
            .arg(config)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&program.stderr);
        assert!(program.status.success(), "{errors}");
    }
}

/// Guidance is of captions: where all of them are left out, it changes nothing.
#[test]
fn clips_without_caption_are_trained_without_guidance() {
    let shop = Workshop::new();
    let loss = |name: &str, guidance: f64, dropout: f64| {
        let extra = format!(
            "cache.posterior = 'mode'\ntrain.batch = 2\n\
             miniature.guidance = {guidance:.1}\nobjective.caption_dropout = {dropout}"
        );
        shop.run(&shop.config(name, 1, &extra));
        shop.losses(name)[0].1
    };
    let (plain, guided) = (loss("plain", 1.0, 1.0), loss("guided", 3.0, 1.0));
    assert!((plain - guided).abs() < 1e-5 * plain, "{plain} {guided}");
    let captioned = loss("captioned", 3.0, 1e-9);
    assert!(captioned < 0.5 * plain, "{captioned} {plain}");
}

#[test]
fn all_weights_of_a_model_and_its_text_encoder_can_be_trained_and_loaded() {
    let shop = Workshop::new();
    let extra = "mode = 'full'\nvalidation.every = 20\noptimizer.learning_rate = 1e-3\n\
                 miniature.train_text_encoder = true";
    let text = fs::read_to_string(shop.config("run", 20, "")).unwrap();
    let text = text.replace("optimizer.learning_rate = 1e-2\n", "");
    let config = shop.path("run.toml");
    fs::write(&config, format!("{extra}\n{text}")).unwrap();
    shop.run(&config);
    let lines = read_metrics(&shop.path("run/metrics.jsonl")).unwrap();
    let Metric::Validation {
        validation_loss, ..
    } = &lines[0]
    else {
        panic!("no validation before the first step");
    };
    let Some(Metric::Validation {
        validation_loss: last,
        ..
    }) = lines.last()
    else {
        panic!("no validation after the last step");
    };
    assert!(last < validation_loss);
    let dir = shop.path("run/dit");
    longcat_dit::LongCatTransformer::<Flex>::load(&dir, None::<burn::tensor::DType>, &FlexDevice)
        .unwrap();
    let dir = shop.path("run/text_encoder");
    longcat_text::Umt5Encoder::<Flex>::load(&dir, DType::F32, &FlexDevice).unwrap();
}

#[test]
fn a_vae_is_trained_from_scratch_and_loads_again() {
    let shop = Workshop::new();
    let text = fs::read_to_string(shop.config("run", 6, "")).unwrap();
    let text = text.replace(
        "optimizer.learning_rate = 1e-2",
        "optimizer.learning_rate = 1e-3",
    );
    let extra = "miniature = { random_weights = true, vae = {} }\nvalidation.every = 6\n";
    let config = shop.path("run.toml");
    fs::write(&config, format!("{extra}{text}")).unwrap();
    shop.run(&config);
    let lines = read_metrics(&shop.path("run/metrics.jsonl")).unwrap();
    let Metric::Validation {
        validation_loss, ..
    } = &lines[0]
    else {
        panic!("no validation before the first step");
    };
    let Some(Metric::Validation {
        validation_loss: last,
        ..
    }) = lines.last()
    else {
        panic!("no validation after the last step");
    };
    assert!(last < validation_loss);
    let vae = WanVae::<Flex>::load(&shop.path("run/vae"), DType::F32, &FlexDevice);
    let vae = vae.unwrap();
    assert_ne!(
        vae.config().latents_mean,
        WanVaeConfig::default().latents_mean
    );
}

#[test]
fn a_decoder_is_trained_alone_on_latents_that_stay() {
    let shop = Workshop::new();
    let text = fs::read_to_string(shop.config("run", 2, "")).unwrap();
    let config = shop.path("run.toml");
    fs::write(
        &config,
        format!("miniature.vae.decoder_only = true\n{text}"),
    )
    .unwrap();
    shop.run(&config);

    let load = |dir: PathBuf| WanVae::<Flex>::load(&dir, DType::F32, &FlexDevice).unwrap();
    let base = load(golden("checkpoints/tiny/vae"));
    let trained = load(shop.path("run/vae"));
    let noise = Distribution::Uniform(-1.0, 1.0);
    let video = Tensor::<Flex, 5>::random([1, 3, 5, 16, 16], noise, &FlexDevice);
    let latents = |vae: &WanVae<Flex>| vae.normalize(vae.encode(video.clone()).unwrap().mean);
    assert_eq!(latents(&trained).into_data(), latents(&base).into_data());
    let decoded = |vae: &WanVae<Flex>| vae.decode(latents(&base)).unwrap().into_data();
    assert_ne!(decoded(&trained), decoded(&base));
}

#[test]
fn squared_errors_count_as_much_as_is_said() {
    let first_loss = |weight: f64| {
        let shop = Workshop::new();
        let text = fs::read_to_string(shop.config("run", 1, "")).unwrap();
        let config = shop.path("run.toml");
        let extra = format!("miniature.vae.mse_weight = {weight:.1}");
        fs::write(&config, format!("{extra}\n{text}")).unwrap();
        shop.run(&config);
        shop.losses("run")[0].1
    };
    let [absolute, once, thrice] = [0.0, 1.0, 3.0].map(first_loss);
    let squared = once - absolute;
    // A mean of squares is no less than the square of the mean.
    assert!(squared > absolute * absolute, "{squared} {absolute}");
    let expected = absolute + 3.0 * squared;
    assert!(
        (thrice - expected).abs() < 1e-5 * expected,
        "{thrice} {expected}"
    );
}
