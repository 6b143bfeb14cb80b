//! The server with a studio that has no model.
#![allow(clippy::unwrap_used)]

mod adapters;
mod api;
mod client;
mod description;
mod fake;
mod fuzz;
mod media;
mod queue;
mod restarts;
mod safety;
mod server;
mod slow;
mod steady;
