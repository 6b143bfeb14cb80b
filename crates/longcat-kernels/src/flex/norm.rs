//! The channel norm on the CPU, rows in parallel.

use burn::tensor::TensorData;
use burn_backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::fused::MIN_SQUARED_NORM;

/// Elements that are worth a task.
const TASK: usize = 1 << 14;

/// See `KernelBackend::rms_norm`; contiguous f32.
pub(super) fn rms_norm(x: &FlexTensor, weight: &FlexTensor, silu: bool) -> FlexTensor {
    let shape = x.shape();
    let (x, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let channels = weight.len();
    let scale = (channels as f32).sqrt();
    let mut out = vec![0.0; x.len()];
    let task = (TASK / channels).max(1) * channels;
    let tasks = out.par_chunks_mut(task).zip(x.par_chunks(task));
    tasks.for_each(|(out, x)| {
        let rows = out.chunks_exact_mut(channels).zip(x.chunks_exact(channels));
        for (out, x) in rows {
            let squares: f32 = x.iter().map(|x| x * x).sum();
            let inverse = scale / squares.max(MIN_SQUARED_NORM as f32).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                let y = x * inverse * weight;
                *out = if silu { y / (1.0 + (-y).exp()) } else { y };
            }
        }
    });
    FlexTensor::from_data(TensorData::new(out, shape))
}
