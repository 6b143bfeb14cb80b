//! Walking block lists inside kernels.

use cubecl::prelude::*;

/// Where a row's listed blocks lead, and how far.
///
/// The tokens of a row's listed blocks are thought of as one sequence; dense attention is the
/// sequence of all tokens, and reads no list.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Walk {
    /// Offset of the row in the list.
    pub start: usize,
    /// Tokens in the sequence.
    pub length: u32,
    /// Tokens per block.
    pub block: u32,
}

/// Starts the walk of row `(batch, head, row)`.
///
/// `indices` is `[B, H, M, K]`, `counts` `[B, H, M]`; `tokens` is the number of tokens of the
/// dense sequence.
#[cube]
pub(super) fn walk(
    indices: &Tensor<i32>,
    counts: &Tensor<i32>,
    batch: usize,
    head: usize,
    row: u32,
    block: u32,
    tokens: u32,
    #[comptime] sparse: bool,
) -> Walk {
    let mut start = 0usize;
    let mut length = tokens;
    if sparse {
        let row = row as usize;
        start = batch * indices.stride(0) + head * indices.stride(1) + row * indices.stride(2);
        let at = batch * counts.stride(0) + head * counts.stride(1) + row * counts.stride(2);
        length = u32::cast_from(counts[at]) * block;
    }
    Walk {
        start,
        length,
        block,
    }
}

/// The token at a position of the walk, which must lie before its end.
#[cube]
pub(super) fn token_at(
    indices: &Tensor<i32>,
    walk: &Walk,
    position: u32,
    #[comptime] sparse: bool,
) -> u32 {
    if sparse {
        let entry = (position / walk.block) as usize;
        u32::cast_from(indices[walk.start + entry]) * walk.block + position % walk.block
    } else {
        position
    }
}

/// Whether a key token is real: padding follows the real tokens of its block.
#[cube]
pub(super) fn is_real(
    key_valid: &Tensor<i32>,
    token: u32,
    block: u32,
    #[comptime] sparse: bool,
) -> bool {
    if sparse {
        (token % block) < u32::cast_from(key_valid[(token / block) as usize])
    } else {
        true.runtime()
    }
}

/// The first token of a step of a walk over keys, and how many of the step's keys are real.
#[cube]
pub(super) fn key_step(
    indices: &Tensor<i32>,
    key_valid: &Tensor<i32>,
    walk: &Walk,
    step: u32,
    #[comptime] width: usize,
    #[comptime] sparse: bool,
) -> (u32, u32) {
    let position = step * comptime!(width as u32);
    let start = token_at(indices, walk, position, sparse);
    let mut real = walk.length - position;
    if sparse {
        let inside = start % walk.block;
        real = u32::cast_from(key_valid[(start / walk.block) as usize]).max(inside) - inside;
    }
    (start, real)
}
