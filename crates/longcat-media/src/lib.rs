//! Video and image files.
//!
//! - [`create_video`] and [`VideoWriter`]: frame by frame into an mp4 (H.264), an animated GIF or
//!   WebP, or a folder of PNG files, chosen by the path ([`OutputFormat`]);
//! - [`read_video`]: mp4 and other containers, GIF, WebP, folders of images;
//! - [`read_image`]: one picture.
//!
//! Files appear under their name only when they are complete. Everything is RGB with 8 bits.

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
mod sps;
mod webp;
mod write;

pub use error::MediaError;
pub use format::OutputFormat;
pub use frames::VideoFrames;
pub use image_file::read_image;
pub use read::{Decoder, ReadOptions, read_video};
pub use write::{VideoSpec, VideoWriter, WriteOptions, create_video, write_video};
