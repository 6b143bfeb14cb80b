//! Choosing, cutting and launching the kernels.

use std::sync::atomic::{AtomicU64, Ordering};

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, empty_device_dtype};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::features::{MmaConfig, TypeUsage};
use cubecl::ir::{ElemType, FloatKind, StorageType};
use cubecl::prelude::*;

use super::backward_mma::{BackwardTile, backward_keys_mma, backward_queries_mma};
use super::forward_mma::{ForwardTile, forward_mma};
use super::plain::{
    PlainTile, backward_keys_plain, backward_queries_plain, forward_plain, row_products,
};
use super::select::{UNITS, select_highest};

/// Most warps of a cube.
const MAX_WARPS: usize = 4;
/// Largest head size the kernels take.
const MAX_HEAD_DIM: usize = 256;

static FORWARD_MMA: AtomicU64 = AtomicU64::new(0);
static FORWARD_PLAIN: AtomicU64 = AtomicU64::new(0);
static BACKWARD_MMA: AtomicU64 = AtomicU64::new(0);
static BACKWARD_PLAIN: AtomicU64 = AtomicU64::new(0);
static SELECTION: AtomicU64 = AtomicU64::new(0);

/// How often each fused kernel was launched by this process; tests use it to tell a fused kernel
/// from the portable body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launches {
    /// Forward attention on tensor cores.
    pub forward_mma: u64,
    /// Forward attention without.
    pub forward_plain: u64,
    /// Backward attention on tensor cores.
    pub backward_mma: u64,
    /// Backward attention without.
    pub backward_plain: u64,
    /// Block selection.
    pub selection: u64,
}

/// The launches so far.
pub fn launches() -> Launches {
    Launches {
        forward_mma: FORWARD_MMA.load(Ordering::Relaxed),
        forward_plain: FORWARD_PLAIN.load(Ordering::Relaxed),
        backward_mma: BACKWARD_MMA.load(Ordering::Relaxed),
        backward_plain: BACKWARD_PLAIN.load(Ordering::Relaxed),
        selection: SELECTION.load(Ordering::Relaxed),
    }
}

/// A list of blocks as the kernels read it, or the absence of one.
pub(super) struct List<R: CubeRuntime> {
    /// `[B, H, M, K]`, i32.
    pub indices: CubeTensor<R>,
    /// `[B, H, M]`, i32.
    pub counts: CubeTensor<R>,
    /// `[Mk]`, i32.
    pub key_valid: CubeTensor<R>,
    /// Tokens per query block.
    pub block_q: usize,
    /// Tokens per key block.
    pub block_k: usize,
    /// Whether this is a list, rather than all keys.
    pub sparse: bool,
}

impl<R: CubeRuntime> Clone for List<R> {
    fn clone(&self) -> Self {
        Self {
            indices: self.indices.clone(),
            counts: self.counts.clone(),
            key_valid: self.key_valid.clone(),
            ..*self
        }
    }
}

impl<R: CubeRuntime> List<R> {
    /// Dense attention. The kernels do not read the tensors.
    pub fn dense(q: &CubeTensor<R>, k: &CubeTensor<R>) -> Self {
        let unread = empty_device_contiguous_dtype(
            q.client.clone(),
            q.device.clone(),
            Shape::from([1, 1, 1, 1]),
            DType::I32,
        );
        Self {
            indices: unread.clone(),
            counts: unread.clone(),
            key_valid: unread,
            block_q: q.meta.shape()[2],
            block_k: k.meta.shape()[2],
            sparse: false,
        }
    }
}

/// What the kernels need to know of a call.
struct Plan {
    dtype: StorageType,
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    head_dim: usize,
    /// Whether the tensor cores take this dtype, head size and scale.
    mma: bool,
    /// Elements of `dtype` in a cube's shared memory.
    shared_elements: usize,
}

/// `None` where no kernel takes these tensors.
fn plan<R: CubeRuntime>(q: &CubeTensor<R>, k: &CubeTensor<R>, scale: f64) -> Option<Plan> {
    let (q_shape, k_shape) = (q.meta.shape(), k.meta.shape());
    let [batch, heads, queries, head_dim] = q_shape.dims::<4>();
    let keys = k_shape[2];
    let storage: StorageType = match q.dtype {
        DType::F32 | DType::F16 | DType::BF16 => q.dtype.into(),
        _ => return None,
    };
    let properties = q.client.properties();
    let hardware = &properties.hardware;
    let usable = properties
        .features
        .types
        .storage
        .get(&storage)
        .is_some_and(|usage| {
            usage.contains(TypeUsage::Buffer) && usage.contains(TypeUsage::Conversion)
        });
    if !usable || head_dim == 0 || head_dim > MAX_HEAD_DIM || batch * heads * queries * keys == 0 {
        return None;
    }
    let config = MmaConfig {
        a_type: storage,
        b_type: storage,
        cd_type: ElemType::Float(FloatKind::F32).into(),
        m: 16,
        n: 8,
        k: 16,
    };
    let matmul = &properties.features.matmul;
    let mma = matmul.mma.contains(&config)
        && matmul.ldmatrix.contains(&storage)
        && properties.features.copy_async
        && (hardware.plane_size_min, hardware.plane_size_max) == (32, 32)
        && head_dim % 16 == 0
        && scale > 0.0;
    Some(Plan {
        dtype: storage,
        batch,
        heads,
        queries,
        keys,
        head_dim,
        mma,
        shared_elements: hardware.max_shared_memory_size / 2,
    })
}

impl Plan {
    /// Cubes for tiles of `rows` rows, cutting blocks of `block` rows.
    fn cubes(&self, tokens: usize, block: usize, rows: usize) -> CubeCount {
        let tiles = tokens.div_ceil(block) * block.div_ceil(rows);
        CubeCount::Static(tiles as u32, self.heads as u32, self.batch as u32)
    }

    /// The widest step, up to `most`, that cuts blocks of `block` tokens evenly.
    fn step(&self, most: usize, block: usize, sparse: bool) -> Option<usize> {
        [64, 32, 16]
            .into_iter()
            .find(|width| *width <= most && (!sparse || block % width == 0))
    }

    /// Warps of a cube, and 16-row tiles of each (at most `row_tiles`), for blocks of `block` rows.
    fn rows(block: usize, row_tiles: usize) -> (usize, usize) {
        let tiles = block.div_ceil(16).min(MAX_WARPS * row_tiles);
        let row_tiles = row_tiles.min(tiles);
        (tiles.div_ceil(row_tiles).next_power_of_two(), row_tiles)
    }

    fn forward_tile<R: CubeRuntime>(&self, list: &List<R>) -> Option<ForwardTile> {
        if !self.mma {
            return None;
        }
        // Scores and results of 32 rows by 128 columns fill the registers of a warp. Steps of 32
        // keys let two more cubes of 64 rows share a multiprocessor; 128 rows gain nothing by them.
        let large = self.head_dim > 128;
        let (warps, row_tiles) = Self::rows(list.block_q, if large { 1 } else { 2 });
        let most = if large || list.sparse { 32 } else { 64 };
        let tile = ForwardTile {
            head_dim: self.head_dim,
            warps,
            row_tiles,
            keys: self.step(most, list.block_k, list.sparse)?,
            sparse: list.sparse,
        };
        (tile.shared_elements() <= self.shared_elements).then_some(tile)
    }

    /// For blocks of `block` result rows, walking blocks of `walked` tokens in steps of at most
    /// `most`.
    fn backward_tile(
        &self,
        block: usize,
        row_tiles: usize,
        walked: usize,
        most: usize,
        sparse: bool,
    ) -> Option<BackwardTile> {
        if !self.mma || self.head_dim > 128 {
            return None;
        }
        let (warps, row_tiles) = Self::rows(block, row_tiles);
        let tile = BackwardTile {
            head_dim: self.head_dim,
            warps,
            row_tiles,
            width: self.step(most, walked, sparse)?.min(warps * 32),
            sparse,
        };
        // Beside the tiles there are two sets of two statistics per walked token, of 4 bytes.
        (tile.shared_elements() + 8 * tile.width <= self.shared_elements).then_some(tile)
    }

    fn plain_tile(&self, sparse: bool) -> PlainTile {
        PlainTile {
            head_dim: self.head_dim,
            side: if self.head_dim > 128 { 8 } else { 16 },
            sparse,
        }
    }
}

/// Whether 16-byte copies can read the rows: contiguous, and starting at multiples of 16 bytes.
fn readable_rows<R: CubeRuntime>(tensor: &CubeTensor<R>) -> bool {
    let strides = tensor.meta.strides();
    let elements = 16 / tensor.dtype.size();
    strides[3] == 1
        && strides[..3].iter().all(|stride| stride % elements == 0)
        && tensor.handle.offset_start.unwrap_or(0) % 16 == 0
}

fn with_readable_rows<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    if readable_rows(&tensor) {
        return tensor;
    }
    let tensor = into_contiguous(tensor);
    if readable_rows(&tensor) {
        tensor
    } else {
        tensor.copy()
    }
}

fn addresses<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> AddressType {
    tensors
        .iter()
        .map(|tensor| tensor.required_address_type())
        .max()
        .unwrap_or_default()
}

fn empty_like<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CubeTensor<R> {
    empty_device_contiguous_dtype(
        tensor.client.clone(),
        tensor.device.clone(),
        tensor.meta.shape().clone(),
        tensor.dtype,
    )
}

fn empty_rows<R: CubeRuntime>(q: &CubeTensor<R>, plan: &Plan) -> CubeTensor<R> {
    empty_device_contiguous_dtype(
        q.client.clone(),
        q.device.clone(),
        Shape::from([plan.batch, plan.heads, plan.queries]),
        DType::F32,
    )
}

/// Output and log-sum-exp, or `None` where no kernel takes these tensors.
pub(super) fn forward<R: CubeRuntime>(
    q: &CubeTensor<R>,
    k: &CubeTensor<R>,
    v: &CubeTensor<R>,
    list: &List<R>,
    scale: f64,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    let plan = plan(q, k, scale)?;
    let tile = plan.forward_tile(list);
    let [q, k, v] = [q, k, v].map(|tensor| {
        if tile.is_some() {
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
    let rows = tile.map_or(plan.plain_tile(false).side, |tile| tile.rows());
    let cubes = plan.cubes(plan.queries, list.block_q, rows);
    // SAFETY: rows and blocks past the end are clamped or skipped, and every loop ends.
    unsafe {
        if let Some(tile) = tile {
            FORWARD_MMA.fetch_add(1, Ordering::Relaxed);
            forward_mma::launch_unchecked::<R>(
                &client,
                cubes,
                CubeDim::new_1d(tile.units() as u32),
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
                tile,
                plan.dtype,
            );
        } else {
            FORWARD_PLAIN.fetch_add(1, Ordering::Relaxed);
            let tile = plan.plain_tile(list.sparse);
            forward_plain::launch_unchecked::<R>(
                &client,
                cubes,
                CubeDim::new_2d(tile.side as u32, tile.side as u32),
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
                tile,
                plan.dtype,
            );
        }
    }
    Some((out, lse))
}

/// Tensors of a backward pass.
pub(super) struct Backward<R: CubeRuntime> {
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
        // SAFETY: rows and blocks past the end are clamped or skipped, and every loop ends.
        unsafe {
            backward_queries_mma::launch_unchecked::<R>(
                &self.q.client,
                plan.cubes(plan.queries, list.block_q, tile.rows()),
                CubeDim::new_1d(tile.units() as u32),
                self.address,
                self.q.clone().into_tensor_arg(),
                self.k.clone().into_tensor_arg(),
                self.v.clone().into_tensor_arg(),
                self.d_out.clone().into_tensor_arg(),
                self.lse.clone().into_tensor_arg(),
                self.delta.clone().into_tensor_arg(),
                list.indices.into_tensor_arg(),
                list.counts.into_tensor_arg(),
                list.key_valid.into_tensor_arg(),
                dq.clone().into_tensor_arg(),
                self.scale,
                list.block_q as u32,
                list.block_k as u32,
                tile,
                plan.dtype,
            );
        }
        dq
    }

    fn keys_mma(
        &self,
        plan: &Plan,
        list: List<R>,
        tile: BackwardTile,
    ) -> (CubeTensor<R>, CubeTensor<R>) {
        let (dk, dv) = (empty_like(&self.k), empty_like(&self.v));
        // SAFETY: rows and blocks past the end are clamped or skipped, and every loop ends.
        unsafe {
            backward_keys_mma::launch_unchecked::<R>(
                &self.q.client,
                plan.cubes(plan.keys, list.block_k, tile.rows()),
                CubeDim::new_1d(tile.units() as u32),
                self.address,
                self.q.clone().into_tensor_arg(),
                self.k.clone().into_tensor_arg(),
                self.v.clone().into_tensor_arg(),
                self.d_out.clone().into_tensor_arg(),
                self.lse.clone().into_tensor_arg(),
                self.delta.clone().into_tensor_arg(),
                list.indices.into_tensor_arg(),
                list.counts.into_tensor_arg(),
                list.key_valid.into_tensor_arg(),
                dk.clone().into_tensor_arg(),
                dv.clone().into_tensor_arg(),
                self.scale,
                list.block_q as u32,
                list.block_k as u32,
                tile,
                plan.dtype,
            );
        }
        (dk, dv)
    }

    fn queries_plain(&self, plan: &Plan, list: List<R>) -> CubeTensor<R> {
        let dq = empty_like(&self.q);
        let tile = plan.plain_tile(list.sparse);
        // SAFETY: rows and blocks past the end are skipped, and every loop ends.
        unsafe {
            backward_queries_plain::launch_unchecked::<R>(
                &self.q.client,
                plan.cubes(plan.queries, list.block_q, tile.side),
                CubeDim::new_2d(tile.side as u32, tile.side as u32),
                self.address,
                self.q.clone().into_tensor_arg(),
                self.k.clone().into_tensor_arg(),
                self.v.clone().into_tensor_arg(),
                self.d_out.clone().into_tensor_arg(),
                self.lse.clone().into_tensor_arg(),
                self.delta.clone().into_tensor_arg(),
                list.indices.into_tensor_arg(),
                list.counts.into_tensor_arg(),
                list.key_valid.into_tensor_arg(),
                dq.clone().into_tensor_arg(),
                self.scale,
                list.block_q as u32,
                list.block_k as u32,
                tile,
                plan.dtype,
            );
        }
        dq
    }

    fn keys_plain(&self, plan: &Plan, list: List<R>) -> (CubeTensor<R>, CubeTensor<R>) {
        let (dk, dv) = (empty_like(&self.k), empty_like(&self.v));
        let tile = plan.plain_tile(list.sparse);
        // SAFETY: rows and blocks past the end are skipped, and every loop ends.
        unsafe {
            backward_keys_plain::launch_unchecked::<R>(
                &self.q.client,
                plan.cubes(plan.keys, list.block_k, tile.side),
                CubeDim::new_2d(tile.side as u32, tile.side as u32),
                self.address,
                self.q.clone().into_tensor_arg(),
                self.k.clone().into_tensor_arg(),
                self.v.clone().into_tensor_arg(),
                self.d_out.clone().into_tensor_arg(),
                self.lse.clone().into_tensor_arg(),
                self.delta.clone().into_tensor_arg(),
                list.indices.into_tensor_arg(),
                list.counts.into_tensor_arg(),
                list.key_valid.into_tensor_arg(),
                dk.clone().into_tensor_arg(),
                dv.clone().into_tensor_arg(),
                self.scale,
                list.block_q as u32,
                list.block_k as u32,
                tile,
                plan.dtype,
            );
        }
        (dk, dv)
    }
}

/// `(indices, counts)` of the `take` highest of each row of `scores`, as wide as `width`, or `None`
/// where the kernel does not take them.
pub(super) fn select<R: CubeRuntime>(
    scores: &CubeTensor<R>,
    take: usize,
    width: usize,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    let [batch, heads, rows, blocks] = scores.meta.shape().dims::<4>();
    let capacity = blocks.next_multiple_of(1024);
    let hardware = &scores.client.properties().hardware;
    let shared = (capacity + 2 * UNITS) * 4;
    if scores.dtype != DType::F32
        || shared > hardware.max_shared_memory_size
        || (hardware.max_units_per_cube as usize) < UNITS
        || batch * heads * rows * blocks == 0
    {
        return None;
    }
    let take = take.min(blocks);
    let empty = |shape: Shape| {
        empty_device_dtype(
            scores.client.clone(),
            scores.device.clone(),
            shape,
            DType::I32,
        )
    };
    let indices = empty(Shape::from([batch, heads, rows, width]));
    let counts = empty(Shape::from([batch, heads, rows]));
    SELECTION.fetch_add(1, Ordering::Relaxed);
    // SAFETY: rows shorter than a cube's share are skipped, and every loop ends.
    unsafe {
        select_highest::launch_unchecked::<R>(
            &scores.client,
            CubeCount::Static(rows as u32, heads as u32, batch as u32),
            CubeDim::new_1d(UNITS as u32),
            addresses(&[scores, &indices]),
            scores.clone().into_tensor_arg(),
            indices.clone().into_tensor_arg(),
            counts.clone().into_tensor_arg(),
            take as u32,
            capacity,
        );
    }
    Some((indices, counts))
}
