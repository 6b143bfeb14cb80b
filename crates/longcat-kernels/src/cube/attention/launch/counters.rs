//! Counts of launches.

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) static FORWARD_HOPPER: AtomicU64 = AtomicU64::new(0);
pub(crate) static FORWARD_FP8: AtomicU64 = AtomicU64::new(0);
pub(crate) static BACKWARD_HOPPER: AtomicU64 = AtomicU64::new(0);
/// Products in fp8, and those of them whose scales were applied afterwards.
pub(crate) static FP8_PRODUCTS: AtomicU64 = AtomicU64::new(0);
pub(crate) static FP8_SCALED_AFTER: AtomicU64 = AtomicU64::new(0);
pub(super) static FORWARD_MMA: AtomicU64 = AtomicU64::new(0);
pub(super) static FORWARD_COOPERATIVE: AtomicU64 = AtomicU64::new(0);
pub(super) static FORWARD_PLAIN: AtomicU64 = AtomicU64::new(0);
pub(super) static BACKWARD_MMA: AtomicU64 = AtomicU64::new(0);
pub(super) static BACKWARD_PLAIN: AtomicU64 = AtomicU64::new(0);
pub(super) static SELECTION: AtomicU64 = AtomicU64::new(0);

/// How often each fused kernel was launched by this process; tests use it to tell a fused kernel
/// from the portable body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launches {
    /// Forward attention on tensor cores, by the kernel for Hopper.
    pub forward_hopper: u64,
    /// Forward attention in eight bits.
    pub forward_fp8: u64,
    /// Forward attention on tensor cores.
    pub forward_mma: u64,
    /// Forward attention on tensor cores, by cooperative matrices.
    pub forward_cooperative: u64,
    /// Forward attention without.
    pub forward_plain: u64,
    /// Backward attention on tensor cores, by the kernels for Hopper.
    pub backward_hopper: u64,
    /// Backward attention on tensor cores.
    pub backward_mma: u64,
    /// Backward attention without.
    pub backward_plain: u64,
    /// Block selection.
    pub selection: u64,
    /// Linear layers in fp8.
    pub fp8_products: u64,
    /// Those of them that another kernel applied scales and bias to.
    pub fp8_scaled_after: u64,
}

/// The launches so far.
pub fn launches() -> Launches {
    Launches {
        forward_hopper: FORWARD_HOPPER.load(Ordering::Relaxed),
        forward_fp8: FORWARD_FP8.load(Ordering::Relaxed),
        forward_mma: FORWARD_MMA.load(Ordering::Relaxed),
        forward_cooperative: FORWARD_COOPERATIVE.load(Ordering::Relaxed),
        forward_plain: FORWARD_PLAIN.load(Ordering::Relaxed),
        backward_hopper: BACKWARD_HOPPER.load(Ordering::Relaxed),
        backward_mma: BACKWARD_MMA.load(Ordering::Relaxed),
        backward_plain: BACKWARD_PLAIN.load(Ordering::Relaxed),
        selection: SELECTION.load(Ordering::Relaxed),
        fp8_products: FP8_PRODUCTS.load(Ordering::Relaxed),
        fp8_scaled_after: FP8_SCALED_AFTER.load(Ordering::Relaxed),
    }
}
