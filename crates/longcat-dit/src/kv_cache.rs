//! Keys and values of condition frames, on the device or in host memory.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::DitError;
use crate::attention::KeysValues;

#[derive(Debug, Clone)]
enum Layer<B: Backend> {
    Device {
        k: Tensor<B, 4>,
        v: Tensor<B, 4>,
    },
    /// Keys, then values.
    Host(Arc<[TensorData; 2]>),
}

/// Keys (before rotation) and values of clean condition frames, per block.
#[derive(Debug, Clone)]
pub struct KvCache<B: Backend> {
    layers: Vec<Layer<B>>,
    num_latents: usize,
    /// Which samples are meant; all if none are named.
    samples: Option<Range<usize>>,
}

impl<B: Backend> KvCache<B> {
    pub(crate) fn new(num_latents: usize) -> Self {
        Self {
            layers: Vec::new(),
            num_latents,
            samples: None,
        }
    }

    /// Some samples of the batch, without a copy; of a cache of one sample, which serves any batch, the
    /// same cache.
    ///
    /// # Panics
    /// Later, in [`Self::layer`], if there are fewer samples.
    pub fn samples(&self, range: Range<usize>) -> Self {
        let first = self.samples.as_ref().map_or(0, |samples| samples.start);
        Self {
            samples: Some(first + range.start..first + range.end),
            ..self.clone()
        }
    }

    /// Adds the next block's keys and values; with `offload` they move to host memory.
    pub(crate) fn push(&mut self, (k, v): KeysValues<B>, offload: bool) {
        self.layers.push(if offload {
            Layer::Host(Arc::new([k.into_data(), v.into_data()]))
        } else {
            Layer::Device { k, v }
        });
    }

    /// Number of condition frames, in latent frames.
    pub(crate) fn num_latents(&self) -> usize {
        self.num_latents
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Keys and values of a block, `[B, heads, n·H·W, D]`, on `device`.
    ///
    /// # Panics
    /// If `block` is not below [`Self::depth`].
    pub fn layer(&self, block: usize, device: &B::Device) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let (k, v) = match &self.layers[block] {
            Layer::Device { k, v } => (k.clone(), v.clone()),
            Layer::Host(data) => {
                let [k, v] = data.as_ref();
                let upload =
                    |data: &TensorData| Tensor::from_data(data.clone(), (device, data.dtype));
                (upload(k), upload(v))
            }
        };
        match &self.samples {
            Some(samples) if k.dims()[0] > 1 => {
                let part = |x: Tensor<B, 4>| x.narrow(0, samples.start, samples.len());
                (part(k), part(v))
            }
            _ => (k, v),
        }
    }

    /// As [`Self::layer`], if the cache is one for this batch and number of cached tokens.
    pub(crate) fn layer_for(
        &self,
        block: usize,
        device: &B::Device,
        batch: usize,
        tokens: usize,
    ) -> Result<KeysValues<B>, DitError> {
        let (k, v) = self.layer(block, device);
        let [found, _, found_tokens, _] = k.dims();
        if found_tokens != tokens || (found != 1 && found != batch) {
            return Err(DitError::Shape {
                input: "KV cache",
                found: k.dims().to_vec(),
                expected: format!("{tokens} tokens and a batch of 1 or {batch} are needed"),
            });
        }
        Ok((k, v))
    }
}
