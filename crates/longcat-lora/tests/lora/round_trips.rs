//! Writing and reading back keep every bit of every number.

use std::path::Path;

use longcat_lora::{Adapter, Block, Format, Matrix, WriteOptions};
use proptest::prelude::*;

use crate::common::*;

const WRITTEN: [Format; 6] = [
    Format::Official,
    Format::Peft,
    Format::Diffusers,
    Format::ComfyUi,
    Format::Kohya,
    Format::FastVideo,
];
const OFFICIAL: WriteOptions = WriteOptions {
    format: Format::Official,
    split: false,
};

fn written(adapter: &Adapter, dir: &Path, options: WriteOptions) -> Adapter {
    let name = format!("{}{}", options.format, options.split);
    let path = dir.join(match options.format {
        Format::Peft => name,
        _ => format!("{name}.safetensors"),
    });
    adapter.write(&path, table(), options).unwrap();
    Adapter::read(&path, table()).unwrap()
}

fn same_targets(a: &Adapter, b: &Adapter) {
    let list = |adapter: &Adapter| {
        adapter
            .targets()
            .map(|(name, blocks)| (name.to_string(), blocks.to_vec()))
            .collect::<Vec<_>>()
    };
    assert_eq!(list(a), list(b));
}

#[test]
fn official_files_survive_every_format_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "checkpoints/tiny/lora/cfg_step_lora.safetensors",
        "checkpoints/tiny/lora/refinement_lora.safetensors",
        "cases/lora_formats_official/adapter.safetensors",
    ] {
        let original = read(file);
        let reference = golden(file);
        for format in WRITTEN {
            let back = written(
                &original,
                dir.path(),
                WriteOptions {
                    format,
                    split: false,
                },
            );
            same_targets(&back, &original);
            // And as a file: the same keys and the same bytes as the official one.
            let path = dir.path().join("back.safetensors");
            back.write(&path, table(), OFFICIAL).unwrap();
            let files = [reference.clone(), path]
                .map(|path| longcat_weights::WeightFiles::open(&path).unwrap());
            let [expected, found] = &files;
            assert!(expected.keys().eq(found.keys()));
            for key in expected.keys() {
                assert_eq!(
                    expected.info(key).unwrap().shape,
                    found.info(key).unwrap().shape
                );
                assert_eq!(expected.bytes(key).unwrap(), found.bytes(key).unwrap());
            }
        }
    }
}

#[test]
fn fused_blocks_survive_being_split_by_parts() {
    let dir = tempfile::tempdir().unwrap();
    let original = read("checkpoints/tiny/lora/refinement_lora.safetensors");
    for format in WRITTEN {
        let options = WriteOptions {
            format,
            split: true,
        };
        same_targets(&written(&original, dir.path(), options), &original);
    }
    let path = dir.path().join("kohyatrue.safetensors");
    let keys = longcat_weights::WeightFiles::open(&path).unwrap();
    let key = "lora_unet_blocks_0_attn_to_k.lora_down.weight";
    assert_eq!(keys.info(key).unwrap().shape, [6, 64]);
}

/// A block whose values have few mantissa bits, so that scaling them needs no rounding.
fn block(part: usize, rank: usize, scale: f64) -> Block {
    let values = |count: usize| -> Vec<f32> {
        (0..count)
            .map(|i| (i % 7) as f32 - 3.0 + part as f32)
            .collect()
    };
    Block {
        part,
        of: 3,
        down: Matrix::from_f32(rank, 4, &values(rank * 4)),
        up: Matrix::from_f32(2, rank, &values(2 * rank)),
        scale,
    }
}

fn qkv(blocks: Vec<Block>) -> Adapter {
    let mut adapter = Adapter::new("by hand");
    adapter.insert("blocks.3.attn.qkv", blocks).unwrap();
    adapter
}

#[test]
fn unequal_parts_stay_apart_where_readers_know_parts() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = qkv(vec![block(0, 2, 0.3), block(2, 5, 1.7)]);
    for format in [Format::ComfyUi, Format::FastVideo] {
        let options = WriteOptions {
            format,
            split: false,
        };
        same_targets(&written(&adapter, dir.path(), options), &adapter);
    }
    let names = |format: &str, key: &str| {
        let path = dir.path().join(format!("{format}false.safetensors"));
        let files = longcat_weights::WeightFiles::open(&path).unwrap();
        assert!(files.info(key).is_some(), "{format} has no {key}");
    };
    names(
        "comfyui",
        "diffusion_model.blocks.3.self_attn.v.lora_A.weight",
    );
    names("fastvideo", "blocks.3.self_attn.to_v.lora_A");
}

#[test]
fn parts_are_filled_up_with_zeros_where_readers_know_the_layer_only() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = qkv(vec![block(0, 2, 0.75), block(2, 5, 0.5)]);
    let expected = delta(adapter.get("blocks.3.attn.qkv").unwrap());
    let readers = [
        Format::Peft,
        Format::Diffusers,
        Format::Kohya,
        Format::DiffSynth,
    ];
    for format in readers {
        let path = dir.path().join(format.as_str());
        let options = WriteOptions {
            format,
            split: false,
        };
        adapter.write(&path, table(), options).unwrap();
        let back = Adapter::read(&path, table()).unwrap();
        assert_eq!(delta(back.get("blocks.3.attn.qkv").unwrap()), expected);
        let file = match format {
            Format::Peft => path.join("adapter_model.safetensors"),
            _ => path,
        };
        let files = longcat_weights::WeightFiles::open(&file).unwrap();
        for key in files.keys() {
            assert!(
                key.replace('_', ".").contains("attn.qkv"),
                "{format}: {key}"
            );
        }
    }
}

#[test]
fn unequal_parts_are_padded_with_zeros_in_official_files() {
    let dir = tempfile::tempdir().unwrap();
    // 0.75 / 0.5 is no power of two, but these values have room for it.
    let adapter = qkv(vec![block(0, 2, 0.75), block(2, 5, 0.5)]);
    let back = written(&adapter, dir.path(), OFFICIAL);
    let blocks = back.get("blocks.3.attn.qkv").unwrap();
    assert_eq!(
        blocks.iter().map(Block::rank).collect::<Vec<_>>(),
        [5, 5, 5]
    );
    assert_eq!(
        delta(blocks),
        delta(adapter.get("blocks.3.attn.qkv").unwrap())
    );
}

#[test]
fn what_would_need_rounding_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut third = block(1, 2, 0.1);
    third.up = Matrix::from_f32(2, 2, &[0.1, 0.2, 0.3, 0.4]);
    let mut first = third.clone();
    first.part = 0;
    first.scale = 0.7;
    let adapter = qkv(vec![first, third]);
    let path = dir.path().join("x.safetensors");
    let error = adapter.write(&path, table(), OFFICIAL).unwrap_err();
    assert_eq!(error.code(), "not_expressible");
    assert!(error.to_string().contains("blocks.3.attn.qkv"), "{error}");
    assert!(!path.exists());
    for format in [Format::Peft, Format::DiffSynth] {
        let options = WriteOptions {
            format,
            split: false,
        };
        let error = adapter.write(&path, table(), options).unwrap_err();
        assert_eq!(error.code(), "not_expressible");
    }
    // Where parts have names, each keeps its scale.
    let options = WriteOptions {
        format: Format::FastVideo,
        split: false,
    };
    same_targets(&written(&adapter, dir.path(), options), &adapter);
}

#[test]
fn a_dense_adapter_on_a_fused_layer_stays_dense() {
    let dir = tempfile::tempdir().unwrap();
    let dense = |up: &[f32]| {
        qkv(vec![Block {
            part: 0,
            of: 1,
            down: Matrix::from_f32(3, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            up: Matrix::from_f32(3, 3, up),
            scale: 1.5,
        }])
    };
    let blocks = |up: &[f32; 3]| {
        let block = |part: usize| Block {
            part,
            of: 3,
            down: Matrix::from_f32(1, 2, &[part as f32, 1.0]),
            up: Matrix::from_f32(1, 1, &up[part..=part]),
            scale: 1.5,
        };
        qkv((0..3).map(block).collect())
    };
    // Including those that look like their opposite: diagonal ones, and blocks of zeros.
    let diagonal = [1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 3.0];
    for adapter in [
        dense(&[1.0; 9]),
        dense(&diagonal),
        dense(&[0.0; 9]),
        blocks(&[1.0, 2.0, 3.0]),
        blocks(&[0.0; 3]),
    ] {
        for format in WRITTEN {
            let options = WriteOptions {
                format,
                split: false,
            };
            same_targets(&written(&adapter, dir.path(), options), &adapter);
        }
    }
}

#[test]
fn stored_types_and_header_strings_are_kept() {
    use burn::tensor::DType;
    let dir = tempfile::tempdir().unwrap();
    for dtype in [DType::BF16, DType::F16, DType::F64] {
        let bytes = |count: usize| (0..count * dtype.size()).map(|i| (i % 50) as u8).collect();
        let mut adapter = Adapter::new("by hand");
        let block = Block {
            part: 0,
            of: 1,
            down: Matrix::from_bytes(2, 3, dtype, bytes(6)),
            up: Matrix::from_bytes(4, 2, dtype, bytes(8)),
            scale: 0.1,
        };
        adapter.insert("blocks.0.ffn.w1", vec![block]).unwrap();
        adapter.metadata.insert("author".into(), "me".into());
        for format in WRITTEN {
            let options = WriteOptions {
                format,
                split: false,
            };
            let back = written(&adapter, dir.path(), options);
            same_targets(&back, &adapter);
            assert_eq!(back.metadata["author"], "me");
        }
    }
}

/// Scales in the f32 in which they are used.
fn rounded(adapter: &Adapter) -> Vec<(String, Vec<Block>)> {
    adapter
        .targets()
        .map(|(name, blocks)| {
            let mut blocks = blocks.to_vec();
            for block in &mut blocks {
                block.scale = f64::from(block.scale as f32);
            }
            (name.to_string(), blocks)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_adapters(adapter in adapters(), split in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        for format in WRITTEN {
            let options = WriteOptions { format, split };
            let path = dir.path().join(format.as_str());
            match adapter.write(&path, table(), options) {
                Ok(()) => {
                    let back = Adapter::read(&path, table()).unwrap();
                    for (name, blocks) in adapter.targets() {
                        let found = back.get(name).unwrap();
                        // f64 sums in another order: exact but for the last bits.
                        let error = relative_error(&delta(found), &delta(blocks));
                        prop_assert!(error < 1e-12, "{format} {name}: {error}");
                    }
                }
                // Parts of different scale on a layer that nobody splits.
                Err(error) => prop_assert_eq!(error.code(), "not_expressible"),
            }
        }
    }

    #[test]
    fn uniform_blocks_come_back_as_they_were(
        rank in 1usize..5,
        scale in 0.001f32..10.0,
        seed in prop::collection::vec(-1.0f32..1.0, 24),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let pick = |count: usize, from: usize| -> Vec<f32> {
            (0..count).map(|i| seed[(i + from) % seed.len()]).collect()
        };
        let block = |part: usize| Block {
            part,
            of: 3,
            down: Matrix::from_f32(rank, 4, &pick(rank * 4, part)),
            up: Matrix::from_f32(2, rank, &pick(2 * rank, part + 7)),
            scale: f64::from(scale),
        };
        let adapter = qkv((0..3).map(block).collect());
        for format in WRITTEN {
            for split in [false, true] {
                let back = written(&adapter, dir.path(), WriteOptions { format, split });
                prop_assert_eq!(rounded(&back), rounded(&adapter));
            }
        }
    }
}
