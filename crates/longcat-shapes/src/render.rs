use crate::outline::Outline;
use crate::{Clip, Pose, Rgb, Scene};

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
    pub fn render(&self, raster: &Raster) -> Clip {
        let mut clip = Clip::filled(raster.side, raster.frames, self.background.rgb());
        for object in &self.objects {
            let outline = Outline::of(object.shape);
            let colour = object.colour.rgb();
            for (i, frame) in clip.frames_mut().enumerate() {
                draw(
                    frame,
                    raster.side,
                    &outline,
                    object.pose(raster.time(i)),
                    colour,
                );
            }
        }
        clip
    }
}

/// Draws one object into a frame `[side, side, 3]`.
fn draw(frame: &mut [u8], side: usize, outline: &Outline, pose: Pose, colour: Rgb) {
    let radius = pose.radius * side as f64;
    let centre = pose.centre.map(|c| c * side as f64);
    let reach = radius * outline.reach() + 1.0;
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
