//! The pipelines of each backend behind [`DynPipeline`].

use std::collections::BTreeMap;
use std::path::Path;

use longcat_kernels::KernelBackend;
use longcat_video::{
    Checkpoint, ContinuationRequest, ExpectedTimes, FrameRange, ImageToVideoRequest, Latents,
    LongVideo, LongVideoRequest, LoraScope, LoraStatus, MemoryPlan, NoiseSource, Observer,
    Pipeline, PipelineOptions, PixelFrames, RefineRequest, TakeFrames, TextToVideoRequest,
    VideoError, VideoPlan, VideoRequest, VideoSize,
};

use super::DynPipeline;

impl<B: KernelBackend> DynPipeline for Pipeline<B> {
    fn checkpoint(&self) -> &Checkpoint {
        Pipeline::checkpoint(self)
    }

    fn options(&self) -> &PipelineOptions {
        Pipeline::options(self)
    }

    fn load_lora(&mut self, name: &str, path: &Path) -> Result<(), VideoError> {
        Pipeline::load_lora(self, name, path)
    }

    fn load_scoped_lora(
        &mut self,
        name: &str,
        path: &Path,
        scope: &LoraScope,
    ) -> Result<(), VideoError> {
        Pipeline::load_scoped_lora(self, name, path, scope)
    }

    fn use_loras(&mut self, chosen: &[(&str, f64)]) -> Result<(), VideoError> {
        Pipeline::use_loras(self, chosen)
    }

    fn use_refine_loras(&mut self, chosen: &[(&str, f64)]) -> Result<(), VideoError> {
        Pipeline::use_refine_loras(self, chosen)
    }

    fn merge_loras(&mut self) -> Result<(), VideoError> {
        Pipeline::merge_loras(self)
    }

    fn merge_loras_requantized(&mut self) -> Result<(), VideoError> {
        Pipeline::merge_loras_requantized(self)
    }

    fn unmerge_loras(&mut self) -> Result<(), VideoError> {
        Pipeline::unmerge_loras(self)
    }

    fn unload_lora(&mut self, name: &str) -> Result<(), VideoError> {
        Pipeline::unload_lora(self, name)
    }

    fn is_lora_of(&self, name: &str, path: &Path) -> Result<bool, VideoError> {
        Pipeline::is_lora_of(self, name, path)
    }

    fn loras(&self) -> Vec<LoraStatus> {
        Pipeline::loras(self)
    }

    fn set_bsa(&mut self, enabled: bool) -> Result<(), VideoError> {
        Pipeline::set_bsa(self, enabled)
    }

    fn plan(&self, request: VideoRequest<'_>) -> Result<VideoPlan, VideoError> {
        Pipeline::plan(self, request)
    }

    fn memory_plan(&self, request: VideoRequest<'_>) -> Result<MemoryPlan, VideoError> {
        Pipeline::memory_plan(self, request)
    }

    fn expected_times(
        &self,
        request: VideoRequest<'_>,
        plan: &MemoryPlan,
    ) -> Result<ExpectedTimes, VideoError> {
        Pipeline::expected_times(self, request, plan)
    }

    fn text_to_video(
        &mut self,
        request: &TextToVideoRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Latents, VideoError> {
        let made = Pipeline::text_to_video(self, request, noise, observer)?;
        self.read_latents(made.latents)
    }

    fn fp8_errors(
        &mut self,
        request: &TextToVideoRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<BTreeMap<String, f64>, VideoError> {
        Pipeline::fp8_errors(self, request, noise, observer)
    }

    fn image_to_video(
        &mut self,
        request: &ImageToVideoRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Latents, VideoError> {
        let made = Pipeline::image_to_video(self, request, noise, observer)?;
        self.read_latents(made.latents)
    }

    fn continue_video(
        &mut self,
        request: &ContinuationRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Latents, VideoError> {
        let made = Pipeline::continue_video(self, request, noise, observer)?;
        self.read_latents(made.latents)
    }

    fn long_video(
        &mut self,
        request: &LongVideoRequest,
        work_dir: &Path,
        observer: &mut dyn Observer,
    ) -> Result<LongVideo, VideoError> {
        Pipeline::long_video(self, request, work_dir, observer)
    }

    fn refine_long_video(
        &mut self,
        video: &LongVideo,
        request: &LongVideoRequest,
        observer: &mut dyn Observer,
    ) -> Result<LongVideo, VideoError> {
        self.with_refinement(|pipeline| {
            Pipeline::refine_long_video(pipeline, video, request, observer)
        })
    }

    fn refine(
        &mut self,
        request: &RefineRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<PixelFrames, VideoError> {
        self.with_refinement(|pipeline| {
            let refined = Pipeline::refine(pipeline, request, noise, observer)?;
            pipeline.decode_refined(&refined, observer)
        })
    }

    fn refine_latents(
        &mut self,
        request: &RefineRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<(Latents, FrameRange), VideoError> {
        let refine =
            |pipeline: &mut Self| Pipeline::refine(pipeline, request, noise, &mut *observer);
        let refined = self.with_refinement(refine)?;
        let range = FrameRange::new(refined.first_frame, refined.frames);
        Ok((self.read_latents(refined.generated.latents)?, range))
    }

    fn decoded_shape(&self, latents: &Latents) -> Result<(VideoSize, usize), VideoError> {
        let config = self.vae_config();
        check_latents(latents, config.z_dim)?;
        let [_, _, frames, height, width] = latents.dims();
        let factor = config.scale_factor_spatial;
        let size = VideoSize::new(factor * width, factor * height);
        Ok((size, config.frames(frames)))
    }

    fn decode_each(
        &mut self,
        latents: &Latents,
        observer: &mut dyn Observer,
        take: &mut TakeFrames<'_>,
    ) -> Result<(), VideoError> {
        check_latents(latents, self.vae_config().z_dim)?;
        let latents = latents.to_tensor(self.device());
        Pipeline::decode_each(self, latents, observer, take)
    }

    fn decode(
        &mut self,
        latents: &Latents,
        observer: &mut dyn Observer,
    ) -> Result<Vec<PixelFrames>, VideoError> {
        check_latents(latents, self.vae_config().z_dim)?;
        let latents = latents.to_tensor(self.device());
        Pipeline::decode(self, latents, observer)
    }
}

/// Whether latents are those of a VAE with so many channels.
fn check_latents(latents: &Latents, channels: usize) -> Result<(), VideoError> {
    let dims = latents.dims();
    if dims[1] == channels && !dims.contains(&0) {
        return Ok(());
    }
    Err(VideoError::Invalid {
        what: "latents",
        reason: format!(
            "they have shape {dims:?}; the VAE of this checkpoint takes [B, {channels}, T, H, W]"
        ),
    })
}
