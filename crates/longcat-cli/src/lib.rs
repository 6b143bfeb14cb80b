//! What the `longcat` command shares with `cargo xtask`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod device;
mod interrupt;
mod launch;
mod lines;
mod train_lora;

pub use device::{device_or_best, warn_of_slower_ways};
pub use interrupt::interrupt;
pub use lines::{note_line, say_line};
pub use longcat_weights::printable;
pub use train_lora::TrainLora;
