//! Compiling, loading and launching the kernels on one device.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;

use cudarc::driver::{result as driver, sys};

use crate::cuda::program;
use crate::cuda::stream::{OrderedStream, say};

use super::variant::{HEAD_DIM, Program, Variant};

/// One call, without the data. Strides are in elements, of the first three dimensions.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) variant: Variant,
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) q_strides: [usize; 3],
    pub(super) k_strides: [usize; 3],
    pub(super) v_strides: [usize; 3],
    pub(super) out_strides: [usize; 3],
    pub(super) indices_strides: [usize; 3],
    pub(super) counts_strides: [usize; 3],
    /// Tokens per query block and per key block.
    pub(super) blocks: [usize; 2],
    pub(super) scale: f32,
}

/// Device addresses. Dense variants do not read the last three.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) q: u64,
    pub(super) k: u64,
    pub(super) v: u64,
    pub(super) out: u64,
    pub(super) lse: u64,
    pub(super) indices: u64,
    pub(super) counts: u64,
    pub(super) key_valid: u64,
}

/// The source's structure of the same name.
#[repr(C)]
struct Parameters {
    out: u64,
    lse: u64,
    indices: u64,
    counts: u64,
    key_valid: u64,
    out_strides: [i64; 3],
    indices_strides: [i64; 3],
    counts_strides: [i64; 3],
    queries: i32,
    keys: i32,
    block_q: i32,
    block_k: i32,
    scale: f32,
}

/// The kernels on one device.
pub(super) struct Engine {
    pub(super) stream: OrderedStream,
    kernels: HashMap<Program, Option<sys::CUfunction>>,
}

// SAFETY: the handles may be used from any thread, one at a time; the engine sits behind a mutex.
unsafe impl Send for Engine {}

impl crate::cuda::engines::Engine for Engine {
    fn open(index: usize) -> Result<Self, String> {
        let capability = program::compute_capability(index)?;
        // `wgmma` belongs to this capability alone: machine code for sm_90a runs on no other.
        if capability != (9, 0) {
            return Err(format!("compute capability {capability:?} is not Hopper's"));
        }
        Ok(Self {
            stream: OrderedStream::open(index)?,
            kernels: HashMap::new(),
        })
    }
}

impl Engine {
    /// Whether the program can be run; `None` if it was never asked for.
    pub(super) fn known(&self, program: Program) -> Option<bool> {
        self.kernels.get(&program).map(Option::is_some)
    }

    /// Compiles and loads the program, and remembers it where that fails: the portable kernel then
    /// does the work.
    pub(super) fn prepare(&mut self, program: Program) -> bool {
        let stream = &self.stream;
        let kernel = self.kernels.entry(program).or_insert_with(|| {
            stream.enter().ok()?;
            let told = |reason: &String| program::refused("the Hopper attention kernel", reason);
            load(program).inspect_err(told).ok()
        });
        kernel.is_some()
    }

    /// A program that was prepared.
    pub(super) fn kernel(&self, program: Program) -> Result<sys::CUfunction, String> {
        match self.kernels.get(&program) {
            Some(&Some(kernel)) => Ok(kernel),
            _ => Err(format!("{program:?} is not compiled")),
        }
    }

    /// Queues the kernel behind all work submitted to the device's context so far.
    ///
    /// # Safety
    /// The device's context is current, the addresses hold tensors as `call` describes them, and
    /// the outputs overlap nothing else.
    pub(super) unsafe fn run(&self, call: &Call, at: Addresses) -> Result<(), String> {
        let variant = call.variant;
        let kernel = self.kernel(Program::Forward(variant))?;
        let map = |address, tokens, strides, rows| {
            tensor_map(
                variant.half,
                address,
                [call.batch, call.heads, tokens],
                strides,
                rows,
            )
            .map_err(|err| format!("{err} for {call:?}"))
        };
        let mut q_map = map(at.q, call.queries, call.q_strides, 64)?;
        let mut k_map = map(at.k, call.keys, call.k_strides, variant.keys())?;
        let mut v_map = map(at.v, call.keys, call.v_strides, variant.keys())?;
        let mut parameters = Parameters {
            out: at.out,
            lse: at.lse,
            indices: at.indices,
            counts: at.counts,
            key_valid: at.key_valid,
            out_strides: wide(call.out_strides),
            indices_strides: wide(call.indices_strides),
            counts_strides: wide(call.counts_strides),
            queries: call.queries as i32,
            keys: call.keys as i32,
            block_q: call.blocks[0] as i32,
            block_k: call.blocks[1] as i32,
            scale: call.scale,
        };
        let mut arguments: [*mut c_void; 4] = [
            ptr::from_mut(&mut q_map).cast(),
            ptr::from_mut(&mut k_map).cast(),
            ptr::from_mut(&mut v_map).cast(),
            ptr::from_mut(&mut parameters).cast(),
        ];
        let tiles = call
            .queries
            .div_ceil(variant.rows())
            .next_multiple_of(variant.cluster());
        let grid = (tiles as u32, call.heads as u32, call.batch as u32);
        // SAFETY: handles made in `open` and `prepare` and never freed; the arguments are those of
        // the kernel, which the driver copies; addresses by contract.
        self.stream.run(|stream| unsafe {
            driver::launch_kernel(
                kernel,
                grid,
                (variant.threads() as u32, 1, 1),
                variant.shared_bytes() as u32,
                stream,
                &mut arguments,
            )
            .map_err(|err| format!("{err:?} for {call:?}"))
        })
    }
}

/// Strides as the kernels read them.
pub(super) fn wide(strides: [usize; 3]) -> [i64; 3] {
    strides.map(|stride| stride as i64)
}

/// Compiles the program and loads it into the current context.
fn load(program: Program) -> Result<sys::CUfunction, String> {
    use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED;

    let function = program::load(program.source(), program.name(), &program.options())?;
    let shared = program.shared_bytes() as i32;
    // SAFETY: the function was just loaded.
    unsafe { driver::function::set_function_attribute(function, SHARED, shared) }
        .map_err(|err| say("shared memory", err))?;
    Ok(function)
}

/// Describes `[B, H, tokens, 128]`, whose first dimensions are `sizes`, to the copy engine, in
/// swizzled boxes of `rows` rows of 128 bytes. `half`: f16 rather than bf16.
pub(super) fn tensor_map(
    half: bool,
    address: u64,
    sizes: [usize; 3],
    strides: [usize; 3],
    rows: usize,
) -> Result<sys::CUtensorMap, String> {
    const ELEMENT: u64 = 2;
    const BOX_BYTES: u64 = 128;
    let [batch, heads, tokens] = sizes;
    let sizes = [HEAD_DIM, tokens, heads, batch].map(|size| size as u64);
    // Dimensions of one entry may have any stride, also one that the driver would refuse.
    let stride = |dimension: usize| match sizes[3 - dimension] {
        1 => HEAD_DIM as u64 * ELEMENT,
        _ => strides[dimension] as u64 * ELEMENT,
    };
    let strides = [stride(2), stride(1), stride(0)];
    let extents = [(BOX_BYTES / ELEMENT) as u32, rows as u32, 1, 1];
    let steps = [1u32; 4];
    let dtype = if half {
        sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16
    } else {
        sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
    };
    let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: the arrays have the rank's length, one less for the strides; the driver writes the
    // map where it succeeds.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            dtype,
            4,
            address as *mut c_void,
            sizes.as_ptr(),
            strides.as_ptr(),
            extents.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()
        .map_err(|err| say("cuTensorMapEncodeTiled", err))?;
        Ok(map.assume_init())
    }
}
