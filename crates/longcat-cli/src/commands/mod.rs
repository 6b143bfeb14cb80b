//! The commands.

pub mod calibrate;
pub mod convert;
pub mod decode;
pub mod devices;
pub mod generate;
pub mod inspect;
pub mod inspect_media;
pub mod long;
pub mod lora;
mod lora_inspect;
mod lora_rank;
pub mod models;
pub mod plan;
pub mod pull;
pub mod quantize;
pub mod refine;
pub mod serve;
pub mod together;

pub use lora_inspect::lines as lora_lines;
