//! Bytes of the models on a device, from their configs.

use burn::tensor::DType;
use longcat_dit::DitConfig;
use longcat_text::Umt5Config;
use longcat_vae::WanVaeConfig;

use super::plan::parts;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransformerSizes {
    /// What is always on the device: embedders, last layer, biases and norms.
    pub fixed: u64,
    /// Matrices of one block, as they are kept.
    pub block: u64,
    /// Matrices that were unpacked, one of each size; 0 where none is packed.
    pub unpacked: u64,
    /// Number of blocks.
    pub depth: usize,
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
    /// Bytes of an element.
    pub element: u64,
}

/// Bytes of the text encoder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextSizes {
    /// The table of token embeddings and what is small.
    pub fixed: u64,
    /// Matrices of one layer.
    pub layer: u64,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the hidden layer of feed-forward.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
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
/// the frames before and those under way: decoding 480×832 in bf16 took 11.7 GB of an H100 and tiles of
/// 256×256 took 4.4 GB, weights, libraries and results included.
const VAE_ELEMENTS: u64 = 115;

impl ModelSizes {
    /// Sizes of models in these dtypes. Matrices of the transformer's blocks and of the text encoder's
    /// layers take `bits` a weight where they are packed, such as 8 for fp8. An unknown text encoder counts as
    /// nothing.
    pub fn new(
        (transformer, text, vae): (&DitConfig, Option<&Umt5Config>, &WanVaeConfig),
        (dtype, vae_dtype): (DType, DType),
        bits: Option<f64>,
        device: DeviceSizes,
    ) -> Self {
        Self {
            device,
            transformer: TransformerSizes::new(transformer, dtype, bits),
            text: text.map_or_else(TextSizes::default, |text| TextSizes::new(text, dtype, bits)),
            vae: VaeSizes::new(vae, vae_dtype),
        }
    }
}

/// Bytes of `weights` in elements of `element` bytes, or packed.
fn matrices(weights: u64, element: u64, bits: Option<f64>) -> u64 {
    match bits {
        None => weights * element,
        Some(bits) => (weights as f64 * bits / 8.0).ceil() as u64,
    }
}

impl TransformerSizes {
    /// All weights where so many blocks stay on the device.
    pub fn weights(&self, resident: usize) -> u64 {
        self.fixed + self.unpacked + parts(self.block, resident, self.depth)
    }

    /// Sizes of a transformer in this dtype.
    pub fn new(config: &DitConfig, dtype: DType, bits: Option<f64>) -> Self {
        let element = dtype.size() as u64;
        let [c, f, t] = [
            config.hidden_size,
            config.ffn_dim(),
            config.adaln_tembed_dim,
        ];
        let [c, f, t] = [c, f, t].map(|n| n as u64);
        let area = config.patch_size.iter().product::<usize>();
        let [patch_in, patch_out] =
            [config.in_channels, config.out_channels].map(|channels| (channels * area) as u64);
        let (caption, waves) = (
            config.caption_channels as u64,
            config.frequency_embedding_size as u64,
        );
        // Modulation and everything about the timestep is f32.
        let modulation = 4 * 6 * c * t;
        let linear = 8 * c * c + 3 * c * f;
        let small = element * (3 * c + c + c + 2 * c + c)
            + 4 * (6 * c + 2 * c + 4 * config.head_dim() as u64);
        let embedders = element * (patch_in * c + c + caption * c + c + c * c + c)
            + 4 * (waves * t + t + t * t + t);
        let last = 4 * (2 * c * t + 2 * c + c * patch_out + patch_out);
        Self {
            fixed: embedders + last + config.depth as u64 * small,
            block: modulation + matrices(linear, element, bits),
            // qkv, kv, one of the square ones, one of feed-forward in either direction.
            unpacked: match bits {
                Some(_) => element * (3 * c * c + 2 * c * c + c * c + c * f),
                None => 0,
            },
            depth: config.depth,
            width: config.hidden_size,
            hidden: config.ffn_dim(),
            heads: config.num_heads,
            patch: patch_in as usize,
            sides: [config.patch_size[1], config.patch_size[2]],
            sparse_blocks: config.bsa_params.as_ref().map(|params| {
                [params.chunk_3d_shape_q, params.chunk_3d_shape_k]
                    .map(|chunk| chunk.iter().product())
            }),
            element,
        }
    }
}

impl TextSizes {
    /// All weights where so many layers stay on the device.
    pub fn weights(&self, resident: usize) -> u64 {
        self.fixed + parts(self.layer, resident, self.layers)
    }

    /// Sizes of a text encoder in this dtype.
    pub fn new(config: &Umt5Config, dtype: DType, bits: Option<f64>) -> Self {
        let element = dtype.size() as u64;
        let [d, f] = [config.d_model, config.d_ff].map(|n| n as u64);
        let inner = (config.num_heads * config.d_kv) as u64;
        let biases = (config.num_heads * config.relative_attention_num_buckets) as u64;
        let small = config.num_layers as u64 * (2 * d + biases) + d;
        Self {
            fixed: element * (config.vocab_size as u64 * d + small),
            layer: matrices(4 * d * inner + 3 * d * f, element, bits),
            layers: config.num_layers,
            width: config.d_model,
            hidden: config.d_ff,
            heads: config.num_heads,
            element,
        }
    }
}

impl VaeSizes {
    /// Sizes of a VAE in this dtype.
    pub fn new(config: &WanVaeConfig, dtype: DType) -> Self {
        let element = dtype.size() as u64;
        let base = config.base_dim.max(config.decoder_base_dim) as u64;
        Self {
            weights: element * VAE_WEIGHTS * base * base,
            pixel: element * VAE_ELEMENTS * base,
            factor: config.scale_factor_spatial,
            frames: config.scale_factor_temporal,
            element,
        }
    }
}
