//! Pipelines without their backend in the type.

mod of_backend;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::DType;
use longcat_kernels::KernelBackend;
use longcat_video::{
    Checkpoint, CheckpointParts, ContinuationRequest, ExpectedTimes, FrameRange,
    ImageToVideoRequest, Latents, LongVideo, LongVideoRequest, LoraScope, LoraStatus, MemoryPlan,
    NoiseSource, Observer, Pipeline, PipelineOptions, PixelFrames, RefineRequest, TakeFrames,
    TextToVideoRequest, VideoError, VideoPlan, VideoRequest, VideoSize,
};

use crate::{DeviceList, DeviceTask, RuntimeError, RuntimeOptions, on_device};

/// A [`Pipeline`] on whatever backend its device needs.
///
/// Latents and pictures cross on the host. Every method does what that of [`Pipeline`] does and fails
/// as it does.
pub trait DynPipeline: Send {
    /// The checkpoint directory.
    fn checkpoint(&self) -> &Checkpoint;

    /// How the pipeline treats its components.
    fn options(&self) -> &PipelineOptions;

    /// Reads an adapter of any supported format under a nickname, switched off.
    ///
    /// # Errors
    /// [`VideoError::Lora`] names file, key and shapes; nothing changes then.
    fn load_lora(&mut self, name: &str, path: &Path) -> Result<(), VideoError>;

    /// As [`Self::load_lora`], of an adapter that acts on some layers or in some steps only.
    ///
    /// # Errors
    /// As [`Self::load_lora`]; also where the adapter has no layer in the scope.
    fn load_scoped_lora(
        &mut self,
        name: &str,
        path: &Path,
        scope: &LoraScope,
    ) -> Result<(), VideoError>;

    /// Uses exactly these adapters with these strengths from the next run on, without any reload.
    ///
    /// # Errors
    /// [`VideoError::Lora`] for a nickname that is not loaded, [`VideoError::Invalid`] for a strength
    /// that is not finite, or where two of them are one adapter by their contents.
    fn use_loras(&mut self, chosen: &[(&str, f64)]) -> Result<(), VideoError>;

    /// Lets [`Self::refine`] use exactly these adapters with these strengths, in the place of the
    /// checkpoint's refinement adapter alone.
    ///
    /// # Errors
    /// As [`Self::use_loras`].
    fn use_refine_loras(&mut self, chosen: &[(&str, f64)]) -> Result<(), VideoError>;

    /// Merges the adapters in use into the base weights, which makes them cost nothing per step, and
    /// from now on those that are chosen instead: at once where the transformer is loaded, else when
    /// it is.
    ///
    /// # Errors
    /// [`VideoError::Lora`] and [`VideoError::Weights`].
    fn merge_loras(&mut self) -> Result<(), VideoError>;

    /// As [`Self::merge_loras`]; weights that are packed are packed again.
    ///
    /// # Errors
    /// [`VideoError::Lora`] and [`VideoError::Weights`].
    fn merge_loras_requantized(&mut self) -> Result<(), VideoError>;

    /// Undoes [`Self::merge_loras`] bit for bit, by reading the weights from the checkpoint again.
    ///
    /// # Errors
    /// [`VideoError::Weights`] and [`VideoError::Lora`].
    fn unmerge_loras(&mut self) -> Result<(), VideoError>;

    /// Forgets an adapter.
    ///
    /// # Errors
    /// [`VideoError::Lora`] for a nickname that is not loaded.
    fn unload_lora(&mut self, name: &str) -> Result<(), VideoError>;

    /// Whether an adapter holds the same as a file, on its layers where it has a scope.
    ///
    /// # Errors
    /// [`VideoError::Lora`].
    fn is_lora_of(&self, name: &str, path: &Path) -> Result<bool, VideoError>;

    /// The adapters, in the order in which they were loaded.
    fn loras(&self) -> Vec<LoraStatus>;

    /// Switches block-sparse attention on or off.
    ///
    /// # Errors
    /// [`VideoError::Dit`] when the checkpoint has no parameters for it.
    fn set_bsa(&mut self, enabled: bool) -> Result<(), VideoError>;

    /// Checks a request and says what it makes, before any model is loaded.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] names the setting; [`VideoError::Dit`] when a checkpoint without
    /// block-sparse attention is to refine.
    fn plan(&self, request: VideoRequest<'_>) -> Result<VideoPlan, VideoError>;

    /// What is done so that a request fits into the memory that may be taken, and what each stage takes
    /// then; nothing is loaded for this.
    ///
    /// # Errors
    /// [`VideoError::DoesNotFit`] says what would fit; else as [`Self::plan`].
    fn memory_plan(&self, request: VideoRequest<'_>) -> Result<MemoryPlan, VideoError>;

    /// How long the stages of a request take that is done as planned ([`Pipeline::expected_times`]).
    ///
    /// # Errors
    /// As [`Self::plan`]; [`VideoError::Device`].
    fn expected_times(
        &self,
        request: VideoRequest<'_>,
        plan: &MemoryPlan,
    ) -> Result<ExpectedTimes, VideoError>;

    /// Makes videos from prompts; normalised latents `[B, C, T, H, W]`.
    ///
    /// # Errors
    /// [`VideoError`]: a request that cannot work is refused before any model is loaded.
    fn text_to_video(
        &mut self,
        request: &TextToVideoRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Latents, VideoError>;

    /// How far the prediction is off with one layer in fp8, by their names ([`Pipeline::fp8_errors`]).
    ///
    /// # Errors
    /// As there.
    fn fp8_errors(
        &mut self,
        request: &TextToVideoRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<BTreeMap<String, f64>, VideoError>;

    /// Makes videos that begin with a picture.
    ///
    /// # Errors
    /// As [`Self::text_to_video`].
    fn image_to_video(
        &mut self,
        request: &ImageToVideoRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Latents, VideoError>;

    /// Continues a video. The result begins with the condition frames.
    ///
    /// # Errors
    /// As [`Self::text_to_video`].
    fn continue_video(
        &mut self,
        request: &ContinuationRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Latents, VideoError>;

    /// Makes a long video, segment by segment in `work_dir`; a run that was stopped goes on there.
    ///
    /// # Errors
    /// As [`Self::text_to_video`], and [`VideoError::Invalid`] when the folder holds segments of
    /// another video.
    fn long_video(
        &mut self,
        request: &LongVideoRequest,
        work_dir: &Path,
        observer: &mut dyn Observer,
    ) -> Result<LongVideo, VideoError>;

    /// Refines a long video segment by segment, as [`Self::refine`] does a video; a run that was stopped goes
    /// on. `request` is what the video was made from.
    ///
    /// # Errors
    /// As [`Self::refine`], and [`VideoError::Invalid`] when refined segments of another request are there.
    fn refine_long_video(
        &mut self,
        video: &LongVideo,
        request: &LongVideoRequest,
        observer: &mut dyn Observer,
    ) -> Result<LongVideo, VideoError>;

    /// Refines a video with block-sparse attention and the adapters of [`Self::use_refine_loras`],
    /// else the checkpoint's refinement adapter; both are as before afterwards.
    ///
    /// # Errors
    /// As [`Self::text_to_video`], and [`VideoError::MissingComponent`] without that adapter.
    fn refine(
        &mut self,
        request: &RefineRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<PixelFrames, VideoError>;

    /// As [`Self::refine`], up to the latents `[1, C, T, H, W]`, with the frames of their video that are
    /// no padding.
    ///
    /// # Errors
    /// As there.
    fn refine_latents(
        &mut self,
        request: &RefineRequest,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<(Latents, FrameRange), VideoError>;

    /// Size and number of frames of the videos of normalised latents.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] for latents of another VAE.
    fn decoded_shape(&self, latents: &Latents) -> Result<(VideoSize, usize), VideoError>;

    /// As [`Self::decode`], but hands frames on as they come ([`Pipeline::decode_each`]).
    ///
    /// # Errors
    /// As there.
    fn decode_each(
        &mut self,
        latents: &Latents,
        observer: &mut dyn Observer,
        take: &mut TakeFrames<'_>,
    ) -> Result<(), VideoError>;

    /// The videos of normalised latents, one per sample of the batch.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] for latents of another VAE, before any weight is read;
    /// [`VideoError::Vae`].
    fn decode(
        &mut self,
        latents: &Latents,
        observer: &mut dyn Observer,
    ) -> Result<Vec<PixelFrames>, VideoError>;
}

/// Opens a checkpoint (the path of a directory, or [`CheckpointParts`]) on a device, or on several CUDA
/// devices that share the denoising.
///
/// # Errors
/// [`RuntimeError`] when a device cannot be used or cannot compute in the dtype;
/// [`RuntimeError::Video`] names the part, file and key of a checkpoint that cannot be opened.
pub fn open_pipeline(
    devices: &DeviceList,
    parts: impl Into<CheckpointParts>,
    options: &RuntimeOptions,
) -> Result<Box<dyn DynPipeline>, RuntimeError> {
    open(devices, parts.into(), options)
}

/// Not generic, so that pipelines are compiled here and not in every program that opens one.
#[inline(never)]
fn open(
    devices: &DeviceList,
    parts: CheckpointParts,
    options: &RuntimeOptions,
) -> Result<Box<dyn DynPipeline>, RuntimeError> {
    let task = Open {
        devices,
        parts,
        asked: options.dtype,
        options: options.on(devices.first()),
    };
    on_device(devices.first(), task)?
}

struct Open<'a> {
    devices: &'a DeviceList,
    parts: CheckpointParts,
    /// The dtype that was asked for, if one was.
    asked: Option<DType>,
    options: PipelineOptions,
}

impl DeviceTask for Open<'_> {
    type Output = Result<Box<dyn DynPipeline>, RuntimeError>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        let mut options = self.options;
        match (self.asked, B::supports_dtype(&device, options.dtype)) {
            (_, true) => {}
            (None, false) => (options.dtype, options.vae_dtype) = (DType::F32, DType::F32),
            (Some(dtype), false) => {
                return Err(RuntimeError::Dtype {
                    devices: self.devices.clone(),
                    dtype,
                });
            }
        }
        let mut pipeline = Pipeline::<B>::open(self.parts, options, &device)?;
        pipeline.denoise_on(&self.devices.others::<B>(&device)?)?;
        Ok(Box::new(pipeline))
    }
}
