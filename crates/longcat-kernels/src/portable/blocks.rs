//! Block masks to lists and back.

use burn::tensor::{Bool, IndexingUpdateOp, Int, Tensor, backend::Backend};

/// The true columns of each row of `mask` `[B, H, M, N]`, ascending, in `width` columns, and their
/// number, which must not exceed `width`. Entries past the number are 0.
pub(crate) fn mask_to_list<B: Backend>(
    mask: Tensor<B, 4, Bool>,
    width: usize,
) -> (Tensor<B, 4, Int>, Tensor<B, 3, Int>) {
    let [b, h, m, n] = mask.dims();
    let device = mask.device();
    let ones = mask.clone().int();
    let counts = ones.clone().sum_dim(3).squeeze_dim::<3>(3);
    // A true entry goes to the place given by the true entries before it, the others to one extra
    // column that is cut off.
    let place = (ones.cumsum(3) - 1).mask_fill(mask.bool_not(), width as i64);
    let columns = Tensor::<B, 1, Int>::arange(0..n as i64, &device)
        .cast(place.dtype())
        .reshape([1, 1, 1, n])
        .expand([b, h, m, n]);
    let list = Tensor::<B, 4, Int>::zeros([b, h, m, width + 1], &device)
        .cast(place.dtype())
        .scatter(3, place, columns, IndexingUpdateOp::Add)
        .narrow(3, 0, width);
    (list, counts)
}

/// The mask `[B, H, M, columns]` of a list.
pub(crate) fn list_to_mask<B: Backend>(
    indices: Tensor<B, 4, Int>,
    counts: Tensor<B, 3, Int>,
    columns: usize,
) -> Tensor<B, 4, Bool> {
    let [b, h, m, width] = indices.dims();
    let (device, dtype) = (indices.device(), indices.dtype());
    let used = Tensor::<B, 1, Int>::arange(0..width as i64, &device)
        .cast(dtype)
        .reshape([1, 1, 1, width])
        .expand([b, h, m, width])
        .lower(
            counts
                .cast(dtype)
                .unsqueeze_dim::<4>(3)
                .expand([b, h, m, width]),
        );
    Tensor::<B, 4, Int>::zeros([b, h, m, columns], &device)
        .cast(dtype)
        .scatter(3, indices, used.int().cast(dtype), IndexingUpdateOp::Add)
        .greater_elem(0)
}
