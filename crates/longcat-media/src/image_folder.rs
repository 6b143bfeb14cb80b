//! Folders of numbered pictures.

use std::path::{Path, PathBuf};

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::partial::Partial;
use crate::{MediaError, VideoFrames, VideoSize, VideoSpec, VideoWriter, read_image};

/// What a picture's name may end in to be taken for a frame.
const EXTENSIONS: &[&str] = &["png", "jpg", "jpeg", "webp", "bmp"];

/// A folder of PNG files, one a frame. It holds no frame rate.
pub(crate) struct PngFolderWriter {
    partial: Partial,
    spec: VideoSpec,
    frames: usize,
}

impl PngFolderWriter {
    pub(crate) fn create(path: &Path, spec: VideoSpec) -> Result<Self, MediaError> {
        Ok(Self {
            partial: Partial::folder(path)?,
            spec,
            frames: 0,
        })
    }
}

impl VideoWriter for PngFolderWriter {
    fn push(&mut self, frame: &[u8]) -> Result<(), MediaError> {
        let [width, height] = self.spec.sides();
        let path = self
            .partial
            .path()
            .join(format!("frame_{:05}.png", self.frames));
        let file = std::fs::File::create(&path).map_err(MediaError::io(&path))?;
        PngEncoder::new(std::io::BufWriter::new(file))
            .write_image(frame, width, height, ExtendedColorType::Rgb8)
            .map_err(|e| MediaError::encode(&path, e))?;
        self.frames += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        self.partial.finish()
    }
}

/// Reads the pictures of a folder in the order of their names (`frame_9` before `frame_10`). Files
/// that are no pictures are not looked at.
pub(crate) fn read_folder(path: &Path, fps: f64) -> Result<VideoFrames, MediaError> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(MediaError::io(path))? {
        let file = entry.map_err(MediaError::io(path))?.path();
        if EXTENSIONS.contains(&crate::read::extension(&file).as_str()) {
            files.push(file);
        }
    }
    files.sort_by_cached_key(|file| {
        natural_order(&file.file_name().unwrap_or_default().to_string_lossy())
    });
    let mut size = None;
    let mut data = Vec::new();
    for file in &files {
        let picture = read_image(file)?;
        let found = VideoSize::from(picture.dimensions());
        let expected = *size.get_or_insert(found);
        if found != expected {
            return Err(MediaError::MixedSizes {
                path: file.clone(),
                expected,
                found,
            });
        }
        data.extend(picture.into_raw());
    }
    let size = size.ok_or_else(|| MediaError::NoFrames {
        path: path.to_path_buf(),
    })?;
    VideoFrames::new(size, fps, data)
}

/// A key that compares runs of digits by their value and all else by character.
fn natural_order(name: &str) -> Vec<(u128, char)> {
    let mut key: Vec<(u128, char)> = Vec::new();
    let mut in_number = false;
    for c in name.chars() {
        match (c.to_digit(10), key.last_mut()) {
            (Some(digit), Some((value, '0'))) if in_number => {
                *value = value.saturating_mul(10).saturating_add(digit.into());
            }
            (Some(digit), _) => key.push((digit.into(), '0')),
            (None, _) => key.push((0, c)),
        }
        in_number = c.is_ascii_digit();
    }
    key
}

#[cfg(test)]
mod tests {
    use super::natural_order;

    #[test]
    fn numbers_sort_by_value() {
        let sorted = [
            "frame_2.png",
            "frame_09.png",
            "frame_10.png",
            "frame_100.png",
        ];
        let mut names = sorted;
        names.reverse();
        names.sort_by_key(|name| natural_order(name));
        assert_eq!(names, sorted);
    }
}
