//! Tests of the whole crate against the golden files, and against second implementations.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;
mod files;
mod formats;
mod headers;
mod invalid;
mod kinds;
mod lowrank;
mod merging;
mod registry;
mod round_trips;
mod training;
