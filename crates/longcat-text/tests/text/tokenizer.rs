//! Lengths, and what a tokenizer directory must not be.

use std::path::Path;

use longcat_text::{PromptTokenizer, TextError};

use crate::golden;

fn copy_of_the_tokenizer() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let source = golden::cases("tokenizer")[0].checkpoint().join("tokenizer");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(source.join(name), dir.path().join(name)).unwrap();
    }
    dir
}

#[test]
fn truncation_keeps_the_end_token() {
    let dir = copy_of_the_tokenizer();
    let tokenizer = PromptTokenizer::load(dir.path()).unwrap();
    let prompt = ["the camera moves slowly through a forest".to_string()];
    for length in 1..6 {
        let tokens = tokenizer.encode(&prompt, length).unwrap();
        assert_eq!(tokens.ids[0].len(), length);
        assert_eq!(tokens.ids[0][length - 1], 1);
    }
    let error = tokenizer.encode(&prompt, 0).unwrap_err();
    assert!(
        matches!(error, TextError::MaxLengthTooShort { added: 1, .. }),
        "{error}"
    );
}

#[test]
fn no_text_is_longer_than_the_checkpoint_takes() {
    let dir = copy_of_the_tokenizer();
    let file = dir.path().join("tokenizer_config.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let mut lengths = |most: serde_json::Value| {
        json["model_max_length"] = most;
        std::fs::write(&file, json.to_string()).unwrap();
        let tokenizer = PromptTokenizer::load(dir.path()).unwrap();
        [4, 600].map(|asked| tokenizer.length(asked))
    };
    assert_eq!(lengths(16.into()), [4, 16]);
    // What Python writes for "no limit".
    assert_eq!(lengths(1e30.into()), [4, 600]);
    assert_eq!(lengths(serde_json::Value::Null), [4, 600]);
}

#[test]
fn lengths_stored_in_the_file_do_not_apply() {
    let dir = copy_of_the_tokenizer();
    let file = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    json["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
    });
    let prompt = ["a cat sits on the warm window sill".to_string()];
    let before = PromptTokenizer::load(dir.path())
        .unwrap()
        .encode(&prompt, 12)
        .unwrap();
    std::fs::write(&file, json.to_string()).unwrap();
    let after = PromptTokenizer::load(dir.path())
        .unwrap()
        .encode(&prompt, 12)
        .unwrap();
    assert_eq!(before, after);
}

#[test]
fn unusable_directories_are_refused_with_the_file_name() {
    let dir = copy_of_the_tokenizer();
    let config = dir.path().join("tokenizer_config.json");
    let load = || PromptTokenizer::load(dir.path()).unwrap_err().to_string();

    std::fs::write(&config, r#"{"pad_token": "<pad>", "padding_side": "left"}"#).unwrap();
    let message = load();
    assert!(
        message.contains("tokenizer_config.json") && message.contains("left"),
        "{message}"
    );

    std::fs::write(&config, r#"{"pad_token": {"content": "<none>"}}"#).unwrap();
    let message = load();
    assert!(
        message.contains("tokenizer.json") && message.contains("<none>"),
        "{message}"
    );

    std::fs::write(&config, "{}").unwrap();
    assert!(load().contains("pad_token"));

    std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    assert!(load().contains("tokenizer.json"));

    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(load().contains("tokenizer.json"));
}

#[test]
fn sentence_piece_models_give_the_ids_of_sentence_piece() {
    let layouts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/layouts");
    let expected = std::fs::read(layouts.join("spiece.json")).unwrap();
    let expected: Vec<(String, Vec<u32>)> = serde_json::from_slice(&expected).unwrap();
    // A file of its own, and inside of a text encoder's.
    for name in ["spiece.model", "umt5_fp8_scaled.safetensors"] {
        let tokenizer = PromptTokenizer::load(&layouts.join(name)).unwrap();
        for (prompt, ids) in &expected {
            let tokens = tokenizer.encode(std::slice::from_ref(prompt), 64).unwrap();
            let real = tokens.mask[0].iter().filter(|valid| **valid).count();
            assert_eq!(tokens.ids[0][..real], ids[..], "{prompt:?}");
            assert!(tokens.ids[0][real..].iter().all(|id| *id == 0));
        }
    }
    // Damage is an error.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spiece.model");
    let good = std::fs::read(layouts.join("spiece.model")).unwrap();
    for bytes in [&b"\x0a\xff\xff\xff\xff\x0f"[..], b"text", b"", &good[..100]] {
        std::fs::write(&path, bytes).unwrap();
        let error = PromptTokenizer::load(dir.path()).unwrap_err();
        assert!(error.to_string().contains("spiece.model"), "{error}");
    }
}
