//! Random numbers. Burn's generator is one for the whole program, whose tests run on several
//! threads: everything that draws goes through here, so that a seeded draw is the same in every run.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::Module;
use burn::tensor::{Distribution, Tensor};
use burn_flex::{Flex, FlexDevice};
use longcat_kernels::KernelBackend;
use longcat_vae::{WanVae, WanVaeConfig};

static GENERATOR: Mutex<()> = Mutex::new(());

/// Nobody else draws while the guard lives.
pub fn alone() -> MutexGuard<'static, ()> {
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Uniform in [-1, 1).
pub fn random(shape: [usize; 5]) -> Tensor<Flex, 5> {
    let _guard = alone();
    uniform(shape)
}

/// A VAE with random weights.
pub fn vae<B: KernelBackend<Device = FlexDevice>>(config: &WanVaeConfig) -> WanVae<B> {
    let _guard = alone();
    initialized(config)
}

/// [`random`] for a caller that is [`alone`].
pub fn uniform(shape: [usize; 5]) -> Tensor<Flex, 5> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &FlexDevice)
}

/// [`vae`] for a caller that is [`alone`].
pub fn initialized<B: KernelBackend<Device = FlexDevice>>(config: &WanVaeConfig) -> WanVae<B> {
    // Weights are drawn when they are first used, which moving them does.
    WanVae::new(config, &FlexDevice).fork(&FlexDevice)
}
