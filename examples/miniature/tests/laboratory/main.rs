//! Tests of the laboratory: its data set, its judge, and the model that came out of it.
#![allow(clippy::unwrap_used)]

mod clips;
mod dataset;
mod model;
mod overfit;
mod previews;
mod recipes;
mod spoil;
mod training;
#[path = "../../../../crates/longcat-train/tests/train/workshop.rs"]
mod workshop;
