//! What the tests share: the golden folder, a small host model, random adapters, naive arithmetic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use burn_flex::{Flex, FlexDevice};
use longcat_lora::{
    Adapter, Block, Format, LoraHost, LoraLinear, LoraLinearConfig, Matrix, Target, TargetTable,
};
use longcat_weights::{KIJAI_LAYERS, Weight, WeightFiles};
use proptest::prelude::*;

pub type B = Flex;

pub fn golden(path: &str) -> PathBuf {
    let root = match std::env::var_os("LONGCAT_GOLDEN_DIR") {
        Some(root) => PathBuf::from(root),
        None => Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).to_path_buf(),
    };
    root.join(path)
}

pub fn case(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(golden(&format!("cases/{name}/case.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The layers of LongCat-Video and FastVideo's names for them.
pub fn table() -> &'static TargetTable {
    static TABLE: LazyLock<TargetTable> = LazyLock::new(|| {
        let target = |name, parts, split| Target { name, parts, split };
        TargetTable::new(
            &[
                target(
                    "blocks.{i}.attn.qkv",
                    3,
                    &[
                        "blocks.{i}.attn.to_q",
                        "blocks.{i}.attn.to_k",
                        "blocks.{i}.attn.to_v",
                    ],
                ),
                target("blocks.{i}.attn.proj", 1, &[]),
                target("blocks.{i}.cross_attn.q_linear", 1, &[]),
                target(
                    "blocks.{i}.cross_attn.kv_linear",
                    2,
                    &["blocks.{i}.cross_attn.to_k", "blocks.{i}.cross_attn.to_v"],
                ),
                target("blocks.{i}.cross_attn.proj", 1, &[]),
                target("blocks.{i}.ffn.w1", 1, &[]),
                target("blocks.{i}.ffn.w2", 1, &[]),
                target("blocks.{i}.ffn.w3", 1, &[]),
                target("blocks.{i}.adaLN_modulation.1", 6, &[]),
                target("final_layer.adaLN_modulation.1", 2, &[]),
                target("final_layer.linear", 1, &[]),
            ],
            &[
                ("blocks.{i}.self_attn.to_q", "blocks.{i}.attn.qkv#0"),
                ("blocks.{i}.self_attn.to_k", "blocks.{i}.attn.qkv#1"),
                ("blocks.{i}.self_attn.to_v", "blocks.{i}.attn.qkv#2"),
                ("blocks.{i}.self_attn.to_out", "blocks.{i}.attn.proj"),
                (
                    "blocks.{i}.cross_attn.to_q",
                    "blocks.{i}.cross_attn.q_linear",
                ),
                ("blocks.{i}.cross_attn.to_out", "blocks.{i}.cross_attn.proj"),
                ("blocks.{i}.adaln_linear_1", "blocks.{i}.adaLN_modulation.1"),
                ("final_layer.adaln_linear", "final_layer.adaLN_modulation.1"),
                ("final_layer.proj", "final_layer.linear"),
            ],
        )
        .with_norms(&["blocks.{i}.attn.q_norm", "blocks.{i}.pre_crs_attn_norm"])
        .with_names(Format::ComfyUi, KIJAI_LAYERS)
        .with_names(
            Format::FastVideo,
            &[
                ("blocks.{i}.self_attn.to_q", "blocks.{i}.attn.qkv#0"),
                ("blocks.{i}.self_attn.to_k", "blocks.{i}.attn.qkv#1"),
                ("blocks.{i}.self_attn.to_v", "blocks.{i}.attn.qkv#2"),
                ("blocks.{i}.self_attn.q_norm", "blocks.{i}.attn.q_norm"),
            ],
        )
    });
    &TABLE
}

/// A model that is nothing but its layers.
pub struct Host {
    pub layers: BTreeMap<String, LoraLinear<B>>,
}

impl LoraHost<B> for Host {
    fn visit_lora(&self, visit: &mut dyn FnMut(&str, &LoraLinear<B>)) {
        self.layers
            .iter()
            .for_each(|(name, layer)| visit(name, layer));
    }

    fn visit_lora_mut(&mut self, visit: &mut dyn FnMut(&str, &mut LoraLinear<B>)) {
        self.layers
            .iter_mut()
            .for_each(|(name, layer)| visit(name, layer));
    }

    fn target_table(&self) -> &TargetTable {
        table()
    }
}

impl Host {
    /// The layers of the golden checkpoint that can carry adapters.
    pub fn from_checkpoint(files: &WeightFiles, dtype: DType) -> Self {
        let device = FlexDevice;
        let mut layers = BTreeMap::new();
        for key in files.keys() {
            let Some(name) = key.strip_suffix(".weight") else {
                continue;
            };
            if table().canonical(name).is_none() {
                continue;
            }
            let data = files.tensor_data(key).unwrap().convert_dtype(dtype);
            if data.shape.len() != 2 {
                continue;
            }
            let (out, cols) = (data.shape[0], data.shape[1]);
            let mut layer: LoraLinear<B> = LoraLinearConfig::new(cols, out)
                .with_bias(false)
                .init(&device);
            layer.weight = Weight::Dense(Param::from_tensor(Tensor::from_data(
                data,
                (&device, dtype),
            )));
            layers.insert(name.to_string(), layer);
        }
        Self { layers }
    }

    pub fn tiny() -> Self {
        Self::from_checkpoint(&tiny_checkpoint(), DType::F32)
    }

    /// Bytes of every base weight.
    pub fn weights(&self) -> BTreeMap<String, Vec<u8>> {
        self.layers
            .iter()
            .map(|(name, layer)| {
                let data = layer.weight.val().into_data();
                (name.clone(), data.as_bytes().to_vec())
            })
            .collect()
    }
}

pub fn tiny_checkpoint() -> WeightFiles {
    WeightFiles::open(&golden("checkpoints/tiny/dit")).unwrap()
}

pub fn read(path: &str) -> Adapter {
    Adapter::read(&golden(path), table()).unwrap()
}

/// Σ scale · up · down of a layer, `[d_out, d_in]` in f64, straight from the definition.
pub fn delta(blocks: &[Block]) -> Vec<f64> {
    let (d_out, d_in) = (blocks[0].d_out(), blocks[0].down.cols());
    let mut sum = vec![0.0; d_out * d_in];
    for block in blocks {
        let (up, down, rank) = (block.up.to_f32(), block.down.to_f32(), block.rank());
        for row in 0..block.up.rows() {
            for col in 0..d_in {
                let product: f64 = (0..rank)
                    .map(|r| f64::from(up[row * rank + r]) * f64::from(down[r * d_in + col]))
                    .sum();
                sum[(block.part * block.up.rows() + row) * d_in + col] += block.scale * product;
            }
        }
    }
    sum
}

/// ‖a − b‖ / ‖b‖.
pub fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| b.powi(2)).sum();
    difference.sqrt() / norm.sqrt().max(f64::MIN_POSITIVE)
}

pub fn floats(tensor: Tensor<B, 2>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

pub fn matrix(rows: usize, cols: usize) -> impl Strategy<Value = Matrix> {
    prop::collection::vec(-1.0f32..1.0, rows * cols)
        .prop_map(move |values| Matrix::from_f32(rows, cols, &values))
}

fn block(part: usize, of: usize, d_out: usize, d_in: usize) -> impl Strategy<Value = Block> {
    (1usize..5, 0.01f32..3.0).prop_flat_map(move |(rank, scale)| {
        (matrix(rank, d_in), matrix(d_out / of, rank)).prop_map(move |(down, up)| Block {
            part,
            of,
            down,
            up,
            scale: f64::from(scale),
        })
    })
}

/// Blocks for a layer: one for all rows, or any non-empty choice of parts with ranks and scales of
/// their own.
fn blocks(parts: usize, d_out: usize, d_in: usize) -> BoxedStrategy<Vec<Block>> {
    let whole = block(0, 1, d_out, d_in).prop_map(|b| vec![b]);
    if parts == 1 {
        return whole.boxed();
    }
    let each: Vec<_> = (0..parts)
        .map(|part| prop::option::weighted(0.7, block(part, parts, d_out, d_in)))
        .collect();
    let some = each.prop_filter_map("no block", |blocks| {
        let present: Vec<Block> = blocks.into_iter().flatten().collect();
        (!present.is_empty()).then_some(present)
    });
    prop_oneof![whole, some].boxed()
}

/// Adapters on three layers of the small checkpoint: fused in three, fused in six, not fused.
pub fn adapters() -> impl Strategy<Value = Adapter> {
    (blocks(3, 192, 64), blocks(6, 384, 32), blocks(1, 64, 64)).prop_map(|(qkv, ada, proj)| {
        let mut adapter = Adapter::new("random");
        adapter.insert("blocks.0.attn.qkv", qkv).unwrap();
        adapter.insert("blocks.1.adaLN_modulation.1", ada).unwrap();
        adapter.insert("blocks.1.attn.proj", proj).unwrap();
        adapter
    })
}
