//! Headers of safetensors files.

use std::path::Path;

use safetensors::SafeTensors;

use super::{RawFile, RawTensor, corrupt, foreign};
use crate::WeightsError;
use crate::files::checks::metadata_problem;

/// The longest header that the format allows.
const LONGEST: u64 = 100_000_000;

pub(super) fn read(path: &Path, map: &[u8]) -> Result<RawFile, WeightsError> {
    let pickle = [&b"\x80\x02"[..], b"\x80\x04"];
    if map.get(8) != Some(&b'{') && pickle.iter().any(|magic| map.starts_with(magic)) {
        return Err(foreign(
            path,
            "it is a Python pickle, which is never executed here; PyTorch files are read in the format \
             of PyTorch 1.6 and later, which is a zip file",
        ));
    }
    let Some(prefix) = map.first_chunk::<8>() else {
        return Err(foreign(path, "shorter than a header"));
    };
    // The length field precedes a JSON object: anything else is another format, while an object
    // that is cut off is a damaged safetensors file.
    if map.get(8).is_some_and(|b| *b != b'{') || u64::from_le_bytes(*prefix) > LONGEST {
        return Err(foreign(path, "no JSON header"));
    }
    let (header_len, metadata) =
        SafeTensors::read_metadata(map).map_err(|e| match metadata_problem(path, map) {
            Some(problem) => problem,
            None => corrupt(path, e.to_string()),
        })?;
    let data_len = metadata.data_len();
    if 8 + header_len + data_len != map.len() {
        return Err(corrupt(
            path,
            format!(
                "the header announces {data_len} bytes of data, {} are there",
                map.len().saturating_sub(8 + header_len)
            ),
        ));
    }
    let first = 8 + header_len;
    let tensors = metadata.tensors().into_iter().map(|(key, info)| {
        let (start, end) = info.data_offsets;
        RawTensor {
            key,
            kind: info.dtype.into(),
            shape: info.shape.clone(),
            bytes: first + start..first + end,
        }
    });
    Ok(RawFile {
        tensors: tensors.collect(),
        metadata: metadata
            .metadata()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
    })
}
