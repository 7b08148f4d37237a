//! The guarded lines, and how each is broken.

mod cache;
mod edges;
mod notifier;
mod object;
mod unwind;
mod work;

/// One broken line.
#[allow(dead_code, reason = "the models read the names only")]
pub struct Mutant {
    /// What is broken.
    pub name: &'static str,
    /// Where.
    pub file: &'static str,
    /// What stands there, exactly once, and what takes its place.
    pub edits: &'static [(&'static str, &'static str)],
    /// The model that has to catch it.
    pub model: &'static str,
}

/// Every mutant.
pub fn mutants() -> impl Iterator<Item = &'static Mutant> {
    [work::MUTANTS, notifier::MUTANTS, object::MUTANTS, edges::MUTANTS, unwind::MUTANTS, cache::MUTANTS]
        .into_iter()
        .flatten()
}
