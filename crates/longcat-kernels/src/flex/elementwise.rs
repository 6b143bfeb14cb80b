//! Gated residuals and gated units on the CPU, for contiguous f32, in parallel.

use burn_backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::exp2::{sigmoid, silu};
use super::rows::{TASK, each_row, like};

/// See `KernelBackend::gated_residual_forward`.
pub(super) fn gated_residual_forward(
    x: &FlexTensor,
    y: &FlexTensor,
    gate: &FlexTensor,
) -> FlexTensor {
    let table: [usize; 2] = gate.shape().dims();
    let (y, gate) = (y.storage::<f32>(), gate.storage::<f32>());
    let mut out = x.storage::<f32>().to_vec();
    each_row(&mut out, table, |start, group, out| {
        for ((out, y), gate) in out.iter_mut().zip(&y[start..]).zip(&gate[group..]) {
            *out += gate * y;
        }
    });
    like(x, out)
}

/// See `KernelBackend::gated_residual_y_backward`.
pub(super) fn gated_residual_y_backward(y: &FlexTensor, gate: &FlexTensor) -> FlexTensor {
    let table: [usize; 2] = gate.shape().dims();
    let gate = gate.storage::<f32>();
    let mut out = y.storage::<f32>().to_vec();
    each_row(&mut out, table, |_, group, out| {
        for (out, gate) in out.iter_mut().zip(&gate[group..]) {
            *out *= gate;
        }
    });
    like(y, out)
}

/// See `KernelBackend::silu_mul_forward`.
pub(super) fn silu_mul_forward(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    let mut out = a.storage::<f32>().to_vec();
    let tasks = out.par_chunks_mut(TASK);
    let tasks = tasks.zip(b.storage::<f32>().par_chunks(TASK));
    tasks.for_each(|(out, b)| {
        silu(out);
        for (out, b) in out.iter_mut().zip(b) {
            *out *= b;
        }
    });
    like(a, out)
}

/// See `KernelBackend::silu_mul_backward`.
pub(super) fn silu_mul_backward(
    a: &FlexTensor,
    b: &FlexTensor,
    d_out: &FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let (input, factor) = (a.storage::<f32>(), b.storage::<f32>());
    let gradient = d_out.storage::<f32>();
    let mut d_a = input.to_vec();
    let mut d_b = vec![0.0; input.len()];
    let tasks = d_a.par_chunks_mut(TASK).zip(d_b.par_chunks_mut(TASK));
    let tasks = tasks.zip(input.par_chunks(TASK).zip(factor.par_chunks(TASK)));
    let tasks = tasks.zip(gradient.par_chunks(TASK));
    tasks.for_each(|(((d_a, d_b), (a, b)), d_out)| {
        sigmoid(d_a);
        let inputs = a.iter().zip(b).zip(d_out);
        for ((d_a, d_b), ((a, b), d_out)) in d_a.iter_mut().zip(d_b).zip(inputs) {
            let gate = *d_a;
            *d_b = d_out * a * gate;
            *d_a = d_out * b * gate * (1.0 + a * (1.0 - gate));
        }
    });
    (like(a, d_a), like(b, d_b))
}
