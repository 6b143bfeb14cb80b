//! One cuBLASLt handle, stream, workspace and cache of plans per device.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

use cudarc::cublaslt::{result as lt, sys as lt_sys};
use cudarc::driver::{result as driver, sys as driver_sys};

use crate::cuda::stream::{OrderedStream, say};

use super::operand::{Element, Operand};

/// What PyTorch gives cuBLASLt on Hopper, and what NVIDIA advises there.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Sums over partial products are taken in f32, never in the output's type.
const REDUCTION_IN_F32: u32 = 1 | 2;

/// `y[rows, out] = x[rows, inner] · weight[out, inner]ᵀ (+ bias[out])`, without the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) out: usize,
    pub(super) element: Element,
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
        let plan = Plan::new(self.handle, &problem).ok();
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
    fn new(handle: lt_sys::cublasLtHandle_t, problem: &Problem) -> Result<Self, lt::CublasError> {
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

        let [x_step, weight_step, y_step] = problem.batch.steps;
        let layout = |rows: usize, cols: usize, operand: Operand, step: usize| {
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
        let weight = layout(problem.out, problem.inner, problem.weight, weight_step)?;
        let x = layout(problem.rows, problem.inner, problem.x, x_step)?;
        let y = layout(problem.rows, problem.out, problem.y, y_step)?;

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
