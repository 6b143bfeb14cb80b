//! Tensors as matrices with a leading dimension.

use burn_backend::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};

/// The element types that cuBLASLt multiplies here, all with accumulation in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Element {
    Bf16,
    F16,
    F32,
}

impl Element {
    pub(super) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::BF16 => Some(Self::Bf16),
            DType::F16 => Some(Self::F16),
            DType::F32 => Some(Self::F32),
            _ => None,
        }
    }
}

/// How a matrix `[rows, cols]` lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Operand {
    /// Elements from one row to the next, or from one column to the next if `transposed`.
    pub(super) stride: usize,
    /// Whether columns, rather than rows, are contiguous.
    pub(super) transposed: bool,
    /// A power of two, at most 256, that divides the address of the first element (bytes).
    pub(super) alignment: u32,
}

impl Operand {
    /// The matrix whose columns are the last dimension of `tensor` and whose rows are all the
    /// others, or `None` if no single stride describes it.
    pub(super) fn of<R: CubeRuntime>(tensor: &CubeTensor<R>) -> Option<Self> {
        let (stride, transposed) = matrix_stride(tensor.meta.shape(), tensor.meta.strides())?;
        // Allocations start at multiples of 512 bytes; slices of them may not.
        let offset = tensor.handle.offset_start.unwrap_or(0);
        let alignment = 1 << offset.trailing_zeros().min(8);
        Some(Self {
            stride,
            transposed,
            alignment,
        })
    }

    /// The same, starting `bytes` later.
    pub(super) fn at(self, bytes: usize) -> Self {
        Self {
            alignment: self.alignment.min(1 << bytes.trailing_zeros().min(8)),
            ..self
        }
    }
}

/// `(stride, transposed)` of the matrix `[product of all but the last, last]`.
fn matrix_stride(shape: &[usize], strides: &[usize]) -> Option<(usize, bool)> {
    let (&cols, leading) = shape.split_last()?;
    let (&col_stride, leading_strides) = strides.split_last()?;
    // The rows advance by one stride if each leading dimension continues the one inside it.
    let mut row_stride = None;
    let mut expected = 0;
    let mut rows = 1;
    for (&size, &stride) in leading.iter().zip(leading_strides).rev() {
        if size == 1 {
            continue;
        }
        match row_stride {
            None => row_stride = Some(stride),
            Some(_) if stride != expected => return None,
            Some(_) => {}
        }
        expected = stride * size;
        rows *= size;
    }
    if col_stride == 1 || cols == 1 {
        // A single row may carry any stride.
        let stride = row_stride.unwrap_or(cols);
        return (stride >= cols).then_some((stride, false));
    }
    let contiguous_columns = row_stride.is_none_or(|stride| stride == 1);
    (contiguous_columns && col_stride >= rows).then_some((col_stride, true))
}

#[cfg(test)]
mod tests {
    use super::matrix_stride;

    #[test]
    fn contiguous_and_pitched_rows() {
        assert_eq!(matrix_stride(&[2, 3, 5], &[15, 5, 1]), Some((5, false)));
        assert_eq!(matrix_stride(&[2, 3, 5], &[24, 8, 1]), Some((8, false)));
        assert_eq!(matrix_stride(&[5], &[1]), Some((5, false)));
        assert_eq!(matrix_stride(&[1, 3, 5], &[99, 8, 1]), Some((8, false)));
    }

    #[test]
    fn transposed_matrix() {
        assert_eq!(matrix_stride(&[3, 5], &[1, 4]), Some((4, true)));
        assert_eq!(matrix_stride(&[1, 5], &[7, 4]), Some((4, true)));
    }

    #[test]
    fn what_one_stride_cannot_describe() {
        // Broadcast rows, a gap between batches, overlapping columns, a permuted last dimension.
        assert_eq!(matrix_stride(&[4, 5], &[0, 1]), None);
        assert_eq!(matrix_stride(&[2, 3, 5], &[30, 5, 1]), None);
        assert_eq!(matrix_stride(&[3, 5], &[1, 2]), None);
        assert_eq!(matrix_stride(&[2, 3, 5], &[15, 1, 3]), None);
    }
}
