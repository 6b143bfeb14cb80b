//! Frames of a scene.

use crate::shapes::outline::Outline;
use crate::shapes::random::Random;
use crate::{Pose, RenderedClip, Rgb, Scene};

/// The grid in space and time that a scene is drawn on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Raster {
    /// Pixels per row, and rows.
    pub side: usize,
    /// Frames.
    pub frames: usize,
    /// Frames per second.
    pub fps: f64,
}

impl Default for Raster {
    /// 64 × 64 pixels, 17 frames at 15 per second.
    fn default() -> Self {
        Self {
            side: 64,
            frames: 17,
            fps: 15.0,
        }
    }
}

impl Raster {
    /// Seconds between the first frame and the last one.
    pub fn seconds(&self) -> f64 {
        self.frames.saturating_sub(1) as f64 / self.fps
    }

    /// The grid of a refined clip: twice the pixels on each side, and twice the frames between the
    /// same first and last moment, as the refine pipeline spaces them. (For exactly twice the
    /// frame rate, double `fps` and set `frames` to `2 * frames - 1`.)
    pub fn refined(&self) -> Self {
        let intervals = |frames: usize| frames.saturating_sub(1).max(1) as f64;
        Self {
            side: 2 * self.side,
            frames: 2 * self.frames,
            fps: self.fps * intervals(2 * self.frames) / intervals(self.frames),
        }
    }

    /// The moment of a frame, in seconds.
    pub fn time(&self, frame: usize) -> f64 {
        frame as f64 / self.fps
    }
}

impl Scene {
    /// Draws the scene with anti-aliased edges.
    pub fn render(&self, raster: &Raster) -> RenderedClip {
        self.draw(raster, 0, |_| Dent::default())
    }

    /// As [`Self::render`], but in the first `frames` frames every outline is bent out of shape, by up
    /// to a quarter of its radius: what a model makes of its mistakes can be trained with such
    /// clips. A function of `seed`.
    pub fn render_dented(&self, raster: &Raster, frames: usize, seed: u64) -> RenderedClip {
        self.draw(raster, frames, |object| Dent::random(seed, object))
    }

    fn draw(&self, raster: &Raster, dented: usize, dent: impl Fn(u64) -> Dent) -> RenderedClip {
        let mut clip = RenderedClip::filled(raster.side, raster.frames, self.background.rgb());
        for (number, object) in self.objects.iter().enumerate() {
            let outline = Outline::of(object.shape);
            let colour = object.colour.rgb();
            let dent = dent(number as u64);
            for (i, frame) in clip.frames_mut().enumerate() {
                let dent = Some(&dent).filter(|_| i < dented);
                let pose = object.pose(raster.time(i));
                draw(frame, raster.side, (&outline, dent), pose, colour);
            }
        }
        clip
    }
}

/// Shares of its radius by which an outline is bent at most.
const BENT: f64 = 0.25;

/// Waves around an outline.
#[derive(Debug, Clone, Copy, Default)]
struct Dent {
    /// Cosine and sine part of waves with one turn, two turns, ...
    waves: [[f64; 2]; 6],
}

impl Dent {
    fn random(seed: u64, object: u64) -> Self {
        let mut random = Random::new(seed, object);
        let deepest = random.between(0.0, 0.15);
        let mut waves = [[0.0; 2]; 6];
        for part in waves.as_flattened_mut() {
            *part = random.between(-deepest, deepest);
        }
        Self { waves }
    }

    /// How many times farther from the middle the outline is in the direction of a point.
    fn stretch(&self, [x, y]: [f64; 2]) -> f64 {
        let angle = y.atan2(x);
        let waves = (1..).zip(&self.waves).map(|(turns, [cosine, sine])| {
            let (sin, cos) = (turns as f64 * angle).sin_cos();
            cosine * cos + sine * sin
        });
        1.0 + waves.sum::<f64>().clamp(-BENT, BENT)
    }
}

/// Draws one object into a frame `[side, side, 3]`.
fn draw(
    frame: &mut [u8],
    side: usize,
    (outline, dent): (&Outline, Option<&Dent>),
    pose: Pose,
    colour: Rgb,
) {
    let radius = pose.radius * side as f64;
    let centre = pose.centre.map(|c| c * side as f64);
    let bulge = dent.map_or(1.0, |_| 1.0 + BENT);
    let reach = radius * outline.reach() * bulge + 1.0;
    let range = |c: f64| {
        let end = |edge: f64| edge.clamp(0.0, side as f64) as usize;
        end((c - reach).floor())..end((c + reach).ceil())
    };
    let (sin, cos) = pose.angle.sin_cos();
    for row in range(centre[1]) {
        for column in range(centre[0]) {
            let x = (column as f64 + 0.5 - centre[0]) / radius;
            let y = (row as f64 + 0.5 - centre[1]) / radius;
            let turned = [x * cos + y * sin, y * cos - x * sin];
            let stretch = dent.map_or(1.0, |dent| dent.stretch(turned));
            let turned = turned.map(|place| place / stretch);
            // The share of the pixel that a straight edge at this distance leaves covered.
            let cover = (0.5 - outline.distance(turned) * radius).clamp(0.0, 1.0);
            if cover > 0.0 {
                let pixel = 3 * (row * side + column);
                for (value, ink) in frame[pixel..pixel + 3].iter_mut().zip(colour) {
                    let mixed = f64::from(*value) * (1.0 - cover) + f64::from(ink) * cover;
                    *value = mixed.round() as u8;
                }
            }
        }
    }
}
