//! Page arrays and scatter-gather tables, allocated fallibly through the platform.

mod buffer;
mod sg;

pub use buffer::Buffer;
pub use sg::{Segment, SgLimits, SgTable};
