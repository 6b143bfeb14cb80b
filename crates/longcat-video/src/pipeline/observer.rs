//! Following a run, and stopping it.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// One finished denoising step.
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

/// Follows a run and can stop it.
///
/// All methods have an empty default. Reading a tensor of an event waits for the device.
pub trait Observer<B: Backend> {
    /// A stage of the run begins ("text", "transformer", "denoise", "decode", …).
    fn stage(&mut self, _name: &'static str) {}

    /// A denoising step is finished (queued on the device, not necessarily computed).
    fn step(&mut self, _event: &StepEvent<'_, B>) {}

    /// Part `done` of `total` of the current stage is finished.
    fn progress(&mut self, _done: usize, _total: usize) {}

    /// Final latents, before they are decoded: a caller that keeps them loses nothing if decoding
    /// fails.
    ///
    /// # Errors
    /// An error ends the run and reaches the caller.
    fn latents(&mut self, _latents: &Tensor<B, 5>) -> Result<(), crate::VideoError> {
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

impl<B: Backend> Observer<B> for Silent {}
