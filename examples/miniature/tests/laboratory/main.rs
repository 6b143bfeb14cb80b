//! Tests of the laboratory: what it trains, and the model that came out of it.
#![allow(clippy::unwrap_used)]

mod model;
mod overfit;
mod previews;
mod recipes;
mod training;
#[path = "../../../../crates/longcat-train/tests/train/workshop.rs"]
mod workshop;
