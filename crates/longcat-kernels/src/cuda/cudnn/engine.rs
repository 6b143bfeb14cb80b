//! One cuDNN handle, stream, workspace and cache of plans per device.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

use cudarc::cudnn::sys;
use cudarc::driver::{result as driver, sys as driver_sys};
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendDescriptorType_t as Kind;

use crate::cuda::stream::{OrderedStream, say};

use super::ALIGNMENT;
use super::descriptor::Descriptor;

/// Plans that want more memory than this for themselves are passed over.
const MOST_WORKSPACE: usize = 1 << 30;

/// How many of the plans that cuDNN's heuristics name are tried before giving up.
const CANDIDATES: usize = 16;

/// Names of the tensors in a plan.
const X: i64 = 1;
const WEIGHT: i64 = 2;
const Y: i64 = 3;

/// A convolution without the data. All tensors are contiguous with channels last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    /// `[B, T, H, W, C]`.
    pub(super) x: [usize; 5],
    /// `[O, kt, kh, kw, C]`.
    pub(super) weight: [usize; 5],
    /// `[B, T', H', W', O]`.
    pub(super) y: [usize; 5],
    pub(super) stride: [usize; 3],
    /// Zeros on both sides.
    pub(super) padding: [usize; 3],
    /// Whether the elements are bf16 rather than f16.
    pub(super) bf16: bool,
}

/// Device addresses of one convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) y: u64,
}

/// cuDNN on one device.
pub(super) struct Engine {
    handle: sys::cudnnHandle_t,
    stream: OrderedStream,
    workspace: driver_sys::CUdeviceptr,
    workspace_bytes: usize,
    plans: HashMap<Problem, Option<Plan>>,
}

// SAFETY: the handles may be used from any thread, one at a time; the engine sits behind a mutex.
unsafe impl Send for Engine {}

/// A convolution that cuDNN has agreed to compute.
struct Plan {
    plan: Descriptor,
    workspace_bytes: usize,
}

impl crate::cuda::engines::Engine for Engine {
    fn open(index: usize) -> Result<Self, String> {
        let stream = OrderedStream::open(index)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the context is current, and `handle` receives the object.
        unsafe { sys::cudnnCreate(&mut handle) }
            .result()
            .map_err(|err| say("cudnnCreate", err))?;
        Ok(Self {
            handle,
            stream,
            workspace: 0,
            workspace_bytes: 0,
            plans: HashMap::new(),
        })
    }
}

impl Engine {
    /// Whether `problem` can be run; `None` if it was never asked for.
    pub(super) fn known(&self, problem: &Problem) -> Option<bool> {
        self.plans.get(problem).map(Option::is_some)
    }

    /// Asks cuDNN's heuristics for a plan and keeps the answer.
    pub(super) fn prepare(&mut self, problem: Problem) -> bool {
        // A refusal is remembered too: the caller then multiplies patches.
        let plan = Plan::new(self.handle, &problem).ok();
        let plan = plan.filter(|plan| self.reserve(plan.workspace_bytes).is_ok());
        let found = plan.is_some();
        self.plans.insert(problem, plan);
        found
    }

    /// Makes the workspace, which all plans share, at least this large.
    fn reserve(&mut self, bytes: usize) -> Result<(), String> {
        if bytes <= self.workspace_bytes {
            return Ok(());
        }
        // SAFETY: the context is current. Freeing waits for the work that uses the memory.
        unsafe {
            let larger = driver::malloc_sync(bytes).map_err(|err| say("workspace", err))?;
            if self.workspace != 0 {
                driver::free_sync(self.workspace).map_err(|err| say("workspace", err))?;
            }
            self.workspace = larger;
        }
        self.workspace_bytes = bytes;
        Ok(())
    }

    /// Queues the convolution behind all work submitted to the device's context so far.
    ///
    /// # Safety
    /// The device's context is current, the addresses hold tensors as `problem` describes them,
    /// and the output overlaps no input.
    pub(super) unsafe fn run(&self, problem: &Problem, at: Addresses) -> Result<(), String> {
        let Some(Some(plan)) = self.plans.get(problem) else {
            return Err(format!("no plan for {problem:?}"));
        };
        let tensors = [at.x, at.weight, at.y].map(|address| address as *mut c_void);
        let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &[X, WEIGHT, Y])?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &tensors)?
            .set(
                Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                &[self.workspace as *mut c_void],
            )?
            .finish()?;
        // SAFETY: handles made in `open` and `prepare` and never freed; addresses by contract.
        self.stream.run(|stream| unsafe {
            sys::cudnnSetStream(self.handle, stream.cast())
                .result()
                .map_err(|err| say("cudnnSetStream", err))?;
            sys::cudnnBackendExecute(self.handle, plan.plan.raw(), pack.raw())
                .result()
                .map_err(|err| format!("{err:?} for {problem:?}"))
        })
    }
}

impl Plan {
    fn new(handle: sys::cudnnHandle_t, problem: &Problem) -> Result<Self, String> {
        let graph = graph(handle, problem)?;
        let candidates = (0..CANDIDATES)
            .map(|_| Descriptor::new(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))
            .collect::<Result<_, _>>()?;
        let candidates = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
            .descriptors(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[&graph])?
            .set(
                Name::CUDNN_ATTR_ENGINEHEUR_MODE,
                &[sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A],
            )?
            .finish()?
            .fill(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, candidates)?;
        candidates
            .iter()
            .find_map(|candidate| Self::of(handle, candidate).ok())
            .ok_or_else(|| format!("cuDNN has no plan for {problem:?}"))
    }

    fn of(handle: sys::cudnnHandle_t, candidate: &Descriptor) -> Result<Self, String> {
        let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, &[handle])?
            .descriptors(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[candidate])?
            .finish()?;
        let bytes = plan.integer(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
        match usize::try_from(bytes) {
            Ok(workspace_bytes) if workspace_bytes <= MOST_WORKSPACE => Ok(Self {
                plan,
                workspace_bytes,
            }),
            _ => Err(format!("the plan wants {bytes} bytes of workspace")),
        }
    }
}

/// The graph of one operation, the convolution.
fn graph(handle: sys::cudnnHandle_t, problem: &Problem) -> Result<Descriptor, String> {
    let element = match problem.bf16 {
        true => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        false => sys::cudnnDataType_t::CUDNN_DATA_HALF,
    };
    let sums = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
    let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
    let numbers = |values: [usize; 3]| values.map(|value| value as i64);
    let padding = numbers(problem.padding);
    let convolution = Descriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, &[sums])?
        .set(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, &[mode])?
        .set(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[3])?
        .set(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &padding)?
        .set(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &padding)?
        .set(
            Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES,
            &numbers(problem.stride),
        )?
        .set(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1; 3])?
        .finish()?;
    let [x, weight, y] = [
        tensor(X, problem.x, element)?,
        tensor(WEIGHT, problem.weight, element)?,
        tensor(Y, problem.y, element)?,
    ];
    let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
            &[&convolution],
        )?
        .descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, &[&x])?
        .descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, &[&weight])?
        .descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, &[&y])?
        .set(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
            &[1f32],
        )?
        .set(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, &[0f32])?
        .finish()?;
    Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .descriptors(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &[&operation])?
        .set(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[handle])?
        .finish()
}

/// A tensor `[N, T, H, W, C]`, which cuDNN calls `[N, C, T, H, W]` with these strides.
fn tensor(
    name: i64,
    [n, t, h, w, c]: [usize; 5],
    element: sys::cudnnDataType_t,
) -> Result<Descriptor, String> {
    let numbers = |values: [usize; 5]| values.map(|value| value as i64);
    Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[name])?
        .set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, &[element])?
        .set(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT as i64])?
        .set(
            Name::CUDNN_ATTR_TENSOR_DIMENSIONS,
            &numbers([n, c, t, h, w]),
        )?
        .set(
            Name::CUDNN_ATTR_TENSOR_STRIDES,
            &numbers([t * h * w * c, 1, h * w * c, w * c, c]),
        )?
        .finish()
}
