//! Lists of the key blocks that query blocks attend to.

use burn::tensor::{Int, Tensor, backend::Backend};
use burn_backend::{TensorMetadata, tensor::IntTensor};

use crate::portable;

/// For each (batch, head, query block) the key blocks it attends to.
///
/// Query block `i` is the tokens `i * block_q .. (i + 1) * block_q`; key blocks alike. Blocks may be
/// padded: real key tokens come first in their block and `key_valid` counts them. Padded queries
/// are queries like any others; the caller drops their output.
#[derive(Debug, Clone)]
pub struct BlockList<B: Backend> {
    /// Key block ids `[B, H, Mq, K]`, ascending in each row. Entries past the row's count are 0:
    /// in range, but not to be used.
    pub indices: IntTensor<B>,
    /// How many entries of each row count, `[B, H, Mq]`.
    pub counts: IntTensor<B>,
    /// Number of real tokens, 1 to `block_k`, in each key block, `[Mk]`; all of them if absent.
    pub key_valid: Option<IntTensor<B>>,
    /// Tokens per query block.
    pub block_q: usize,
    /// Tokens per key block.
    pub block_k: usize,
}

/// For each (batch, head, key block) the query blocks that attend to it: what a kernel for the
/// gradients of keys and values walks through.
#[derive(Debug, Clone)]
pub struct TransposedBlocks<B: Backend> {
    /// Query block ids `[B, H, Mk, Mq]`, ascending; entries past the row's count are 0.
    pub indices: IntTensor<B>,
    /// How many entries of each row count, `[B, H, Mk]`.
    pub counts: IntTensor<B>,
}

impl<B: Backend> BlockList<B> {
    /// `[B, H, Mq, K]`.
    pub fn dims(&self) -> [usize; 4] {
        self.indices.shape().dims()
    }

    /// The list as a mask `[B, H, Mq, Mk]`, true where a query block attends to a key block.
    pub fn mask(&self, key_blocks: usize) -> Tensor<B, 4, burn::tensor::Bool> {
        portable::list_to_mask(
            Tensor::<B, 4, Int>::from_primitive(self.indices.clone()),
            Tensor::<B, 3, Int>::from_primitive(self.counts.clone()),
            key_blocks,
        )
    }

    /// Turns the list around, on the device.
    ///
    /// Takes `B * H * Mq * Mk` integers of memory, so it is made only where a backward pass asks.
    pub fn transposed(&self, key_blocks: usize) -> TransposedBlocks<B> {
        let [_, _, query_blocks, _] = self.dims();
        let (indices, counts) =
            portable::mask_to_list(self.mask(key_blocks).swap_dims(2, 3), query_blocks);
        TransposedBlocks {
            indices: indices.into_primitive(),
            counts: counts.into_primitive(),
        }
    }
}

/// Which key blocks a query block attends to, given its scores against all of them.
///
/// Blocks are taken in order of falling score, equal scores in order of their index.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockRule {
    /// Take at least this many blocks (never more than there are).
    pub top: usize,
    /// Take at least as many blocks as keep the running sum of `softmax(score * scale)` at or
    /// below a threshold; the block that crosses it is left out.
    pub cdf: Option<CdfRule>,
}

/// The part of a [`BlockRule`] that looks at the distribution of the scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CdfRule {
    /// Largest running sum of probabilities.
    pub threshold: f64,
    /// Factor on the scores before the softmax, `1 / sqrt(head_dim)`.
    pub scale: f64,
}

impl BlockRule {
    /// The most blocks that any query block can take out of `key_blocks`; the width of the list.
    /// At least 1, so that no tensor is empty.
    pub fn width(&self, key_blocks: usize) -> usize {
        match self.cdf {
            Some(_) => key_blocks,
            None => self.top.clamp(1, key_blocks),
        }
    }
}
