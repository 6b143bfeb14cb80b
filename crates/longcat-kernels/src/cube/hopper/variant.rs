//! What the kernel is compiled for, and what follows from it.

/// Elements per row.
pub(super) const HEAD_DIM: usize = 128;

/// Threads of a warpgroup, the unit that issues matrix products.
const WARPGROUP: usize = 128;

/// One compilation of the source.
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
    /// The choice is explained in docs/notes-attention.md.
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
                keys: 128,
                stages: 2,
                cluster: 1,
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

    /// Options for NVRTC.
    pub(super) fn options(self) -> Vec<String> {
        let cut = self.cut();
        let macros = [
            ("HALF", usize::from(self.half)),
            ("SPARSE", usize::from(self.sparse)),
            ("WARPGROUPS", cut.warpgroups),
            ("KEYS", cut.keys),
            ("STAGES", cut.stages),
            ("CLUSTER", cut.cluster),
            ("TURNS", usize::from(cut.turns)),
            ("Q_IN_REGISTERS", usize::from(cut.q_in_registers)),
            ("BLOCKS_PER_SM", cut.blocks_per_sm),
            ("CONSUMER_REGISTERS", cut.consumer_registers),
            ("PRODUCER_REGISTERS", cut.producer_registers),
        ];
        ["--gpu-architecture=sm_90a", "--std=c++17"]
            .map(String::from)
            .into_iter()
            .chain(macros.map(|(name, value)| format!("-D{name}={value}")))
            .collect()
    }
}
