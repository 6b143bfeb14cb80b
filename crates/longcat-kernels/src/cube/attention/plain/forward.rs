//! The plain forward kernel.

use cubecl::prelude::*;

use super::*;
use crate::cube::attention::lists::*;

/// Maximum of a row that has seen no key; finite, so that differences are numbers.
const NO_MAXIMUM: f32 = -1.0e30;

/// Forward attention. Shapes as in
/// [`forward_mma`](crate::cube::attention::forward_mma::forward_mma), any strides of the inputs, last dimension of `out` contiguous, any head size, any block sizes.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(in crate::cube::attention) fn forward_plain<E: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    indices: &Tensor<i32>,
    counts: &Tensor<i32>,
    key_valid: &Tensor<i32>,
    out: &mut Tensor<E>,
    lse: &mut Tensor<f32>,
    scale: f32,
    block_q: u32,
    block_k: u32,
    #[comptime] tile: PlainTile,
    #[define(E)] _dtype: StorageType,
) {
    let side = comptime!(tile.side as u32);
    let head = CUBE_POS_Y as usize;
    let batch = CUBE_POS_Z as usize;
    let (first, end) = block_tile(CUBE_POS_X, block_q, q.shape(2) as u32, side);
    let query = first + UNIT_POS_Y;
    let walk = walk(
        indices,
        counts,
        batch,
        head,
        first / block_q,
        block_k,
        k.shape(2) as u32,
        tile.sparse,
    );

    let mut queries = SharedMemory::<f32>::new(comptime!(tile.elements()));
    let mut rows = SharedMemory::<f32>::new(comptime!(tile.elements()));
    let mut weights = SharedMemory::<f32>::new(comptime!(tile.side * tile.score_pitch()));
    load_row::<E>(
        q,
        row_offset::<E>(q, batch, head, query),
        query < end,
        &mut queries,
        tile,
    );

    let mut acc = zero_share(tile);
    let mut maximum = f32::new(NO_MAXIMUM);
    let mut sum = f32::new(0.0);
    let weight_row = UNIT_POS_Y as usize * comptime!(tile.score_pitch());
    let mine = weight_row + UNIT_POS_X as usize;
    for step in 0..walk.length.div_ceil(side) {
        // Loads are by row (y), scores by column (x): two positions in the walk.
        let loaded = step * side + UNIT_POS_Y;
        let mut token = 0u32;
        if loaded < walk.length {
            token = token_at(indices, &walk, loaded, tile.sparse);
        }
        load_row::<E>(
            k,
            row_offset::<E>(k, batch, head, token),
            loaded < walk.length,
            &mut rows,
            tile,
        );
        sync_cube();
        let score = dot(&queries, &rows, tile) * scale;
        let scored = step * side + UNIT_POS_X;
        let mut present = scored < walk.length;
        if present {
            present = is_real(
                key_valid,
                token_at(indices, &walk, scored, tile.sparse),
                block_k,
                tile.sparse,
            );
        }
        weights[mine] = select(present, score, f32::new(NO_MAXIMUM));
        sync_cube();
        let mut highest = maximum;
        for i in 0..comptime!(tile.side) {
            highest = highest.max(weights[weight_row + i]);
        }
        load_row::<E>(
            v,
            row_offset::<E>(v, batch, head, token),
            loaded < walk.length,
            &mut rows,
            tile,
        );
        sync_cube();
        weights[mine] = select(present, (score - highest).exp(), f32::new(0.0));
        sync_cube();
        let fade = (maximum - highest).exp();
        maximum = highest;
        sum *= fade;
        for i in 0..comptime!(tile.side) {
            sum += weights[weight_row + i];
        }
        #[unroll]
        for part in 0..comptime!(tile.share()) {
            acc[part] *= fade;
        }
        accumulate(&weights, &rows, &mut acc, tile);
        sync_cube();
    }

    if query < end {
        let factor = select(sum > 0.0f32, 1.0f32 / sum, f32::new(0.0));
        let at = row_offset::<E>(out, batch, head, query);
        store_row::<E>(out, at, &acc, factor, tile);
        if UNIT_POS_X == 0 {
            let at = value_offset(lse, batch, head, query);
            lse[at] = maximum + sum.ln();
        }
    }
}
