//! The data set is what it says it is, and the judge is right about it.
#![allow(clippy::unwrap_used)]

mod clips;
mod dataset;
mod spoil;
