//! What a request takes of a device's memory, and what is done so that it fits.

mod fit;
mod limit;
mod parts;
mod plan;
mod sizes;
#[cfg(test)]
mod tests;
mod training;
mod work;

pub use fit::DoesNotFit;
pub use limit::{MemoryLimit, ParseMemoryError, in_words};
pub use parts::Parts;
pub use plan::{MemoryPlan, TextPlan, TransformerPlan, VaePlan};
pub use sizes::{DeviceSizes, KeptWeights, ModelSizes, TextSizes, TransformerSizes, VaeSizes};
pub use training::TrainingPlan;
pub use work::{Asked, ClipSizes, DenoiseSizes, RequestSizes};
