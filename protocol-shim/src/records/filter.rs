//! A batch without some of its records: what compaction leaves of it.
//!
//! Used by the log cleaner only. It never decides which records stay. What it writes is what Kafka's
//! `MemoryRecords.filterTo` writes, but for one thing: a batch keeps its base timestamp unless a delete horizon takes
//! its place, so that the records that stay are copied byte by byte, unlike in Kafka, which counts from the first one
//! that stays. Invariants: base offset, last offset, leader epoch, producer and sequence of a batch never change, and
//! no record's offset, timestamp, key, value or headers do.

use std::ops::ControlFlow;

use super::layout::RecordView;
use super::{NOT_COMPRESSED, RecordsError, TOO_LONG, for_each_record, whole_batch};
use crate::batch::{BatchHeader, Compression, NO_TIMESTAMP, Rewrite, rewrite};
use crate::compression::encode::{Encoding, compress};
use crate::varint::{put_varint, put_varlong};

/// What is left of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retained {
    /// All of it: the bytes stay as they are.
    Unchanged,
    /// Some records, or all with a delete horizon: the new bytes.
    Rewritten(Vec<u8>),
    /// No record; see [`emptied`].
    Nothing,
}

/// When the tombstones and the marker of a batch may go (KIP-534).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteHorizon {
    /// Milliseconds since 1970, for a batch that has none yet and needs one.
    pub at_ms: i64,
    /// The batch is the marker of a transaction without records, which needs one as a tombstone does.
    pub empty_transaction: bool,
}

/// Keeps the records that `keep` says yes to; it is asked once for each, in order. A batch with a tombstone that stays
/// gets the delete horizon unless it has one. `batch` is exactly one stored batch, with a right checksum.
///
/// # Errors
/// Records that cannot be read, or take more than `max_decompressed` bytes.
pub fn retain_records(
    batch: &[u8],
    max_decompressed: usize,
    horizon: DeleteHorizon,
    mut keep: impl FnMut(&RecordView<'_>) -> bool,
) -> Result<Retained, RecordsError> {
    let header = whole_batch(batch)?;
    let mut kept: Vec<bool> = Vec::new();
    let mut tombstone = false;
    for_each_record(batch, max_decompressed, |record| {
        let stays = keep(&record);
        tombstone |= stays && record.value.is_none();
        kept.push(stays);
        ControlFlow::Continue(())
    })?;
    if !kept.contains(&true) {
        return Ok(Retained::Nothing);
    }
    let needs_horizon =
        (tombstone || horizon.empty_transaction) && header.delete_horizon_ms().is_none();
    if !needs_horizon && !kept.contains(&false) {
        return Ok(Retained::Unchanged);
    }
    let new_horizon = needs_horizon.then_some(horizon.at_ms);
    rebuild(&header, batch, max_decompressed, &kept, new_horizon).map(Retained::Rewritten)
}

/// The header alone, without records, codec and delete horizon: it goes on saying where the batch began and ended, and
/// which sequences its producer had reached. (Kafka's `DefaultRecordBatch.writeEmptyHeader`.)
///
/// # Errors
/// Bytes that are no batch.
pub fn emptied(batch: &[u8]) -> Result<Vec<u8>, RecordsError> {
    let header = whole_batch(batch)?;
    let rewritten = Rewrite {
        compression: Compression::None,
        delete_horizon: false,
        base_timestamp: NO_TIMESTAMP,
        max_timestamp: header.max_timestamp,
        record_count: 0,
    };
    rewrite(batch, &rewritten, &[]).ok_or(TOO_LONG)
}

/// The batch with the records of `kept` only. Held at once: the records that stay, and the same compressed.
fn rebuild(
    header: &BatchHeader,
    batch: &[u8],
    max_decompressed: usize,
    kept: &[bool],
    new_horizon: Option<i64>,
) -> Result<Vec<u8>, RecordsError> {
    let base_timestamp = new_horizon.unwrap_or(header.base_timestamp);
    let mut content = Vec::new();
    let mut moved = Vec::new();
    let mut max_timestamp = NO_TIMESTAMP;
    let mut overflow = false;
    let mut places = kept.iter();
    for_each_record(batch, max_decompressed, |record| {
        if places.next() != Some(&true) {
            return ControlFlow::Continue(());
        }
        let Some(timestamp) = header.timestamp_of(record.timestamp_delta) else {
            overflow = true;
            return ControlFlow::Break(());
        };
        max_timestamp = max_timestamp.max(timestamp);
        let body = match new_horizon {
            Some(_) => {
                move_timestamp(&mut moved, record.body, timestamp, base_timestamp);
                moved.as_slice()
            }
            None => record.body,
        };
        put_varint(&mut content, body.len() as i32);
        content.extend_from_slice(body);
        ControlFlow::Continue(())
    })?;
    if overflow {
        return Err(RecordsError::Invalid("timestamp overflows"));
    }
    let compression = header
        .compression()
        .map_err(|_| RecordsError::UnsupportedCompression(header.attributes & 7))?;
    let horizon = new_horizon.is_some() || header.delete_horizon_ms().is_some();
    let rewritten = Rewrite {
        compression,
        delete_horizon: horizon,
        base_timestamp,
        max_timestamp,
        record_count: kept.iter().filter(|stays| **stays).count() as i32,
    };
    if compression != Compression::None {
        content = compress(Encoding::usual(compression), &content).map_err(|_| NOT_COMPRESSED)?;
    }
    rewrite(batch, &rewritten, &content).ok_or(TOO_LONG)
}

/// A record's body that counts its timestamp from another base. The difference wraps, as Java's does; see
/// [`BatchHeader::timestamp_of`].
fn move_timestamp(out: &mut Vec<u8>, body: &[u8], timestamp: i64, base_timestamp: i64) {
    let delta_at = 1;
    let delta_len = body[delta_at..]
        .iter()
        .take_while(|byte| **byte & 0x80 != 0)
        .count()
        + 1;
    out.clear();
    out.extend_from_slice(&body[..delta_at]);
    put_varlong(out, timestamp.wrapping_sub(base_timestamp));
    out.extend_from_slice(&body[delta_at + delta_len..]);
}

#[cfg(test)]
#[path = "filter_tests.rs"]
pub(crate) mod tests;
