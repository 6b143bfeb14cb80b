//! Weights that are made to be packed, and how far results are from each other.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_dit::LongCatTransformer;
use longcat_kernels::{KernelBackend, PackedWeight, Products};
use longcat_lora::LoraHost;
use longcat_weights::{Quantization, Weight, WeightsError, quantize};

use super::BenchError;

/// Every so many output channels are so many times as large as the others, as some are in trained models.
const OUTLIERS: (usize, f32) = (61, 16.0);

/// Makes some output channels of the blocks' matrices large.
pub(super) fn add_outliers<B: KernelBackend>(model: &mut LongCatTransformer<B>) {
    let (every, factor) = OUTLIERS;
    of_blocks(model, &mut |_, weight| {
        if let Weight::Dense(param) = weight {
            let (rows, device) = (param.val().dims()[0], param.val().device());
            let factors = (0..rows).map(|row| match row % every {
                0 => factor,
                _ => 1.0,
            });
            let factors = TensorData::new(factors.collect::<Vec<f32>>(), [rows, 1]);
            let factors = Tensor::<B, 2>::from_data(factors, (&device, DType::F32));
            *param = param.clone().map(|weight| {
                let dtype = weight.dtype();
                weight * factors.cast(dtype)
            });
        }
        Ok(())
    })
    .unwrap_or_else(|error| unreachable!("nothing is read: {error}"));
}

/// Packs the blocks' matrices in fp8, as `--precision fp8` does those of most blocks.
pub(super) fn pack<B: KernelBackend>(model: &mut LongCatTransformer<B>) -> Result<(), BenchError> {
    of_blocks(model, &mut |name, weight| {
        if let Weight::Dense(param) = weight {
            *weight = Weight::Packed(vec![packed(name, &param.val())?]);
        }
        Ok(())
    })
}

/// Lets all packed matrices be multiplied in other numbers.
pub(super) fn set_products<B: KernelBackend>(
    model: &mut LongCatTransformer<B>,
    products: Products,
) -> Result<(), BenchError> {
    of_blocks(model, &mut |_, weight| {
        weight.set_products(products);
        Ok(())
    })
}

/// A matrix in fp8.
pub(super) fn packed<B: KernelBackend>(
    name: &str,
    weight: &Tensor<B, 2>,
) -> Result<PackedWeight<B>, BenchError> {
    let values = weight.clone().cast(DType::F32).try_into_data();
    let values = values.map_err(|error| error.to_string());
    let values = values.and_then(|data| data.to_vec::<f32>().map_err(|error| format!("{error:?}")));
    let values = values.map_err(|message| WeightsError::ReadBack {
        path: name.into(),
        message,
    })?;
    let packed = quantize(&values, weight.dims(), Quantization::Fp8);
    let scale = packed.scale.as_deref();
    let device = weight.device();
    Ok(PackedWeight::from_bytes(
        &packed.bytes,
        scale,
        packed.layout,
        &device,
    ))
}

type Visit<'a, B> = &'a mut dyn FnMut(&str, &mut Weight<B>) -> Result<(), BenchError>;

/// Calls `visit` with the matrices of the blocks, modulation left out.
fn of_blocks<B: KernelBackend>(
    model: &mut LongCatTransformer<B>,
    visit: Visit<'_, B>,
) -> Result<(), BenchError> {
    let mut done = Ok(());
    model.visit_lora_mut(&mut |name, layer| {
        if name.starts_with("blocks.") && !name.contains("adaLN") && done.is_ok() {
            done = visit(name, &mut layer.weight);
        }
    });
    done
}

/// ‖found − expected‖ / ‖expected‖.
pub(super) fn relative_error<B: Backend, const D: usize>(
    found: Tensor<B, D>,
    expected: &Tensor<B, D>,
) -> f64 {
    let size = |x: Tensor<B, D>| {
        let x = x.cast(DType::F32);
        let sum = (x.clone() * x).sum().into_data();
        sum.iter::<f64>().sum::<f64>().sqrt()
    };
    size(found - expected.clone()) / size(expected.clone())
}
