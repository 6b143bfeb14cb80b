//! The table of token embeddings, in pieces where a device has no room for it in one.
//!
//! That of UMT5-XXL has 256384 rows of 4096 values: 4.2 GB in f32, where many GPU drivers give 2 GiB
//! to a buffer.

use burn::module::Param;
use burn::tensor::backend::Backend;
use burn::tensor::module::embedding;
use burn::tensor::{DType, Int, Tensor, TensorPrimitive};
use longcat_kernels::KernelBackend;
use longcat_weights::{LoadReport, WeightFiles, WeightsError};

use crate::Umt5Config;
use crate::layers::normal;

/// The rows of a table, in order, in pieces of the same number of rows but for the last.
pub(crate) type Pieces<B> = Vec<Param<Tensor<B, 2>>>;

/// A table of random rows in pieces of at most `rows` of them.
pub(crate) fn pieces<B: Backend>(
    config: &Umt5Config,
    rows: usize,
    device: &B::Device,
) -> Pieces<B> {
    (0..config.vocab_size)
        .step_by(rows)
        .map(|first| {
            let rows = rows.min(config.vocab_size - first);
            normal([rows, config.d_model], 1.0, device)
        })
        .collect()
}

/// How many rows of `dtype` have room in `bytes`; at least one.
pub(crate) fn rows_within(config: &Umt5Config, dtype: DType, bytes: u64) -> usize {
    let rows = bytes / (config.d_model * dtype.size()) as u64;
    (rows as usize).clamp(1, config.vocab_size)
}

/// The rows `[n, L, d_model]` of ids `[n, L]`.
pub(crate) fn look_up<B: Backend>(
    pieces: &[Param<Tensor<B, 2>>],
    ids: Tensor<B, 2, Int>,
) -> Tensor<B, 3> {
    let (mut found, mut first) = (None, 0);
    for piece in pieces {
        let rows = piece.val();
        if pieces.len() == 1 {
            return embedding(rows, ids);
        }
        let count = rows.dims()[0] as i64;
        let local = ids.clone().sub_scalar(first);
        let here = local
            .clone()
            .greater_equal_elem(0)
            .bool_and(local.clone().lower_elem(count));
        let taken = embedding(rows, local.clamp(0, count - 1));
        found = Some(match found {
            None => taken,
            Some(others) => {
                let others: Tensor<B, 3> = others;
                let here = here.unsqueeze_dim::<3>(2).expand(others.dims());
                others.mask_where(here, taken)
            }
        });
        first += count;
    }
    found.unwrap_or_else(|| unreachable!("a table has a row"))
}

/// Fills the pieces of a table from the whole one in a file, in `dtype`.
///
/// # Errors
/// [`WeightsError`] names the key and the shapes.
pub(crate) fn fill<B: KernelBackend>(
    pieces: Pieces<B>,
    files: &WeightFiles,
    key: &str,
    dtype: DType,
    config: &Umt5Config,
    device: &B::Device,
) -> Result<Pieces<B>, WeightsError> {
    let table = files.tensor_data_in(key, Some(dtype))?;
    let expected = [config.vocab_size, config.d_model];
    if table.shape.to_vec() != expected {
        let mismatched = vec![(key.to_string(), table.shape.to_vec(), expected.to_vec())];
        let report = LoadReport {
            mismatched,
            ..LoadReport::default()
        };
        return Err(WeightsError::Mismatch {
            path: files.path().to_path_buf(),
            report: Box::new(report),
        });
    }
    let row = config.d_model * table.dtype.size();
    let mut bytes = &table.bytes[..];
    let filled = pieces.into_iter().map(|piece| {
        let shape = piece.lazy_shape();
        let (here, rest) = bytes.split_at(shape[0] * row);
        bytes = rest;
        let tensor = B::float_from_bytes(here, dtype, device);
        let tensor = Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(tensor));
        let id = piece.id;
        piece.transform_for_load(tensor.reshape(shape), id)
    });
    Ok(filled.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::TensorData;
    use burn_flex::{Flex, FlexDevice};

    use super::*;

    #[test]
    fn a_table_in_pieces_gives_the_rows_of_the_whole() {
        let rows = |range: std::ops::Range<i32>| {
            let values: Vec<f32> = range.clone().map(|row| row as f32 + 0.5).collect();
            let tensor = Tensor::from_data(TensorData::new(values, [range.len(), 1]), &FlexDevice);
            Param::<Tensor<Flex, 2>>::from_tensor(tensor)
        };
        let ids = Tensor::<Flex, 2, Int>::from_ints([[0, 3, 4, 6], [7, 9, 2, 8]], &FlexDevice);
        let whole = look_up(&[rows(0..10)], ids.clone());
        for pieces in [
            vec![rows(0..4), rows(4..8), rows(8..10)],
            vec![rows(0..9), rows(9..10)],
        ] {
            assert_eq!(look_up(&pieces, ids.clone()).to_data(), whole.to_data());
        }
        let values: Vec<f32> = whole.to_data().to_vec().unwrap();
        assert_eq!(values, [0.5, 3.5, 4.5, 6.5, 7.5, 9.5, 2.5, 8.5]);
    }

    #[test]
    fn the_table_of_the_release_is_divided_where_buffers_have_2_gib() {
        let config = Umt5Config::default();
        let limit = (2 << 30) - 1;
        assert_eq!(rows_within(&config, DType::F32, limit), 131_071);
        assert_eq!(rows_within(&config, DType::F16, limit), 256_384);
        assert_eq!(rows_within(&config, DType::F32, u64::MAX), 256_384);
        // Rows are made when they are used: this takes no memory.
        assert_eq!(pieces::<Flex>(&config, 131_071, &FlexDevice).len(), 2);
    }
}
