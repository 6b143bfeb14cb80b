//! Parity with the official code, between backends, and between one device and several. One program,
//! because each would compile the models for the same backends.

mod backends;
mod faults;
mod golden;
#[cfg(feature = "cpu")]
mod layouts;
#[cfg(feature = "cpu")]
mod packed;
mod parallel;
#[cfg(feature = "cpu")]
mod prompts;
#[cfg(feature = "cpu")]
mod requantized;
#[cfg(feature = "cpu")]
mod scopes;
#[cfg(feature = "cpu")]
mod single_files;
#[cfg(feature = "cpu")]
mod step_cache;
#[cfg(feature = "cpu")]
mod streaming;
