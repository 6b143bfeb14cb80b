//! Videos that are read and written again and again.

use super::*;

/// Smooth blobs of colour that move, 96x64 at 15 frames per second.
pub(crate) fn blobs(frames: u32) -> VideoFrames {
    let blobs = |t: f64| {
        [
            (30.0 + t, 30.0, [220.0, 60.0, 50.0]),
            (66.0 - t, 36.0, [40.0, 90.0, 230.0]),
            (48.0, 14.0 + t / 2.0, [60.0, 220.0, 80.0]),
        ]
    };
    let mut data = Vec::new();
    for t in 0..frames {
        for y in 0..64 {
            for x in 0..96 {
                let mut pixel = [120.0f64; 3];
                for (cx, cy, colour) in blobs(f64::from(t)) {
                    let square = (f64::from(x) - cx).powi(2) + (f64::from(y) - cy).powi(2);
                    let share = (-square / 98.0).exp();
                    for (value, colour) in pixel.iter_mut().zip(colour) {
                        *value += share * (colour - *value);
                    }
                }
                data.extend(pixel.map(|value| value.round() as u8));
            }
        }
    }
    VideoFrames::new(VideoSize::new(96, 64), 15.0, data).unwrap()
}

/// A clip of the size and rate of [`blobs`] from the colour `[r, g, b]` at `[x, y, t]`, cut to 0..255.
fn painted(frames: u32, colour: impl Fn([f64; 3]) -> [f64; 3]) -> VideoFrames {
    let mut data = Vec::new();
    for t in 0..frames {
        for y in 0..64 {
            for x in 0..96 {
                let colour = colour([x, y, t].map(f64::from));
                data.extend(colour.map(|value| value.round() as u8));
            }
        }
    }
    VideoFrames::new(VideoSize::new(96, 64), 15.0, data).unwrap()
}

/// A number from -1 to 1 for each place of a grid.
fn noise(x: i64, y: i64, channel: i64) -> f64 {
    let mut bits = (x as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (y as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ (channel as u64).wrapping_mul(0x1656_67b1_9e37_79f9);
    // SplitMix64.
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ bits >> 31) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// Clouds of all sizes from `coarse` pixels down to one, from -2 to 2.
fn clouds(x: f64, y: f64, coarse: f64, channel: i64) -> f64 {
    let (mut sum, mut size) = (0.0, coarse);
    while size >= 1.0 {
        let (u, v) = (x / size, y / size);
        let (fu, fv) = (u - u.floor(), v - v.floor());
        let at = |i, j| noise(u.floor() as i64 + i, v.floor() as i64 + j, channel);
        let above = at(0, 0) + fu * (at(1, 0) - at(0, 0));
        let below = at(0, 1) + fu * (at(1, 1) - at(0, 1));
        sum += size / coarse * (above + fv * (below - above));
        size /= 2.0;
    }
    sum
}

/// What an encoder finds easy and hard, and colours that lie on the border of what can be shown.
fn clips(frames: u32) -> [(&'static str, VideoFrames); 7] {
    let texture = |x, y| [0, 1, 2].map(|channel| 120.0 + 60.0 * clouds(x, y, 16.0, channel));
    const FULL: [[f64; 3]; 6] = [
        [255.0, 0.0, 0.0],
        [0.0, 255.0, 0.0],
        [255.0, 255.0, 0.0],
        [0.0, 0.0, 255.0],
        [255.0, 0.0, 255.0],
        [0.0, 255.0, 255.0],
    ];
    [
        ("blobs", blobs(frames)),
        ("disc", clip(96, 64, frames, 15.0)),
        (
            "texture",
            painted(frames, |[x, y, t]| texture(x + 1.3 * t, y + 0.6 * t)),
        ),
        (
            "grain",
            painted(frames, |[x, y, t]| {
                let moved = texture(x + 1.3 * t, y + 0.6 * t);
                let place = (x + 96.0 * y) as i64;
                [0, 1, 2].map(|c| moved[c] + 4.0 * noise(place, t as i64, c as i64))
            }),
        ),
        (
            "stripes",
            painted(frames, |[x, y, t]| {
                let wave = |scale: f64| 110.0 * ((x * scale + y * 0.4 + t) * 0.6).sin();
                [128.0 + wave(0.8), 128.0 + wave(1.1), 128.0 + wave(1.4)]
            }),
        ),
        (
            "full colours that run into one another",
            painted(frames, |[x, y, t]| {
                let place = (x + 0.5 * y + 2.0 * t) / 24.0;
                let (one, two) = (place as usize % 6, (place as usize + 1) % 6);
                let share = place - place.floor();
                [0, 1, 2].map(|c| FULL[one][c] + share * (FULL[two][c] - FULL[one][c]))
            }),
        ),
        (
            "full colours side by side",
            painted(frames, |[x, y, t]| {
                FULL[((x + y / 4.0 + 2.0 * t) / 16.0) as usize % 6]
            }),
        ),
    ]
}

/// Decibels after the first round, and how many of them nineteen more rounds lose.
fn rounds(video: &VideoFrames) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let round = |video: &VideoFrames| {
        read_video(&write(dir.path(), "round.mp4", video), &bundled()).unwrap()
    };
    let first = round(video);
    let last = (1..20).fold(first.clone(), |last, _| round(&last));
    let decibels = psnr(video, &first);
    (decibels, decibels - psnr(video, &last))
}

#[test]
fn twenty_rounds_of_writing_and_reading_lose_little_more_than_the_first() {
    for (name, video) in clips(9) {
        let (first, lost) = rounds(&video);
        println!("{name}: {first:.2} dB, after twenty rounds {lost:.2} dB less");
        // Colour that blurs a little would lose 15 dB.
        assert!(lost < 1.0, "{name}: {first} dB, {lost} less at the end");
    }
}
