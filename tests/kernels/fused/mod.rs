//! The fused operations against straightforward loops in f64: the portable bodies on the CPU, and
//! the kernels where a wgpu device is asked for with the feature.

mod elementwise;
mod heads;
mod low_rank;
mod norm;
mod numbers;
mod packed;
mod quantized;
mod steps;

use burn::tensor::DType;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use longcat_kernels::KernelBackend;

use heads::HEADS;

/// Rows, groups and width of what is normalised and gated.
const ROWS: [(usize, usize, usize); 4] = [(6, 3, 256), (7, 1, 512), (8, 2, 48), (3, 3, 10)];

/// Rows, groups and width of tables whose gradients are sums over rows.
const TABLES: [(usize, usize, usize); 6] = [
    (6, 3, 256),
    (7, 1, 512),
    (8, 2, 48),
    (3, 3, 10),
    (402, 2, 16),
    (67, 1, 8),
];

/// Widths that planes divide and widths that they do not; one group, and one per frame.
fn check_all<B: KernelBackend>() {
    for (rows, groups, width) in [
        (6, 3, 256),
        (7, 1, 512),
        (32, 2, 128),
        (8, 2, 48),
        (3, 3, 10),
    ] {
        norm::check_layer_norm::<B>(rows, groups, width);
        elementwise::check_gated_residual::<B>(rows, groups, width);
    }
    for count in [8192, 1000, 77] {
        elementwise::check_silu_mul::<B>(count);
    }
    for (rows, width) in [(3, 1), (5, 600), (2, 2049)] {
        steps::check_softmax::<B>(rows, width, 0.3);
    }
    for (rows, width) in [(1, 5), (129, 16), (40_000, 3)] {
        steps::check_column_sums::<B>(rows, width);
    }
    for (blocks, block, width) in [(1, 1, 5), (6, 64, 16), (35, 8, 128)] {
        steps::check_block_sums::<B>(blocks, block, width);
    }
    for shape in [[2, 3, 4, 5, 8], [1, 6, 1, 2, 12], [3, 2, 2, 2, 5]] {
        for axes in [
            [0, 2, 1, 3, 4],
            [3, 2, 1, 0, 4],
            [1, 0, 3, 2, 4],
            [0, 1, 2, 4, 3],
        ] {
            steps::check_permute::<B>(shape, axes);
        }
    }
    for (heads, width) in HEADS {
        for (normed, rotated) in [(true, true), (true, false), (false, true), (false, false)] {
            heads::check_split_heads::<B>(heads, width, normed, rotated);
        }
    }
}

/// The hand-written backward steps against Burn's autodiff of the same formulas on the CPU.
fn check_gradients<B: KernelBackend>() {
    norm::check_table_gradients::<B>();
    elementwise::check_table_gradients::<B>();
    norm::check_gradients::<B>();
    elementwise::check_gradients::<B>();
    for (heads, width) in HEADS {
        heads::check_head_norm_gradients::<B>(heads, width);
        for (normed, rotated) in [(true, true), (true, false), (false, true), (false, false)] {
            heads::check_split_gradients::<B>(heads, width, normed, rotated);
        }
    }
}

mod cpu {
    use super::*;

    #[test]
    fn portable_bodies() {
        check_all::<Flex>();
    }

    #[test]
    fn under_autodiff() {
        check_all::<Autodiff<Flex>>();
    }

    #[test]
    fn backward_steps() {
        check_gradients::<Flex>();
    }

    #[test]
    fn packed_weights() {
        packed::check_numbers::<Flex>(&[DType::F32, DType::F16, DType::BF16]);
        packed::check_numbers::<Autodiff<Flex>>(&[DType::F32]);
        packed::check_products::<Flex>();
        packed::check_few_rows::<Flex>(&[DType::F32]);
    }

    #[test]
    fn products_in_fp8() {
        quantized::check_rows::<Flex>();
        quantized::check_rows::<Autodiff<Flex>>();
        quantized::check_products::<Flex>();
        quantized::check_writers::<Flex>();
    }

    #[test]
    fn low_rank_products() {
        low_rank::check_low_rank::<Flex>();
        low_rank::check_low_rank::<Autodiff<Flex>>();
    }
}

#[cfg(feature = "wgpu")]
mod wgpu {
    use super::*;

    #[test]
    fn kernels_on_wgpu() {
        check_all::<burn_wgpu::Wgpu>();
    }

    #[test]
    fn backward_steps_on_wgpu() {
        check_gradients::<burn_wgpu::Wgpu>();
    }

    #[test]
    fn packed_weights_on_wgpu() {
        packed::check_numbers::<burn_wgpu::Wgpu>(&[DType::F32, DType::F16]);
        // In one dtype, and without gradients, which autodiff makes of the same calls on every backend: where
        // planes have no fixed size, products are Burn's, and software Vulkan compiles one for 5 to 10 seconds.
        packed::check_few_rows::<burn_wgpu::Wgpu>(&[DType::F32]);
    }

    #[test]
    fn low_rank_products_on_wgpu() {
        low_rank::check_low_rank::<burn_wgpu::Wgpu>();
    }
}
