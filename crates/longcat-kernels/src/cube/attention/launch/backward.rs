//! Launching the backward kernels.

use std::sync::atomic::Ordering;

use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::counters::{BACKWARD_MMA, BACKWARD_PLAIN};
use super::{List, Plan, addresses, empty_like, empty_rows, plan, with_readable_rows};
use crate::cube::attention::backward_mma::{BackwardTile, backward_keys_mma, backward_queries_mma};
use crate::cube::attention::plain::{backward_keys_plain, backward_queries_plain, row_products};

/// Tensors of a backward pass.
pub(crate) struct Backward<R: CubeRuntime> {
    pub q: CubeTensor<R>,
    pub k: CubeTensor<R>,
    pub v: CubeTensor<R>,
    pub out: CubeTensor<R>,
    pub lse: CubeTensor<R>,
    pub d_out: CubeTensor<R>,
    pub scale: f64,
}

impl<R: CubeRuntime> Backward<R> {
    /// Whether a kernel takes these tensors.
    pub fn is_supported(&self) -> bool {
        plan(&self.q, &self.k, self.scale).is_some()
            && self.d_out.dtype == self.q.dtype
            && self.out.dtype == self.q.dtype
    }

    /// `(dq, dk, dv)`. `transposed` is the same list seen from the key blocks.
    pub fn run(
        self,
        list: List<R>,
        transposed: List<R>,
    ) -> Option<(CubeTensor<R>, CubeTensor<R>, CubeTensor<R>)> {
        #[cfg(feature = "cuda")]
        if let Some(gradients) = crate::cuda::hopper::try_backward(&self, &list) {
            return Some(gradients);
        }
        let plan = plan(&self.q, &self.k, self.scale)?;
        // The fastest of those measured at a head size of 128; registers bound both.
        let query_tile = plan.backward_tile(list.block_q, 2, list.block_k, 32, list.sparse);
        let key_tile = plan.backward_tile(list.block_k, 1, list.block_q, 64, list.sparse);
        let tiles = query_tile.zip(key_tile);
        let [q, k, v, d_out] = [self.q, self.k, self.v, self.d_out].map(|tensor| {
            if tiles.is_some() {
                with_readable_rows(tensor)
            } else {
                tensor
            }
        });
        let operands = Operands {
            delta: empty_rows(&q, &plan),
            address: addresses(&[
                &q,
                &k,
                &v,
                &self.out,
                &d_out,
                &list.indices,
                &transposed.indices,
            ]),
            lse: self.lse,
            scale: self.scale as f32,
            q,
            k,
            v,
            d_out,
        };
        operands.row_products(self.out, &plan);
        let (dq, (dk, dv)) = match tiles {
            Some((query_tile, key_tile)) => {
                BACKWARD_MMA.fetch_add(1, Ordering::Relaxed);
                (
                    operands.queries_mma(&plan, list, query_tile),
                    operands.keys_mma(&plan, transposed, key_tile),
                )
            }
            None => {
                BACKWARD_PLAIN.fetch_add(1, Ordering::Relaxed);
                (
                    operands.queries_plain(&plan, list),
                    operands.keys_plain(&plan, transposed),
                )
            }
        };
        Some((dq, dk, dv))
    }
}

/// Inputs that both backward kernels share.
struct Operands<R: CubeRuntime> {
    q: CubeTensor<R>,
    k: CubeTensor<R>,
    v: CubeTensor<R>,
    d_out: CubeTensor<R>,
    lse: CubeTensor<R>,
    delta: CubeTensor<R>,
    scale: f32,
    address: AddressType,
}

/// Launches a kernel that makes gradients, with what all of them take, on a grid of cubes of this size.
macro_rules! launch {
    ($operands:expr, $kernel:ident($plan:expr, $list:expr, $grid:expr, $tile:expr) => $($out:expr),+) => {{
        let (cubes, dim) = $grid;
        $kernel::launch_unchecked::<R>(
            &$operands.q.client,
            cubes,
            dim,
            $operands.address,
            $operands.q.clone().into_tensor_arg(),
            $operands.k.clone().into_tensor_arg(),
            $operands.v.clone().into_tensor_arg(),
            $operands.d_out.clone().into_tensor_arg(),
            $operands.lse.clone().into_tensor_arg(),
            $operands.delta.clone().into_tensor_arg(),
            $list.indices.into_tensor_arg(),
            $list.counts.into_tensor_arg(),
            $list.key_valid.into_tensor_arg(),
            $($out.clone().into_tensor_arg(),)+
            $operands.scale,
            $list.block_q as u32,
            $list.block_k as u32,
            $tile,
            $plan.dtype,
        )
    }};
}

impl<R: CubeRuntime> Operands<R> {
    fn row_products(&self, out: CubeTensor<R>, plan: &Plan) {
        // SAFETY: rows past the end are skipped.
        unsafe {
            row_products::launch_unchecked::<R>(
                &self.q.client,
                plan.cubes(plan.queries, plan.queries, 16),
                CubeDim::new_2d(16, 16),
                self.address,
                out.into_tensor_arg(),
                self.d_out.clone().into_tensor_arg(),
                self.delta.clone().into_tensor_arg(),
                plan.head_dim,
                plan.dtype,
            );
        }
    }

    fn queries_mma(&self, plan: &Plan, list: List<R>, tile: BackwardTile) -> CubeTensor<R> {
        let dq = empty_like(&self.q);
        let cubes = plan.cubes(plan.queries, list.block_q, tile.rows());
        let grid = (cubes, CubeDim::new_1d(tile.units() as u32));
        // SAFETY: rows and blocks past the end are clamped or skipped, and every loop ends.
        unsafe { launch!(self, backward_queries_mma(plan, list, grid, tile) => dq) }
        dq
    }

    fn keys_mma(
        &self,
        plan: &Plan,
        list: List<R>,
        tile: BackwardTile,
    ) -> (CubeTensor<R>, CubeTensor<R>) {
        let (dk, dv) = (empty_like(&self.k), empty_like(&self.v));
        let cubes = plan.cubes(plan.keys, list.block_k, tile.rows());
        let grid = (cubes, CubeDim::new_1d(tile.units() as u32));
        // SAFETY: rows and blocks past the end are clamped or skipped, and every loop ends.
        unsafe { launch!(self, backward_keys_mma(plan, list, grid, tile) => dk, dv) }
        (dk, dv)
    }

    fn queries_plain(&self, plan: &Plan, list: List<R>) -> CubeTensor<R> {
        let dq = empty_like(&self.q);
        let tile = plan.plain_tile(list.sparse);
        let cubes = plan.cubes(plan.queries, list.block_q, tile.side);
        let grid = (cubes, CubeDim::new_2d(tile.side as u32, tile.side as u32));
        // SAFETY: rows and blocks past the end are skipped, and every loop ends.
        unsafe { launch!(self, backward_queries_plain(plan, list, grid, tile) => dq) }
        dq
    }

    fn keys_plain(&self, plan: &Plan, list: List<R>) -> (CubeTensor<R>, CubeTensor<R>) {
        let (dk, dv) = (empty_like(&self.k), empty_like(&self.v));
        let tile = plan.plain_tile(list.sparse);
        let cubes = plan.cubes(plan.keys, list.block_k, tile.side);
        let grid = (cubes, CubeDim::new_2d(tile.side as u32, tile.side as u32));
        // SAFETY: rows and blocks past the end are skipped, and every loop ends.
        unsafe { launch!(self, backward_keys_plain(plan, list, grid, tile) => dk, dv) }
        (dk, dv)
    }
}
