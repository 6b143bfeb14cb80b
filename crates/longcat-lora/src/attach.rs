//! Adapters from the host to the device of a model.

use burn::module::Param;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorPrimitive};
use longcat_kernels::KernelBackend;

use crate::terms::Terms;
use crate::{
    Adapter, LoraBlock, LoraBranch, LoraLinear, LoraOptions, LoraTerm, LoraVector, Matrix,
};

/// What an adapter adds to a layer, on the layer's device; `None` where it leaves the layer alone.
pub(crate) fn branch<B: KernelBackend>(
    name: &str,
    adapter: &Adapter,
    target: &str,
    layer: &LoraLinear<B>,
    options: LoraOptions,
) -> Option<LoraBranch<B>> {
    let device = layer.weight.device();
    let blocks = adapter.get(target).unwrap_or_default();
    let patches = adapter.patches_of(target);
    if blocks.is_empty() && patches.is_empty() {
        return None;
    }
    let dtype_of = |matrix: &Matrix| {
        let stored = match matrix.dtype() {
            DType::F64 => DType::F32,
            dtype => dtype,
        };
        options.dtype.unwrap_or(stored)
    };
    let factor = |matrix: &Matrix| upload::<B>(matrix, dtype_of(matrix), &device);
    let down = match blocks {
        [] => None,
        [block] => Some(factor(&block.down)),
        _ => {
            let rows: Vec<Matrix> = blocks.iter().map(|b| b.down.clone()).collect();
            Some(factor(&Matrix::stack(&rows)))
        }
    };
    let down = down.map(Param::from_tensor);
    let blocks = blocks.iter().map(|block| LoraBlock {
        up: Param::from_tensor(factor(&block.up)),
        start: block.part * block.up.rows(),
        scale: block.scale,
    });
    let of_weight = patches.iter().filter(|p| !p.bias);
    let terms = of_weight.map(|patch| {
        let dtype = dtype_of(patch.matrices()[0]);
        LoraTerm::new(patch, dtype, &device, || layer.weight.val().detach())
    });
    let bias = patches.iter().any(|p| p.bias).then(|| {
        let mut sum = vec![0.0; layer.d_out()];
        Terms::of(&[(adapter, 1.0)], target, true).add_to(&mut sum, 1, 0);
        vector(sum, &device)
    });
    Some(LoraBranch {
        name: name.to_string(),
        down,
        blocks: blocks.collect(),
        terms: terms.collect(),
        bias,
        strength: options.strength,
        enabled: true,
        merged: false,
    })
}

/// A matrix in `dtype` on a device, sent as weights are.
fn upload<B: KernelBackend>(matrix: &Matrix, dtype: DType, device: &B::Device) -> Tensor<B, 2> {
    let row = match matrix.dtype() == dtype {
        true => B::float_from_bytes(matrix.bytes(), dtype, device),
        false => {
            let data = matrix.to_tensor_data().convert_dtype(dtype);
            B::float_from_bytes(&data.bytes, dtype, device)
        }
    };
    let row = Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(row));
    row.reshape([matrix.rows(), matrix.cols()])
}

/// The layer of a vector named as a tensor, and what an adapter adds to it.
pub(crate) fn difference<'a, B: Backend>(
    adapter: &Adapter,
    tensor: &'a str,
    own: &LoraVector<B>,
) -> (&'a str, Option<Tensor<B, 1>>) {
    let (layer, bias) = match tensor.strip_suffix(".bias") {
        Some(layer) => (layer, true),
        None => (tensor.strip_suffix(".weight").unwrap_or(tensor), false),
    };
    let patches = adapter.patches_of(layer);
    let difference = patches.iter().any(|p| p.bias == bias).then(|| {
        let mut sum = vec![0.0; own.value.lazy_shape()[0]];
        Terms::of(&[(adapter, 1.0)], layer, bias).add_to(&mut sum, 1, 0);
        vector(sum, &own.value.lazy_device())
    });
    (layer, difference)
}

fn vector<B: Backend>(values: Vec<f64>, device: &B::Device) -> Tensor<B, 1> {
    let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
    Tensor::from_data(values.as_slice(), (device, DType::F32))
}
