//! Single pictures.

use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};

use crate::MediaError;

/// Reads a PNG, JPEG, WebP, BMP or GIF picture as 8-bit RGB, turned upright as its metadata says.
///
/// # Errors
/// [`MediaError`] names the file: unreadable or damaged, unknown format, transparent pixels (an
/// alpha channel that is opaque everywhere is dropped).
pub fn read_image(path: &Path) -> Result<RgbImage, MediaError> {
    let damaged = |e: image::ImageError| MediaError::unreadable(path, e);
    let mut decoder = ImageReader::open(path)
        .map_err(MediaError::io(path))?
        // The content decides, not the name.
        .with_guessed_format()
        .map_err(MediaError::io(path))?
        .into_decoder()
        .map_err(damaged)?;
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(orientation);
    opaque(path, picture)
}

/// Drops an alpha channel, which must be opaque.
pub(crate) fn opaque(path: &Path, picture: DynamicImage) -> Result<RgbImage, MediaError> {
    if picture.color().has_alpha() {
        let rgba = picture.to_rgba8();
        if rgba.pixels().any(|pixel| pixel.0[3] != u8::MAX) {
            return Err(MediaError::Transparent {
                path: path.to_path_buf(),
            });
        }
    }
    Ok(picture.into_rgb8())
}
