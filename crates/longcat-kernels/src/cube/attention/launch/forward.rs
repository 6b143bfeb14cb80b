//! Launching the forward kernels.

use std::sync::atomic::Ordering;

use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::counters::{FORWARD_COOPERATIVE, FORWARD_MMA, FORWARD_PLAIN};
use super::{List, addresses, empty_like, empty_rows, plan, with_readable_rows};
use crate::cube::attention::forward_cooperative::forward_cooperative;
use crate::cube::attention::forward_mma::forward_mma;
use crate::cube::attention::plain::forward_plain;

/// Output and log-sum-exp, or `None` where no kernel takes these tensors.
pub(in crate::cube::attention) fn forward<R: CubeRuntime>(
    q: &CubeTensor<R>,
    k: &CubeTensor<R>,
    v: &CubeTensor<R>,
    list: &List<R>,
    scale: f64,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    #[cfg(feature = "cuda")]
    if let Some(attended) = crate::cuda::hopper::try_forward(q, k, v, list, scale) {
        return Some(attended);
    }
    let plan = plan(q, k, scale)?;
    let tile = plan.forward_tile(list);
    let cooperative = plan.cooperative_tile(list);
    let [q, k, v] = [q, k, v].map(|tensor| {
        if tile.is_some() || cooperative.is_some() {
            with_readable_rows(tensor.clone())
        } else {
            tensor.clone()
        }
    });
    let out = empty_like(&q);
    let lse = empty_rows(&q, &plan);
    let client = q.client.clone();
    let address = addresses(&[&q, &k, &v, &out, &list.indices]);
    let list = list.clone();
    let rows = match (tile, cooperative) {
        (Some(tile), _) => tile.rows(),
        (None, Some(tile)) => tile.rows(),
        (None, None) => plan.side,
    };
    let cubes = plan.cubes(plan.queries, list.block_q, rows);
    // What all kernels take.
    macro_rules! launch {
        ($kernel:ident, $dim:expr, $tile:expr) => {
            $kernel::launch_unchecked::<R>(
                &client,
                cubes,
                $dim,
                address,
                q.into_tensor_arg(),
                k.into_tensor_arg(),
                v.into_tensor_arg(),
                list.indices.into_tensor_arg(),
                list.counts.into_tensor_arg(),
                list.key_valid.into_tensor_arg(),
                out.clone().into_tensor_arg(),
                lse.clone().into_tensor_arg(),
                scale as f32,
                list.block_q as u32,
                list.block_k as u32,
                $tile,
                plan.dtype,
            )
        };
    }
    // SAFETY: rows and blocks past the end are clamped or skipped, and every loop ends.
    unsafe {
        if let Some(tile) = tile {
            FORWARD_MMA.fetch_add(1, Ordering::Relaxed);
            launch!(forward_mma, CubeDim::new_1d(tile.units() as u32), tile);
        } else if let Some(tile) = cooperative {
            FORWARD_COOPERATIVE.fetch_add(1, Ordering::Relaxed);
            let dim = CubeDim::new_1d(tile.units() as u32);
            launch!(forward_cooperative, dim, tile);
        } else {
            FORWARD_PLAIN.fetch_add(1, Ordering::Relaxed);
            let tile = plan.plain_tile(list.sparse);
            let dim = CubeDim::new_2d(tile.side as u32, tile.side as u32);
            launch!(forward_plain, dim, tile);
        }
    }
    Some((out, lse))
}
