//! What a request takes of a device's memory, and what is done so that it fits.

mod fit;
mod limit;
#[cfg(test)]
mod measured;
mod parts;
mod plan;
mod rates;
mod sizes;
#[cfg(test)]
mod tests;
mod times;
mod training;
mod work;

pub use fit::DoesNotFit;
pub use limit::{MemoryLimit, ParseMemoryError, in_words};
pub use parts::Parts;
pub use plan::{MemoryPlan, TextPlan, TransformerPlan, VaePlan};
pub use rates::{DeviceRates, RatesSource};
pub use sizes::{DeviceSizes, KeptWeights, ModelSizes, TextSizes, TransformerSizes, VaeSizes};
pub use times::ExpectedTimes;
pub use training::{TrainingPlan, TrainingSizes};
pub use work::{Asked, ClipSizes, DenoiseSizes, RequestSizes};
