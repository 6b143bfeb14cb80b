//! Video and image files.
//!
//! - [`create_video`] and [`VideoWriter`]: frame by frame into an mp4 (H.264), an animated GIF or
//!   WebP, or a folder of PNG files, chosen by the path ([`OutputFormat`]);
//! - [`read_video`]: mp4 and other containers, GIF, WebP, folders of images;
//! - [`read_image`]: one picture.
//!
//! Files appear under their name only when they are complete. Everything is RGB with 8 bits.
//!
//! ```
//! use longcat_media::{
//!     ReadOptions, VideoFrames, VideoSize, WriteOptions, read_video, write_video,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Eight frames of 32 × 16 pixels, from black to grey, at 15 frames per second.
//! let pixels = (0..8u8).flat_map(|frame| vec![16 * frame; 32 * 16 * 3]).collect();
//! let video = VideoFrames::new(VideoSize::new(32, 16), 15.0, pixels)?;
//!
//! let folder = tempfile::tempdir()?;
//! for name in ["fade.mp4", "fade.gif", "fade.webp"] {
//!     let path = folder.path().join(name);
//!     write_video(&path, &video, &WriteOptions::default())?;
//!     let back = read_video(&path, &ReadOptions::default())?;
//!     assert_eq!((back.size(), back.len()), (video.size(), 8));
//! }
//! # Ok(())
//! # }
//! ```

mod animation;
mod colour;
mod error;
mod ffmpeg;
mod format;
mod frames;
mod gif;
mod h264;
mod image_file;
mod image_folder;
mod mp4_reader;
mod mp4_writer;
mod partial;
mod read;
mod size;
mod sps;
mod webp;
mod write;

pub use error::MediaError;
pub use format::OutputFormat;
pub use frames::VideoFrames;
pub use image_file::read_image;
pub use read::{Decoder, ReadOptions, read_video};
pub use size::{ParseSizeError, VideoSize};
pub use write::{VideoSpec, VideoWriter, WriteOptions, create_video, write_video};
