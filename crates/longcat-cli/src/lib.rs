//! What the `longcat` command shares with `cargo xtask`.

mod interrupt;
mod kernel_cache;
mod memory;
mod train_lora;

pub use interrupt::interrupt;
pub use kernel_cache::keep_compiled_kernels;
pub use memory::keep_freed_memory;
pub use train_lora::TrainLora;
