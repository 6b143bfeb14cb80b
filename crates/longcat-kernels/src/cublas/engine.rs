//! One cuBLASLt handle, stream, workspace and cache of plans per device.
//!
//! cubecl keeps its CUDA streams to itself, so products run on a stream of ours, ordered against
//! all of cubecl's by two context-wide events (CUDA 12.5): the product waits for everything that
//! was submitted to the context before it, and everything submitted after it waits for the
//! product. Nothing waits on the host. Because the order covers every stream, memory that cubecl
//! frees or hands to another stream after the call cannot be touched too early either.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::ptr;

use cudarc::cublaslt::{result as lt, sys as lt_sys};
use cudarc::driver::{result as driver, sys as driver_sys};

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
}

/// Device addresses of one product.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) bias: Option<u64>,
    pub(super) y: u64,
}

type ContextEvent =
    unsafe extern "C" fn(driver_sys::CUcontext, driver_sys::CUevent) -> driver_sys::CUresult;

/// cuBLASLt on one device.
pub(super) struct Engine {
    handle: lt_sys::cublasLtHandle_t,
    context: driver_sys::CUcontext,
    stream: driver_sys::CUstream,
    workspace: driver_sys::CUdeviceptr,
    before: driver_sys::CUevent,
    after: driver_sys::CUevent,
    record_context: ContextEvent,
    wait_context: ContextEvent,
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

impl Engine {
    /// Sets up device `index`, whose context must be current on this thread.
    pub(super) fn open(index: usize) -> Result<Self, String> {
        let say = |what: &str, err: &dyn std::fmt::Debug| format!("{what}: {err:?}");
        let device = driver::device::get(index as i32).map_err(|e| say("device", &e))?;
        // SAFETY: `device` was just returned by the driver. cubecl works in the primary context
        // too; our reference is never released, so it outlives every use.
        let context =
            unsafe { driver::primary_ctx::retain(device) }.map_err(|e| say("context", &e))?;
        // SAFETY: a context of this process.
        unsafe { driver::ctx::set_current(context) }.map_err(|e| say("context", &e))?;
        let record_context = driver_function(c"cuCtxRecordEvent")?;
        let wait_context = driver_function(c"cuCtxWaitEvent")?;
        let handle = lt::create_handle().map_err(|e| say("cublasLtCreate", &e))?;
        let stream = driver::stream::create(driver::stream::StreamKind::NonBlocking)
            .map_err(|e| say("stream", &e))?;
        let event = || {
            driver::event::create(driver_sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
                .map_err(|e| say("event", &e))
        };
        let (before, after) = (event()?, event()?);
        // SAFETY: the context is current; the memory is kept for the life of the process.
        let workspace =
            unsafe { driver::malloc_sync(WORKSPACE_BYTES) }.map_err(|e| say("workspace", &e))?;
        Ok(Self {
            handle,
            context,
            stream,
            workspace,
            before,
            after,
            record_context,
            wait_context,
            plans: HashMap::new(),
        })
    }

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
        let say = |err: &dyn std::fmt::Debug| format!("{err:?} for {problem:?}");
        // SAFETY: handles made in `open` and `prepare` and never freed; addresses by contract.
        unsafe {
            (self.record_context)(self.context, self.before)
                .result()
                .map_err(|e| say(&e))?;
            let flags = driver_sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            driver::stream::wait_event(self.stream, self.before, flags).map_err(|e| say(&e))?;
            if let Some(bias) = at.bias {
                lt::set_matmul_desc_attribute(
                    plan.operation,
                    lt_sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                    ptr::from_ref(&bias).cast(),
                    size_of_val(&bias),
                )
                .map_err(|e| say(&e))?;
            }
            let (one, zero) = (1f32, 0f32);
            lt::matmul(
                self.handle,
                plan.operation,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
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
                self.stream.cast(),
            )
            .map_err(|e| say(&e))?;
            driver::event::record(self.after, self.stream).map_err(|e| say(&e))?;
            (self.wait_context)(self.context, self.after)
                .result()
                .map_err(|e| say(&e))
        }
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

        let layout = |rows: usize, cols: usize, operand: Operand| {
            let (rows, cols) = if operand.transposed {
                (rows, cols)
            } else {
                (cols, rows)
            };
            lt::create_matrix_layout(dtype, rows as u64, cols as u64, operand.stride as i64)
        };
        let weight = layout(problem.out, problem.inner, problem.weight)?;
        let x = layout(problem.rows, problem.inner, problem.x)?;
        let y = layout(problem.rows, problem.out, problem.y)?;

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

/// A driver function of CUDA 12.5, asked for by name so that older drivers and toolkits only lose
/// this path.
fn driver_function(name: &CStr) -> Result<ContextEvent, String> {
    const CUDA_12_5: i32 = 12_050;
    let mut address = ptr::null_mut();
    // SAFETY: the name ends in NUL and the result pointer may be null.
    let status = unsafe {
        driver_sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, CUDA_12_5, 0, ptr::null_mut())
    };
    if status.result().is_err() || address.is_null() {
        return Err(format!(
            "the driver has no {name:?}; it needs CUDA 12.5 or later"
        ));
    }
    // SAFETY: both functions that are asked for have this signature.
    Ok(unsafe { std::mem::transmute::<*mut c_void, ContextEvent>(address) })
}
