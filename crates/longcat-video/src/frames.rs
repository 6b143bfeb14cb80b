//! Pixels on the host and on the device.

use std::borrow::Borrow;
use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use image::RgbImage;
use image::imageops::FilterType;
use longcat_weights::upload;

use crate::media::{
    ReadOptions, VideoFrames, VideoSpec, WriteOptions, create_video, read_image, read_video,
};
use crate::{VideoError, VideoSize};

/// Frames as 8-bit RGB, `[F, H, W, 3]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PixelFrames {
    data: Vec<u8>,
    size: VideoSize,
}

impl PixelFrames {
    /// Frames from pictures of one size.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] without pictures, or when sizes differ.
    pub fn from_images(images: &[RgbImage]) -> Result<Self, VideoError> {
        let first = images
            .first()
            .ok_or_else(|| VideoError::invalid("frames", "there are none"))?;
        let mut data = Vec::with_capacity(first.as_raw().len() * images.len());
        for (i, image) in images.iter().enumerate() {
            if image.dimensions() != first.dimensions() {
                let ((w, h), (w0, h0)) = (image.dimensions(), first.dimensions());
                return Err(VideoError::invalid(
                    "frames",
                    format!("frame {i} is {w}x{h} and the first is {w0}x{h0}"),
                ));
            }
            data.extend_from_slice(image.as_raw());
        }
        Ok(Self {
            data,
            size: first.dimensions().into(),
        })
    }

    /// Reads a picture.
    ///
    /// # Errors
    /// [`VideoError::Media`], as [`read_image`].
    pub fn read_image(path: impl AsRef<Path>) -> Result<Self, VideoError> {
        Self::from_images(&[read_image(path.as_ref())?])
    }

    /// Reads the frames of a video file or of a folder of pictures.
    ///
    /// # Errors
    /// [`VideoError::Media`], as [`read_video`].
    pub fn read_video(path: impl AsRef<Path>) -> Result<Self, VideoError> {
        Self::from_video(read_video(path.as_ref(), &ReadOptions::default())?)
    }

    /// Writes a video file (.mp4, .gif, .webp, or a folder of PNG files) of `fps` frames per second.
    ///
    /// # Errors
    /// [`VideoError::Media`], as [`create_video`].
    pub fn write_video(&self, path: impl AsRef<Path>, fps: f64) -> Result<(), VideoError> {
        write_clips([Ok(self)].into_iter(), path.as_ref(), fps)
    }

    /// The frames of a video file that was read.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] without frames.
    pub fn from_video(video: VideoFrames) -> Result<Self, VideoError> {
        let size = video.size();
        Self::from_bytes(video.into_data(), size)
    }

    /// Frames from bytes `[F, H, W, 3]`.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] when the length is not a whole number of frames above 0.
    pub fn from_bytes(data: Vec<u8>, size: VideoSize) -> Result<Self, VideoError> {
        let frame = size.width * size.height * 3;
        if frame == 0 || data.is_empty() || !data.len().is_multiple_of(frame) {
            return Err(VideoError::invalid(
                "frames",
                format!(
                    "{} bytes are not whole frames of {}x{}",
                    data.len(),
                    size.width,
                    size.height
                ),
            ));
        }
        Ok(Self { data, size })
    }

    /// Number of frames, at least 1.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.data.len() / self.frame_bytes()
    }

    /// Width and height.
    pub fn size(&self) -> VideoSize {
        self.size
    }

    /// Bytes of all frames, `[F, H, W, 3]`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.data
    }

    /// The frames one by one, each `[H, W, 3]`.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.data.chunks_exact(self.frame_bytes())
    }

    /// The frames as pictures.
    pub fn images(&self) -> impl Iterator<Item = RgbImage> + '_ {
        let (width, height) = (self.size.width as u32, self.size.height as u32);
        self.data
            .chunks_exact(self.frame_bytes())
            .map(move |frame| {
                RgbImage::from_raw(width, height, frame.to_vec())
                    .unwrap_or_else(|| unreachable!("a frame has width·height·3 bytes"))
            })
    }

    /// The last `count` frames (all, if there are fewer).
    pub(crate) fn tail(&self, count: usize) -> Self {
        let skip = self.len().saturating_sub(count) * self.frame_bytes();
        Self {
            data: self.data[skip..].to_vec(),
            size: self.size,
        }
    }

    /// `count` frames from the one of index `first` on, or as many of them as there are; at least one.
    #[must_use]
    pub fn part(&self, first: usize, count: usize) -> Self {
        let first = first.min(self.len() - 1);
        let count = count.clamp(1, self.len() - first);
        let bytes = self.frame_bytes();
        Self {
            data: self.data[first * bytes..(first + count) * bytes].to_vec(),
            size: self.size,
        }
    }

    /// The middle of all frames, of `size` or as much of it as they have.
    #[must_use]
    pub fn middle(&self, size: VideoSize) -> Self {
        let width = size.width.clamp(1, self.size.width);
        let height = size.height.clamp(1, self.size.height);
        let left = (self.size.width - width) / 2;
        let top = (self.size.height - height) / 2;
        let rows = self.frames().flat_map(|frame| {
            let rows = frame.chunks_exact(3 * self.size.width);
            rows.skip(top).take(height)
        });
        Self {
            data: rows
                .flat_map(|row| &row[3 * left..3 * (left + width)])
                .copied()
                .collect(),
            size: VideoSize { width, height },
        }
    }

    /// All frames resized (Lanczos, as the official pipelines prepare conditions).
    #[must_use]
    pub fn resized(&self, size: VideoSize) -> Self {
        if size == self.size {
            return self.clone();
        }
        let (width, height) = (size.width as u32, size.height as u32);
        let data = self
            .images()
            .flat_map(|image| {
                image::imageops::resize(&image, width, height, FilterType::Lanczos3).into_raw()
            })
            .collect();
        Self { data, size }
    }

    /// `[1, 3, F, H, W]` in [-1, 1], fp32.
    pub fn to_tensor<B: Backend>(&self, device: &B::Device) -> Tensor<B, 5> {
        Self::batch_to_tensor([self], device)
    }

    /// `[B, 3, F, H, W]` in [-1, 1], fp32, of clips of one size and length.
    ///
    /// # Panics
    /// If sizes or lengths differ, or there is no clip.
    pub fn batch_to_tensor<'a, B: Backend>(
        clips: impl IntoIterator<Item = &'a Self>,
        device: &B::Device,
    ) -> Tensor<B, 5> {
        Self::raw_tensor(clips, device) / 127.5 - 1.0
    }

    /// As [`Self::batch_to_tensor`], in [0, 255].
    pub(crate) fn raw_tensor<'a, B: Backend>(
        clips: impl IntoIterator<Item = &'a Self>,
        device: &B::Device,
    ) -> Tensor<B, 5> {
        let mut values: Vec<f32> = Vec::new();
        let (mut count, mut first) = (0, None);
        for clip in clips {
            values.extend(clip.data.iter().map(|v| f32::from(*v)));
            let shape = (clip.len(), clip.size);
            assert_eq!(shape, *first.get_or_insert(shape), "clips of one batch");
            count += 1;
        }
        let Some((frames, VideoSize { width, height })) = first else {
            panic!("a batch of no clips");
        };
        let shape = [count, frames, height, width, 3];
        upload::<B, 5>(TensorData::new(values, shape), device).permute([0, 4, 1, 2, 3])
    }

    /// One clip per sample from pixels `[B, 3, F, H, W]` in [-1, 1], rounded to 8 bits.
    ///
    /// # Errors
    /// [`VideoError::Device`] when the device fails to hand the values over.
    pub fn from_tensor<B: Backend>(pixels: Tensor<B, 5>) -> Result<Vec<Self>, VideoError> {
        let [batch, _, _, height, width] = pixels.dims();
        let values = (pixels.cast(DType::F32).permute([0, 2, 3, 4, 1]) * 0.5 + 0.5)
            .clamp(0.0, 1.0)
            .mul_scalar(255.0)
            .round()
            .try_into_data()
            .map_err(VideoError::read_back)?
            .into_vec::<f32>()
            .map_err(|e| VideoError::read_back(format!("pixels are no f32: {e:?}")))?;
        let size = VideoSize { width, height };
        Ok(values
            .chunks_exact(values.len() / batch)
            .map(|clip| Self {
                data: clip.iter().map(|v| *v as u8).collect(),
                size,
            })
            .collect())
    }

    fn frame_bytes(&self) -> usize {
        self.size.width * self.size.height * 3
    }
}

/// Writes clips of one size one after another into one video file.
pub(crate) fn write_clips<C: Borrow<PixelFrames>>(
    clips: impl Iterator<Item = Result<C, VideoError>>,
    path: &Path,
    fps: f64,
) -> Result<(), VideoError> {
    let mut writer = None;
    for clip in clips {
        let clip = clip?;
        let clip = clip.borrow();
        let writer = match &mut writer {
            Some(writer) => writer,
            none => {
                let spec = VideoSpec {
                    size: clip.size,
                    fps,
                };
                none.insert(create_video(path, spec, &WriteOptions::default())?)
            }
        };
        for frame in clip.frames() {
            writer.push(frame)?;
        }
    }
    match writer {
        Some(writer) => Ok(writer.finish()?),
        None => Err(VideoError::invalid("frames", "there are none")),
    }
}

/// Linear resampling of dimension `dim` to `length` samples, first and last kept in place
/// (`align_corners`), in the dtype of `x`.
pub(crate) fn resample<B: Backend>(x: Tensor<B, 5>, dim: usize, length: usize) -> Tensor<B, 5> {
    let from = x.dims()[dim];
    if from == length {
        return x;
    }
    let device = x.device();
    let ratio = match length {
        1 => 0.0,
        _ => (from - 1) as f32 / (length - 1) as f32,
    };
    let mut left = Vec::with_capacity(length);
    let mut right = Vec::with_capacity(length);
    let mut weight = Vec::with_capacity(length);
    for i in 0..length {
        let position = ratio * i as f32;
        let low = (position as usize).min(from - 1);
        left.push(low as i32);
        right.push((low + 1).min(from - 1) as i32);
        weight.push(position - low as f32);
    }
    let index = |ids: &[i32]| Tensor::<B, 1, Int>::from_ints(ids, &device);
    let mut shape = [1; 5];
    shape[dim] = length;
    let weight = Tensor::<B, 5>::from_data(TensorData::new(weight, shape), (&device, x.dtype()));
    let low = x.clone().select(dim, index(&left));
    let high = x.select(dim, index(&right));
    low * (weight.clone().neg() + 1.0) + high * weight
}
