//! Models on their devices, as memory allows.

use longcat_dit::LongCatTransformer;
use longcat_kernels::{AttentionNumbers, KernelBackend, Products, Stage, guard, wait};
use longcat_vae::Tiling;
use longcat_weights::Precision;

use super::plan::Planned;
use super::predict::passes_apart;
use super::refine::RefineShape;
use super::{Pipeline, Sampling, VideoRequest};
use crate::VideoError;
use crate::memory::{
    Asked, ClipSizes, DenoiseSizes, DeviceSizes, DoesNotFit, KeptWeights, MemoryPlan, ModelSizes,
    RequestSizes, TextPlan, TransformerPlan, VaePlan,
};

/// What a run is, besides its plan.
pub(super) struct Run {
    /// Videos at once.
    pub videos: usize,
    /// Whether there is a pass with negative prompts.
    pub guided: bool,
    /// Whether keys and values of condition frames are cached.
    pub cached: bool,
    /// Whether it refines.
    pub refines: bool,
    /// Tokens of a prompt.
    pub tokens: usize,
}

impl Run {
    /// Refining one video.
    pub fn refining(tokens: usize) -> Self {
        Self {
            videos: 1,
            guided: false,
            cached: false,
            refines: true,
            tokens,
        }
    }

    /// Making videos.
    pub fn new(videos: usize, sampling: &Sampling, cached: bool) -> Self {
        Self {
            videos,
            guided: sampling.guidance > 1.0,
            cached,
            refines: false,
            tokens: sampling.max_sequence_length,
        }
    }
}

impl<B: KernelBackend> Pipeline<B> {
    /// What is done so that a request fits into the memory that may be taken, and what each stage takes
    /// then; nothing is loaded for this. Of a long video it is the plan of a segment after the first.
    ///
    /// # Errors
    /// [`VideoError::DoesNotFit`] says what would fit; else as [`Self::plan`].
    pub fn memory_plan(&self, request: VideoRequest<'_>) -> Result<MemoryPlan, VideoError> {
        let sizes = self.request_sizes(request)?;
        Ok(MemoryPlan::choose(
            &self.model_sizes(),
            &sizes,
            self.budget,
        )?)
    }

    /// What a request computes.
    pub(super) fn request_sizes(
        &self,
        request: VideoRequest<'_>,
    ) -> Result<RequestSizes, VideoError> {
        // Frames that pass through the encoder, those of the result, and the denoising.
        let (planned, run, encoded, offload) = match request {
            VideoRequest::TextToVideo(request) => {
                let run = Run::new(request.prompts.len(), &request.sampling, false);
                (self.plan_text_to_video(request)?, run, None, false)
            }
            VideoRequest::ImageToVideo(request) => {
                let run = Run::new(request.prompts.len(), &request.sampling, false);
                (self.plan_image_to_video(request)?, run, Some(1), false)
            }
            VideoRequest::Continuation(request) => {
                let shape = (request.video.size(), request.video.len());
                let planned = self.plan_continuation(request, shape)?;
                let run = Run::new(request.prompts.len(), &request.sampling, request.kv_cache);
                let frames = planned.plan.cond_frames;
                (planned, run, Some(frames), request.offload_kv_cache)
            }
            VideoRequest::LongVideo(request) => {
                let whole = self.plan_long_video(request)?;
                let mut planned = self.plan_text_to_video(&request.first())?;
                let mut run = Run::new(1, &request.sampling, false);
                if request.segments > 1 {
                    let frames = planned.plan.frames;
                    let [_, cond] = self.condition_latents(frames, whole.cond_frames)?;
                    (planned.num_cond, run.cached) = (cond, request.kv_cache);
                }
                let encoded = (request.segments > 1).then_some(whole.cond_frames);
                (planned, run, encoded, request.offload_kv_cache)
            }
            VideoRequest::Refinement(request) => {
                let run = Run::refining(request.max_sequence_length);
                self.refining(&request.shape(), run)?
            }
            VideoRequest::RefinementOf { video, cond_frames } => {
                let shape = RefineShape::of(video.size, video.frames, cond_frames);
                let tokens = Sampling::standard().max_sequence_length;
                self.refining(&shape, Run::refining(tokens))?
            }
            VideoRequest::RefinementOfLongVideo(request) => {
                let whole = self.plan_long_video(request)?;
                let frames = request.frames.unwrap_or(self.defaults().frames);
                let cond_frames = match request.segments {
                    1 => 0,
                    _ => 2 * whole.cond_frames,
                };
                let shape = RefineShape::of(whole.size, frames, cond_frames);
                let tokens = Sampling::standard().max_sequence_length;
                self.refining(&shape, Run::refining(tokens))?
            }
        };
        let [segments, encodings] = match request {
            VideoRequest::LongVideo(long) => [long.segments, long.segments.saturating_sub(1)],
            VideoRequest::RefinementOfLongVideo(long) => [long.segments; 2],
            _ => [1; 2],
        };
        let [latents, height, width] = planned.latents;
        let size = [height, width].map(|side| side * self.vae_config().scale_factor_spatial);
        let clip = |frames, whole| ClipSizes {
            samples: 1,
            frames,
            size,
            whole,
        };
        let prompts = run.videos * if run.guided { 2 } else { 1 };
        let asked = self.asked();
        // Later segments, and what is refined after it was made.
        let follows = matches!(
            request,
            VideoRequest::RefinementOf { .. } | VideoRequest::RefinementOfLongVideo(_)
        );
        Ok(RequestSizes {
            prompts: [prompts, run.tokens],
            encode: encoded.map(|frames| clip(frames, true)),
            encodings,
            denoise: self.denoise_sizes(&planned, &run),
            decode: ClipSizes {
                samples: run.videos,
                ..clip(self.vae_config().frames(latents), false)
            },
            steps: planned.schedule.len(),
            segments,
            asked: Asked {
                offload_kv_cache: offload,
                used_before: asked.used_before || follows || segments > 1,
                ..asked
            },
        })
    }

    /// Refining a video: all of it passes through the encoder.
    fn refining(
        &self,
        shape: &RefineShape,
        run: Run,
    ) -> Result<(Planned, Run, Option<usize>, bool), VideoError> {
        let planned = self.plan_refinement(shape)?;
        let frames = self.vae_config().frames(planned.latents[0]);
        Ok((planned, run, Some(frames), false))
    }

    /// The denoising of a run on each device.
    pub(super) fn denoise_sizes(&self, planned: &Planned, run: &Run) -> DenoiseSizes {
        let [frames, height, width] = planned.latents;
        let config = self.transformer_config();
        let [_, patch_height, patch_width] = config.patch_size;
        let cached = if run.cached { planned.num_cond } else { 0 };
        let samples = run.videos * if run.guided { 2 } else { 1 };
        let passes = passes_apart(self.devices.len(), run.guided);
        // Devices of a pass share its frames.
        let sharing = self.devices.len() / passes;
        let element = self.options().dtype.size() as u64;
        DenoiseSizes {
            samples: samples / passes,
            frames: (frames - cached).div_ceil(sharing),
            grid: [height / patch_height, width / patch_width],
            conditions: planned.num_cond - cached,
            cached,
            cached_samples: run.videos,
            text: run.tokens,
            sparse: run.refines || self.adapters.sparse(),
            exchanged: sharing > 1,
            adapters: self.adapters.bytes(run.refines, element),
        }
    }

    /// What the options settle.
    fn asked(&self) -> Asked {
        let options = self.options();
        Asked {
            keep_transformer: options.keep_transformer,
            keep_text_encoder: options.keep_text_encoder,
            tiling: options.tiling,
            offload_kv_cache: false,
            resident_blocks: options.resident_blocks,
            resident_layers: None,
            used_before: self.vae.is_some() || !self.transformers.is_empty(),
        }
    }

    /// Bytes of the models on this device.
    pub(super) fn model_sizes(&self) -> ModelSizes {
        self.sizes.get_or_init(|| self.find_sizes()).clone()
    }

    fn find_sizes(&self) -> ModelSizes {
        let (config, vae) = (self.transformer_config(), self.vae_config());
        let options = self.options();
        let dtypes = (options.dtype, options.vae_dtype);
        let device = DeviceSizes {
            context: B::memory(self.device()).context,
            convolutions: B::patch_bytes(self.device()) as u64,
        };
        let text = self.checkpoint().text_config();
        let mut kept = KeptWeights::from(options.precision);
        // Where all become floats, no file matters.
        if options.precision != Precision::Dense {
            kept.transformer = self.checkpoint().transformer_weights().ok();
            kept.text = self.checkpoint().text_weights();
        }
        let mut sizes = ModelSizes::new((config, text.as_ref(), vae), dtypes, &kept, device);
        sizes.transformer.rounded = options.products == Products::Fp8;
        sizes.transformer.eight_bit_heads = options.attention == AttentionNumbers::Fp8;
        sizes
    }

    /// Whether matrices of the transformer are packed on the device.
    pub(crate) fn is_packed(&self) -> bool {
        self.model_sizes().transformer.unpacked > 0
    }

    /// Makes room for encoding so many prompts of so many tokens, and says how many layers of the text
    /// encoder stay on the device.
    pub(super) fn make_room_for_text(&mut self, prompts: [usize; 2]) -> Result<usize, VideoError> {
        let models = self.model_sizes();
        let plan = self.choose(self.asked(), |asked, budget| {
            TextPlan::choose(&models, prompts, asked, budget)
        })?;
        if plan.resident < self.text_layers {
            self.text_encoder = None;
        }
        if !self.fits(plan.peak + self.transformer_bytes(&models)) {
            self.drop_transformers();
        }
        self.clean_up();
        Ok(plan.resident)
    }

    /// Makes room for denoising, and says how it is done.
    pub(super) fn make_room_for_denoising(
        &mut self,
        planned: &Planned,
        run: &Run,
        offload_kv_cache: bool,
    ) -> Result<TransformerPlan, VideoError> {
        let models = self.model_sizes();
        let asked = Asked {
            offload_kv_cache,
            ..self.asked()
        };
        // Adapters are those in use by now, whatever they are used for.
        let sizes = DenoiseSizes {
            adapters: self.adapters.bytes(false, models.transformer.element),
            ..self.denoise_sizes(planned, run)
        };
        let plan = self.choose(asked, |asked, budget| {
            TransformerPlan::choose(&models, &sizes, asked, budget)
        })?;
        if plan.resident < self.resident {
            self.drop_transformers();
        }
        if !self.fits(plan.peak + self.text_bytes(&models)) {
            self.text_encoder = None;
        }
        self.clean_up();
        self.memory = plan;
        Ok(plan)
    }

    /// Makes room for a clip in the VAE, and says in which tiles it fits.
    pub(super) fn make_room_for_vae(
        &mut self,
        clip: &ClipSizes,
        stage: &'static str,
    ) -> Result<Option<Tiling>, VideoError> {
        let models = self.model_sizes();
        let tiling = self.options().tiling;
        let taken = VaePlan::taken(&models, clip, tiling);
        let kept =
            |pipeline: &Self| pipeline.transformer_bytes(&models) + pipeline.text_bytes(&models);
        if !self.options().keep_transformer || !self.fits(taken + kept(self)) {
            self.drop_transformers();
        }
        if !self.fits(taken + kept(self)) {
            self.text_encoder = None;
        }
        self.clean_up();
        let (kept, budget) = (kept(self), (stage, self.budget));
        Ok(VaePlan::choose(&models, clip, tiling, kept, budget)?.tiling)
    }

    /// A plan of what is asked; where nothing fits, one without the models that are on the device, which leave.
    fn choose<T>(
        &mut self,
        asked: Asked,
        plan: impl Fn(&Asked, Option<u64>) -> Result<T, DoesNotFit>,
    ) -> Result<T, VideoError> {
        match plan(&asked, self.budget) {
            Err(_) if asked.used_before => {
                self.vae = None;
                self.drop_transformers();
                let asked = Asked {
                    used_before: false,
                    ..asked
                };
                Ok(plan(&asked, self.budget)?)
            }
            chosen => Ok(chosen?),
        }
    }

    fn fits(&self, bytes: u64) -> bool {
        self.budget.is_none_or(|budget| bytes <= budget)
    }

    /// Bytes of the loaded transformer while others work.
    fn transformer_bytes(&self, models: &ModelSizes) -> u64 {
        let adapters = self.adapters.bytes(false, models.transformer.element);
        match self.transformers.is_empty() {
            true => 0,
            false => models.transformer.held(self.resident) + adapters,
        }
    }

    /// Bytes of the loaded text encoder while others work.
    fn text_bytes(&self, models: &ModelSizes) -> u64 {
        match &self.text_encoder {
            Some(_) => models.text.held(self.text_layers),
            None => 0,
        }
    }

    /// Gives back what pools hold of the stage before, which no later tensor may be of the size of.
    ///
    /// CUDA takes freed memory back when it is waited for next: without that the next stage would lie
    /// beside what the one before has freed.
    pub(super) fn clean_up(&self) {
        for device in &self.devices {
            B::memory_cleanup(device);
            wait::<B>(device);
        }
    }

    /// The transformer with the adapters that are in use now, one replica for each device, loaded
    /// when first asked for.
    ///
    /// # Errors
    /// What loading it can report.
    pub(crate) fn transformers(&mut self) -> Result<&mut [LongCatTransformer<B>], VideoError> {
        let dtype = self.options().dtype;
        // What was packed again cannot be restored in its place.
        let on = self.transformers.first();
        if on.is_some_and(|model| self.adapters.is_stale(model)) && self.is_packed() {
            self.drop_transformers();
        }
        if self.transformers.is_empty() {
            let resident = self.memory.resident;
            let load = || {
                let devices = self.devices.iter();
                let load = |device| self.load_transformer(device, resident);
                devices.map(load).collect::<Result<Vec<_>, _>>()
            };
            let loaded = guard::<B, _, _>(&self.devices, Stage::LoadingTransformer, load)?;
            (self.transformers, self.resident) = (loaded, resident);
        }
        let mut requantized = None;
        let put_on = guard::<B, _, _>(&self.devices, self.adapters.stage(), || {
            for model in &mut self.transformers {
                model.set_pieces(self.memory.pieces);
                requantized = self.adapters.put_on(model, dtype, &self.checkpoint)?;
            }
            Ok::<_, VideoError>(())
        });
        if let Err(error) = put_on {
            // Perhaps with some of the adapters: the next run loads it anew.
            self.drop_transformers();
            return Err(error);
        }
        if requantized.is_some() {
            self.requantized = requantized;
        }
        Ok(&mut self.transformers)
    }

    /// Loads the transformer with so many blocks that stay on the device.
    fn load_transformer(
        &self,
        device: &B::Device,
        resident: usize,
    ) -> Result<LongCatTransformer<B>, VideoError> {
        let load_as = self.load_as(resident);
        let mut model = self.checkpoint().load_transformer(load_as, device)?;
        model.set_attention(self.options().attention);
        Ok(model)
    }

    /// The replicas of the transformer that are on devices now.
    pub(crate) fn loaded_transformers(&mut self) -> &mut [LongCatTransformer<B>] {
        &mut self.transformers
    }

    /// Frees the transformer's memory.
    pub(crate) fn drop_transformers(&mut self) {
        if !self.transformers.is_empty() {
            self.transformers.clear();
            self.clean_up();
        }
        self.resident = 0;
    }
}
