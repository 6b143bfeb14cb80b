//! Training the transformer: an adapter beside it, or all of it.

mod adapter;
mod batch;
mod export;
mod fresh;
mod joint;
mod own;
mod sample;
mod task;
mod teacher;

pub use adapter::{ADAPTER, attach_adapter};
pub use export::RunInfo;
pub(crate) use fresh::fresh_transformer;
pub use joint::{JointModel, JointTask};
pub use task::TransformerTask;
