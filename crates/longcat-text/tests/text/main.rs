//! Tests of the whole crate: cleaning, tokenizer and encoder. Parity with the reference is checked by
//! the workspace's `tests/parity`.
#![allow(clippy::unwrap_used, missing_docs)]

mod golden;
mod prompt_cleaning;
mod tokenizer;
mod umt5;
