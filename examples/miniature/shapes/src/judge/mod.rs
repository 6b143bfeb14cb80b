//! What a clip shows, by plain image analysis.
//!
//! Colours are told first, then each colour's object is cut out of every frame, and its outline and
//! track give shape and motion.

mod colours;
mod motion;
mod object;
mod profile;
mod shape;
mod verdict;

pub use verdict::{Agreement, Expected, ExpectedObject, ObjectVerdict, Verdict};

use crate::RenderedClip;

/// Tells what a clip of objects before a plain background shows.
pub fn judge(clip: &RenderedClip) -> Verdict {
    let ground = colours::ground(clip);
    let mut objects: Vec<ObjectVerdict> = Vec::new();
    let mut count = 0;
    let inks = colours::inks(clip, &ground);
    for (index, ink) in inks.iter().enumerate() {
        let seen = object::follow(clip, &ground, &inks, index);
        let parts = object::usual_parts(&seen);
        if parts == 0 {
            continue;
        }
        count += parts;
        objects.push(ObjectVerdict {
            colour: ink.colour,
            shape: shape::shape(&seen),
            motion: motion::motion(&seen, clip),
            track: seen.iter().map(|s| s.as_ref().map(|s| s.centre)).collect(),
        });
    }
    Verdict {
        background: ground.name(),
        count,
        objects,
    }
}
