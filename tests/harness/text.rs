//! Prompt cleaning, the tokenizer and the text encoder.

use burn::tensor::{DType, Int, Tensor, TensorData};
use longcat_kernels::KernelBackend;
use longcat_text::{PromptTokenizer, Umt5Encoder, clean_prompt};

use crate::{Case, Golden};

pub(crate) fn prompt_clean(case: &mut Case) {
    let strings = case.json["strings"].as_array().unwrap().clone();
    for row in strings {
        let (input, expected) = (
            row["input"].as_str().unwrap(),
            row["expected"].as_str().unwrap(),
        );
        let actual = clean_prompt(input);
        if actual != expected {
            case.fail(format!("{input:?} became {actual:?}, not {expected:?}"));
        }
    }
}

pub(crate) fn tokenizer(golden: &Golden, case: &mut Case) {
    let prompts: Vec<String> = serde_json::from_value(case.param("prompts").clone()).unwrap();
    let length = case.usize_param("max_length");
    let tokenizer = PromptTokenizer::load(&golden.checkpoint(case).join("tokenizer")).unwrap();
    let tokens = tokenizer.encode(&prompts, length).unwrap();
    let shape = [prompts.len(), length];
    let ids: Vec<i64> = tokens.ids.iter().flatten().map(|id| *id as i64).collect();
    let mask: Vec<i64> = tokens
        .mask
        .iter()
        .flatten()
        .map(|m| i64::from(*m))
        .collect();
    case.check("input_ids", TensorData::new(ids, shape));
    case.check("attention_mask", TensorData::new(mask, shape));
}

pub(crate) fn umt5<B: KernelBackend>(golden: &Golden, case: &mut Case, device: &B::Device) {
    let dir = golden.checkpoint(case).join("text_encoder");
    let (encoder, _) = Umt5Encoder::<B>::load(&dir, DType::F32, device).unwrap();
    let ids = case.int_input("input_ids", device);
    let mask = Tensor::<B, 2, Int>::from_data(case.input_data("attention_mask"), device).bool();
    case.check_tensor("last_hidden_state", encoder.forward(ids, mask));
}
