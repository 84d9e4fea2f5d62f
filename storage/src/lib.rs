//! Partition logs over a narrow engine; synchronous code with three threads of its own.
//!
//! What is safe when (`partition.rs` holds the offsets, `writer.rs` the order):
//!
//! ```text
//! log start <= last stable offset <= high watermark <= committed end <= log end
//!
//! written      the engine's write returned: survives a kill of the process
//! fsynced end  a sync that began afterwards returned: survives a power cut
//! committed    fsynced with flush.messages=1 (the default here); written when it is larger and not yet due
//! ```
//!
//! `acks=1` is answered when the committed end has passed the batch, `acks=all` when the high watermark has;
//! on one node they are equal, through the same code as with followers. Internal topics and metadata are
//! appended with `flush.messages=1`. What is recovered at open is synced before the high watermark covers it.

pub mod backup;
pub mod blob;
pub mod compaction;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash_tests;
pub mod directory;
mod disk;
pub mod durable;
pub mod engine;
pub mod error;
pub mod keyed;
pub mod keys;
pub mod log;
#[cfg(test)]
mod log_tests;
mod manifest;
pub mod memory;
pub mod partition;
#[cfg(test)]
mod producer_limit_tests;
pub mod producers;
pub mod proof;
#[cfg(test)]
mod proof_tests;
pub mod reclaim;
pub mod records;
mod recovery;
#[cfg(test)]
mod recovery_tests;
pub mod reserve;
#[cfg(test)]
mod retain_tests;
pub mod retention;
pub mod rocks;
mod salvage;
mod tail;
pub mod verify;
pub mod waiters;
pub mod wal;
#[cfg(test)]
mod wal_tests;
mod writer;
