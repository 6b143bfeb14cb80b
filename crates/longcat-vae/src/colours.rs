//! Latents as colours, without decoding them.

use serde::{Deserialize, Serialize};

/// A linear map from the normalised latents of a VAE to colours: one pixel for each position of a latent
/// frame, in no time. Enough to see what a video is coming to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatentColours {
    /// For each channel of the latents its part in red, green and blue, which are from -1 to 1.
    pub factors: Vec<[f32; 3]>,
    /// The colour of latents that are all 0.
    pub bias: [f32; 3],
}

/// Source: `latent_rgb_factors` of `Wan21` in `comfy/latent_formats.py` of ComfyUI, where they make previews
/// of the same latents.
const RELEASED_FACTORS: [[f32; 3]; 16] = [
    [-0.1299, -0.1692, 0.2932],
    [0.0671, 0.0406, 0.0442],
    [0.3568, 0.2548, 0.1747],
    [0.0372, 0.2344, 0.1420],
    [0.0313, 0.0189, -0.0328],
    [0.0296, -0.0956, -0.0665],
    [-0.3477, -0.4059, -0.2925],
    [0.0166, 0.1902, 0.1975],
    [-0.0412, 0.0267, -0.1364],
    [-0.1293, 0.0740, 0.1636],
    [0.0680, 0.3019, 0.1128],
    [0.0032, 0.0581, 0.0639],
    [-0.1251, 0.0927, 0.1699],
    [0.0060, -0.0633, 0.0005],
    [0.3477, 0.2275, 0.2950],
    [0.1984, 0.0913, 0.1861],
];
/// Source: `latent_rgb_factors_bias`, there.
const RELEASED_BIAS: [f32; 3] = [-0.1835, -0.0868, -0.3360];

impl LatentColours {
    /// Those of the released Wan 2.1 VAE.
    pub fn released() -> Self {
        Self {
            factors: RELEASED_FACTORS.to_vec(),
            bias: RELEASED_BIAS,
        }
    }

    /// The colours of normalised latents `[C, N]`, whatever `N` is made of: `N` times red, green and blue in
    /// [-1, 1], not clamped.
    ///
    /// # Panics
    /// If `latents` has not the channels of the map.
    pub fn of(&self, latents: &[f32]) -> Vec<[f32; 3]> {
        let channels = self.factors.len();
        assert!(
            latents.len().is_multiple_of(channels),
            "{} latents of {channels} channels",
            latents.len()
        );
        let positions = latents.len() / channels;
        let mut colours = vec![self.bias; positions];
        for (channel, factors) in self.factors.iter().enumerate() {
            let plane = &latents[channel * positions..][..positions];
            for (colour, value) in colours.iter_mut().zip(plane) {
                for (part, factor) in colour.iter_mut().zip(factors) {
                    *part += factor * value;
                }
            }
        }
        colours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_add_up_at_each_position() {
        let colours = LatentColours {
            factors: vec![[1.0, 0.0, 0.5], [0.0, -1.0, 0.5]],
            bias: [0.0, 0.25, -0.5],
        };
        // Two channels of three positions.
        let latents = [0.0, 1.0, 0.5, 0.0, 0.5, -1.0];
        assert_eq!(
            colours.of(&latents),
            [[0.0, 0.25, -0.5], [1.0, -0.25, 0.25], [0.5, 1.25, -0.75]]
        );
    }
}
