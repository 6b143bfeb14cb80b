//! What the `longcat` command shares with `cargo xtask`.

mod interrupt;
mod train_lora;

pub use interrupt::interrupt;
pub use train_lora::TrainLora;
