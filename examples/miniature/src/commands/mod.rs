//! The chores of making the model, in the order in which they come.

mod install_part;
mod judge;
mod make_checkpoint;
mod make_shapes;
mod train;
mod train_for;

pub use install_part::InstallPart;
pub use judge::Judge;
pub use make_checkpoint::MakeCheckpoint;
pub use make_shapes::MakeShapes;
pub use train::Train;
pub use train_for::TrainFor;
