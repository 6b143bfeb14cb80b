//! Drawing scenes at random: where things start, how fast they go, so that they stay in sight.

use crate::shapes::dataset::{DatasetOptions, Split, is_held_out};
use crate::shapes::random::Random;
use crate::{Background, Colour, Motion, Object, Scene, Shape, Size};

/// Shape, colour and motion of an object.
pub(crate) type Triple = (Shape, Colour, Motion);

/// Objects keep this far from the edges of the frame and from each other, in sides.
const MARGIN: f64 = 0.03;
/// Attempts to place two objects that do not meet, before one has to do.
const ATTEMPTS: usize = 2000;
/// Moments of a clip at which two objects are checked not to meet.
const MOMENTS: usize = 24;

/// How an object is placed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placing {
    /// Seconds for which it stays in sight.
    pub seconds: f64,
    /// Whether another object needs room too.
    pub shared: bool,
}

/// A scene of the split, with one object or two.
pub(crate) fn scene(random: &mut Random, split: Split, options: &DatasetOptions) -> Scene {
    let seconds = options.seconds;
    let drawn = |random: &mut Random, shared| {
        let triple = triple(random, split, &options.shapes);
        object(random, triple, Placing { seconds, shared })
    };
    if random.chance(options.two_objects) {
        for _ in 0..ATTEMPTS {
            let objects = vec![drawn(random, true), drawn(random, true)];
            if objects[0].colour != objects[1].colour && never_meet(&objects, seconds) {
                return before_background(random, objects);
            }
        }
    }
    let objects = vec![drawn(random, false)];
    before_background(random, objects)
}

fn triple(random: &mut Random, split: Split, shapes: &[Shape]) -> Triple {
    loop {
        let motion = random.pick(Motion::ALL);
        let shape = random.pick(shapes);
        let colour = random.pick(Colour::ALL);
        let visible = motion != Motion::Rotating || shape.shows_rotation();
        if visible && is_held_out(shape, colour, motion) == (split == Split::HeldOut) {
            return (shape, colour, motion);
        }
    }
}

/// An object that stays within the frame.
pub(crate) fn object(
    random: &mut Random,
    (shape, colour, motion): Triple,
    placing: Placing,
) -> Object {
    let seconds = placing.seconds.max(1.0 / 15.0);
    let size = random.pick(sizes(motion, placing.shared));
    let mut object = Object {
        shape,
        colour,
        size,
        motion,
        centre: [0.5; 2],
        radius: radius(size) * random.between(0.94, 1.06),
        rate: 0.0,
        height: 0.0,
        phase: 0.0,
    };
    let extent = object.reach() * object.radius + MARGIN;
    let room = 1.0 - 2.0 * extent;
    // Where the middle may be, as least and greatest x and y.
    let (mut least, mut greatest) = ([extent; 2], [1.0 - extent; 2]);
    match motion {
        Motion::Growing => {
            let most = (0.5 - MARGIN) / (object.reach() * object.radius);
            let factor = random.between(1.6, 2.1).min(most);
            object.rate = factor.ln() / seconds;
            let extent = object.reach() * object.radius * factor + MARGIN;
            (least, greatest) = ([extent; 2], [1.0 - extent; 2]);
        }
        Motion::Shrinking => object.rate = random.between(1.6f64.ln(), 2.0f64.ln()) / seconds,
        Motion::Rotating => object.rate = random.between(60.0, 90.0).to_radians(),
        Motion::Bouncing => {
            object.rate = random.between(0.9, 1.2);
            object.height = random.between(0.25, 0.42).min(room);
            object.phase = random.unit();
            least[1] += object.height;
        }
        steady => {
            let direction = steady.direction().unwrap_or_default();
            let diagonal = direction.iter().all(|d| *d != 0.0);
            let (low, high) = if diagonal { (0.3, 0.5) } else { (0.35, 0.6) };
            let travel = random.between(low, high).min(room);
            object.rate = travel / seconds;
            for axis in 0..2 {
                least[axis] += (-direction[axis]).max(0.0) * travel;
                greatest[axis] -= direction[axis].max(0.0) * travel;
            }
        }
    }
    for axis in 0..2 {
        object.centre[axis] = random.between(least[axis], greatest[axis]);
    }
    object
}

/// Sizes that leave room for what the object does.
fn sizes(motion: Motion, shared: bool) -> &'static [Size] {
    match (motion, shared) {
        (Motion::Growing, false) => &[Size::Small, Size::Medium],
        (Motion::Growing, true) => &[Size::Small],
        (Motion::Shrinking, false) => &[Size::Medium, Size::Large],
        (Motion::Shrinking, true) => &[Size::Medium],
        (_, false) => Size::ALL,
        (_, true) => &[Size::Small, Size::Medium],
    }
}

/// In sides.
fn radius(size: Size) -> f64 {
    match size {
        Size::Small => 0.15,
        Size::Medium => 0.185,
        Size::Large => 0.22,
    }
}

/// Adds a background that all objects stand out against.
pub(crate) fn before_background(random: &mut Random, objects: Vec<Object>) -> Scene {
    let fitting: Vec<Background> = Background::ALL
        .iter()
        .copied()
        .filter(|b| objects.iter().all(|o| o.colour.contrasts_with(*b)))
        .collect();
    Scene {
        background: random.pick(&fitting),
        objects,
    }
}

fn never_meet(objects: &[Object], seconds: f64) -> bool {
    (0..=MOMENTS).all(|i| {
        let time = seconds * i as f64 / MOMENTS as f64;
        let (a, b) = (objects[0].pose(time), objects[1].pose(time));
        let apart = (a.centre[0] - b.centre[0]).hypot(a.centre[1] - b.centre[1]);
        let reach = objects[0].reach() * a.radius + objects[1].reach() * b.radius;
        apart >= reach + MARGIN
    })
}
