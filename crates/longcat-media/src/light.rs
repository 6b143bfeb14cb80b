//! High dynamic range and wide gamuts, shown on an ordinary screen.
//!
//! Signals become light as the standards say (ITU-R BT.2100, ST 2084), light becomes that of the
//! primaries of BT.709, and what is brighter than diffuse white, 203 cd/m² by ITU-R BT.2408, is
//! compressed so that the brightest still differ. The screen has the curve of ITU-R BT.1886.

use crate::colour::{Primaries, Transfer};

/// Diffuse white of high dynamic range in cd/m².
const WHITE: f32 = 203.0;
/// The brightest that is told apart, in cd/m².
const PEAK: f32 = 1000.0;
/// Share of white from which light is compressed.
const KNEE: f32 = 0.75;
/// Exponent of a screen.
const GAMMA: f32 = 2.4;

/// Turns a signal of another range or gamut into that of an ordinary screen.
pub(crate) struct Light {
    pub(crate) transfer: Transfer,
    pub(crate) primaries: Primaries,
}

impl Light {
    /// What a screen is sent for a signal `[r, g, b]` in 0 to 1.
    pub(crate) fn shown(&self, signal: [f32; 3]) -> [f32; 3] {
        let light = match self.transfer {
            Transfer::Sdr => signal.map(|c| c.max(0.0).powf(GAMMA)),
            Transfer::Pq => signal.map(|c| pq(c) / WHITE),
            Transfer::Hlg => hlg(signal).map(|c| c / WHITE),
        };
        let mut light = to_bt709(self.primaries, light);
        if self.transfer != Transfer::Sdr {
            // By the brightest of the three, so that hues stay.
            let brightest = light[0].max(light[1]).max(light[2]);
            if brightest > KNEE {
                let scale = compressed(brightest) / brightest;
                light = light.map(|c| c * scale);
            }
        }
        light.map(|c| c.max(0.0).powf(1.0 / GAMMA))
    }
}

/// From the knee to the peak, a curve that begins with slope 1 and ends at white.
fn compressed(light: f32) -> f32 {
    let room = 1.0 - KNEE;
    let above = (light - KNEE) / room;
    let most = (PEAK / WHITE - KNEE) / room;
    KNEE + room * (above * (1.0 + above / (most * most)) / (1.0 + above)).min(1.0)
}

/// Light of a signal of ST 2084 in cd/m².
fn pq(signal: f32) -> f32 {
    const M1: f32 = 1305.0 / 8192.0;
    const M2: f32 = 2523.0 / 32.0;
    const C1: f32 = 107.0 / 128.0;
    const C2: f32 = 2413.0 / 128.0;
    const C3: f32 = 2392.0 / 128.0;
    let root = signal.clamp(0.0, 1.0).powf(1.0 / M2);
    10000.0 * ((root - C1).max(0.0) / (C2 - C3 * root)).powf(1.0 / M1)
}

/// Light of a signal of hybrid log-gamma on a screen of 1000 cd/m².
fn hlg(signal: [f32; 3]) -> [f32; 3] {
    const A: f32 = 0.178_832_77;
    const B: f32 = 1.0 - 4.0 * A;
    const C: f32 = 0.559_910_7;
    signal.map(|c| {
        let c = c.max(0.0);
        let scene = if c <= 0.5 {
            c * c / 3.0
        } else {
            (((c - C) / A).exp() + B) / 12.0
        };
        // The curve from scene to screen, for each primary by itself as zscale (of ffmpeg) has it.
        PEAK * scene.powf(1.2)
    })
}

/// Light of other primaries as light of those of BT.709, all with white D65.
fn to_bt709(primaries: Primaries, [r, g, b]: [f32; 3]) -> [f32; 3] {
    let rows = match primaries {
        Primaries::Bt709 => return [r, g, b],
        // ITU-R BT.2087, and the same computation for P3.
        Primaries::Bt2020 => [
            [1.6605, -0.5876, -0.0728],
            [-0.1246, 1.1329, -0.0083],
            [-0.0182, -0.1006, 1.1187],
        ],
        Primaries::P3 => [
            [1.2249, -0.2247, 0.0],
            [-0.0421, 1.0421, 0.0],
            [-0.0196, -0.0786, 1.0979],
        ],
    };
    rows.map(|row: [f32; 3]| row[0] * r + row[1] * g + row[2] * b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_of_every_range_is_the_same_light() {
        // BT.2408, table 1: diffuse white is 58 % of PQ and 75 % of HLG.
        assert!((pq(0.58) - 203.0).abs() < 3.0, "{}", pq(0.58));
        assert!(
            (hlg([0.75; 3])[0] - 203.0).abs() < 3.0,
            "{:?}",
            hlg([0.75; 3])
        );
        assert!((pq(1.0) - 10000.0).abs() < 20.0);
        assert!((hlg([1.0; 3])[0] - 1000.0).abs() < 2.0);
    }

    #[test]
    fn dark_light_is_kept_and_bright_light_compressed() {
        let light = Light {
            transfer: Transfer::Pq,
            primaries: Primaries::Bt2020,
        };
        let grey = |signal: f32| light.shown([signal; 3]);
        // 100 cd/m², by closed form: (100 / 203)^(1 / 2.4).
        let [r, g, b] = grey(0.508_078);
        assert!((r - 0.744_5).abs() < 2e-3 && (r - g).abs() < 2e-3 && (g - b).abs() < 2e-3);
        let (white, peak) = (grey(0.580_7)[0], grey(0.751_8)[0]);
        assert!((0.93..0.96).contains(&white), "{white}");
        assert!((0.995..=1.0001).contains(&peak), "{peak}");
        assert!(grey(1.0)[0] <= 1.0001);
    }
}
