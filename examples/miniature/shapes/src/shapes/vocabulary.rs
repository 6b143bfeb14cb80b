//! The words: shapes, colours, sizes, motions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Red, green and blue, 0 to 255.
pub type Rgb = [u8; 3];

/// Distance in RGB from which an object is told from its background without effort.
const CONTRAST: f64 = 120.0;

/// A vocabulary: variants with the word of each, a list of all, and `Display`.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word for it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

words!(
    /// What an object looks like.
    Shape {
        /// A disc.
        Circle = "circle",
        /// A square.
        Square = "square",
        /// An equilateral triangle.
        Triangle = "triangle",
        /// A star of five points.
        Star = "star",
        /// A disc with a hole.
        Ring = "ring",
        /// A heart: the new concept, which the usual data set does not have.
        Heart = "heart",
    }
);

words!(
    /// The colour of an object.
    Colour {
        /// Red.
        Red = "red",
        /// Green.
        Green = "green",
        /// Blue.
        Blue = "blue",
        /// Yellow.
        Yellow = "yellow",
        /// Purple.
        Purple = "purple",
        /// Orange.
        Orange = "orange",
        /// Cyan.
        Cyan = "cyan",
        /// White.
        White = "white",
    }
);

words!(
    /// The colour behind the objects.
    Background {
        /// Black.
        Black = "black",
        /// Grey.
        Grey = "grey",
        /// Brown.
        Brown = "brown",
        /// Dark blue.
        Navy = "navy",
        /// Dark cyan.
        Teal = "teal",
        /// Dark purple.
        Plum = "plum",
    }
);

words!(
    /// How large an object is when the clip begins.
    Size {
        /// About a third of the frame across.
        Small = "small",
        /// Three eighths of the frame across.
        Medium = "medium",
        /// Almost half of the frame across.
        Large = "large",
    }
);

words!(
    /// What an object does.
    Motion {
        /// Steadily to the left.
        Left = "left",
        /// Steadily to the right.
        Right = "right",
        /// Steadily up.
        Up = "up",
        /// Steadily down.
        Down = "down",
        /// Diagonally up and to the left.
        UpLeft = "up-left",
        /// Diagonally up and to the right.
        UpRight = "up-right",
        /// Diagonally down and to the left.
        DownLeft = "down-left",
        /// Diagonally down and to the right.
        DownRight = "down-right",
        /// Becomes larger where it is.
        Growing = "growing",
        /// Becomes smaller where it is.
        Shrinking = "shrinking",
        /// Jumps up and falls down again and again, as a ball does.
        Bouncing = "bouncing",
        /// Turns clockwise where it is.
        Rotating = "rotating",
    }
);

impl Shape {
    /// Those of the usual data set: all but [`Shape::Heart`].
    pub const USUAL: &[Self] = &[
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Ring,
    ];

    /// Whether one can see it rotate.
    pub fn shows_rotation(self) -> bool {
        !matches!(self, Self::Circle | Self::Ring)
    }
}

impl Colour {
    /// The colour as it is drawn.
    pub fn rgb(self) -> Rgb {
        match self {
            Self::Red => [230, 30, 30],
            Self::Green => [30, 200, 50],
            Self::Blue => [40, 70, 240],
            Self::Yellow => [250, 230, 30],
            Self::Purple => [165, 40, 220],
            Self::Orange => [255, 135, 0],
            Self::Cyan => [30, 220, 240],
            Self::White => [250, 250, 250],
        }
    }

    /// Whether it stands out against `background`.
    pub fn contrasts_with(self, background: Background) -> bool {
        distance(self.rgb(), background.rgb()) >= CONTRAST
    }
}

impl Background {
    /// The colour as it is drawn.
    pub fn rgb(self) -> Rgb {
        match self {
            Self::Black => [8, 8, 8],
            Self::Grey => [128, 128, 128],
            Self::Brown => [100, 60, 25],
            Self::Navy => [15, 20, 80],
            Self::Teal => [0, 105, 105],
            Self::Plum => [85, 20, 85],
        }
    }
}

impl Motion {
    /// Direction of a steady motion, in x (to the right) and y (down).
    pub fn direction(self) -> Option<[f64; 2]> {
        Some(match self {
            Self::Left => [-1.0, 0.0],
            Self::Right => [1.0, 0.0],
            Self::Up => [0.0, -1.0],
            Self::Down => [0.0, 1.0],
            Self::UpLeft => [-1.0, -1.0],
            Self::UpRight => [1.0, -1.0],
            Self::DownLeft => [-1.0, 1.0],
            Self::DownRight => [1.0, 1.0],
            Self::Growing | Self::Shrinking | Self::Bouncing | Self::Rotating => return None,
        })
    }
}

/// Euclidean distance in RGB.
fn distance(a: Rgb, b: Rgb) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| {
        let difference = f64::from(*a) - f64::from(b);
        difference * difference
    });
    squares.sum::<f64>().sqrt()
}
