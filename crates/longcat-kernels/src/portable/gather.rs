//! Gathering of the listed key blocks, tile by tile.

use burn::tensor::{Bool, IndexingUpdateOp, Int, Tensor, backend::Backend};

use super::TILE_BYTES;
use crate::BlockList;

/// A block list with batch, head and query block flattened into rows.
pub(super) struct BlockRows<B: Backend> {
    /// Row of each listed block in the flat list of all key blocks `[B * H * Mk]`; `[rows, K]`.
    flat: Tensor<B, 2, Int>,
    /// Which entries are not to be used, `[rows, K]`.
    unused: Tensor<B, 2, Bool>,
    /// Real tokens in each block of the flat list, `[B * H * Mk]`.
    valid: Option<Tensor<B, 1, Int>>,
    block_q: usize,
    block_k: usize,
}

/// A range of rows with what is needed to gather their keys.
pub(super) struct Tile<B: Backend> {
    pub start: usize,
    pub len: usize,
    /// True where a gathered key is not to be seen, `[len, block_q, K * block_k]`.
    pub hidden: Tensor<B, 3, Bool>,
    flat: Tensor<B, 1, Int>,
    block_k: usize,
}

impl<B: Backend> BlockRows<B> {
    /// `key_dims` are those of the keys, `[B, H, Nk, D]`.
    pub fn new(blocks: &BlockList<B>, key_dims: [usize; 4]) -> Self {
        let [b, h, query_blocks, width] = blocks.dims();
        let key_blocks = key_dims[2] / blocks.block_k;
        let indices = Tensor::<B, 4, Int>::from_primitive(blocks.indices.clone());
        let counts = Tensor::<B, 3, Int>::from_primitive(blocks.counts.clone());
        let (device, dtype) = (indices.device(), indices.dtype());
        let rows = b * h * query_blocks;
        let arange = |end: usize| Tensor::<B, 1, Int>::arange(0..end as i64, &device).cast(dtype);
        let offsets = (arange(b * h) * key_blocks as i64).reshape([b, h, 1, 1]);
        let unused = counts
            .reshape([rows, 1])
            .expand([rows, width])
            .lower_equal(arange(width).reshape([1, width]).expand([rows, width]));
        Self {
            flat: (indices + offsets).reshape([rows, width]),
            unused,
            valid: blocks.key_valid.clone().map(|valid| {
                Tensor::<B, 1, Int>::from_primitive(valid)
                    .cast(dtype)
                    .repeat_dim(0, b * h)
            }),
            block_q: blocks.block_q,
            block_k: blocks.block_k,
        }
    }

    /// `[B, H, Nq, D]` to `[rows, block_q, D]`.
    pub fn queries(&self, x: Tensor<B, 4>) -> Tensor<B, 3> {
        let [b, h, n, d] = x.dims();
        x.reshape([b * h * n / self.block_q, self.block_q, d])
    }

    /// `[B, H, Nk, D]` to `[B * H * Mk, block_k * D]`, one row a block.
    pub fn keys(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
        let [b, h, n, d] = x.dims();
        x.reshape([b * h * n / self.block_k, self.block_k * d])
    }

    /// Row ranges whose gathered keys, values and scores fit the budget.
    pub fn tiles(&self, head_dim: usize) -> impl Iterator<Item = Tile<B>> + '_ {
        let [rows, width] = self.flat.dims();
        let keys = width * self.block_k;
        let bytes = 4 * keys * (2 * head_dim + 4 * self.block_q);
        let step = (TILE_BYTES / bytes.max(1)).clamp(1, rows.max(1));
        (0..rows)
            .step_by(step)
            .map(move |start| self.tile(start, step.min(rows - start)))
    }

    fn tile(&self, start: usize, len: usize) -> Tile<B> {
        let width = self.flat.dims()[1];
        let (block_q, block_k) = (self.block_q, self.block_k);
        let flat = self.flat.clone().narrow(0, start, len).reshape([-1]);
        let by_token = [len, width, block_k];
        let unused = self.unused.clone().narrow(0, start, len);
        let mut hidden = unused.reshape([len, width, 1]).expand(by_token);
        if let Some(valid) = &self.valid {
            let valid = valid.clone().select(0, flat.clone());
            let position = Tensor::<B, 1, Int>::arange(0..block_k as i64, &valid.device())
                .cast(valid.dtype())
                .reshape([1, 1, block_k])
                .expand(by_token);
            let padding = valid
                .reshape([len, width, 1])
                .expand(by_token)
                .lower_equal(position);
            hidden = hidden.bool_or(padding);
        }
        Tile {
            start,
            len,
            hidden: hidden.reshape([len, 1, width * block_k]).expand([
                len,
                block_q,
                width * block_k,
            ]),
            flat,
            block_k,
        }
    }
}

impl<B: Backend> Tile<B> {
    /// The listed rows of [`BlockRows::keys`], `[len, K * block_k, D]`.
    pub fn gather(&self, keys: Tensor<B, 2>) -> Tensor<B, 3> {
        let d = keys.dims()[1] / self.block_k;
        let tokens = self.flat.dims()[0] * self.block_k / self.len;
        keys.select(0, self.flat.clone())
            .reshape([self.len, tokens, d])
    }

    /// Adds `[len, K * block_k, D]` to the rows it would be gathered from.
    pub fn scatter_add(&self, into: Tensor<B, 2>, values: Tensor<B, 3>) -> Tensor<B, 2> {
        let row = into.dims()[1];
        let values = values.reshape([self.flat.dims()[0], row]);
        into.select_assign(0, self.flat.clone(), values, IndexingUpdateOp::Add)
    }
}
