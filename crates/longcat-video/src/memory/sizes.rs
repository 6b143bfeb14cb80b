//! Bytes of the models on a device, from their configs.

use burn::tensor::DType;
use longcat_dit::{DitConfig, packable};
use longcat_text::{Umt5Config, is_packable};
use longcat_vae::WanVaeConfig;
use longcat_weights::{KeptMatrix, Precision, WeightFiles};

use super::parts::Parts;

/// What a device takes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceSizes {
    /// Context, compiled kernels and workspaces of libraries.
    pub context: u64,
    /// What convolutions take for themselves.
    pub convolutions: u64,
}

/// Bytes of the models of a checkpoint, before any is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSizes {
    /// What the device takes for itself.
    pub device: DeviceSizes,
    /// The transformer.
    pub transformer: TransformerSizes,
    /// The text encoder.
    pub text: TextSizes,
    /// The VAE.
    pub vae: VaeSizes,
}

/// Bytes of the transformer, and the sizes that its tokens follow from.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerSizes {
    /// What is always on the device: embedders, last layer, biases and norms.
    pub fixed: u64,
    /// Matrices of each block, as they are kept.
    pub blocks: Parts,
    /// Matrices that were unpacked, one of each size; 0 where none is packed.
    pub unpacked: u64,
    /// Whether activations are rounded to eight bits for products in fp8.
    pub rounded: bool,
    /// Whether queries, keys and values are copied in eight bits for attention.
    pub eight_bit_heads: bool,
    /// Width of the token stream.
    pub width: usize,
    /// Width of the hidden layer of feed-forward.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Latent values of a token.
    pub patch: usize,
    /// Height and width of a token in latents.
    pub sides: [usize; 2],
    /// Tokens in a block of queries and of keys of block-sparse attention.
    pub sparse_blocks: Option<[usize; 2]>,
    /// The share of the blocks of keys that each block of queries attends to then; all where only the scores
    /// tell.
    pub kept: f64,
    /// Bytes of an element.
    pub element: u64,
}

/// Bytes of the text encoder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextSizes {
    /// The table of token embeddings and what is small.
    pub fixed: u64,
    /// Matrices of each layer, as they are kept.
    pub layers: Parts,
    /// Matrices that were unpacked, one of each size; 0 where none is packed.
    pub unpacked: u64,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the hidden layer of feed-forward.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of all heads together.
    pub inner: usize,
    /// Bytes of an element.
    pub element: u64,
}

/// Bytes of the VAE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaeSizes {
    /// All weights.
    pub weights: u64,
    /// What encoding or decoding holds for each pixel of a picture or tile.
    pub pixel: u64,
    /// Channels at the full size of a picture.
    pub base: usize,
    /// Pixels per latent along a side.
    pub factor: usize,
    /// Frames per latent frame.
    pub frames: usize,
    /// Bytes of an element.
    pub element: u64,
}

/// Weights of the Wan VAE for each square of its base width: 126.9 million at 96.
const VAE_WEIGHTS: u64 = 13_770;

/// Elements that the VAE holds for each pixel and channel of its base width, features remembered from
/// the frames before and those under way, workspaces of libraries included: of the peaks of an H200 while
/// decoding in bf16, 38,923 MiB at 480×832 and 50.2 GiB at 704×1280, 9.5 and 21.3 GiB were neither weights nor
/// its context.
const VAE_ELEMENTS: u64 = 128;

impl ModelSizes {
    /// Sizes of models in these dtypes, with their matrices kept so. An unknown text encoder counts as nothing.
    pub fn new(
        (transformer, text, vae): (&DitConfig, Option<&Umt5Config>, &WanVaeConfig),
        (dtype, vae_dtype): (DType, DType),
        kept: &KeptWeights,
        device: DeviceSizes,
    ) -> Self {
        let text = text.map(|text| TextSizes::new(text, dtype, kept));
        Self {
            device,
            transformer: TransformerSizes::new(transformer, dtype, kept),
            text: text.unwrap_or_default(),
            vae: VaeSizes::new(vae, vae_dtype),
        }
    }
}

/// How matrices of linear layers are kept on a device.
#[derive(Debug, Clone, Default)]
pub struct KeptWeights {
    /// As what they are loaded.
    pub precision: Precision,
    /// The transformer's weights under their official names, where they are at hand: they may be packed.
    /// Without them it counts as floats.
    pub transformer: Option<WeightFiles>,
    /// The text encoder's.
    pub text: Option<WeightFiles>,
}

impl From<Precision> for KeptWeights {
    fn from(precision: Precision) -> Self {
        Self {
            precision,
            ..Self::default()
        }
    }
}

/// Sums over matrices, as they are kept.
struct Matrices<'a> {
    precision: Precision,
    files: Option<&'a WeightFiles>,
    /// Numbers of weights of those that are packed, each once.
    packed: Vec<usize>,
}

impl<'a> Matrices<'a> {
    fn new(precision: Precision, files: Option<&'a WeightFiles>) -> Self {
        Self {
            precision,
            files,
            packed: Vec::new(),
        }
    }

    /// Bytes of the matrix of this official name, in `dtype` where it is of floats.
    fn bytes(&mut self, name: &str, shape: [usize; 2], dtype: DType, keep_dense: bool) -> u64 {
        let precision = self.precision;
        let stored = self.files.and_then(|files| {
            let kept = files.kept(name, dtype, precision, keep_dense);
            kept.ok()
        });
        let kept =
            stored.unwrap_or_else(|| KeptMatrix::of_floats(shape, dtype, precision, keep_dense));
        let count = shape[0] * shape[1];
        if kept.packed && !self.packed.contains(&count) {
            self.packed.push(count);
        }
        kept.bytes
    }

    /// Bytes of one of each size of those that are packed, as numbers of `element` bytes.
    fn unpacked(&self, element: u64) -> u64 {
        self.packed.iter().sum::<usize>() as u64 * element
    }
}

impl TransformerSizes {
    /// All weights where so many blocks stay on the device.
    pub fn weights(&self, resident: usize) -> u64 {
        self.fixed + self.unpacked + self.blocks.bytes(resident)
    }

    /// What of them is there while others work: matrices that pass through and unpacked ones are not.
    pub fn held(&self, resident: usize) -> u64 {
        self.fixed + self.blocks.held(resident)
    }

    /// Sizes of a transformer in this dtype, with its matrices kept so.
    pub fn new(config: &DitConfig, dtype: DType, kept: &KeptWeights) -> Self {
        let element = dtype.size() as u64;
        let [width, hidden, time] = [
            config.hidden_size,
            config.ffn_dim(),
            config.adaln_tembed_dim,
        ];
        let layers = [
            // Modulation and everything about the timestep is f32.
            ("adaLN_modulation.1", [6 * width, time], DType::F32),
            ("attn.qkv", [3 * width, width], dtype),
            ("attn.proj", [width; 2], dtype),
            ("cross_attn.q_linear", [width; 2], dtype),
            ("cross_attn.kv_linear", [2 * width, width], dtype),
            ("cross_attn.proj", [width; 2], dtype),
            ("ffn.w1", [hidden, width], dtype),
            ("ffn.w2", [width, hidden], dtype),
            ("ffn.w3", [hidden, width], dtype),
        ];
        let packable = packable(config);
        let mut matrices = Matrices::new(kept.precision, kept.transformer.as_ref());
        let blocks = (0..config.depth).map(|block| {
            let bytes = layers.map(|(layer, shape, dtype)| {
                let name = format!("blocks.{block}.{layer}.weight");
                let keep_dense = !packable(&name);
                matrices.bytes(&name, shape, dtype, keep_dense)
            });
            bytes.iter().sum::<u64>()
        });
        let blocks = Parts::new(blocks.collect());
        let [c, t] = [width, time].map(|n| n as u64);
        let area = config.patch_size.iter().product::<usize>();
        let [patch_in, patch_out] =
            [config.in_channels, config.out_channels].map(|channels| (channels * area) as u64);
        let (caption, waves) = (
            config.caption_channels as u64,
            config.frequency_embedding_size as u64,
        );
        let small = element * (3 * c + c + c + 2 * c + c)
            + 4 * (6 * c + 2 * c + 4 * config.head_dim() as u64);
        let embedders = element * (patch_in * c + c + caption * c + c + c * c + c)
            + 4 * (waves * t + t + t * t + t);
        let sparsity = config.bsa_params.as_ref().and_then(|bsa| bsa.sparsity);
        let last = 4 * (2 * c * t + 2 * c + c * patch_out + patch_out);
        Self {
            fixed: embedders + last + config.depth as u64 * small,
            blocks,
            unpacked: matrices.unpacked(element),
            rounded: false,
            eight_bit_heads: false,
            width,
            hidden,
            heads: config.num_heads,
            patch: patch_in as usize,
            sides: [config.patch_size[1], config.patch_size[2]],
            sparse_blocks: config.bsa_params.as_ref().map(|params| {
                [params.chunk_3d_shape_q, params.chunk_3d_shape_k]
                    .map(|chunk| chunk.iter().product())
            }),
            kept: sparsity.map_or(1.0, |sparsity| 1.0 - sparsity),
            element,
        }
    }
}

impl TextSizes {
    /// All weights where so many layers stay on the device.
    pub fn weights(&self, resident: usize) -> u64 {
        self.fixed + self.unpacked + self.layers.bytes(resident)
    }

    /// What of them is there while others work: matrices that pass through and unpacked ones are not.
    pub fn held(&self, resident: usize) -> u64 {
        self.fixed + self.layers.held(resident)
    }

    /// Sizes of a text encoder in this dtype, with its matrices kept so.
    pub fn new(config: &Umt5Config, dtype: DType, kept: &KeptWeights) -> Self {
        let element = dtype.size() as u64;
        let (width, hidden) = (config.d_model, config.d_ff);
        let inner = config.num_heads * config.d_kv;
        // In f16 the last one stays f32.
        let last = match dtype {
            DType::F16 => DType::F32,
            dtype => dtype,
        };
        let matrices_of_layer = [
            ("0.SelfAttention.q", [inner, width], dtype),
            ("0.SelfAttention.k", [inner, width], dtype),
            ("0.SelfAttention.v", [inner, width], dtype),
            ("0.SelfAttention.o", [width, inner], dtype),
            ("1.DenseReluDense.wi_0", [hidden, width], dtype),
            ("1.DenseReluDense.wi_1", [hidden, width], dtype),
            ("1.DenseReluDense.wo", [width, hidden], last),
        ];
        let mut matrices = Matrices::new(kept.precision, kept.text.as_ref());
        let layers = (0..config.num_layers).map(|layer| {
            let bytes = matrices_of_layer.map(|(matrix, shape, dtype)| {
                let name = format!("encoder.block.{layer}.layer.{matrix}.weight");
                matrices.bytes(&name, shape, dtype, !is_packable(&name))
            });
            bytes.iter().sum::<u64>()
        });
        let layers = Parts::new(layers.collect());
        let d = width as u64;
        let biases = (config.num_heads * config.relative_attention_num_buckets) as u64;
        let small = config.num_layers as u64 * (2 * d + biases) + d;
        Self {
            fixed: element * (config.vocab_size as u64 * d + small),
            layers,
            unpacked: matrices.unpacked(element),
            width,
            hidden,
            heads: config.num_heads,
            inner,
            element,
        }
    }
}

impl VaeSizes {
    /// Sizes of a VAE in this dtype.
    pub fn new(config: &WanVaeConfig, dtype: DType) -> Self {
        let element = dtype.size() as u64;
        let base = config.base_dim.max(config.decoder_base_dim);
        let wide = base as u64;
        Self {
            weights: element * VAE_WEIGHTS * wide * wide,
            pixel: element * VAE_ELEMENTS * wide,
            base,
            factor: config.scale_factor_spatial,
            frames: config.scale_factor_temporal,
            element,
        }
    }
}
