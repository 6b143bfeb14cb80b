//! Endless samples by seed and index.

use serde::{Deserialize, Serialize};

use crate::shapes::draw;
use crate::shapes::random::{Random, mix};
use crate::{Colour, Expected, Motion, Raster, RenderedClip, Scene, Shape, caption};

/// Of this many combinations of shape, colour and motion, one is held out.
const HELD_OUT_OF: u64 = 10;

/// Which combinations of shape, colour and motion are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// What a model is trained on: about nine in ten combinations.
    Train,
    /// The other combinations, for tests alone.
    HeldOut,
}

/// What scenes are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetOptions {
    /// Shapes that occur; at least one.
    pub shapes: Vec<Shape>,
    /// Share of scenes with two objects.
    pub two_objects: f64,
    /// Seconds for which everything stays in sight. Steady motions, growing and shrinking are
    /// slower in longer clips; bouncing and rotating are not.
    pub seconds: f64,
}

impl Default for DatasetOptions {
    /// All shapes but the heart, a quarter of the scenes with two objects, clips of
    /// [`Raster::default`].
    fn default() -> Self {
        Self {
            shapes: Shape::USUAL.to_vec(),
            two_objects: 0.25,
            seconds: Raster::default().seconds(),
        }
    }
}

/// A scene in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What moves where.
    pub scene: Scene,
    /// The scene in words, not all of it.
    pub caption: String,
    /// What a clip has to show to agree with the caption.
    pub expected: Expected,
}

impl Sample {
    pub(crate) fn new(scene: Scene, wording: u64) -> Self {
        let (caption, expected) = caption(&scene, wording);
        Self {
            scene,
            caption,
            expected,
        }
    }

    /// The frames, `[F, H, W, 3]`.
    pub fn render(&self, raster: &Raster) -> RenderedClip {
        self.scene.render(raster)
    }
}

/// An endless set of captioned scenes. A sample is a function of seed, split, options and index.
#[derive(Debug, Clone, PartialEq)]
pub struct ShapesDataset {
    seed: u64,
    split: Split,
    options: DatasetOptions,
}

impl ShapesDataset {
    /// The set of a seed.
    pub fn new(seed: u64, split: Split, options: DatasetOptions) -> Self {
        Self {
            seed,
            split,
            options,
        }
    }

    /// The sample of an index.
    ///
    /// # Panics
    /// If the options name no shape.
    pub fn get(&self, index: u64) -> Sample {
        let mut random = Random::new(self.seed, index);
        let scene = draw::scene(&mut random, self.split, &self.options);
        Sample::new(scene, mix(self.seed ^ mix(index)))
    }

    /// The samples from index 0 on, without end.
    pub fn iter(&self) -> impl Iterator<Item = Sample> {
        (0..).map(|index| self.get(index))
    }
}

/// Whether [`Split::Train`] never has an object of this shape, colour and motion.
///
/// A sum rather than a hash: with factors prime to ten, no two held-out combinations share two of
/// the words (motions ten apart excepted), so that every pair of words is trained.
pub fn is_held_out(shape: Shape, colour: Colour, motion: Motion) -> bool {
    (shape as u64 + 3 * colour as u64 + 7 * motion as u64).is_multiple_of(HELD_OUT_OF)
}
