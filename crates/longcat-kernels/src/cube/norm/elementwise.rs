//! Gated residuals and gated units.

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::ir::AddressType;
use cubecl::prelude::*;

use super::{groups, kernels};
use crate::cube::launch::{UNITS, count_cubes, like, rows_and_width, supported, vector_sizes};

/// See `KernelBackend::gated_residual_forward`.
pub(crate) fn gated_residual_forward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    y: &CubeTensor<R>,
    gate: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let (rows, width) = rows_and_width(x)?;
    let count = groups(gate, rows, width)?;
    if !supported(x) || y.dtype != x.dtype || y.meta.shape() != x.meta.shape() {
        return None;
    }
    let vector = vector_sizes(x).find(|vector| width.is_multiple_of(*vector))?;
    let rows_per_group = rows / count;
    let rows_per_unit = [4, 2, 1]
        .into_iter()
        .find(|n| rows_per_group.is_multiple_of(*n))?;
    let units = rows / rows_per_unit * (width / vector);
    let x = into_contiguous(x.clone());
    let out = like(&x, x.meta.shape().clone());
    let cube_dim = CubeDim::new_1d(UNITS);
    // SAFETY: units beyond the last end before any access.
    unsafe {
        kernels::gated_residual::launch_unchecked::<R>(
            &x.client,
            count_cubes(&x, units.div_ceil(UNITS as usize)),
            cube_dim,
            AddressType::from_len(x.meta.num_elements()),
            vector,
            x.clone().into_array_arg(),
            into_contiguous(y.clone()).into_array_arg(),
            into_contiguous(gate.clone()).into_array_arg(),
            out.clone().into_array_arg(),
            units,
            width / vector,
            rows_per_group,
            rows_per_unit,
            x.dtype.into(),
        );
    }
    Some(out)
}

/// What [`silu_mul_forward`] and its gradients are launched with.
pub(crate) struct Elements {
    count: usize,
    vector: usize,
}

impl Elements {
    const VECTORS_PER_UNIT: usize = 4;

    /// `None` unless all are of one shape and of one dtype that the kernels have.
    pub(crate) fn of<R: CubeRuntime>(x: &CubeTensor<R>, others: &[&CubeTensor<R>]) -> Option<Self> {
        let like_x = |y: &&CubeTensor<R>| y.dtype == x.dtype && y.meta.shape() == x.meta.shape();
        if !supported(x) || !others.iter().all(like_x) {
            return None;
        }
        let count = x.meta.num_elements();
        let vector = vector_sizes(x).find(|vector| count.is_multiple_of(*vector))?;
        Some(Self { count, vector })
    }

    fn cubes<R: CubeRuntime>(&self, x: &CubeTensor<R>) -> CubeCount {
        let per_cube = UNITS as usize * Self::VECTORS_PER_UNIT;
        count_cubes(x, (self.count / self.vector).div_ceil(per_cube))
    }
}

/// See `KernelBackend::silu_mul_forward`.
pub(crate) fn silu_mul_forward<R: CubeRuntime>(
    a: &CubeTensor<R>,
    b: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let elements = Elements::of(a, &[b])?;
    let a = into_contiguous(a.clone());
    let out = like(&a, a.meta.shape().clone());
    // SAFETY: every access is below the length of the output, which the inputs share.
    unsafe {
        kernels::silu_mul::launch_unchecked::<R>(
            &a.client,
            elements.cubes(&a),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(elements.count),
            elements.vector,
            a.clone().into_array_arg(),
            into_contiguous(b.clone()).into_array_arg(),
            out.clone().into_array_arg(),
            Elements::VECTORS_PER_UNIT,
            a.dtype.into(),
        );
    }
    Some(out)
}

/// See `KernelBackend::silu_mul_backward`; `elements` are those of all three. The gradients take the
/// places of `a` and `b` where nothing else holds those.
pub(crate) fn silu_mul_backward<R: CubeRuntime>(
    elements: &Elements,
    a: CubeTensor<R>,
    b: CubeTensor<R>,
    d_out: CubeTensor<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let own = |x: CubeTensor<R>| {
        let x = into_contiguous(x);
        if x.can_mut() { x } else { x.copy() }
    };
    let [a, b] = [own(a), own(b)];
    // SAFETY: every access is below the length of `d_out`, which `a` and `b` share; these are no
    // others' and not each other.
    unsafe {
        kernels::silu_mul_backward::launch_unchecked::<R>(
            &a.client,
            elements.cubes(&a),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(elements.count),
            elements.vector,
            a.clone().into_array_arg(),
            b.clone().into_array_arg(),
            into_contiguous(d_out).into_array_arg(),
            Elements::VECTORS_PER_UNIT,
            a.dtype.into(),
        );
    }
    (a, b)
}
