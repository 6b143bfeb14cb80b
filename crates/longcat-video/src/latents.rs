//! Latents on the host and in files.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use longcat_weights::{NamedTensor, WeightFiles, upload, write_safetensors};

use crate::{Settings, VideoError};

const KEY: &str = "latents";
/// Where the header keeps [`Settings`].
const SETTINGS: &str = "longcat";

/// Normalised latents on the host, fp32 `[B, C, T, H, W]`: what a pipeline makes before it decodes.
///
/// In a file they are the tensor `latents` of a safetensors file.
#[derive(Debug, Clone, PartialEq)]
pub struct Latents {
    values: Vec<f32>,
    dims: [usize; 5],
}

impl Latents {
    /// Latents of these dimensions.
    ///
    /// # Panics
    /// If there are not as many values.
    pub(crate) fn new(values: Vec<f32>, dims: [usize; 5]) -> Self {
        assert_eq!(values.len(), dims.iter().product::<usize>(), "latents");
        Self { values, dims }
    }

    /// Takes latents from their device.
    ///
    /// # Errors
    /// [`VideoError::Device`] when the device fails to hand the values over.
    pub fn from_tensor<B: Backend>(latents: Tensor<B, 5>) -> Result<Self, VideoError> {
        let dims = latents.dims();
        let values = latents
            .cast(DType::F32)
            .try_into_data()
            .map_err(VideoError::read_back)?
            .into_vec::<f32>()
            .map_err(|e| VideoError::read_back(format!("latents are no f32: {e:?}")))?;
        Ok(Self { values, dims })
    }

    /// The latents as an fp32 tensor on `device`.
    pub fn to_tensor<B: Backend>(&self, device: &B::Device) -> Tensor<B, 5> {
        upload(TensorData::new(self.values.clone(), self.dims), device)
    }

    /// Batch, channels, latent frames, height and width.
    pub fn dims(&self) -> [usize; 5] {
        self.dims
    }

    /// The values in the order of [`Self::dims`].
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The latents of each video of the batch, `[1, C, T, H, W]`.
    pub fn samples(&self) -> Vec<Self> {
        let [_, rest @ ..] = self.dims;
        let [channels, frames, height, width] = rest;
        let dims = [1, channels, frames, height, width];
        let values = self.values.chunks(rest.iter().product::<usize>().max(1));
        let of = |values: &[f32]| Self {
            values: values.to_vec(),
            dims,
        };
        values.map(of).collect()
    }

    /// Reads latents that [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`VideoError::Weights`] names the file; [`VideoError::Contents`] when the shape is not that of
    /// latents.
    pub fn read(path: &Path) -> Result<Self, VideoError> {
        let contents = |reason: String| VideoError::Contents {
            path: path.to_path_buf(),
            reason,
        };
        let data = WeightFiles::open(path)?.tensor_data(KEY)?;
        let dims: [usize; 5] = data.shape.to_vec().try_into().map_err(|shape| {
            contents(format!("latents have shape {shape:?}, not [B, C, T, H, W]"))
        })?;
        let values = data
            .convert_dtype(DType::F32)
            .into_vec::<f32>()
            .map_err(|e| contents(format!("latents are not numbers: {e:?}")))?;
        Ok(Self { values, dims })
    }

    /// Writes the latents to a safetensors file, which appears when it is complete.
    ///
    /// # Errors
    /// [`VideoError::Weights`] when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), VideoError> {
        self.write_with(path, None)
    }

    /// As [`Self::write`], with what the latents were made with in the header.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_with(&self, path: &Path, settings: Option<&Settings>) -> Result<(), VideoError> {
        let tensor = NamedTensor {
            name: KEY.into(),
            data: TensorData::new(self.values.clone(), self.dims),
        };
        let metadata = settings.map(|settings| (SETTINGS.to_string(), settings.to_json()));
        write_safetensors(path, &[tensor], &BTreeMap::from_iter(metadata))?;
        Ok(())
    }

    /// What the latents of a file were made with, if it says so.
    ///
    /// # Errors
    /// [`VideoError::Weights`] names the file.
    pub fn read_settings(path: &Path) -> Result<Option<Settings>, VideoError> {
        let files = WeightFiles::open(path)?;
        let text = files.metadata().get(SETTINGS);
        Ok(text.and_then(|text| Settings::from_json(text)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_hold_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latents.safetensors");
        let latents = Latents {
            values: (0..24).map(|i| i as f32 - 0.1).collect(),
            dims: [1, 2, 3, 4, 1],
        };
        latents.write(&path).unwrap();
        assert_eq!(Latents::read(&path).unwrap(), latents);
        assert_eq!(Latents::read_settings(&path).unwrap(), None);

        let settings = Settings::new("t2v");
        latents.write_with(&path, Some(&settings)).unwrap();
        assert_eq!(Latents::read(&path).unwrap(), latents);
        assert_eq!(Latents::read_settings(&path).unwrap(), Some(settings));
    }

    #[test]
    fn a_batch_has_the_latents_of_each_video() {
        let batch = Latents {
            values: (0..12).map(|i| i as f32).collect(),
            dims: [2, 3, 1, 1, 2],
        };
        let samples = batch.samples();
        let [first, second] = &samples[..] else {
            panic!("two videos");
        };
        assert_eq!(
            (first.dims(), second.dims()),
            ([1, 3, 1, 1, 2], [1, 3, 1, 1, 2])
        );
        assert_eq!(first.values(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(second.values(), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    }

    #[test]
    fn other_tensors_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other.safetensors");
        let tensor = NamedTensor {
            name: KEY.into(),
            data: TensorData::new(vec![0.0f32; 4], [2, 2]),
        };
        write_safetensors(&path, &[tensor], &BTreeMap::new()).unwrap();
        let message = Latents::read(&path).unwrap_err().to_string();
        assert!(
            message.contains("other.safetensors") && message.contains("[2, 2]"),
            "{message}"
        );
    }
}
