//! Fixed samples that generated videos are judged on.

use crate::shapes::draw::{self, Placing};
use crate::shapes::random::{Random, mix};
use crate::{Colour, Motion, Raster, Sample, Shape, Split, is_held_out};

/// How many prompts a model is judged on.
pub const JUDGED_PROMPTS: usize = 100;

/// Seed of the prompts. Changing it changes what all figures in the documentation mean.
const SEED: u64 = 0x6c6f_6e67_6361_7436;

/// `count` fixed prompts for one object each, with what a clip has to show. Motions take turns, so
/// do shapes and colours; combinations are those of `split`.
///
/// The scene of a sample is one that fits its caption; its first frame serves image-to-video.
/// [`Shape::USUAL`] gives the usual prompts, `&[Shape::Heart]` those of the new concept.
///
/// # Panics
/// If `shapes` is empty.
pub fn prompts(split: Split, shapes: &[Shape], count: usize) -> Vec<Sample> {
    (0..count)
        .map(|i| {
            let mut random = Random::new(SEED, i as u64);
            let triple = combination(&mut random, split, shapes, i);
            let placing = Placing {
                seconds: Raster::default().seconds(),
                shared: false,
            };
            let objects = vec![draw::object(&mut random, triple, placing)];
            let scene = draw::before_background(&mut random, objects);
            Sample::new(scene, mix(SEED ^ mix(i as u64)))
        })
        .collect()
}

/// The motion of turn `turn`, with the first shape and colour from that turn on that go with it.
/// A motion that nothing goes with (the held-out ones are few) gives its turn to the next.
fn combination(random: &mut Random, split: Split, shapes: &[Shape], turn: usize) -> draw::Triple {
    for skip in 0..Motion::ALL.len() {
        let motion = Motion::ALL[(turn + skip) % Motion::ALL.len()];
        let mut fitting = Vec::new();
        for &shape in shapes {
            for &colour in Colour::ALL {
                let visible = motion != Motion::Rotating || shape.shows_rotation();
                if visible && is_held_out(shape, colour, motion) == (split == Split::HeldOut) {
                    fitting.push((shape, colour, motion));
                }
            }
        }
        // The turn's own shape first, as far as the split has it.
        let own = shapes[turn % shapes.len()];
        let of_own: Vec<_> = fitting.iter().copied().filter(|t| t.0 == own).collect();
        if !of_own.is_empty() {
            return random.pick(&of_own);
        }
        if !fitting.is_empty() {
            return random.pick(&fitting);
        }
    }
    unreachable!("about one in ten combinations is held out, and shapes is not empty")
}
