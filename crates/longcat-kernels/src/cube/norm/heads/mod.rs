//! Heads taken out of fused projections, normalised and rotated, and the gradients of that.

mod kernels;

use burn_backend::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::ir::AddressType;
use cubecl::prelude::*;

use super::MAX_VECTORS;
use crate::cube::launch::{UNITS, count_cubes, like, like_in, plane_size, supported, vector_sizes};
use kernels::SplitStep;

/// What [`split_heads_forward`] and its gradients are launched with.
struct Split<R: CubeRuntime> {
    vector: usize,
    step: SplitStep,
    /// Planes that have work.
    planes: usize,
    weight: CubeTensor<R>,
    epsilon: f32,
    cos: CubeTensor<R>,
    sin: CubeTensor<R>,
    cube_dim: CubeDim,
    /// Batch, tokens, parts, heads, width.
    sizes: [usize; 5],
}

impl<R: CubeRuntime> Split<R> {
    fn plan(
        x: &CubeTensor<R>,
        part: usize,
        norm: Option<(&CubeTensor<R>, f64)>,
        rotation: Option<(&CubeTensor<R>, &CubeTensor<R>)>,
    ) -> Option<Self> {
        let sizes: [usize; 5] = x.meta.shape()[..].try_into().ok()?;
        let [batch, tokens, parts, heads, width] = sizes;
        if !supported(x) || part >= parts {
            return None;
        }
        let table = |table: &CubeTensor<R>, elements: usize| {
            (table.dtype == DType::F32 && table.meta.num_elements() == elements)
                .then(|| into_contiguous(table.clone()))
        };
        let plane = plane_size(x)?;
        let fits = |vector: &usize| {
            width.is_multiple_of(*vector) && (rotation.is_none() || vector.is_multiple_of(2))
        };
        // Narrower vectors with all units at work are better than wide ones with some idle.
        let vector = vector_sizes(x)
            .filter(fits)
            .find(|vector| width.is_multiple_of(plane * vector))
            .or_else(|| vector_sizes(x).find(fits))?;
        // A step left out reads nothing, but the kernel takes an array all the same.
        let unread = || like_in(x, Shape::new([vector]), DType::F32);
        let (normed, rotated) = (norm.is_some(), rotation.is_some());
        let (weight, epsilon) = match norm {
            Some((weight, epsilon)) => (table(weight, width)?, epsilon),
            None => (unread(), 0.0),
        };
        let (cos, sin) = match rotation {
            Some((cos, sin)) => (
                table(cos, tokens * width / 2)?,
                table(sin, tokens * width / 2)?,
            ),
            None => (unread(), unread()),
        };
        let mut step = SplitStep {
            plane,
            width: width / vector,
            heads_per_plane: 1,
            normed,
            rotated,
        };
        step.heads_per_plane = [4, 2, 1]
            .into_iter()
            .find(|n| heads.is_multiple_of(*n) && n * step.vectors_per_unit() <= MAX_VECTORS)?;
        Some(Self {
            vector,
            step,
            planes: batch * tokens * (heads / step.heads_per_plane),
            weight,
            epsilon: epsilon as f32,
            cos,
            sin,
            cube_dim: CubeDim::new_2d(plane as u32, (UNITS / plane as u32).max(1)),
            sizes,
        })
    }

    /// The gradient of the heads as the kernels read it; `None` if it is not that of these heads.
    fn gradient(&self, x: &CubeTensor<R>, d_out: &CubeTensor<R>) -> Option<CubeTensor<R>> {
        let [batch, tokens, _, heads, width] = self.sizes;
        let expected = Shape::new([batch, heads, tokens, width]);
        let fits = d_out.dtype == x.dtype && *d_out.meta.shape() == expected;
        fits.then(|| into_contiguous(d_out.clone()))
    }

    fn cubes(&self, x: &CubeTensor<R>) -> CubeCount {
        count_cubes(x, self.planes.div_ceil(self.cube_dim.y as usize))
    }
}

/// See `KernelBackend::split_heads_forward`.
pub(crate) fn split_heads_forward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    part: usize,
    norm: Option<(&CubeTensor<R>, f64)>,
    rotation: Option<(&CubeTensor<R>, &CubeTensor<R>)>,
) -> Option<CubeTensor<R>> {
    let split = Split::plan(x, part, norm, rotation)?;
    let [batch, tokens, parts, heads, width] = split.sizes;
    let x = into_contiguous(x.clone());
    let out = like(&x, Shape::new([batch, heads, tokens, width]));
    // SAFETY: planes beyond the last end before any access, and units beyond the width of a head
    // access nothing; the tables' sizes were checked.
    unsafe {
        kernels::split_heads::launch_unchecked::<R>(
            &x.client,
            split.cubes(&x),
            split.cube_dim,
            AddressType::from_len(x.meta.num_elements()),
            split.vector,
            x.clone().into_array_arg(),
            split.weight.into_array_arg(),
            split.cos.into_array_arg(),
            split.sin.into_array_arg(),
            out.clone().into_array_arg(),
            split.planes,
            tokens,
            heads,
            parts,
            part,
            split.epsilon,
            split.step,
            x.dtype.into(),
        );
    }
    Some(out)
}

/// See `KernelBackend::split_heads_x_backward`.
pub(crate) fn split_heads_x_backward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    part: usize,
    norm: Option<(&CubeTensor<R>, f64)>,
    rotation: Option<(&CubeTensor<R>, &CubeTensor<R>)>,
    d_out: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let split = Split::plan(x, part, norm, rotation)?;
    let d_out = split.gradient(x, d_out)?;
    let [batch, tokens, parts, heads, width] = split.sizes;
    let x = into_contiguous(x.clone());
    let d_x = like(&x, Shape::new([batch, tokens, heads, width]));
    // SAFETY: as for `split_heads`.
    unsafe {
        kernels::split_heads_backward::launch_unchecked::<R>(
            &x.client,
            split.cubes(&x),
            split.cube_dim,
            AddressType::from_len(x.meta.num_elements()),
            split.vector,
            x.clone().into_array_arg(),
            split.weight.into_array_arg(),
            split.cos.into_array_arg(),
            split.sin.into_array_arg(),
            d_out.into_array_arg(),
            d_x.clone().into_array_arg(),
            split.planes,
            tokens,
            heads,
            parts,
            part,
            split.epsilon,
            split.step,
            x.dtype.into(),
        );
    }
    Some(d_x)
}

/// Rows in f32 whose sums by column are the result of `KernelBackend::split_heads_weight_backward`.
pub(crate) fn split_heads_weight_terms<R: CubeRuntime>(
    x: &CubeTensor<R>,
    part: usize,
    norm: (&CubeTensor<R>, f64),
    rotation: Option<(&CubeTensor<R>, &CubeTensor<R>)>,
    d_out: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let split = Split::plan(x, part, Some(norm), rotation)?;
    let d_out = split.gradient(x, d_out)?;
    let [_, tokens, parts, heads, width] = split.sizes;
    let x = into_contiguous(x.clone());
    let terms = like_in(&x, Shape::new([split.planes, width]), DType::F32);
    // SAFETY: as for `split_heads`.
    unsafe {
        kernels::head_norm_terms::launch_unchecked::<R>(
            &x.client,
            split.cubes(&x),
            split.cube_dim,
            AddressType::from_len(x.meta.num_elements()),
            split.vector,
            x.clone().into_array_arg(),
            split.cos.into_array_arg(),
            split.sin.into_array_arg(),
            d_out.into_array_arg(),
            terms.clone().into_array_arg(),
            split.planes,
            tokens,
            heads,
            parts,
            part,
            split.epsilon,
            split.step,
            x.dtype.into(),
        );
    }
    Some(terms)
}
