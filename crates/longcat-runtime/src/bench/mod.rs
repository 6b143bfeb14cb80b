//! Timings with random weights, made on the device. Each prints one JSON object per line.

mod attention;
mod dit;
mod linear;
mod load;
mod network;
mod text;
mod timing;
mod train;
mod vae;

pub use attention::Attention;
pub use dit::Dit;
pub use linear::Linear;
pub use load::Load;
pub use text::Text;
pub use train::Train;
pub use vae::Vae;
