//! Names of devices.

use std::fmt;
use std::str::FromStr;

use burn::tensor::DType;

/// A device as `--device` names it: `cpu`, `wgpu[:i]` or `cuda[:i]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceSpec {
    /// The processor.
    #[default]
    Cpu,
    /// A GPU through Vulkan, Metal or DirectX; the best one without an index.
    Wgpu(Option<usize>),
    /// An NVIDIA GPU.
    Cuda(usize),
}

/// Why a text names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseDeviceError {
    /// What follows the colon is no number.
    #[error("{0:?} is not a device index")]
    Index(String),
    /// There is one processor.
    #[error("cpu takes no index")]
    CpuIndex,
    /// No such kind.
    #[error("unknown device {0:?}; use cpu, wgpu[:i] or cuda[:i]")]
    Kind(String),
}

impl FromStr for DeviceSpec {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, ParseDeviceError> {
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => match index.parse() {
                Ok(index) => (kind, Some(index)),
                Err(_) => return Err(ParseDeviceError::Index(index.into())),
            },
            None => (text, None),
        };
        match (kind, index) {
            ("cpu", None) => Ok(Self::Cpu),
            ("cpu", Some(_)) => Err(ParseDeviceError::CpuIndex),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            _ => Err(ParseDeviceError::Kind(kind.into())),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Wgpu(None) => write!(f, "wgpu"),
            Self::Wgpu(Some(index)) => write!(f, "wgpu:{index}"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl DeviceSpec {
    /// The dtype that models take on this kind of device, where it has it; F32 elsewhere.
    ///
    /// Of the types of two bytes shaders have F16 alone: half the memory of F32, and the one that matrix
    /// units take.
    pub fn default_dtype(self) -> DType {
        match self {
            Self::Cpu => DType::F32,
            Self::Wgpu(_) => DType::F16,
            Self::Cuda(_) => DType::BF16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_mistakes_are_explained() {
        for name in ["cpu", "wgpu", "wgpu:1", "cuda:0", "cuda:3"] {
            assert_eq!(
                name.parse::<DeviceSpec>().map(|d| d.to_string()),
                Ok(name.into())
            );
        }
        assert_eq!("cuda".parse(), Ok(DeviceSpec::Cuda(0)));
        for (name, word) in [("gpu", "gpu"), ("cuda:x", "x"), ("cpu:1", "index")] {
            let error = name.parse::<DeviceSpec>().err();
            assert!(
                error.is_some_and(|e| e.to_string().contains(word)),
                "{name}"
            );
        }
    }
}
