//! A registration cache: memory is looked up by address, and a look-up gives a lease on its
//! registration. Whatever the process does with its memory, no look-up finds a stale page.
//!
//! | a program | calls |
//! |---|---|
//! | has an address and a size, for one transfer | [`Cache::get`], [`Cache::get_unchecked`] |
//! | has many of them, and needs all | [`Cache::get_set`], [`Cache::get_set_unchecked`] |
//! | got a key from somebody else | [`Cache::at`] |
//! | has ended a phase | [`Cache::flush`] |
//!
//! # What serves a look-up
//! A registration that covers the whole pages of the request and allows the access. Of several the
//! one that begins last, and of those the shortest. One that only overlaps the request does not
//! serve it: the request is registered beside it, or with it ([`Setup::merge`]).
//!
//! # Why it is never stale
//! A cache of addresses is stale as soon as a mapping changes without its notice. This one keeps
//! objects of the core, and each look-up takes a lease from the core: that is given only while the
//! pages are what the process maps there, and an invalidation of the range waits for it, or lets
//! the old pages live until it is dropped. The index says which object to ask, and nothing else.
//!
//! # What a hit costs
//! No lock, no allocation and no wait for anybody. It reads the index, and writes four words: its
//! shard's count of users of the registration, up and down; its shard's count of hits; the lease
//! word of the object, up and down; and, once, the clock's mark. Of these the object's lease word
//! is the only one that is shared with hits of other threads, and only by those that hit the same
//! registration.
//!
//! A miss, an eviction or an invalidation never stops a hit: the index has two copies, one of which
//! is always readable. A look-up that meets the end of a change looks again; after a few of these
//! it takes the lock. Where many threads hit one registration, its lease word can be spread too:
//! [`Limits::spread_leases`](userptr::device::Limits::spread_leases).
//!
//! # What a miss costs
//! It pins outside of every lock. Others that miss the same range wait for it, and for nothing
//! else. It looks at a few registrations whether they were invalidated, and releases at most eight
//! of others; at a limit of the platform as many as it needs room for.
//!
//! Its work under the lock grows with [`Setup::entries`], and not with the number of hits: a change
//! of the index writes the rows behind the changed one; the search for another thread's
//! registration of the range, and for neighbours to merge with, looks at each slot; the clock goes
//! round at most twice, and looks at each shard's count where it stops. A hit waits for none of it.
//!
//! # What goes first
//! The clock, and not the exact order of use: that one would have each hit write a list that all
//! hits write. A registration that was found since the hand passed stays for another turn; one that
//! is in use stays. At a limit of the platform (`ENOMEM`, `ENOSPC`: locked memory, slots of a
//! device) registrations are evicted, a few more each time, and the call is made again until it
//! succeeds or nothing is left to evict: then the look-up fails with that limit. At a limit of the
//! cache itself ([`Setup`]) a request for which nothing can be evicted gets a registration of its
//! own, which ends with the lease.
//!
//! A range that is invalidated again and again before anybody finds it is in a storm: most of its
//! misses are not kept, until one that is kept is found. No other range is concerned.
//!
//! # Where it runs
//! The package uses the core's public interface alone: it runs on every platform, address space and
//! device that implements the core's traits, without the standard library.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

// The modules lie one folder deeper, so that the models of the repository can take them in as
// their own, with one line broken.
mod cache;
pub use cache::*;

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
