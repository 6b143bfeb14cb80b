//! Packed weights of every kind against what the host unpacks, bit by bit; products of few rows against those of
//! unpacked weights; and how long both take.

use std::time::Instant;

use burn::tensor::{DType, Distribution, Tensor};
use longcat_kernels::packed::unpack;
use longcat_kernels::{
    PackedKind, PackedLayout, PackedWeight, linear, linear_packed, unpack_weight, wait,
};

use crate::random::Random;
use crate::{Device, Gpu};

/// The fused qkv of the released width.
const LARGE: [usize; 2] = [12288, 4096];
const ROUNDS: usize = 50;

pub fn run(device: &Device) -> bool {
    let mut ok = true;
    for kind in PackedKind::ALL {
        for shape in [[1, 256], [7, 768], [301, 1280]] {
            for group in [None, Some(shape[0] * shape[1]), Some(shape[1]), Some(64)] {
                let layout = PackedLayout::new(kind, shape);
                let layout = group.map_or(layout, |group| layout.with_group(group));
                ok &= check(&layout, group.is_some(), device);
            }
        }
        // Vectors of several rows.
        if kind.elements() == 1 {
            let layout = PackedLayout::new(kind, [40, 3]).with_group(3);
            ok &= check(&layout, true, device);
        }
        time(kind, device);
    }
    for kind in [
        PackedKind::Fp8E4m3,
        PackedKind::Int8,
        PackedKind::Q8_0,
        PackedKind::Q4_K,
    ] {
        for rows in [1, 2, 4] {
            ok &= few_rows(kind, rows, device);
        }
    }
    ok
}

/// Products that read the packed weight beside those of an unpacked one.
fn few_rows(kind: PackedKind, rows: usize, device: &Device) -> bool {
    let layout = PackedLayout::new(kind, LARGE);
    let bytes = bytes(&layout, &mut Random(28));
    let weight = PackedWeight::<Gpu>::from_bytes(&bytes, Some(&[1e-3]), layout, device);
    let x = Tensor::<Gpu, 2>::random([rows, LARGE[1]], Distribution::Default, device);
    let x = x.cast(DType::BF16);
    let packed = || linear_packed(x.clone(), &weight, None);
    let unpacked = || linear(x.clone(), unpack_weight(&weight, DType::BF16), None);
    let milliseconds = |work: &dyn Fn() -> Tensor<Gpu, 2>| {
        let run = || {
            (0..ROUNDS).for_each(|_| drop(work()));
            wait::<Gpu>(device);
        };
        run();
        let started = Instant::now();
        run();
        started.elapsed().as_secs_f64() / ROUNDS as f64 * 1e3
    };
    let [found, expected] = [packed(), unpacked()].map(|y| y.cast(DType::F32));
    let size = expected.clone().abs().max().into_scalar();
    let off = (found - expected).abs().max().into_scalar() / size;
    println!(
        "packed {kind:?} {LARGE:?}, {rows} rows: {:.3} ms, unpacked first {:.3} ms; off by {off:.1e}",
        milliseconds(&packed),
        milliseconds(&unpacked),
    );
    // Sums of either order, rounded to bf16.
    off < 1e-2
}

fn check(layout: &PackedLayout, scaled: bool, device: &Device) -> bool {
    let mut random = Random(27);
    let bytes = bytes(layout, &mut random);
    let scale = scaled.then(|| random.normals(layout.scales()));
    let weight = PackedWeight::<Gpu>::from_bytes(&bytes, scale.as_deref(), *layout, device);
    let mut ok = true;
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let found = unpack_weight(&weight, dtype).into_data();
        let expected = unpack(&bytes, scale.as_deref(), layout, dtype);
        let size = dtype.size();
        let pairs = found.bytes.chunks(size).zip(expected.chunks(size));
        let wrong = pairs.filter(|(found, expected)| found != expected).count();
        if wrong > 0 || found.bytes.len() != expected.len() {
            let scale = if scaled { "with" } else { "without" };
            println!("packed {layout:?} {scale} scales to {dtype:?}: {wrong} differ FAILED");
            ok = false;
        }
    }
    ok
}

/// Random bytes of finite numbers.
fn bytes(layout: &PackedLayout, random: &mut Random) -> Vec<u8> {
    let kind = layout.kind;
    let mut bytes: Vec<u8> = (0..layout.bytes()).map(|_| random.bits() as u8).collect();
    // Where blocks have an f16, which must not be infinite.
    let halves: &[usize] = match kind {
        PackedKind::Fp8E4m3 => {
            let finite = |x: &mut u8| *x &= if *x & 0x7f == 0x7f { 0xbf } else { 0xff };
            bytes.iter_mut().for_each(finite);
            &[]
        }
        PackedKind::Fp8E5m2 => {
            let finite = |x: &mut u8| *x &= if *x & 0x7c == 0x7c { 0xbf } else { 0xff };
            bytes.iter_mut().for_each(finite);
            &[]
        }
        PackedKind::Int8 => &[],
        PackedKind::Q4_0 | PackedKind::Q5_0 | PackedKind::Q8_0 => &[0],
        PackedKind::Q4_1 | PackedKind::Q5_1 | PackedKind::Q4_K | PackedKind::Q5_K => &[0, 2],
        PackedKind::Q2_K => &[80, 82],
        PackedKind::Q3_K => &[108],
        PackedKind::Q6_K => &[208],
    };
    for block in bytes.chunks_exact_mut(kind.bytes()) {
        for at in halves {
            block[at + 1] &= 0xbf;
        }
    }
    bytes
}

fn time(kind: PackedKind, device: &Device) {
    let layout = PackedLayout::new(kind, LARGE);
    let weight = PackedWeight::<Gpu>::from_bytes(&vec![0x11; layout.bytes()], None, layout, device);
    let run = || {
        for _ in 0..ROUNDS {
            unpack_weight(&weight, DType::BF16);
        }
        wait::<Gpu>(device);
    };
    run();
    let started = Instant::now();
    run();
    let each = started.elapsed().as_secs_f64() / ROUNDS as f64;
    let moved = layout.bytes() + layout.elements() * DType::BF16.size();
    println!(
        "packed {kind:?} {LARGE:?} to BF16: {:.3} ms, {:.0} GB/s",
        each * 1e3,
        moved as f64 / each / 1e9
    );
}
