//! Every key and value layout of the `log` family, in one place. Frozen: part of the data format.
//!
//! Keys are big-endian so that byte order is numeric order; `handle` is local to a data directory and never
//! used twice. Nothing here reads or writes a store.
//!
//! ```text
//! next handle  0:4                                            -> handle:4
//! binding      0:4 | topic_id:16 | partition:4                -> handle:4
//! start        handle:4 | 0x00                                -> log_start:8, local_log_start:8, first_kept:8 (once absent)
//! batch        handle:4 | 0x01 | base_offset:8                -> record batch v2, verbatim but for base offset and leader epoch
//! time         handle:4 | 0x02 | running_max:8 (sign flipped) | base_offset:8 -> ()
//! producer     handle:4 | 0x03 | snapshot_offset:8 | producer_id:8            -> producer state, see `producer_value`
//! producer end handle:4 | 0x03 | snapshot_offset:8 | 0xff * 8                 -> number of producers:4
//! aborted      handle:4 | 0x04 | last_offset:8 | producer_id:8                -> first_offset:8, last_stable_offset:8
//! epoch        handle:4 | 0x05 | leader_epoch:4                               -> start_offset:8
//! chunk        handle:4 | 0x06 | base_offset:8                                -> end_offset:8, bytes:8, max_timestamp:8
//! cleaned      handle:4 | 0x07                                                -> first_dirty_offset:8, deletes_to:8
//! ```

mod bindings;
mod log;
mod producers;
#[cfg(test)]
mod tests;

pub use self::bindings::{
    Handle, PartitionId, binding, bindings, handle_value, next_handle, parse_binding, parse_handle,
};
pub use self::log::{
    LogStart, batch, batches, chunk, chunk_value, chunks, cleaned, cleaned_value, epoch,
    epoch_value, epochs, parse_batch, parse_chunk, parse_cleaned, parse_epoch, parse_start,
    parse_time, start, start_value, time, times,
};
pub use self::producers::{
    aborted, aborted_value, aborteds, parse_aborted, parse_producer, parse_producer_end,
    parse_producer_value, producer, producer_end, producer_end_value, producer_value, producers,
};

const START: u8 = 0x00;
const BATCH: u8 = 0x01;
const TIME: u8 = 0x02;
const PRODUCER: u8 = 0x03;
const ABORTED: u8 = 0x04;
const EPOCH: u8 = 0x05;
const CHUNK: u8 = 0x06;
const CLEANED: u8 = 0x07;

/// Everything of a partition: `from..to`.
pub fn partition(handle: Handle) -> (Vec<u8>, Vec<u8>) {
    (
        handle.0.to_be_bytes().to_vec(),
        (handle.0 + 1).to_be_bytes().to_vec(),
    )
}

/// What kind of key of a partition this is, for people.
pub fn kind_name(key: &[u8]) -> &'static str {
    match key.get(4) {
        Some(&START) => "log start",
        Some(&BATCH) => "batch",
        Some(&TIME) => "time index",
        Some(&PRODUCER) => "producer snapshot",
        Some(&ABORTED) => "aborted transaction",
        Some(&EPOCH) => "leader epoch",
        Some(&CHUNK) => "chunk",
        Some(&CLEANED) => "log cleaner's mark",
        _ => "unknown key",
    }
}

/// Whether key and value are of a kind that is kept beside batches, with its layout.
pub fn is_derived(key: &[u8], value: &[u8]) -> bool {
    match key.get(4) {
        Some(&START) => key.len() == 5 && parse_start(value).is_some(),
        Some(&TIME) => parse_time(key).is_some() && value.is_empty(),
        Some(&PRODUCER) => match parse_producer(key) {
            Some((_, Some(_))) => parse_producer_value(value).is_some(),
            Some((_, None)) => parse_producer_end(value).is_some(),
            None => false,
        },
        Some(&ABORTED) => parse_aborted(key, value).is_some(),
        Some(&EPOCH) => parse_epoch(key, value).is_some(),
        Some(&CHUNK) => parse_chunk(key, value).is_some(),
        Some(&CLEANED) => key.len() == 5 && parse_cleaned(value).is_some(),
        _ => false,
    }
}

fn key(handle: Handle, kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + 16);
    key.extend_from_slice(&handle.0.to_be_bytes());
    key.push(kind);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// Offsets are never negative, so their big-endian bytes order as they do.
fn offset_bytes(offset: i64) -> [u8; 8] {
    debug_assert!(offset >= 0, "negative offset in a key");
    offset.to_be_bytes()
}

/// Timestamps may be negative: with the sign bit flipped their bytes order as they do.
fn timestamp_bytes(timestamp: i64) -> [u8; 8] {
    ((timestamp as u64) ^ (1 << 63)).to_be_bytes()
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(i64::from_be_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}
