//! What may become of a batch before the loss is taken.

use burn::tensor::backend::AutodiffBackend;
use longcat_dit::{LongCatTransformer, TextCondition};

use crate::data::Condition;
use crate::{Batch, TrainBackend, TrainError};

/// Embeddings `[n, L, width]` of captions, without a graph.
pub type EncodedCaptions<B> =
    Result<TextCondition<<B as AutodiffBackend>::InnerBackend>, TrainError>;

/// What a batch is made of, beside its tensors.
pub struct BatchSamples<'a, B: TrainBackend> {
    /// The number in the run of the first sample; the others follow. Everything random about a sample
    /// is to be a function of the run's seed and of its number ([`stream`](crate::stream)).
    pub first: u64,
    /// The captions, after dropout.
    pub captions: &'a [String],
    /// What is given of the clips.
    pub condition: Option<Condition>,
    /// Encodes captions, those of the training clips and the empty one.
    pub encode: &'a dyn Fn(&[String]) -> EncodedCaptions<B>,
}

/// A function of the model and a batch that gives the batch that is trained on: with another target
/// ([`Batch::with_prediction`]), other condition frames, or whatever else the model has a part in.
///
/// Distilling is one: the target of the batch becomes what the teacher predicts.
pub trait BatchTransform<B: TrainBackend> {
    /// The batch to train on. `model` is as it is trained at this step, with its adapter.
    ///
    /// # Errors
    /// Whatever stops the run.
    fn apply(
        &self,
        model: &LongCatTransformer<B>,
        samples: &BatchSamples<'_, B>,
        batch: Batch<B::InnerBackend>,
    ) -> Result<Batch<B::InnerBackend>, TrainError>;

    /// The batch, of one clip, to measure the validation loss on, and a factor of that loss. The batch
    /// itself by default, so that losses of different objectives can be compared.
    ///
    /// # Errors
    /// Whatever stops the run.
    #[allow(unused_variables)]
    fn validate(
        &self,
        model: &LongCatTransformer<B>,
        samples: &BatchSamples<'_, B>,
        batch: Batch<B::InnerBackend>,
    ) -> Result<(Batch<B::InnerBackend>, f32), TrainError> {
        Ok((batch, 1.0))
    }
}
