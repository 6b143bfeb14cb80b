//! Choosing, cutting and launching the kernels.

mod backward;
mod counters;
mod forward;
mod selection;

use std::sync::LazyLock;

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::features::{MmaConfig, Plane, TypeUsage};
use cubecl::ir::{ElemType, FloatKind, StorageType};
use cubecl::prelude::*;

use super::backward_mma::BackwardTile;
use super::forward_cooperative::CooperativeTile;
use super::forward_mma::ForwardTile;
use super::plain::{PlainTile, ROW_PRODUCT_UNITS};

pub(crate) use backward::Backward;
#[cfg(feature = "cuda")]
pub(crate) use counters::{
    BACKWARD_HOPPER, FORWARD_FP8, FORWARD_HOPPER, FP8_PRODUCTS, FP8_SCALED_AFTER,
};
pub use counters::{Launches, launches};
pub(super) use forward::forward;
pub(super) use selection::select;

/// Most warps of a cube.
const MAX_WARPS: usize = 4;
/// Largest head size the kernels take.
const MAX_HEAD_DIM: usize = 256;

/// Whether matrix instructions with a known layout may be used.
static MMA: LazyLock<bool> = LazyLock::new(|| std::env::var_os("LONGCAT_NO_MMA").is_none());
/// Whether cooperative matrices may be used.
static COOPERATIVE: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("LONGCAT_NO_COOPERATIVE").is_none());

/// A list of blocks as the kernels read it, or the absence of one.
pub(crate) struct List<R: CubeRuntime> {
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
    /// Whether cooperative matrices take them.
    cooperative: bool,
    /// Two-byte elements in a cube's shared memory.
    shared_elements: usize,
    /// Side of the plain tiles.
    side: usize,
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
    let side = [16, 8].into_iter().find(|&side| {
        let tile = PlainTile {
            head_dim,
            side,
            sparse: true,
        };
        tile.shared_bytes() <= hardware.max_shared_memory_size
    })?;
    if (hardware.max_units_per_cube as usize) < ROW_PRODUCT_UNITS {
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
    let planes_of_32 = (hardware.plane_size_min, hardware.plane_size_max) == (32, 32);
    let matmul = &properties.features.matmul;
    // In C++ matrices are not loaded from memory of another type.
    let cooperative = *COOPERATIVE
        && matmul.mma.is_empty()
        && matmul.cmma.contains(&MmaConfig { n: 16, ..config })
        && properties.features.plane.contains(Plane::Ops)
        && planes_of_32
        && head_dim % 16 == 0
        && head_dim <= 128
        && scale > 0.0;
    let mma = *MMA
        && matmul.mma.contains(&config)
        && matmul.ldmatrix.contains(&storage)
        && properties.features.copy_async
        && planes_of_32
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
        cooperative,
        shared_elements: hardware.max_shared_memory_size / 2,
        side,
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
            .find(|width| *width <= most && (!sparse || block.is_multiple_of(*width)))
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

    /// Of four planes, which fill a multiprocessor with three cubes of 32 KB.
    fn cooperative_tile<R: CubeRuntime>(&self, list: &List<R>) -> Option<CooperativeTile> {
        if !self.cooperative || self.mma {
            return None;
        }
        let tile = CooperativeTile {
            head_dim: self.head_dim,
            planes: 4,
            keys: 32,
            sparse: list.sparse,
        };
        let fits = tile.shared_bytes() <= self.shared_elements * 2;
        let even = !list.sparse || list.block_k.is_multiple_of(tile.keys);
        (fits && even).then_some(tile)
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
            side: self.side,
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
        && tensor.handle.offset_start.unwrap_or(0).is_multiple_of(16)
}

pub(crate) fn with_readable_rows<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
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
