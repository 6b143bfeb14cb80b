//! Permuted copies and sums of blocks in bf16, as block-sparse attention makes them.

use burn::tensor::{DType, Distribution, Tensor};
use burn_flex::Flex;
use longcat_kernels::KernelBackend;

use crate::{Device, Gpu, float, raw, relative_error};

/// Whether both are what the portable bodies give on the CPU.
pub(crate) fn run(device: &Device) -> bool {
    let mut ok = true;
    for (shape, axes) in [
        ([4, 6, 4, 5, 512], [0, 1, 3, 2, 4]),
        ([2, 32, 3, 50, 128], [0, 3, 2, 1, 4]),
        ([3, 4, 5, 6, 7], [3, 0, 2, 1, 4]),
    ] {
        let normal = Distribution::Normal(0.0, 1.0);
        let host = Tensor::<Flex, 5>::random(shape, normal, &Default::default());
        let x = Tensor::<Gpu, 5>::from_data(host.to_data(), (device, DType::F32)).cast(DType::BF16);
        let host = Tensor::<Flex, 5>::from_data(
            x.clone().cast(DType::F32).into_data(),
            (&Default::default(), DType::F32),
        );
        let found = float::<Gpu, 5>(Gpu::permute(raw(x.clone()), &axes));
        let wanted = host.clone().permute(axes.map(|axis| axis as isize));
        let permuted = error(found, wanted);

        let (rows, width) = (shape[..4].iter().product::<usize>(), shape[4]);
        let block = shape[3];
        let found = float::<Gpu, 2>(Gpu::block_sums(raw(x.reshape([rows, width])), block));
        let sums = Flex::block_sums(raw(host.reshape([rows, width])), block);
        let summed = error(found, float::<Flex, 2>(sums));
        println!("layout {shape:?} {axes:?}: permuted {permuted:.1e}, sums {summed:.1e}");
        ok &= permuted == 0.0 && summed < 1e-6;
    }
    ok
}

fn error<const D: usize>(found: Tensor<Gpu, D>, wanted: Tensor<Flex, D>) -> f64 {
    let found = found.cast(DType::F32).into_data().to_vec::<f32>();
    let wanted = wanted.into_data().to_vec::<f32>();
    match (found, wanted) {
        (Ok(found), Ok(wanted)) => relative_error(&found, &wanted),
        _ => f64::INFINITY,
    }
}
