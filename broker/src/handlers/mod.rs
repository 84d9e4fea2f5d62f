//! What each API does: one file per group of APIs that share a vocabulary. A handler gets a `Ctx` and a decoded
//! request and gives a response; it never touches a socket, a clock of its own, or RocksDB.

pub mod configs;
pub mod fetch;
pub mod fetch_session;
pub mod metadata;
pub mod offsets;
pub mod produce;
pub mod producer_ids;
pub mod topics;
