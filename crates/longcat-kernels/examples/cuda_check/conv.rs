//! Convolutions in half precision against the portable body in f32.

use burn::tensor::{DType, Tensor};
use burn_flex::Flex;
use longcat_kernels::{Conv3dOptions, conv3d, cudnn_problem};

use crate::linear::numbers;
use crate::{Device, Gpu, TOLERANCE, relative_error};

/// Input `[B, T, H, W, C]`, weight `[O, C, kt, kh, kw]`, and how one moves over the other: each kind
/// of convolution that the VAE has, then one that cuDNN is not asked for.
const CASES: [(&str, [usize; 5], [usize; 5], Conv3dOptions); 6] = [
    ("causal", [1, 4, 30, 52, 96], [192, 96, 3, 3, 3], SAME),
    (
        "first chunk",
        [2, 3, 17, 13, 32],
        [48, 32, 3, 3, 3],
        Conv3dOptions {
            padding: [[2, 0], [1; 2], [1; 2]],
            ..SAME
        },
    ),
    (
        "upsampling",
        [1, 2, 15, 26, 64],
        [32, 64, 1, 3, 3],
        Conv3dOptions {
            upsample: [1, 2, 2],
            ..SAME
        },
    ),
    (
        "downsampling",
        [1, 3, 30, 28, 32],
        [32, 32, 1, 3, 3],
        Conv3dOptions {
            stride: [1, 2, 2],
            padding: [[0; 2], [0, 1], [0, 1]],
            ..SAME
        },
    ),
    ("to pixels", [1, 3, 30, 52, 96], [3, 96, 3, 3, 3], SAME),
    ("from pixels", [1, 3, 30, 52, 3], [96, 3, 3, 3, 3], SAME),
];

const SAME: Conv3dOptions = Conv3dOptions {
    stride: [1; 3],
    padding: [[0; 2], [1; 2], [1; 2]],
    upsample: [1; 3],
};

pub fn run(device: &Device) -> bool {
    println!(
        "cuDNN: {}",
        cudnn_problem().unwrap_or_else(|| "there".into())
    );
    let mut ok = true;
    for (name, input, weight, options) in CASES {
        for dtype in [DType::BF16, DType::F16] {
            let x = numbers::<Gpu, 5>(input, device).cast(dtype);
            let w = numbers::<Gpu, 5>(weight, device).cast(dtype);
            let bias = numbers::<Gpu, 1>([weight[0]], device).cast(dtype);
            let host = |tensor: &Tensor<Gpu, 5>| {
                Tensor::<Flex, 5>::from_data(
                    tensor.clone().into_data().convert::<f32>(),
                    &Default::default(),
                )
            };
            let host_bias = bias.clone().into_data().convert::<f32>();
            let want = conv3d(
                host(&x),
                host(&w),
                Tensor::from_data(host_bias, &Default::default()),
                options,
            );
            let got = conv3d(x, w, bias, options).cast(DType::F32);
            let (got, want) = (got.into_data(), want.into_data());
            assert_eq!(got.shape, want.shape, "{name}");
            let values = |data: burn::tensor::TensorData| data.to_vec::<f32>().expect("f32 data");
            let error = relative_error(&values(got), &values(want));
            let good = error < TOLERANCE;
            ok &= good;
            println!(
                "conv3d {name} {dtype:?}: relative L2 error {error:.2e}{}",
                if good { "" } else { " FAILED" },
            );
        }
    }
    ok
}
