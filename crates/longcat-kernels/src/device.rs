//! The trait for what the kernels need to know of, and ask of, a backend's devices.

use burn::tensor::{DType, backend::Backend};
use burn_backend::tensor::{FloatTensor, IntTensor};

use crate::faults::{DeviceFault, keep_own_fault, own_fault};
use crate::{BeginCopies, HostRow, RankGroup, UploadTicket, Uploads, portable};

/// A backend whose devices the kernels and models know: sizes that suit them, uploads, transfers.
///
/// The defaults are right for any backend: `impl KernelDevice for MyBackend {}` is enough.
pub trait KernelDevice: Backend {
    /// The inner dimension of matrix products is filled up with zeros to a multiple of this.
    ///
    /// The double-buffered products without tensor cores of cubek 0.2, which autotune may choose on
    /// any cubecl device, are wrong where it is an odd multiple of 8 (8, 24, 40, ...).
    const INNER_MULTIPLE: usize = 1;

    /// Bytes of patches that a convolution gathers before it multiplies them.
    fn patch_bytes(_device: &Self::Device) -> usize {
        64 << 20
    }

    /// Orders what `device` is given from now on behind everything it was given before, transfers to
    /// and from other devices included. Nothing waits on the host.
    ///
    /// Transfers between CUDA devices run on a stream of their own, which cubecl 0.10 lets neither
    /// wait for earlier readers of the memory that a tensor arrives in, nor hold back later writers
    /// of the memory that one is sent from. Called before and after, this does both.
    fn order_transfers(_device: &Self::Device) {}

    /// What copies parts of tensors between these devices, of which one may be named several times, beside
    /// what they are given from then on; nothing where that cannot be done. See
    /// [`Gathering`](crate::Gathering).
    ///
    /// A copy waits for what both devices were given before. Sources and targets are kept until it is awaited.
    fn copies_aside(_devices: &[Self::Device]) -> Option<BeginCopies<Self>> {
        None
    }

    /// A row of floats on `device`, `[bytes.len() / size of dtype]`, for their bytes (little endian).
    ///
    /// The bytes are read before this returns, by this thread: several threads upload at once.
    fn float_from_bytes(bytes: &[u8], dtype: DType, device: &Self::Device) -> FloatTensor<Self> {
        portable::float_from_bytes::<Self>(bytes, dtype, device)
    }

    /// Words of 32 bits on `device`, `[bytes.len() / 4]` in I32, for their bytes (little endian); zeros fill
    /// the last one up. Read as those of [`float_from_bytes`](Self::float_from_bytes).
    fn words_from_bytes(bytes: &[u8], device: &Self::Device) -> IntTensor<Self> {
        portable::words_from_bytes::<Self>(bytes, device)
    }

    /// Sends rows of floats to `device` while it computes what was queued before. They are to be used after
    /// [`await_uploads`](Self::await_uploads) only; what is queued in between does not wait for them.
    ///
    /// They lie in memory that nothing queued before still uses. By default they are uploaded at once. A
    /// call without rows prepares for later ones.
    fn begin_uploads(rows: Vec<HostRow>, device: &Self::Device) -> Uploads<Self> {
        portable::begin_uploads::<Self>(rows, device)
    }

    /// Holds back what `device` is given from now on until the rows of a ticket are there. Nothing waits on
    /// the host, unless the bytes are still being read there. May be repeated.
    fn await_uploads(_ticket: &UploadTicket, _device: &Self::Device) {}

    /// Gives `device` what waits in the queue of a backend that fuses operations; nothing waits on the host
    /// for the device.
    ///
    /// Operations become one kernel only between two such points, and a kernel of several may round otherwise
    /// than several kernels do: CUDA's compiler makes one instruction of a product and a sum.
    fn submit_queued(_device: &Self::Device) {}

    /// Whether a device computes [`Products::Fp8`](crate::Products::Fp8) as such; elsewhere weights are
    /// unpacked for them, too.
    fn has_fp8_products(_device: &Self::Device) -> bool {
        false
    }

    /// Whether a device attends to heads of 128 channels in this dtype in eight bits
    /// ([`AttentionNumbers::Fp8`](crate::AttentionNumbers::Fp8)); elsewhere attention stays in floats.
    fn has_fp8_attention(_device: &Self::Device, _dtype: DType) -> bool {
        false
    }

    /// See [`sum_over_ranks`](crate::sum_over_ranks); `None` by default.
    fn sum_over_ranks(_x: FloatTensor<Self>, _group: &RankGroup) -> Option<FloatTensor<Self>> {
        None
    }

    /// Whether kernels of a device that write activations can round them to fp8 as well: then it pays to ask
    /// [`layer_norm_quantized`](crate::layer_norm_quantized) and its like for them.
    fn rounds_activations(_device: &Self::Device) -> bool {
        false
    }

    /// Bytes of the largest tensor that a device has room for in one piece; no limit but its memory by
    /// default.
    fn max_tensor_bytes(_device: &Self::Device) -> u64 {
        u64::MAX
    }

    /// What is known of a device's memory; nothing by default.
    fn memory(_device: &Self::Device) -> DeviceMemory {
        DeviceMemory::default()
    }

    /// The maker's name of a device, such as `NVIDIA H200`, where it tells; nothing by default.
    fn model(_device: &Self::Device) -> Option<String> {
        None
    }

    /// The first fault of a device that is known, without waiting for anything. Nothing that the device
    /// holds since then may be used; see [`guard`](crate::guard).
    ///
    /// By default that of the calling thread, on which such a backend works.
    fn fault(_device: &Self::Device) -> Option<DeviceFault> {
        own_fault()
    }

    /// Keeps a fault for [`fault`](Self::fault), unless there was one before.
    fn keep_fault(_device: &Self::Device, fault: DeviceFault) {
        keep_own_fault(fault);
    }
}

/// What is known of a device's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceMemory {
    /// What no process has taken, where the device tells.
    pub free: Option<u64>,
    /// What the backend takes besides tensors: its context, compiled kernels, workspaces of libraries.
    pub context: u64,
}
