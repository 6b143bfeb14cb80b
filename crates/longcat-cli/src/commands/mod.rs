//! The commands.

pub mod decode;
pub mod devices;
pub mod generate;
pub mod long;
pub mod lora;
pub mod refine;
