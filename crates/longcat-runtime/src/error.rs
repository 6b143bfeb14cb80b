//! What can go wrong on a device.

use burn::tensor::DType;
use longcat_train::TrainError;
use longcat_video::VideoError;

use crate::{DeviceList, DeviceSpec};

/// What can go wrong between a device and a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The backend of a device is not compiled in.
    #[error("this program was built without {feature}; build it with --features {feature}")]
    NotCompiled {
        /// The feature of this crate.
        feature: &'static str,
    },
    /// There is no such device, or its driver does not start.
    #[error(
        "{device} cannot be used: there is no such device or no driver for it; `longcat devices` \
         lists what is usable"
    )]
    NoDevice {
        /// The device.
        device: DeviceSpec,
    },
    /// There are fewer wgpu devices than the index asks for.
    #[error(
        "no such wgpu device: {found} found; a Vulkan, Metal or DirectX driver is needed (on Debian, \
         mesa-vulkan-drivers has one in software)"
    )]
    NoWgpuDevice {
        /// How many there are.
        found: usize,
    },
    /// Devices cannot share work.
    #[error("{reason}")]
    NotShared {
        /// What is missing.
        reason: String,
    },
    /// The device has no arithmetic of this dtype.
    #[error("{devices} cannot compute in {dtype:?}; `longcat devices` lists what it can")]
    Dtype {
        /// The device or devices.
        devices: DeviceList,
        /// The dtype.
        dtype: DType,
    },
    /// Training.
    #[error(transparent)]
    Train(Box<TrainError>),
    /// Checkpoint, request or models.
    #[error(transparent)]
    Video(#[from] VideoError),
}

impl From<TrainError> for RuntimeError {
    fn from(error: TrainError) -> Self {
        Self::Train(Box::new(error))
    }
}
