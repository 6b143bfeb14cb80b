//! The error for weight files.

use std::path::PathBuf;

/// What can be wrong with weight files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A file could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The file is in none of the formats that are read.
    #[error("{path}: not a file of weights in safetensors, GGUF or PyTorch's format ({reason})")]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// The format is known, but the file contradicts itself or does not hold the data it announces.
    #[error("{path}: corrupt or truncated file ({reason}); download it again")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is inconsistent.
        reason: String,
    },
    /// The header holds something that it must not hold.
    #[error("{path}: {reason}; write the file again without it, another download will not help")]
    BadHeader {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A directory holds neither an index nor a file of weights.
    #[error(
        "{path}: no file of weights (safetensors, GGUF, PyTorch) or shard index (*.safetensors.index.json) \
         found here"
    )]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// The shard index is not valid.
    #[error("{path}: invalid shard index: {reason}")]
    BadIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The shard index names a file that does not exist.
    #[error(
        "{path}: the index names the shard {shard}, which does not exist; download the missing file"
    )]
    MissingShard {
        /// The index file.
        path: PathBuf,
        /// The absent file.
        shard: String,
    },
    /// The index places a tensor in a shard that does not hold it.
    #[error("{path}: the index places {key} in {shard}, which does not contain it")]
    MissingInShard {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// The shard.
        shard: String,
    },
    /// A requested tensor is not in the files.
    #[error("{path}: no tensor named {key}")]
    MissingTensor {
        /// The file or directory.
        path: PathBuf,
        /// The tensor.
        key: String,
    },
    /// A tensor holds NaN or an infinity.
    #[error("{path}: {key} holds a value that is not finite (NaN or infinity) at element {index}")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// The first such element, in row-major order.
        index: usize,
    },
    /// A tensor's stored type cannot serve as weights.
    #[error(
        "{path}: {key} is stored as {dtype}; weights must be F64, F32, F16, BF16, fp8, int8 with a scale, \
         or of a block type of GGUF"
    )]
    WrongDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// The stored type.
        dtype: String,
    },
    /// A tensor is packed in a way that is not read.
    #[error("{path}: {key}: {reason}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The tensor or layer.
        key: String,
        /// What it is, and what would be read.
        reason: String,
    },
    /// The weights are another model's.
    #[error("{path}: these are weights of {found}; needed are those of {needed}")]
    OtherModel {
        /// The file or directory.
        path: PathBuf,
        /// Whose weights they are.
        found: String,
        /// Whose weights were asked for.
        needed: &'static str,
    },
    /// Keys and module do not match. The report says how.
    #[error("{path}: the weights do not fit the model: {report}")]
    Mismatch {
        /// The file or directory.
        path: PathBuf,
        /// The lists of offending keys.
        report: Box<crate::LoadReport>,
    },
    /// A device has no room for a tensor in one piece.
    #[error(
        "{path}: {key} takes {bytes} bytes in {dtype:?}, and a tensor on this device has at most {most}; \
         take a narrower type (--dtype f16) or another device"
    )]
    TooLarge {
        /// The file or directory.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// What it takes on the device.
        bytes: u64,
        /// Its type there.
        dtype: burn::tensor::DType,
        /// The most that the device gives.
        most: u64,
    },
    /// The device failed while weights went to it.
    #[error("{path}: the device failed while the weights went to it: {fault}")]
    Device {
        /// The file or directory.
        path: PathBuf,
        /// Why, as far as the device says.
        fault: longcat_kernels::DeviceFault,
    },
    /// A parameter could not be read back from its device.
    #[error("{path}: {message}")]
    ReadBack {
        /// Path of the parameter in its module.
        path: PathBuf,
        /// Burn's message.
        message: String,
    },
}

impl WeightsError {
    /// Wraps an I/O error with the file it concerns.
    pub fn io(path: impl Into<PathBuf>, cause: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            cause,
        }
    }
}

pub(crate) fn index_error(path: &std::path::Path, reason: String) -> WeightsError {
    WeightsError::BadIndex {
        path: path.to_path_buf(),
        reason,
    }
}
