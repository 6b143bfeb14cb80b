//! Compiling, loading and launching the kernels beside products of fp8 numbers on one device.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

use cudarc::driver::{result as driver, sys};

use crate::cuda::program;
use crate::cuda::stream::OrderedStream;

use super::variant::{Program, Rows};

/// The source, which includes nothing.
const SOURCE: &str = concat!(include_str!("../halves.cuh"), include_str!("fp8.cu"));

/// Where heads `[B, H, tokens, D]` lie. The source's structure of the same purpose.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) x: u64,
    /// In numbers, of the first three dimensions.
    pub(super) strides: [i64; 3],
    pub(super) tokens: i32,
}

/// Where rows go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outputs {
    /// In e4m3.
    pub(super) words: u64,
    pub(super) scales: u64,
    /// In their own type, where the program writes that.
    pub(super) floats: u64,
}

/// What rows are normalised with. Weights and biases are `[groups, width]` in f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct Norm {
    pub(super) x: u64,
    pub(super) weights: u64,
    pub(super) biases: u64,
    pub(super) epsilon: f32,
    pub(super) rows_per_group: usize,
}

/// The kernels on one device.
pub(super) struct Engine {
    stream: OrderedStream,
    /// As NVRTC names it.
    architecture: String,
    kernels: HashMap<Program, sys::CUfunction>,
}

// SAFETY: the handles may be used from any thread, one at a time; the engine sits behind a mutex.
unsafe impl Send for Engine {}

impl crate::cuda::engines::Engine for Engine {
    fn open(index: usize) -> Result<Self, String> {
        let (major, minor) = program::compute_capability(index)?;
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
    /// Whether the program is there.
    pub(super) fn has(&self, program: Program) -> bool {
        self.kernels.contains_key(&program)
    }

    /// Compiles and loads the program, if that was not done before.
    pub(super) fn prepare(&mut self, program: Program) -> Result<(), String> {
        if !self.has(program) {
            self.stream.enter()?;
            let options = program.options(&self.architecture);
            let kernel = program::load(SOURCE, program.name(), &options)?;
            self.kernels.insert(program, kernel);
        }
        Ok(())
    }

    /// Queues `count` rows, read from `source` as the program does.
    ///
    /// # Safety
    /// The device's context is current, `source` is the program's structure of this name, and the addresses in it
    /// and in `to`, multiples of 16, hold what the program reads and writes; the outputs overlap nothing else.
    pub(super) unsafe fn quantize<S>(
        &self,
        rows: Rows,
        count: usize,
        source: S,
        to: Outputs,
    ) -> Result<(), String> {
        let (mut source, mut to) = (source, to);
        let mut arguments: [*mut c_void; 4] = [
            ptr::from_mut(&mut source).cast(),
            ptr::from_mut(&mut to.words).cast(),
            ptr::from_mut(&mut to.scales).cast(),
            ptr::from_mut(&mut to.floats).cast(),
        ];
        // SAFETY: the arguments are those of the kernel, by contract.
        unsafe { self.launch(Program::Rows(rows), count, &mut arguments) }
    }

    /// Queues `count` rows, normalised first.
    ///
    /// # Safety
    /// As [`Self::quantize`].
    pub(super) unsafe fn quantize_norm(
        &self,
        rows: Rows,
        count: usize,
        norm: Norm,
        to: Outputs,
    ) -> Result<(), String> {
        let (mut norm, mut to) = (norm, to);
        let (mut count_of_rows, mut of_group) = (count as i32, norm.rows_per_group as i32);
        let mut arguments: [*mut c_void; 9] = [
            ptr::from_mut(&mut norm.x).cast(),
            ptr::from_mut(&mut norm.weights).cast(),
            ptr::from_mut(&mut norm.biases).cast(),
            ptr::from_mut(&mut to.words).cast(),
            ptr::from_mut(&mut to.scales).cast(),
            ptr::from_mut(&mut to.floats).cast(),
            ptr::from_mut(&mut norm.epsilon).cast(),
            ptr::from_mut(&mut count_of_rows).cast(),
            ptr::from_mut(&mut of_group).cast(),
        ];
        // SAFETY: the arguments are those of the kernel, by contract.
        unsafe { self.launch(Program::Rows(rows), count, &mut arguments) }
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
        unsafe { self.launch(Program::Scale, rows, &mut arguments) }
    }

    /// Queues a kernel for so many rows, behind all work submitted to the device's context so far.
    ///
    /// # Safety
    /// The arguments are those of the kernel and hold what it needs.
    unsafe fn launch(
        &self,
        program: Program,
        rows: usize,
        arguments: &mut [*mut c_void],
    ) -> Result<(), String> {
        let Some(&kernel) = self.kernels.get(&program) else {
            return Err(format!("{program:?} is not compiled"));
        };
        let blocks = rows.div_ceil(program.rows());
        let (grid, block) = ((blocks as u32, 1, 1), (program.threads() as u32, 1, 1));
        // SAFETY: the kernel is never unloaded; the driver copies the arguments.
        self.stream.run(|stream| unsafe {
            driver::launch_kernel(kernel, grid, block, 0, stream, arguments)
                .map_err(|err| format!("{err:?} for {rows} rows of {program:?}"))
        })
    }
}
