//! What the kernels are compiled for, and what follows from it.

use std::ffi::CStr;

use super::eight_bit::{EightBit, Inputs};

/// Elements per row.
pub(super) const HEAD_DIM: usize = 128;

/// Threads of a warpgroup, the unit that issues matrix products.
pub(super) const WARPGROUP: usize = 128;

/// One compilation of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Program {
    Forward(Variant),
    Backward(BackwardVariant),
    EightBit(EightBit),
    /// What attention in eight bits reads.
    Inputs(Inputs),
}

impl Program {
    /// The source, which includes nothing, so that no CUDA headers are needed.
    pub(super) const fn source(self) -> &'static str {
        match self {
            Self::Forward(_) => concat!(
                include_str!("../halves.cuh"),
                include_str!("common.cuh"),
                include_str!("attention_forward.cu")
            ),
            Self::Backward(_) => concat!(
                include_str!("../halves.cuh"),
                include_str!("common.cuh"),
                include_str!("attention_backward.cu"),
                include_str!("attention_backward_products.cu")
            ),
            Self::EightBit(_) => concat!(
                include_str!("../halves.cuh"),
                include_str!("common.cuh"),
                include_str!("eight_bit/parts.cuh"),
                include_str!("eight_bit/attention.cu")
            ),
            Self::Inputs(_) => concat!(
                include_str!("../halves.cuh"),
                include_str!("common.cuh"),
                include_str!("eight_bit/inputs.cu")
            ),
        }
    }

    /// Name of the kernel.
    pub(super) const fn name(self) -> &'static CStr {
        match self {
            Self::Forward(_) => c"attention_forward",
            Self::Backward(_) => c"attention_backward",
            Self::EightBit(_) => c"attention_fp8",
            Self::Inputs(inputs) => inputs.name(),
        }
    }

    /// Threads of a block.
    pub(super) const fn threads(self) -> usize {
        match self {
            Self::Forward(variant) => variant.threads(),
            Self::Backward(variant) => variant.threads(),
            Self::EightBit(variant) => variant.threads(),
            Self::Inputs(inputs) => inputs.threads(),
        }
    }

    /// Shared memory of a block that a launch asks for, in bytes.
    pub(super) const fn shared_bytes(self) -> usize {
        match self {
            Self::Forward(variant) => variant.shared_bytes(),
            Self::Backward(variant) => variant.shared_bytes(),
            Self::EightBit(variant) => variant.shared_bytes(),
            Self::Inputs(_) => 0,
        }
    }

    /// Options for NVRTC.
    pub(super) fn options(self) -> Vec<String> {
        let macros: Vec<(&str, usize)> = match self {
            Self::Forward(variant) => variant.macros().into(),
            Self::Backward(variant) => variant.macros().into(),
            Self::EightBit(variant) => variant.macros().into(),
            Self::Inputs(inputs) => inputs.macros().into(),
        };
        ["--gpu-architecture=sm_90a", "--std=c++17"]
            .map(String::from)
            .into_iter()
            .chain(
                macros
                    .into_iter()
                    .map(|(name, value)| format!("-D{name}={value}")),
            )
            .collect()
    }
}

/// One compilation of the forward source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Variant {
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
    cluster: usize,
    turns: bool,
    q_in_registers: bool,
    blocks_per_sm: usize,
    consumer_registers: usize,
    producer_registers: usize,
}

impl Variant {
    /// The choice is explained in docs/performance.md.
    ///
    /// `setmaxnreg` moves registers within a block: together the warpgroups may hold 504 a thread
    /// if they are three, and 256 if they are two and two blocks share a multiprocessor.
    const fn cut(self) -> Cut {
        if self.sparse {
            Cut {
                warpgroups: 1,
                keys: 64,
                stages: 3,
                cluster: 1,
                turns: false,
                q_in_registers: true,
                blocks_per_sm: 2,
                consumer_registers: 216,
                producer_registers: 40,
            }
        } else {
            Cut {
                warpgroups: 2,
                keys: 160,
                stages: 2,
                cluster: 2,
                turns: true,
                q_in_registers: false,
                blocks_per_sm: 1,
                consumer_registers: 240,
                producer_registers: 24,
            }
        }
    }

    /// Query rows of a block of threads.
    pub(super) const fn rows(self) -> usize {
        64 * self.cut().warpgroups
    }

    /// Keys per step, the rows of a tile.
    pub(super) const fn keys(self) -> usize {
        self.cut().keys
    }

    /// Neighbouring blocks that share their tiles.
    pub(super) const fn cluster(self) -> usize {
        self.cut().cluster
    }

    pub(super) const fn threads(self) -> usize {
        WARPGROUP * (self.cut().warpgroups + 1)
    }

    /// Shared memory of a block: tiles, four barriers and a count per stage, one more barrier.
    pub(super) const fn shared_bytes(self) -> usize {
        let cut = self.cut();
        2 * HEAD_DIM * (self.rows() + 2 * cut.stages * cut.keys) + (4 * 8 + 4) * cut.stages + 8
    }

    const fn macros(self) -> [(&'static str, usize); 11] {
        let cut = self.cut();
        [
            ("HALF", self.half as usize),
            ("SPARSE", self.sparse as usize),
            ("WARPGROUPS", cut.warpgroups),
            ("KEYS", cut.keys),
            ("STAGES", cut.stages),
            ("CLUSTER", cut.cluster),
            ("TURNS", cut.turns as usize),
            ("Q_IN_REGISTERS", cut.q_in_registers as usize),
            ("BLOCKS_PER_SM", cut.blocks_per_sm),
            ("CONSUMER_REGISTERS", cut.consumer_registers),
            ("PRODUCER_REGISTERS", cut.producer_registers),
        ]
    }
}

/// A pass of the backward source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pass {
    /// Log-sum-exp and the row sums of `out * d_out`, as the other passes read them.
    Statistics,
    /// Gradient of the queries.
    Queries,
    /// Gradients of keys and values.
    Keys,
}

impl Pass {
    pub(super) const ALL: [Self; 3] = [Self::Statistics, Self::Queries, Self::Keys];
}

/// One compilation of the backward source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BackwardVariant {
    /// f16 rather than bf16.
    pub(super) half: bool,
    pub(super) pass: Pass,
}

/// How the work of a backward pass is cut; the names are those of the source's macros.
struct BackwardCut {
    step: usize,
    stages: usize,
    cluster: usize,
    turns: bool,
    order: usize,
    /// Fixed tensors that stay in registers.
    in_registers: usize,
}

impl BackwardVariant {
    /// Consumer warpgroups.
    const WARPGROUPS: usize = 2;

    /// The choice is explained in docs/performance.md.
    const fn cut(self) -> BackwardCut {
        match (self.pass, self.half) {
            (Pass::Statistics | Pass::Queries, false) => BackwardCut {
                step: 96,
                stages: 3,
                cluster: 2,
                turns: true,
                order: 0,
                in_registers: 0,
            },
            (Pass::Statistics | Pass::Queries, true) => BackwardCut {
                step: 64,
                stages: 3,
                cluster: 1,
                turns: true,
                order: 0,
                in_registers: 2,
            },
            (Pass::Keys, false) => BackwardCut {
                step: 80,
                stages: 2,
                cluster: 1,
                turns: false,
                order: 2,
                in_registers: 0,
            },
            (Pass::Keys, true) => BackwardCut {
                step: 64,
                stages: 3,
                cluster: 1,
                turns: true,
                order: 0,
                in_registers: 0,
            },
        }
    }

    /// Rows that a block of threads makes.
    pub(super) const fn rows(self) -> usize {
        match self.pass {
            Pass::Statistics => 16,
            Pass::Queries | Pass::Keys => 64 * Self::WARPGROUPS,
        }
    }

    /// Rows per step, those of a walked tile.
    pub(super) const fn step(self) -> usize {
        self.cut().step
    }

    /// Neighbouring blocks that share their tiles.
    pub(super) const fn cluster(self) -> usize {
        self.cut().cluster
    }

    pub(super) const fn threads(self) -> usize {
        match self.pass {
            Pass::Statistics => 16 * self.rows(),
            Pass::Queries | Pass::Keys => WARPGROUP * (Self::WARPGROUPS + 1),
        }
    }

    /// Two tiles of fixed rows; per stage two tiles, two numbers per row and four barriers; one more
    /// barrier.
    const fn shared_bytes(self) -> usize {
        let cut = self.cut();
        match self.pass {
            Pass::Statistics => 0,
            Pass::Queries | Pass::Keys => {
                2 * 2 * HEAD_DIM * self.rows()
                    + cut.stages * (cut.step * (2 * 2 * HEAD_DIM + 2 * 4) + 4 * 8)
                    + 8
            }
        }
    }

    const fn macros(self) -> [(&'static str, usize); 11] {
        let cut = self.cut();
        [
            ("HALF", self.half as usize),
            ("PASS", self.pass as usize),
            ("WARPGROUPS", Self::WARPGROUPS),
            ("STEP", cut.step),
            ("STAGES", cut.stages),
            ("CLUSTER", cut.cluster),
            ("TURNS", cut.turns as usize),
            ("ORDER", cut.order),
            ("IN_REGISTERS", cut.in_registers),
            ("CONSUMER_REGISTERS", 240),
            ("PRODUCER_REGISTERS", 24),
        ]
    }
}
