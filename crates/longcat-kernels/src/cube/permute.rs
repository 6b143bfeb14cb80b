//! Copies with dimensions in another order, on any cubecl runtime.

use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::ir::AddressType;
use cubecl::prelude::*;

use super::launch::{UNITS, count_cubes, like, supported, vector_sizes};

/// The most dimensions that are left when those that stay together are taken as one.
const MOST: usize = 8;

/// See `KernelBackend::permute`; `None` where the last dimension is not contiguous.
pub(crate) fn permute<R: CubeRuntime>(x: &CubeTensor<R>, axes: &[usize]) -> Option<CubeTensor<R>> {
    if !supported(x) {
        return None;
    }
    let dims = dims(x, axes);
    let vector = vector_sizes(x).find(|vector| fits(&dims, *vector))?;
    let order = Order::new(&dims, vector)?;
    let out = like(x, axes.iter().map(|axis| x.meta.shape()[*axis]).collect());
    let vectors = out.meta.num_elements() / vector;
    let reach: usize = dims.iter().map(|(size, step)| (size - 1) * step).sum();
    // SAFETY: units beyond the last vector end before any access; the order covers the input exactly.
    unsafe {
        permute_kernel::launch_unchecked::<R>(
            &x.client,
            count_cubes(x, vectors.div_ceil(UNITS as usize)),
            CubeDim::new_1d(UNITS),
            AddressType::from_len(out.meta.num_elements().max(reach + 1)),
            vector,
            x.clone().into_array_arg(),
            out.clone().into_array_arg(),
            vectors,
            order,
            x.dtype.into(),
        );
    }
    Some(out)
}

/// Size and stride of each dimension of the result, outermost first; dimensions that lie in one
/// another as they did are taken as one.
fn dims<R: CubeRuntime>(x: &CubeTensor<R>, axes: &[usize]) -> Vec<(usize, usize)> {
    let mut dims: Vec<(usize, usize)> = Vec::new();
    for &axis in axes {
        let (size, step) = (x.meta.shape()[axis], x.meta.strides()[axis]);
        match dims.last_mut() {
            _ if size == 1 => {}
            Some((outer, stride)) if *stride == size * step => {
                (*outer, *stride) = (*outer * size, step)
            }
            _ => dims.push((size, step)),
        }
    }
    dims
}

/// Whether all runs are whole vectors that begin at whole vectors.
fn fits(dims: &[(usize, usize)], vector: usize) -> bool {
    let Some(((width, step), outer)) = dims.split_last() else {
        return false;
    };
    *step == 1
        && width.is_multiple_of(vector)
        && outer.iter().all(|(_, step)| step.is_multiple_of(vector))
}

/// Where the vectors of the result come from: sizes and strides in vectors, innermost first. Known
/// when the kernel is compiled, so that divisions are cheap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Order {
    width: usize,
    outer: usize,
    sizes: [usize; MOST],
    steps: [usize; MOST],
}

impl Order {
    fn new(dims: &[(usize, usize)], vector: usize) -> Option<Self> {
        let (&(width, _), outer) = dims.split_last()?;
        if outer.len() > MOST {
            return None;
        }
        let (mut sizes, mut steps) = ([1; MOST], [0; MOST]);
        for (i, (size, step)) in outer.iter().rev().enumerate() {
            (sizes[i], steps[i]) = (*size, step / vector);
        }
        Some(Self {
            width: width / vector,
            outer: outer.len(),
            sizes,
            steps,
        })
    }
}

/// A unit copies one vector.
#[cube(launch_unchecked, address_type = "dynamic")]
fn permute_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    out: &mut Array<Vector<F, N>>,
    vectors: usize,
    #[comptime] order: Order,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= vectors {
        terminate!();
    }
    let width = comptime!(order.width);
    let outer = comptime!(order.outer);
    let mut run = ABSOLUTE_POS / width;
    let mut from = ABSOLUTE_POS % width;
    #[unroll]
    for i in 0..outer {
        let size = comptime!(order.sizes[i]);
        let step = comptime!(order.steps[i]);
        from += run % size * step;
        run /= size;
    }
    out[ABSOLUTE_POS] = x[from];
}
