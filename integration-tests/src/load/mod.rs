//! A load generator for any broker that speaks Kafka's protocol, and the comparison that `make bench` prints with it.
//!
//! Used by `src/bin/load.rs` and `tests/load.rs`. The generator shares two cores with the broker it measures, so it does
//! little: batches and whole request frames are encoded before the clock starts, one thread drives one connection, and
//! an answer is only parsed. Every acknowledgement is remembered, so that a log can be compared with it byte for byte.
//!
//! It uses no code of the broker but its clock. What goes wrong is an [`std::io::Error`] with a sentence in it.

pub mod admin;
pub mod batches;
pub mod bench;
pub mod client;
pub mod consume;
pub mod latency;
pub mod pipe;
pub mod produce;
pub mod quantiles;
pub mod read_back;
pub mod usage;

use std::io;

pub use batches::Shape;
pub use client::Client;
pub use produce::{Load, Produced};
pub use quantiles::Quantiles;

/// A topic at a broker.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// Its name.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: i32,
}

pub(crate) fn failed(message: impl Into<String>) -> io::Error {
    io::Error::other(message.into())
}
