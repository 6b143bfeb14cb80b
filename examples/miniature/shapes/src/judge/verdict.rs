//! What a clip shows, and whether that is what was expected.

use serde::{Deserialize, Serialize};

use crate::{Background, Colour, Motion, Shape};

/// What a clip should show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The background, if it matters.
    pub background: Option<Background>,
    /// All objects.
    pub objects: Vec<ExpectedObject>,
}

/// What one object should be and do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedObject {
    /// Its shape.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// Its motion.
    pub motion: Motion,
}

/// What a clip shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The named background nearest to the one seen, if any is near.
    pub background: Option<Background>,
    /// How many objects are seen at a time; more than `objects` has if some are of one colour.
    pub count: usize,
    /// The objects, one per colour, that of most pixels first.
    pub objects: Vec<ObjectVerdict>,
}

/// What one object of a clip is and does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectVerdict {
    /// The named colour nearest to its own.
    pub colour: Colour,
    /// Its shape, if it is any of those known.
    pub shape: Option<Shape>,
    /// Its motion; `None` if it stands still or is seen too seldom.
    pub motion: Option<Motion>,
    /// Its middle in every frame, as x and y in pixels; `None` where it is not seen.
    pub track: Vec<Option<[f64; 2]>>,
}

/// Which attributes of a clip are as expected. Those of objects hold if they hold for all objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// The background, or none was asked for.
    pub background: bool,
    /// The number of objects.
    pub count: bool,
    /// Colours.
    pub colour: bool,
    /// Shapes.
    pub shape: bool,
    /// Motions.
    pub motion: bool,
}

impl Agreement {
    /// Whether the objects are as expected, whatever is behind and beside them.
    pub fn object(&self) -> bool {
        self.colour && self.shape && self.motion
    }

    /// Whether everything is as expected.
    pub fn all(&self) -> bool {
        self.object() && self.count && self.background
    }

    fn score(&self) -> usize {
        let attributes = [self.colour, self.shape, self.motion];
        attributes.iter().filter(|a| **a).count()
    }
}

impl Verdict {
    /// Compares what is seen with what was expected. Which object is which is decided in favour of
    /// the clip.
    pub fn agrees(&self, expected: &Expected) -> Agreement {
        let wanted = &expected.objects;
        let mut best = self.compare(expected, 0..wanted.len());
        if wanted.len() == 2 {
            let swapped = self.compare(expected, [1, 0].into_iter());
            if swapped.score() > best.score() {
                best = swapped;
            }
        }
        best
    }

    /// `order` says which object seen stands for each one expected.
    fn compare(&self, expected: &Expected, order: impl Iterator<Item = usize>) -> Agreement {
        let mut agreement = Agreement {
            background: expected
                .background
                .is_none_or(|b| Some(b) == self.background),
            count: self.count == expected.objects.len(),
            colour: true,
            shape: true,
            motion: true,
        };
        for (wanted, index) in expected.objects.iter().zip(order) {
            let seen = self.objects.get(index);
            agreement.colour &= seen.is_some_and(|o| o.colour == wanted.colour);
            agreement.shape &= seen.is_some_and(|o| o.shape == Some(wanted.shape));
            agreement.motion &= seen.is_some_and(|o| o.motion == Some(wanted.motion));
        }
        agreement
    }
}
