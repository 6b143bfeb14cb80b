//! The UMT5 encoder: token ids to hidden states.

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, DType, Int, Tensor, TensorData};
use longcat_kernels::{KernelBackend, Passage};

use crate::Umt5Config;
use crate::layers::{Block, RmsNorm};
use crate::position::buckets;
use crate::table::{Pieces, look_up, pieces};

/// The encoder half of UMT5 (Hugging Face `UMT5EncoderModel`).
///
/// Unlike T5, every block has a relative position bias of its own. The type of the weights decides
/// the type of the computation; norms and softmax run in f32 whatever it is.
#[derive(Module, Debug)]
pub struct Umt5Encoder<B: Backend> {
    /// The table of token embeddings.
    pub(crate) shared: Pieces<B>,
    pub(crate) blocks: Vec<Block<B>>,
    final_norm: RmsNorm<B>,
    num_buckets: usize,
    max_distance: usize,
}

impl<B: Backend> Umt5Encoder<B> {
    /// A randomly initialised f32 encoder, with the variances of the reference initialisation.
    ///
    /// Parameters are created when they are first used, so that building an encoder only to load
    /// weights into it costs no memory.
    pub fn new(config: &Umt5Config, device: &B::Device) -> Self {
        Self::in_pieces(config, config.vocab_size, device)
    }

    /// The same with a table of token embeddings in pieces of at most `rows` rows.
    pub(crate) fn in_pieces(config: &Umt5Config, rows: usize, device: &B::Device) -> Self {
        Self {
            shared: pieces(config, rows, device),
            blocks: (0..config.num_layers)
                .map(|_| Block::new(config, device))
                .collect(),
            final_norm: RmsNorm::new(config, device),
            num_buckets: config.relative_attention_num_buckets,
            max_distance: config.relative_attention_max_distance,
        }
    }
}

impl<B: KernelBackend> Umt5Encoder<B> {
    /// Hidden states of the last layer for every position, padding included.
    ///
    /// `ids` `[n, L]`, each below the vocabulary size; `mask` `[n, L]`, true for real tokens. Gives
    /// `[n, L, d_model]` in the type of the weights. Positions whose mask is false are attended by
    /// none; what they hold themselves is defined, but of no use.
    pub fn forward(&self, ids: Tensor<B, 2, Int>, mask: Tensor<B, 2, Bool>) -> Tensor<B, 3> {
        let [n, length] = ids.dims();
        let device = ids.device();
        let buckets = Tensor::<B, 1, Int>::from_data(
            TensorData::new(
                buckets(length, self.num_buckets, self.max_distance),
                [length * length],
            ),
            &device,
        );
        let padding = mask.bool_not().reshape([n, 1, 1, length]);
        let mut x = look_up(&self.shared, ids);
        // The residual sums of the published weights exceed the range of f16.
        if x.dtype() == DType::F16 {
            x = x.cast(DType::F32);
        }
        let mut passage = Passage::new(self.blocks.iter().map(Block::streamed), &device);
        for block in &self.blocks {
            passage.advance();
            x = block.forward(x, buckets.clone(), padding.clone());
        }
        self.final_norm.forward(x)
    }
}
