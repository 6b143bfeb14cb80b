//! Devices of several processes that sum tensors among themselves.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorPrimitive};

use crate::KernelDevice;

/// What a kind of devices keeps of a group.
pub(crate) trait Group: Any + Send + Sync {
    /// See [`RankGroup::leave`].
    fn leave(&self);
    /// See [`RankGroup::end`].
    fn end(&self);
}

/// Devices of several processes, a *rank* each, that exchange tensors without the host: CUDA devices,
/// through NCCL.
#[derive(Clone)]
pub struct RankGroup(Arc<dyn Group>);

impl fmt::Debug for RankGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RankGroup").finish_non_exhaustive()
    }
}

impl RankGroup {
    #[cfg(feature = "cuda")]
    pub(crate) fn new(group: impl Group) -> Self {
        Self(Arc::new(group))
    }

    /// Whether devices of this kind form groups.
    ///
    /// # Errors
    /// What is missing, of devices that could.
    pub fn is_for<D: 'static>(device: &D) -> Result<bool, String> {
        #[cfg(feature = "cuda")]
        if (device as &dyn Any).is::<cubecl::cuda::CudaDevice>() {
            return match crate::cuda::transfers::nccl_problem() {
                None => Ok(true),
                Some(problem) => Err(problem),
            };
        }
        let _ = device;
        Ok(false)
    }

    /// What a new group is known by: made by one rank and given to all.
    ///
    /// # Errors
    /// What NCCL says, or that there is none.
    pub fn new_id() -> Result<Vec<u8>, String> {
        #[cfg(feature = "cuda")]
        {
            crate::cuda::ranks::new_id()
        }
        #[cfg(not(feature = "cuda"))]
        Err("this program was built without CUDA".into())
    }

    /// Joins the group `id` of `size` ranks as one of them, and waits until all have. No two may bring
    /// the same device.
    ///
    /// # Errors
    /// What NCCL says.
    pub fn join<D: 'static>(
        device: &D,
        id: &[u8],
        rank: usize,
        size: usize,
    ) -> Result<Self, String> {
        #[cfg(feature = "cuda")]
        if let Some(device) = (device as &dyn Any).downcast_ref::<cubecl::cuda::CudaDevice>() {
            return crate::cuda::ranks::join(device.index, id, rank, size);
        }
        let _ = (device, id, rank, size);
        Err("only CUDA devices exchange tensors by themselves".into())
    }

    /// Ends what this device still waits for from others, from any thread; sums are then of no use, and
    /// later ones fail. For when another rank is gone, for which a device would wait for ever.
    pub fn leave(&self) {
        self.0.leave();
    }

    /// Ends the part of this device in the group after the last sum, when the other ranks are through as well:
    /// waits until what is under way to them has arrived, but not for long. Nothing is left to do in a group
    /// that was left.
    pub fn end(&self) {
        self.0.end();
    }

    /// What a kind of devices keeps of the group, if it is of that kind.
    #[cfg(feature = "cuda")]
    pub(crate) fn of<G: Group>(&self) -> Option<&G> {
        (&*self.0 as &dyn Any).downcast_ref()
    }
}

/// The sum over all ranks of a tensor of f32 that each has in the same shape, the same bits on all of
/// them. All ranks sum in the same order.
///
/// `None` where the group is not of the tensor's device, or the tensor of another dtype. Not
/// differentiable.
pub fn sum_over_ranks<B: KernelDevice, const D: usize>(
    x: Tensor<B, D>,
    group: &RankGroup,
) -> Option<Tensor<B, D>> {
    let sums = B::sum_over_ranks(x.into_primitive().tensor(), group)?;
    Some(Tensor::from_primitive(TensorPrimitive::Float(sums)))
}
