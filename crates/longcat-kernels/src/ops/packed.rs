//! Linear layers whose weight stays packed on the device.

use burn::module::Module;
use burn::tensor::{DType, Int, Tensor, TensorData, backend::Backend};
use burn_backend::tensor::{FloatTensor, IntTensor};

use crate::packed::is_target;
use crate::portable::{from_float, into_float};
use crate::{KernelBackend, PackedKind, PackedLayout, Products};

/// A packed weight `[out, in]` on a device, of any [`PackedKind`](crate::PackedKind).
///
/// Part of the module tree, without parameters: it is a constant, which autodiff does not track and records
/// do not hold.
#[derive(Module, Debug)]
pub struct PackedWeight<B: Backend> {
    /// The stored bytes as little-endian words, `[layout.words()]` in [`DType::I32`]; zeros fill the last
    /// one up.
    pub words: Tensor<B, 1, Int>,
    /// What values are multiplied by, `[layout.scales()]` in [`DType::F32`].
    pub scale: Option<Tensor<B, 1>>,
    /// How the values lie in them.
    pub layout: PackedLayout,
    /// In which numbers it is multiplied.
    pub products: Products,
}

impl<B: Backend> PackedWeight<B> {
    /// Output and input features.
    pub fn shape(&self) -> [usize; 2] {
        self.layout.shape
    }

    /// Where it is.
    pub fn device(&self) -> B::Device {
        self.words.device()
    }

    /// Bytes that it takes there.
    pub fn device_bytes(&self) -> usize {
        let scales = self.scale.as_ref().map_or(0, |scale| scale.dims()[0]);
        4 * (self.words.dims()[0] + scales)
    }

    pub(super) fn tensors(&self) -> PackedTensors<B> {
        PackedTensors {
            words: self.words.clone().into_primitive(),
            scale: self.scale.clone().map(into_float),
            layout: self.layout,
            products: self.products,
        }
    }

    /// The same weight, multiplied in other numbers; itself where its values or scales do not allow that.
    pub fn with_products(self, products: Products) -> Self {
        if products == Products::Dense {
            return Self { products, ..self };
        }
        match scaled_rows(self.layout, self.scale.as_ref(), &self.device()) {
            Some((layout, scale)) => Self {
                words: self.words,
                scale: Some(scale),
                layout,
                products,
            },
            None => self,
        }
    }
}

impl<B: KernelBackend> PackedWeight<B> {
    /// Uploads the bytes of a weight, and its scales if it has any.
    ///
    /// # Panics
    /// If the layout is not [valid](PackedLayout::is_valid), or has another number of bytes or scales.
    pub fn from_bytes(
        bytes: &[u8],
        scale: Option<&[f32]>,
        layout: PackedLayout,
        device: &B::Device,
    ) -> Self {
        assert!(layout.is_valid(), "no weight has the layout {layout:?}");
        assert_eq!(bytes.len(), layout.bytes(), "bytes of {layout:?}");
        if let Some(scale) = scale {
            assert_eq!(scale.len(), layout.scales(), "scales of {layout:?}");
        }
        let scale = scale.map(|scale| {
            let data = TensorData::new(scale.to_vec(), [scale.len()]);
            Tensor::from_data(data, (device, DType::F32))
        });
        Self {
            words: Tensor::from_primitive(B::words_from_bytes(bytes, device)),
            scale,
            layout,
            products: Products::default(),
        }
    }
}

/// Layout and scales of the same weight with a scale for each row, which products in fp8 need; `None` where it
/// is not in e4m3, or parts of its rows have scales of their own.
pub(crate) fn scaled_rows<B: Backend>(
    layout: PackedLayout,
    scale: Option<&Tensor<B, 1>>,
    device: &B::Device,
) -> Option<(PackedLayout, Tensor<B, 1>)> {
    let [rows, columns] = layout.shape;
    if layout.kind != PackedKind::Fp8E4m3 || layout.group < columns {
        return None;
    }
    let scale = match scale {
        Some(scale) if layout.group == columns => scale.clone(),
        Some(scale) => scale.clone().repeat_dim(0, rows),
        None => Tensor::ones([rows], (device, DType::F32)),
    };
    Some((layout.with_group(columns), scale))
}

/// What a [`PackedWeight`] consists of, as backends see it.
#[derive(Debug, Clone)]
pub struct PackedTensors<B: Backend> {
    /// The stored bytes in words.
    pub words: IntTensor<B>,
    /// The scales, in f32.
    pub scale: Option<FloatTensor<B>>,
    /// How the values lie in them.
    pub layout: PackedLayout,
    /// In which numbers it is multiplied.
    pub products: Products,
}

/// `x · Wᵀ + bias` for the numbers `W` of `weight` that [`unpack_weight`] makes in the dtype of `x`.
///
/// `x` is `[..., in]` with `D >= 2`, `bias` `[out]` in its dtype. Under autodiff `x` and `bias` have
/// gradients; that of `x` is exact for the numbers of the weight. With [`Products::Fp8`] the numbers of `x`
/// are rounded, too, and gradients are those of products without that.
///
/// # Panics
/// If the shapes do not fit, naming them.
pub fn linear_packed<B: KernelBackend, const D: usize>(
    x: Tensor<B, D>,
    weight: &PackedWeight<B>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    let [d_out, d_in] = weight.shape();
    assert!(
        D >= 2 && x.dims()[D - 1] == d_in,
        "linear_packed: input {:?} does not end in the {d_in} columns of the weight [{d_out}, {d_in}]",
        x.dims(),
    );
    if let Some(bias) = &bias {
        assert_eq!(
            bias.dims(),
            [d_out],
            "linear_packed: bias of a weight [{d_out}, {d_in}]"
        );
    }
    from_float(B::linear_packed_forward(
        into_float(x),
        weight.tensors(),
        bias.map(into_float),
    ))
}

/// The numbers of a packed weight, `[out, in]` in `dtype`: computed in f32 by the operations of the `gguf`
/// package and of PyTorch's casts, then rounded once. The same bits on every backend.
///
/// # Panics
/// If `dtype` is none of F64, F32, F16 and BF16.
pub fn unpack_weight<B: KernelBackend>(weight: &PackedWeight<B>, dtype: DType) -> Tensor<B, 2> {
    assert!(is_target(dtype), "unpack_weight: weights of {dtype:?}");
    from_float(B::unpack_weight_forward(weight.tensors(), dtype))
}
