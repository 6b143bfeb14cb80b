//! Folders of numbered pictures.

use std::fs::File;
use std::io::Write;
use std::iter::{Enumerate, Skip};
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use png::{ColorType, Compression, Encoder, EncodingError};

use crate::metadata::PNG_KEYWORD;
use crate::partial::Partial;
use crate::source::{Opened, Place, Source, Stored, StoredFrame};
use crate::{MediaError, VideoSize, VideoSpec, VideoWriter, WriteOptions, read_image};

/// What a picture's name may end in to be taken for a frame.
const EXTENSIONS: &[&str] = &["png", "jpg", "jpeg", "webp", "bmp"];

/// A folder of PNG files, one a frame. It holds no frame rate.
pub(crate) struct PngFolderWriter {
    partial: Partial,
    spec: VideoSpec,
    /// Goes into each of them.
    text: Option<String>,
    frames: usize,
}

impl PngFolderWriter {
    pub(crate) fn create(
        path: &Path,
        spec: VideoSpec,
        options: &WriteOptions,
    ) -> Result<Self, MediaError> {
        Ok(Self {
            partial: Partial::folder(path)?,
            spec,
            text: options.metadata.clone(),
            frames: 0,
        })
    }

    fn encode(&self, frame: &[u8]) -> Result<Vec<u8>, EncodingError> {
        let [width, height] = self.spec.sides();
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, width, height);
        encoder.set_color(ColorType::Rgb);
        encoder.set_compression(Compression::Fast);
        if let Some(text) = &self.text {
            // Fewer programs know the chunk for other languages.
            if text.is_ascii() {
                encoder.add_text_chunk(PNG_KEYWORD.into(), text.clone())?;
            } else {
                encoder.add_itxt_chunk(PNG_KEYWORD.into(), text.clone())?;
            }
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(frame)?;
        writer.finish()?;
        Ok(bytes)
    }
}

impl VideoWriter for PngFolderWriter {
    fn push(&mut self, frame: &[u8]) -> Result<(), MediaError> {
        let path = self
            .partial
            .path()
            .join(format!("frame_{:05}.png", self.frames));
        let bytes = self
            .encode(frame)
            .map_err(|e| MediaError::encode(&path, e))?;
        // A full disk may be told when the file is closed, and then to nobody.
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        written.map_err(MediaError::io(&path))?;
        self.frames += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        self.partial.finish()
    }
}

/// The pictures of a folder in the order of their names (`frame_9` before `frame_10`). Files that are
/// no pictures, and hidden ones, are not looked at.
pub(crate) fn pictures(path: &Path) -> Result<Vec<PathBuf>, MediaError> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(MediaError::io(path))? {
        let file = entry.map_err(MediaError::io(path))?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let picture = EXTENSIONS.contains(&crate::read::extension(&file).as_str());
        if picture && !name.starts_with('.') {
            files.push(file);
        }
    }
    files.sort_by_cached_key(|file| {
        natural_order(&file.file_name().unwrap_or_default().to_string_lossy())
    });
    Ok(files)
}

/// Reads the pictures of a folder, each when it is its turn.
pub(crate) fn open_folder(path: &Path, fps: f64, place: Place) -> Result<Opened, MediaError> {
    let files = pictures(path)?;
    let skip = match place {
        Place::Start => 0,
        Place::BeforeEnd(seconds) => files
            .len()
            .saturating_sub((seconds * fps).ceil() as usize + 1),
    };
    let Some(first) = files.get(skip) else {
        return Err(MediaError::NoFrames {
            path: path.to_path_buf(),
        });
    };
    let size = VideoSize::from(read_image(first)?.dimensions());
    Ok(Opened {
        source: Box::new(Folder {
            files: files.into_iter().enumerate().skip(skip),
            size,
            fps,
        }),
        stored: Stored::rgb(size),
        fps: Some(fps),
        whole: skip == 0,
    })
}

struct Folder {
    files: Skip<Enumerate<IntoIter<PathBuf>>>,
    size: VideoSize,
    fps: f64,
}

impl Source for Folder {
    fn next(&mut self) -> Result<Option<StoredFrame>, MediaError> {
        let Some((number, file)) = self.files.next() else {
            return Ok(None);
        };
        let picture = read_image(&file)?;
        let found = VideoSize::from(picture.dimensions());
        if found != self.size {
            return Err(MediaError::MixedSizes {
                path: file,
                expected: self.size,
                found,
            });
        }
        Ok(Some(StoredFrame {
            start: number as f64 / self.fps,
            duration: 1.0 / self.fps,
            bytes: picture.into_raw(),
        }))
    }
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
