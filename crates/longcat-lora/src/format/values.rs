//! Tensors of adapter files as matrices and scales.

use burn::tensor::DType;
use longcat_weights::{StoredType, WeightsError};
use safetensors::Dtype;

use super::scan::Source;
use crate::{LoraError, Matrix};

impl Source {
    /// A factor: a matrix, or a convolution's kernel as the matrix `[out, in · kernel]` that it is.
    /// Stored bits are kept; the 256 values of an 8-bit float are all bf16 numbers.
    pub(super) fn matrix(&self, target: &str, key: &str) -> Result<Matrix, LoraError> {
        let shape = self.shape(key)?;
        let (rows, cols) = match shape.as_slice() {
            [rows, cols] => (*rows, *cols),
            [rows, rest @ ..] if matches!(rest.len(), 3 | 4) => (*rows, rest.iter().product()),
            _ => return Err(self.not_a_matrix(target, key, shape)),
        };
        let (dtype, bytes) = self.floats(target, key)?;
        Ok(Matrix::from_bytes(rows, cols, dtype, bytes))
    }

    /// A difference of a weight, a bias or a norm: vectors are matrices of one column.
    pub(super) fn difference(&self, target: &str, key: &str) -> Result<Matrix, LoraError> {
        let shape = self.shape(key)?;
        match shape.as_slice() {
            [rows] => {
                let (dtype, bytes) = self.floats(target, key)?;
                Ok(Matrix::from_bytes(*rows, 1, dtype, bytes))
            }
            _ => self.matrix(target, key),
        }
    }

    fn not_a_matrix(&self, target: &str, key: &str, found: Vec<usize>) -> LoraError {
        LoraError::ShapeMismatch {
            path: self.path(),
            target: target.to_string(),
            key: key.to_string(),
            found,
            expected: "but a factor is a matrix".into(),
        }
    }

    fn floats(&self, target: &str, key: &str) -> Result<(DType, Vec<u8>), LoraError> {
        let info = self.files.info(key);
        let eight_bits = info.is_some_and(|info| {
            let fp8 = StoredType::Plain(Dtype::F8_E4M3) == info.dtype
                || StoredType::Plain(Dtype::F8_E5M2) == info.dtype;
            fp8 && !info.scaled
        });
        let dtype = eight_bits.then_some(DType::BF16);
        let data = self.files.tensor_data_in(key, dtype);
        let data = data.map_err(|e| self.name_target(target, e))?;
        Ok((data.dtype, data.as_bytes().to_vec()))
    }

    /// A scale: one float, or one integer, as training scripts store a whole alpha.
    pub(super) fn scalar(&self, target: &str, key: &str) -> Result<f64, LoraError> {
        let shape = self.shape(key)?;
        if shape.iter().any(|d| *d != 1) {
            return Err(LoraError::ShapeMismatch {
                path: self.path(),
                target: target.to_string(),
                key: key.to_string(),
                found: shape,
                expected: "but a scale is one number".into(),
            });
        }
        let dtype = self.files.info(key).map(|info| info.dtype);
        let bytes = self.files.bytes(key)?;
        if let Some(StoredType::Plain(dtype)) = dtype
            && let Some(value) = integer(dtype, &bytes)
        {
            return Ok(value);
        }
        let (dtype, bytes) = self.floats(target, key)?;
        let value = Matrix::from_bytes(1, 1, dtype, bytes).to_f64();
        Ok(value.first().copied().unwrap_or_default())
    }

    fn shape(&self, key: &str) -> Result<Vec<usize>, LoraError> {
        match self.files.info(key) {
            Some(info) => Ok(info.shape),
            None => Err(LoraError::File(WeightsError::MissingTensor {
                path: self.path(),
                key: key.to_string(),
            })),
        }
    }

    /// Adds the canonical name to errors about values: the key may spell it beyond recognition.
    fn name_target(&self, target: &str, error: WeightsError) -> LoraError {
        let target = target.to_string();
        match error {
            WeightsError::NotFinite { path, key, index } => LoraError::NotFinite {
                path,
                target,
                key,
                index,
            },
            WeightsError::WrongDtype { path, key, dtype } => LoraError::WrongDtype {
                path,
                target,
                key,
                dtype,
            },
            other => LoraError::File(other),
        }
    }
}

/// One little-endian integer; `None` for floats.
fn integer(dtype: Dtype, bytes: &[u8]) -> Option<f64> {
    match dtype {
        Dtype::I64 => bytes.first_chunk().map(|b| i64::from_le_bytes(*b) as f64),
        Dtype::U64 => bytes.first_chunk().map(|b| u64::from_le_bytes(*b) as f64),
        Dtype::I32 => bytes.first_chunk().map(|b| i32::from_le_bytes(*b).into()),
        Dtype::U32 => bytes.first_chunk().map(|b| u32::from_le_bytes(*b).into()),
        Dtype::I16 => bytes.first_chunk().map(|b| i16::from_le_bytes(*b).into()),
        Dtype::U16 => bytes.first_chunk().map(|b| u16::from_le_bytes(*b).into()),
        Dtype::I8 => bytes.first_chunk().map(|b| i8::from_le_bytes(*b).into()),
        Dtype::U8 => bytes.first().map(|b| (*b).into()),
        _ => None,
    }
}
