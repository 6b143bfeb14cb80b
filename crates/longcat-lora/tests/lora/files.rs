//! Files as programs of the field write them: names, stored types, kinds of layers, folders.

use std::path::Path;

use longcat_lora::{Adapter, AdapterReport, Change, Format, LoraError, Patch, WriteOptions};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};

use crate::common::*;

/// A tensor of a file: name, type, shape, bytes.
type Entry = (String, Dtype, Vec<usize>, Vec<u8>);

fn value(i: usize, seed: usize) -> f32 {
    ((i * 29 + seed * 53) % 61) as f32 / 32.0 - 0.9375
}

/// A tensor of f32 values that are multiples of 1/32, drawn by `seed`.
fn f32s(name: &str, shape: &[usize], seed: usize) -> Entry {
    let count: usize = shape.iter().product();
    let bytes = (0..count).flat_map(|i| value(i, seed).to_le_bytes());
    (name.into(), Dtype::F32, shape.to_vec(), bytes.collect())
}

fn write(path: &Path, entries: &[Entry]) {
    let views = entries.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    std::fs::write(path, serialize(views, None).unwrap()).unwrap();
}

fn read_entries(entries: &[Entry]) -> Result<Adapter, LoraError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    write(&path, entries);
    Adapter::read(&path, table())
}

fn pair(module: &str, [down, up]: [&str; 2], rows: usize) -> [Entry; 2] {
    [
        f32s(&format!("{module}{down}"), &[2, 8], 1),
        f32s(&format!("{module}{up}"), &[rows, 2], 2),
    ]
}

/// up · down of [`pair`].
fn product(rows: usize) -> Vec<f64> {
    let at = |row: usize, col: usize| -> f64 {
        (0..2)
            .map(|r| f64::from(value(row * 2 + r, 2)) * f64::from(value(r * 8 + col, 1)))
            .sum()
    };
    (0..rows * 8).map(|i| at(i / 8, i % 8)).collect()
}

const KOHYA: [&str; 2] = [".lora_down.weight", ".lora_up.weight"];
const PEFT: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];
const OLD: [&str; 2] = [".lora.down.weight", ".lora.up.weight"];

#[test]
fn names_and_wrappers_of_other_programs_lead_to_the_layers() {
    let modules = [
        ("diffusion_model.blocks.1.self_attn.o", "blocks.1.attn.proj"),
        ("model.diffusion_model.blocks.1.ffn.w2", "blocks.1.ffn.w2"),
        ("blocks.1.modulation.1", "blocks.1.adaLN_modulation.1"),
        ("pipe.dit.blocks.1.ffn.w2", "blocks.1.ffn.w2"),
        (
            "transformer.base_model.model.blocks.1.ffn.w2",
            "blocks.1.ffn.w2",
        ),
        (
            "module.transformer._orig_mod.head.head",
            "final_layer.linear",
        ),
        ("_orig_mod.blocks.1._orig_mod.ffn.w2", "blocks.1.ffn.w2"),
        ("lora_unet__blocks_1_ffn_w2", "blocks.1.ffn.w2"),
        ("lora_unet_blocks_1_self_attn_o", "blocks.1.attn.proj"),
        (
            "lycoris_blocks_1_cross_attn_q",
            "blocks.1.cross_attn.q_linear",
        ),
        (
            "lora_unet__orig_mod_head_modulation_1",
            "final_layer.adaLN_modulation.1",
        ),
    ];
    for (module, layer) in modules {
        for endings in [KOHYA, PEFT, OLD] {
            let adapter = read_entries(&pair(module, endings, 12)).unwrap();
            assert_eq!(delta(adapter.get(layer).unwrap()), product(12), "{module}");
        }
    }
    let parts = [
        (
            "diffusion_model.blocks.0.self_attn.k",
            "blocks.0.attn.qkv",
            1,
            3,
        ),
        (
            "lora_unet_blocks_0_cross_attn_v",
            "blocks.0.cross_attn.kv_linear",
            1,
            2,
        ),
    ];
    for (module, layer, part, of) in parts {
        let adapter = read_entries(&pair(module, KOHYA, 4)).unwrap();
        let block = &adapter.get(layer).unwrap()[0];
        assert_eq!((block.part, block.of), (part, of));
    }
}

#[test]
fn the_format_is_that_of_most_keys_and_the_others_are_named() {
    let mut entries = pair("lora_unet_blocks_0_ffn_w1", KOHYA, 12).to_vec();
    // First by name, and more of them.
    for block in 0..3 {
        entries.extend(pair(&format!("lora_te_encoder_block_{block}_q"), KOHYA, 12));
    }
    let message = read_entries(&entries).unwrap_err().to_string();
    assert!(message.contains("lora_te_encoder_block_0_q.lora_down.weight"));
    assert!(!message.contains("lora_unet_blocks"), "{message}");
}

#[test]
fn stored_types_of_eight_bits_and_whole_alphas_are_read() {
    // 1.5 and -2 in the two 8-bit floats.
    for (dtype, bits) in [
        (Dtype::F8_E4M3, [0x3c, 0xc0]),
        (Dtype::F8_E5M2, [0x3e, 0xc0]),
    ] {
        let factor = |name: &str, shape: [usize; 2]| {
            let bytes = (0..shape[0] * shape[1]).map(|i| bits[i % 2]).collect();
            (name.to_string(), dtype, shape.to_vec(), bytes)
        };
        let layer = "diffusion_model.blocks.0.ffn.w1";
        let mut entries = vec![
            factor(&format!("{layer}.lora_A.weight"), [1, 2]),
            factor(&format!("{layer}.lora_B.weight"), [2, 1]),
        ];
        let adapter = read_entries(&entries).unwrap();
        let found = delta(adapter.get("blocks.0.ffn.w1").unwrap());
        assert_eq!(found, [2.25, -3.0, -3.0, 4.0]);
        entries[1].3[1] = 0x7f;
        assert_eq!(read_entries(&entries).unwrap_err().code(), "not_finite");
    }
    let alphas: [(Dtype, &[u8]); 6] = [
        (Dtype::I8, &[6]),
        (Dtype::U8, &[6]),
        (Dtype::I16, &[6, 0]),
        (Dtype::U16, &[6, 0]),
        (Dtype::U32, &[6, 0, 0, 0]),
        (Dtype::F8_E4M3, &[0x4c]),
    ];
    for (dtype, bytes) in alphas {
        let mut entries = pair("lora_unet_blocks_0_ffn_w1", KOHYA, 12).to_vec();
        let alpha = "lora_unet_blocks_0_ffn_w1.alpha".to_string();
        entries.push((alpha, dtype, vec![], bytes.to_vec()));
        let adapter = read_entries(&entries).unwrap();
        assert_eq!(
            adapter.get("blocks.0.ffn.w1").unwrap()[0].scale,
            3.0,
            "{dtype:?}"
        );
    }
}

#[test]
fn a_layer_stored_as_a_convolution_is_read_as_the_matrix_that_it_is() {
    let entries = [
        f32s(
            "lora_unet_blocks_0_ffn_w1.lora_down.weight",
            &[2, 8, 1, 1],
            1,
        ),
        f32s(
            "lora_unet_blocks_0_ffn_w1.lora_up.weight",
            &[12, 2, 1, 1],
            2,
        ),
    ];
    let adapter = read_entries(&entries).unwrap();
    assert_eq!(delta(adapter.get("blocks.0.ffn.w1").unwrap()), product(12));
}

fn patches(adapter: &Adapter, layer: &str) -> Vec<Patch> {
    adapter.patches_of(layer).to_vec()
}

#[test]
fn differences_are_part_of_an_adapter_and_survive_being_written() {
    let entries = [
        f32s("diffusion_model.blocks.0.self_attn.q.diff", &[4, 8], 1),
        f32s("diffusion_model.blocks.0.self_attn.v.diff_b", &[4], 2),
        f32s("diffusion_model.blocks.0.norm3.diff", &[8], 3),
        f32s("diffusion_model.blocks.1.modulation.1.diff", &[24, 8], 4),
    ];
    let adapter = read_entries(&entries).unwrap();
    assert_eq!(adapter.len(), 3);
    let qkv = patches(&adapter, "blocks.0.attn.qkv");
    let places: Vec<_> = qkv
        .iter()
        .map(|p| (p.bias, p.part, p.of, p.shape()))
        .collect();
    assert_eq!(places, [(false, 0, 3, [4, 8]), (true, 2, 3, [4, 1])]);
    let norm = patches(&adapter, "blocks.0.pre_crs_attn_norm");
    assert_eq!(norm[0].shape(), [8, 1]);

    let dir = tempfile::tempdir().unwrap();
    for format in Format::ALL {
        let path = dir.path().join(format!("{format}.safetensors"));
        let options = WriteOptions {
            format,
            split: false,
        };
        match (adapter.write(&path, table(), options), format) {
            (Ok(()), Format::ComfyUi | Format::FastVideo) => {
                let back = Adapter::read(&path, table()).unwrap();
                assert!(adapter.patches().eq(back.patches()), "{format}");
            }
            // Whole layers, with zeros for the parts that are not there.
            (Ok(()), Format::Kohya) => {
                let back = Adapter::read(&path, table()).unwrap();
                let [weight, bias] = &patches(&back, "blocks.0.attn.qkv")[..] else {
                    panic!("two differences");
                };
                assert_eq!((weight.shape(), bias.shape()), ([12, 8], [12, 1]));
            }
            (Err(error), _) => assert_eq!(error.code(), "not_expressible", "{format}"),
            (Ok(()), _) => panic!("{format} holds no differences"),
        }
    }
}

#[test]
fn loha_is_the_product_of_its_two_products() {
    let module = "lycoris_blocks_0_ffn_w1";
    let entries = [
        f32s(&format!("{module}.hada_w1_a"), &[12, 2], 1),
        f32s(&format!("{module}.hada_w1_b"), &[2, 8], 2),
        f32s(&format!("{module}.hada_w2_a"), &[12, 3], 3),
        f32s(&format!("{module}.hada_w2_b"), &[3, 8], 4),
        f32s(&format!("{module}.alpha"), &[1], 5),
    ];
    let adapter = read_entries(&entries).unwrap();
    let half = |rank: usize, a: usize, b: usize, row: usize, col: usize| -> f64 {
        (0..rank)
            .map(|r| f64::from(value(row * rank + r, a)) * f64::from(value(r * 8 + col, b)))
            .sum()
    };
    let scale = f64::from(value(0, 5)) / 2.0;
    let expected: Vec<f64> = (0..12 * 8)
        .map(|i| scale * half(2, 1, 2, i / 8, i % 8) * half(3, 3, 4, i / 8, i % 8))
        .collect();
    let found = delta(adapter.get("blocks.0.ffn.w1").unwrap());
    assert!(relative_error(&found, &expected) < 1e-6);
}

#[test]
fn lokr_has_a_scale_only_where_a_half_is_a_product() {
    let key = |ending: &str| format!("lycoris_blocks_0_ffn_w1.{ending}");
    let whole = f32s(&key("lokr_w1"), &[3, 2], 1);
    let alpha = (
        key("alpha"),
        Dtype::F32,
        vec![],
        5f32.to_le_bytes().to_vec(),
    );
    let full = [
        whole.clone(),
        f32s(&key("lokr_w2"), &[4, 4], 2),
        alpha.clone(),
    ];
    let factored = [
        whole,
        f32s(&key("lokr_w2_a"), &[4, 2], 2),
        f32s(&key("lokr_w2_b"), &[2, 4], 3),
        alpha,
    ];
    for (entries, scale) in [(&full[..], 1.0), (&factored[..], 2.5)] {
        let adapter = read_entries(entries).unwrap();
        let [patch] = &patches(&adapter, "blocks.0.ffn.w1")[..] else {
            panic!("one patch");
        };
        assert_eq!((patch.shape(), patch.scale), ([12, 8], scale));
        let Change::Kronecker { left, right } = &patch.change else {
            panic!("{patch:?}");
        };
        assert_eq!((left.rows(), right.rows()), (3, 4));
    }
}

#[test]
fn dora_keeps_its_magnitudes_in_every_spelling() {
    let kohya = "lora_unet_blocks_0_ffn_w1";
    let magnitudes = [
        ("dora_scale", vec![12, 1], [12, 1]),
        ("dora_scale", vec![1, 8], [1, 8]),
        ("lora_magnitude_vector", vec![12], [12, 1]),
        ("lora_magnitude_vector.default.weight", vec![1, 12], [12, 1]),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (ending, shape, expected) in magnitudes {
        let mut entries = pair(kohya, KOHYA, 12).to_vec();
        entries.push(f32s(&format!("{kohya}.{ending}"), &shape, 3));
        let adapter = read_entries(&entries).unwrap();
        let [patch] = &patches(&adapter, "blocks.0.ffn.w1")[..] else {
            panic!("one patch");
        };
        let Change::Decomposed { magnitude, .. } = &patch.change else {
            panic!("{patch:?}");
        };
        assert_eq!([magnitude.rows(), magnitude.cols()], expected);
        assert!(adapter.get("blocks.0.ffn.w1").is_none());
        let path = dir.path().join("dora.safetensors");
        let options = WriteOptions {
            format: Format::Kohya,
            split: false,
        };
        adapter.write(&path, table(), options).unwrap();
        let back = Adapter::read(&path, table()).unwrap();
        assert!(adapter.patches().eq(back.patches()));
        let report = AdapterReport::inspect(&path, table()).unwrap();
        assert_eq!(report.other_changes["DoRA"], 1);
    }
}

#[test]
fn a_folder_counts_with_its_own_settings_and_one_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("run=3");
    std::fs::create_dir(&inner).unwrap();
    let config =
        |alpha: &str| format!(r#"{{"peft_type": "LORA", "r": 2.0, "lora_alpha": {alpha}}}"#);
    std::fs::write(dir.path().join("adapter_config.json"), config("400")).unwrap();
    let entries = pair("base_model.model.blocks.0.ffn.w1", PEFT, 12);
    write(&inner.join("style.safetensors"), &entries);
    write(&inner.join("._style.safetensors"), &entries);
    let scale = || {
        let adapter = Adapter::read(&inner, table())?;
        Ok::<f64, LoraError>(adapter.get("blocks.0.ffn.w1").unwrap()[0].scale)
    };
    assert_eq!(scale().unwrap_err().code(), "missing_config");
    std::fs::write(inner.join("adapter_config.json"), config("8")).unwrap();
    assert_eq!(scale().unwrap(), 4.0);
    // PEFT's defaults are 8 and 8.
    std::fs::write(inner.join("adapter_config.json"), r#"{"r": 2}"#).unwrap();
    assert_eq!(scale().unwrap(), 4.0);
    let look_ahead = r#"{"r": 2, "alpha_pattern": {"blocks\\.\\d+\\.(?!attn).*": 1}}"#;
    std::fs::write(inner.join("adapter_config.json"), look_ahead).unwrap();
    assert_eq!(scale().unwrap(), 0.5);
    let float = r#"{"r": 9, "lora_alpha": 8, "rank_pattern": {"ffn.w1": 2.0}}"#;
    std::fs::write(inner.join("adapter_config.json"), float).unwrap();
    assert_eq!(scale().unwrap(), 4.0);
    let endless = r#"{"r": 2, "alpha_pattern": {"(?=(a*)*b)(.*)*x(?!y)": 1}}"#;
    std::fs::write(inner.join("adapter_config.json"), endless).unwrap();
    assert!(matches!(scale(), Ok(_) | Err(LoraError::Config(_))));

    write(&inner.join("other.safetensors"), &entries);
    let error = Adapter::read(&inner, table()).unwrap_err();
    assert_eq!(error.code(), "several_files");
    assert!(error.to_string().contains("other.safetensors"), "{error}");
}

#[test]
fn headers_with_numbers_or_control_characters_are_told_as_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    let with_header = |header: &str| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        std::fs::write(&path, bytes).unwrap();
        Adapter::read(&path, table()).unwrap_err().to_string()
    };
    let message = with_header(r#"{"__metadata__": {"ss_network_dim": 4}}"#);
    assert!(
        message.contains("ss_network_dim") && !message.contains("corrupt"),
        "{message}"
    );
    let name = "a\\u001b[2J\\nforged";
    let tensor = r#"{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}"#;
    let message = with_header(&format!(r#"{{"{name}": {tensor}}}"#));
    assert!(!message.contains(char::is_control), "{message:?}");
}

#[test]
fn a_lost_scale_and_another_text_encoder_are_warned_of() {
    let entries = |rank: usize| {
        [
            f32s("blocks.0.ffn.w1.lora_A.weight", &[rank, 8], 1),
            f32s("blocks.0.ffn.w1.lora_B.weight", &[12, rank], 2),
        ]
    };
    let warnings = |entries: &[Entry]| read_entries(entries).unwrap().warnings().len();
    assert_eq!((warnings(&entries(128)), warnings(&entries(64))), (1, 0));
    let mut scaled = entries(128).to_vec();
    scaled.push(f32s("blocks.0.ffn.w1.alpha", &[1], 3));
    assert_eq!(warnings(&scaled), 0);

    let mut adapter = read_entries(&entries(4)).unwrap();
    let origin = ("modelspec.implementation".into(), "SimpleTuner".into());
    adapter.metadata.extend([origin]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let options = WriteOptions {
        format: Format::Diffusers,
        split: false,
    };
    adapter.write(&path, table(), options).unwrap();
    let report = AdapterReport::inspect(&path, table()).unwrap();
    assert!(
        report.warnings[0].contains("Qwen2.5-VL"),
        "{:?}",
        report.warnings
    );
}
