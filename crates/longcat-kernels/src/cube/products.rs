//! Linear layers on devices of which no more is known than Vulkan tells, the product's kernel chosen among few.
//!
//! Burn tunes a product among fourteen kernels for matrix units, each of which is compiled and run thirteen
//! times, one after another. Half of them are for instructions that Vulkan does not have. Products of f32 fall to
//! four kernels without, which are unrolled to as many as 18,000 lines of SPIR-V: drivers compile them longer
//! than the few rows of a modulation take in a whole video.

use std::sync::LazyLock;

use burn::tensor::{DType, Tensor, TensorPrimitive};
use burn_backend::Shape;
use burn_backend::ops::FloatTensorOps;
use burn_cubecl::kernel::matmul::{init_matmul_output, matmul_autotune};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, CubeTuneId, FloatElement, IntElement, tensor::CubeTensor,
};
use cubecl::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind, StorageType};
use cubecl::tune::{LocalTuner, Tunable, TunableSet, TuneGroup, local_tuner};
use cubek::matmul::components::tile::TileMatmulKind;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{MatmulAutotuneKey, Strategy, launch_ref};
use cubek::matmul::routines::BlueprintStrategy;
use cubek::matmul::routines::double_buffering::DoubleBufferingArgs;
use cubek::matmul::routines::ordered_double_buffering::OrderedSelectionArgs;
use cubek::matmul::routines::simple::SimpleArgs;
use cubek::std::InputBinding;

/// Rows, columns or inner dimension below which kernels of other kinds may be better.
const LEAST: usize = 64;
/// Rows up to which a product in f32 takes the kernel that is compiled the quickest: those of timesteps and
/// modulations.
const MOST_FEW_ROWS: usize = 64;

/// Whether Burn's choice among all kernels is not asked for.
static FEW: LazyLock<bool> = LazyLock::new(|| std::env::var_os("LONGCAT_TUNE_ALL").is_none());

type Cube<R, F, I, BT> = CubeBackend<R, F, I, BT>;
type Operands<R> = (CubeTensor<R>, CubeTensor<R>, CubeTensor<R>);

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
    let few_rows = x.dtype == DType::F32 && rows <= MOST_FEW_ROWS && least > 0;
    if !*FEW || !x.client.properties().features.matmul.mma.is_empty() {
        return None;
    }
    let for_matrices = least >= LEAST && inner.is_multiple_of(16) && has_matrices(x);
    if !few_rows && !for_matrices {
        return None;
    }
    let rows = Cube::<R, F, I, BT>::float_reshape(x.clone(), Shape::new([rows, inner]));
    let columns_of = Cube::<R, F, I, BT>::float_swap_dims(weight.clone(), 0, 1);
    let y = match few_rows {
        true => product_of_few_rows(rows, columns_of)?,
        false => product(rows, columns_of),
    };
    let mut y = Tensor::<Cube<R, F, I, BT>, 2>::from_primitive(TensorPrimitive::Float(y));
    if let Some(bias) = bias {
        let bias =
            Tensor::<Cube<R, F, I, BT>, 1>::from_primitive(TensorPrimitive::Float(bias.clone()));
        y = y + bias.unsqueeze();
    }
    let last = shape.num_dims() - 1;
    shape[last] = columns;
    let y = y.into_primitive().tensor();
    Some(Cube::<R, F, I, BT>::float_reshape(y, shape))
}

/// Whether these are two-byte floats on a device that has cooperative matrices for them.
fn has_matrices<R: CubeRuntime>(x: &CubeTensor<R>) -> bool {
    let storage: StorageType = match x.dtype {
        DType::F16 | DType::BF16 => x.dtype.into(),
        _ => return false,
    };
    let config = MmaConfig {
        a_type: storage,
        b_type: storage,
        cd_type: ElemType::Float(FloatKind::F32).into(),
        m: 16,
        n: 16,
        k: 16,
    };
    x.client.properties().features.matmul.cmma.contains(&config)
}

/// `lhs · rhs` by the kernel that is compiled the quickest, a unit for each number; `None` where it does not take
/// the matrices.
fn product_of_few_rows<R: CubeRuntime>(
    lhs: CubeTensor<R>,
    rhs: CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let out = init_matmul_output(&lhs, &rhs, lhs.dtype);
    launch(&Strategy::Naive, lhs, rhs, out.clone()).ok()?;
    Some(out)
}

/// `lhs · rhs` of two matrices.
fn product<R: CubeRuntime>(lhs: CubeTensor<R>, rhs: CubeTensor<R>) -> CubeTensor<R> {
    static TUNER: LocalTuner<MatmulAutotuneKey, CubeTuneId> = local_tuner!("longcat");
    let tunables = TUNER.init(|| {
        let few = TuneGroup::<MatmulAutotuneKey>::new("few", |_| 1);
        let rest = TuneGroup::<MatmulAutotuneKey>::new("rest", |_| 0);
        let burn = Tunable::new("burn", |(lhs, rhs, out): Operands<R>| {
            let dtype = out.dtype;
            matmul_autotune::<R>(lhs, rhs, Some(out), dtype);
            Ok::<(), String>(())
        });
        let set = TunableSet::new(key::<R>, operands::<R>).with(burn.group(&rest, |_| 0));
        candidates().into_iter().fold(set, |set, strategy| {
            let name = strategy.to_string();
            let tunable = Tunable::new(&name, move |(lhs, rhs, out): Operands<R>| {
                launch(&strategy, lhs, rhs, out)
            });
            set.with(tunable.group(&few, |_| 0))
        })
    });
    let out = init_matmul_output(&lhs, &rhs, lhs.dtype);
    let client = lhs.client.clone();
    let id = CubeTuneId::new(&client, &lhs.device);
    TUNER.execute(&id, &client, tunables, (lhs, rhs, out.clone()));
    out
}

/// What is tried: the three quickest of Burn's six on an H200 for 256 rows of 4096 numbers.
fn candidates() -> [Strategy; 3] {
    let tile_matmul = TileMatmulKind::Cmma;
    [
        Strategy::SimpleCyclicCmma(BlueprintStrategy::Inferred(SimpleArgs {
            multi_rows: false,
            tile_matmul,
        })),
        Strategy::DoubleCyclicCmma(BlueprintStrategy::Inferred(DoubleBufferingArgs {
            specialized: true,
            tile_matmul,
        })),
        Strategy::OrderedDoubleCmma(BlueprintStrategy::Inferred(OrderedSelectionArgs {
            partition_k: Some(2),
            row_count: Some(8),
            rows_per_plane: Some(2),
            tile_matmul,
        })),
    ]
}

fn launch<R: CubeRuntime>(
    strategy: &Strategy,
    lhs: CubeTensor<R>,
    rhs: CubeTensor<R>,
    out: CubeTensor<R>,
) -> Result<(), String> {
    let storage: StorageType = out.dtype.into();
    let client = out.client.clone();
    let mut types = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: storage,
        rhs: storage,
        out: storage,
    });
    let [lhs, rhs] = [lhs, rhs].map(|x| InputBinding::new(x.binding(), storage));
    launch_ref(strategy, &client, lhs, rhs, out.binding(), &mut types)
        .map_err(|err| format!("{err:?}"))
}

fn key<R: CubeRuntime>((lhs, rhs, out): &Operands<R>) -> MatmulAutotuneKey {
    MatmulAutotuneKey::generate(
        &lhs.client,
        lhs.meta.shape(),
        rhs.meta.shape(),
        lhs.meta.strides(),
        rhs.meta.strides(),
        lhs.dtype.into(),
        rhs.dtype.into(),
        out.dtype.into(),
        None,
        None,
    )
}

/// What candidates are timed with: another output.
fn operands<R: CubeRuntime>(_: &MatmulAutotuneKey, (lhs, rhs, out): &Operands<R>) -> Operands<R> {
    (lhs.clone(), rhs.clone(), out.copy())
}
