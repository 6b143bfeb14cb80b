//! What the `longcat` command shares with `cargo xtask`.

mod interrupt;
mod kernel_cache;
mod train_lora;

pub use interrupt::interrupt;
pub use kernel_cache::keep_compiled_kernels;
pub use train_lora::TrainLora;
