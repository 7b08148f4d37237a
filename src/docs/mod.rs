//! Pages about the whole: the protocol, the memory orderings, the port map.

#[doc = include_str!("protocol.md")]
pub mod protocol {}
