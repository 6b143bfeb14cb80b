//! Training the transformer: an adapter beside it, or all of it.

mod adapter;
mod export;
mod joint;
mod sample;
mod task;

pub use adapter::{ADAPTER, attach_adapter};
pub use export::RunInfo;
pub use joint::{JointModel, JointTask};
pub use task::TransformerTask;
