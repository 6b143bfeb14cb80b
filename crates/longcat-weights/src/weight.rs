//! The matrix of a linear layer, in any of the forms in which it is kept.

use burn::module::{
    AutodiffModule, Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param,
};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, Tensor};
use longcat_kernels::{HostRow, KernelBackend, StreamedWeight, linear};

use crate::WeightsError;

/// The matrix `[out, in]` of a linear layer.
///
/// In the module tree a dense one is the parameter that it is, under the path of the field that holds
/// it. Every other form is a constant: it has no parameters, is not trained and not cast.
#[derive(Debug, Clone)]
pub enum Weight<B: Backend> {
    /// Floats of one type.
    Dense(Param<Tensor<B, 2>>),
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

    /// Output and input features. Makes no weights.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(param) => {
                let shape = param.lazy_shape();
                [shape[0], shape[1]]
            }
            Self::Streamed(streamed) => streamed.shape(),
        }
    }

    /// The device that it is on, or will be. Makes no weights.
    pub fn device(&self) -> B::Device {
        match self {
            Self::Dense(param) => param.lazy_device(),
            Self::Streamed(streamed) => streamed.device().clone(),
        }
    }

    /// Whether there are values: those of a layer that was not loaded are drawn at their first use.
    pub fn is_initialized(&self) -> bool {
        match self {
            Self::Dense(param) => param.is_initialized(),
            Self::Streamed(_) => true,
        }
    }

    /// The type of the floats of a dense one; the others become what they are multiplied with.
    pub fn dtype(&self) -> Option<DType> {
        match self {
            Self::Dense(param) => Some(param.val().dtype()),
            Self::Streamed(streamed) => Some(streamed.dtype()),
        }
    }
}

impl<B: KernelBackend> Weight<B> {
    /// The same matrix in host memory, which it is read back to, and from where it passes through the
    /// device. One that is trained stays what it is.
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
        let streamed = StreamedWeight::new(row, shape, dtype, &device);
        Ok(Self::Streamed(streamed))
    }

    /// The matrix as floats `[out, in]`.
    pub fn val(&self) -> Tensor<B, 2> {
        match self {
            Self::Dense(param) => param.val(),
            Self::Streamed(streamed) => streamed.tensor(),
        }
    }

    /// `x·Wᵀ + b`: `x` `[.., in]`, of the type of a dense weight, to `[.., out]` in the type of `x`.
    pub fn product<const D: usize>(
        &self,
        x: Tensor<B, D>,
        bias: Option<Tensor<B, 1>>,
    ) -> Tensor<B, D> {
        match self {
            Self::Dense(param) => linear(x, param.val(), bias),
            Self::Streamed(streamed) => streamed.product(x, bias),
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
            Self::Streamed(_) => {}
        }
    }

    fn map<M: ModuleMapper<B>>(self, mapper: &mut M) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(mapper.map_float(param)),
            Self::Streamed(_) => self,
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
            Self::Streamed(_) => None,
        }
    }

    fn to_device(self, device: &B::Device) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(Module::<B>::to_device(param, device)),
            Self::Streamed(streamed) => Self::Streamed(streamed.to_device(device)),
        }
    }

    fn fork(self, device: &B::Device) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(Module::<B>::fork(param, device)),
            Self::Streamed(streamed) => Self::Streamed(streamed.fork(device)),
        }
    }

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        match self {
            Self::Dense(param) => Module::<B>::collect_devices(param, devices),
            Self::Streamed(streamed) => streamed.collect_devices(devices),
        }
    }
}

impl<B: AutodiffBackend> AutodiffModule<B> for Weight<B> {
    type InnerModule = Weight<B::InnerBackend>;

    fn valid(&self) -> Self::InnerModule {
        match self {
            Self::Dense(param) => Weight::Dense(AutodiffModule::<B>::valid(param)),
            Self::Streamed(streamed) => Weight::Streamed(streamed.valid()),
        }
    }

    fn from_inner(module: Self::InnerModule) -> Self {
        match module {
            Weight::Dense(param) => Self::Dense(AutodiffModule::<B>::from_inner(param)),
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
