//! Linear layers on devices with cooperative matrices, the product's kernel chosen among few.
//!
//! Burn tunes a product among fourteen kernels for matrix units, each of which is compiled and run thirteen
//! times, one after another. Half of them are for instructions that Vulkan does not have.

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
const LEAST: usize = 512;

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
    if !takes(x, rows.min(columns).min(inner)) {
        return None;
    }
    let rows = Cube::<R, F, I, BT>::float_reshape(x.clone(), Shape::new([rows, inner]));
    let columns_of = Cube::<R, F, I, BT>::float_swap_dims(weight.clone(), 0, 1);
    let mut y = Tensor::<Cube<R, F, I, BT>, 2>::from_primitive(TensorPrimitive::Float(product(
        rows, columns_of,
    )));
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

/// Whether these are two-byte floats, of a product whose least dimension is `least`, on a device that has
/// cooperative matrices and no other.
fn takes<R: CubeRuntime>(x: &CubeTensor<R>, least: usize) -> bool {
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
    let matmul = &x.client.properties().features.matmul;
    *FEW && matmul.mma.is_empty() && matmul.cmma.contains(&config) && least >= LEAST
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

/// What is tried.
fn candidates() -> [Strategy; 3] {
    let tile_matmul = TileMatmulKind::Cmma;
    [
        Strategy::SimpleCyclicCmma(BlueprintStrategy::Inferred(SimpleArgs {
            multi_rows: true,
            tile_matmul,
        })),
        Strategy::OrderedDoubleCmma(BlueprintStrategy::Inferred(OrderedSelectionArgs {
            partition_k: Some(2),
            row_count: Some(8),
            rows_per_plane: Some(2),
            tile_matmul,
        })),
        Strategy::DoubleCyclicCmma(BlueprintStrategy::Inferred(DoubleBufferingArgs {
            specialized: false,
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
