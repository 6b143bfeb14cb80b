//! Host matrices in their stored type, whose bits survive every format.

use burn::tensor::{Bytes, DType, TensorData};
use half::{bf16, f16};

/// A host matrix of floats in its stored type, row-major, little-endian.
///
/// Factors keep the type and bits of the file they came from; every operation here except
/// [`Matrix::to_f32`] and exact scaling moves bits without looking at values.
#[derive(Clone, PartialEq, Eq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    dtype: DType,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix[{}, {}; {:?}]", self.rows, self.cols, self.dtype)
    }
}

impl Matrix {
    /// A matrix of `rows * cols` values of F64, F32, F16 or BF16, as stored in a file.
    ///
    /// # Panics
    /// If the number of bytes is not that of the shape and type.
    pub fn from_bytes(rows: usize, cols: usize, dtype: DType, bytes: Vec<u8>) -> Self {
        assert!(
            matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16),
            "factors are floats, not {dtype:?}"
        );
        assert_eq!(
            bytes.len(),
            rows * cols * dtype.size(),
            "bytes of a matrix [{rows}, {cols}] of {dtype:?}"
        );
        Self {
            rows,
            cols,
            dtype,
            bytes,
        }
    }

    /// A matrix of f32 values.
    ///
    /// # Panics
    /// If there are not `rows * cols` values.
    pub fn from_f32(rows: usize, cols: usize, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::from_bytes(rows, cols, DType::F32, bytes)
    }

    pub(crate) fn zeros(rows: usize, cols: usize, dtype: DType) -> Self {
        Self::from_bytes(rows, cols, dtype, vec![0; rows * cols * dtype.size()])
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Stored type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The values as f32: exact for all types but F64, which is rounded to nearest.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F64 => self.elements(|b: [u8; 8]| f64::from_le_bytes(b) as f32),
            DType::F32 => self.elements(f32::from_le_bytes),
            DType::F16 => self.elements(|b| f16::from_le_bytes(b).to_f32()),
            _ => self.elements(|b| bf16::from_le_bytes(b).to_f32()),
        }
    }

    fn elements<const N: usize, T>(&self, read: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (chunks, _) = self.bytes.as_chunks::<N>();
        chunks.iter().map(|chunk| read(*chunk)).collect()
    }

    pub(crate) fn to_f64(&self) -> Vec<f64> {
        match self.dtype {
            DType::F64 => self.elements(f64::from_le_bytes),
            _ => self.to_f32().into_iter().map(f64::from).collect(),
        }
    }

    /// The same values in a type that holds them all exactly.
    fn widened(&self, dtype: DType) -> Self {
        if dtype == self.dtype {
            return self.clone();
        }
        let bytes = match dtype {
            DType::F64 => self.to_f64().iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => self.to_f32().iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        Self::from_bytes(self.rows, self.cols, dtype, bytes)
    }

    pub(crate) fn to_tensor_data(&self) -> TensorData {
        TensorData::from_bytes(
            Bytes::from_bytes_vec(self.bytes.clone()),
            [self.rows, self.cols],
            self.dtype,
        )
    }

    /// The same bytes as another shape with as many values.
    pub(crate) fn reshaped(self, rows: usize, cols: usize) -> Self {
        Self::from_bytes(rows, cols, self.dtype, self.bytes)
    }

    fn row_bytes(&self) -> usize {
        self.cols * self.dtype.size()
    }

    pub(crate) fn slice_rows(&self, start: usize, count: usize) -> Self {
        let width = self.row_bytes();
        let bytes = self.bytes[start * width..(start + count) * width].to_vec();
        Self::from_bytes(count, self.cols, self.dtype, bytes)
    }

    /// The block of `rows` × `cols` whose first element is at `(row, col)`.
    pub(crate) fn block(&self, row: usize, rows: usize, col: usize, cols: usize) -> Self {
        let size = self.dtype.size();
        let bytes = (row..row + rows)
            .flat_map(|r| {
                let start = r * self.row_bytes() + col * size;
                &self.bytes[start..start + cols * size]
            })
            .copied()
            .collect();
        Self::from_bytes(rows, cols, self.dtype, bytes)
    }

    /// Whether every element is +0.
    pub(crate) fn is_zero(&self) -> bool {
        self.bytes.iter().all(|b| *b == 0)
    }

    /// The matrices one below another. All have the same number of columns; a common type that
    /// holds all values exactly is chosen.
    pub(crate) fn stack(parts: &[Self]) -> Self {
        let dtype = common_dtype(parts);
        let bytes: Vec<u8> = parts.iter().flat_map(|p| p.widened(dtype).bytes).collect();
        let rows = parts.iter().map(|p| p.rows).sum();
        Self::from_bytes(rows, parts[0].cols, dtype, bytes)
    }

    /// The matrices side by side. All have the same number of rows; the type is as for [`Self::stack`].
    pub(crate) fn beside(parts: &[Self]) -> Self {
        let dtype = common_dtype(parts);
        let parts: Vec<Self> = parts.iter().map(|p| p.widened(dtype)).collect();
        let rows = parts[0].rows;
        let mut bytes = Vec::new();
        for row in 0..rows {
            for part in &parts {
                let width = part.row_bytes();
                bytes.extend_from_slice(&part.bytes[row * width..(row + 1) * width]);
            }
        }
        let cols = parts.iter().map(|p| p.cols).sum();
        Self::from_bytes(rows, cols, dtype, bytes)
    }

    /// The matrices along the diagonal, zeros elsewhere.
    pub(crate) fn block_diagonal(parts: &[Self]) -> Self {
        let dtype = common_dtype(parts);
        let size = dtype.size();
        let cols: usize = parts.iter().map(|p| p.cols).sum();
        let mut bytes = Vec::new();
        let mut col = 0;
        for part in parts {
            let part = part.widened(dtype);
            for row in part.bytes.chunks(part.row_bytes()) {
                bytes.resize(bytes.len() + col * size, 0);
                bytes.extend_from_slice(row);
                bytes.resize(bytes.len() + (cols - col - part.cols) * size, 0);
            }
            col += part.cols;
        }
        let rows = parts.iter().map(|p| p.rows).sum();
        Self::from_bytes(rows, cols, dtype, bytes)
    }

    /// The matrix with zero rows or columns added at the end.
    pub(crate) fn padded(&self, rows: usize, cols: usize) -> Self {
        let mut bytes = Vec::with_capacity(rows * cols * self.dtype.size());
        for row in self.bytes.chunks(self.row_bytes()) {
            bytes.extend_from_slice(row);
            bytes.resize(bytes.len() + (cols - self.cols) * self.dtype.size(), 0);
        }
        bytes.resize(rows * cols * self.dtype.size(), 0);
        Self::from_bytes(rows, cols, self.dtype, bytes)
    }

    /// The matrix times `factor` in the same type, if no element needs rounding (always so for
    /// powers of two that neither overflow nor underflow).
    pub(crate) fn scaled_exactly(&self, factor: f64) -> Option<Self> {
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for value in self.to_f64() {
            let product = value * factor;
            // The fused multiply-add shows the rounding error of the product, if there is one.
            if !product.is_finite() || value.mul_add(factor, -product) != 0.0 {
                return None;
            }
            let exact = match self.dtype {
                DType::F64 => {
                    bytes.extend_from_slice(&product.to_le_bytes());
                    product
                }
                DType::F32 => {
                    bytes.extend_from_slice(&(product as f32).to_le_bytes());
                    f64::from(product as f32)
                }
                DType::F16 => {
                    bytes.extend_from_slice(&f16::from_f64(product).to_le_bytes());
                    f16::from_f64(product).to_f64()
                }
                _ => {
                    bytes.extend_from_slice(&bf16::from_f64(product).to_le_bytes());
                    bf16::from_f64(product).to_f64()
                }
            };
            if exact != product {
                return None;
            }
        }
        Some(Self::from_bytes(self.rows, self.cols, self.dtype, bytes))
    }
}

/// The narrowest type that holds the values of all parts exactly.
fn common_dtype(parts: &[Matrix]) -> DType {
    let first = parts[0].dtype;
    if parts.iter().all(|p| p.dtype == first) {
        first
    } else if parts.iter().any(|p| p.dtype == DType::F64) {
        DType::F64
    } else {
        DType::F32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_succeeds_only_without_rounding() {
        let m = Matrix::from_f32(1, 3, &[1.0, -2.5, 0.1]);
        let doubled = m.scaled_exactly(2.0).map(|m| m.to_f32());
        assert_eq!(doubled.as_deref(), Some(&[2.0f32, -5.0, 0.2][..]));
        assert_eq!(m.scaled_exactly(1.5), None, "1.5 · 0.1 needs another bit");
        assert_eq!(m.scaled_exactly(f64::MAX), None, "overflow");
        let tiny = Matrix::from_f32(1, 1, &[f32::from_bits(1)]);
        assert_eq!(tiny.scaled_exactly(0.5), None, "underflow");
        let short = Matrix::from_f32(1, 2, &[3.0, -0.25]);
        assert!(short.scaled_exactly(1.5).is_some());
    }

    #[test]
    fn mixed_types_meet_in_one_that_holds_both() {
        let f16 = Matrix::from_bytes(1, 1, DType::F16, vec![0, 0x3c]);
        let bf16 = Matrix::from_bytes(1, 1, DType::BF16, vec![0x80, 0x3f]);
        let both = Matrix::stack(&[f16.clone(), bf16]);
        assert_eq!((both.dtype(), both.to_f32()), (DType::F32, vec![1.0, 1.0]));
        assert_eq!(Matrix::stack(&[f16.clone(), f16]).dtype(), DType::F16);
    }

    #[test]
    fn blocks_and_padding_keep_their_place() {
        let a = Matrix::from_f32(1, 2, &[1.0, 2.0]);
        let b = Matrix::from_f32(2, 1, &[3.0, 4.0]);
        let diagonal = Matrix::block_diagonal(&[a.clone(), b.clone()]);
        assert_eq!(
            diagonal.to_f32(),
            [1.0, 2.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 4.0]
        );
        assert_eq!(diagonal.block(1, 2, 2, 1), b);
        assert!(diagonal.block(1, 2, 0, 2).is_zero());
        let padded = a.padded(2, 3).to_f32();
        assert_eq!(padded, [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
