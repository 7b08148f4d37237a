//! The models, by what they are about.

mod notifier;
mod queue;
mod refcount;

use crate::harness::Model;

pub fn all() -> Vec<Model> {
    [refcount::MODELS, queue::MODELS, notifier::MODELS].concat()
}
