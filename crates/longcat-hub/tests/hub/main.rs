//! A hub on this machine, and what a pull from it leaves.
#![allow(clippy::unwrap_used)]

#[cfg(unix)]
mod cache;
mod faults;
mod pull;
mod server;
mod settings;
