//! Captioned clips of moving shapes, and a judge that tells what a clip shows.
//!
//! The data set teaches and tests the miniature model:
//! - [`Dataset`]: endless [`Sample`]s by seed and index, of one [`Split`];
//! - [`Scene`], [`Object`]: what moves where, as a function of time;
//! - [`Scene::render`]: the frames, at any [`Raster`];
//! - [`caption`]: a scene in one of many wordings;
//! - [`prompts`]: fixed samples that generated videos are judged on.
//!
//! The judge knows the names and colours of the data set and nothing of its renderer:
//! - [`judge`]: plain image analysis of any [`Clip`], into a [`Verdict`];
//! - [`Verdict::agrees`]: the verdict beside what was [`Expected`];
//! - [`psnr`], [`seam_jump`]: how near two clips are, how smoothly one goes on.
//!
//! ```
//! use longcat_shapes::{Dataset, DatasetOptions, Raster, Split, judge};
//!
//! let dataset = Dataset::new(0, Split::Train, DatasetOptions::default());
//! for sample in dataset.iter().take(3) {
//!     let clip = sample.render(&Raster::default());
//!     let agreement = judge(&clip).agrees(&sample.expected);
//!     assert!(agreement.all(), "{}", sample.caption);
//! }
//! ```

mod caption;
mod clip;
mod dataset;
mod draw;
mod error;
mod judge;
mod metrics;
mod outline;
mod prompts;
mod random;
mod render;
mod scene;
mod vocabulary;

pub use caption::caption;
pub use clip::Clip;
pub use dataset::{Dataset, DatasetOptions, Sample, Split, is_held_out};
pub use error::ShapesError;
pub use judge::{Agreement, Expected, ExpectedObject, ObjectVerdict, Verdict, judge};
pub use metrics::{psnr, seam_jump};
pub use prompts::{JUDGED_PROMPTS, prompts};
pub use render::Raster;
pub use scene::{Object, Pose, Scene};
pub use vocabulary::{Background, Colour, Motion, Rgb, Shape, Size};
