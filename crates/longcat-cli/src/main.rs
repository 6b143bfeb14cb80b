//! The `longcat` command.

fn main() {}
