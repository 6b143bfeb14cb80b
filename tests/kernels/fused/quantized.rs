//! Rows in fp8, and products with them.

use burn::tensor::Tensor;
use longcat_kernels::{
    KernelBackend, PackedKind, PackedLayout, PackedWeight, Products, layer_norm,
    layer_norm_quantized, layer_norm_with_quantized, linear_packed, linear_quantized, merge_heads,
    merge_heads_with_quantized, quantize_heads, quantize_rows, silu_mul, silu_mul_quantized,
    silu_mul_with_quantized,
};

use super::numbers::{assert_same, numbers, tensor};

const ROWS: usize = 5;
const COLUMNS: usize = 64;

/// Rows of which one has an outlier, one is zero and one is tiny.
fn rows() -> Vec<f32> {
    let mut x = numbers(ROWS * COLUMNS, 5);
    x[COLUMNS + 7] = -300.0;
    x[2 * COLUMNS..3 * COLUMNS].fill(0.0);
    x[3 * COLUMNS..4 * COLUMNS]
        .iter_mut()
        .for_each(|x| *x *= 1e-6);
    x
}

/// What the words and scales of rows stand for, in f64.
fn quantized<B: KernelBackend>(x: &[f32]) -> (Vec<f64>, Vec<f32>) {
    let columns = COLUMNS;
    let rows = quantize_rows(tensor::<B, 2>(x, [x.len() / columns, columns]));
    let words = rows.words.into_data();
    let scales = rows.scales.into_data().to_vec::<f32>().unwrap();
    let mut values = vec![0.0; x.len()];
    PackedKind::Fp8E4m3.decode(&words.bytes, &mut values);
    let scaled = values.chunks(columns).zip(&scales);
    let scaled = scaled.flat_map(|(row, s)| row.iter().map(|v| f64::from(*v) * f64::from(*s)));
    (scaled.collect(), scales)
}

/// Numbers are off by half a step of e4m3 at most, the largest of a row by nothing.
pub fn check_rows<B: KernelBackend>() {
    let x = rows();
    let (found, scales) = quantized::<B>(&x);
    for ((x, found), scale) in x.chunks(COLUMNS).zip(found.chunks(COLUMNS)).zip(scales) {
        let most = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        let scale = f64::from(scale);
        assert!((scale - f64::from(most) / 448.0).abs() <= 1e-7 * scale + 1e-30);
        for (x, found) in x.iter().zip(found) {
            let x = f64::from(*x);
            // Three bits after the leading one; below 2^-6 steps of 2^-9.
            let half_step = (x.abs() / 16.0).max(scale / 1024.0);
            assert!((x - found).abs() <= 1.000_001 * half_step, "{x}: {found}");
        }
        let largest = found.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        assert!((largest - f64::from(most)).abs() <= 1e-6 * largest);
    }
}

/// What writes rows and rounds them makes what rounding makes of what it writes.
pub fn check_writers<B: KernelBackend>() {
    let numbers_of = |count: usize, seed: usize| numbers(count * COLUMNS, seed);
    let table = |seed: usize| tensor::<B, 2>(&numbers_of(2, seed), [2, COLUMNS]);
    let x = tensor::<B, 2>(&numbers_of(6, 1), [6, COLUMNS]);
    let other = tensor::<B, 2>(&numbers_of(6, 2), [6, COLUMNS]);
    let pairs = [
        (
            layer_norm_quantized(x.clone(), table(3), table(4), 1e-6),
            quantize_rows(layer_norm(x.clone(), table(3), table(4), 1e-6)),
        ),
        (
            silu_mul_quantized(x.clone(), other.clone()),
            quantize_rows(silu_mul(x.clone(), other.clone())),
        ),
    ];
    let twice = [
        layer_norm_with_quantized(x.clone(), table(3), table(4), 1e-6),
        silu_mul_with_quantized(x.clone(), other.clone()),
    ];
    for ((floats, rows), (found, _)) in twice.into_iter().zip(&pairs) {
        assert_eq!(values(rows.numbers()), values(found.numbers()));
        assert_eq!(
            values(quantize_rows(floats).numbers()),
            values(found.numbers())
        );
    }
    for (found, expected) in pairs {
        assert_eq!(found.dims, expected.dims);
        let [found, expected] = [found, expected].map(|rows| rows.numbers());
        assert_eq!(values(found), values(expected));
    }
    let heads = tensor::<B, 4>(&numbers_of(6, 8), [1, 2, 6, COLUMNS / 2]);
    let found = quantize_heads(heads.clone());
    assert_eq!(found.dims, [1, 6, COLUMNS]);
    let (floats, rows) = merge_heads_with_quantized(heads.clone());
    assert_eq!(values(rows.numbers()), values(found.numbers()));
    assert_eq!(values(floats), values(merge_heads(heads.clone())));
    let expected = quantize_rows(merge_heads(heads));
    assert_eq!(values(found.numbers()), values(expected.numbers()));
}

fn values<B: KernelBackend, const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    x.into_data().to_vec().unwrap()
}

/// Products are those of the numbers of rows and weight, whatever scales the weight has.
pub fn check_products<B: KernelBackend>() {
    let device = B::Device::default();
    let (x, outs) = (rows(), 48);
    let (rounded, _) = quantized::<B>(&x);
    let bias = numbers(outs, 6);
    // Finite patterns of both signs.
    let bytes: Vec<u8> = (0..outs * COLUMNS)
        .map(|i| (i * 37 % 251) as u8)
        .map(|byte| if byte & 0x7f == 0x7f { 0x30 } else { byte })
        .collect();
    let mut numbers_of_weight = vec![0.0; bytes.len()];
    PackedKind::Fp8E4m3.decode(&bytes, &mut numbers_of_weight);
    let layout = PackedLayout::new(PackedKind::Fp8E4m3, [outs, COLUMNS]);
    for scale in [None, Some(vec![0.01]), Some(numbers(outs, 9))] {
        let group = scale
            .as_ref()
            .map_or(layout.group, |s| bytes.len() / s.len());
        let layout = layout.with_group(group);
        let weight = PackedWeight::<B>::from_bytes(&bytes, scale.as_deref(), layout, &device);
        let weight = weight.with_products(Products::Fp8);
        assert_eq!(weight.products, Products::Fp8);
        let scale = |row: usize| match &scale {
            None => 1.0,
            Some(scale) => f64::from(scale[row * scale.len() / outs]),
        };
        let mut expected = Vec::new();
        for x in rounded.chunks(COLUMNS) {
            for (row, w) in numbers_of_weight.chunks(COLUMNS).enumerate() {
                let products = x.iter().zip(w).map(|(x, w)| x * f64::from(*w));
                expected.push(products.sum::<f64>() * scale(row) + f64::from(bias[row]));
            }
        }
        let y = linear_packed(
            tensor::<B, 2>(&x, [ROWS, COLUMNS]),
            &weight,
            Some(tensor(&bias, [outs])),
        );
        let found: Vec<f64> = y.into_data().iter::<f64>().collect();
        assert_same("products in fp8", &found, &expected);
        let rows = quantize_rows(tensor::<B, 2>(&x, [ROWS, COLUMNS]));
        let y = linear_quantized(&rows, &weight, Some(tensor(&bias, [outs])));
        let found: Vec<f64> = y.into_data().iter::<f64>().collect();
        assert_same("products of rounded rows", &found, &expected);
    }
    // Scales within rows, and other types, stay as they are.
    let halves = layout.with_group(COLUMNS / 2);
    let scale = numbers(halves.scales(), 3);
    let weight = PackedWeight::<B>::from_bytes(&bytes, Some(&scale), halves, &device);
    let weight = weight.with_products(Products::Fp8);
    assert_eq!(weight.products, Products::Dense);
}
