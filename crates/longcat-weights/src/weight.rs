//! The matrix of a linear layer, in any of the forms in which it is kept.

use burn::module::{
    AutodiffModule, Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param, ParamId,
};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, Tensor};
use longcat_kernels::{
    HostRow, KernelBackend, PackedKind, PackedLayout, PackedWeight, Products, QuantizedRows,
    StreamedWeight, linear, linear_packed, linear_quantized, unpack_weight,
};

use crate::{PackingError, WeightsError, requantize};

/// The matrix `[out, in]` of a linear layer.
///
/// In the module tree a dense one is the parameter that it is, under the path of the field that holds
/// it. Every other form is a constant: it has no parameters, is not trained and not cast.
#[derive(Debug, Clone)]
pub enum Weight<B: Backend> {
    /// Floats of one type.
    Dense(Param<Tensor<B, 2>>),
    /// Packed, in parts of its rows that may be packed in different ways; at least one.
    Packed(Vec<PackedWeight<B>>),
    /// In host memory, as floats or packed, and on the device only while they are used.
    Streamed(StreamedWeight<B>),
}

impl<B: Backend> Weight<B> {
    /// The matrix, if it passes through the device.
    pub fn streamed(&self) -> Option<&StreamedWeight<B>> {
        match self {
            Self::Streamed(streamed) => Some(streamed),
            _ => None,
        }
    }

    /// The parameter that it is, if it is one.
    pub(crate) fn param_id(&self) -> Option<ParamId> {
        match self {
            Self::Dense(param) => Some(param.id),
            _ => None,
        }
    }

    /// How it is packed, if it is: by its first rows.
    pub fn packed_kind(&self) -> Option<PackedKind> {
        match self {
            Self::Packed(parts) => Some(parts[0].layout.kind),
            Self::Streamed(streamed) => Some(streamed.layout()?.kind),
            Self::Dense(_) => None,
        }
    }

    /// Lets it be multiplied in other numbers, and tells whether it is: a packed one is where its values and
    /// scales allow that ([`PackedWeight::with_products`]).
    pub fn set_products(&mut self, products: Products) -> bool {
        match self {
            Self::Dense(_) => false,
            Self::Packed(parts) => {
                for part in parts.iter_mut() {
                    *part = part.clone().with_products(products);
                }
                parts.iter().all(|part| part.products == products)
            }
            Self::Streamed(streamed) => {
                *streamed = streamed.clone().with_products(products);
                streamed.layout().is_some() && streamed.products() == products
            }
        }
    }

    /// How the parts of its rows are packed; none where it is not.
    pub fn layouts(&self) -> Vec<PackedLayout> {
        match self {
            Self::Dense(_) => Vec::new(),
            Self::Packed(parts) => parts.iter().map(|part| part.layout).collect(),
            Self::Streamed(streamed) => streamed.layout().into_iter().collect(),
        }
    }

    /// Output and input features. Makes no weights.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(param) => {
                let shape = param.lazy_shape();
                [shape[0], shape[1]]
            }
            Self::Packed(parts) => {
                let rows = parts.iter().map(|part| part.shape()[0]).sum();
                [rows, parts[0].shape()[1]]
            }
            Self::Streamed(streamed) => streamed.shape(),
        }
    }

    /// The device that it is on, or will be. Makes no weights.
    pub fn device(&self) -> B::Device {
        match self {
            Self::Dense(param) => param.lazy_device(),
            Self::Packed(parts) => parts[0].device(),
            Self::Streamed(streamed) => streamed.device().clone(),
        }
    }

    /// Whether there are values: those of a layer that was not loaded are drawn at their first use.
    pub fn is_initialized(&self) -> bool {
        match self {
            Self::Dense(param) => param.is_initialized(),
            Self::Packed(_) | Self::Streamed(_) => true,
        }
    }

    /// The type of its floats; a packed one becomes what it is multiplied with.
    pub fn dtype(&self) -> Option<DType> {
        match self {
            Self::Dense(param) => Some(param.val().dtype()),
            Self::Packed(_) => None,
            Self::Streamed(streamed) => streamed.layout().is_none().then(|| streamed.dtype()),
        }
    }
}

impl<B: KernelBackend> Weight<B> {
    /// The same matrix in host memory, which it is read back to, and from where it passes through the
    /// device. One that is trained or packed stays what it is.
    ///
    /// # Errors
    /// [`WeightsError::ReadBack`] names it by `path`.
    pub fn on_host(&self, path: &str) -> Result<Self, WeightsError> {
        let param = match self {
            Self::Dense(param) => param.val(),
            _ => return Ok(self.clone()),
        };
        if param.is_require_grad() {
            return Ok(self.clone());
        }
        let (shape, device) = (param.dims(), param.device());
        let data = param.try_into_data();
        let data = data.map_err(|error| WeightsError::ReadBack {
            path: path.into(),
            message: error.to_string(),
        })?;
        let dtype = data.dtype;
        let bytes = data.bytes.to_vec().into();
        let row = HostRow { bytes, dtype };
        let streamed = StreamedWeight::new(row, shape, &device);
        Ok(Self::Streamed(streamed))
    }

    /// Other numbers in the place of a packed matrix's, each part of its rows packed as it was, and how far
    /// they are off then; `None` where it is not packed, or so that nothing packs like it
    /// ([`Quantization::like`](crate::Quantization::like)).
    ///
    /// # Panics
    /// If there are not as many values as the matrix has.
    pub fn requantized(&self, values: &[f32]) -> Option<(Self, PackingError)> {
        match self {
            Self::Dense(_) => None,
            Self::Packed(parts) => {
                let mut sum = PackingError::default();
                let mut packed = Vec::new();
                let mut rest = values;
                for part in parts {
                    let (own, later) = rest.split_at(part.layout.elements());
                    rest = later;
                    let (made, off) = requantize(own, &part.layout)?;
                    let scale = made.scale.as_deref();
                    let device = part.device();
                    let made = PackedWeight::from_bytes(&made.bytes, scale, made.layout, &device);
                    packed.push(made.with_products(part.products));
                    sum.add(off);
                }
                Some((Self::Packed(packed), sum))
            }
            Self::Streamed(streamed) => {
                let (packed, off) = requantize(values, &streamed.layout()?)?;
                let scale = packed.scale.as_deref();
                let (bytes, device) = (packed.bytes.into(), streamed.device());
                let packed = StreamedWeight::packed(bytes, scale, packed.layout, device);
                let packed = packed.with_products(streamed.products());
                Some((Self::Streamed(packed), off))
            }
        }
    }

    /// The matrix as floats `[out, in]`, in f32 where it is packed.
    pub fn val(&self) -> Tensor<B, 2> {
        match self {
            Self::Dense(param) => param.val(),
            Self::Packed(parts) => {
                let unpacked = parts.iter().map(|part| unpack_weight(part, DType::F32));
                Tensor::cat(unpacked.collect(), 0)
            }
            Self::Streamed(streamed) => streamed.tensor(),
        }
    }

    /// `x·Wᵀ + b`: `x` `[.., in]`, in the type of floats and in any where it is packed, to `[.., out]` in the
    /// type of `x`.
    pub fn product<const D: usize>(
        &self,
        x: Tensor<B, D>,
        bias: Option<Tensor<B, 1>>,
    ) -> Tensor<B, D> {
        match self {
            Self::Dense(param) => linear(x, param.val(), bias),
            Self::Packed(parts) => match parts.as_slice() {
                [whole] => linear_packed(x, whole, bias),
                parts => {
                    let mut first = 0;
                    let products = parts.iter().map(|part| {
                        let rows = part.shape()[0];
                        let bias = bias.clone().map(|bias| bias.narrow(0, first, rows));
                        first += rows;
                        linear_packed(x.clone(), part, bias)
                    });
                    Tensor::cat(products.collect(), D - 1)
                }
            },
            Self::Streamed(streamed) => streamed.product(x, bias),
        }
    }

    /// Whether it is multiplied in fp8 on a device whose kernels can round what they write, so that
    /// [`product_quantized`](Self::product_quantized) is the faster one.
    pub fn takes_quantized(&self) -> bool {
        let products = match self {
            Self::Packed(parts) if parts.len() == 1 => parts[0].products,
            Self::Streamed(streamed) => streamed.products(),
            Self::Packed(_) | Self::Dense(_) => Products::Dense,
        };
        products == Products::Fp8 && B::rounds_activations(&self.device())
    }

    /// [`product`](Self::product) of rows that are rounded already.
    pub fn product_quantized<const D: usize>(
        &self,
        x: &QuantizedRows<B, D>,
        bias: Option<Tensor<B, 1>>,
    ) -> Tensor<B, D> {
        match self {
            Self::Packed(parts) if parts.len() == 1 => linear_quantized(x, &parts[0], bias),
            Self::Streamed(streamed) => streamed.product_quantized(x, bias),
            Self::Packed(_) | Self::Dense(_) => self.product(x.numbers(), bias),
        }
    }
}

impl<B: Backend> From<Param<Tensor<B, 2>>> for Weight<B> {
    fn from(param: Param<Tensor<B, 2>>) -> Self {
        Self::Dense(param)
    }
}

impl<B: Backend> Module<B> for Weight<B> {
    /// Of a dense weight alone.
    type Record = Option<Param<Tensor<B, 2>>>;

    fn visit<V: ModuleVisitor<B>>(&self, visitor: &mut V) {
        match self {
            Self::Dense(param) => visitor.visit_float(param),
            Self::Packed(_) | Self::Streamed(_) => {}
        }
    }

    fn map<M: ModuleMapper<B>>(self, mapper: &mut M) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(mapper.map_float(param)),
            Self::Packed(_) | Self::Streamed(_) => self,
        }
    }

    fn load_record(self, record: Self::Record) -> Self {
        match (self, record) {
            (Self::Dense(param), Some(record)) => {
                Self::Dense(Module::<B>::load_record(param, record))
            }
            (this, _) => this,
        }
    }

    fn into_record(self) -> Self::Record {
        match self {
            Self::Dense(param) => Some(Module::<B>::into_record(param)),
            Self::Packed(_) | Self::Streamed(_) => None,
        }
    }

    fn to_device(self, device: &B::Device) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(Module::<B>::to_device(param, device)),
            Self::Packed(parts) => Self::Packed(parts.to_device(device)),
            Self::Streamed(streamed) => Self::Streamed(streamed.to_device(device)),
        }
    }

    fn fork(self, device: &B::Device) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(Module::<B>::fork(param, device)),
            Self::Packed(parts) => Self::Packed(parts.fork(device)),
            Self::Streamed(streamed) => Self::Streamed(streamed.fork(device)),
        }
    }

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        match self {
            Self::Dense(param) => Module::<B>::collect_devices(param, devices),
            Self::Packed(parts) => parts.collect_devices(devices),
            Self::Streamed(streamed) => streamed.collect_devices(devices),
        }
    }
}

impl<B: AutodiffBackend> AutodiffModule<B> for Weight<B> {
    type InnerModule = Weight<B::InnerBackend>;

    fn valid(&self) -> Self::InnerModule {
        match self {
            Self::Dense(param) => Weight::Dense(AutodiffModule::<B>::valid(param)),
            Self::Packed(parts) => Weight::Packed(parts.valid()),
            Self::Streamed(streamed) => Weight::Streamed(streamed.valid()),
        }
    }

    fn from_inner(module: Self::InnerModule) -> Self {
        match module {
            Weight::Dense(param) => Self::Dense(AutodiffModule::<B>::from_inner(param)),
            Weight::Packed(parts) => Self::Packed(AutodiffModule::<B>::from_inner(parts)),
            Weight::Streamed(streamed) => Self::Streamed(StreamedWeight::from_inner(streamed)),
        }
    }
}

impl<B: Backend> ModuleDisplayDefault for Weight<B> {
    fn content(&self, content: Content) -> Option<Content> {
        content
            .add_single(&format!("Weight {:?}", self.shape()))
            .optional()
    }
}

impl<B: Backend> ModuleDisplay for Weight<B> {}
