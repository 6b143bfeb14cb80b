//! What the kernels in eight bits are compiled for, and what follows from it.

use std::ffi::CStr;

use crate::cuda::hopper::variant::{HEAD_DIM, WARPGROUP};

/// Tokens of a tile; the source's constant of this name, as are those below.
pub(super) const UNIT: usize = 32;
/// Query rows of a warpgroup.
const ROWS: usize = 64;
/// Tokens of a run that there are sums of.
pub(super) const CHUNK: usize = 512;
/// Numbers for each channel of a run of tokens, and of a head.
pub(super) const SUMS: usize = 4;
pub(super) const TABLES: usize = 3;

/// A kernel that writes what attention reads; the numbers are those of the source's macro.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::cuda::hopper) enum Input {
    /// Sums and ranges of runs of tokens.
    Sums = 1,
    /// Of these, means and scales of heads.
    Tables = 2,
    /// Tiles of queries, keys and values.
    Tiles = 3,
}

impl Input {
    pub(super) const ALL: [Self; 3] = [Self::Sums, Self::Tables, Self::Tiles];
}

/// One compilation of the source of the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::cuda::hopper) struct Inputs {
    /// f16 rather than bf16.
    pub(super) half: bool,
    pub(super) kernel: Input,
}

impl Inputs {
    pub(in crate::cuda::hopper) const fn name(self) -> &'static CStr {
        match self.kernel {
            Input::Sums => c"input_sums",
            Input::Tables => c"input_tables",
            Input::Tiles => c"input_tiles",
        }
    }

    pub(in crate::cuda::hopper) const fn threads(self) -> usize {
        match self.kernel {
            Input::Sums => 256,
            Input::Tiles => 128,
            Input::Tables => 8 * HEAD_DIM,
        }
    }

    pub(in crate::cuda::hopper) const fn macros(self) -> [(&'static str, usize); 4] {
        [
            ("HALF", self.half as usize),
            ("KERNEL", self.kernel as usize),
            ("STAGES", 1),
            ("CLUSTER", 1),
        ]
    }
}

/// One compilation of the source of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::cuda::hopper) struct EightBit {
    /// f16 rather than bf16.
    pub(super) half: bool,
    /// Whether there is a block list.
    pub(super) sparse: bool,
}

/// How the work is cut; the names are those of the source's macros.
struct Cut {
    warpgroups: usize,
    keys: usize,
    stages: usize,
    window: usize,
    consumer_registers: usize,
    producer_registers: usize,
}

impl EightBit {
    /// The choice is explained in docs/performance.md.
    ///
    /// `setmaxnreg` moves registers within a block: together the warpgroups may hold 504 a thread if they are
    /// three, and 512 if they are four.
    const fn cut(self) -> Cut {
        if self.sparse {
            Cut {
                warpgroups: 2,
                keys: 128,
                stages: 2,
                window: 12,
                consumer_registers: 216,
                producer_registers: 72,
            }
        } else {
            Cut {
                warpgroups: 3,
                keys: 96,
                stages: 3,
                window: 16,
                consumer_registers: 160,
                producer_registers: 32,
            }
        }
    }

    /// Query rows of a block of threads.
    pub(super) const fn rows(self) -> usize {
        ROWS * self.cut().warpgroups
    }

    /// Keys of a step.
    pub(super) const fn keys(self) -> usize {
        self.cut().keys
    }

    pub(in crate::cuda::hopper) const fn threads(self) -> usize {
        WARPGROUP * (self.cut().warpgroups + 1)
    }

    /// Shared memory of a block: queries and results; rings of keys and values, each stage with four barriers
    /// and two numbers for each tile of keys; one more barrier.
    pub(in crate::cuda::hopper) const fn shared_bytes(self) -> usize {
        let cut = self.cut();
        let rings = if self.sparse { cut.warpgroups } else { 1 };
        let stage = 2 * cut.keys * HEAD_DIM + 2 * 4 * (cut.keys / UNIT) + 4 * 8;
        self.rows() * HEAD_DIM * (1 + 4) + rings * cut.stages * stage + 8
    }

    pub(in crate::cuda::hopper) const fn macros(self) -> [(&'static str, usize); 9] {
        let cut = self.cut();
        [
            ("HALF", self.half as usize),
            ("SPARSE", self.sparse as usize),
            ("WARPGROUPS", cut.warpgroups),
            ("KEYS", cut.keys),
            ("STAGES", cut.stages),
            ("CLUSTER", 1),
            ("WINDOW", cut.window),
            ("CONSUMER_REGISTERS", cut.consumer_registers),
            ("PRODUCER_REGISTERS", cut.producer_registers),
        ]
    }
}
