//! A scene in one of many wordings.

use crate::shapes::random::Random;
use crate::{Expected, ExpectedObject, Motion, Object, Scene, Size};

/// Puts a scene into words; `seed` picks the wording. Colour, shape and motion of every object are
/// always said, sizes and background only in some wordings. Comes with what was said.
pub fn caption(scene: &Scene, seed: u64) -> (String, Expected) {
    let mut random = Random::new(seed, 0);
    // Two objects are told of in the same voice.
    let progressive = random.chance(0.4);
    let clauses: Vec<String> = scene
        .objects
        .iter()
        .map(|object| {
            let phrase = noun_phrase(object, &mut random);
            let verb = random.pick(verbs(object.motion, progressive));
            format!("{phrase} {verb}")
        })
        .collect();
    let action = clauses.join(random.pick(&[" and ", " while "]));
    let background = scene.background;
    let with_background = random.chance(0.75);
    let mut text = match (with_background, random.pick(&[0, 0, 1, 2, 3])) {
        (false, _) => action,
        (true, 0) => format!("{action} on a {background} background"),
        (true, 1) => format!("on a {background} background, {action}"),
        (true, 2) => format!("{action} in front of a {background} background"),
        (true, _) => format!("{action}, the background is {background}"),
    };
    if random.chance(0.3) {
        text = sentence(&text);
    }
    let objects = scene.objects.iter().map(|o| ExpectedObject {
        shape: o.shape,
        colour: o.colour,
        motion: o.motion,
    });
    let expected = Expected {
        background: with_background.then_some(background),
        objects: objects.collect(),
    };
    (text, expected)
}

/// With a capital and a full stop.
fn sentence(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    format!("{}{rest}.", first.to_uppercase())
}

fn noun_phrase(object: &Object, random: &mut Random) -> String {
    let size = match object.size {
        Size::Small => random.pick(&["small ", "small ", "little "]),
        Size::Medium => "medium ",
        Size::Large => random.pick(&["large ", "large ", "big "]),
    };
    let size = if random.chance(0.5) { size } else { "" };
    let words = format!("{size}{} {}", object.colour, object.shape);
    let article = match words.starts_with(['a', 'e', 'i', 'o', 'u']) {
        true => "an",
        false => "a",
    };
    format!("{article} {words}")
}

/// Ways to say what an object does.
fn verbs(motion: Motion, progressive: bool) -> &'static [&'static str] {
    match (motion, progressive) {
        (Motion::Left, false) => &["moves left", "moves to the left"],
        (Motion::Left, true) => &["is moving left", "is moving to the left"],
        (Motion::Right, false) => &["moves right", "moves to the right"],
        (Motion::Right, true) => &["is moving right", "is moving to the right"],
        (Motion::Up, false) => &["moves up", "moves upward"],
        (Motion::Up, true) => &["is moving up", "is moving upward"],
        (Motion::Down, false) => &["moves down", "moves downward"],
        (Motion::Down, true) => &["is moving down", "is moving downward"],
        (Motion::UpLeft, false) => &["moves up and to the left", "moves diagonally up and left"],
        (Motion::UpLeft, true) => &[
            "is moving up and to the left",
            "is moving diagonally up and left",
        ],
        (Motion::UpRight, false) => &["moves up and to the right", "moves diagonally up and right"],
        (Motion::UpRight, true) => &[
            "is moving up and to the right",
            "is moving diagonally up and right",
        ],
        (Motion::DownLeft, false) => &[
            "moves down and to the left",
            "moves diagonally down and left",
        ],
        (Motion::DownLeft, true) => &[
            "is moving down and to the left",
            "is moving diagonally down and left",
        ],
        (Motion::DownRight, false) => &[
            "moves down and to the right",
            "moves diagonally down and right",
        ],
        (Motion::DownRight, true) => &[
            "is moving down and to the right",
            "is moving diagonally down and right",
        ],
        (Motion::Growing, false) => &["grows", "grows larger"],
        (Motion::Growing, true) => &["is growing", "is growing larger"],
        (Motion::Shrinking, false) => &["shrinks", "grows smaller"],
        (Motion::Shrinking, true) => &["is shrinking", "is getting smaller"],
        (Motion::Bouncing, false) => &["bounces", "bounces up and down"],
        (Motion::Bouncing, true) => &["is bouncing", "is bouncing up and down"],
        (Motion::Rotating, false) => &["rotates", "spins"],
        (Motion::Rotating, true) => &["is rotating", "is spinning"],
    }
}
