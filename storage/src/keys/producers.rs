//! Snapshots of a partition's producers, and its aborted transactions. What they mean is in `crate::producers`.

use super::{ABORTED, EPOCH, Handle, PRODUCER, i64_at, key, offset_bytes, u32_at};
use crate::producers::{BatchMetadata, ProducerState};

/// Version of the producer value's layout.
const PRODUCER_VERSION: u8 = 0;

/// Key of one producer in the snapshot taken when the log ended at `snapshot_offset`.
pub fn producer(handle: Handle, snapshot_offset: i64, producer_id: i64) -> Vec<u8> {
    key(
        handle,
        PRODUCER,
        &[&offset_bytes(snapshot_offset), &producer_id.to_be_bytes()],
    )
}

/// Key that makes a snapshot complete.
pub fn producer_end(handle: Handle, snapshot_offset: i64) -> Vec<u8> {
    key(
        handle,
        PRODUCER,
        &[&offset_bytes(snapshot_offset), &[0xff; 8]],
    )
}

/// Producer snapshots from `snapshot_offset` on: `from..to`.
pub fn producers(handle: Handle, snapshot_offset: i64) -> (Vec<u8>, Vec<u8>) {
    (
        key(handle, PRODUCER, &[&offset_bytes(snapshot_offset)]),
        key(handle, ABORTED, &[]),
    )
}

/// The snapshot offset and the producer in a producer key; `None` as producer for the end key.
pub fn parse_producer(key: &[u8]) -> Option<(i64, Option<i64>)> {
    if key.len() != 21 || key[4] != PRODUCER {
        return None;
    }
    let producer_id = i64_at(key, 13)?;
    Some((i64_at(key, 5)?, (producer_id != -1).then_some(producer_id)))
}

/// Value of a producer in a snapshot:
/// `version:1 | epoch:2 | coordinator_epoch:4 | last_timestamp:8 | open_transaction_first_offset:8 (-1: none)
/// | n:1 | n * (last_sequence:4, last_offset:8, offset_delta:4, timestamp:8)`.
pub fn producer_value(state: &ProducerState) -> Vec<u8> {
    let mut value = Vec::with_capacity(24 + state.batches.len() * 24);
    value.push(PRODUCER_VERSION);
    value.extend_from_slice(&state.epoch.to_be_bytes());
    value.extend_from_slice(&state.coordinator_epoch.to_be_bytes());
    value.extend_from_slice(&state.last_timestamp.to_be_bytes());
    value.extend_from_slice(&state.open_transaction.unwrap_or(-1).to_be_bytes());
    value.push(state.batches.len() as u8);
    for batch in &state.batches {
        value.extend_from_slice(&batch.last_sequence.to_be_bytes());
        value.extend_from_slice(&batch.last_offset.to_be_bytes());
        value.extend_from_slice(&batch.offset_delta.to_be_bytes());
        value.extend_from_slice(&batch.timestamp.to_be_bytes());
    }
    value
}

/// Reads a producer's value.
pub fn parse_producer_value(value: &[u8]) -> Option<ProducerState> {
    if value.len() < 24 || value[0] != PRODUCER_VERSION {
        return None;
    }
    let count = usize::from(value[23]);
    if value.len() != 24 + count * 24 {
        return None;
    }
    let open = i64_at(value, 15)?;
    let mut state = ProducerState {
        epoch: i16::from_be_bytes([value[1], value[2]]),
        coordinator_epoch: u32_at(value, 3)? as i32,
        last_timestamp: i64_at(value, 7)?,
        open_transaction: (open >= 0).then_some(open),
        batches: Default::default(),
    };
    for index in 0..count {
        let at = 24 + index * 24;
        state.batches.push_back(BatchMetadata {
            last_sequence: u32_at(value, at)? as i32,
            last_offset: i64_at(value, at + 4)?,
            offset_delta: u32_at(value, at + 12)? as i32,
            timestamp: i64_at(value, at + 16)?,
        });
    }
    Some(state)
}

/// Value of a snapshot's end key.
pub fn producer_end_value(count: u32) -> Vec<u8> {
    count.to_be_bytes().to_vec()
}

/// Reads the value of a snapshot's end key.
pub fn parse_producer_end(value: &[u8]) -> Option<u32> {
    (value.len() == 4).then(|| u32_at(value, 0)).flatten()
}

/// Key of an aborted transaction.
pub fn aborted(handle: Handle, last_offset: i64, producer_id: i64) -> Vec<u8> {
    key(
        handle,
        ABORTED,
        &[&offset_bytes(last_offset), &producer_id.to_be_bytes()],
    )
}

/// Aborted transactions whose last offset is at least `last_offset`: `from..to`.
pub fn aborteds(handle: Handle, last_offset: i64) -> (Vec<u8>, Vec<u8>) {
    (
        key(handle, ABORTED, &[&offset_bytes(last_offset)]),
        key(handle, EPOCH, &[]),
    )
}

/// Value of an aborted transaction: its first offset, and the last stable offset when it ended.
pub fn aborted_value(first_offset: i64, last_stable_offset: i64) -> Vec<u8> {
    [first_offset.to_be_bytes(), last_stable_offset.to_be_bytes()].concat()
}

/// `(last_offset, producer_id, first_offset, last_stable_offset)` of an aborted transaction.
pub fn parse_aborted(key: &[u8], value: &[u8]) -> Option<(i64, i64, i64, i64)> {
    if key.len() != 21 || key[4] != ABORTED || value.len() != 16 {
        return None;
    }
    Some((
        i64_at(key, 5)?,
        i64_at(key, 13)?,
        i64_at(value, 0)?,
        i64_at(value, 8)?,
    ))
}
