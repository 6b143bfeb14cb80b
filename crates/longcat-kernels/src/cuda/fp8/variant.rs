//! What the kernels are compiled for, and what follows from it.

use std::ffi::CStr;

/// Numbers that a thread reads at once.
const VECTOR: usize = 8;
const WARP: usize = 32;
const MAX_THREADS: usize = 1024;
/// Threads of a block that scales a row.
const SCALING_THREADS: usize = 256;
/// Threads of a multiprocessor that normalise rows: as many as have registers for it, since a thread waits for two
/// vectors only.
const NORM_THREADS: usize = 768;
/// Rows that a block normalises, for which it reads weights and biases once.
const NORM_ROWS: usize = 8;

/// One compilation of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Program {
    /// Scales and bias of a product.
    Scale,
    /// Rows to e4m3.
    Rows(Rows),
}

/// Rows that become e4m3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Rows {
    /// f16 rather than bf16.
    pub(super) half: bool,
    pub(super) width: usize,
    pub(super) kind: Kind,
    /// Whether they are written as they are, too.
    pub(super) floats: bool,
}

/// What rows are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Rows as they are.
    Plain,
    /// Heads of this width side by side.
    Heads(usize),
    /// `silu(a) · b`.
    Gated,
    /// Rows that are normalised.
    Normalised,
}

impl Program {
    /// Name of the kernel.
    pub(super) fn name(self) -> &'static CStr {
        match self {
            Self::Scale => c"scale_product",
            Self::Rows(rows) if rows.kind == Kind::Normalised => c"quantize_norm",
            Self::Rows(_) => c"quantize_rows",
        }
    }

    /// Threads of a block.
    pub(super) fn threads(self) -> usize {
        match self {
            Self::Scale => SCALING_THREADS,
            Self::Rows(rows) => rows.cut().0,
        }
    }

    /// Rows of a block.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Rows(rows) if rows.kind == Kind::Normalised => NORM_ROWS,
            _ => 1,
        }
    }

    /// Options for NVRTC.
    pub(super) fn options(self, architecture: &str) -> Vec<String> {
        let macros = match self {
            Self::Scale => vec![("KERNEL", 0), ("HALF", 0), ("THREADS", SCALING_THREADS)],
            Self::Rows(rows) => rows.macros(),
        };
        let macros = macros
            .iter()
            .map(|(name, value)| format!("-D{name}={value}"));
        let options = [architecture.to_string(), "--std=c++17".into()];
        options.into_iter().chain(macros).collect()
    }
}

impl Rows {
    /// Threads of a block, and vectors of a row that each keeps in registers.
    fn cut(self) -> (usize, usize) {
        // Weights and biases take registers, too.
        let vectors = match self.kind {
            Kind::Normalised => 2,
            Kind::Plain | Kind::Heads(_) | Kind::Gated => 4,
        };
        let count = self.width / VECTOR;
        let threads = count.div_ceil(vectors).next_multiple_of(WARP);
        let threads = threads.min(MAX_THREADS);
        (threads, count.div_ceil(threads))
    }

    fn macros(self) -> Vec<(&'static str, usize)> {
        let (threads, vectors) = self.cut();
        let mut macros = vec![
            ("HALF", usize::from(self.half)),
            ("WIDTH", self.width),
            ("THREADS", threads),
            ("VECTORS", vectors),
            ("FLOATS", usize::from(self.floats)),
        ];
        macros.extend(match self.kind {
            Kind::Plain => vec![("KERNEL", 1)],
            Kind::Heads(width) => vec![("KERNEL", 2), ("SEGMENT", width)],
            Kind::Gated => vec![("KERNEL", 3)],
            Kind::Normalised => vec![
                ("KERNEL", 4),
                ("ROWS", NORM_ROWS),
                ("BLOCKS", (NORM_THREADS / threads).max(1)),
            ],
        });
        macros
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Rows};

    #[test]
    fn cuts_cover_rows() {
        for kind in [Kind::Plain, Kind::Normalised] {
            for width in [16, 512, 4096, 11_008, 65_536] {
                let rows = Rows {
                    half: false,
                    width,
                    kind,
                    floats: false,
                };
                let (threads, vectors) = rows.cut();
                assert!(threads.is_multiple_of(32) && threads <= 1024, "{width}");
                assert!(8 * threads * vectors >= width, "{width}");
                assert!(8 * threads * (vectors - 1) < width, "{width}");
            }
        }
    }
}
