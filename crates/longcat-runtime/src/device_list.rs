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
    others: Vec<DeviceSpec>,
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
        Self::parsed(text, false)
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
            .try_for_each(|other| write!(f, ",{other}"))
    }
}

impl DeviceList {
    /// As a text is parsed, but a device may be named several times: it then has as many roles, with which what
    /// devices exchange is checked on fewer of them.
    ///
    /// # Errors
    /// As parsing.
    pub fn in_roles(text: &str) -> Result<Self, ParseDeviceListError> {
        Self::parsed(text, true)
    }

    fn parsed(text: &str, roles: bool) -> Result<Self, ParseDeviceListError> {
        let mut names = text.split(',');
        let mut list = Self::from(names.next().unwrap_or_default().parse::<DeviceSpec>()?);
        let first = list.first;
        for name in names {
            let other: DeviceSpec = name.parse()?;
            let again = first == other || list.others.contains(&other);
            match (first, other) {
                _ if again && roles => {}
                (DeviceSpec::Cuda(_), DeviceSpec::Cuda(_)) if !again => {}
                (DeviceSpec::Cuda(_), DeviceSpec::Cuda(_)) => {
                    return Err(ParseDeviceListError::Twice(other));
                }
                _ => return Err(ParseDeviceListError::Mixed { first, other }),
            }
            list.others.push(other);
        }
        Ok(list)
    }

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
        let apart = self.others.iter().any(|other| *other != self.first);
        if let (true, Some(reason)) = (apart, nccl_problem()) {
            return Err(RuntimeError::NotShared { reason });
        }
        let device = |other: &DeviceSpec| match *other {
            other if other == self.first => Ok(first.clone()),
            DeviceSpec::Cuda(index) => {
                let mut id = first.to_id();
                id.index_id = index as _;
                let device = B::Device::from_id(id);
                usable::<B>(&device, index)?;
                Ok(device)
            }
            device => Err(RuntimeError::NoDevice { device }),
        };
        self.others.iter().map(device).collect()
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
    #[test]
    fn a_device_may_have_several_roles_where_that_is_asked_for() {
        for name in ["cpu,cpu", "cuda:0,cuda:0,cuda:1", "wgpu:1,wgpu:1"] {
            let list = DeviceList::in_roles(name);
            assert_eq!(list.map(|list| list.to_string()), Ok(name.into()));
        }
        let error = DeviceList::in_roles("cpu,cuda:0").err();
        assert!(error.is_some_and(|error| error.to_string().contains("only CUDA")));
    }
}
