//! One cuBLASLt handle, stream, workspace and cache of plans per device.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::LazyLock;

use cudarc::cublaslt::{result as lt, sys as lt_sys};
use cudarc::driver::{result as driver, sys as driver_sys};

use crate::cuda::stream::{OrderedStream, say};

use super::operand::{Element, Operand};

/// What PyTorch gives cuBLASLt on Hopper, and what NVIDIA advises there.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Sums over partial products are taken in f32, never in the output's type.
const REDUCTION_IN_F32: u32 = 1 | 2;

/// Whether sums of fp8 products are moved to f32 every few products, instead of at the end. The matrix units
/// of Hopper lose 0.2 to 0.3 % in sums over 4,096 to 11,008 products, beside 2.5 % that rounding to fp8 does.
static EXACT_SUMS: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("LONGCAT_FP8_EXACT_SUMS").is_some());

/// `CUBLASLT_MATMUL_DESC_A_SCALE_MODE` and the one of B, which bindings of CUDA before 12.8 do not have.
const SCALE_MODES: [u32; 2] = [31, 32];

/// `CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F`, of CUDA 12.9: a scale for each row.
const SCALES_OF_ROWS: u32 = 3;

/// `cublasLtMatmulDescSetAttribute`, for attributes by their number.
type SetAttribute =
    unsafe extern "C" fn(lt_sys::cublasLtMatmulDesc_t, u32, *const c_void, usize) -> u32;

const NOT_SUPPORTED: lt::CublasError =
    lt::CublasError(lt_sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);

/// `y[rows, out] = x[rows, inner] · weight[out, inner]ᵀ (+ bias[out])`, without the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) out: usize,
    pub(super) element: Element,
    /// Whether `x` and `weight` are of another type than `element`: e4m3.
    pub(super) fp8: Option<Fp8>,
    pub(super) x: Operand,
    pub(super) weight: Operand,
    /// The output's row stride and alignment; it is never transposed.
    pub(super) y: Operand,
    pub(super) bias: bool,
    /// Whether the product is added to what `y` holds.
    pub(super) accumulate: bool,
    /// Products of this kind that one call computes.
    pub(super) batch: Batch,
}

/// How e4m3 numbers are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fp8 {
    /// Rows of `x` and of `weight` have scales.
    Scaled,
    /// As they are.
    Unscaled,
}

/// Equal products, one after another in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Batch {
    pub(super) count: usize,
    /// Elements from one product's matrix to the next, of `x`, `weight` and `y`.
    pub(super) steps: [usize; 3],
}

impl Batch {
    pub(super) const ONE: Self = Self {
        count: 1,
        steps: [0; 3],
    };
}

/// Device addresses of one product.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) bias: Option<u64>,
    pub(super) y: u64,
    /// Of the rows of `x` and of `weight`, where these are scaled.
    pub(super) scales: Option<[u64; 2]>,
}

/// cuBLASLt on one device.
pub(super) struct Engine {
    handle: lt_sys::cublasLtHandle_t,
    stream: OrderedStream,
    workspace: driver_sys::CUdeviceptr,
    plans: HashMap<Problem, Option<Plan>>,
}

// SAFETY: the handles may be used from any thread, one at a time; the engine sits behind a mutex.
unsafe impl Send for Engine {}

/// A product that cuBLASLt has agreed to compute.
struct Plan {
    operation: lt_sys::cublasLtMatmulDesc_t,
    weight: lt_sys::cublasLtMatrixLayout_t,
    x: lt_sys::cublasLtMatrixLayout_t,
    y: lt_sys::cublasLtMatrixLayout_t,
    algorithm: lt_sys::cublasLtMatmulAlgo_t,
}

impl crate::cuda::engines::Engine for Engine {
    fn open(index: usize) -> Result<Self, String> {
        let stream = OrderedStream::open(index)?;
        let handle = lt::create_handle().map_err(|err| say("cublasLtCreate", err))?;
        // SAFETY: the context is current; the memory is kept for the life of the process.
        let workspace =
            unsafe { driver::malloc_sync(WORKSPACE_BYTES) }.map_err(|err| say("workspace", err))?;
        Ok(Self {
            handle,
            stream,
            workspace,
            plans: HashMap::new(),
        })
    }
}

impl Engine {
    /// Whether `problem` can be run; `None` if it was never asked for.
    pub(super) fn known(&self, problem: &Problem) -> Option<bool> {
        self.plans.get(problem).map(Option::is_some)
    }

    /// Asks cuBLASLt's heuristics for an algorithm and keeps the answer.
    pub(super) fn prepare(&mut self, problem: Problem) -> bool {
        // A refusal is remembered too: the caller then multiplies without us.
        let plan = Plan::new(self.handle, &problem, self.workspace).ok();
        let found = plan.is_some();
        self.plans.insert(problem, plan);
        found
    }

    /// Queues the product behind all work submitted to the device's context so far.
    ///
    /// # Safety
    /// The device's context is current, the addresses hold matrices as `problem` describes them,
    /// and the output overlaps no input.
    pub(super) unsafe fn run(&self, problem: &Problem, at: Addresses) -> Result<(), String> {
        let Some(Some(plan)) = self.plans.get(problem) else {
            return Err(format!("no plan for {problem:?}"));
        };
        let say = |err: lt::CublasError| format!("{err:?} for {problem:?}");
        // SAFETY: handles made in `open` and `prepare` and never freed; addresses by contract.
        self.stream.run(|stream| unsafe {
            if let Some(bias) = at.bias {
                lt::set_matmul_desc_attribute(
                    plan.operation,
                    lt_sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                    ptr::from_ref(&bias).cast(),
                    size_of_val(&bias),
                )
                .map_err(say)?;
            }
            if let Some([of_x, of_weight]) = at.scales {
                set_scales(plan.operation, of_x, of_weight).map_err(say)?;
            }
            let (one, kept) = (1f32, f32::from(u8::from(problem.accumulate)));
            lt::matmul(
                self.handle,
                plan.operation,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&kept).cast(),
                at.weight as *const c_void,
                plan.weight,
                at.x as *const c_void,
                plan.x,
                at.y as *const c_void,
                plan.y,
                at.y as *mut c_void,
                plan.y,
                &plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cast(),
            )
            .map_err(say)
        })
    }
}

impl Plan {
    /// cuBLASLt is column-major: it sees each row-major matrix as its transpose, so it is asked
    /// for `yᵀ = weight · xᵀ`, and the bias runs down the columns of `yᵀ` as its epilogue wants.
    ///
    /// `somewhere` is device memory.
    fn new(
        handle: lt_sys::cublasLtHandle_t,
        problem: &Problem,
        somewhere: u64,
    ) -> Result<Self, lt::CublasError> {
        use lt_sys::cublasLtMatmulDescAttributes_t as Desc;
        use lt_sys::cublasLtMatmulPreferenceAttributes_t as Pref;

        let dtype = match problem.element {
            Element::Bf16 => lt_sys::cudaDataType_t::CUDA_R_16BF,
            Element::F16 => lt_sys::cudaDataType_t::CUDA_R_16F,
            Element::F32 => lt_sys::cudaDataType_t::CUDA_R_32F,
        };
        // Attributes are numbers; `cublasOperation_t` is 0 for none and 1 for transposition.
        // Plain 32F: f32 products are f32 throughout, not tf32.
        let operation = lt::create_matmul_desc(
            lt_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            lt_sys::cudaDataType_t::CUDA_R_32F,
        )?;
        let describe = |attribute, value: u32| {
            // SAFETY: `operation` is alive, and these attributes are 32 bits wide.
            unsafe {
                lt::set_matmul_desc_attribute(
                    operation,
                    attribute,
                    ptr::from_ref(&value).cast(),
                    size_of_val(&value),
                )
            }
        };
        describe(
            Desc::CUBLASLT_MATMUL_DESC_TRANSA,
            u32::from(!problem.weight.transposed),
        )?;
        describe(
            Desc::CUBLASLT_MATMUL_DESC_TRANSB,
            u32::from(problem.x.transposed),
        )?;
        if problem.bias {
            let epilogue = lt_sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            describe(Desc::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
        }
        if let Some(fp8) = problem.fp8 {
            describe(Desc::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, dtype as u32)?;
            // SAFETY: `operation` is alive.
            unsafe { describe_fp8(operation, fp8, somewhere) }?;
        }
        let operands = match problem.fp8 {
            Some(_) => lt_sys::cudaDataType_t::CUDA_R_8F_E4M3,
            None => dtype,
        };

        let [x_step, weight_step, y_step] = problem.batch.steps;
        let layout = |dtype, rows: usize, cols: usize, operand: Operand, step: usize| {
            let (rows, cols) = if operand.transposed {
                (rows, cols)
            } else {
                (cols, rows)
            };
            let layout =
                lt::create_matrix_layout(dtype, rows as u64, cols as u64, operand.stride as i64)?;
            if problem.batch != Batch::ONE {
                repeat(layout, problem.batch.count, step)?;
            }
            Ok::<_, lt::CublasError>(layout)
        };
        let Problem {
            rows, inner, out, ..
        } = *problem;
        let weight = layout(operands, out, inner, problem.weight, weight_step)?;
        let x = layout(operands, rows, inner, problem.x, x_step)?;
        let y = layout(dtype, rows, out, problem.y, y_step)?;

        let preference = lt::create_matmul_pref()?;
        let prefer = |attribute, value: &[u8]| {
            // SAFETY: `preference` is alive; each value has its attribute's width.
            unsafe {
                lt::set_matmul_pref_attribute(
                    preference,
                    attribute,
                    value.as_ptr().cast(),
                    value.len(),
                )
            }
        };
        prefer(
            Pref::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &WORKSPACE_BYTES.to_ne_bytes(),
        )?;
        prefer(
            Pref::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            &REDUCTION_IN_F32.to_ne_bytes(),
        )?;
        for (attribute, operand) in [
            (
                Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                problem.weight,
            ),
            (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, problem.x),
            (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, problem.y),
            (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, problem.y),
        ] {
            prefer(attribute, &operand.alignment.to_ne_bytes())?;
        }
        // SAFETY: all descriptors are alive. Those of a refused problem are leaked, a few hundred
        // bytes once per shape.
        let found = unsafe {
            let found =
                lt::get_matmul_algo_heuristic(handle, operation, weight, x, y, y, preference);
            lt::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Self {
            operation,
            weight,
            x,
            y,
            algorithm: found.algo,
        })
    }
}

/// Makes a layout stand for `count` matrices, `step` elements from one to the next.
fn repeat(
    layout: lt_sys::cublasLtMatrixLayout_t,
    count: usize,
    step: usize,
) -> Result<(), lt::CublasError> {
    use lt_sys::cublasLtMatrixLayoutAttribute_t as Layout;

    let (count, step) = (count as i32, step as i64);
    // SAFETY: `layout` is alive; each value has its attribute's width.
    unsafe {
        lt::set_matrix_layout_attribute(
            layout,
            Layout::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
            ptr::from_ref(&count).cast(),
            size_of_val(&count),
        )?;
        lt::set_matrix_layout_attribute(
            layout,
            Layout::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
            ptr::from_ref(&step).cast(),
            size_of_val(&step),
        )
    }
}

/// Names the scales of a product.
///
/// # Safety
/// `operation` is alive.
unsafe fn set_scales(
    operation: lt_sys::cublasLtMatmulDesc_t,
    of_x: u64,
    of_weight: u64,
) -> Result<(), lt::CublasError> {
    use lt_sys::cublasLtMatmulDescAttributes_t as Desc;

    for (attribute, scales) in [
        (Desc::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, of_weight),
        (Desc::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, of_x),
    ] {
        // SAFETY: by contract; the attributes are pointers.
        unsafe {
            lt::set_matmul_desc_attribute(
                operation,
                attribute,
                ptr::from_ref(&scales).cast(),
                size_of_val(&scales),
            )?;
        }
    }
    Ok(())
}

/// Describes a product of e4m3 numbers; `somewhere` stands for scales that are not there yet.
///
/// # Safety
/// `operation` is alive.
unsafe fn describe_fp8(
    operation: lt_sys::cublasLtMatmulDesc_t,
    fp8: Fp8,
    somewhere: u64,
) -> Result<(), lt::CublasError> {
    use lt_sys::cublasLtMatmulDescAttributes_t as Desc;

    let fast = i8::from(!*EXACT_SUMS);
    // SAFETY: by contract; the attribute is 8 bits wide.
    unsafe {
        lt::set_matmul_desc_attribute(
            operation,
            Desc::CUBLASLT_MATMUL_DESC_FAST_ACCUM,
            ptr::from_ref(&fast).cast(),
            size_of_val(&fast),
        )?;
    }
    if fp8 == Fp8::Unscaled {
        return Ok(());
    }
    // SAFETY: by contract; the library is open, its function has this signature, and the attributes are
    // 32 bits wide. A library that does not know them says so.
    unsafe {
        let name = b"cublasLtMatmulDescSetAttribute\0".as_slice();
        let set = lt_sys::culib().get::<SetAttribute>(name);
        let set = set.map_err(|_| NOT_SUPPORTED)?;
        for attribute in SCALE_MODES {
            let rows = ptr::from_ref(&SCALES_OF_ROWS).cast();
            if set(operation, attribute, rows, size_of::<u32>()) != 0 {
                return Err(NOT_SUPPORTED);
            }
        }
        set_scales(operation, somewhere, somewhere)
    }
}
