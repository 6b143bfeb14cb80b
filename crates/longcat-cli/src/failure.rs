//! What kind of error ended some work.

use anyhow::Error;
use longcat_runtime::RuntimeError;
use longcat_video::{DeviceError, VideoError};

/// The error of a pipeline that is behind an error.
pub fn video_error(error: &Error) -> Option<&VideoError> {
    match error.downcast_ref() {
        Some(RuntimeError::Video(error)) => Some(error),
        _ => error.downcast_ref(),
    }
}

/// The failure of a device that is behind an error.
pub fn device_error(error: &Error) -> Option<&DeviceError> {
    match video_error(error) {
        Some(VideoError::Device(error)) => Some(error),
        _ => error.downcast_ref(),
    }
}
