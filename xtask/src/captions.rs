//! Captions of moving shapes, which the built-in tokenizer is made from.

const SHAPES: &[&str] = &["circle", "square", "triangle", "star", "ring"];
const COLOURS: &[&str] = &[
    "red", "green", "blue", "yellow", "purple", "orange", "cyan", "white",
];
const BACKGROUNDS: &[&str] = &["black", "grey", "brown", "navy", "teal", "pink"];
const MOTIONS: &[&str] = &[
    "moves left",
    "moves right",
    "moves up",
    "moves down",
    "moves diagonally",
    "grows",
    "shrinks",
    "bounces",
    "rotates",
];

/// Every shape, colour, background and motion in several wordings.
pub fn all() -> Vec<String> {
    let mut captions = Vec::new();
    for (i, shape) in SHAPES.iter().enumerate() {
        for (j, colour) in COLOURS.iter().enumerate() {
            for (k, motion) in MOTIONS.iter().enumerate() {
                let background = BACKGROUNDS[(i + j + k) % BACKGROUNDS.len()];
                captions.push(format!(
                    "a {colour} {shape} {motion} on a {background} background"
                ));
                captions.push(format!(
                    "On a {background} background, a small {colour} {shape} {motion}."
                ));
                captions.push(format!("The large {shape} is {colour} and {motion}."));
            }
        }
    }
    captions
}
