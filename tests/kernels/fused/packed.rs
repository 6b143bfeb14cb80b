//! Packed weights: their numbers against those of the `gguf` package and of PyTorch's fp8, bit by bit, and
//! products with them against products with those numbers.

use std::path::Path;

use burn::tensor::{DType, Tensor, bf16, f16};
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::strategy::{
    BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
};
use longcat_kernels::{
    KernelBackend, PackedKind, PackedLayout, PackedWeight, linear, linear_packed, unpack_weight,
};
use safetensors::SafeTensors;

use super::numbers::{assert_same, numbers, tensor};

/// Bytes of each kind, and what other programs make of them (`tests/golden/write_packed.py`).
struct Golden(Vec<u8>);

impl Golden {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/packed.safetensors");
        Self(std::fs::read(path).unwrap())
    }

    fn of(&self, kind: PackedKind) -> (Vec<u8>, Vec<f32>) {
        let name = format!("{kind:?}").to_lowercase();
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let bytes = |what: &str| tensors.tensor(&format!("{name}.{what}")).unwrap().data();
        let (values, _) = bytes("values").as_chunks::<4>();
        let values = values.iter().map(|x| f32::from_le_bytes(*x)).collect();
        (bytes("bytes").to_vec(), values)
    }
}

/// Some shapes of so many values, of rows that are whole blocks.
fn shapes(kind: PackedKind, count: usize) -> Vec<[usize; 2]> {
    let columns: &[usize] = match kind.elements() {
        256 => &[256, 768],
        32 => &[32, 128],
        // Also such that vectors lie across rows.
        _ => &[1, 2, 64, 256],
    };
    columns.iter().map(|c| [count / c, *c]).collect()
}

/// No scale, and scales of the tensor, of rows and of halves of rows. They act on numbers of every kind alike,
/// so that one kind without blocks and one of blocks, which seldom have them, will do.
fn groups(kind: PackedKind, [rows, columns]: [usize; 2]) -> Vec<Option<usize>> {
    if !matches!(kind, PackedKind::Fp8E4m3 | PackedKind::Q4_K) {
        return vec![None];
    }
    let mut groups = vec![None, Some(rows * columns), Some(columns)];
    groups.extend(columns.is_multiple_of(2).then_some(Some(columns / 2)));
    groups
}

fn rounded(values: &[f32], dtype: DType) -> Vec<u8> {
    let each = values.iter();
    match dtype {
        DType::F32 => each.flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => each.flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        _ => each
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect(),
    }
}

/// The numbers of every kind, in every dtype, with and without scales.
pub fn check_numbers<B: KernelBackend>(dtypes: &[DType]) {
    let golden = Golden::read();
    let device = B::Device::default();
    for kind in PackedKind::ALL {
        let (bytes, values) = golden.of(kind);
        for shape in shapes(kind, values.len()) {
            for group in groups(kind, shape) {
                let layout = PackedLayout::new(kind, shape);
                let layout = group.map_or(layout, |group| layout.with_group(group));
                assert!(layout.is_valid());
                let scale = group.map(|_| numbers(layout.scales(), 3));
                let weight =
                    PackedWeight::<B>::from_bytes(&bytes, scale.as_deref(), layout, &device);
                let mut expected = values.clone();
                if let Some(scale) = &scale {
                    let groups = expected.chunks_mut(layout.group);
                    for (values, scale) in groups.zip(scale) {
                        values.iter_mut().for_each(|v| *v *= scale);
                    }
                }
                for &dtype in dtypes {
                    let found = unpack_weight(&weight, dtype);
                    assert_eq!(found.dims(), shape);
                    let found = found.into_data();
                    assert_eq!(found.dtype, dtype);
                    let expected = rounded(&expected, dtype);
                    let size = dtype.size();
                    let pairs = found.bytes.chunks(size).zip(expected.chunks(size));
                    let wrong = pairs.clone().filter(|(a, b)| a != b).count();
                    let first = pairs.enumerate().find(|(_, (a, b))| a != b);
                    assert_eq!(wrong, 0, "{layout:?} in {dtype:?}: {first:x?}");
                }
            }
        }
    }
}

/// A weight of some kind with a scale of its rows.
fn weight<B: KernelBackend>(kind: PackedKind) -> PackedWeight<B> {
    let (bytes, values) = Golden::read().of(kind);
    let columns = kind.elements().max(64);
    let layout = PackedLayout::new(kind, [values.len() / columns, columns]).with_group(columns);
    let scale = numbers(layout.scales(), 4);
    let device = B::Device::default();
    PackedWeight::from_bytes(&bytes, Some(&scale), layout, &device)
}

/// Products of few rows, which some backends compute without unpacking, and of more: those of the numbers that
/// unpacking gives in the same dtype. One kind of each size of blocks, since each case compiles a kernel and what
/// decodes a kind is shared with unpacking, which [`check_numbers`] tries on all.
pub fn check_few_rows<B: KernelBackend>(dtypes: &[DType]) {
    let golden = Golden::read();
    let device = B::Device::default();
    let mut counts = [1, 2, 5, 4, 3, 17].into_iter().cycle();
    for kind in [PackedKind::Fp8E4m3, PackedKind::Q8_0, PackedKind::Q4_K] {
        let (bytes, values) = golden.of(kind);
        // Several rows, as those of fp8 with NaN tell nothing.
        let d_in = kind.elements().max(64);
        let d_out = values.len() / d_in;
        let shape = [d_out, d_in];
        for (group, rows) in groups(kind, shape).into_iter().zip(&mut counts) {
            let layout = PackedLayout::new(kind, shape);
            let layout = group.map_or(layout, |group| layout.with_group(group));
            let scale = group.map(|_| numbers(layout.scales(), 3));
            let weight = PackedWeight::<B>::from_bytes(&bytes, scale.as_deref(), layout, &device);
            let (x, bias) = (numbers(rows * d_in, 10), numbers(d_out, 11));
            // Of more rows the product is another one, of floats.
            let dtypes = if rows > 4 { &dtypes[..1] } else { dtypes };
            for &dtype in dtypes {
                let x = tensor::<B, 2>(&x, [rows, d_in]).cast(dtype);
                let bias = tensor::<B, 1>(&bias, [d_out]).cast(dtype);
                let bias = (rows % 2 == 1).then_some(bias);
                let found = linear_packed(x.clone(), &weight, bias.clone());
                assert_eq!((found.dims(), found.dtype()), ([rows, d_out], dtype));
                let unpacked = unpack_weight(&weight, dtype);
                let of = |x: Tensor<B, 2>| -> Vec<f64> { x.into_data().iter::<f64>().collect() };
                let bias: Vec<f64> = match bias {
                    Some(bias) => bias.into_data().iter::<f64>().collect(),
                    None => vec![0.0; d_out],
                };
                let (x, unpacked, found) = (of(x), of(unpacked), of(found));
                let most = match dtype {
                    DType::F32 => 1e-5,
                    _ => 1e-3,
                };
                for (row, found) in x.chunks(d_in).zip(found.chunks(d_out)) {
                    let features = unpacked.chunks(d_in).zip(&bias).zip(found);
                    for ((weights, bias), found) in features {
                        let products = row.iter().zip(weights).map(|(x, w)| x * w);
                        let sum = products.clone().sum::<f64>() + bias;
                        let size = products.map(f64::abs).sum::<f64>() + bias.abs() + 1e-3;
                        if !sum.is_finite() || size > 60_000.0 {
                            continue;
                        }
                        let off = (found - sum).abs() / size;
                        assert!(off < most, "{layout:?}, {rows} rows in {dtype:?}: {off:e}");
                    }
                }
            }
        }
    }
}

/// Products and their gradients are those of a dense weight of the same numbers.
pub fn check_products<B: KernelBackend>() {
    check_gradients::<B, NoCheckpointing>();
    check_gradients::<B, BalancedCheckpointing>();
    for kind in [PackedKind::Fp8E4m3, PackedKind::Q8_0, PackedKind::Q4_K] {
        let weight = weight::<B>(kind);
        let [d_out, d_in] = weight.shape();
        let dense = unpack_weight(&weight, DType::F32).into_data();
        let dense = dense.to_vec::<f32>().unwrap();
        let (x, bias) = (numbers(3 * d_in, 5), numbers(d_out, 6));
        // Sums, and sums of magnitudes, which rounding is measured by.
        let mut expected = Vec::new();
        for row in x.chunks(d_in) {
            for (weights, bias) in dense.chunks(d_in).zip(&bias) {
                let pairs = row.iter().zip(weights);
                let products = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w));
                let sum = products.clone().sum::<f64>() + f64::from(*bias);
                expected.push((sum, products.map(f64::abs).sum::<f64>() + 1.0));
            }
        }
        let x = tensor::<B, 3>(&x, [1, 3, d_in]);
        let y = linear_packed(x, &weight, Some(tensor(&bias, [d_out])));
        assert_eq!(y.dims(), [1, 3, d_out]);
        let y = y.into_data().to_vec::<f32>().unwrap();
        for (y, (sum, size)) in y.iter().zip(&expected) {
            let off = (f64::from(*y) - sum).abs() / size;
            assert!(off < 1e-5, "{kind:?}: off by {off:e}");
        }
    }
}

/// The gradients of `Σ linear(x) · weights` in `x` and the bias.
fn check_gradients<B: KernelBackend, C: CheckpointStrategy>() {
    let weight = weight::<Autodiff<B, C>>(PackedKind::Q5_K);
    let [d_out, d_in] = weight.shape();
    let dense = unpack_weight(&weight, DType::F32);
    let gradients = |packed: bool, with_bias: bool| -> Vec<f64> {
        let x = tensor::<Autodiff<B, C>, 3>(&numbers(6 * d_in, 7), [2, 3, d_in]).require_grad();
        let bias = tensor::<Autodiff<B, C>, 1>(&numbers(d_out, 8), [d_out]).require_grad();
        let added = with_bias.then(|| bias.clone());
        // An operation before it, whose output checkpointing may compute again.
        let input = x.clone() * 0.5;
        let y = match packed {
            true => linear_packed(input, &weight, added),
            false => linear(input, dense.clone(), added),
        };
        let factors = tensor(&numbers(6 * d_out, 9), [2, 3, d_out]);
        let found = (y * factors).sum().backward();
        let values = |gradient: Option<Tensor<B, 1>>| -> Vec<f64> {
            gradient.map_or(Vec::new(), |x| x.into_data().iter::<f64>().collect())
        };
        let d_x = x.grad(&found).map(|d_x| d_x.flatten::<1>(0, 2));
        [values(d_x), values(bias.grad(&found))].concat()
    };
    for with_bias in [false, true] {
        let (packed, dense) = (gradients(true, with_bias), gradients(false, with_bias));
        assert!(packed.len() >= 6 * d_in && packed.iter().any(|x| *x != 0.0));
        assert_same("gradients", &packed, &dense);
    }
}
