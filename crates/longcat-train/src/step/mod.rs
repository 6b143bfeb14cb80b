//! Loss and gradients of one batch.

mod backward;
mod batch;

pub use batch::{Batch, FlowMatching};

use std::sync::{Mutex, PoisonError};

use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use longcat_dit::LongCatTransformer;

use crate::{Gradients, TrainBackend, TrainError};

/// Held while a graph is built and run. After each backward pass Burn 0.21 forgets what it takes to be
/// unused in the graphs of all threads; in one that another thread builds meanwhile gradients are lost
/// by that, without a word.
static GRAPHS: Mutex<()> = Mutex::new(());

/// How gradients are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainStep {
    /// Keep only the input of every block and compute its inside again in the backward pass. Peak
    /// activation memory is then one block and one `[B, N, C]` tensor per block; the time is that of
    /// one more forward pass. The gradients are the same.
    pub checkpointed: bool,
}

/// What one batch gives.
#[derive(Debug, Clone)]
pub struct StepOutput<B: TrainBackend> {
    /// The model's input `[B, C, T, H, W]`, fp32.
    pub x_t: Tensor<B::InnerBackend, 5>,
    /// Timesteps `[B, T]`, 0 to 1000.
    pub timesteps: Tensor<B::InnerBackend, 2>,
    /// The model's output, x0 − noise, `[B, C, T, H, W]`, fp32.
    pub out: Tensor<B::InnerBackend, 5>,
    /// Mean squared error over the noise frames, `[1]`.
    pub loss: Tensor<B::InnerBackend, 1>,
    /// Gradients of the trained parameters.
    pub gradients: Gradients<B::InnerBackend>,
    /// Gradient of the text embeddings `[B, L, caption_channels]`, where it was asked for.
    pub text_gradient: Option<Tensor<B::InnerBackend, 3>>,
}

impl TrainStep {
    /// Loss and gradients of the parameters of `model` that require them.
    ///
    /// # Errors
    /// [`TrainError::Shape`] and [`TrainError::Dit`] for a batch that does not fit the model.
    pub fn run<B: TrainBackend>(
        &self,
        model: &LongCatTransformer<B>,
        batch: &Batch<B::InnerBackend>,
    ) -> Result<StepOutput<B>, TrainError> {
        self.run_with_text(model, batch, false)
    }

    /// As [`Self::run`], and with `text_gradient` the gradient of the text embeddings, for whatever
    /// made them.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with_text<B: TrainBackend>(
        &self,
        model: &LongCatTransformer<B>,
        batch: &Batch<B::InnerBackend>,
        text_gradient: bool,
    ) -> Result<StepOutput<B>, TrainError> {
        let objective = FlowMatching::new(batch)?;
        let _alone = GRAPHS.lock().unwrap_or_else(PoisonError::into_inner);
        let pass = match self.checkpointed {
            true => backward::checkpointed(model, &objective, text_gradient)?,
            false => backward::plain(model, &objective, text_gradient)?,
        };
        Ok(StepOutput {
            x_t: objective.x_t,
            timesteps: objective.timesteps,
            out: pass.out,
            loss: pass.loss,
            gradients: pass.gradients,
            text_gradient: pass.text_gradient,
        })
    }

    /// The loss alone, without any graph.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn loss<B: TrainBackend>(
        model: &LongCatTransformer<B>,
        batch: &Batch<B::InnerBackend>,
    ) -> Result<Tensor<B::InnerBackend, 1>, TrainError> {
        let objective = FlowMatching::new(batch)?;
        let out = model.valid().forward(
            objective.x_t.clone(),
            objective.timesteps.clone(),
            &objective.text,
            objective.num_cond,
        )?;
        Ok(objective.loss(out))
    }
}
