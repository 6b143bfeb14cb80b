//! A product of two matrices of two-byte floats by cooperative matrices.
//!
//! Drivers load matrices from shared memory as it lies there, so that rows are spread over the banks by eight
//! numbers more in each; a plane has many matrices of sums, for which every operand that it loads serves several
//! times; and the next step's numbers are on their way while this one's are multiplied.

use burn_backend::Shape;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::ir::AddressType;
use cubecl::prelude::*;

use crate::cube::cooperative::{SIDE, left, right_of_rows, zeros};
use crate::cube::launch::like;

/// Eight two-byte numbers, which are copied at once. Matrices are loaded from memory of this type too: what a
/// driver knows of its alignment lets it take wide loads.
type Words = Vector<u32, Const<4>>;
/// Four values that are written at once.
type Quad<E> = Vector<E, Const<4>>;

/// Two-byte numbers in `Words`.
const WORD: usize = 8;
/// Floats between two rows of a matrix of sums on its way out.
const SUM_PITCH: usize = SIDE + 4;
/// Most rows of tiles whose cubes run one after another, so that what they read is in the cache.
const BAND: usize = 8;

/// How the kernel is cut. Planes have 32 units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProductTile {
    /// Planes along rows and along columns of the result.
    pub planes: (usize, usize),
    /// Matrices of a plane along rows and along columns.
    pub matrices: (usize, usize),
    /// Inner numbers of a step, a multiple of 16.
    pub depth: usize,
    /// Steps that shared memory holds, 1 or 2.
    pub stages: usize,
}

impl ProductTile {
    /// Rows of the result that a cube writes.
    pub const fn rows(&self) -> usize {
        self.planes.0 * self.matrices.0 * SIDE
    }
    /// Columns of the result that a cube writes.
    pub const fn columns(&self) -> usize {
        self.planes.1 * self.matrices.1 * SIDE
    }
    /// Units of a cube.
    pub const fn units(&self) -> usize {
        self.planes.0 * self.planes.1 * 32
    }
    /// `Words` of a row in a step.
    const fn chunks(&self) -> usize {
        self.depth / WORD
    }
    /// `Words` between two rows in shared memory; odd, so that eight rows start in different banks.
    const fn pitch(&self) -> usize {
        self.chunks() + 1
    }
    /// `Words` of a step in shared memory.
    const fn stage_words(&self) -> usize {
        (self.rows() + self.columns()) * self.pitch()
    }
    /// Floats through which sums leave, of all planes.
    const fn sums(&self) -> usize {
        self.planes.0 * self.planes.1 * SIDE * SUM_PITCH
    }
    /// Whether the kernel can be cut so: every unit copies as many words as the others.
    fn is_whole(&self) -> bool {
        let matrices = self.matrices.0 * self.matrices.1;
        let units = self.units();
        let even = |rows: usize| (rows * self.chunks()).is_multiple_of(units);
        units > 0
            && matrices > 0
            && self.depth > 0
            && self.depth.is_multiple_of(SIDE)
            && [1, 2].contains(&self.stages)
            && even(self.rows())
            && even(self.columns())
    }
    /// Bytes of shared memory.
    const fn shared_bytes(&self) -> usize {
        16 * self.stages * self.stage_words() + 4 * self.sums()
    }
}

/// `x · weightᵀ + bias` for `x` `[M, K]` and `columns_of` `[K, N]`, the view of a weight `[N, K]`, on a device that
/// has the matrices; `None` where strides, sizes or the device do not suit the kernel.
pub(super) fn product<R: CubeRuntime>(
    tile: ProductTile,
    x: &CubeTensor<R>,
    columns_of: &CubeTensor<R>,
    bias: Option<&CubeTensor<R>>,
) -> Option<CubeTensor<R>> {
    let [rows, inner] = x.meta.shape().dims::<2>();
    let columns = columns_of.meta.shape()[1];
    if !tile.is_whole() {
        return None;
    }
    let hardware = &x.client.properties().hardware;
    let fits = (hardware.plane_size_min, hardware.plane_size_max) == (32, 32)
        && tile.units() <= hardware.max_units_per_cube as usize
        && tile.shared_bytes() <= hardware.max_shared_memory_size;
    let aligned =
        |tensor: &CubeTensor<R>| tensor.handle.offset_start.unwrap_or(0).is_multiple_of(16);
    // A dimension of one row or column may have any stride; there is none of so few.
    let rows_follow = x.meta.strides()[..] == [inner, 1]
        && columns_of.meta.strides()[..] == [1, inner]
        && bias.is_none_or(|bias| bias.meta.strides().last() == Some(&1) && aligned(bias));
    let whole = inner.is_multiple_of(tile.depth) && columns.is_multiple_of(WORD);
    if !fits || !rows_follow || !whole || !aligned(x) || !aligned(columns_of) || rows == 0 {
        return None;
    }
    let row_tiles = rows.div_ceil(tile.rows());
    let column_tiles = columns.div_ceil(tile.columns());
    let bands = row_tiles.div_ceil(BAND);
    let band = row_tiles.div_ceil(bands);
    let out = like(x, Shape::new([rows, columns]));
    let added = match bias {
        Some(bias) => bias.clone(),
        // Not read.
        None => like(x, Shape::new([WORD])),
    };
    let longest = [x, columns_of, &out].map(|tensor| tensor.meta.num_elements());
    let address = AddressType::from_len(longest.into_iter().max().unwrap_or(0));
    // SAFETY: rows and columns past the end are clamped when they are read and not written, the inner dimension
    // is whole steps, and every loop ends.
    unsafe {
        multiply::launch_unchecked::<R>(
            &x.client,
            CubeCount::Static((column_tiles * band) as u32, bands as u32, 1),
            CubeDim::new_1d(tile.units() as u32),
            address,
            x.clone().into_array_arg(),
            columns_of.clone().into_array_arg(),
            added.into_array_arg(),
            out.clone().into_array_arg(),
            rows as u32,
            columns as u32,
            inner as u32,
            band as u32,
            tile,
            bias.is_some(),
            x.dtype.into(),
        );
    }
    Some(out)
}

/// A cube writes `tile.rows()` by `tile.columns()` numbers of the result. Cube `y` is a band of `band` rows of
/// tiles, `x` the tile in it, row by row of the first column of tiles, then of the second.
#[cube(launch_unchecked, address_type = "dynamic")]
fn multiply<E: Float>(
    x: &Array<Words>,
    weight: &Array<Words>,
    bias: &Array<Quad<E>>,
    out: &mut Array<Quad<E>>,
    rows: u32,
    columns: u32,
    inner: u32,
    band: u32,
    #[comptime] tile: ProductTile,
    #[comptime] with_bias: bool,
    #[define(E)] _dtype: StorageType,
) {
    let tile_rows = comptime!(tile.rows());
    let tile_columns = comptime!(tile.columns());
    let units = comptime!(tile.units());
    let chunks = comptime!(tile.chunks());
    let pitch = comptime!(tile.pitch() as u32);
    // As cubecl counts them: in numbers of the type that memory has.
    let word_pitch = comptime!((4 * tile.pitch()) as u32);
    let weight_start = comptime!((tile.rows() * tile.pitch()) as u32);
    let stage_words = comptime!(tile.stage_words() as u32);
    let down = comptime!(tile.matrices.0);
    let across = comptime!(tile.matrices.1);

    let first_row = (CUBE_POS_Y * band + CUBE_POS_X % band) * comptime!(tile.rows() as u32);
    let first_column = CUBE_POS_X / band * comptime!(tile.columns() as u32);
    if first_row >= rows {
        terminate!();
    }
    let lane = UNIT_POS_PLANE;
    let plane = UNIT_POS / 32;
    let plane_row =
        plane / comptime!(tile.planes.1 as u32) * comptime!((tile.matrices.0 * SIDE) as u32);
    let plane_column =
        plane % comptime!(tile.planes.1 as u32) * comptime!((tile.matrices.1 * SIDE) as u32);
    let row_words = inner / comptime!(WORD as u32);
    let last_row = rows - 1;
    let last_column = columns - 1;

    let mut shared =
        SharedMemory::<Words>::new_aligned(comptime!(tile.stages * tile.stage_words()), 32usize);
    let mut sums = SharedMemory::<f32>::new_aligned(comptime!(tile.sums()), 32usize);

    let x_first = fetch(
        x, first_row, last_row, row_words, 0u32, tile_rows, chunks, units,
    );
    let weight_first = fetch(
        weight,
        first_column,
        last_column,
        row_words,
        0u32,
        tile_columns,
        chunks,
        units,
    );
    put(&x_first, &mut shared, 0u32, tile_rows, chunks, units);
    put(
        &weight_first,
        &mut shared,
        weight_start,
        tile_columns,
        chunks,
        units,
    );
    sync_cube();

    let mut acc = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(tile.matrices.0 * tile.matrices.1) {
        acc.push(zeros());
    }
    let steps = inner / comptime!(tile.depth as u32);
    for step in 0..steps {
        // After the last step the last is read again, and not used.
        let next = (step + 1).min(steps - 1) * comptime!(tile.chunks() as u32);
        let x_next = fetch(
            x, first_row, last_row, row_words, next, tile_rows, chunks, units,
        );
        let weight_next = fetch(
            weight,
            first_column,
            last_column,
            row_words,
            next,
            tile_columns,
            chunks,
            units,
        );
        let stage = step % comptime!(tile.stages as u32) * stage_words;
        let x_at = stage + plane_row * pitch;
        let weight_at = stage + weight_start + plane_column * pitch;
        #[unroll]
        for depth in 0..comptime!(tile.depth / SIDE) {
            let mut lefts = Sequence::<cmma::Matrix<E>>::new();
            #[unroll]
            for i in 0..down {
                let operand = left::<E>();
                let at = x_at + comptime!((i * SIDE * tile.pitch() + depth * SIDE / WORD) as u32);
                let at = at as usize;
                cmma::load::<E, Words>(&operand, &shared.slice(at, at + 2), word_pitch);
                lefts.push(operand);
            }
            #[unroll]
            for j in 0..across {
                let operand = right_of_rows::<E>();
                let at =
                    weight_at + comptime!((j * SIDE * tile.pitch() + depth * SIDE / WORD) as u32);
                let at = at as usize;
                cmma::load::<E, Words>(&operand, &shared.slice(at, at + 2), word_pitch);
                #[unroll]
                for i in 0..down {
                    cmma::execute::<E, E, f32, f32>(
                        lefts.index(i),
                        &operand,
                        acc.index(comptime!(i * tile.matrices.1 + j)),
                        acc.index(comptime!(i * tile.matrices.1 + j)),
                    );
                }
            }
        }
        if comptime!(tile.stages == 1) {
            sync_cube();
        }
        let to = (step + 1) % comptime!(tile.stages as u32) * stage_words;
        put(&x_next, &mut shared, to, tile_rows, chunks, units);
        put(
            &weight_next,
            &mut shared,
            to + weight_start,
            tile_columns,
            chunks,
            units,
        );
        sync_cube();
    }

    let sums_start = plane * comptime!((SIDE * SUM_PITCH) as u32);
    let row_quads = columns / 4;
    #[unroll]
    for i in 0..down {
        #[unroll]
        for j in 0..across {
            let at = sums_start as usize;
            cmma::store::<f32, f32>(
                &mut sums.slice_mut(at, at + 16),
                acc.index(comptime!(i * tile.matrices.1 + j)),
                comptime!(SUM_PITCH as u32),
                cmma::MatrixLayout::RowMajor,
            );
            sync_cube();
            let row = first_row + plane_row + comptime!((i * SIDE) as u32) + lane / 2;
            let column = first_column + plane_column + comptime!((j * SIDE) as u32) + lane % 2 * 8;
            if row < rows && column < columns {
                let from = sums_start + lane / 2 * comptime!(SUM_PITCH as u32) + lane % 2 * 8;
                #[unroll]
                for half in 0..2usize {
                    let from = (from + comptime!((half * 4) as u32)) as usize;
                    let mut quad = Quad::<f32>::new(0.0);
                    #[unroll]
                    for n in 0..4usize {
                        quad[n] = sums[from + n];
                    }
                    let quad_column = column / 4 + comptime!(half as u32);
                    if comptime!(with_bias) {
                        quad += Quad::<f32>::cast_from(bias[quad_column as usize]);
                    }
                    out[(row * row_quads + quad_column) as usize] = Quad::<E>::cast_from(quad);
                }
            }
            sync_cube();
        }
    }
}

/// Reads `rows` rows of `chunks` words from word `column` of a row on; row `i` is `first + i`, or `last` where that
/// lies beyond it. A unit has a word of every `units`.
#[cube]
fn fetch(
    source: &Array<Words>,
    first: u32,
    last: u32,
    row_words: u32,
    column: u32,
    #[comptime] rows: usize,
    #[comptime] chunks: usize,
    #[comptime] units: usize,
) -> Sequence<Words> {
    let mut words = Sequence::<Words>::new();
    #[unroll]
    for pass in 0..comptime!(rows * chunks / units) {
        let word = UNIT_POS + comptime!((pass * units) as u32);
        let row = (first + word / comptime!(chunks as u32)).min(last);
        let at = row * row_words + column + word % comptime!(chunks as u32);
        words.push(source[at as usize]);
    }
    words
}

/// Writes what [`fetch`] read into shared memory, from word `start` on.
#[cube]
fn put(
    words: &Sequence<Words>,
    target: &mut SharedMemory<Words>,
    start: u32,
    #[comptime] rows: usize,
    #[comptime] chunks: usize,
    #[comptime] units: usize,
) {
    #[unroll]
    for pass in 0..comptime!(rows * chunks / units) {
        let word = UNIT_POS + comptime!((pass * units) as u32);
        let row = word / comptime!(chunks as u32);
        let to = start + row * comptime!((chunks + 1) as u32) + word % comptime!(chunks as u32);
        target[to as usize] = words[pass];
    }
}
