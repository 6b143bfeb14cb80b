//! Devices that share the work.

use std::fmt;
use std::str::FromStr;

use burn::prelude::DeviceOps;
use longcat_kernels::KernelBackend;

use crate::cuda::{nccl_problem, usable};
use crate::{DeviceSpec, ParseDeviceError, RuntimeError};

/// A device, or several CUDA devices that share the denoising, as `--device` names them:
/// `cuda:0,cuda:1`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceList {
    first: DeviceSpec,
    /// Indices of further CUDA devices.
    others: Vec<usize>,
}

/// Why a text names no devices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseDeviceListError {
    /// One of them is no device.
    #[error(transparent)]
    Device(#[from] ParseDeviceError),
    /// Devices of other kinds do not share.
    #[error("{first} and {other} cannot share the work: only CUDA devices can")]
    Mixed {
        /// The first device.
        first: DeviceSpec,
        /// The one that does not go with it.
        other: DeviceSpec,
    },
    /// The same device again.
    #[error("{0} is named twice")]
    Twice(DeviceSpec),
}

impl FromStr for DeviceList {
    type Err = ParseDeviceListError;

    fn from_str(text: &str) -> Result<Self, ParseDeviceListError> {
        let mut names = text.split(',');
        let first = names.next().unwrap_or_default().parse()?;
        let mut list = Self::from(first);
        let mut seen = vec![first];
        for name in names {
            let spec: DeviceSpec = name.parse()?;
            let (DeviceSpec::Cuda(_), DeviceSpec::Cuda(index)) = (first, spec) else {
                return Err(ParseDeviceListError::Mixed { first, other: spec });
            };
            if seen.contains(&spec) {
                return Err(ParseDeviceListError::Twice(spec));
            }
            seen.push(spec);
            list.others.push(index);
        }
        Ok(list)
    }
}

impl From<DeviceSpec> for DeviceList {
    fn from(first: DeviceSpec) -> Self {
        Self {
            first,
            others: Vec::new(),
        }
    }
}

impl fmt::Display for DeviceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        self.others
            .iter()
            .try_for_each(|&index| write!(f, ",{}", DeviceSpec::Cuda(index)))
    }
}

impl DeviceList {
    /// The device that runs everything.
    pub fn first(&self) -> DeviceSpec {
        self.first
    }

    /// The further devices, of the kind of `first`.
    ///
    /// # Errors
    /// [`RuntimeError::NoDevice`] if one of them is not there, [`RuntimeError::NotShared`] if NCCL is
    /// not.
    pub fn others<B: KernelBackend>(
        &self,
        first: &B::Device,
    ) -> Result<Vec<B::Device>, RuntimeError> {
        if let (false, Some(reason)) = (self.others.is_empty(), nccl_problem()) {
            return Err(RuntimeError::NotShared { reason });
        }
        let of_index = |&index: &usize| {
            let mut id = first.to_id();
            id.index_id = index as _;
            let device = B::Device::from_id(id);
            usable::<B>(&device, index)?;
            Ok(device)
        };
        self.others.iter().map(of_index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_round_trip_and_mistakes_are_explained() {
        for name in [
            "cpu",
            "wgpu:1",
            "cuda:0",
            "cuda:0,cuda:1",
            "cuda:3,cuda:0,cuda:2",
        ] {
            let list = name.parse::<DeviceList>();
            assert_eq!(list.map(|list| list.to_string()), Ok(name.into()));
        }
        for (name, word) in [
            ("cuda:0,cuda:0", "twice"),
            ("cpu,cpu", "only CUDA"),
            ("cuda:0,wgpu:1", "only CUDA"),
            ("cuda:0,", "unknown device"),
        ] {
            let error = name.parse::<DeviceList>().err();
            assert!(
                error.is_some_and(|e| e.to_string().contains(word)),
                "{name}"
            );
        }
    }
}
