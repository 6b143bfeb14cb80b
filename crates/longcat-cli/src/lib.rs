//! What the `longcat` command shares with `cargo xtask`.

mod device;
mod interrupt;
mod terminal;
mod train_lora;

pub use device::device_or_best;
pub use interrupt::interrupt;
pub use terminal::printable;
pub use train_lora::TrainLora;
