//! Gated residuals and gated units on the CPU, for contiguous f32, in parallel.

use burn_backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::exp2::{sigmoid, silu_mul};
use super::rows::{TASK, each_row, like};

/// See `KernelBackend::gated_residual_forward`.
pub(super) fn gated_residual_forward(x: FlexTensor, y: FlexTensor, gate: FlexTensor) -> FlexTensor {
    let table: [usize; 2] = gate.shape().dims();
    let (y, gate) = (y.storage::<f32>(), gate.storage::<f32>());
    in_place(x, |out| {
        each_row(out, table, |start, group, out| {
            for ((out, y), gate) in out.iter_mut().zip(&y[start..]).zip(&gate[group..]) {
                *out += gate * y;
            }
        });
    })
}

/// See `KernelBackend::gated_residual_y_backward`.
pub(super) fn gated_residual_y_backward(y: FlexTensor, gate: FlexTensor) -> FlexTensor {
    let table: [usize; 2] = gate.shape().dims();
    let gate = gate.storage::<f32>();
    in_place(y, |out| {
        each_row(out, table, |_, group, out| {
            for (out, gate) in out.iter_mut().zip(&gate[group..]) {
                *out *= gate;
            }
        });
    })
}

/// See `KernelBackend::silu_mul_forward`.
pub(super) fn silu_mul_forward(a: FlexTensor, b: FlexTensor) -> FlexTensor {
    let b = b.storage::<f32>();
    in_place(a, |out| {
        let tasks = out.par_chunks_mut(TASK).zip(b.par_chunks(TASK));
        tasks.for_each(|(a, b)| silu_mul(a, b));
    })
}

/// Changes a contiguous tensor where it lies, or a copy of it if others hold it.
fn in_place(mut x: FlexTensor, change: impl FnOnce(&mut [f32])) -> FlexTensor {
    change(x.storage_mut::<f32>());
    x
}

/// See `KernelBackend::silu_mul_backward`.
pub(super) fn silu_mul_backward(
    a: FlexTensor,
    b: FlexTensor,
    d_out: FlexTensor,
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
    (like(&a, d_a), like(&b, d_b))
}
