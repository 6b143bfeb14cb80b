//! Changes that are no product of two factors, against their definitions in f64.

use burn::module::{Initializer, Param};
use burn::tensor::{DType, Distribution, Tensor, TensorData};
use burn_flex::FlexDevice;
use longcat_lora::{
    Adapter, Block, Change, KeptWeights, LoraHost, LoraLinear, LoraLinearConfig, LoraMerge,
    LoraOptions, LoraRegistry, LoraVector, Matrix, OriginalWeights, Patch, Target, TargetTable,
};
use longcat_weights::Weight;

use crate::common::{B, relative_error};

const ROWS: usize = 12;
const COLS: usize = 8;

/// A layer of two fused parts with a bias, and a norm after it.
struct Model {
    fc: LoraLinear<B>,
    norm: LoraVector<B>,
    targets: TargetTable,
}

impl LoraHost<B> for Model {
    fn visit_lora(&self, visit: &mut dyn FnMut(&str, &LoraLinear<B>)) {
        visit("fc", &self.fc);
    }

    fn visit_lora_mut(&mut self, visit: &mut dyn FnMut(&str, &mut LoraLinear<B>)) {
        visit("fc", &mut self.fc);
    }

    fn visit_vectors(&self, visit: &mut dyn FnMut(&str, &LoraVector<B>)) {
        visit("norm.weight", &self.norm);
    }

    fn visit_vectors_mut(&mut self, visit: &mut dyn FnMut(&str, &mut LoraVector<B>)) {
        visit("norm.weight", &mut self.norm);
    }

    fn target_table(&self) -> &TargetTable {
        &self.targets
    }
}

impl Model {
    fn new() -> Self {
        let fc = Target {
            name: "fc",
            parts: 2,
            split: &[],
        };
        let random = |shape: [usize; 2]| {
            Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &FlexDevice)
        };
        let mut layer: LoraLinear<B> = LoraLinearConfig::new(COLS, ROWS).init(&FlexDevice);
        layer.weight = Weight::Dense(Param::from_tensor(random([ROWS, COLS])));
        Self {
            fc: layer,
            norm: LoraVector::new(Initializer::Ones.init([ROWS], &FlexDevice)),
            targets: TargetTable::new(&[fc], &[]).with_norms(&["norm"]),
        }
    }

    fn weight(&self) -> Vec<f64> {
        floats(self.fc.weight.val().into_data())
    }

    fn bias(&self) -> Vec<f64> {
        floats(self.fc.bias.as_ref().unwrap().val().into_data())
    }

    fn norm(&self) -> Vec<f64> {
        floats(self.norm.val().into_data())
    }
}

fn floats(data: TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}

fn matrix(rows: usize, cols: usize, seed: usize) -> Matrix {
    let value = |i: usize| ((i * 37 + seed * 101) % 97) as f32 / 97.0 - 0.4;
    let values: Vec<f32> = (0..rows * cols).map(value).collect();
    Matrix::from_f32(rows, cols, &values)
}

fn patch(bias: bool, part: usize, of: usize, change: Change, scale: f64) -> Patch {
    Patch {
        bias,
        part,
        of,
        change,
        scale,
    }
}

fn f64s(matrix: &Matrix) -> Vec<f64> {
    matrix.to_f32().into_iter().map(f64::from).collect()
}

/// The values of a difference.
fn full(patch: &Patch) -> Vec<f64> {
    match &patch.change {
        Change::Full(full) => f64s(full),
        other => panic!("{other:?} is no difference"),
    }
}

fn product(up: &Matrix, down: &Matrix) -> Vec<f64> {
    let (u, d, cols) = (f64s(up), f64s(down), down.cols());
    let at = |row: usize, col: usize| -> f64 {
        (0..down.rows())
            .map(|r| u[row * up.cols() + r] * d[r * cols + col])
            .sum()
    };
    (0..up.rows() * cols)
        .map(|i| at(i / cols, i % cols))
        .collect()
}

/// What a patch adds to a weight at strength 1, from its definition.
fn definition(patch: &Patch, weight: &[f64]) -> Vec<f64> {
    let [rows, cols] = patch.shape();
    let first = patch.part * rows;
    let mut delta = vec![0.0; weight.len()];
    let own = &weight[first * cols..(first + rows) * cols];
    let part: Vec<f64> = match &patch.change {
        Change::Full(full) => f64s(full).iter().map(|v| patch.scale * v).collect(),
        Change::Kronecker { left, right } => {
            let (l, r) = (f64s(left), f64s(right));
            let value = |row: usize, col: usize| {
                let (h, w) = (right.rows(), right.cols());
                let slow = l[row / h * left.cols() + col / w];
                patch.scale * slow * r[row % h * w + col % w]
            };
            (0..rows * cols)
                .map(|i| value(i / cols, i % cols))
                .collect()
        }
        Change::Decomposed {
            down,
            up,
            magnitude,
        } => {
            let product = product(up, down);
            let moved: Vec<f64> = (0..rows * cols)
                .map(|i| own[i] + patch.scale * product[i])
                .collect();
            let by_row = magnitude.rows() == rows;
            let m = f64s(magnitude);
            let norm = |i: usize| -> f64 {
                let line = |j: &usize| match by_row {
                    true => j / cols == i / cols,
                    false => j % cols == i % cols,
                };
                let squares = (0..rows * cols).filter(line).map(|j| moved[j].powi(2));
                squares.sum::<f64>().sqrt()
            };
            let of = |i: usize| m[if by_row { i / cols } else { i % cols }];
            (0..rows * cols)
                .map(|i| of(i) * moved[i] / norm(i) - own[i])
                .collect()
        }
    };
    delta[first * cols..(first + rows) * cols].copy_from_slice(&part);
    delta
}

/// Patches of every kind, on the whole layer and on its second part.
fn kinds() -> Vec<(&'static str, Patch)> {
    let decomposed = |rows: usize, magnitude: Matrix| Change::Decomposed {
        down: matrix(3, COLS, 3),
        up: matrix(rows, 3, 4),
        magnitude,
    };
    let kronecker = |rows: usize| Change::Kronecker {
        left: matrix(2, 4, 5),
        right: matrix(rows / 2, COLS / 4, 6),
    };
    vec![
        (
            "difference",
            patch(false, 0, 1, Change::Full(matrix(ROWS, COLS, 1)), 1.0),
        ),
        (
            "of a part",
            patch(false, 1, 2, Change::Full(matrix(ROWS / 2, COLS, 2)), 1.0),
        ),
        ("LoKr", patch(false, 0, 1, kronecker(ROWS), 0.7)),
        (
            "LoKr of a part",
            patch(false, 1, 2, kronecker(ROWS / 2), 1.3),
        ),
        (
            "DoRA by rows",
            patch(false, 0, 1, decomposed(ROWS, matrix(ROWS, 1, 7)), 0.5),
        ),
        (
            "DoRA by columns",
            patch(false, 0, 1, decomposed(ROWS, matrix(1, COLS, 8)), 0.5),
        ),
        (
            "DoRA of a part",
            patch(
                false,
                0,
                2,
                decomposed(ROWS / 2, matrix(ROWS / 2, 1, 9)),
                2.0,
            ),
        ),
    ]
}

#[test]
fn beside_the_weight_merged_and_defined_are_the_same_and_taken_off_exactly() {
    let strength = 0.6;
    let options = LoraOptions {
        strength,
        dtype: None,
    };
    let bias = Change::Full(matrix(ROWS, 1, 10));
    let norm = Change::Full(matrix(ROWS, 1, 11));
    for (kind, change) in kinds() {
        let mut model = Model::new();
        let mut adapter = Adapter::new(kind);
        let patches = vec![change.clone(), patch(true, 0, 1, bias.clone(), 1.0)];
        adapter.insert_patches("fc", patches).unwrap();
        let of_norm = patch(false, 0, 1, norm.clone(), 1.0);
        adapter.insert_patches("norm", vec![of_norm]).unwrap();
        let low_rank = Block {
            part: 0,
            of: 1,
            down: matrix(2, COLS, 12),
            up: matrix(ROWS, 2, 13),
            scale: 0.25,
        };
        adapter.insert("fc", vec![low_rank.clone()]).unwrap();

        let x = Tensor::<B, 2>::random([5, COLS], Distribution::Uniform(-1.0, 1.0), &FlexDevice);
        let run = |model: &Model| floats(model.fc.forward(x.clone()).into_data());
        let (before, weight, unpatched) = (run(&model), model.weight(), model.norm());
        let report = model.load_adapter("a", &adapter, options).unwrap();
        assert_eq!(report.applied, ["fc", "norm"]);

        let delta = definition(&change, &weight);
        let pairs = product(&low_rank.up, &low_rank.down);
        let inputs = floats(x.clone().into_data());
        let bias_change = full(&patch(true, 0, 1, bias.clone(), 1.0));
        let expected: Vec<f64> = (0..5 * ROWS)
            .map(|i| {
                let (sample, row) = (i / ROWS, i % ROWS);
                let sum: f64 = (0..COLS)
                    .map(|col| {
                        let at = row * COLS + col;
                        let changed = weight[at] + strength * (delta[at] + 0.25 * pairs[at]);
                        inputs[sample * COLS + col] * changed
                    })
                    .sum();
                sum + model.bias()[row] + strength * bias_change[row]
            })
            .collect();
        let error = relative_error(&run(&model), &expected);
        assert!(error < 1e-5, "{kind} beside the weight: {error}");
        let patched = model.norm();
        for (i, value) in patched.iter().enumerate() {
            let change = full(&patch(false, 0, 1, norm.clone(), 1.0))[i];
            assert!((value - 1.0 - strength * change).abs() < 1e-6, "{kind}");
        }

        let kept: KeptWeights = model.weights_to_merge().unwrap();
        model.merge_adapters().unwrap();
        let error = relative_error(&run(&model), &expected);
        assert!(error < 1e-5, "{kind} merged: {error}");
        let merged: Vec<f64> = (0..ROWS * COLS)
            .map(|i| weight[i] + strength * (delta[i] + 0.25 * pairs[i]))
            .collect();
        let error = relative_error(&model.weight(), &merged);
        assert!(error < 1e-6, "{kind}, merged weight: {error}");
        model.unmerge_adapters(&kept).unwrap();
        assert_eq!(model.weight(), weight, "{kind}");
        assert_eq!(kept.shape("fc").unwrap(), [ROWS, COLS]);

        model.set_adapter_strength("a", 0.0).unwrap();
        assert_eq!(
            (run(&model), model.norm()),
            (before.clone(), unpatched.clone())
        );
        model.set_adapter_strength("a", strength).unwrap();
        assert_eq!(model.norm(), patched, "{kind}");
        model.use_adapters(&[]).unwrap();
        assert_eq!(
            (run(&model), model.norm()),
            (before.clone(), unpatched.clone())
        );
        model.use_adapters(&[("a", 1.0)]).unwrap();
        model.unload_adapter("a").unwrap();
        assert_eq!((run(&model), model.norm()), (before, unpatched));
        assert!(model.adapters().is_empty());
    }
}

#[test]
fn patches_that_do_not_fit_change_nothing() {
    let mut model = Model::new();
    let load = |model: &mut Model, layer: &str, patch: Patch| {
        let mut adapter = Adapter::new("a");
        adapter.insert_patches(layer, vec![patch]).unwrap();
        model
            .load_adapter("a", &adapter, LoraOptions::default())
            .map_err(|e| e.code())
    };
    let of_shape = |rows, cols| Change::Full(matrix(rows, cols, 1));
    let cases = [
        (
            "fc",
            patch(false, 0, 1, of_shape(ROWS, COLS + 1), 1.0),
            "shape_mismatch",
        ),
        (
            "fc",
            patch(true, 0, 1, of_shape(ROWS + 1, 1), 1.0),
            "shape_mismatch",
        ),
        (
            "norm",
            patch(false, 0, 1, of_shape(ROWS - 1, 1), 1.0),
            "shape_mismatch",
        ),
        (
            "norm",
            patch(true, 0, 1, of_shape(ROWS, 1), 1.0),
            "unknown_module",
        ),
        (
            "other",
            patch(false, 0, 1, of_shape(ROWS, COLS), 1.0),
            "unknown_module",
        ),
    ];
    for (layer, patch, code) in cases {
        assert_eq!(load(&mut model, layer, patch).unwrap_err(), code);
        assert!(model.adapters().is_empty());
    }
    let mut factors = Adapter::new("factors on a vector");
    let block = Block {
        part: 0,
        of: 1,
        down: matrix(1, 1, 1),
        up: matrix(ROWS, 1, 1),
        scale: 1.0,
    };
    factors.insert("norm", vec![block]).unwrap();
    let error = model
        .load_adapter("a", &factors, LoraOptions::default())
        .unwrap_err();
    assert_eq!(error.code(), "unknown_module");
}

#[test]
fn a_merged_weight_that_its_type_cannot_hold_is_an_error() {
    for (dtype, strength) in [(DType::F16, 1e6), (DType::F32, 1e38)] {
        let mut model = Model::new();
        let weight = model.fc.weight.val().cast(dtype);
        model.fc.weight = Weight::Dense(Param::from_tensor(weight));
        let mut adapter = Adapter::new("loud");
        let loud = Change::Full(Matrix::from_f32(ROWS, COLS, &[100.0; ROWS * COLS]));
        adapter
            .insert_patches("fc", vec![patch(false, 0, 1, loud, 1.0)])
            .unwrap();
        let options = LoraOptions {
            strength,
            dtype: Some(DType::F32),
        };
        model.load_adapter("a", &adapter, options).unwrap();
        let error = model.merge_adapters().unwrap_err();
        assert_eq!(error.code(), "overflow");
        assert!(error.to_string().contains("fc"), "{error}");
        assert!(!model.adapters()[0].merged);
    }
}

#[test]
fn combined_adapters_do_what_their_parts_do_together() {
    let blocks = |of: usize, seed: usize| -> Vec<Block> {
        let block = |part| Block {
            part,
            of,
            down: matrix(1 + seed, COLS, seed + part),
            up: matrix(ROWS / of, 1 + seed, seed + 9 + part),
            scale: 0.3 * seed as f64,
        };
        (0..of).map(block).collect()
    };
    let mut adapters = Vec::new();
    for (of, seed) in [(1, 1), (2, 2), (1, 3)] {
        let mut adapter = Adapter::new("part");
        adapter.insert("fc", blocks(of, seed)).unwrap();
        let of_bias = patch(true, 0, 1, Change::Full(matrix(ROWS, 1, seed)), 1.0);
        adapter.insert_patches("fc", vec![of_bias]).unwrap();
        adapters.push(adapter);
    }
    let strengths = [0.8, -0.5, 1.0];
    let list: Vec<(&Adapter, f64)> = adapters.iter().zip(strengths).collect();
    let combined = Adapter::combine(&list).unwrap();
    let mut expected = vec![0.0; ROWS * COLS];
    let mut bias = vec![0.0; ROWS];
    for (adapter, strength) in &list {
        let delta = crate::common::delta(adapter.get("fc").unwrap());
        expected
            .iter_mut()
            .zip(delta)
            .for_each(|(e, d)| *e += strength * d);
        let change = full(&adapter.patches_of("fc")[0]);
        bias.iter_mut()
            .zip(change)
            .for_each(|(b, d)| *b += strength * d);
    }
    let found = crate::common::delta(combined.get("fc").unwrap());
    assert!(relative_error(&found, &expected) < 1e-6);
    let [sum] = combined.patches_of("fc") else {
        panic!("one difference");
    };
    assert!(relative_error(&full(sum), &bias) < 1e-6);
}
