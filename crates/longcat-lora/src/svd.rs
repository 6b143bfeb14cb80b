//! Adapters of fewer ranks, and adapters from two checkpoints, by singular value decomposition.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use longcat_weights::WeightFiles;
use nalgebra::{DMatrix, DVector};
use serde::Serialize;

use crate::checkpoint::{Parameter, matrix_shape};
use crate::{Adapter, Block, LoraError, Matrix, TargetTable};

/// How many singular values are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RankRule {
    /// At most so many.
    Rank(usize),
    /// The fewest that hold this share of the sum of all squares, from 0 to 1.
    Energy(f64),
}

/// How close an approximation is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LowRankReport {
    /// Norm of what was lost over the norm of what was there, over all layers.
    pub relative_error: f64,
    /// The layer with the largest relative error of its own, and that error.
    pub worst: Option<(String, f64)>,
    /// Ranks, with how many blocks have each.
    pub ranks: BTreeMap<usize, usize>,
    /// Tensors that differ and are not in the adapter: biases, norms, and what carries no adapter.
    pub left_out: Vec<String>,
}

/// A difference of some rows of a layer, to be approximated.
struct Task {
    layer: String,
    part: usize,
    of: usize,
    scale: f64,
    source: Source,
}

enum Source {
    Product {
        up: Matrix,
        down: Matrix,
    },
    /// A key of both files, and rows of its tensors.
    Difference {
        key: String,
        first: usize,
        rows: usize,
    },
}

struct Done {
    task: usize,
    block: Option<Block>,
    lost: f64,
    total: f64,
}

impl RankRule {
    fn check(self) -> Result<(), LoraError> {
        let what = match self {
            Self::Rank(0) => "the rank must be at least 1".to_string(),
            Self::Energy(share) if !(share > 0.0 && share <= 1.0) => {
                format!("the energy {share} is not a share above 0 and up to 1")
            }
            _ => return Ok(()),
        };
        Err(LoraError::InvalidSetting { what })
    }

    /// How many of these descending singular values are kept; none that is 0.
    fn count(self, values: &[f64], total: f64) -> usize {
        let positive = values.iter().filter(|v| **v > 0.0).count();
        match self {
            Self::Rank(rank) => rank.min(positive),
            Self::Energy(share) => {
                let mut sum = 0.0;
                let enough = values.iter().position(|v| {
                    sum += v * v;
                    sum >= share * total
                });
                enough.map_or(positive, |last| (last + 1).min(positive))
            }
        }
    }
}

impl Adapter {
    /// The adapter with fewer ranks, as close to it as they allow: factors in f32, scales 1.
    /// Changes that are no product of two factors stay as they are. `progress` hears of blocks done
    /// and of how many there are.
    ///
    /// # Errors
    /// [`LoraError::InvalidSetting`] for a rank of 0 or a share that is none.
    pub fn resized(
        &self,
        rule: RankRule,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(Self, LowRankReport), LoraError> {
        rule.check()?;
        let tasks: Vec<Task> = self
            .targets()
            .flat_map(|(layer, blocks)| {
                blocks.iter().map(move |block| Task {
                    layer: layer.to_string(),
                    part: block.part,
                    of: block.of,
                    scale: block.scale,
                    source: Source::Product {
                        up: block.up.clone(),
                        down: block.down.clone(),
                    },
                })
            })
            .collect();
        let (mut adapter, report) = approximate(&tasks, rule, None, progress)?;
        adapter.metadata.clone_from(&self.metadata);
        for (layer, patches) in self.patches() {
            adapter.insert_patches(layer, patches.to_vec())?;
        }
        Ok((adapter, report))
    }

    /// The adapter that turns one checkpoint into another, as closely as the rank allows: one pair
    /// of factors per part of a fused layer, in f32, scales 1. Both are the files of a transformer
    /// in the spelling of `table`.
    ///
    /// # Errors
    /// [`LoraError::ShapeMismatch`] where the checkpoints have different shapes,
    /// [`LoraError::InvalidSetting`] where a tensor is in one only, or nothing differs;
    /// [`LoraError::File`] for tensors that cannot be read.
    pub fn extracted(
        base: &WeightFiles,
        tuned: &WeightFiles,
        table: &TargetTable,
        rank: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(Self, LowRankReport), LoraError> {
        let rule = RankRule::Rank(rank);
        rule.check()?;
        let mut tasks = Vec::new();
        let mut left_out = Vec::new();
        for key in tuned.keys() {
            let (Some(own), Some(info)) = (base.info(key), tuned.info(key)) else {
                return Err(LoraError::InvalidSetting {
                    what: format!("{}: there is no {key}", base.path().display()),
                });
            };
            if own.shape != info.shape {
                return Err(LoraError::ShapeMismatch {
                    path: tuned.path().to_path_buf(),
                    target: key.to_string(),
                    key: key.to_string(),
                    found: info.shape,
                    expected: format!("but {:?} in the base", own.shape),
                });
            }
            if own.dtype == info.dtype && base.bytes(key)? == tuned.bytes(key)? {
                continue;
            }
            let parameter = Parameter::of(key, table);
            let parameter = parameter.filter(|p| !p.bias && !table.is_norm(&p.layer));
            let Some(parameter) = parameter.filter(|_| info.shape.len() > 1) else {
                left_out.push(key.to_string());
                continue;
            };
            let [rows, _] = matrix_shape(&info.shape);
            let parts = table.parts(&parameter.layer);
            let own = match parameter.part {
                Some(part) => vec![(part, 0, rows)],
                None => (0..parts)
                    .map(|part| (part, part * (rows / parts), rows / parts))
                    .collect(),
            };
            for (part, first, rows) in own {
                tasks.push(Task {
                    layer: parameter.layer.clone(),
                    part,
                    of: parts,
                    scale: 1.0,
                    source: Source::Difference {
                        key: key.to_string(),
                        first,
                        rows,
                    },
                });
            }
        }
        if tasks.is_empty() {
            return Err(LoraError::InvalidSetting {
                what: "the checkpoints differ in no layer that an adapter can change".into(),
            });
        }
        let (adapter, mut report) = approximate(&tasks, rule, Some((base, tuned)), progress)?;
        report.left_out = left_out;
        Ok((adapter, report))
    }
}

fn approximate(
    tasks: &[Task],
    rule: RankRule,
    files: Option<(&WeightFiles, &WeightFiles)>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Adapter, LowRankReport), LoraError> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let (sender, results) = channel();
    let mut done: Vec<Done> = Vec::new();
    thread::scope(|scope| -> Result<(), LoraError> {
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = tasks.get(index) else {
                        return;
                    };
                    let result = task.run(index, rule, files);
                    // Nobody listens after an error.
                    if sender.send(result).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for result in results {
            done.push(result?);
            progress(done.len(), tasks.len());
        }
        Ok(())
    })?;
    done.sort_by_key(|d| d.task);
    let mut report = LowRankReport {
        relative_error: 0.0,
        worst: None,
        ranks: BTreeMap::new(),
        left_out: Vec::new(),
    };
    let mut layers: BTreeMap<&str, (Vec<Block>, f64, f64)> = BTreeMap::new();
    for one in done {
        let layer = layers.entry(&tasks[one.task].layer).or_default();
        layer.1 += one.lost;
        layer.2 += one.total;
        if let Some(block) = one.block {
            *report.ranks.entry(block.rank()).or_default() += 1;
            layer.0.push(block);
        }
    }
    let mut adapter = Adapter::new("low-rank approximation");
    let (mut lost, mut total) = (0.0, 0.0);
    for (name, (blocks, own_lost, own_total)) in layers {
        (lost, total) = (lost + own_lost, total + own_total);
        let error = relative(own_lost, own_total);
        if report
            .worst
            .as_ref()
            .is_none_or(|(_, worst)| error > *worst)
        {
            report.worst = Some((name.to_string(), error));
        }
        if !blocks.is_empty() {
            adapter.insert(name, blocks)?;
        }
    }
    report.relative_error = relative(lost, total);
    Ok((adapter, report))
}

fn relative(lost: f64, total: f64) -> f64 {
    if total == 0.0 {
        0.0
    } else {
        (lost / total).sqrt()
    }
}

impl Task {
    fn run(
        &self,
        task: usize,
        rule: RankRule,
        files: Option<(&WeightFiles, &WeightFiles)>,
    ) -> Result<Done, LoraError> {
        let found = match (&self.source, files) {
            (Source::Product { up, down }, _) => {
                let matrix = |m: &Matrix| DMatrix::from_row_slice(m.rows(), m.cols(), &m.to_f64());
                of_product(matrix(up) * self.scale, matrix(down), rule)
            }
            (Source::Difference { key, first, rows }, Some((base, tuned))) => {
                let (base, tuned) = (base.tensor_data(key)?, tuned.tensor_data(key)?);
                let cols = base.num_elements() / base.shape[0];
                let (skip, count) = (first * cols, rows * cols);
                let values: Vec<f32> = tuned
                    .iter::<f64>()
                    .zip(base.iter::<f64>())
                    .skip(skip)
                    .take(count)
                    .map(|(t, b)| (t - b) as f32)
                    .collect();
                of_matrix(&DMatrix::from_row_slice(*rows, cols, &values), rule)
            }
            (Source::Difference { .. }, None) => unreachable!("differences come with files"),
        };
        let block = (found.down.nrows() > 0).then(|| Block {
            part: self.part,
            of: self.of,
            down: to_matrix(&found.down),
            up: to_matrix(&found.up),
            scale: 1.0,
        });
        Ok(Done {
            task,
            block,
            lost: (found.total - found.kept).max(0.0),
            total: found.total,
        })
    }
}

fn to_matrix(matrix: &DMatrix<f64>) -> Matrix {
    let values: Vec<f32> = matrix.transpose().iter().map(|v| *v as f32).collect();
    Matrix::from_f32(matrix.nrows(), matrix.ncols(), &values)
}

struct Found {
    up: DMatrix<f64>,
    down: DMatrix<f64>,
    /// Sums of squares, kept and of everything.
    kept: f64,
    total: f64,
}

/// The best approximation of `up · down`, exactly: both are orthogonal times a small triangle, and
/// the product of the triangles has the same singular values.
fn of_product(up: DMatrix<f64>, down: DMatrix<f64>, rule: RankRule) -> Found {
    let (left, right) = (up.qr(), down.transpose().qr());
    let core = left.r() * right.r().transpose();
    let total = core.norm_squared();
    cut(&left.q(), core, &right.q(), total, rule)
}

/// An approximation of a large matrix from products with a few random directions, refined by power
/// iterations (Halko, Martinsson, Tropp 2011).
fn of_matrix(matrix: &DMatrix<f32>, rule: RankRule) -> Found {
    const MORE: usize = 16;
    const ITERATIONS: usize = 2;
    let total: f64 = matrix.iter().map(|v| f64::from(*v).powi(2)).sum();
    let smaller = matrix.nrows().min(matrix.ncols());
    let columns = match rule {
        RankRule::Rank(rank) => (rank + MORE).min(smaller),
        RankRule::Energy(_) => smaller,
    };
    let directions = DMatrix::from_fn(matrix.ncols(), columns, direction);
    let mut range = (matrix * directions).qr().q();
    for _ in 0..ITERATIONS {
        let back = matrix.tr_mul(&range).qr().q();
        range = (matrix * back).qr().q();
    }
    let small = range.tr_mul(matrix).cast::<f64>();
    let rows = small.transpose().qr();
    cut(
        &range.cast::<f64>(),
        rows.r().transpose(),
        &rows.q(),
        total,
        rule,
    )
}

/// A fixed number between −1 and 1, so that results do not depend on chance (splitmix64).
fn direction(row: usize, col: usize) -> f32 {
    let mut x = ((row as u64) << 32) ^ col as u64 ^ 0x9e37_79b9_7f4a_7c15;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// `left · core · rightᵀ` with the largest singular values of `core` alone, their roots on both sides.
fn cut(
    left: &DMatrix<f64>,
    core: DMatrix<f64>,
    right: &DMatrix<f64>,
    total: f64,
    rule: RankRule,
) -> Found {
    let (rows, cols) = (left.nrows(), right.nrows());
    let svd = core.svd(true, true);
    let (Some(u), Some(v)) = (svd.u, svd.v_t) else {
        unreachable!("both sides were asked for");
    };
    let values = svd.singular_values.as_slice();
    let count = rule.count(values, total);
    let kept: f64 = values[..count].iter().map(|s| s * s).sum();
    if count == 0 {
        return Found {
            up: DMatrix::zeros(rows, 0),
            down: DMatrix::zeros(0, cols),
            kept,
            total,
        };
    }
    let roots = DVector::from_iterator(count, values[..count].iter().map(|s| s.sqrt()));
    let roots = DMatrix::from_diagonal(&roots);
    Found {
        up: left * u.columns(0, count) * &roots,
        down: roots * v.rows(0, count) * right.transpose(),
        kept,
        total,
    }
}
