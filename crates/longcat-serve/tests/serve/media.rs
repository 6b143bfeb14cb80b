//! Pictures and videos to upload.

use std::path::Path;

use longcat_media::{
    ReadOptions, VideoFrames, VideoReader, VideoSize, WriteOptions, read_video, write_video,
};

/// A grey PNG picture.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_pixel(width, height, image::Rgb([90, 90, 90]));
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A grey mp4 of this size with 15 frames a second.
pub fn mp4(side: usize, frames: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    let size = VideoSize::new(side, side);
    let video = VideoFrames::new(size, 15.0, vec![90; 3 * side * side * frames]).unwrap();
    write_video(&path, &video, &WriteOptions::default()).unwrap();
    std::fs::read(path).unwrap()
}

/// Size and number of frames of an mp4.
pub fn shape(bytes: &[u8]) -> (String, usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    std::fs::write(&path, bytes).unwrap();
    let video = read_video(&path, &ReadOptions::default()).unwrap();
    (video.size().to_string(), video.len())
}

/// Whether an animated WebP has a frame.
pub fn is_animation(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.webp");
    std::fs::write(&path, bytes).unwrap();
    let mut reader = VideoReader::open(&path, &ReadOptions::default()).unwrap();
    reader.next_frame().unwrap().is_some()
}

/// All files below a folder, with their lengths.
pub fn tree(folder: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(one) = folders.pop() {
        for entry in std::fs::read_dir(&one).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            match path.is_dir() {
                true => {
                    found.push((name, 0));
                    folders.push(path);
                }
                // The database grows by what it looks up.
                false if name.starts_with("longcat.sqlite3") => {}
                false => found.push((name, path.metadata().unwrap().len())),
            }
        }
    }
    found.sort();
    found
}
