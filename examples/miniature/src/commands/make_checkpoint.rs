//! The miniature: a small checkpoint, with random weights until it is trained.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::tensor::backend::Backend as _;
use burn::tensor::{DType, Distribution, Shape, Tensor};
use burn_flex::{Flex, FlexDevice};
use clap::Args;
use longcat_dit::{DitConfig, LongCatTransformer, lora_targets};
use longcat_lora::{Adapter, Block, Format, LoraHost, Matrix, WriteOptions};
use longcat_miniature::{DatasetOptions, Raster, ShapesDataset, Split};
use longcat_text::{Umt5Config, Umt5Encoder};
use longcat_vae::{WanVae, WanVaeConfig};
use longcat_video::VideoSize;
use longcat_weights::{NameMap, NamedTensor, collect_module, write_atomic, write_safetensors};
use serde_json::{Value, json};
use tokenizers::decoders::metaspace::Metaspace;
use tokenizers::models::unigram::Unigram;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer};

const VOCABULARY: usize = 256;
const SPECIAL: [&str; 3] = ["<pad>", "</s>", "<unk>"];
/// How often a character counts as a piece: less than any word.
const RARE: f64 = 0.01;
/// Text tokens per prompt. Captions have fewer than 40; padding is attended to and costs time.
const TEXT_LENGTH: usize = 48;
/// Condition frames of a continuation: two latents.
const COND_FRAMES: usize = 5;
/// Captions that the tokenizer is made from.
const CAPTIONS: usize = 4000;
/// Targets of the two official adapters.
const CFG_STEP: &[&str] = &[
    "attn.qkv",
    "attn.proj",
    "cross_attn.q_linear",
    "cross_attn.kv_linear",
    "ffn.w1",
    "ffn.w2",
    "ffn.w3",
];
const REFINEMENT: &[&str] = &["adaLN_modulation.1", "final_layer.linear"];
/// The release has 12. The fewer latents a clip has, the sooner noise drowns it.
const SHIFT: f64 = 5.0;
const RANK: usize = 12;

/// `miniature make-checkpoint`.
#[derive(Debug, Args)]
pub struct MakeCheckpoint {
    /// Where to write it.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Seed of the weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl MakeCheckpoint {
    /// Writes the checkpoint in the official layout.
    pub fn run(&self) -> Result<()> {
        write(&self.output, self.seed)
    }
}

fn write(output: &Path, seed: u64) -> Result<()> {
    if output.join("dit").exists() {
        fs::remove_dir_all(output).with_context(|| format!("replacing {}", output.display()))?;
    }
    let device = FlexDevice;
    Flex::seed(&device, seed);
    tokenizer(&output.join("tokenizer"))?;
    text_encoder(&output.join("text_encoder"), &device)?;
    vae(&output.join("vae"), &device)?;
    scheduler(&output.join("scheduler"))?;
    defaults(&output.join("longcat.json"))?;
    let model = transformer(&output.join("dit"), &device)?;
    let lora = output.join("lora");
    adapter(
        &lora.join("cfg_step_lora.safetensors"),
        &model,
        CFG_STEP,
        &device,
    )?;
    let refinement = [CFG_STEP, REFINEMENT].concat();
    adapter(
        &lora.join("refinement_lora.safetensors"),
        &model,
        &refinement,
        &device,
    )?;
    println!("{}", output.display());
    Ok(())
}

/// Size, length and rate of its videos.
fn defaults(path: &Path) -> Result<()> {
    let Raster { side, frames, fps } = Raster::default();
    let size = VideoSize::new(side, side).to_string();
    let defaults = json!({
        "size": size, "sizes": "fixed", "frames": frames, "fps": fps, "cond_frames": COND_FRAMES,
    });
    write_json(path, &defaults)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    write_atomic(path, format!("{value:#}\n").as_bytes())?;
    Ok(())
}

/// Weights are stored in bf16, as in the release.
fn weights<M: Module<Flex>>(module: &M, names: &NameMap, path: &Path) -> Result<()> {
    write_bf16(collect_module::<Flex, _>(module, names)?, path)
}

fn write_bf16(mut tensors: Vec<NamedTensor>, path: &Path) -> Result<()> {
    for tensor in &mut tensors {
        tensor.data = tensor.data.clone().convert_dtype(DType::BF16);
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    write_safetensors(
        path,
        &tensors,
        &BTreeMap::from([("format".into(), "pt".into())]),
    )?;
    Ok(())
}

/// A Unigram model of the words of the captions, by how often they come; of characters, where
/// nothing else fits. (The trainer of the `tokenizers` crate looks for pieces that several words
/// share, and among so few words would leave most in characters.)
fn tokenizer(dir: &Path) -> Result<()> {
    let failed = |e: tokenizers::Error| anyhow::anyhow!("making the tokenizer: {e}");
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    let characters = (' '..='~').map(|c| c.to_string().replace(' ', "▁"));
    counts.extend(characters.map(|c| (c, RARE)));
    for caption in captions() {
        for word in caption.split(' ') {
            let plain = word.trim_end_matches([',', '.']);
            *counts.entry(format!("▁{plain}")).or_default() += 1.0;
            if plain.len() < word.len() {
                *counts.entry(word[plain.len()..].to_string()).or_default() += 1.0;
            }
        }
    }
    let total: f64 = counts.values().sum();
    let mut pieces: Vec<(String, f64)> = SPECIAL.map(|s| (s.to_string(), 0.0)).to_vec();
    pieces.extend(
        counts
            .into_iter()
            .map(|(p, count)| (p, (count / total).ln())),
    );
    if pieces.len() > VOCABULARY {
        bail!(
            "{} pieces are more than the encoder's {VOCABULARY}",
            pieces.len()
        );
    }
    let model = Unigram::from(pieces, Some(2), false).map_err(failed)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.add_special_tokens(&SPECIAL.map(|s| AddedToken::from(s, true)));
    let metaspace = Metaspace::new('▁', PrependScheme::Always, true);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::WhitespaceSplit(WhitespaceSplit),
        PreTokenizerWrapper::Metaspace(metaspace),
    ])));
    let processor = TemplateProcessing::builder()
        .try_single("$A </s>")
        .and_then(|p| p.try_pair("$A </s> $B </s>"))
        .map_err(|e| anyhow::anyhow!("the tokenizer's template: {e}"))?
        .special_tokens(vec![("</s>", 1)])
        .build()
        .context("the tokenizer's template")?;
    tokenizer.with_post_processor(Some(processor));
    let text = tokenizer.to_string(true).map_err(failed)?;
    fs::create_dir_all(dir)?;
    write_atomic(&dir.join("tokenizer.json"), text.as_bytes())?;
    let config = json!({
        "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
        "model_max_length": TEXT_LENGTH, "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    write_json(&dir.join("tokenizer_config.json"), &config)?;
    let map = json!({"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"});
    write_json(&dir.join("special_tokens_map.json"), &map)
}

fn captions() -> impl Iterator<Item = String> {
    let dataset = ShapesDataset::new(0, Split::Train, DatasetOptions::default());
    (0..CAPTIONS as u64).map(move |index| dataset.get(index).caption)
}

fn text_encoder(dir: &Path, device: &FlexDevice) -> Result<()> {
    let config = json!({
        "architectures": ["UMT5EncoderModel"], "model_type": "umt5",
        "d_model": 128, "d_ff": 256, "d_kv": 32, "num_heads": 4, "num_layers": 2,
        "vocab_size": VOCABULARY, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new",
        "is_gated_act": true, "layer_norm_epsilon": 1e-6, "dropout_rate": 0.0,
        "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32,
        "pad_token_id": 0, "eos_token_id": 1, "is_encoder_decoder": true, "use_cache": true,
    });
    let path = dir.join("config.json");
    write_json(&path, &config)?;
    let encoder = Umt5Encoder::<Flex>::new(&Umt5Config::read(&path)?, device);
    weights(
        &encoder,
        &longcat_text::internal_names(),
        &dir.join("model.safetensors"),
    )
}

fn vae(dir: &Path, device: &FlexDevice) -> Result<()> {
    let config = json!({
        "_class_name": "AutoencoderKLWan", "base_dim": 16, "decoder_base_dim": null, "z_dim": 16,
        "dim_mult": [1, 2, 3, 3], "num_res_blocks": 2, "attn_scales": [],
        "temperal_downsample": [false, true, true], "dropout": 0.0, "is_residual": false,
        "in_channels": 3, "out_channels": 3, "patch_size": null,
        "scale_factor_spatial": 8, "scale_factor_temporal": 4,
        "latents_mean": vec![0.0; 16], "latents_std": vec![1.0; 16],
    });
    let path = dir.join("config.json");
    write_json(&path, &config)?;
    let vae = WanVae::<Flex>::new(&WanVaeConfig::read(&path)?, device);
    let file = dir.join("diffusion_pytorch_model.safetensors");
    weights(&vae, &longcat_vae::internal_names(), &file)
}

fn scheduler(dir: &Path) -> Result<()> {
    let config = json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000, "shift": SHIFT,
    });
    write_json(&dir.join("scheduler_config.json"), &config)
}

fn transformer(dir: &Path, device: &FlexDevice) -> Result<LongCatTransformer<Flex>> {
    let config = json!({
        "_class_name": "LongCatVideoTransformer3DModel",
        "in_channels": 16, "out_channels": 16, "hidden_size": 192, "depth": 6, "num_heads": 4,
        "caption_channels": 128, "mlp_ratio": 4, "adaln_tembed_dim": 64,
        "frequency_embedding_size": 256, "patch_size": [1, 2, 2], "enable_bsa": false,
        "bsa_params": {
            "sparsity": 0.5, "chunk_3d_shape_q": [4, 4, 4], "chunk_3d_shape_k": [4, 4, 4],
        },
        "text_tokens_zero_pad": true,
    });
    let path = dir.join("config.json");
    write_json(&path, &config)?;
    let model = LongCatTransformer::<Flex>::new(&DitConfig::read(&path)?, device);
    let file = dir.join("diffusion_pytorch_model.safetensors");
    write_bf16(longcat_dit::official_tensors(&model)?, &file)?;
    Ok(model)
}

/// An adapter with small random factors on the layers whose names end in one of `targets`.
fn adapter(
    path: &Path,
    model: &LongCatTransformer<Flex>,
    targets: &[&str],
    device: &FlexDevice,
) -> Result<()> {
    let mut adapter = Adapter::new(path);
    let mut failed = None;
    let matrix = |rows: usize, cols: usize, scale: f64| -> Result<Matrix> {
        let spread = Distribution::Normal(0.0, scale);
        let values = Tensor::<Flex, 2>::random(Shape::from([rows, cols]), spread, device);
        let data = values.cast(DType::BF16).into_data();
        Ok(Matrix::from_bytes(
            rows,
            cols,
            DType::BF16,
            data.as_bytes().to_vec(),
        ))
    };
    model.visit_lora(&mut |name, layer| {
        if !targets.iter().any(|t| name.ends_with(t)) {
            return;
        }
        let parts = lora_targets().parts(name);
        let blocks: Result<Vec<Block>> = (0..parts)
            .map(|part| {
                Ok(Block {
                    part,
                    of: parts,
                    down: matrix(RANK, layer.d_in(), (layer.d_in() as f64).powf(-0.5))?,
                    up: matrix(layer.d_out() / parts, RANK, 0.02)?,
                    scale: 0.5,
                })
            })
            .collect();
        let added = blocks.and_then(|blocks| Ok(adapter.insert(name, blocks)?));
        failed = failed.take().or(added.err());
    });
    if let Some(error) = failed {
        return Err(error);
    }
    if adapter.is_empty() {
        bail!("no layer of the transformer matches {targets:?}");
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let options = WriteOptions {
        format: Format::Official,
        split: false,
    };
    adapter.write(path, lora_targets(), options)?;
    Ok(())
}
