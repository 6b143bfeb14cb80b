//! Whatever the bytes of a file are, reading and inspecting it end with a result, never a panic.

use std::path::Path;

use longcat_lora::{Adapter, AdapterReport, LoraOptions, LoraRegistry};
use proptest::prelude::*;

use crate::common::*;

/// Reads, inspects and loads; any outcome but a panic is right.
fn swallow(bytes: &[u8], config: Option<&str>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    if let Some(config) = config {
        std::fs::write(dir.path().join("adapter_config.json"), config).unwrap();
    }
    let _ = AdapterReport::inspect(&path, table());
    if let Ok(adapter) = Adapter::read(dir.path(), table()) {
        let mut host = Host::tiny();
        let _ = host.load_adapter("fuzz", &adapter, LoraOptions::default());
        write_everywhere(&adapter, dir.path());
    }
}

fn write_everywhere(adapter: &Adapter, dir: &Path) {
    for format in longcat_lora::Format::ALL {
        for split in [false, true] {
            let options = longcat_lora::WriteOptions { format, split };
            let _ = adapter.write(&dir.join(format.as_str()), table(), options);
        }
    }
}

fn framed(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

/// Headers of the right grammar with names, types and shapes that need not belong together.
fn header() -> impl Strategy<Value = (String, usize)> {
    let module = prop::sample::select(vec![
        "diffusion_model.blocks.0.attn.proj",
        "diffusion_model.blocks.0.attn.qkv",
        "diffusion_model.blocks.0.attn.to_k",
        "transformer.final_layer.linear",
        "base_model.model.blocks.1.ffn.w1",
        "lora_unet_blocks_1_cross_attn_kv_linear",
        "lora___lorahyphen___blocks___lorahyphen___0___lorahyphen___attn___lorahyphen___qkv",
        "blocks.1.self_attn.to_q",
        "",
    ]);
    let ending = prop::sample::select(vec![
        ".lora_A.weight",
        ".lora_B.weight",
        ".lora_B.default.weight",
        ".lora_A",
        ".lora_B",
        ".lora_down.weight",
        ".lora_up.weight",
        ".lora_up.blocks.0.weight",
        ".lora_up.blocks.2.weight",
        ".alpha",
        ".lora_alpha",
        ".alpha_scale",
        ".dora_scale",
        "",
    ]);
    let dtype = prop::sample::select(vec!["F32", "BF16", "F16", "F64", "I32", "U8", "F8_E4M3"]);
    let shape = prop::collection::vec(0usize..70, 0..4);
    let entry = (module, ending, dtype, shape);
    prop::collection::btree_map("[a-c]", entry, 1..5).prop_map(|entries| {
        let mut header = serde_json::Map::new();
        let mut offset = 0;
        for (module, ending, dtype, shape) in entries.into_values() {
            let key = format!("{module}{ending}");
            if header.contains_key(&key) {
                continue;
            }
            let size = match dtype {
                "F64" => 8,
                "F32" | "I32" => 4,
                "BF16" | "F16" => 2,
                _ => 1,
            };
            let end = offset + size * shape.iter().product::<usize>();
            header.insert(
                key,
                serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}),
            );
            offset = end;
        }
        (serde_json::Value::Object(header).to_string(), offset)
    })
}

/// What fuzzing found: the only factor of a part's output side is called a block.
#[test]
fn an_output_block_of_another_rank_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    let (down, up) = (
        "blocks.1.self_attn.to_q.lora_A.weight",
        "blocks.1.self_attn.to_q.lora_up.blocks.0.weight",
    );
    let header = serde_json::json!({
        down: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        up: {"dtype": "F32", "shape": [3, 1], "data_offsets": [24, 36]},
    });
    std::fs::write(&path, framed(&header.to_string(), 36)).unwrap();
    let error = Adapter::read(&path, table()).unwrap_err().to_string();
    assert!(error.contains(up) && error.contains("rank"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        swallow(&bytes, None);
    }

    #[test]
    fn random_text_as_header(header in "\\PC{0,200}", data in 0usize..64) {
        swallow(&framed(&header, data), None);
    }

    #[test]
    fn well_formed_headers_of_strange_content((header, data) in header()) {
        swallow(&framed(&header, data), Some(r#"{"r": 4, "lora_alpha": 2}"#));
    }

    #[test]
    fn damaged_golden_files(
        which in 0usize..3,
        position in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let file = [
            "cases/lora_invalid/missing_up_block.safetensors",
            "cases/lora_invalid/dora_kohya.safetensors",
            "cases/lora_formats_official/adapter.safetensors",
        ][which];
        let mut bytes = std::fs::read(golden(file)).unwrap();
        // Mostly in the header: that is where structure is.
        let length = bytes.len().min(4000);
        bytes[position.index(length)] = byte;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        swallow(&bytes, None);
    }

    #[test]
    fn strange_configurations(config in prop_oneof![
        "\\PC{0,80}",
        "\\{\"r\": (1|6|-1|0.5|null|1e99), \"lora_alpha\": (9|-0|null|1e400|\"x\"), \"rank_pattern\": (\\{\\}|\\[\\]|\\{\"[(a.*]{1,5}\": 6\\})\\}",
    ]) {
        let bytes =
            std::fs::read(golden("cases/lora_formats_peft/adapter/adapter_model.safetensors"));
        swallow(&bytes.unwrap(), Some(&config));
    }
}
