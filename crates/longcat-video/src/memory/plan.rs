//! Choosing what is done so that a request fits.

use longcat_dit::TokenPieces;
use longcat_vae::Tiling;

use super::fit::DoesNotFit;
use super::sizes::ModelSizes;
use super::work::{Asked, ClipSizes, DenoiseSizes, RequestSizes};

/// What is done so that a request fits, and the most memory that each stage then takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes that may be taken, if there is a limit.
    pub budget: Option<u64>,
    /// Prompts to embeddings.
    pub text: TextPlan,
    /// Frames to latents, where there are some.
    pub encode: Option<VaePlan>,
    /// Denoising.
    pub transformer: TransformerPlan,
    /// Latents to frames.
    pub decode: VaePlan,
    /// Whether the transformer stays while text encoder and VAE work.
    pub keep_transformer: bool,
    /// Whether the text encoder stays after it was used.
    pub keep_text_encoder: bool,
}

/// How the text encoder is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextPlan {
    /// Layers that stay on the device; the others pass through it.
    pub resident: usize,
    /// All layers.
    pub layers: usize,
    /// Bytes at most.
    pub peak: u64,
}

/// How the transformer is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransformerPlan {
    /// Blocks that stay on the device; the others pass through it.
    pub resident: usize,
    /// All blocks.
    pub depth: usize,
    /// Tokens that blocks work on at a time.
    pub pieces: TokenPieces,
    /// Whether cached keys and values are in host memory.
    pub offload_kv_cache: bool,
    /// Bytes at most.
    pub peak: u64,
}

/// How the VAE is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VaePlan {
    /// Tiles, where the picture is not taken as a whole.
    pub tiling: Option<Tiling>,
    /// Bytes at most.
    pub peak: u64,
}

/// Layers of cached keys and values on the device where these are in host memory: the one in use and the next.
const CACHE_RING: u64 = 2;

/// Tokens of a piece: enough to keep any device busy, and at 480p a third of a clip. Taken with and
/// without a limit, so that both compute the same.
const PIECE: usize = 16_384;

/// Smaller pieces, for what does not fit with those. Products of so few rows are slower, and on CUDA
/// perhaps not the same bits.
const SMALLER_PIECES: [usize; 2] = [8_192, 4_096];

/// Sides of tiles, the largest first; each overlaps the next by a fixed width.
const TILES: [usize; 4] = [640, 512, 384, 256];
/// Pixels by which tiles overlap.
const OVERLAP: usize = 64;

impl MemoryPlan {
    /// Chooses, within `budget` bytes or without a limit.
    ///
    /// More memory never makes fewer blocks stay. What costs no time comes first: keys and values of
    /// conditions go to the host, then blocks pass through the device, then pieces become smaller.
    ///
    /// # Errors
    /// [`DoesNotFit`] names the stage that takes too much, and what would fit.
    pub fn choose(
        models: &ModelSizes,
        request: &RequestSizes,
        budget: Option<u64>,
    ) -> Result<Self, DoesNotFit> {
        let limit = budget.unwrap_or(u64::MAX);
        let chosen = Self::within(models, request, limit).or_else(|needed| {
            if !request.asked.used_before {
                return Err(needed);
            }
            // What is there leaves.
            let mut first = *request;
            first.asked.used_before = false;
            Self::within(models, &first, limit)
        });
        chosen
            .map_err(|needed| DoesNotFit::new(models, request, limit, needed))
            .map(|plan| Self { budget, ..plan })
    }

    /// The same; else the stage that does not fit and what it takes at least.
    pub(super) fn within(
        models: &ModelSizes,
        request: &RequestSizes,
        limit: u64,
    ) -> Result<Self, (&'static str, u64)> {
        let asked = &request.asked;
        let text = TextPlan::within(models, request.prompts, asked, limit)?;
        // Frames are encoded after prompts.
        let encoded = Asked {
            used_before: asked.used_before || request.encode.is_some(),
            ..*asked
        };
        let transformer = TransformerPlan::within(models, &request.denoise, &encoded, limit)?;
        let clips = request.encode.iter().chain([&request.decode]);
        let clips = clips.map(|clip| vae(models, clip, asked.tiling));
        let clips = clips.fold(0, u64::max);
        let others = clips.max(text.peak);
        let weights = models.transformer.held(transformer.resident) + request.denoise.adapters;
        let keep_transformer = asked.keep_transformer && others.saturating_add(weights) <= limit;
        let encoder = models.text.held(text.resident);
        let held = if keep_transformer { weights } else { 0 };
        let beside = transformer.peak.max(clips.saturating_add(held));
        let keep_text_encoder = asked.keep_text_encoder && beside.saturating_add(encoder) <= limit;
        let kept = held + if keep_text_encoder { encoder } else { 0 };
        let choose = |stage, clip| {
            let plan = VaePlan::within(models, clip, asked.tiling, kept, limit);
            plan.map_err(|needed| (stage, needed))
        };
        let encode = request
            .encode
            .as_ref()
            .map(|clip| choose("encoding frames", clip));
        Ok(Self {
            budget: Some(limit),
            encode: encode.transpose()?,
            decode: choose("decoding", &request.decode)?,
            text: TextPlan {
                peak: text.peak + if asked.used_before { held } else { 0 },
                ..text
            },
            transformer: TransformerPlan {
                peak: transformer.peak + if keep_text_encoder { encoder } else { 0 },
                ..transformer
            },
            keep_transformer,
            keep_text_encoder,
        })
    }

    /// The most that any stage takes.
    pub fn peak(&self) -> u64 {
        let encode = self.encode.map_or(0, |plan| plan.peak);
        let stages = [self.text.peak, encode, self.transformer.peak];
        stages.into_iter().fold(self.decode.peak, u64::max)
    }
}

/// What is there beside text encoder and transformer: of the VAE nothing before it was used.
fn base(models: &ModelSizes, asked: &Asked) -> u64 {
    let vae = match asked.used_before {
        true => models.vae.weights,
        false => 0,
    };
    models.device.context + vae
}

/// What a stage of the VAE takes.
fn vae(models: &ModelSizes, clip: &ClipSizes, tiling: Option<Tiling>) -> u64 {
    let step = models.vae.step(clip, tiling.map(|tiling| tiling.tile));
    models.device.context + models.vae.weights + models.device.convolutions + step
}

impl TextPlan {
    /// Chooses for so many prompts of so many tokens, alone on the device.
    ///
    /// # Errors
    /// [`DoesNotFit`].
    pub fn choose(
        models: &ModelSizes,
        prompts: [usize; 2],
        asked: &Asked,
        budget: Option<u64>,
    ) -> Result<Self, DoesNotFit> {
        let limit = budget.unwrap_or(u64::MAX);
        let chosen = Self::within(models, prompts, asked, limit);
        chosen.map_err(|needed| DoesNotFit::of_stage(needed, limit))
    }

    fn within(
        models: &ModelSizes,
        prompts: [usize; 2],
        asked: &Asked,
        limit: u64,
    ) -> Result<Self, (&'static str, u64)> {
        let sizes = &models.text;
        let rest = base(models, asked) + sizes.fixed + sizes.unpacked + sizes.step(prompts);
        let chosen = match asked.resident_layers {
            Some(asked) => Some(asked.min(sizes.layers.count())),
            None => sizes.layers.most_resident(limit.saturating_sub(rest)),
        };
        let taken = |resident| rest + sizes.layers.bytes(resident);
        match chosen.filter(|resident| taken(*resident) <= limit) {
            Some(resident) => Ok(Self {
                resident,
                layers: sizes.layers.count(),
                peak: taken(resident),
            }),
            None => Err(("encoding prompts", taken(chosen.unwrap_or(0)))),
        }
    }
}

impl TransformerPlan {
    /// Chooses for such clips, with no other large model on the device.
    ///
    /// # Errors
    /// [`DoesNotFit`].
    pub fn choose(
        models: &ModelSizes,
        denoise: &DenoiseSizes,
        asked: &Asked,
        budget: Option<u64>,
    ) -> Result<Self, DoesNotFit> {
        let limit = budget.unwrap_or(u64::MAX);
        let chosen = Self::within(models, denoise, asked, limit);
        chosen.map_err(|needed| DoesNotFit::of_stage(needed, limit))
    }

    /// All blocks on the device, in the pieces that are taken whatever memory there is.
    pub fn resident(depth: usize) -> Self {
        Self {
            resident: depth,
            depth,
            pieces: TokenPieces::of(PIECE),
            offload_kv_cache: false,
            peak: 0,
        }
    }

    fn within(
        models: &ModelSizes,
        denoise: &DenoiseSizes,
        asked: &Asked,
        limit: u64,
    ) -> Result<Self, (&'static str, u64)> {
        let sizes = &models.transformer;
        let all = sizes.blocks.count();
        // Cached keys and values on the device or not; the fewest blocks and the most that may stay.
        let mut ways = Vec::new();
        if !asked.offload_kv_cache {
            ways.push((TokenPieces::of(PIECE), false, all, all));
        }
        let offload = asked.offload_kv_cache || denoise.cached > 0;
        ways.push((TokenPieces::of(PIECE), offload, 0, all));
        // Nothing stays where pieces are smaller, so that more memory never makes less stay.
        ways.extend(SMALLER_PIECES.map(|n| (TokenPieces::of(n), offload, 0, 0)));
        let mut least = u64::MAX;
        for (pieces, offload_kv_cache, fewest, most) in ways {
            let cache = match offload_kv_cache {
                false => sizes.cache(denoise),
                true => CACHE_RING * sizes.cache_layer(denoise),
            };
            let rest = base(models, asked)
                + sizes.fixed
                + sizes.unpacked
                + denoise.adapters
                + cache
                + sizes.step(denoise, pieces);
            let taken = |resident| rest + sizes.blocks.bytes(resident);
            let resident = match asked.resident_blocks {
                Some(asked) => Some(asked.min(all)),
                None => sizes
                    .blocks
                    .most_resident(limit.saturating_sub(rest))
                    .map(|resident| resident.min(most))
                    .filter(|resident| *resident >= fewest),
            };
            match resident.filter(|resident| taken(*resident) <= limit) {
                Some(resident) => {
                    return Ok(Self {
                        resident,
                        depth: all,
                        pieces,
                        offload_kv_cache,
                        peak: taken(resident),
                    });
                }
                None => least = least.min(taken(asked.resident_blocks.unwrap_or(0))),
            }
        }
        Err(("denoising", least))
    }
}

impl VaePlan {
    /// Chooses for a clip, beside `kept` bytes of models that stay on the device: the whole picture, or
    /// the largest tiles that fit, unless tiles are asked for.
    ///
    /// # Errors
    /// [`DoesNotFit`] names `stage`.
    pub fn choose(
        models: &ModelSizes,
        clip: &ClipSizes,
        tiling: Option<Tiling>,
        kept: u64,
        (stage, budget): (&'static str, Option<u64>),
    ) -> Result<Self, DoesNotFit> {
        let limit = budget.unwrap_or(u64::MAX);
        let chosen = Self::within(models, clip, tiling, kept, limit);
        chosen.map_err(|needed| DoesNotFit::of_stage((stage, needed), limit))
    }

    /// What a clip takes in these tiles or as a whole, beside other models.
    pub fn taken(models: &ModelSizes, clip: &ClipSizes, tiling: Option<Tiling>) -> u64 {
        vae(models, clip, tiling)
    }

    fn within(
        models: &ModelSizes,
        clip: &ClipSizes,
        asked: Option<Tiling>,
        kept: u64,
        limit: u64,
    ) -> Result<Self, u64> {
        let tiles = TILES.map(|side| {
            Some(Tiling {
                tile: [side; 2],
                stride: [side - OVERLAP; 2],
            })
        });
        let [height, width] = clip.size;
        let smaller = |tiling: &Option<Tiling>| {
            tiling.is_some_and(|tiling| tiling.tile[0] < height || tiling.tile[1] < width)
        };
        let ways: Vec<Option<Tiling>> = match asked {
            Some(tiling) => vec![Some(tiling)],
            None => std::iter::once(None)
                .chain(tiles.into_iter().filter(smaller))
                .collect(),
        };
        let mut least = u64::MAX;
        for tiling in ways {
            let peak = kept + vae(models, clip, tiling);
            if peak <= limit {
                return Ok(Self { tiling, peak });
            }
            least = least.min(peak);
        }
        Err(least)
    }
}
