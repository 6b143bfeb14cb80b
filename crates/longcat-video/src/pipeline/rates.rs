//! How fast the device of a pipeline works, and how long a request takes there.

use std::time::Instant;

use burn::tensor::{DType, Distribution, Tensor};
use longcat_kernels::{
    AttentionNumbers, HostRow, KernelBackend, Products, Stage, Uploads, guard, linear, wait,
};

use super::{Pipeline, VideoRequest};
use crate::VideoError;
use crate::memory::{DeviceRates, ExpectedTimes, MemoryPlan};

impl<B: KernelBackend> Pipeline<B> {
    /// How long the stages of a request take that is done as its [`memory_plan`](Self::memory_plan) says.
    /// Nothing is loaded for this.
    ///
    /// Devices that were measured are known by their names. On another one the first call multiplies
    /// matrices and copies some bytes there, for about a second, or more where products are tuned first.
    ///
    /// # Errors
    /// As [`Self::plan`]; [`VideoError::Device`] when the device fails.
    pub fn expected_times(
        &self,
        request: VideoRequest<'_>,
        plan: &MemoryPlan,
    ) -> Result<ExpectedTimes, VideoError> {
        let request = self.request_sizes(request)?;
        let rates = match self.options().products {
            Products::Dense => self.device_rates()?,
            Products::Fp8 => self.device_rates()?.in_fp8(),
        };
        let rates = match self.options().attention {
            AttentionNumbers::Floats => rates,
            AttentionNumbers::Fp8 => rates.in_fp8_attention(),
        };
        let models = self.model_sizes();
        Ok(ExpectedTimes::new(&models, &request, plan, &rates))
    }

    fn device_rates(&self) -> Result<DeviceRates, VideoError> {
        if let Some(rates) = self.rates.get() {
            return Ok(*rates);
        }
        let (device, dtype) = (self.device(), self.options().dtype);
        // What was measured is the speed of 16-bit types.
        let name = B::model(device).filter(|_| dtype.size() == 2);
        let rates = match name.and_then(|name| DeviceRates::of_model(&name)) {
            Some(rates) => rates,
            None => {
                let devices = std::slice::from_ref(device);
                let measure = || Ok::<_, VideoError>(measured::<B>(device, dtype));
                guard::<B, _, _>(devices, Stage::Measuring, measure)?
            }
        };
        Ok(*self.rates.get_or_init(|| rates))
    }
}

fn measured<B: KernelBackend>(device: &B::Device, dtype: DType) -> DeviceRates {
    let (products, copies) = (products::<B>(device, dtype), copies::<B>(device));
    // For the models to come.
    B::memory_cleanup(device);
    DeviceRates::from_measured(products, copies)
}

/// Seconds of the faster of two calls, after one that compiles or chooses kernels.
fn seconds<B: KernelBackend>(device: &B::Device, work: impl Fn()) -> f64 {
    let timed = || {
        let start = Instant::now();
        work();
        wait::<B>(device);
        start.elapsed().as_secs_f64()
    };
    timed();
    timed().min(timed()).max(1e-9)
}

/// Operations in a second of the largest product that takes little time.
fn products<B: KernelBackend>(device: &B::Device, dtype: DType) -> f64 {
    const ENOUGH: f64 = 0.01;
    const MOST: usize = 4096;
    let mut side = 256;
    loop {
        let random = || {
            let values = Tensor::<B, 2>::random([side; 2], Distribution::Default, device);
            values.cast(dtype)
        };
        let (x, weight) = (random(), random());
        let multiply = || drop(linear(x.clone(), weight.clone(), None));
        let once = seconds::<B>(device, multiply);
        let operations = 2.0 * (side as f64).powi(3);
        if once > ENOUGH {
            return operations / once;
        }
        if side == MOST {
            // So fast that starting it counts.
            let times = (ENOUGH / once).ceil().min(100.0);
            let all = seconds::<B>(device, || (0..times as usize).for_each(|_| multiply()));
            return times * operations / all;
        }
        side *= 2;
    }
}

/// Bytes in a second from host memory.
fn copies<B: KernelBackend>(device: &B::Device) -> f64 {
    const BYTES: usize = 32 << 20;
    let row = HostRow {
        bytes: vec![1; BYTES].into(),
        dtype: DType::F32,
    };
    let copy = || {
        let Uploads { rows, ticket } = B::begin_uploads(vec![row.clone()], device);
        B::await_uploads(&ticket, device);
        drop(rows);
    };
    BYTES as f64 / seconds::<B>(device, copy)
}
