//! The text that conditions a forward pass, and what becomes of its padding.

use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use longcat_kernels::{KernelBackend, transfer};

use crate::DitError;

/// Text embeddings that condition a forward pass.
#[derive(Debug, Clone)]
pub struct TextCondition<B: Backend> {
    /// Output of the text encoder, `[B, L, caption_channels]`.
    pub embeds: Tensor<B, 3>,
    /// Which tokens are text and which are padding, `[B][L]`; all are text where `None`.
    ///
    /// On the host, because lengths decide shapes: reading them back from the device would stall it.
    pub mask: Option<Vec<Vec<bool>>>,
}

impl<B: Backend> TextCondition<B> {
    /// Prompts one after another in one batch.
    ///
    /// # Panics
    /// If the token counts differ.
    pub fn cat(parts: Vec<Self>) -> Self {
        let lengths: Vec<(usize, usize)> = parts
            .iter()
            .map(|p| (p.embeds.dims()[0], p.embeds.dims()[1]))
            .collect();
        let masked = parts.iter().any(|p| p.mask.is_some());
        let mut embeds = Vec::new();
        let mut mask = Vec::new();
        for (part, (batch, tokens)) in parts.into_iter().zip(lengths) {
            mask.extend(part.mask.unwrap_or_else(|| vec![vec![true; tokens]; batch]));
            embeds.push(part.embeds);
        }
        Self {
            embeds: Tensor::cat(embeds, 0),
            mask: masked.then_some(mask),
        }
    }
}

impl<B: KernelBackend> TextCondition<B> {
    /// The same on another device.
    pub fn on(&self, device: &B::Device) -> Self {
        Self {
            embeds: transfer(self.embeds.clone(), device),
            mask: self.mask.clone(),
        }
    }

    /// Some samples of the batch.
    pub fn samples(&self, range: Range<usize>) -> Self {
        let embeds = self.embeds.clone().narrow(0, range.start, range.len());
        Self {
            embeds,
            mask: self.mask.as_ref().map(|mask| mask[range].to_vec()),
        }
    }
}

/// Text tokens in the width of the transformer, ready for cross-attention.
#[derive(Debug, Clone)]
pub enum TextTokens<B: Backend> {
    /// The same number of tokens for every sample, `[B, L, C]`.
    Dense(Tensor<B, 3>),
    /// One tensor `[1, L_i, C]` per sample.
    Ragged(Vec<Tensor<B, 3>>),
}

impl<B: Backend> TextTokens<B> {
    /// Applies the padding rule to embedded tokens `[B, L, C]`.
    ///
    /// # Errors
    /// [`DitError::EmptyText`] when padding is dropped and nothing is left of a sample;
    /// [`DitError::Shape`] when mask and tokens differ in shape.
    pub(crate) fn new(
        tokens: Tensor<B, 3>,
        mask: Option<&[Vec<bool>]>,
        zero_pad: bool,
    ) -> Result<Self, DitError> {
        let [batch, length, _] = tokens.dims();
        let Some(mask) = mask else {
            return Ok(Self::Dense(tokens));
        };
        if mask.len() != batch || mask.iter().any(|row| row.len() != length) {
            return Err(DitError::Shape {
                input: "text mask",
                found: vec![mask.len(), mask.first().map_or(0, Vec::len)],
                expected: format!("[{batch}, {length}] like the text embeddings is needed"),
            });
        }
        if mask.iter().flatten().all(|valid| *valid) {
            return Ok(Self::Dense(tokens));
        }
        if zero_pad {
            let keep: Vec<f32> = mask.iter().flatten().map(|v| f32::from(*v)).collect();
            let keep = Tensor::<B, 3>::from_data(
                TensorData::new(keep, [batch, length, 1]),
                (&tokens.device(), tokens.dtype()),
            );
            return Ok(Self::Dense(tokens * keep));
        }
        let mut samples = Vec::with_capacity(batch);
        for (i, row) in mask.iter().enumerate() {
            // Not `select`, which Burn 0.21 fuses with a later `repeat_dim` into a kernel that gives
            // all samples the values of the first.
            let sample = tokens.clone().narrow(0, i, 1);
            let parts = runs(row).map(|run| sample.clone().narrow(1, run.start, run.len()));
            let parts: Vec<_> = parts.collect();
            if parts.is_empty() {
                return Err(DitError::EmptyText { sample: i });
            }
            samples.push(Tensor::cat(parts, 1));
        }
        Ok(Self::Ragged(samples))
    }

    /// The tokens `[1, L_i, C]` of one sample.
    pub(crate) fn sample(&self, index: usize) -> Tensor<B, 3> {
        match self {
            Self::Dense(tokens) => tokens.clone().narrow(0, index, 1),
            Self::Ragged(samples) => samples[index].clone(),
        }
    }
}

/// Stretches of valid tokens.
fn runs(row: &[bool]) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    row.chunk_by(|a, b| a == b).filter_map(move |chunk| {
        let start = end;
        end += chunk.len();
        chunk[0].then_some(start..end)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn_flex::{Flex, FlexDevice};

    use super::*;

    #[test]
    fn without_padding_each_sample_keeps_its_valid_tokens_in_order() {
        let values = TensorData::new((0..10).map(|v| v as f32).collect(), [2, 5, 1]);
        let tokens = Tensor::<Flex, 3>::from_data(values, &FlexDevice);
        let masks = [
            [true, false, true, true, false],
            [false, true, true, true, true],
        ];
        let masks = masks.map(Vec::from);
        let TextTokens::Ragged(samples) = TextTokens::new(tokens, Some(&masks), false).unwrap()
        else {
            panic!("tokens of different number");
        };
        let kept = samples.into_iter().map(|s| s.into_data().to_vec().unwrap());
        let kept: Vec<Vec<f32>> = kept.collect();
        assert_eq!(kept, [vec![0.0, 2.0, 3.0], vec![6.0, 7.0, 8.0, 9.0]]);
    }
}
