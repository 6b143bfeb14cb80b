//! Ways to spoil a clip as a VAE or a small model does.

use longcat_shapes::RenderedClip;

/// Applies `change` to every frame `[H, W, 3]`.
fn each_frame(clip: &RenderedClip, mut change: impl FnMut(&[u8]) -> Vec<u8>) -> RenderedClip {
    let data = clip.frames().flat_map(&mut change).collect();
    RenderedClip::new(clip.width(), clip.height(), data).expect("the size is the same")
}

/// Gaussian blur of `sigma` pixels, edges continued.
pub fn blurred(clip: &RenderedClip, sigma: f64) -> RenderedClip {
    let reach = (3.0 * sigma).ceil() as i64;
    let weights: Vec<(i64, f64)> = (-reach..=reach)
        .map(|i| (i, (-(i * i) as f64 / (2.0 * sigma * sigma)).exp()))
        .collect();
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let (width, height) = (clip.width() as i64, clip.height() as i64);
    let pass = |frame: &[u8], step: [i64; 2]| -> Vec<u8> {
        let value = |row: i64, column: i64, channel: i64| {
            let (row, column) = (row.clamp(0, height - 1), column.clamp(0, width - 1));
            f64::from(frame[((row * width + column) * 3 + channel) as usize])
        };
        let mut out = Vec::with_capacity(frame.len());
        for row in 0..height {
            for column in 0..width {
                for channel in 0..3 {
                    let taps = weights.iter().map(|(i, weight)| {
                        weight * value(row + i * step[0], column + i * step[1], channel)
                    });
                    let sum: f64 = taps.sum();
                    out.push((sum / total).round() as u8);
                }
            }
        }
        out
    };
    each_frame(clip, |frame| pass(&pass(frame, [0, 1]), [1, 0]))
}

/// Adds Gaussian noise with a deviation of `sigma` grey levels.
pub fn noisy(clip: &RenderedClip, sigma: f64, seed: u64) -> RenderedClip {
    let mut state = seed;
    let mut unit = move || {
        // Knuth's multiplier; the upper bits are random enough for noise.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    // The sum of twelve uniform values has variance 1.
    let mut normal = move || (0..12).map(|_| unit()).sum::<f64>() - 6.0;
    each_frame(clip, |frame| {
        let values = frame.iter().map(|v| f64::from(*v) + sigma * normal());
        values.map(|v| v.round().clamp(0.0, 255.0) as u8).collect()
    })
}

/// Halves the size by averaging and doubles it again by repeating pixels.
pub fn coarse(clip: &RenderedClip) -> RenderedClip {
    let width = clip.width();
    each_frame(clip, |frame| {
        let mut out = Vec::with_capacity(frame.len());
        for i in 0..frame.len() {
            let (row, column, channel) = ((i / 3 / width) & !1, (i / 3 % width) & !1, i % 3);
            let at = |r: usize, c: usize| {
                u16::from(frame[((row + r) * width + column + c) * 3 + channel])
            };
            out.push(((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4) as u8);
        }
        out
    })
}
