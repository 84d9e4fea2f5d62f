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
//! producer     handle:4 | 0x03 | snapshot_offset:8 | producer_id:8            -> producer state, see `ProducerValue`
//! producer end handle:4 | 0x03 | snapshot_offset:8 | 0xff * 8                 -> number of producers:4
//! aborted      handle:4 | 0x04 | last_offset:8 | producer_id:8                -> first_offset:8, last_stable_offset:8
//! epoch        handle:4 | 0x05 | leader_epoch:4                               -> start_offset:8
//! chunk        handle:4 | 0x06 | base_offset:8                                -> end_offset:8, bytes:8, max_timestamp:8
//! cleaned      handle:4 | 0x07                                                -> first_dirty_offset:8, deletes_to:8
//! ```

use bytes::Bytes;
use uuid::Uuid;

use crate::compaction::Cleaned;
use crate::partition::Chunk;
use crate::producers::{BatchMetadata, ProducerState};

/// A partition's number in this data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u32);

impl Handle {
    /// The handle of the metadata partition.
    pub const METADATA: Handle = Handle(1);
}

/// A partition by the id of its topic; never by name, which may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId {
    /// The topic's id.
    pub topic_id: Uuid,
    /// The partition's index in the topic.
    pub partition: i32,
}

impl PartitionId {
    /// The metadata partition. Kafka reserves this topic id for it (`Uuid.METADATA_TOPIC_ID`).
    pub const METADATA: PartitionId = PartitionId {
        topic_id: Uuid::from_u128(1),
        partition: 0,
    };
}

const START: u8 = 0x00;
const BATCH: u8 = 0x01;
const TIME: u8 = 0x02;
const PRODUCER: u8 = 0x03;
const ABORTED: u8 = 0x04;
const EPOCH: u8 = 0x05;
const CHUNK: u8 = 0x06;
const CLEANED: u8 = 0x07;

/// Version of the producer value's layout.
const PRODUCER_VERSION: u8 = 0;

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

/// Key of the next-handle counter; sorts before every binding.
pub fn next_handle() -> Vec<u8> {
    vec![0; 4]
}

/// Key that binds a partition to its handle.
pub fn binding(id: PartitionId) -> Vec<u8> {
    let mut key = vec![0; 4];
    key.extend_from_slice(id.topic_id.as_bytes());
    key.extend_from_slice(&id.partition.to_be_bytes());
    key
}

/// All bindings: `from..to`.
pub fn bindings() -> (Vec<u8>, Vec<u8>) {
    (vec![0, 0, 0, 0, 0], vec![0, 0, 0, 1])
}

/// The partition of a binding's key.
pub fn parse_binding(key: &[u8]) -> Option<PartitionId> {
    if key.len() != 24 || key[..4] != [0; 4] {
        return None;
    }
    Some(PartitionId {
        topic_id: Uuid::from_slice(&key[4..20]).ok()?,
        partition: u32_at(key, 20)? as i32,
    })
}

/// Value of a binding and of the counter.
pub fn handle_value(handle: Handle) -> Vec<u8> {
    handle.0.to_be_bytes().to_vec()
}

/// Reads a binding's value.
pub fn parse_handle(value: &[u8]) -> Option<Handle> {
    (value.len() == 4)
        .then(|| u32_at(value, 0))
        .flatten()
        .map(Handle)
}

/// Everything of a partition: `from..to`.
pub fn partition(handle: Handle) -> (Vec<u8>, Vec<u8>) {
    (
        handle.0.to_be_bytes().to_vec(),
        (handle.0 + 1).to_be_bytes().to_vec(),
    )
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_their_numbers_do() {
        let handles = [1, 2, 255, 256, 70_000].map(Handle);
        let offsets = [0, 1, 255, 256, 1 << 40, i64::MAX];
        let mut last = Vec::new();
        for handle in handles {
            for offset in offsets {
                let key = batch(handle, offset);
                assert!(key > last, "{handle:?} {offset}");
                assert_eq!(parse_batch(&key), Some(offset));
                last = key;
            }
        }
        let mut last = Vec::new();
        for timestamp in [i64::MIN, -5, -1, 0, 1, 1_700_000_000_000, i64::MAX] {
            for offset in offsets {
                let key = time(Handle(7), timestamp, offset);
                assert!(key > last, "{timestamp} {offset}");
                assert_eq!(parse_time(&key), Some((timestamp, offset)));
                last = key;
            }
        }
    }

    #[test]
    fn kinds_do_not_overlap_and_stay_inside_their_partition() {
        let handle = Handle(9);
        let (from, to) = partition(handle);
        let groups = [
            vec![start(handle)],
            vec![batch(handle, 0), batch(handle, i64::MAX)],
            vec![time(handle, i64::MIN, 0), time(handle, i64::MAX, i64::MAX)],
            vec![producer(handle, 0, 0), producer_end(handle, i64::MAX)],
            vec![aborted(handle, 0, 0), aborted(handle, i64::MAX, i64::MAX)],
            vec![epoch(handle, 0), epoch(handle, i32::MAX)],
            vec![chunk(handle, 0), chunk(handle, i64::MAX)],
            vec![cleaned(handle)],
        ];
        let flat: Vec<_> = groups.concat();
        assert!(flat.is_sorted());
        assert!(flat.iter().all(|key| *key >= from && *key < to));
        let (from, to) = batches(handle, 0);
        assert!(groups[1].iter().all(|key| *key >= from && *key < to));
        assert!(groups[2].iter().all(|key| *key >= to));
        let (from, to) = producers(handle, 0);
        assert!(groups[3].iter().all(|key| *key >= from && *key < to));
        let (from, to) = aborteds(handle, 0);
        assert!(groups[4].iter().all(|key| *key >= from && *key < to));
        let (from, to) = epochs(handle, 0);
        assert!(groups[5].iter().all(|key| *key >= from && *key < to));
        let (from, to) = chunks(handle, 0);
        assert!(groups[6].iter().all(|key| *key >= from && *key < to));
    }

    #[test]
    fn bindings_come_after_the_counter_and_before_every_partition() {
        let id = PartitionId {
            topic_id: Uuid::from_u128(u128::MAX),
            partition: i32::MAX,
        };
        let (from, to) = bindings();
        assert!(next_handle() < from);
        assert!(binding(id) >= from && binding(id) < to);
        assert!(binding(PartitionId::METADATA) >= from);
        assert!(partition(Handle::METADATA).0 >= to);
        assert_eq!(parse_binding(&binding(id)), Some(id));
        assert_eq!(parse_handle(&handle_value(Handle(77))), Some(Handle(77)));
    }

    #[test]
    fn values_come_back_as_they_went() {
        let seed = 1;
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..2_000 {
            let mut state = ProducerState {
                epoch: rng.i16(0..),
                coordinator_epoch: rng.i32(-1..),
                last_timestamp: rng.i64(..),
                open_transaction: rng.bool().then(|| rng.i64(0..)),
                batches: Default::default(),
            };
            for _ in 0..rng.usize(0..=5) {
                state.batches.push_back(BatchMetadata {
                    last_sequence: rng.i32(0..),
                    last_offset: rng.i64(0..),
                    offset_delta: rng.i32(0..),
                    timestamp: rng.i64(..),
                });
            }
            let mut value = producer_value(&state);
            assert_eq!(parse_producer_value(&value).as_ref(), Some(&state));
            value.pop();
            assert_eq!(parse_producer_value(&value), None);
        }
        let start = LogStart {
            offset: 9,
            local_offset: 9,
            first_kept: Some(5),
        };
        assert_eq!(parse_start(&start_value(9, 5)), Some(start));
        let before = LogStart {
            first_kept: None,
            ..start
        };
        assert_eq!(parse_start(&start_value(9, 5)[..16]), Some(before));
        assert_eq!(parse_start(&start_value(9, 5)[..20]), None);
        let key = aborted(Handle(3), 10, 4);
        assert_eq!(
            parse_aborted(&key, &aborted_value(2, 8)),
            Some((10, 4, 2, 8))
        );
        assert_eq!(
            parse_epoch(&epoch(Handle(3), 6), &epoch_value(12)),
            Some((6, 12))
        );
        assert_eq!(
            parse_producer(&producer(Handle(3), 11, 42)),
            Some((11, Some(42)))
        );
        assert_eq!(
            parse_producer(&producer_end(Handle(3), 11)),
            Some((11, None))
        );
        let held = Chunk {
            base_offset: 7,
            end_offset: 9,
            bytes: 1 << 40,
            max_timestamp: -3,
        };
        let parsed =
            |held: &Chunk| parse_chunk(&chunk(Handle(3), held.base_offset), &chunk_value(held));
        assert_eq!(parsed(&held), Some(held));
        let end_offset = held.base_offset;
        assert_eq!(parsed(&Chunk { end_offset, ..held }), None);
        let reached = Cleaned {
            first_dirty: 1 << 40,
            deletes_to: 7,
        };
        assert_eq!(parse_cleaned(&cleaned_value(&reached)), Some(reached));
        assert_eq!(parse_cleaned(&[0; 15]), None);
    }
}
