//! The encoder in half precision, against itself, and what its directory must not be.

use std::path::Path;

use burn::backend::Autodiff;
use burn::module::{AutodiffModule, Module};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Bool, DType, Int, Tensor, TensorData};
use burn_flex::Flex;
use longcat_text::{TextEncoder, TextError, Umt5Config, Umt5Encoder};
use longcat_weights::{LoadAs, WeightFiles, collect_module, write_safetensors};

use crate::golden;

fn inputs(case: &golden::Case) -> (Tensor<Flex, 2, Int>, Tensor<Flex, 2, Bool>) {
    let (shape, ids) = case.i64s("inputs", "input_ids");
    let (_, mask) = case.i64s("inputs", "attention_mask");
    let mask: Vec<bool> = mask.into_iter().map(|m| m != 0).collect();
    let device = Default::default();
    (
        Tensor::from_data(TensorData::new(ids, shape.clone()), &device),
        Tensor::from_data(TensorData::new(mask, shape), &device),
    )
}

fn run(case: &golden::Case, dtype: DType) -> f64 {
    let dir = case.checkpoint().join("text_encoder");
    let (encoder, _) = Umt5Encoder::<Flex>::load(&dir, dtype, &Default::default()).unwrap();
    let (ids, mask) = inputs(case);
    let out = encoder.forward(ids, mask);
    assert_eq!(out.dtype(), dtype);
    let (shape, expected) = case.f32s("expected", "last_hidden_state");
    assert_eq!(out.dims().to_vec(), shape);
    let actual = out.cast(DType::F32).to_data().to_vec::<f32>().unwrap();
    golden::relative_error(&actual, &expected)
}

#[test]
fn half_precision_stays_near_the_golden_states() {
    let cases = golden::cases("umt5");
    assert!(!cases.is_empty(), "no golden cases found");
    for case in cases {
        // Rounding of weights and activations to 8 and 11 bits, over two layers.
        for (dtype, tolerance) in [(DType::BF16, 3e-2), (DType::F16, 4e-3)] {
            let error = run(&case, dtype);
            println!("{} {dtype:?}: {error:.2e}", case.id);
            assert!(error <= tolerance, "{} {dtype:?}: {error:e}", case.id);
        }
    }
}

#[test]
fn layers_in_host_memory_give_the_same_states() {
    let case = &golden::cases("umt5")[0];
    let dir = case.checkpoint().join("text_encoder");
    let (ids, mask) = inputs(case);
    let states = |dtype, resident_blocks| {
        let load_as = LoadAs {
            dtype: Some(dtype),
            resident_blocks,
            ..LoadAs::default()
        };
        let (encoder, _) = Umt5Encoder::<Flex>::load(&dir, load_as, &Default::default()).unwrap();
        encoder.forward(ids.clone(), mask.clone()).into_data()
    };
    for dtype in [DType::F32, DType::BF16] {
        let expected = states(dtype, None);
        for resident in [0, 1] {
            assert_eq!(
                states(dtype, Some(resident)),
                expected,
                "{dtype:?}, {resident}"
            );
        }
    }
}

#[test]
fn prompts_in_embeddings_out() {
    let case = &golden::cases("umt5")[0];
    let encoder =
        TextEncoder::<Flex>::load(&case.checkpoint(), DType::F32, &Default::default()).unwrap();
    let prompt = |text: &str| vec![text.to_string()];
    let (clean, mask) = encoder
        .encode_prompts(&prompt("schön & naïve"), 24)
        .unwrap();
    assert_eq!(clean.dims(), [1, 1, 24, encoder.config().d_model]);
    assert_eq!(mask[0].len(), 24);
    let (dirty, _) = encoder
        .encode_prompts(&prompt(" schÃ¶n &amp;  naÃ¯ve\n"), 24)
        .unwrap();
    assert_eq!(clean.to_data(), dirty.to_data());
    assert!(matches!(
        encoder.encode_prompts(&[], 24),
        Err(TextError::NoPrompts)
    ));
}

#[test]
fn padding_does_not_reach_the_tokens() {
    let case = &golden::cases("umt5")[0];
    let encoder =
        TextEncoder::<Flex>::load(&case.checkpoint(), DType::F32, &Default::default()).unwrap();
    let prompts = ["a cat".to_string(), "the rain falls on a roof".to_string()];
    let (short, mask) = encoder.encode_prompts(&prompts, 20).unwrap();
    let (long, _) = encoder.encode_prompts(&prompts, 45).unwrap();
    for (i, mask) in mask.iter().enumerate() {
        let n = mask.iter().filter(|m| **m).count();
        let tokens = |x: &Tensor<Flex, 4>| {
            x.clone()
                .slice([i..i + 1, 0..1, 0..n])
                .to_data()
                .to_vec::<f32>()
                .unwrap()
        };
        assert!(golden::relative_error(&tokens(&short), &tokens(&long)) < 1e-5);
    }
}

#[test]
fn gradients_reach_every_parameter() {
    type Train = Autodiff<Flex>;
    let case = &golden::cases("umt5")[0];
    let config = Umt5Config::read(&case.checkpoint().join("text_encoder/config.json")).unwrap();
    let device = Default::default();
    let encoder = Umt5Encoder::<Train>::new(&config, &device);
    let ids = Tensor::from_data([[4, 9, 30, 1, 0], [7, 8, 1, 0, 0]], &device);
    let mask = Tensor::from_data(
        [
            [true, true, true, true, false],
            [true, true, true, false, false],
        ],
        &device,
    );
    let out = encoder.forward(ids, mask);
    assert!(
        out.clone()
            .into_data()
            .to_vec::<f32>()
            .unwrap()
            .iter()
            .all(|x| x.is_finite())
    );
    let weights = Tensor::<Train, 1, Int>::arange(0..config.d_model as i64, &device).float();
    let gradients = (out * weights.reshape([1, 1, -1])).sum().backward();

    struct Check<'a>(&'a <Train as AutodiffBackend>::Gradients, usize);
    impl burn::module::ModuleVisitor<Train> for Check<'_> {
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<Train, D>>) {
            let gradient = param.val().grad(self.0).expect("a gradient");
            assert!(gradient.abs().sum().into_scalar() > 0.0);
            self.1 += 1;
        }
    }
    let mut check = Check(&gradients, 0);
    encoder.visit(&mut check);
    assert_eq!(check.1, 2 + 10 * config.num_layers);
    assert_eq!(encoder.valid().num_params(), encoder.num_params());
}

/// A checkpoint directory with the golden config and weights, to be damaged.
fn copy_of_the_encoder() -> (tempfile::TempDir, serde_json::Value) {
    let source = golden::cases("umt5")[0].checkpoint().join("text_encoder");
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let file = entry.unwrap().path();
        std::fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    let json = std::fs::read(dir.path().join("config.json")).unwrap();
    (dir, serde_json::from_slice(&json).unwrap())
}

fn load(dir: &Path) -> Result<Umt5Encoder<Flex>, TextError> {
    Umt5Encoder::load(dir, DType::F32, &Default::default()).map(|(encoder, _)| encoder)
}

#[test]
fn configs_that_ask_for_another_network_are_refused_by_key() {
    let (dir, good) = copy_of_the_encoder();
    let cases = [
        ("feed_forward_proj", serde_json::json!("relu")),
        ("dense_act_fn", serde_json::json!("silu")),
        ("model_type", serde_json::json!("t5")),
        ("d_model", serde_json::json!("wide")),
        ("num_heads", serde_json::json!(0)),
        ("relative_attention_num_buckets", serde_json::json!(6)),
        ("layer_norm_epsilon", serde_json::json!(-1.0)),
        ("rope_theta", serde_json::json!(10000)),
    ];
    for (key, value) in cases {
        let mut config = good.clone();
        config[key] = value;
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let message = load(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains("config.json") && message.contains(key),
            "{message}"
        );
    }
    // What only states defaults of transformers does not matter.
    let mut config = good.clone();
    for (key, value) in [
        ("use_bfloat16", serde_json::json!(false)),
        ("top_k", serde_json::json!(50)),
        (
            "id2label",
            serde_json::json!({"0": "LABEL_0", "1": "LABEL_1"}),
        ),
        ("_attn_implementation_autoset", serde_json::json!(true)),
    ] {
        config[key] = value;
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    load(dir.path()).unwrap();
    let mut config = good.clone();
    config.as_object_mut().unwrap().remove("d_ff");
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    assert!(load(dir.path()).unwrap_err().to_string().contains("d_ff"));
}

#[test]
fn weights_of_another_size_are_refused_by_key() {
    let (dir, mut config) = copy_of_the_encoder();
    config["d_ff"] = serde_json::json!(96);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let message = load(dir.path()).unwrap_err().to_string();
    let key = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight";
    assert!(
        message.contains(key) && message.contains("[96, 48]"),
        "{message}"
    );
}

#[test]
fn a_second_copy_of_the_embedding_must_be_a_copy() {
    let (dir, _) = copy_of_the_encoder();
    let file = dir.path().join("model.safetensors");
    let files = WeightFiles::open(&file).unwrap();
    let mut tensors: Vec<_> = files
        .keys()
        .map(|key| longcat_weights::NamedTensor {
            name: key.to_string(),
            data: files.tensor_data(key).unwrap(),
        })
        .collect();
    let copy = longcat_weights::NamedTensor {
        name: "encoder.embed_tokens.weight".into(),
        data: files.tensor_data("shared.weight").unwrap(),
    };
    tensors.push(copy);
    write_safetensors(&file, &tensors, files.metadata()).unwrap();
    load(dir.path()).unwrap();

    let last = tensors.last_mut().unwrap();
    last.data = last.data.clone().convert::<f64>();
    write_safetensors(&file, &tensors, files.metadata()).unwrap();
    let message = load(dir.path()).unwrap_err().to_string();
    assert!(message.contains("encoder.embed_tokens.weight"), "{message}");
}

#[test]
fn loading_and_saving_a_module_keeps_every_tensor() {
    let (dir, _) = copy_of_the_encoder();
    let encoder = load(dir.path()).unwrap();
    let tensors = collect_module::<Flex, _>(&encoder, &Default::default()).unwrap();
    let files = WeightFiles::open(dir.path()).unwrap();
    assert_eq!(tensors.len(), files.keys().count());
    for key in files.keys() {
        let path = longcat_text::canonical_names().map(key);
        let saved = tensors.iter().find(|t| t.name == path).unwrap();
        assert_eq!(saved.data, files.tensor_data(key).unwrap(), "{key}");
    }
}
