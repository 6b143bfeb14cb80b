//! Single pictures.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use crate::MediaError;

/// Endings of pictures.
const PICTURES: &[&str] = &["png", "jpg", "jpeg", "bmp"];

/// Reads a PNG, JPEG, WebP, BMP or GIF picture as 8-bit RGB, turned upright as its metadata says.
///
/// A picture may take 512 MiB in memory, the limit of the `image` crate.
///
/// # Errors
/// [`MediaError`] names the file: unreadable, damaged or truncated, larger than the limit, unknown
/// format, transparent pixels (an alpha channel that is opaque everywhere is dropped).
pub fn read_image(path: &Path) -> Result<RgbImage, MediaError> {
    let damaged = |e: image::ImageError| MediaError::unreadable(path, e);
    let reader = ImageReader::open(path)
        .map_err(MediaError::io(path))?
        // The content decides, not the name.
        .with_guessed_format()
        .map_err(MediaError::io(path))?;
    let format = reader.format();
    if !format.is_some_and(|format| format.reading_enabled()) {
        return Err(MediaError::unreadable(
            path,
            "no picture that is known here; convert it to PNG or JPEG",
        ));
    }
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    // The decoder keeps to the limits by itself, but for the picture that it is asked for.
    let mut limits = Limits::default();
    limits.reserve(decoder.total_bytes()).map_err(damaged)?;
    decoder.set_limits(limits).map_err(damaged)?;
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    // Its decoder makes grey of what is missing.
    if format == Some(ImageFormat::Jpeg) && !jpeg_has_end(path)? {
        return Err(MediaError::unreadable(
            path,
            "truncated: its end is missing",
        ));
    }
    picture.apply_orientation(orientation);
    opaque(path, picture)
}

/// Whether a file is one picture and not a video, by its ending; for WebP, which may be either, by its
/// first bytes.
pub fn is_picture(path: &Path) -> bool {
    let extension = crate::read::extension(path);
    PICTURES.contains(&extension.as_str())
        || extension == "webp" && is_still_webp(path).unwrap_or(false)
}

/// Whether a WebP file says that it is no animation.
fn is_still_webp(path: &Path) -> std::io::Result<bool> {
    const ANIMATED: u8 = 0b10;
    let mut head = [0; 21];
    File::open(path)?.read_exact(&mut head)?;
    let animated = head[12..].starts_with(b"VP8X") && head[20] & ANIMATED != 0;
    Ok(head.starts_with(b"RIFF") && head[8..].starts_with(b"WEBP") && !animated)
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

/// Whether the picture of a JPEG file goes on to its end marker.
fn jpeg_has_end(path: &Path) -> Result<bool, MediaError> {
    let file = File::open(path).map_err(MediaError::io(path))?;
    let mut bytes = BufReader::new(file).bytes();
    let end = find_end(&mut bytes).map_err(MediaError::io(path))?;
    Ok(end.is_some())
}

/// Reads up to the end marker of a JPEG picture; `None` where it never comes. Segments, which may hold
/// small pictures of their own, are passed over by their length.
fn find_end(bytes: &mut impl Iterator<Item = std::io::Result<u8>>) -> std::io::Result<Option<()>> {
    const END: u8 = 0xd9;
    // Stuffing, restarts and the start of the picture stand alone; so does a byte that fills up.
    let alone = |code: u8| matches!(code, 0x00 | 0x01 | 0xd0..=0xd8 | 0xff);
    let mut code = false;
    loop {
        let Some(byte) = bytes.next().transpose()? else {
            return Ok(None);
        };
        match (code, byte) {
            (true, END) => return Ok(Some(())),
            (true, 0xff) => {}
            (true, byte) if alone(byte) => code = false,
            (true, _) => {
                code = false;
                let mut next = || bytes.next().transpose();
                let (Some(high), Some(low)) = (next()?, next()?) else {
                    return Ok(None);
                };
                for _ in 2..u16::from_be_bytes([high, low]) {
                    if next()?.is_none() {
                        return Ok(None);
                    }
                }
            }
            (false, byte) => code = byte == 0xff,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::find_end;

    #[test]
    fn an_end_within_a_segment_is_none() {
        let found = |bytes: &[u8]| {
            find_end(&mut bytes.iter().map(|b| Ok(*b)))
                .unwrap()
                .is_some()
        };
        let start = [
            0xff, 0xd8, 0xff, 0xe1, 0, 4, 0xff, 0xd9, 0xff, 0xda, 0, 3, 1,
        ];
        let picture = [9, 0xff, 0, 8, 0xff, 0xd1, 7];
        let whole = [&start[..], &picture, &[0xff, 0xff, 0xd9, 5]].concat();
        assert!(found(&whole));
        for end in 0..whole.len() - 1 {
            assert!(!found(&whole[..end]), "{end}");
        }
    }
}
