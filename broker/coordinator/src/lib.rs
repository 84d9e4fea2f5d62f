//! The broker's state machines, pure: no clock, no I/O, no threads, no randomness.
//!
//! The broker's driver calls them: it hands over commands with the time and a reply id, replays the
//! records a machine answers with, appends them to the machine's log, and releases the replies once
//! those records are durable. Nothing here may depend on tokio, RocksDB or the wall clock; what a
//! machine needs to know (time, fresh ids) arrives as an argument.

pub mod group;
pub mod group_record;
pub mod machine;
pub mod metadata;
pub mod record;
pub mod wire;

#[cfg(test)]
mod script;
