use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use longcat_kernels::KernelBackend;

use crate::{DitError, transfer};

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
                expected: format!("[{batch}, {length}] like the text embeddings"),
            });
        }
        if mask.iter().flatten().all(|valid| *valid) {
            return Ok(Self::Dense(tokens));
        }
        let device = tokens.device();
        if zero_pad {
            let keep: Vec<f32> = mask.iter().flatten().map(|v| f32::from(*v)).collect();
            let keep = Tensor::<B, 3>::from_data(
                TensorData::new(keep, [batch, length, 1]),
                (&device, tokens.dtype()),
            );
            return Ok(Self::Dense(tokens * keep));
        }
        let mut samples = Vec::with_capacity(batch);
        for (i, row) in mask.iter().enumerate() {
            let valid: Vec<i32> = (0..length as i32).filter(|j| row[*j as usize]).collect();
            if valid.is_empty() {
                return Err(DitError::EmptyText { sample: i });
            }
            let indices = Tensor::<B, 1, Int>::from_ints(valid.as_slice(), &device);
            samples.push(tokens.clone().narrow(0, i, 1).select(1, indices));
        }
        Ok(Self::Ragged(samples))
    }
}
