//! What the `longcat` command shares with `cargo xtask`.

mod gpu_runtime;
mod interrupt;
mod memory;
mod train_lora;

pub use gpu_runtime::set_up_gpu_runtime;
pub use interrupt::interrupt;
pub use memory::keep_freed_memory;
pub use train_lora::TrainLora;
