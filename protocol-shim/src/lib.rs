//! Everything that knows Kafka's bytes: frames, request headers, the guard before the decoder, record batches, the
//! Fetch response, error codes.
//!
//! Used by the broker. Holds no state between calls, does no I/O, reads no clock. Bytes from outside never make it
//! panic or allocate more than the limits named in each file. Messages themselves are decoded and encoded by the
//! `kafka-protocol` crate, re-exported as [`codec`], and only after [`guard::check`] accepted their bytes.

pub mod batch;
mod compression;
pub mod error_code;
pub mod fetch_response;
pub mod frame;
pub mod guard;
mod guard_table;
pub mod header;
mod reader;
pub mod records;
mod varint;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod every_request;
#[cfg(test)]
mod sample;

pub use kafka_protocol as codec;
