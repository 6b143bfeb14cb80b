//! Gradients on the CPU: against the official code, and checkpointed against plain.

use crate::golden::{self, B, Golden, Inner};
use burn::module::{Param, ParamId};
use longcat_train::{Batch, TrainStep, trained};
use longcat_weights::{Precision, Weight, WeightHost};

#[test]
fn checkpointed_gradients_are_bit_identical_to_plain_ones() {
    for (num_cond, targets) in [
        (0, golden::SEVEN),
        (1, golden::SEVEN),
        (
            0,
            &["ffn.w2", "final_layer.linear", "adaLN_modulation.1"][..],
        ),
        (
            1,
            &[
                "t_embedder.mlp.2",
                "y_embedder.y_proj.0",
                "attn.qkv",
                "kv_linear",
                "adaLN_modulation.1",
            ],
        ),
        (0, &["final_layer.linear"]),
        (0, &["blocks.1.ffn.w1"]),
    ] {
        let model = golden::tiny_with_adapter(targets);
        let batch = golden::random_batch(2, [3, 4, 6], num_cond);
        let [plain, checkpointed] = [false, true]
            .map(|checkpointed| TrainStep { checkpointed }.run::<B>(&model, &batch).unwrap());
        golden::assert_same(&plain, &checkpointed);
        let parameters: Vec<String> = trained::<B, _>(&model).into_keys().collect();
        let with_gradient: Vec<&str> = plain.gradients.iter().map(|(path, _)| path).collect();
        assert_eq!(parameters, with_gradient, "{targets:?}");
    }
}

#[test]
fn blocks_in_host_memory_give_the_same_gradients() {
    for (targets, num_cond) in [
        (golden::SEVEN, 1),
        (
            &["y_embedder.y_proj.0", "kv_linear", "adaLN_modulation.1"],
            0,
        ),
    ] {
        let model = golden::tiny_with_adapter(targets);
        let batch = golden::random_batch(2, [3, 4, 6], num_cond);
        let mut streamed = model.clone();
        streamed.move_to_host(&[0, 1]).unwrap();
        for checkpointed in [true, false] {
            let step = TrainStep { checkpointed };
            let [resident, passing] =
                [&model, &streamed].map(|model| step.run::<B>(model, &batch).unwrap());
            golden::assert_same(&resident, &passing);
        }
    }
}

#[test]
fn gradients_beside_packed_weights_are_those_beside_their_numbers() {
    for precision in [
        Precision::Fp8,
        Precision::Int8,
        Precision::Q8_0,
        Precision::Q4K,
    ] {
        let packed = golden::packed_with_adapter(precision, golden::SEVEN);
        let (mut unpacked, mut count) = (packed.clone(), 0);
        unpacked.visit_weights_mut(&mut |weight| {
            if weight.packed_kind().is_some() {
                let numbers = Param::initialized(ParamId::new(), weight.val());
                *weight = Weight::Dense(numbers);
                count += 1;
            }
        });
        assert_eq!(count, 2 * 7, "{precision}");
        let batch = golden::random_batch(2, [3, 4, 6], 1);
        for checkpointed in [true, false] {
            let step = TrainStep { checkpointed };
            let [packed, unpacked] =
                [&packed, &unpacked].map(|model| step.run::<B>(model, &batch).unwrap());
            let paths = [&packed, &unpacked].map(|output| {
                let paths = output.gradients.iter().map(|(path, _)| path.to_string());
                paths.collect::<Vec<String>>()
            });
            assert_eq!(paths[0], paths[1]);
            for (path, gradient) in packed.gradients.iter() {
                assert!(path.contains(".adapters."), "{path}");
                let other = unpacked.gradients.get(path).unwrap();
                let off = (gradient.values.clone() - other.values.clone()).abs().max();
                let size = other.values.clone().abs().max();
                let (off, size) = (off.into_scalar(), size.into_scalar());
                assert!(
                    off <= 1e-5 * size,
                    "{precision}: {path} is off by {off} of {size}"
                );
            }
        }
    }
}

#[test]
fn training_the_whole_model_gives_the_same_gradients_checkpointed() {
    let model = golden::tiny();
    let batch = golden::random_batch(1, [2, 4, 4], 0);
    let [plain, checkpointed] = [false, true]
        .map(|checkpointed| TrainStep { checkpointed }.run::<B>(&model, &batch).unwrap());
    golden::assert_same(&plain, &checkpointed);
    assert!(plain.gradients.get("x_embedder.proj.weight").is_some());
}

#[test]
fn a_base_weight_never_gets_a_gradient() {
    let model = golden::tiny_with_adapter(golden::SEVEN);
    let batch: Batch<Inner> = golden::random_batch(1, [2, 4, 4], 0);
    let output = TrainStep { checkpointed: true }
        .run::<B>(&model, &batch)
        .unwrap();
    assert!(
        output
            .gradients
            .iter()
            .all(|(path, _)| path.contains(".adapters."))
    );
}

#[test]
fn gradients_match_the_official_code() {
    for case in ["lora_grad_t2v", "lora_grad_i2v"] {
        Golden::open(case).check_step();
    }
}

#[test]
fn the_gradient_of_the_text_is_the_same_checkpointed_and_agrees_with_differences() {
    let model = golden::tiny_with_adapter(golden::SEVEN);
    let batch = golden::random_batch(1, [2, 4, 4], 0);
    let [plain, checkpointed] = [false, true].map(|checkpointed| {
        let step = TrainStep { checkpointed };
        let output = step.run_with_text::<B>(&model, &batch, true).unwrap();
        output.text_gradient.unwrap()
    });
    assert_eq!(plain.to_data(), checkpointed.to_data());
    // Along its own direction the loss changes by the squared norm.
    let norm = plain.clone().square().sum().into_scalar().sqrt();
    let direction = plain / norm;
    let loss = |step: f32| -> f64 {
        let mut moved = batch.clone();
        moved.text.embeds = moved.text.embeds + direction.clone() * step;
        f64::from(TrainStep::loss::<B>(&model, &moved).unwrap().into_scalar())
    };
    let slope = (loss(0.02) - loss(-0.02)) / 0.04;
    assert!(
        (slope - f64::from(norm)).abs() < 0.02 * f64::from(norm),
        "{slope} {norm}"
    );
}
