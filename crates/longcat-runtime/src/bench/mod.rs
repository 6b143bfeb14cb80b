//! Timings of operations and networks with random weights, made on the device.
//!
//! Each measurement is handed over as a JSON object as soon as it is made.

mod attention;
mod dit;
mod error;
mod linear;
mod load;
mod network;
mod packing;
mod stream;
mod text;
mod timing;
mod train;
mod vae;

pub use attention::Attention;
pub use dit::Dit;
pub use error::BenchError;
pub use linear::Linear;
pub use load::Load;
pub use network::{Network, Preset};
pub use stream::Stream;
pub use text::Text;
pub use timing::Timing;
pub use train::Train;
pub use vae::Vae;

use longcat_kernels::KernelBackend;

use crate::{DeviceSpec, DeviceTask, on_device};

/// What is given every measurement, a JSON object.
pub type Report<'a> = &'a mut dyn FnMut(serde_json::Value);

/// A measurement on whatever backend the device needs.
trait Bench {
    /// Makes it.
    fn measure<B: KernelBackend>(
        &self,
        device: B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError>;
}

fn measure<T: Bench>(device: DeviceSpec, bench: &T, report: Report<'_>) -> Result<(), BenchError> {
    on_device(device, Measured { bench, report })?
}

struct Measured<'a, T> {
    bench: &'a T,
    report: Report<'a>,
}

impl<T: Bench> DeviceTask for Measured<'_, T> {
    type Output = Result<(), BenchError>;

    fn run<B: KernelBackend>(self, device: B::Device) -> Self::Output {
        self.bench.measure::<B>(device, self.report)
    }
}
