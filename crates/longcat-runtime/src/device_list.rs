use std::fmt;
use std::str::FromStr;

use burn::prelude::DeviceOps;
use longcat_kernels::KernelBackend;

use crate::device::{nccl_problem, usable};
use crate::{DeviceSpec, VideoError};

/// A device, or several CUDA devices that share the denoising, as `--device` names them:
/// `cuda:0,cuda:1`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceList {
    first: DeviceSpec,
    /// Indices of further CUDA devices.
    others: Vec<usize>,
}

impl FromStr for DeviceList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut names = text.split(',');
        let first = names.next().unwrap_or_default().parse()?;
        let mut list = Self {
            first,
            others: Vec::new(),
        };
        let mut seen = vec![first];
        for name in names {
            let spec: DeviceSpec = name.parse()?;
            let (DeviceSpec::Cuda(_), DeviceSpec::Cuda(index)) = (first, spec) else {
                return Err(format!(
                    "{first} and {spec} cannot share the work: only CUDA devices can"
                ));
            };
            if seen.contains(&spec) {
                return Err(format!("{spec} is named twice"));
            }
            seen.push(spec);
            list.others.push(index);
        }
        Ok(list)
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
    /// [`VideoError::Device`] if one of them is not there, or if NCCL is not.
    pub fn others<B: KernelBackend>(
        &self,
        first: &B::Device,
    ) -> Result<Vec<B::Device>, VideoError> {
        if let (false, Some(problem)) = (self.others.is_empty(), nccl_problem()) {
            return Err(VideoError::Device(problem));
        }
        let of_index = |&index: &usize| {
            let mut id = first.to_id();
            id.index_id = index as _;
            let device = B::Device::from_id(id);
            usable::<B>(&device, DeviceSpec::Cuda(index))?;
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
            assert!(error.is_some_and(|e| e.contains(word)), "{name}");
        }
    }
}
