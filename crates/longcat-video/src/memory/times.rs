//! How long the stages of a request take, from their work and the rates of a device.

use super::plan::{MemoryPlan, TransformerPlan, VaePlan};
use super::rates::DeviceRates;
use super::sizes::{ModelSizes, TextSizes, TransformerSizes};
use super::work::{ClipSizes, DenoiseSizes, RequestSizes};

/// Channels of the released VAE at the full size of a picture, for which the rates of pixels are.
const RELEASED_BASE: f64 = 96.0;

/// Seconds that each stage is expected to compute. Reading and uploading the weights of what stays on the
/// device is not among them, nor is writing the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectedTimes {
    /// Prompts to embeddings.
    pub text: f64,
    /// Frames to latents, where there are some.
    pub encode: Option<f64>,
    /// Denoising.
    pub denoise: f64,
    /// Latents to frames.
    pub decode: f64,
    /// What they are computed from.
    pub rates: DeviceRates,
}

impl ExpectedTimes {
    /// Seconds of a request that is done as planned; all segments of a long video together.
    ///
    /// Where weights pass through the device, a stage takes as long as its work or its copies, whichever takes
    /// longer.
    pub fn new(
        models: &ModelSizes,
        request: &RequestSizes,
        plan: &MemoryPlan,
        rates: &DeviceRates,
    ) -> Self {
        let segments = request.segments as f64;
        // The work of a pixel grows with the square of the width.
        let width = (models.vae.base as f64 / RELEASED_BASE).powi(2);
        let vae = |clip: &ClipSizes, plan: &VaePlan, rate: f64| width * clip.pixels(plan) / rate;
        let encodings = request.encodings as f64;
        let encode = request.encode.as_ref().zip(plan.encode.as_ref());
        let denoise = &models.transformer;
        let denoise = denoise.seconds(&request.denoise, request.steps, &plan.transformer, rates);
        let text = models
            .text
            .seconds(request.prompts, plan.text.resident, rates);
        Self {
            text: segments * text,
            encode: encode.map(|(clip, plan)| encodings * vae(clip, plan, rates.encoded)),
            denoise: segments * denoise,
            decode: segments * vae(&request.decode, &plan.decode, rates.decoded),
            rates: *rates,
        }
    }

    /// Seconds of all stages.
    pub fn total(&self) -> f64 {
        self.text + self.encode.unwrap_or(0.0) + self.denoise + self.decode
    }
}

impl TransformerSizes {
    /// Seconds of so many steps.
    fn seconds(
        &self,
        denoise: &DenoiseSizes,
        steps: usize,
        plan: &TransformerPlan,
        rates: &DeviceRates,
    ) -> f64 {
        let depth = self.blocks.count() as f64;
        let space = denoise.space();
        let cached = denoise.cached * space;
        let block = self.block_seconds(
            denoise,
            [denoise.samples, denoise.frames * space],
            cached,
            rates,
        );
        let kept_away = match plan.offload_kv_cache {
            true => self.cache(denoise),
            false => 0,
        };
        let copied = self.blocks.streamed(plan.resident).iter().sum::<u64>();
        let pass = |seconds: f64, bytes: u64| (depth * seconds).max(bytes as f64 / rates.copies);
        let cache = match cached {
            0 => 0.0,
            _ => {
                let condition = DenoiseSizes {
                    text: 0,
                    ..*denoise
                };
                let clips = [denoise.cached_samples, cached];
                pass(self.block_seconds(&condition, clips, 0, rates), copied)
            }
        };
        steps as f64 * pass(block, copied + kept_away) + cache
    }

    /// Seconds of a block over samples of so many tokens each, that attend to so many cached ones besides.
    fn block_seconds(
        &self,
        denoise: &DenoiseSizes,
        [samples, tokens]: [usize; 2],
        cached: usize,
        rates: &DeviceRates,
    ) -> f64 {
        let [samples, tokens, cached] = [samples, tokens, cached].map(|n| n as f64);
        let [width, hidden, text] = [self.width, self.hidden, denoise.text].map(|n| n as f64);
        let rows = samples * tokens;
        // Queries, keys, values and the projection; queries and the projection of cross-attention; and its keys
        // and values, of the text.
        let products = 2.0 * rows * (6.0 * width * width + 3.0 * width * hidden)
            + 2.0 * samples * text * 2.0 * width * width;
        let factors =
            denoise.adapters as f64 / (self.element as f64 * self.blocks.count().max(1) as f64);
        let keys = tokens + cached;
        let to_keys = |keys: f64| 4.0 * rows * keys * width;
        let itself = match (denoise.sparse, self.sparse_blocks) {
            (true, Some([_, block])) => {
                let block = block.max(1) as f64;
                let kept = (self.kept * (keys / block)).floor().max(1.0) * block;
                to_keys(kept.min(keys)) / rates.sparse_attention
            }
            _ => to_keys(keys) / rates.attention,
        };
        products / rates.products
            + 2.0 * rows * factors / rates.low_rank
            + itself
            + to_keys(text) / rates.attention
    }
}

impl TextSizes {
    /// Seconds of so many prompts of so many tokens.
    fn seconds(&self, prompts: [usize; 2], resident: usize, rates: &DeviceRates) -> f64 {
        let [prompts, tokens] = prompts.map(|n| n as f64);
        let [width, hidden, inner] = [self.width, self.hidden, self.inner].map(|n| n as f64);
        let rows = prompts * tokens;
        let layer =
            2.0 * rows * (4.0 * width * inner + 3.0 * width * hidden) + 4.0 * rows * tokens * inner;
        let copied = self.layers.streamed(resident).iter().sum::<u64>();
        let work = self.layers.count() as f64 * layer / rates.text;
        work.max(copied as f64 / rates.copies)
    }
}

impl ClipSizes {
    /// Pixels that pass through the VAE, of tiles those of their overlaps as often as they do.
    fn pixels(&self, plan: &VaePlan) -> f64 {
        let picture = match plan.tiling {
            Some(tiling) => tiling.pixels(self.size),
            None => self.size[0] * self.size[1],
        };
        (self.samples * self.frames * picture) as f64
    }
}
