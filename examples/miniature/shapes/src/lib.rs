//! Captioned clips of moving shapes, and a judge that tells what a clip shows.
//!
//! A crate without Burn, optimised in full for tests, which look at thousands of clips. The data set teaches and
//! tests the miniature model:
//! - [`ShapesDataset`]: endless [`Sample`]s by seed and index, of one [`Split`];
//! - [`Scene`], [`Object`]: what moves where, as a function of time;
//! - [`Scene::render`]: the frames, at any [`Raster`];
//! - [`caption`]: a scene in one of many wordings;
//! - [`prompts`]: fixed samples that generated videos are judged on.
//!
//! The judge knows the names and colours of the data set and nothing of its renderer:
//! - [`judge`]: plain image analysis of any [`RenderedClip`], into a [`Verdict`];
//! - [`Verdict::agrees`]: the verdict beside what was [`Expected`];
//! - [`psnr`], [`seam_jump`]: how near two clips are, how smoothly one goes on.
//!
//! ```
//! use longcat_shapes::{ShapesDataset, DatasetOptions, Raster, Split, judge};
//!
//! let dataset = ShapesDataset::new(0, Split::Train, DatasetOptions::default());
//! for sample in dataset.iter().take(3) {
//!     let clip = sample.render(&Raster::default());
//!     let agreement = judge(&clip).agrees(&sample.expected);
//!     assert!(agreement.all(), "{}", sample.caption);
//! }
//! ```

mod judge;
mod shapes;

pub use judge::{Agreement, Expected, ExpectedObject, ObjectVerdict, Verdict, judge};
pub use shapes::{
    Background, Colour, DatasetOptions, JUDGED_PROMPTS, Motion, Object, Pose, Raster, RenderedClip,
    Rgb, Sample, Scene, Shape, ShapesDataset, ShapesError, Size, Split, caption, is_held_out,
    prompts, psnr, seam_jump,
};
