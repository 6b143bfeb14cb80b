//! What a video is coming to, as small pictures of its latents.

use longcat_vae::LatentColours;
use nalgebra::DMatrix;

use crate::{Latents, PixelFrames, VideoSize};

/// Keeps equations solvable where latents do not vary: far below what the variance of normalised latents,
/// about 1, adds for each position.
const RIDGE: f64 = 1e-6;

impl Latents {
    /// The first sample of the batch as small pictures, one for each latent frame and with a pixel for each of
    /// its positions. No network takes part in this.
    ///
    /// `None` where `colours` is for latents of other channels.
    pub fn preview(&self, colours: &LatentColours) -> Option<PixelFrames> {
        let [_, channels, frames, height, width] = self.dims();
        if channels != colours.factors.len() {
            return None;
        }
        let sample = &self.values()[..channels * frames * height * width];
        let bytes = colours.of(sample).into_iter().flatten().map(to_byte);
        PixelFrames::from_bytes(bytes.collect(), VideoSize::new(width, height)).ok()
    }
}

fn to_byte(value: f32) -> u8 {
    // A number that is not finite becomes 0 or 255.
    ((value * 0.5 + 0.5) * 255.0).round() as u8
}

/// Fits colours to normalised latents and the videos that a VAE decodes them to, by least squares. `None`
/// without latents, or where videos have not the frames and pixels of their latents.
pub fn fit_latent_colours(clips: &[(Latents, PixelFrames)]) -> Option<LatentColours> {
    let channels = clips.first()?.0.dims()[1];
    let mut squares = DMatrix::<f64>::identity(channels + 1, channels + 1) * RIDGE;
    let mut products = DMatrix::<f64>::zeros(channels + 1, 3);
    for (latents, video) in clips {
        let [_, here, frames, height, width] = latents.dims();
        if here != channels {
            return None;
        }
        let positions = frames * height * width;
        let colours = mean_colours(video, [frames, height, width])?;
        // A row for each channel, and one that is always 1.
        let mut rows: Vec<f64> = latents.values()[..channels * positions]
            .iter()
            .map(|v| f64::from(*v))
            .collect();
        rows.resize((channels + 1) * positions, 1.0);
        let rows = DMatrix::from_row_slice(channels + 1, positions, &rows);
        let colours = DMatrix::from_row_slice(positions, 3, &colours);
        squares += &rows * rows.transpose();
        products += rows * colours;
    }
    let solved = squares.cholesky()?.solve(&products);
    let row = |i: usize| [0, 1, 2].map(|part| solved[(i, part)] as f32);
    Some(LatentColours {
        factors: (0..channels).map(row).collect(),
        bias: row(channels),
    })
}

/// The mean colour, from -1 to 1, of the pixels that each position of latents `[T, H, W]` stands for: red,
/// green and blue of one after the other. The first latent frame is the first frame; each further one is a
/// group of frames.
pub fn mean_colours(video: &PixelFrames, [frames, height, width]: [usize; 3]) -> Option<Vec<f64>> {
    let size = video.size();
    if !size.width.is_multiple_of(width) || !size.height.is_multiple_of(height) {
        return None;
    }
    let per_group = match (frames.checked_sub(1)?, video.len() - 1) {
        (0, 0) => 1,
        (groups, further) if groups > 0 && further > 0 && further.is_multiple_of(groups) => {
            further / groups
        }
        _ => return None,
    };
    let (cell_width, cell_height) = (size.width / width, size.height / height);
    let mut sums = vec![0.0; 3 * frames * height * width];
    for (number, frame) in video.frames().enumerate() {
        let group = number.div_ceil(per_group);
        let pictures = if group == 0 { 1 } else { per_group };
        let share = 1.0 / (pictures * cell_width * cell_height) as f64;
        for (i, pixel) in frame.chunks_exact(3).enumerate() {
            let (x, y) = (i % size.width / cell_width, i / size.width / cell_height);
            let cell = 3 * ((group * height + y) * width + x);
            for (sum, value) in sums[cell..cell + 3].iter_mut().zip(pixel) {
                *sum += (f64::from(*value) / 127.5 - 1.0) * share;
            }
        }
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Latents of two channels, `[1, 2, 2, 1, 2]`: two frames of two positions.
    fn latents(values: [f32; 8]) -> Latents {
        Latents::new(values.to_vec(), [1, 2, 2, 1, 2])
    }

    fn colours() -> LatentColours {
        LatentColours {
            factors: vec![[0.5, -0.25, 0.0], [0.0, 0.25, 0.5]],
            bias: [0.0, 0.1, -0.2],
        }
    }

    #[test]
    fn a_preview_has_a_pixel_for_each_position_and_clamps() {
        let latents = latents([0.0, 1.0, -1.0, 9.0, 0.0, 1.0, 0.0, 9.0]);
        let preview = latents.preview(&colours()).unwrap();
        assert_eq!((preview.size(), preview.len()), (VideoSize::new(2, 1), 2));
        assert_eq!(
            preview.as_bytes(),
            [128, 140, 102, 191, 140, 166, 64, 172, 102, 255, 140, 255]
        );
        let other = LatentColours::released();
        assert_eq!(latents.preview(&other), None);
    }

    #[test]
    fn colours_that_made_a_video_are_found_again() {
        let clips: Vec<_> = (0..20)
            .map(|i| {
                let value = |k: usize| ((7 * i + 3 * k + i * k) % 11) as f32 / 11.0 - 0.5;
                let latents = latents(std::array::from_fn(value));
                let small = latents.preview(&colours()).unwrap();
                // One frame for the first latent frame, four for the second, of 2x2 pixels a position.
                let frames: Vec<&[u8]> = small.frames().collect();
                let bytes = [0, 1, 1, 1, 1].into_iter().flat_map(|frame| {
                    let pixels = frames[frame].chunks(3);
                    let row: Vec<u8> = pixels.flat_map(|pixel| [pixel, pixel].concat()).collect();
                    [row.clone(), row].concat()
                });
                let video = PixelFrames::from_bytes(bytes.collect(), VideoSize::new(4, 2));
                (latents, video.unwrap())
            })
            .collect();
        let found = fit_latent_colours(&clips).unwrap();
        let expected = colours();
        let pairs = found.factors.iter().zip(&expected.factors);
        for (a, b) in pairs.chain([(&found.bias, &expected.bias)]) {
            for (a, b) in a.iter().zip(b) {
                // Colours are rounded to 8 bits.
                assert!((a - b).abs() < 0.005, "{found:?}");
            }
        }
        let (latents, video) = clips[0].clone();
        let narrow = video.middle(VideoSize::new(3, 2));
        assert_eq!(fit_latent_colours(&[(latents, narrow)]), None);
        assert_eq!(fit_latent_colours(&[]), None);
    }
}
