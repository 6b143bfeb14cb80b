//! What the examples share: reading `--device` and writing frames.

use std::error::Error;
use std::path::Path;

use longcat_runtime::DeviceSpec;
use longcat_video::PixelFrames;
use longcat_video::media::{VideoSpec, WriteOptions, create_video};

/// The device named as the first argument; `cpu` without one.
///
/// # Errors
/// When the argument is no device.
pub fn device() -> Result<DeviceSpec, Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "cpu".into());
    Ok(name.parse()?)
}

/// Writes frames at 15 per second.
///
/// # Errors
/// What the encoder or the disk reports.
pub fn write(path: &str, frames: &PixelFrames) -> Result<(), Box<dyn Error>> {
    let spec = VideoSpec {
        width: u32::try_from(frames.size().width)?,
        height: u32::try_from(frames.size().height)?,
        fps: 15.0,
    };
    let mut writer = create_video(Path::new(path), spec, &WriteOptions::default())?;
    for frame in frames.frames() {
        writer.push(frame)?;
    }
    writer.finish()?;
    println!("{path}: {} frames", frames.len());
    Ok(())
}
