//! The data set: captioned clips of moving shapes.

mod caption;
mod clip;
mod dataset;
mod draw;
mod error;
pub(crate) mod metrics;
mod outline;
mod prompts;
mod random;
mod render;
mod scene;
mod vocabulary;

pub use caption::caption;
pub use clip::RenderedClip;
pub use dataset::{DatasetOptions, Sample, ShapesDataset, Split, is_held_out};
pub use error::ShapesError;
pub use metrics::{psnr, seam_jump};
pub use prompts::{JUDGED_PROMPTS, prompts};
pub use render::Raster;
pub use scene::{Object, Pose, Scene};
pub use vocabulary::{Background, Colour, Motion, Rgb, Shape, Size};
