//! Compiling, loading and launching the kernels beside products of fp8 numbers on one device.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

use cudarc::driver::{result as driver, sys};

use crate::cuda::program;
use crate::cuda::stream::{OrderedStream, say};

/// Bytes that a thread reads at once.
const VECTOR: usize = 8;
/// Vectors of a row that a thread keeps in registers, where blocks have threads enough.
const VECTORS: usize = 4;
const WARP: usize = 32;
const MAX_THREADS: usize = 1024;
/// Threads of a block that scales a row.
const SCALING_THREADS: usize = 256;

/// One compilation of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Program {
    /// Rows of this width to e4m3.
    Quantize { half: bool, width: usize },
    /// Scales and bias of a product.
    Scale,
}

/// How a row is cut.
struct Cut {
    threads: usize,
    vectors: usize,
}

impl Cut {
    fn of(width: usize) -> Self {
        let count = width / VECTOR;
        let threads = count.div_ceil(VECTORS).next_multiple_of(WARP);
        let threads = threads.min(MAX_THREADS);
        Self {
            threads,
            vectors: count.div_ceil(threads),
        }
    }
}

/// The kernels on one device.
pub(super) struct Engine {
    stream: OrderedStream,
    /// As NVRTC names it.
    architecture: String,
    kernels: HashMap<Program, Option<sys::CUfunction>>,
}

// SAFETY: the handles may be used from any thread, one at a time; the engine sits behind a mutex.
unsafe impl Send for Engine {}

impl crate::cuda::engines::Engine for Engine {
    fn open(index: usize) -> Result<Self, String> {
        use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR;
        use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR;

        let device = driver::device::get(index as i32).map_err(|err| say("device", err))?;
        let attribute = |attribute| {
            // SAFETY: `device` was just returned by the driver.
            unsafe { driver::device::get_attribute(device, attribute) }
                .map_err(|err| say("attribute", err))
        };
        let (major, minor) = (attribute(MAJOR)?, attribute(MINOR)?);
        if (major, minor) < (8, 9) {
            return Err(format!(
                "compute capability {major}.{minor} has no fp8; Ada's 8.9 is the first that does"
            ));
        }
        Ok(Self {
            stream: OrderedStream::open(index)?,
            architecture: format!("--gpu-architecture=sm_{major}{minor}"),
            kernels: HashMap::new(),
        })
    }
}

impl Engine {
    /// Whether the program can be run; `None` if it was never asked for.
    pub(super) fn known(&self, program: Program) -> Option<bool> {
        self.kernels.get(&program).map(Option::is_some)
    }

    /// Compiles and loads the program, and remembers it where that fails: weights are unpacked then.
    pub(super) fn prepare(&mut self, program: Program) -> bool {
        let (stream, architecture) = (&self.stream, &self.architecture);
        let kernel = self.kernels.entry(program).or_insert_with(|| {
            stream.enter().ok()?;
            load(program, architecture).ok()
        });
        kernel.is_some()
    }

    /// Queues `rows` rows of numbers at `x` to e4m3 at `out` and their scales.
    ///
    /// # Safety
    /// The device's context is current, and the addresses, multiples of 16, hold tensors of that many rows of
    /// the program's width; the outputs overlap nothing else.
    pub(super) unsafe fn quantize(
        &self,
        program: Program,
        rows: usize,
        [x, out, scales]: [u64; 3],
    ) -> Result<(), String> {
        let Program::Quantize { width, .. } = program else {
            return Err(format!("{program:?} quantises nothing"));
        };
        let (mut x, mut out, mut scales) = (x, out, scales);
        let mut arguments: [*mut c_void; 3] = [
            ptr::from_mut(&mut x).cast(),
            ptr::from_mut(&mut out).cast(),
            ptr::from_mut(&mut scales).cast(),
        ];
        // SAFETY: the arguments are those of the kernel; addresses by contract.
        unsafe { self.launch(program, rows, Cut::of(width).threads, &mut arguments) }
    }

    /// Queues the scaling in place of `y` `[rows, width]` in bf16 by `[y, row scales, column scales, bias]`;
    /// a bias at 0 is none.
    ///
    /// # Safety
    /// As [`Self::quantize`]; the width is a multiple of 8.
    pub(super) unsafe fn scale(
        &self,
        rows: usize,
        width: usize,
        [y, row_scales, column_scales, bias]: [u64; 4],
    ) -> Result<(), String> {
        let (mut y, mut row_scales, mut column_scales) = (y, row_scales, column_scales);
        let (mut bias, mut width) = (bias, width as i32);
        let mut arguments: [*mut c_void; 5] = [
            ptr::from_mut(&mut y).cast(),
            ptr::from_mut(&mut row_scales).cast(),
            ptr::from_mut(&mut column_scales).cast(),
            ptr::from_mut(&mut bias).cast(),
            ptr::from_mut(&mut width).cast(),
        ];
        // SAFETY: the arguments are those of the kernel; addresses by contract.
        unsafe { self.launch(Program::Scale, rows, SCALING_THREADS, &mut arguments) }
    }

    /// Queues a kernel, a block for each row, behind all work submitted to the device's context so far.
    ///
    /// # Safety
    /// The arguments are those of the kernel and hold what it needs.
    unsafe fn launch(
        &self,
        program: Program,
        rows: usize,
        threads: usize,
        arguments: &mut [*mut c_void],
    ) -> Result<(), String> {
        let Some(&Some(kernel)) = self.kernels.get(&program) else {
            return Err(format!("{program:?} is not compiled"));
        };
        let (grid, block) = ((rows as u32, 1, 1), (threads as u32, 1, 1));
        // SAFETY: the kernel is never unloaded; the driver copies the arguments.
        self.stream.run(|stream| unsafe {
            driver::launch_kernel(kernel, grid, block, 0, stream, arguments)
                .map_err(|err| format!("{err:?} for {rows} rows of {program:?}"))
        })
    }
}

/// Compiles the program and loads it into the current context.
fn load(program: Program, architecture: &str) -> Result<sys::CUfunction, String> {
    let (name, macros) = match program {
        Program::Quantize { half, width } => {
            let Cut { threads, vectors } = Cut::of(width);
            let half = usize::from(half);
            let macros = vec![
                ("HALF", half),
                ("WIDTH", width),
                ("THREADS", threads),
                ("VECTORS", vectors),
            ];
            (c"quantize_rows", macros)
        }
        Program::Scale => {
            let macros = vec![("HALF", 0), ("THREADS", SCALING_THREADS)];
            (c"scale_product", macros)
        }
    };
    let macros = macros
        .iter()
        .map(|(name, value)| format!("-D{name}={value}"));
    let options = [architecture.to_string(), "--std=c++17".into()];
    let options: Vec<String> = options.into_iter().chain(macros).collect();
    program::load(include_str!("fp8.cu"), name, &options)
}

#[cfg(test)]
mod tests {
    use super::Cut;

    #[test]
    fn cuts_cover_rows() {
        for width in [16, 512, 4096, 11_008, 65_536] {
            let Cut { threads, vectors } = Cut::of(width);
            assert!(threads.is_multiple_of(32) && threads <= 1024, "{width}");
            assert!(8 * threads * vectors >= width, "{width}");
            assert!(8 * threads * (vectors - 1) < width, "{width}");
        }
    }
}
