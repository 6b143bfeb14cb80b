//! The shape of videos that begin with a picture or a video.

use longcat_video::{PixelFrames, VideoError, VideoSize};

/// Sides in a ratio up to this are taken; the model was trained on up to 4.
const MOST: f64 = 8.0;
/// What nobody sees: a pixel or two at the sizes that are made.
const CLOSE: f64 = 0.005;

/// The size at which a video of size `made` has the shape of the picture `given` that it begins with.
///
/// The model makes a few trained sizes, to which pictures are squeezed as in the official pipeline.
/// The result is stretched back in one direction: nothing that was made is lost.
pub fn stretched_back(made: VideoSize, given: VideoSize) -> VideoSize {
    let stretch = ratio(given) / ratio(made);
    if (stretch - 1.0).abs() < CLOSE {
        return made;
    }
    match stretch > 1.0 {
        true => VideoSize::new(even(made.width as f64 * stretch), made.height),
        false => VideoSize::new(made.width, even(made.height as f64 / stretch)),
    }
}

/// Refuses pictures of a shape that the model was not made for.
pub fn check_shape(what: &'static str, given: VideoSize) -> Result<(), VideoError> {
    let ratio = ratio(given);
    if (1.0 / MOST..=MOST).contains(&ratio) {
        return Ok(());
    }
    Err(VideoError::Invalid {
        what,
        reason: format!(
            "{given} is longer than {MOST} to 1; crop it, or give a --size, for which it is cropped"
        ),
    })
}

/// The middle of the frames in the shape of `size`.
pub fn cropped_for(size: VideoSize, frames: PixelFrames) -> PixelFrames {
    let VideoSize { width, height } = frames.size();
    let stretch = ratio(frames.size()) / ratio(size);
    let part = |side: usize, share: f64| ((side as f64 * share).round() as usize).clamp(1, side);
    if size.width == 0 || size.height == 0 || (stretch - 1.0).abs() < CLOSE {
        return frames;
    }
    match stretch > 1.0 {
        true => frames.middle(VideoSize::new(part(width, 1.0 / stretch), height)),
        false => frames.middle(VideoSize::new(width, part(height, stretch))),
    }
}

fn ratio(size: VideoSize) -> f64 {
    size.width as f64 / size.height as f64
}

/// The nearest even number: H.264 has no other sides.
fn even(side: f64) -> usize {
    2 * (side / 2.0).round() as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn size(width: usize, height: usize) -> VideoSize {
        VideoSize::new(width, height)
    }

    #[test]
    fn results_have_the_shape_of_what_was_given() {
        for (made, given, expected) in [
            (size(832, 480), size(1920, 1080), size(854, 480)),
            (size(832, 480), size(832, 480), size(832, 480)),
            (size(480, 832), size(1080, 1920), size(480, 854)),
            (size(1216, 320), size(4000, 1000), size(1280, 320)),
            (size(64, 64), size(256, 64), size(256, 64)),
            (size(64, 64), size(30, 90), size(64, 192)),
            (size(640, 640), size(1000, 999), size(640, 640)),
        ] {
            assert_eq!(stretched_back(made, given), expected, "{made} {given}");
        }
        assert!(check_shape("image", size(8, 1)).is_ok());
        let error = check_shape("image", size(4000, 16)).unwrap_err();
        assert!(error.to_string().contains("4000x16"), "{error}");
    }

    #[test]
    fn the_middle_is_kept() {
        // Columns of 0, 10, …, 70.
        let row = (0..8u8).flat_map(|x| [10 * x; 3]);
        let frames = PixelFrames::from_bytes(row.clone().chain(row).collect(), size(8, 2)).unwrap();
        let middle = cropped_for(size(64, 64), frames.clone());
        assert_eq!(middle.size(), size(2, 2));
        assert_eq!(middle.as_bytes()[..6], [30, 30, 30, 40, 40, 40]);
        assert_eq!(cropped_for(size(64, 16), frames.clone()), frames);
    }
}
