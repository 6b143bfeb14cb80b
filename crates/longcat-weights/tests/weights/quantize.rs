//! Packing weights, against what other programs make of the same numbers (`tests/golden/write_packed.py`).

use std::path::Path;

use burn::tensor::DType;
use longcat_kernels::packed::unpack;
use longcat_weights::{Quantization, Quantized, quantize};
use safetensors::SafeTensors;

const SHAPE: [usize; 2] = [4, 256];

/// A tensor of the golden file as bytes.
fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/packed.safetensors");
    let file = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    tensors.tensor(name).unwrap().data().to_vec()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

fn numbers() -> Vec<f32> {
    floats(&golden("numbers"))
}

/// The sum of squares by which packed values differ, each row's over its own.
fn errors(bytes: &[u8], packed: &Quantized) -> Vec<f64> {
    let values = floats(&unpack(
        bytes,
        packed.scale.as_deref(),
        &packed.layout,
        DType::F32,
    ));
    let numbers = numbers();
    let rows = values.chunks(SHAPE[1]).zip(numbers.chunks(SHAPE[1]));
    rows.map(|(values, numbers)| {
        let squares =
            |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let off = squares(&mut values.iter().zip(numbers).map(|(a, b)| a - b));
        off / squares(&mut numbers.iter().copied())
    })
    .collect()
}

#[test]
fn bits_are_those_of_gguf_and_of_pytorchs_casts() {
    for (to, name) in [
        (Quantization::Fp8, "to.fp8"),
        (Quantization::Fp8Rows, "to.fp8rows"),
        (Quantization::Int8, "to.int8"),
        (Quantization::Q8_0, "to.q8_0"),
        (Quantization::Q4_0, "to.q4_0"),
    ] {
        let packed = quantize(&numbers(), SHAPE, to);
        assert_eq!(packed.bytes, golden(name), "{to:?}");
        if let Some(scale) = packed.scale {
            assert_eq!(scale, floats(&golden(&format!("{name}.scale"))), "{to:?}");
        }
    }
}

#[test]
fn q4_k_is_as_close_as_ggmls() {
    let packed = quantize(&numbers(), SHAPE, Quantization::Q4_K);
    let theirs = golden("to.q4_k");
    let same = packed.bytes.iter().zip(&theirs).filter(|(a, b)| a == b);
    assert!(10 * same.count() > 9 * theirs.len());
    let found = errors(&packed.bytes, &packed);
    for (ours, theirs) in found.iter().zip(errors(&theirs, &packed)) {
        assert!(*ours < 1.01 * theirs, "{ours:e} beside {theirs:e}");
    }
}

#[test]
fn zeros_and_equal_values_are_packed() {
    for to in Quantization::ALL {
        for value in [0.0, -0.75, 1.0] {
            let packed = quantize(&[value; 1024], SHAPE, to);
            let scale = packed.scale.as_deref();
            let values = floats(&unpack(&packed.bytes, scale, &packed.layout, DType::F32));
            let far = values.iter().find(|x| (**x - value).abs() > 2e-3);
            assert_eq!(far, None, "{to:?} of {value}");
        }
    }
}

#[test]
fn rows_that_are_no_whole_blocks_are_told() {
    assert!(Quantization::Q8_0.layout([3, 64]).is_valid());
    assert!(!Quantization::Q8_0.layout([3, 48]).is_valid());
    assert!(!Quantization::Q4_K.layout([8, 128]).is_valid());
    assert!(Quantization::Fp8Rows.layout([3, 5]).is_valid());
}
