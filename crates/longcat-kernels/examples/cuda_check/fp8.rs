//! Rows in fp8 against what the CPU makes of them, bit by bit, and products with them against f64 sums of the
//! same numbers over some rows and columns.

use burn::tensor::{DType, Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use longcat_kernels::cube::launches;
use longcat_kernels::{
    KernelBackend, PackedKind, PackedLayout, PackedWeight, Products, QuantizedRows, layer_norm,
    layer_norm_quantized, layer_norm_with_quantized, linear, linear_packed, linear_quantized,
    merge_heads, merge_heads_with_quantized, quantize_heads, quantize_rows, silu_mul,
    silu_mul_quantized, silu_mul_with_quantized, unpack_weight,
};

use crate::random::Random;
use crate::{Device, Gpu, relative_error};

/// Rows, inputs and outputs: few rows, an odd number of them, and the layers of the released width.
const SHAPES: [[usize; 3]; 6] = [
    [1, 64, 48],
    [301, 1040, 528],
    [2048, 512, 1376],
    [4096, 4096, 12288],
    [4096, 4096, 11008],
    [4096, 11008, 4096],
];
/// Rounding to bf16, and what the sums lose.
const TOLERANCE: f64 = 5e-3;

pub fn run(device: &Device) -> bool {
    let mut ok = true;
    for [rows, inner, out] in SHAPES {
        let mut random = Random(28);
        let x = values(rows, inner, &mut random);
        let weight = values(out, inner, &mut random);
        let bias = random.normals(out);
        // The large ones take seconds on the host.
        let dtypes = [DType::BF16, DType::F16];
        let dtypes = if inner * out > 1 << 22 {
            &dtypes[..1]
        } else {
            &dtypes[..]
        };
        for &dtype in dtypes {
            ok &= check([rows, inner, out], dtype, [&x, &weight, &bias], device);
        }
    }
    for dtype in [DType::BF16, DType::F16] {
        ok &= check_writers(dtype, device);
    }
    let launches = launches();
    println!(
        "fp8: {} products, {} of them scaled after cuBLASLt",
        launches.fp8_products, launches.fp8_scaled_after
    );
    if launches.fp8_products == 0 {
        println!("fp8: no product ran in fp8 FAILED");
    }
    ok && launches.fp8_products > 0
}

/// Normal numbers, of which some columns are large.
fn values(rows: usize, columns: usize, random: &mut Random) -> Vec<f32> {
    let mut values = random.normals(rows * columns);
    for row in values.chunks_mut(columns) {
        row.iter_mut().skip(5).step_by(97).for_each(|x| *x *= 30.0);
    }
    values
}

fn check(
    [rows, inner, out]: [usize; 3],
    dtype: DType,
    [x, weight, bias]: [&[f32]; 3],
    device: &Device,
) -> bool {
    let tensor = |values: &[f32], rows: usize| {
        let columns = values.len() / rows;
        let data = TensorData::new(values.to_vec(), [rows, columns]);
        Tensor::<Gpu, 2>::from_data(data, (device, DType::F32)).cast(dtype)
    };
    let x = tensor(x, rows);
    let bias = tensor(bias, 1).reshape([out]);
    // The CPU's numbers are those of the type.
    let of_type = x.clone().cast(DType::F32).into_data();
    let on_cpu = Tensor::<Flex, 2>::from_data(of_type, (&FlexDevice, DType::F32));
    let (found, expected) = (host(quantize_rows(x.clone())), host(quantize_rows(on_cpu)));
    let wrong = found.0.iter().zip(&expected.0).filter(|(a, b)| a != b);
    let wrong = wrong.count() + usize::from(found.1 != expected.1);
    let mut good = wrong == 0 && found.0.len() == expected.0.len();

    let rows_of_weight = quantize_rows(tensor(weight, out).cast(DType::F32).cast(DType::BF16));
    let (bytes, scales) = host(rows_of_weight);
    let layout = PackedLayout::new(PackedKind::Fp8E4m3, [out, inner]).with_group(inner);
    let packed = PackedWeight::<Gpu>::from_bytes(&bytes, Some(&scales), layout, device);
    let unpacked = unpack_weight(&packed, dtype);
    let packed = packed.with_products(Products::Fp8);
    let weight = Numbers::of(&bytes, &scales);
    let input = Numbers::of(&found.0, &found.1);
    let mut errors = Vec::new();
    for bias in [None, Some(bias)] {
        let y = linear_packed(x.clone(), &packed, bias.clone());
        let lossless = linear(x.clone(), unpacked.clone(), bias.clone());
        let added = bias.map(host_row);
        let (y, lossless) = (host_row(y), host_row(lossless));
        let (mut difference, mut norm, mut lost) = (0.0, 0.0, 0.0);
        for row in (0..rows).step_by((rows / 13).max(1)) {
            for column in (0..out).step_by((out / 17).max(1)) {
                let bias = added.as_ref().map_or(0.0, |bias| f64::from(bias[column]));
                let expected = input.dot(row, &weight, column) + bias;
                let at = row * out + column;
                difference += (f64::from(y[at]) - expected).powi(2);
                lost += (f64::from(y[at]) - f64::from(lossless[at])).powi(2);
                norm += expected.powi(2);
            }
        }
        let error = (difference / norm).sqrt();
        good &= error < TOLERANCE;
        errors.push((error, (lost / norm).sqrt()));
    }
    let words: Vec<String> = errors
        .iter()
        .map(|(error, lost)| format!("{error:.2e} ({lost:.2e} off the unrounded input)"))
        .collect();
    println!(
        "fp8 {rows} x {inner} -> {out} {dtype:?}: {wrong} bytes or scales differ; relative L2 error {}, \
         with bias {}{}",
        words[0],
        words[1],
        if good { "" } else { " FAILED" },
    );
    good
}

/// Rows that are rounded by what writes them, beside those that are rounded later.
fn check_writers(dtype: DType, device: &Device) -> bool {
    let mut random = Random(29);
    let mut tensor = |rows: usize, columns: usize| {
        let data = TensorData::new(values(rows, columns, &mut random), [rows, columns]);
        Tensor::<Gpu, 2>::from_data(data, (device, DType::F32))
    };
    let mut good = true;
    // Groups that end within what a block makes.
    for (rows, groups, width) in [(603, 3, 4096), (5, 1, 512), (6240, 4, 4096)] {
        let x = tensor(rows, width);
        let (weight, bias) = (tensor(groups, width), tensor(groups, width));
        let exact = layer_norm(
            x.clone().cast(dtype).cast(DType::F32),
            weight.clone(),
            bias.clone(),
            1e-6,
        );
        let x = x.cast(dtype);
        let found = layer_norm_quantized(x.clone(), weight.clone(), bias.clone(), 1e-6);
        let later = quantize_rows(layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-6));
        let (floats, rows) = layer_norm_with_quantized(x, weight, bias, 1e-6);
        good &= same_rows("norm", (floats, &rows), &found, &exact);
        good &= compare("norm", [&found, &later], exact);
    }
    for (rows, width) in [(603, 11_008), (7, 1376)] {
        let (a, b) = (
            tensor(rows, width).cast(dtype),
            tensor(rows, width).cast(dtype),
        );
        let [single_a, single_b] = [&a, &b].map(|x| x.clone().cast(DType::F32));
        let exact = silu_mul(single_a, single_b);
        let found = silu_mul_quantized(a.clone(), b.clone());
        let (floats, rows) = silu_mul_with_quantized(a.clone(), b.clone());
        good &= same_rows("gate", (floats, &rows), &found, &exact);
        good &= compare("gate", [&found, &quantize_rows(silu_mul(a, b))], exact);
    }
    let heads = tensor(2 * 32 * 301, 128)
        .cast(dtype)
        .reshape([2, 32, 301, 128]);
    let found = host(quantize_heads(heads.clone()));
    let merged = merge_heads(heads.clone());
    let (floats, rows) = merge_heads_with_quantized(heads);
    let same = found == host(rows) && host_row(floats) == host_row(merged.clone());
    let same = same && found == host(quantize_rows(merged));
    let (x, weight) = (tensor(301, 1040).cast(dtype), tensor(528, 1040));
    let (bytes, scales) = host(quantize_rows(weight.cast(DType::BF16)));
    let layout = PackedLayout::new(PackedKind::Fp8E4m3, [528, 1040]).with_group(1040);
    let weight = PackedWeight::<Gpu>::from_bytes(&bytes, Some(&scales), layout, device);
    let weight = weight.with_products(Products::Fp8);
    let rounded = linear_quantized(&quantize_rows(x.clone()), &weight, None);
    let same_product = host_row(rounded) == host_row(linear_packed(x, &weight, None));
    println!("fp8 {dtype:?}: heads alike: {same}, products of rounded rows alike: {same_product}");
    good && same && same_product
}

/// Whether rows that are written in both ways are those that are rounded alone, and right before that.
fn same_rows(
    name: &str,
    (floats, rows): (Tensor<Gpu, 2>, &QuantizedRows<Gpu, 2>),
    alone: &QuantizedRows<Gpu, 2>,
    exact: &Tensor<Gpu, 2>,
) -> bool {
    let same = host(rows.clone()) == host(alone.clone());
    let error = relative_error(&host_row(floats), &host_row(exact.clone()));
    let good = same && error < TOLERANCE;
    if !good {
        println!("fp8 {name} in both ways: alike: {same}, floats off by {error:.2e} FAILED");
    }
    good
}

/// Whether rows that were rounded as they were written are as near to the exact numbers as others.
fn compare(name: &str, [found, later]: [&QuantizedRows<Gpu, 2>; 2], exact: Tensor<Gpu, 2>) -> bool {
    let exact = host_row(exact);
    let [error, error_later] =
        [found, later].map(|rows| relative_error(&host_row(rows.numbers()), &exact));
    let good = error < 0.04 && error < 1.05 * error_later;
    println!(
        "fp8 {name} {:?} {:?}: relative L2 error {error:.3e}, rounded later {error_later:.3e}{}",
        found.dims,
        found.dtype,
        if good { "" } else { " FAILED" },
    );
    good
}

/// Rows of e4m3 numbers with their scales.
struct Numbers {
    values: Vec<f32>,
    scales: Vec<f32>,
}

impl Numbers {
    fn of(bytes: &[u8], scales: &[f32]) -> Self {
        let mut values = vec![0.0; bytes.len()];
        PackedKind::Fp8E4m3.decode(bytes, &mut values);
        Self {
            values,
            scales: scales.to_vec(),
        }
    }

    fn row(&self, row: usize) -> &[f32] {
        let columns = self.values.len() / self.scales.len();
        &self.values[row * columns..][..columns]
    }

    fn dot(&self, row: usize, other: &Self, other_row: usize) -> f64 {
        let pairs = self.row(row).iter().zip(other.row(other_row));
        let sum: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        sum * f64::from(self.scales[row]) * f64::from(other.scales[other_row])
    }
}

fn host<B: KernelBackend, const D: usize>(rows: QuantizedRows<B, D>) -> (Vec<u8>, Vec<f32>) {
    let scales = rows.scales.into_data().to_vec().expect("f32 data");
    (rows.words.into_data().bytes.to_vec(), scales)
}

fn host_row<const D: usize>(tensor: Tensor<Gpu, D>) -> Vec<f32> {
    let data = tensor.cast(DType::F32).into_data();
    data.to_vec().expect("f32 data")
}
