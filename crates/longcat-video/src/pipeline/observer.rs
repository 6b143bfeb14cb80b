//! Following a run, and stopping it.

use std::fmt;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use longcat_lora::Requantized;

use crate::VideoError;
use crate::latents::Latents;

/// Follows a run and can stop it, on whatever backend it is.
///
/// All methods have an empty default.
pub trait Observer {
    /// A stage of the run begins ("text", "transformer", "denoise", "decode", …).
    fn stage(&mut self, _name: &'static str) {}

    /// Segment `index` (from 0) of the `total` of a long video begins, or is `finished` already by an
    /// earlier run.
    fn segment(&mut self, _index: usize, _total: usize, _finished: bool) {}

    /// Denoising step `step` (from 0) of `total`, which started from `timestep` (1000 to 0), is
    /// finished: queued on the device, not necessarily computed.
    fn step(&mut self, _step: usize, _total: usize, _timestep: f32) {}

    /// Whether [`Self::preview`] is to be called; asked after every step.
    fn wants_previews(&self) -> bool {
        false
    }

    /// What the video is coming to after step `step` (from 0) of `total`: normalised clean latents as that
    /// step foresees them, of which [`Latents::preview`] makes small pictures. Condition frames may be among
    /// them. They are read for this, so that the device is waited for; no result changes.
    fn preview(&mut self, _step: usize, _total: usize, _latents: &Latents) {}

    /// Adapters were merged into packed weights, which were packed again
    /// ([`Pipeline::merge_loras_requantized`](crate::Pipeline::merge_loras_requantized)).
    fn requantized(&mut self, _off: &Requantized) {}

    /// Denoising has ended: of `total` passes through the transformer, `saved` were left out. Told only
    /// of runs that may leave some out ([`EasyCache`](crate::EasyCache)), before their latents.
    fn passes_saved(&mut self, _saved: usize, _total: usize) {}

    /// Part `done` of `total` of the current stage is finished.
    fn progress(&mut self, _done: usize, _total: usize) {}

    /// Final latents, before they are decoded: a caller that keeps them loses nothing if decoding
    /// fails.
    ///
    /// # Errors
    /// An error ends the run and reaches the caller.
    fn latents(&mut self, _latents: &Latents) -> Result<(), VideoError> {
        Ok(())
    }

    /// Whether the run should stop; asked before every step.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Follows nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {}

/// One finished denoising step with its tensors, for
/// [`Pipeline::on_step`](crate::Pipeline::on_step). Reading one of them waits for the device.
#[derive(Debug)]
pub struct StepEvent<'a, B: Backend> {
    /// Index of the step, from 0.
    pub step: usize,
    /// Number of steps.
    pub total: usize,
    /// Timestep the step started from, 1000 to 0.
    pub timestep: f32,
    /// What went into the transformer, `[B, C, T, H, W]`.
    pub input: &'a Tensor<B, 5>,
    /// The transformer's prediction x0 − noise; under guidance the batch is [negative, positive].
    pub prediction: &'a Tensor<B, 5>,
    /// Latents after the step.
    pub latents: &'a Tensor<B, 5>,
}

/// What is called with the tensors of every step.
pub(crate) struct StepHook<B: Backend>(Box<Hook<B>>);

type Hook<B> = dyn FnMut(&StepEvent<'_, B>) + Send;

impl<B: Backend> StepHook<B> {
    pub(crate) fn new(hook: impl FnMut(&StepEvent<'_, B>) + Send + 'static) -> Self {
        Self(Box::new(hook))
    }
}

impl<B: Backend> fmt::Debug for StepHook<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StepHook")
    }
}

/// Who hears of denoising steps.
pub(crate) struct Follower<'a, B: Backend> {
    pub observer: &'a mut dyn Observer,
    pub hook: Option<&'a mut StepHook<B>>,
}

impl<B: Backend> Follower<'_, B> {
    pub(crate) fn step(&mut self, event: &StepEvent<'_, B>) {
        self.observer.step(event.step, event.total, event.timestep);
        if let Some(StepHook(hook)) = &mut self.hook {
            hook(event);
        }
    }
}
