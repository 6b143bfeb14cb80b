//! Bytes of what is under way on a device.

use longcat_dit::TokenPieces;
use longcat_vae::Tiling;

use super::sizes::{TextSizes, TransformerSizes, VaeSizes};

/// What a request computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSizes {
    /// Prompts that are encoded at once, negative ones included, and tokens of each.
    pub prompts: [usize; 2],
    /// Condition frames, or the video that is refined.
    pub encode: Option<ClipSizes>,
    /// How often they are encoded: in all segments of a long video, or in all but the first.
    pub encodings: usize,
    /// The denoising.
    pub denoise: DenoiseSizes,
    /// The result.
    pub decode: ClipSizes,
    /// Steps of the denoising.
    pub steps: usize,
    /// How often all else is done: segments of a long video, else once.
    pub segments: usize,
    /// What is settled already.
    pub asked: Asked,
}

/// What a plan does not choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Whether the transformer may stay while others work; it does where there is room.
    pub keep_transformer: bool,
    /// Whether the text encoder may stay.
    pub keep_text_encoder: bool,
    /// Tiles of the VAE.
    pub tiling: Option<Tiling>,
    /// Whether cached keys and values are in host memory.
    pub offload_kv_cache: bool,
    /// Blocks of the transformer that stay on the device.
    pub resident_blocks: Option<usize>,
    /// Layers of the text encoder that stay on the device.
    pub resident_layers: Option<usize>,
    /// Whether transformer and VAE were used before prompts are encoded, as in every run of a process but its
    /// first: they may be on the device by then.
    pub used_before: bool,
}

/// Videos that pass through the VAE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipSizes {
    /// Videos at once.
    pub samples: usize,
    /// Frames of each.
    pub frames: usize,
    /// Height and width in pixels.
    pub size: [usize; 2],
    /// Whether all frames lie on the device at once, as they do in encoding.
    pub whole: bool,
}

/// Clips that pass through the transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenoiseSizes {
    /// Clips at once; under guidance twice the videos.
    pub samples: usize,
    /// Latent frames of each; with a cache those that are not in it.
    pub frames: usize,
    /// Height and width in tokens.
    pub grid: [usize; 2],
    /// Of these the leading ones that are conditions, and attend to each other only.
    pub conditions: usize,
    /// Latent frames whose keys and values are cached.
    pub cached: usize,
    /// Videos whose conditions are cached.
    pub cached_samples: usize,
    /// Tokens of a prompt.
    pub text: usize,
    /// Whether attention is block-sparse.
    pub sparse: bool,
    /// Whether devices that have other frames of the clips exchange heads.
    pub exchanged: bool,
    /// Bytes of adapters beside the weights.
    pub adapters: u64,
}

impl DenoiseSizes {
    /// Tokens of a latent frame.
    pub fn space(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.samples * self.frames * self.space()
    }
}

/// Tensors of the size of all tokens `[B, N, C]` that a block holds at once: tokens, queries, keys and
/// values, and a regrouped copy of one of these, or what they attended to.
const WHOLE: u64 = 5;
/// Tensors of that size while devices exchange heads: queries, keys and values of all tokens, and what comes back of
/// them.
const EXCHANGED: u64 = 4;
/// Tensors of the size of a piece of the tokens.
const PIECE: u64 = 3;
/// Copies of latents in f32 that a step holds: what it begins and ends with, predictions, noise.
const LATENTS: u64 = 8;

impl TransformerSizes {
    /// What a step holds besides weights, adapters and cached keys and values.
    ///
    /// Pools on CUDA keep a tensor of each size that was ever needed, so that sizes add up over a step
    /// even where their lifetimes do not meet.
    pub fn step(&self, request: &DenoiseSizes, pieces: TokenPieces) -> u64 {
        let DenoiseSizes {
            samples, frames, ..
        } = *request;
        let space = request.space();
        let tokens = request.tokens() as u64;
        let row = self.width as u64 * self.element;
        let sizes = pieces.sizes(samples, frames, space);
        let mut bytes = self.pass(tokens, &sizes);
        if request.exchanged {
            bytes += EXCHANGED * tokens * row;
        }
        let cached = (samples * request.cached * space) as u64;
        if self.eight_bit_heads {
            bytes += (3 * tokens + 2 * cached) * self.width as u64;
        }
        // The last layer is f32: its input, and the same normalised.
        bytes += 2 * sizes.iter().sum::<usize>() as u64 * self.width as u64 * 4;
        if cached > 0 {
            // Keys and values behind cached ones, and these before that; the pass that makes them.
            bytes += 2 * (tokens + cached) * row + 2 * cached * row;
            let [samples, frames] = [request.cached_samples, request.cached];
            let clean = (samples * frames * space) as u64;
            bytes += self.pass(clean, &pieces.sizes(samples, frames, space));
        }
        if request.conditions > 0 {
            // Queries of the others and what they attend to; the same of conditions, with keys and values.
            let conditions = (samples * request.conditions * space) as u64;
            let others = tokens.saturating_sub(conditions);
            bytes += (2 * others + 4 * conditions) * row;
            // Cross-attention is for the others only, in pieces of their own.
            let own = pieces.sizes(samples, frames.saturating_sub(request.conditions), space);
            let own = own.iter().filter(|size| !sizes.contains(size));
            bytes += PIECE * own.sum::<usize>() as u64 * row;
        }
        if let (true, Some([queries, keys])) = (request.sparse, self.sparse_blocks) {
            let of = |tokens: usize, block: usize| (frames * space + tokens).div_ceil(block.max(1));
            let scores = of(0, queries) * of(request.cached * space, keys);
            // Scores in f32, and the list that is chosen from them.
            bytes += (samples * self.heads * scores) as u64 * 5;
        }
        let angles = ((frames + request.cached) * space * (self.width / self.heads)) as u64 * 4;
        let text = (samples * request.text) as u64 * row * 6;
        bytes + angles + text + LATENTS * tokens * self.patch as u64 * 4
    }

    /// What blocks hold of so many tokens, in pieces of these sizes.
    fn pass(&self, tokens: u64, pieces: &[usize]) -> u64 {
        let row = self.width as u64 * self.element;
        let of_piece = |piece: &usize| {
            let piece = *piece as u64;
            let mut bytes = 3 * piece * self.hidden as u64 * self.element;
            // In pieces or not, queries, keys and values come out of one product. Where it has the size of all
            // tokens it is one of those: what they attend to is not there yet.
            if 3 * piece != tokens {
                bytes += 3 * piece * row;
            }
            if piece < tokens {
                bytes += PIECE * piece * row;
            }
            if self.rounded {
                bytes += piece * (self.width + self.hidden) as u64;
            }
            bytes
        };
        WHOLE * tokens * row + pieces.iter().map(of_piece).sum::<u64>()
    }

    /// Cached keys and values of all blocks.
    pub fn cache(&self, request: &DenoiseSizes) -> u64 {
        self.blocks.count() as u64 * self.cache_layer(request)
    }

    /// Cached keys and values of one block.
    pub fn cache_layer(&self, request: &DenoiseSizes) -> u64 {
        let tokens = request.cached_samples * request.cached * request.space();
        2 * (tokens * self.width) as u64 * self.element
    }
}

impl TextSizes {
    /// What encoding holds besides weights: residual stream and feed-forward, and scores of all tokens
    /// against all in f32 with the softmax of them.
    pub fn step(&self, [prompts, tokens]: [usize; 2]) -> u64 {
        let rows = (prompts * tokens) as u64;
        let wide = (6 * self.width + 3 * self.hidden) as u64 * self.element.max(4);
        rows * wide + 4 * 4 * rows * (tokens * self.heads) as u64
    }
}

impl VaeSizes {
    /// What encoding or decoding holds besides weights, in tiles of at most this height and width.
    pub fn step(&self, clip: &ClipSizes, tile: Option<[usize; 2]>) -> u64 {
        let [height, width] = clip.size;
        let at_once = match tile {
            Some([h, w]) => h.min(height) * w.min(width),
            None => height * width,
        };
        let pixels = (clip.samples * clip.frames * height * width) as u64;
        // Three channels: of a clip that is encoded in f32 with what it is made from, of frames that
        // are put together from tiles with their sum, else a few frames.
        let pictures = match (clip.whole, tile) {
            (true, _) => 2 * 3 * 4 * pixels,
            (false, Some(_)) => 3 * (4 + 2 * self.element) * pixels,
            (false, None) => 0,
        };
        (clip.samples * at_once) as u64 * self.pixel + pictures
    }
}
