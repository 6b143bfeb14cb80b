//! What adapters add to weights, row by row on the host.

use std::thread;

use crate::{Adapter, Block, Change, Patch};

/// One summand of a layer's weight or bias, with its values in f32.
pub(crate) struct Term {
    /// First row of the parameter that it adds to.
    start: usize,
    rows: usize,
    /// Strength, and the scale where the kind is linear in it.
    factor: f64,
    kind: Kind,
}

enum Kind {
    LowRank(Product),
    Full(Vec<f32>),
    Kronecker {
        left: Vec<f32>,
        right: Vec<f32>,
        /// Rows and columns of `right`.
        inner: [usize; 2],
        /// Columns of `left`.
        cols: usize,
    },
    Decomposed {
        product: Product,
        scale: f64,
        magnitude: Vec<f64>,
        /// Factors of the columns, once they are known; otherwise norms are those of rows.
        columns: Option<Vec<f64>>,
    },
}

struct Product {
    rank: usize,
    up: Vec<f32>,
    down: Vec<f32>,
}

impl Product {
    /// Row `row` of `up · down`, summed in f32.
    fn row(&self, row: usize, cols: usize) -> Vec<f32> {
        let factors = &self.up[row * self.rank..(row + 1) * self.rank];
        let mut sum = vec![0.0f32; cols];
        for (factor, down) in factors.iter().zip(self.down.chunks_exact(cols)) {
            sum.iter_mut().zip(down).for_each(|(s, a)| *s += factor * a);
        }
        sum
    }
}

impl Term {
    fn block(block: &Block, strength: f64) -> Self {
        Self {
            start: block.part * block.up.rows(),
            rows: block.up.rows(),
            factor: strength * block.scale,
            kind: Kind::LowRank(Product {
                rank: block.rank(),
                up: block.up.to_f32(),
                down: block.down.to_f32(),
            }),
        }
    }

    fn patch(patch: &Patch, strength: f64) -> Self {
        let [rows, cols] = patch.shape();
        let (factor, kind) = match &patch.change {
            Change::Full(full) => (strength * patch.scale, Kind::Full(full.to_f32())),
            Change::Kronecker { left, right } => (
                strength * patch.scale,
                Kind::Kronecker {
                    left: left.to_f32(),
                    right: right.to_f32(),
                    inner: [right.rows(), right.cols()],
                    cols: left.cols(),
                },
            ),
            Change::Decomposed {
                down,
                up,
                magnitude,
            } => (
                strength,
                Kind::Decomposed {
                    product: Product {
                        rank: down.rows(),
                        up: up.to_f32(),
                        down: down.to_f32(),
                    },
                    scale: patch.scale,
                    // A square of one row and one column has a norm either way.
                    columns: (magnitude.rows() == 1 && rows != 1).then(|| vec![0.0; cols]),
                    magnitude: magnitude.to_f64(),
                },
            ),
        };
        Self {
            start: patch.first_row(),
            rows,
            factor,
            kind,
        }
    }

    /// Whether all rows of the parameter must be at hand.
    fn needs_all_rows(&self) -> bool {
        matches!(&self.kind, Kind::Decomposed { columns, .. } if columns.is_some())
    }

    /// Works out what depends on the whole parameter, whose rows from `first` on are `weight`.
    fn look_at(&mut self, weight: &[f64], cols: usize, first: usize) {
        let Kind::Decomposed {
            product,
            scale,
            magnitude,
            columns: Some(columns),
        } = &mut self.kind
        else {
            return;
        };
        let mut squares = vec![0.0; cols];
        for (row, original) in weight.chunks_exact(cols).enumerate() {
            let Some(own) = (first + row)
                .checked_sub(self.start)
                .filter(|r| *r < self.rows)
            else {
                continue;
            };
            let delta = product.row(own, cols);
            for ((square, w), d) in squares.iter_mut().zip(original).zip(delta) {
                *square += (w + *scale * f64::from(d)).powi(2);
            }
        }
        for ((column, square), m) in columns.iter_mut().zip(squares).zip(magnitude) {
            *column = ratio(*m, square);
        }
    }

    /// Adds row `row` of the parameter, which was `original`, to `sum`.
    fn add_row(&self, row: usize, original: &[f64], sum: &mut [f64]) {
        let Some(row) = row.checked_sub(self.start).filter(|r| *r < self.rows) else {
            return;
        };
        let cols = sum.len();
        let factor = self.factor;
        match &self.kind {
            Kind::LowRank(product) => sum
                .iter_mut()
                .zip(product.row(row, cols))
                .for_each(|(s, d)| *s += factor * f64::from(d)),
            Kind::Full(full) => sum
                .iter_mut()
                .zip(&full[row * cols..(row + 1) * cols])
                .for_each(|(s, d)| *s += factor * f64::from(*d)),
            Kind::Kronecker {
                left,
                right,
                inner: [height, width],
                cols: outer,
            } => {
                let (slow, quick) = (row / height, row % height);
                let left = &left[slow * outer..(slow + 1) * outer];
                let right = &right[quick * width..(quick + 1) * width];
                for (part, l) in sum.chunks_exact_mut(*width).zip(left) {
                    for (s, r) in part.iter_mut().zip(right) {
                        *s += factor * f64::from(l * r);
                    }
                }
            }
            Kind::Decomposed {
                product,
                scale,
                magnitude,
                columns,
            } => {
                let delta = product.row(row, cols);
                let moved: Vec<f64> = original
                    .iter()
                    .zip(delta)
                    .map(|(w, d)| w + scale * f64::from(d))
                    .collect();
                let of_row = match columns {
                    Some(_) => 0.0,
                    None => ratio(magnitude[row], moved.iter().map(|v| v * v).sum()),
                };
                for (col, s) in sum.iter_mut().enumerate() {
                    let rescale = columns.as_ref().map_or(of_row, |c| c[col]);
                    *s += factor * (rescale * moved[col] - original[col]);
                }
            }
        }
    }
}

/// A magnitude over a norm, whose square is given; a direction of length 0 stays 0.
fn ratio(magnitude: f64, square: f64) -> f64 {
    if square == 0.0 {
        return 0.0;
    }
    magnitude / square.sqrt()
}

/// Everything that adapters add to one parameter.
pub(crate) struct Terms(Vec<Term>);

impl Terms {
    /// The summands of adapters, with their strengths, on the weight or bias of a layer.
    pub(crate) fn of(adapters: &[(&Adapter, f64)], layer: &str, bias: bool) -> Self {
        let mut terms = Vec::new();
        for (adapter, strength) in adapters {
            let blocks = adapter.get(layer).filter(|_| !bias).unwrap_or_default();
            terms.extend(blocks.iter().map(|b| Term::block(b, *strength)));
            let patches = adapter.patches_of(layer).iter().filter(|p| p.bias == bias);
            terms.extend(patches.map(|p| Term::patch(p, *strength)));
        }
        Self(terms)
    }

    /// Adds them to `weight`, whose rows are those from `first` on of the parameter: products in
    /// f32, sums in f64, on all processors.
    pub(crate) fn add_to(mut self, weight: &mut [f64], cols: usize, first: usize) {
        let mut original = Vec::new();
        if self
            .0
            .iter()
            .any(|t| matches!(t.kind, Kind::Decomposed { .. }))
        {
            original = weight.to_vec();
            for term in &mut self.0 {
                term.look_at(&original, cols, first);
            }
        }
        let rows = weight.len() / cols;
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = rows.div_ceil(threads).max(1);
        let terms = &self.0;
        let original = &original;
        thread::scope(|scope| {
            for (index, rows) in weight.chunks_mut(share * cols).enumerate() {
                scope.spawn(move || {
                    for (row, sum) in rows.chunks_exact_mut(cols).enumerate() {
                        let row = index * share + row;
                        let before = original.get(row * cols..(row + 1) * cols);
                        for term in terms {
                            term.add_row(first + row, before.unwrap_or_default(), sum);
                        }
                    }
                });
            }
        });
    }

    /// Whether `rows` rows from `first` on are too few to work them out.
    pub(crate) fn need_more_than(&self, first: usize, rows: usize) -> bool {
        self.0.iter().any(|t| {
            let inside = first <= t.start && t.start + t.rows <= first + rows;
            let outside = t.start + t.rows <= first || first + rows <= t.start;
            t.needs_all_rows() && !inside && !outside
        })
    }
}
