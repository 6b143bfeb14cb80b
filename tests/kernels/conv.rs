//! Convolution and its gradients against loops in f64 that know nothing of patches.

use burn::tensor::{DType, Tensor, TensorData, backend::AutodiffBackend};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use longcat_kernels::{Conv3dOptions, KernelBackend, conv3d, rms_norm};

/// Numbers that repeat nowhere nearby, in (-1, 1).
fn numbers(count: usize, seed: usize) -> Vec<f64> {
    (0..count)
        .map(|i| (((i + 1) * (seed * 2 + 7)) as f64 * 0.618_034).sin())
        .collect()
}

/// What the loops give, row-major.
struct Expected {
    y: Vec<f64>,
    dims: [usize; 5],
    d_x: Vec<f64>,
    d_weight: Vec<f64>,
    d_bias: Vec<f64>,
}

/// Output and gradients of `sum(y · d_y)` where `d_y` are the numbers of seed 4.
fn expected(
    [b, t, h, w, c]: [usize; 5],
    [o, kt, kh, kw]: [usize; 4],
    options: &Conv3dOptions,
    [x, weight, bias]: [&[f64]; 3],
) -> Expected {
    let (input, kernel) = ([t, h, w], [kt, kh, kw]);
    let output: [usize; 3] = std::array::from_fn(|i| {
        let padded = input[i] * options.upsample[i] + options.padding[i].iter().sum::<usize>();
        (padded - kernel[i]) / options.stride[i] + 1
    });
    let dims = [b, output[0], output[1], output[2], o];
    let count = dims.iter().product();
    let d_y = numbers(count, 4);
    let mut result = Expected {
        y: vec![0.0; count],
        dims,
        d_x: vec![0.0; x.len()],
        d_weight: vec![0.0; weight.len()],
        d_bias: vec![0.0; o],
    };
    for (at, d_y) in d_y.iter().enumerate() {
        let (channel, rest) = (at % o, at / o);
        let position = [
            rest / (output[1] * output[2]) % output[0],
            rest / output[2] % output[1],
            rest % output[2],
        ];
        let batch = rest / output.iter().product::<usize>();
        result.y[at] += bias[channel];
        result.d_bias[channel] += d_y;
        for tap in 0..kt * kh * kw {
            let tap_at = [tap / (kh * kw), tap / kw % kh, tap % kw];
            let place: [isize; 3] = std::array::from_fn(|i| {
                (position[i] * options.stride[i] + tap_at[i]) as isize
                    - options.padding[i][0] as isize
            });
            let inside =
                |i: usize| place[i] >= 0 && (place[i] as usize) < input[i] * options.upsample[i];
            if !(inside(0) && inside(1) && inside(2)) {
                continue;
            }
            let [p_t, p_h, p_w] = std::array::from_fn(|i| place[i] as usize / options.upsample[i]);
            for inner in 0..c {
                let from = (((batch * t + p_t) * h + p_h) * w + p_w) * c + inner;
                let by = (channel * c + inner) * kt * kh * kw + tap;
                result.y[at] += x[from] * weight[by];
                result.d_x[from] += d_y * weight[by];
                result.d_weight[by] += d_y * x[from];
            }
        }
    }
    result
}

fn check<B: AutodiffBackend + KernelBackend>(
    input: [usize; 5],
    kernel: [usize; 4],
    options: Conv3dOptions,
    dtype: DType,
) {
    check_in_memory::<B>(input, kernel, options, dtype, false);
}

/// With `gaps`, the input is half of each line of a larger tensor.
fn check_in_memory<B: AutodiffBackend + KernelBackend>(
    input: [usize; 5],
    [o, kt, kh, kw]: [usize; 4],
    options: Conv3dOptions,
    dtype: DType,
    gaps: bool,
) {
    let device = B::Device::default();
    let c = input[4];
    let x = numbers(input.iter().product(), 1);
    let weight = numbers(o * c * kt * kh * kw, 2);
    let bias = numbers(o, 3);
    let want = expected(input, [o, kt, kh, kw], &options, [&x, &weight, &bias]);

    let five = |values: &[f64], dims: [usize; 5]| {
        Tensor::<B, 5>::from_data(TensorData::new(values.to_vec(), dims), (&device, dtype))
    };
    let x = five(&x, input).require_grad();
    let seen = match gaps {
        true => Tensor::cat(vec![x.clone(), x.clone()], 3).narrow(3, 0, input[3]),
        false => x.clone(),
    };
    let weight = five(&weight, [o, c, kt, kh, kw]).require_grad();
    let bias = TensorData::new(bias, [o]);
    let bias = Tensor::<B, 1>::from_data(bias, (&device, dtype)).require_grad();
    let y = conv3d(seen, weight.clone(), bias.clone(), options);
    assert_eq!(y.dims(), want.dims);
    let d_y = five(&numbers(want.y.len(), 4), want.dims);
    let gradients = (y.clone() * d_y).sum().backward();

    // Roundings of f32 grow as a random walk over the terms of a sum.
    let close = |name: &str, data: TensorData, want: &[f64], terms: usize| {
        let largest = want.iter().fold(1.0f64, |size, w| size.max(w.abs()));
        let size = largest.max((terms as f64).sqrt());
        let got = data.convert::<f64>().to_vec::<f64>().unwrap();
        assert_eq!(got.len(), want.len(), "{name}");
        for (got, want) in got.iter().zip(want) {
            let off = (got - want).abs() / size;
            assert!(
                off < 2e-6,
                "{name} of {input:?}, {options:?}: {got} and not {want}"
            );
        }
    };
    let (taps, positions) = (kt * kh * kw, want.y.len() / o);
    let d_x = x.grad(&gradients).unwrap().into_data();
    let d_weight = weight.grad(&gradients).unwrap().into_data();
    let d_bias = bias.grad(&gradients).unwrap().into_data();
    close("y", y.into_data(), &want.y, taps * c);
    close("d_x", d_x, &want.d_x, taps * o);
    close("d_weight", d_weight, &want.d_weight, positions);
    close("d_bias", d_bias, &want.d_bias, positions);
}

/// The convolutions of the Wan VAE, and what none of them does.
fn cases() -> Vec<([usize; 5], [usize; 4], Conv3dOptions)> {
    let plain = Conv3dOptions::default();
    let same = Conv3dOptions {
        padding: [[0; 2], [1; 2], [1; 2]],
        ..plain
    };
    let halve = Conv3dOptions {
        stride: [1, 2, 2],
        padding: [[0; 2], [0, 1], [0, 1]],
        ..plain
    };
    let double = Conv3dOptions {
        upsample: [1, 2, 2],
        ..same
    };
    let pairs = Conv3dOptions {
        stride: [2, 1, 1],
        ..plain
    };
    let uneven = Conv3dOptions {
        stride: [2, 3, 1],
        padding: [[1, 2], [0, 2], [2, 0]],
        upsample: [1, 1, 3],
    };
    vec![
        ([2, 3, 4, 5, 8], [6, 1, 1, 1], plain),
        ([2, 4, 6, 5, 8], [12, 3, 3, 3], same),
        ([1, 3, 6, 4, 3], [16, 3, 3, 3], same),
        ([1, 3, 6, 4, 16], [3, 3, 3, 3], same),
        ([1, 2, 6, 8, 12], [12, 1, 3, 3], halve),
        ([1, 2, 7, 5, 4], [4, 1, 3, 3], halve),
        ([2, 2, 3, 5, 16], [8, 1, 3, 3], double),
        ([1, 5, 4, 4, 16], [16, 3, 1, 1], pairs),
        ([1, 4, 7, 3, 5], [2, 3, 3, 3], uneven),
    ]
}

#[test]
fn convolution_and_its_gradients() {
    for (input, kernel, options) in cases() {
        check::<Autodiff<Flex>>(input, kernel, options, DType::F32);
        // The patches of f64 are gathered by the portable body.
        check::<Autodiff<Flex>>(input, kernel, options, DType::F64);
    }
}

#[test]
fn many_chunks_are_one_convolution() {
    // 27 · 64 columns of 8 bytes: 4 MiB hold 303 positions, of 2,304. In f32 several tasks share the lines, and the
    // sum of a weight's gradient.
    let same = Conv3dOptions {
        padding: [[0; 2], [1; 2], [1; 2]],
        ..Conv3dOptions::default()
    };
    for dtype in [DType::F32, DType::F64] {
        check::<Autodiff<Flex>>([1, 6, 24, 24, 64], [2, 3, 3, 3], same, dtype);
        check::<Autodiff<Flex>>([2, 2, 12, 48, 8], [48, 1, 3, 3], same, dtype);
    }
}

/// More outputs in a line than are worked on together.
#[test]
fn long_lines() {
    let plain = Conv3dOptions::default();
    for (width, stride, upsample) in [(300, 1, 1), (520, 2, 1), (150, 1, 2)] {
        let options = Conv3dOptions {
            padding: [[0; 2], [1; 2], [1; 2]],
            stride: [1, 1, stride],
            upsample: [1, 1, upsample],
        };
        check::<Autodiff<Flex>>([1, 2, 3, width, 3], [5, 1, 3, 3], options, DType::F32);
    }
    check::<Autodiff<Flex>>([2, 3, 1, 257, 4], [3, 2, 1, 1], plain, DType::F32);
}

#[test]
fn lines_with_gaps_between_them() {
    for (input, kernel, options) in cases() {
        check_in_memory::<Autodiff<Flex>>(input, kernel, options, DType::F32, true);
    }
}

#[test]
fn gradients_only_of_what_is_tracked() {
    type B = Autodiff<Flex>;
    let device = Default::default();
    let x = Tensor::<B, 5>::ones([1, 1, 2, 2, 3], &device);
    let weight = Tensor::<B, 5>::ones([1, 3, 1, 1, 1], &device);
    let bias = Tensor::<B, 1>::zeros([1], &device).require_grad();
    let y = conv3d(
        x.clone(),
        weight.clone(),
        bias.clone(),
        Conv3dOptions::default(),
    );
    let gradients = y.sum().backward();
    assert!(x.grad(&gradients).is_none() && weight.grad(&gradients).is_none());
    assert_eq!(bias.grad(&gradients).unwrap().into_scalar(), 4.0);
}

#[test]
#[should_panic(expected = "kernel [3, 3, 3]")]
fn a_kernel_that_does_not_fit_is_named() {
    let device = Default::default();
    let x = Tensor::<Flex, 5>::ones([1, 2, 8, 8, 1], &device);
    let weight = Tensor::ones([1, 1, 3, 3, 3], &device);
    conv3d(
        x,
        weight,
        Tensor::zeros([1], &device),
        Conv3dOptions::default(),
    );
}

/// The norm of every row, in f64.
fn normed(x: &[f64], weight: &[f64], silu: bool) -> Vec<f64> {
    let channels = weight.len();
    let rows = x.chunks(channels).flat_map(|row| {
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
        row.iter().zip(weight).map(move |(x, weight)| {
            let y = x / norm * (channels as f64).sqrt() * weight;
            if silu { y / (1.0 + (-y).exp()) } else { y }
        })
    });
    rows.collect()
}

fn check_rms_norm<B: KernelBackend>(rows: usize, channels: usize, silu: bool) {
    let device = B::Device::default();
    let mut x = numbers(rows * channels, 5);
    x[..channels].fill(0.0);
    let weight = numbers(channels, 6);
    let want = normed(&x, &weight, silu);
    let data = TensorData::new(x, [rows, channels]);
    let x = Tensor::<B, 2>::from_data(data, (&device, DType::F32));
    let data = TensorData::new(weight, [channels]);
    let weight = Tensor::from_data(data, (&device, DType::F32));
    let y = rms_norm(x, weight, silu).into_data().convert::<f64>();
    for (got, want) in y.to_vec::<f64>().unwrap().iter().zip(want) {
        assert!(
            (got - want).abs() < 2e-6 * want.abs().max(1.0),
            "{got} and not {want}"
        );
    }
}

/// Gradients against slopes of the f64 loops.
fn check_rms_norm_gradients<B: AutodiffBackend + KernelBackend>(
    rows: usize,
    channels: usize,
    silu: bool,
) {
    const STEP: f64 = 1e-5;
    let device = B::Device::default();
    let (x, weight) = (numbers(rows * channels, 5), numbers(channels, 6));
    let d_y = numbers(rows * channels, 7);
    let loss = |x: &[f64], weight: &[f64]| -> f64 {
        let y = normed(x, weight, silu);
        y.iter().zip(&d_y).map(|(y, d)| y * d).sum()
    };
    let slopes = |values: &[f64], loss: &dyn Fn(&[f64]) -> f64| -> Vec<f64> {
        let moved = |i: usize, by: f64| {
            let mut values = values.to_vec();
            values[i] += by;
            loss(&values)
        };
        let slope = |i| (moved(i, STEP) - moved(i, -STEP)) / (2.0 * STEP);
        (0..values.len()).map(slope).collect()
    };
    let want_x = slopes(&x, &|x| loss(x, &weight));
    let want_weight = slopes(&weight, &|weight| loss(&x, weight));

    let two = |values: &[f64]| {
        let data = TensorData::new(values.to_vec(), [rows, channels]);
        Tensor::<B, 2>::from_data(data, (&device, DType::F32))
    };
    let data = TensorData::new(weight.clone(), [channels]);
    let weight = Tensor::<B, 1>::from_data(data, (&device, DType::F32)).require_grad();
    let x = two(&x).require_grad();
    let y = rms_norm(x.clone(), weight.clone(), silu);
    let gradients = (y * two(&d_y)).sum().backward();
    let got_x = x.grad(&gradients).unwrap().into_data();
    let got_weight = weight.grad(&gradients).unwrap().into_data();
    for (name, got, want) in [("x", got_x, want_x), ("weight", got_weight, want_weight)] {
        let got = got.convert::<f64>().to_vec::<f64>().unwrap();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            let size = want.abs().max((rows as f64).sqrt());
            let off = (got - want).abs() / size;
            assert!(off < 2e-5, "d_{name}, silu {silu}: {got} and not {want}");
        }
    }
}

const NORMS: [(usize, usize, bool); 4] =
    [(1, 1, false), (7, 12, true), (150, 48, true), (5, 7, false)];

#[test]
fn norm_of_channels() {
    for (rows, channels, silu) in NORMS {
        check_rms_norm::<Flex>(rows, channels, silu);
        check_rms_norm::<Autodiff<Flex>>(rows, channels, silu);
        check_rms_norm_gradients::<Autodiff<Flex>>(rows.min(9), channels, silu);
    }
}

#[cfg(feature = "wgpu")]
mod wgpu {
    use burn_cubecl::CubeBackend;
    use burn_fusion::Fusion;
    use burn_wgpu::WgpuRuntime;

    use super::*;

    type Wgpu = CubeBackend<WgpuRuntime, f32, i32, u32>;

    #[test]
    fn convolution_and_its_gradients() {
        for (input, kernel, options) in cases() {
            check::<Autodiff<Wgpu>>(input, kernel, options, DType::F32);
        }
        let (input, kernel, options) = cases().swap_remove(1);
        check::<Autodiff<Fusion<Wgpu>>>(input, kernel, options, DType::F32);
    }

    /// As CUDA lays out what is concatenated. 64 channels make the cut a view and no copy.
    #[test]
    fn lines_with_gaps_between_them() {
        let same = Conv3dOptions {
            padding: [[0; 2], [1; 2], [1; 2]],
            ..Conv3dOptions::default()
        };
        check_in_memory::<Autodiff<Wgpu>>([2, 3, 3, 4, 64], [8, 3, 3, 3], same, DType::F32, true);
    }

    #[test]
    fn norm_of_channels() {
        for (rows, channels, silu) in NORMS {
            check_rms_norm::<Wgpu>(rows, channels, silu);
            check_rms_norm::<Fusion<Wgpu>>(rows, channels, silu);
            check_rms_norm_gradients::<Autodiff<Wgpu>>(rows.min(9), channels, silu);
        }
    }
}
