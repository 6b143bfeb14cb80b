//! Prompts on their way to the transformer.

use longcat_dit::TextCondition;
use longcat_kernels::{KernelBackend, Stage, guard};

use super::{Observer, Pipeline, Sampling};
use crate::VideoError;

/// Encoded prompts and the guidance to apply.
pub(crate) struct EncodedText<B: KernelBackend> {
    pub condition: TextCondition<B>,
    pub guidance: Option<f64>,
}

/// Prompts with their encodings: refining, or the next segment of a long video, asks for the same ones again, and a
/// text encoder takes longer to load than it works.
#[derive(Debug)]
pub(super) struct EncodedPrompts<B: KernelBackend> {
    prompts: Vec<String>,
    max_length: usize,
    condition: TextCondition<B>,
}

impl<B: KernelBackend> EncodedPrompts<B> {
    /// The condition of `prompts`, if each of them is here.
    fn condition_of(&self, prompts: &[String], max_length: usize) -> Option<TextCondition<B>> {
        if max_length != self.max_length {
            return None;
        }
        if prompts == self.prompts {
            return Some(self.condition.clone());
        }
        let sample = |prompt| {
            let at = self.prompts.iter().position(|known| known == prompt)?;
            Some(self.condition.samples(at..at + 1))
        };
        let samples: Option<Vec<_>> = prompts.iter().map(sample).collect();
        samples
            .filter(|samples| !samples.is_empty())
            .map(TextCondition::cat)
    }
}

impl<B: KernelBackend> Pipeline<B> {
    /// Encodes prompts, unless they are among those that were encoded last; the text encoder leaves the device
    /// afterwards unless it is to be kept.
    ///
    /// # Errors
    /// [`VideoError::Text`].
    pub(crate) fn encode_prompts(
        &mut self,
        prompts: &[String],
        max_length: usize,
        observer: &mut dyn Observer,
    ) -> Result<TextCondition<B>, VideoError> {
        observer.stage("text");
        let known = self.prompts.as_ref();
        if let Some(condition) = known.and_then(|known| known.condition_of(prompts, max_length)) {
            return Ok(condition);
        }
        self.prompts = None;
        let layers = self.make_room_for_text([prompts.len(), max_length])?;
        let encoder = match self.text_encoder.take() {
            Some(encoder) => encoder,
            None => {
                self.text_layers = layers;
                guard::<B, _, _>(&self.devices[..1], Stage::LoadingTextEncoder, || {
                    let load_as = self.load_as(layers);
                    self.checkpoint.load_text_encoder(load_as, self.device())
                })?
            }
        };
        let encode = || Ok::<_, VideoError>(encoder.encode_prompts(prompts, max_length)?);
        let (embeds, mask) = guard::<B, _, _>(&self.devices[..1], Stage::EncodingPrompt, encode)?;
        if self.options.keep_text_encoder {
            self.text_encoder = Some(encoder);
        } else {
            drop(encoder);
            self.clean_up();
        }
        let condition = TextCondition {
            embeds: embeds.squeeze_dim(1),
            mask: Some(mask),
        };
        self.prompts = Some(EncodedPrompts {
            prompts: prompts.to_vec(),
            max_length,
            condition: condition.clone(),
        });
        Ok(condition)
    }

    /// Prompts, preceded by the negative prompt of each under guidance.
    pub(crate) fn encode_for(
        &mut self,
        prompts: &[String],
        negative: &str,
        sampling: &Sampling,
        observer: &mut dyn Observer,
    ) -> Result<EncodedText<B>, VideoError> {
        let guidance = (sampling.guidance > 1.0).then_some(sampling.guidance);
        let mut all = Vec::with_capacity(2 * prompts.len());
        if guidance.is_some() {
            all.extend(std::iter::repeat_n(negative.to_string(), prompts.len()));
        }
        all.extend_from_slice(prompts);
        let condition = self.encode_prompts(&all, sampling.max_sequence_length, observer)?;
        Ok(EncodedText {
            condition,
            guidance,
        })
    }
}
