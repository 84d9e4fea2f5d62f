//! A partition's log: where it starts, its batches, and what is derived from them to find them by: times, leader
//! epochs, chunks, how far it is clean.

use bytes::Bytes;

use super::{
    BATCH, CHUNK, CLEANED, EPOCH, Handle, PRODUCER, START, TIME, i64_at, key, offset_bytes,
    timestamp_bytes, u32_at,
};
use crate::compaction::Cleaned;
use crate::partition::Chunk;

/// Key of the log start.
pub fn start(handle: Handle) -> Vec<u8> {
    key(handle, START, &[])
}

/// Where a log starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStart {
    /// First offset that a client may read.
    pub offset: i64,
    /// The same, of what lies on this broker.
    pub local_offset: i64,
    /// Base offset of the batch that the log start lies in, or the log start where it lies in none: what is below is
    /// deleted, and need not be read to be known as such. `None`: written before this was noted.
    pub first_kept: Option<i64>,
}

/// The log start's value, for a log that lies on this broker as a whole.
pub fn start_value(log_start: i64, first_kept: i64) -> Vec<u8> {
    [log_start, log_start, first_kept]
        .map(i64::to_be_bytes)
        .concat()
}

/// Reads the log start's value.
pub fn parse_start(value: &[u8]) -> Option<LogStart> {
    let first_kept = match value.len() {
        16 => None,
        24 => Some(i64_at(value, 16)?),
        _ => return None,
    };
    Some(LogStart {
        offset: i64_at(value, 0)?,
        local_offset: i64_at(value, 8)?,
        first_kept,
    })
}

/// Key of the batch that begins at `base_offset`.
pub fn batch(handle: Handle, base_offset: i64) -> Vec<u8> {
    key(handle, BATCH, &[&offset_bytes(base_offset)])
}

/// The batches of a partition from `base_offset` on: `from..to`.
pub fn batches(handle: Handle, base_offset: i64) -> (Vec<u8>, Vec<u8>) {
    (batch(handle, base_offset), key(handle, TIME, &[]))
}

/// The base offset in a batch's key.
pub fn parse_batch(key: &[u8]) -> Option<i64> {
    (key.len() == 13 && key[4] == BATCH)
        .then(|| i64_at(key, 5))
        .flatten()
}

/// Key of a time index entry: up to and with the batch at `base_offset` no timestamp is above `running_max`.
pub fn time(handle: Handle, running_max: i64, base_offset: i64) -> Vec<u8> {
    key(
        handle,
        TIME,
        &[&timestamp_bytes(running_max), &offset_bytes(base_offset)],
    )
}

/// The time index of a partition: `from..to`.
pub fn times(handle: Handle) -> (Vec<u8>, Vec<u8>) {
    (key(handle, TIME, &[]), key(handle, PRODUCER, &[]))
}

/// The running maximum and the base offset in a time key.
pub fn parse_time(key: &[u8]) -> Option<(i64, i64)> {
    if key.len() != 21 || key[4] != TIME {
        return None;
    }
    let flipped = i64_at(key, 5)? as u64;
    Some(((flipped ^ (1 << 63)) as i64, i64_at(key, 13)?))
}

/// Key of a leader epoch.
pub fn epoch(handle: Handle, leader_epoch: i32) -> Vec<u8> {
    debug_assert!(leader_epoch >= 0, "negative leader epoch in a key");
    key(handle, EPOCH, &[&leader_epoch.to_be_bytes()])
}

/// The leader epochs of a partition from `leader_epoch` on: `from..to`.
pub fn epochs(handle: Handle, leader_epoch: i32) -> (Vec<u8>, Vec<u8>) {
    (epoch(handle, leader_epoch), key(handle, CHUNK, &[]))
}

/// Value of a leader epoch: its start offset.
pub fn epoch_value(start_offset: i64) -> Bytes {
    Bytes::copy_from_slice(&start_offset.to_be_bytes())
}

/// `(leader_epoch, start_offset)` of an epoch entry.
pub fn parse_epoch(key: &[u8], value: &[u8]) -> Option<(i32, i64)> {
    if key.len() != 9 || key[4] != EPOCH || value.len() != 8 {
        return None;
    }
    Some((u32_at(key, 5)? as i32, i64_at(value, 0)?))
}

/// Key of the chunk that begins with the batch at `base_offset`.
pub fn chunk(handle: Handle, base_offset: i64) -> Vec<u8> {
    key(handle, CHUNK, &[&offset_bytes(base_offset)])
}

/// The chunks of a partition that begin at `base_offset` or later: `from..to`.
pub fn chunks(handle: Handle, base_offset: i64) -> (Vec<u8>, Vec<u8>) {
    (chunk(handle, base_offset), key(handle, CLEANED, &[]))
}

/// Value of a chunk.
pub fn chunk_value(chunk: &Chunk) -> Vec<u8> {
    let mut value = Vec::with_capacity(24);
    value.extend_from_slice(&chunk.end_offset.to_be_bytes());
    value.extend_from_slice(&chunk.bytes.to_be_bytes());
    value.extend_from_slice(&chunk.max_timestamp.to_be_bytes());
    value
}

/// Reads a chunk; `None` also for one that ends before it begins.
pub fn parse_chunk(key: &[u8], value: &[u8]) -> Option<Chunk> {
    if key.len() != 13 || key[4] != CHUNK || value.len() != 24 {
        return None;
    }
    let chunk = Chunk {
        base_offset: i64_at(key, 5)?,
        end_offset: i64_at(value, 0)?,
        bytes: i64_at(value, 8)? as u64,
        max_timestamp: i64_at(value, 16)?,
    };
    (chunk.base_offset < chunk.end_offset).then_some(chunk)
}

/// Key of what the log cleaner has reached; absent until its first round.
pub fn cleaned(handle: Handle) -> Vec<u8> {
    key(handle, CLEANED, &[])
}

/// Value of what the log cleaner has reached.
pub fn cleaned_value(cleaned: &Cleaned) -> Vec<u8> {
    [
        cleaned.first_dirty.to_be_bytes(),
        cleaned.deletes_to.to_be_bytes(),
    ]
    .concat()
}

/// Reads what the log cleaner has reached.
pub fn parse_cleaned(value: &[u8]) -> Option<Cleaned> {
    (value.len() == 16)
        .then(|| {
            Some(Cleaned {
                first_dirty: i64_at(value, 0)?,
                deletes_to: i64_at(value, 8)?,
            })
        })
        .flatten()
}
