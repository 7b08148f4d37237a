//! The interval index: scenarios 4 and 11 to 13, on the tree and, with the feature `iset`, on the
//! oracle.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test"
)]
#![allow(clippy::disallowed_types, reason = "the core's types do not bind its tests")]

mod random;
mod shapes;
mod support;
mod walk;
