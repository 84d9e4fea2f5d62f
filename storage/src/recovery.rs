//! Rebuilds a partition's state from the store: after a start, and after a truncation. Reads only.
//!
//! What is recovered is what the store holds; making it durable before the high watermark covers it is the
//! caller's part (`log.rs` syncs once for all partitions).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use ottla_protocol::batch::BatchHeader;

use crate::engine::{Engine, Family, Start};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle};
use crate::partition::{Chunk, Intervals, PartitionState};
use crate::producers::{AbortedTransaction, ProducerState};

pub(crate) fn damaged(handle: Handle, what: &str) -> StorageError {
    StorageError::Engine(EngineError::Corruption(format!(
        "{what} of partition handle {} has an unknown layout",
        handle.0
    )))
}

/// The header of a batch that the log holds.
///
/// # Errors
/// Bytes that are no batch count as damage: nothing else is ever written under a batch key.
pub fn stored_header(handle: Handle, value: &[u8]) -> Result<BatchHeader, StorageError> {
    BatchHeader::parse(value).map_err(|error| damaged(handle, &format!("a batch ({error})")))
}

/// Threads that recover partitions at once, at most. They wait for the disk far more than they compute.
const THREADS: usize = 16;

/// Partitions that are worth a thread.
const PARTITIONS_PER_THREAD: usize = if cfg!(test) { 2 } else { 32 };

/// Recovers all these partitions, each by `recover`, and hands each state to `take` at once, in no order and from several threads: together
/// the states of very many would leave a hole in memory.
///
/// # Errors
/// The store's, or damage, of the first of `handles` that has any: the same at every start.
pub fn recover_all(
    handles: &[Handle],
    recover: &(dyn Fn(Handle) -> Result<PartitionState, StorageError> + Sync),
    take: &(dyn Fn(PartitionState) + Sync),
) -> Result<(), StorageError> {
    let intervals = Intervals::of(handles.len());
    let next = AtomicUsize::new(0);
    // Each thread takes the next one as soon as it can: one partition may take as long as a hundred others.
    let work = || -> Option<(usize, StorageError)> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let handle = handles.get(index)?;
            match recover(*handle) {
                Ok(mut state) => {
                    state.intervals = intervals;
                    take(state);
                }
                Err(error) => {
                    // What lies before it is being worked on, and what lies behind it does not matter.
                    next.store(handles.len(), Ordering::Relaxed);
                    return Some((index, error));
                }
            }
        }
    };
    let threads = (handles.len() / PARTITIONS_PER_THREAD).min(THREADS);
    let failed = std::thread::scope(|scope| {
        // Where the system has no thread to give, the others do its part.
        let helpers: Vec<_> = (1..threads)
            .filter_map(|_| {
                let builder = std::thread::Builder::new().name("ottla-recovery".to_owned());
                builder.spawn_scoped(scope, work).ok()
            })
            .collect();
        let own = work();
        let of_helpers = helpers.into_iter().map(|helper| {
            helper
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let failed = of_helpers.chain([own]).flatten();
        failed.min_by_key(|(index, _)| *index)
    });
    failed.map_or(Ok(()), |(_, error)| Err(error))
}

/// Recovers the state of one partition, which remembers at most `max_producers`.
///
/// # Errors
/// The store's, or damage.
pub fn recover(
    engine: &dyn Engine,
    handle: Handle,
    node_id: i32,
    max_producers: usize,
) -> Result<PartitionState, StorageError> {
    let mut state = recover_start(engine, handle, node_id)?;
    // What is deleted and not erased yet is not read: it may be damaged.
    let (from, to) = keys::batches(handle, state.first_kept);
    state.log_end = match engine.last(Family::Log, &from, &to)? {
        Some((_, value)) => stored_header(handle, &value)?
            .next_offset()
            .max(state.log_start),
        None => state.log_start,
    };
    recover_epochs(engine, &mut state)?;
    recover_aborted(engine, &mut state)?;
    let snapshot = recover_snapshot(engine, &mut state)?;
    state.producers.set_limit(max_producers);
    let (from, to) = keys::times(handle);
    let mut indexed = -1;
    if let Some((key, _)) = engine.last(Family::Log, &from, &to)? {
        let (running_max, base_offset) =
            keys::parse_time(&key).ok_or_else(|| damaged(handle, "the time index"))?;
        state.running_max_timestamp = running_max;
        state.indexed_max_timestamp = running_max;
        indexed = base_offset;
    }
    recover_chunks(engine, &mut state, indexed)?;
    replay_tail(engine, &mut state, snapshot, indexed)?;
    let end = state.log_end;
    state.written_end = end;
    state.fsynced_end = end;
    state.sync_required_to = end;
    state.committed_end = end;
    state.high_watermark = end;
    state.producers.committed(end);
    Ok(state)
}

/// The state with what is known of the front of the log, and of what the cleaner has reached.
pub(crate) fn recover_start(
    engine: &dyn Engine,
    handle: Handle,
    node_id: i32,
) -> Result<PartitionState, StorageError> {
    let mut state = PartitionState::new(handle, node_id);
    if let Some(value) = engine.get(Family::Log, &keys::start(handle))? {
        let start = keys::parse_start(&value).ok_or_else(|| damaged(handle, "the log start"))?;
        state.log_start = start.offset;
        state.local_log_start = start.local_offset;
        state.first_kept = match start.first_kept {
            Some(first_kept) => first_kept.min(start.offset),
            None => batch_holding(engine, handle, 0, start.offset)?,
        };
    }
    if let Some(value) = engine.get(Family::Log, &keys::cleaned(handle))? {
        state.cleaned =
            keys::parse_cleaned(&value).ok_or_else(|| damaged(handle, "the cleaner's offset"))?;
    }
    Ok(state)
}

/// The base offset of the batch that holds `offset`, or `offset` when no batch does. No batch that begins below
/// `first_kept` is looked at.
///
/// # Errors
/// The store's, or damage.
pub(crate) fn batch_holding(
    engine: &dyn Engine,
    handle: Handle,
    first_kept: i64,
    offset: i64,
) -> Result<i64, StorageError> {
    let at = keys::batch(handle, offset);
    // Where a batch begins there, the one before it is not read: it may be damaged.
    if engine.get(Family::Log, &at)?.is_some() {
        return Ok(offset);
    }
    let found = engine.last(Family::Log, &keys::batch(handle, first_kept), &at)?;
    let Some((_, value)) = found else {
        return Ok(offset);
    };
    let header = stored_header(handle, &value)?;
    let holds = header.last_offset() >= offset;
    Ok(if holds { header.base_offset } else { offset })
}

/// The least key that is greater than all time index entries of batches below `offset`: both grow together.
///
/// # Errors
/// The store's.
pub(crate) fn times_before(
    engine: &dyn Engine,
    handle: Handle,
    offset: i64,
) -> Result<Vec<u8>, StorageError> {
    let (from, to) = keys::times(handle);
    let mut end = from.clone();
    engine.scan(Family::Log, Start::At(&from), &to, &mut |key, _| {
        if keys::parse_time(key).is_some_and(|(_, base)| base >= offset) {
            return ControlFlow::Break(());
        }
        end.clear();
        end.extend_from_slice(key);
        end.push(0);
        ControlFlow::Continue(())
    })?;
    Ok(end)
}

pub(crate) fn recover_epochs(
    engine: &dyn Engine,
    state: &mut PartitionState,
) -> Result<(), StorageError> {
    let (from, to) = keys::epochs(state.handle, 0);
    let mut bad = false;
    engine.scan(
        Family::Log,
        Start::At(&from),
        &to,
        &mut |key, value| match keys::parse_epoch(key, value) {
            Some((epoch, start)) => {
                state.epochs.insert(epoch, start);
                ControlFlow::Continue(())
            }
            None => {
                bad = true;
                ControlFlow::Break(())
            }
        },
    )?;
    if bad {
        return Err(damaged(state.handle, "a leader epoch"));
    }
    state.leader_epoch = state.epochs.last_key_value().map_or(0, |(epoch, _)| *epoch);
    state.trim_recovered_epochs();
    Ok(())
}

fn recover_aborted(engine: &dyn Engine, state: &mut PartitionState) -> Result<(), StorageError> {
    let (from, to) = keys::aborteds(state.handle, state.log_start);
    let mut bad = false;
    engine.scan(
        Family::Log,
        Start::At(&from),
        &to,
        &mut |key, value| match keys::parse_aborted(key, value) {
            Some((last_offset, producer_id, first_offset, last_stable_offset)) => {
                state.producers.restore_aborted(AbortedTransaction {
                    producer_id,
                    first_offset,
                    last_offset,
                    last_stable_offset,
                });
                ControlFlow::Continue(())
            }
            None => {
                bad = true;
                ControlFlow::Break(())
            }
        },
    )?;
    if bad {
        return Err(damaged(state.handle, "an aborted transaction"));
    }
    Ok(())
}

/// Loads the newest snapshot and returns its offset. Without one no producer ever wrote here. Snapshots are written and
/// removed as a whole: one that is not is damaged, and to go on without it would take retries for new batches.
pub(crate) fn recover_snapshot(
    engine: &dyn Engine,
    state: &mut PartitionState,
) -> Result<Option<i64>, StorageError> {
    let handle = state.handle;
    let (from, to) = keys::producers(handle, 0);
    let mut building: BTreeMap<i64, Vec<(i64, ProducerState)>> = BTreeMap::new();
    let mut complete: Vec<i64> = Vec::new();
    let mut bad = false;
    engine.scan(Family::Log, Start::At(&from), &to, &mut |key, value| {
        match keys::parse_producer(key) {
            Some((offset, Some(producer_id))) => match keys::parse_producer_value(value) {
                Some(producer) => building
                    .entry(offset)
                    .or_default()
                    .push((producer_id, producer)),
                None => bad = true,
            },
            Some((offset, None)) => {
                let held = building.get(&offset).map_or(0, Vec::len);
                bad = keys::parse_producer_end(value) != u32::try_from(held).ok();
                complete.push(offset);
            }
            None => bad = true,
        }
        if bad {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    let endless = building
        .keys()
        .any(|offset| complete.binary_search(offset).is_err());
    if bad || endless {
        return Err(damaged(handle, "a producer snapshot"));
    }
    complete.retain(|offset| *offset <= state.log_end);
    let Some(newest) = complete.last().copied() else {
        return Ok(None);
    };
    // Older ones may need batches that are erased.
    complete.retain(|offset| *offset >= state.log_start || *offset == newest);
    for (producer_id, producer) in building.remove(&newest).unwrap_or_default() {
        state.producers.restore(producer_id, producer);
    }
    state.snapshots = complete;
    Ok(Some(newest))
}

/// Adds up the chunks, and leaves the open one empty behind the last of them.
fn recover_chunks(
    engine: &dyn Engine,
    state: &mut PartitionState,
    indexed: i64,
) -> Result<(), StorageError> {
    let (from, to) = keys::chunks(state.handle, 0);
    let mut end = 0;
    let mut bad = false;
    engine.scan(
        Family::Log,
        Start::At(&from),
        &to,
        &mut |key, value| match keys::parse_chunk(key, value) {
            Some(chunk) if chunk.base_offset >= end && chunk.end_offset <= state.log_end => {
                end = chunk.end_offset;
                if chunk.end_offset > state.log_start {
                    state.size_bytes += chunk.bytes;
                }
                state.running_max_timestamp = state.running_max_timestamp.max(chunk.max_timestamp);
                ControlFlow::Continue(())
            }
            _ => {
                bad = true;
                ControlFlow::Break(())
            }
        },
    )?;
    if bad {
        return Err(damaged(state.handle, "a chunk"));
    }
    if indexed < end {
        // Some of it came after the last time index entry; the next entry is due when the maximum grows.
        state.bytes_since_time_entry = usize::MAX / 2;
    }
    state.open_chunk = Chunk::empty_at(end);
    Ok(())
}

/// Base offset of the first batch that a start reads; `open` is where the open chunk begins.
pub(crate) fn replay_from(state: &PartitionState, open: i64, snapshot: Option<i64>) -> i64 {
    match open.min(snapshot.unwrap_or(i64::MAX)) {
        // The log start may lie inside of a batch, which counts all the same.
        begin if begin <= state.log_start => state.first_kept,
        begin => begin,
    }
}

/// Reads the batches that came after the snapshot and after the last chunk, once.
fn replay_tail(
    engine: &dyn Engine,
    state: &mut PartitionState,
    snapshot: Option<i64>,
    indexed: i64,
) -> Result<(), StorageError> {
    let handle = state.handle;
    let open = state.open_chunk.base_offset;
    let (key, to) = keys::batches(handle, replay_from(state, open, snapshot));
    let start = Start::At(&key);
    let mut outcome = Ok(());
    engine.scan(Family::Log, start, &to, &mut |_, value| {
        let step = stored_header(handle, value).map(|header| {
            if header.base_offset >= open {
                state.size_bytes += value.len() as u64;
                state.open_chunk.add(&header, value.len());
                state.running_max_timestamp = state.running_max_timestamp.max(header.max_timestamp);
                if header.base_offset > indexed {
                    state.bytes_since_time_entry += value.len();
                }
            }
            if snapshot.is_some_and(|snapshot| header.base_offset >= snapshot) {
                state.replay(&header, value);
            }
        });
        match step {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                outcome = Err(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if state.open_chunk.bytes == 0 {
        state.open_chunk = Chunk::empty_at(state.log_end);
    }
    outcome
}
