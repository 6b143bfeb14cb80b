//! Linear layers on devices of which no more is known than Vulkan tells, the product's kernel chosen among few.
//!
//! Burn tunes a product among fourteen kernels for matrix units, each of which is compiled and run thirteen
//! times, one after another. Half of them are for instructions that Vulkan does not have. Products of f32 fall to
//! four kernels without, which are unrolled to as many as 18,000 lines of SPIR-V: drivers compile them for longer
//! than they take in a whole video, so that one is taken untried, and none of them for the few rows of a modulation
//! or for little matrices.

mod cooperative;

use std::sync::LazyLock;

use burn::tensor::DType;
use burn_backend::Shape;
use burn_backend::ops::FloatTensorOps;
use burn_cubecl::kernel::matmul::{init_matmul_output, matmul_autotune};
use burn_cubecl::ops::numeric::add;
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, CubeTuneId, FloatElement, IntElement, tensor::CubeTensor,
};
use cubecl::ir::StorageType;
use cubecl::tune::{LocalTuner, Tunable, TunableSet, TuneGroup, local_tuner};
use cubek::matmul::components::tile::TileMatmulKind;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{MatmulAutotuneKey, Strategy, launch_ref};
use cubek::matmul::routines::simple::SimpleArgs;
use cubek::matmul::routines::simple_unit::SimpleUnitSelectionArgs;
use cubek::matmul::routines::{BlueprintStrategy, TileSizeSelection};
use cubek::std::InputBinding;

use super::cooperative::config;
use cooperative::ProductTile;

/// Rows, columns or inner dimension below which kernels of other kinds may be better.
const LEAST: usize = 64;
/// Rows up to which a product in f32 takes the kernel that is compiled the quickest: those of timesteps and
/// modulations.
const MOST_FEW_ROWS: usize = 64;
/// Multiplications up to which a product takes that kernel whatever its type: a slow device takes a millisecond.
const MOST_LITTLE_WORK: usize = 1 << 24;

/// Whether Burn's choice among all kernels is not asked for.
static FEW: LazyLock<bool> = LazyLock::new(|| std::env::var_os("LONGCAT_TUNE_ALL").is_none());

/// The one candidate that is asked for, whatever its time: its name, or six numbers that say how ours is cut.
static ASKED: LazyLock<Option<Candidate>> = LazyLock::new(|| {
    let asked = std::env::var("LONGCAT_PRODUCT").ok()?;
    let cut: Vec<usize> = asked.split(',').map_while(|n| n.parse().ok()).collect();
    if let [down, across, rows, columns, depth, stages] = cut[..] {
        let tile = ProductTile {
            planes: (down, across),
            matrices: (rows, columns),
            depth,
            stages,
        };
        return Some(Candidate::Own("own", tile));
    }
    let mut known = candidates().into_iter();
    let found = known.find(|candidate| candidate.name() == asked);
    assert!(
        found.is_some(),
        "LONGCAT_PRODUCT is {asked:?}, which is neither six numbers nor one of {:?}",
        candidates().map(|candidate| candidate.name())
    );
    found
});

type Cube<R, F, I, BT> = CubeBackend<R, F, I, BT>;
/// `x` `[M, K]`, the weight as `[K, N]`, and the bias as `[1, N]`.
type Operands<R> = (CubeTensor<R>, CubeTensor<R>, Option<CubeTensor<R>>);

/// `x · weightᵀ + bias`; `None` where Burn is to choose the kernel.
pub(super) fn try_linear<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    bias: Option<&CubeTensor<R>>,
) -> Option<CubeTensor<R>> {
    let mut shape = x.meta.shape().clone();
    let inner = *shape.last()?;
    let rows = shape.num_elements() / inner.max(1);
    let columns = weight.meta.shape()[0];
    let least = rows.min(columns).min(inner);
    if least == 0 {
        return None;
    }
    let storage = chosen_here(x)?;
    let matmul = &x.client.properties().features.matmul;
    let by_matrices = matmul.cmma.iter().any(|of| of.a_type == storage);
    let untried = match x.dtype {
        _ if is_little(&[rows, columns, inner]) => Some(Strategy::Naive),
        DType::F32 if rows <= MOST_FEW_ROWS => Some(Strategy::Naive),
        DType::F32 if by_matrices => return None,
        DType::F32 => Some(without_matrices()),
        _ => None,
    };
    let for_matrices = matmul.cmma.contains(&config(storage));
    if untried.is_none() && !(for_matrices && least >= LEAST && inner.is_multiple_of(16)) {
        return None;
    }
    let rows = Cube::<R, F, I, BT>::float_reshape(x.clone(), Shape::new([rows, inner]));
    let columns_of = Cube::<R, F, I, BT>::float_swap_dims(weight.clone(), 0, 1);
    let bias =
        bias.map(|bias| Cube::<R, F, I, BT>::float_reshape(bias.clone(), Shape::new([1, columns])));
    let operands = (rows, columns_of, bias);
    let y = match untried {
        Some(strategy) => by_strategy(&strategy, operands).ok()?,
        None => product(operands),
    };
    let last = shape.num_dims() - 1;
    shape[last] = columns;
    Some(Cube::<R, F, I, BT>::float_reshape(y, shape))
}

/// `a · bᵀ` of little matrices `[B, H, M, K]` and `[B, H, N, K]`; `None` where Burn is to choose the kernel.
pub(super) fn try_matmul_nt<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement>(
    a: &CubeTensor<R>,
    b: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    chosen_here(a)?;
    if !is_little(&[a.meta.shape().num_elements(), b.meta.shape()[2]]) {
        return None;
    }
    let b = Cube::<R, F, I, BT>::float_swap_dims(b.clone(), 2, 3);
    by_strategy(&Strategy::Naive, (a.clone(), b, None)).ok()
}

/// What `x` is stored as, if kernels of its products are chosen here.
fn chosen_here<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<StorageType> {
    if !*FEW || !x.client.properties().features.matmul.mma.is_empty() {
        return None;
    }
    match x.dtype {
        DType::F16 | DType::BF16 | DType::F32 => Some(x.dtype.into()),
        _ => None,
    }
}

/// Whether so few multiplications, at least one, are fewer than it pays to compile a kernel for.
fn is_little(sizes: &[usize]) -> bool {
    let work = sizes.iter().fold(1, |all: usize, n| all.saturating_mul(*n));
    (1..=MOST_LITTLE_WORK).contains(&work)
}

/// A kernel that may serve.
#[derive(Clone, Copy)]
enum Candidate {
    /// Our own, cut like this.
    Own(&'static str, ProductTile),
    /// The quickest of Burn's on an H200.
    Burn,
}

impl Candidate {
    fn name(&self) -> String {
        match self {
            Self::Own(name, _) => (*name).to_owned(),
            Self::Burn => simple().to_string(),
        }
    }

    /// The product; an error where the kernel does not take the matrices.
    fn run<R: CubeRuntime>(&self, operands: Operands<R>) -> Result<CubeTensor<R>, String> {
        let tile = match self {
            Self::Own(_, tile) => *tile,
            Self::Burn => return by_strategy(&simple(), operands),
        };
        let (x, weight, bias) = &operands;
        match cooperative::product(tile, x, weight, bias.as_ref()) {
            Some(y) => Ok(y),
            // Choices are kept for sizes that are alike, some of which it may not take.
            None => by_strategy(&simple(), operands),
        }
    }
}

/// What is tried: cuts of 128×128 numbers that were right on an H200, the quickest first, and Burn's for what ours
/// does not take.
fn candidates() -> [Candidate; 4] {
    let own = |name, planes, matrices, stages| {
        let tile = ProductTile {
            planes,
            matrices,
            depth: 32,
            stages,
        };
        Candidate::Own(name, tile)
    };
    [
        own("own_8_planes", (4, 2), (2, 4), 1),
        own("own_4_planes", (2, 2), (4, 4), 1),
        own("own_4_planes_2_stages", (2, 2), (4, 4), 2),
        Candidate::Burn,
    ]
}

/// The quickest of Burn's in f32 on an H200.
fn without_matrices() -> Strategy {
    Strategy::SimpleUnit(BlueprintStrategy::Inferred(SimpleUnitSelectionArgs {
        tile_size: TileSizeSelection::MaxTileSize,
    }))
}

fn simple() -> Strategy {
    Strategy::SimpleCyclicCmma(BlueprintStrategy::Inferred(SimpleArgs {
        multi_rows: false,
        tile_matmul: TileMatmulKind::Cmma,
    }))
}

/// The product by the quickest candidate, or by the one that is asked for.
fn product<R: CubeRuntime>(operands: Operands<R>) -> CubeTensor<R> {
    static TUNER: LocalTuner<MatmulAutotuneKey, CubeTuneId> = local_tuner!("longcat");
    if let Some(asked) = &*ASKED
        && let Ok(y) = asked.run(operands.clone())
    {
        return y;
    }
    let tunables = TUNER.init(|| {
        let few = TuneGroup::<MatmulAutotuneKey>::new("few", |_| 1);
        let rest = TuneGroup::<MatmulAutotuneKey>::new("rest", |_| 0);
        let burn = Tunable::new("burn", |(lhs, rhs, bias): Operands<R>| {
            let dtype = lhs.dtype;
            let y = matmul_autotune::<R>(lhs, rhs, None, dtype);
            Ok::<_, String>(with_bias(y, bias))
        });
        let set = TunableSet::<MatmulAutotuneKey, Operands<R>, CubeTensor<R>>::new_cloning_inputs(
            key::<R>,
        )
        .with(burn.group(&rest, |_| 0));
        candidates().into_iter().fold(set, |set, candidate| {
            let tunable = Tunable::new(&candidate.name(), move |operands: Operands<R>| {
                candidate.run(operands)
            });
            set.with(tunable.group(&few, |_| 0))
        })
    });
    let client = operands.0.client.clone();
    let id = CubeTuneId::new(&client, &operands.0.device);
    TUNER.execute(&id, &client, tunables, operands)
}

/// The product by one of Burn's kernels; an error where it does not take the matrices.
fn by_strategy<R: CubeRuntime>(
    strategy: &Strategy,
    (lhs, rhs, bias): Operands<R>,
) -> Result<CubeTensor<R>, String> {
    let storage: StorageType = lhs.dtype.into();
    let client = lhs.client.clone();
    let out = init_matmul_output(&lhs, &rhs, lhs.dtype);
    let mut types = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: storage,
        rhs: storage,
        out: storage,
    });
    let [lhs, rhs] = [lhs, rhs].map(|x| InputBinding::new(x.binding(), storage));
    launch_ref(
        strategy,
        &client,
        lhs,
        rhs,
        out.clone().binding(),
        &mut types,
    )
    .map_err(|err| format!("{err:?}"))?;
    Ok(with_bias(out, bias))
}

fn with_bias<R: CubeRuntime>(y: CubeTensor<R>, bias: Option<CubeTensor<R>>) -> CubeTensor<R> {
    match bias {
        Some(bias) => add(y, bias),
        None => y,
    }
}

fn key<R: CubeRuntime>((lhs, rhs, _): &Operands<R>) -> MatmulAutotuneKey {
    MatmulAutotuneKey::generate(
        &lhs.client,
        lhs.meta.shape(),
        rhs.meta.shape(),
        lhs.meta.strides(),
        rhs.meta.strides(),
        lhs.dtype.into(),
        rhs.dtype.into(),
        lhs.dtype.into(),
        None,
        None,
    )
}
