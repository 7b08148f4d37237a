//! Miri tests.
fn main() {}
