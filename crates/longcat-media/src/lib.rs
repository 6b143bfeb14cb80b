//! Video and image files.
//!
//! - [`create_video`] and [`VideoWriter`]: frame by frame into an mp4 (H.264), an animated GIF or
//!   WebP, or a folder of PNG files, chosen by the path ([`OutputFormat`]);
//! - [`VideoReader`]: frame by frame out of mp4 and other containers, GIF, WebP, folders of images;
//!   [`SteadyFrames`] at a steady rate, by time; [`read_video`] and [`read_last`] all or the last ones;
//! - [`read_image`]: one picture;
//! - [`check_output`]: whether a file can be written, before any work;
//! - [`WriteOptions::metadata`] and [`read_metadata`]: a text that goes with a video.
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
mod check;
mod chroma;
mod colour;
mod error;
mod ffmpeg;
mod format;
mod frames;
mod gif;
mod h264;
mod h264_groups;
mod image_file;
mod image_folder;
mod light;
mod metadata;
mod mp4_index;
mod mp4_reader;
mod mp4_tags;
mod mp4_writer;
mod partial;
mod planar;
mod probe;
mod read;
mod reader;
mod size;
mod source;
mod sps;
mod steady;
mod webp;
mod write;

pub use check::{PlannedOutput, check_output};
pub use error::MediaError;
pub use format::OutputFormat;
pub use frames::VideoFrames;
pub use image_file::{is_picture, read_image};
pub use metadata::read_metadata;
pub use read::{Decoder, ReadOptions, read_video};
pub use reader::{TimedFrame, VideoReader};
pub use size::{ParseSizeError, VideoSize};
pub use steady::{SteadyFrames, frames_to_the_last, read_last};
pub use write::{VideoSpec, VideoWriter, WriteOptions, create_video, write_video};
