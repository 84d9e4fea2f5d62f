//! Changes of a log that are rare: creation, deletion, truncation, batches of a leader, and the end of the log. (The
//! front of a log has `writer/front.rs`.) Called by `writer.rs` between two groups, so that no plan is in flight; every
//! change is synced before it is answered. It never appends as leader.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ottla_protocol::batch;

use super::Writer;
use super::syncer::{Shared, refuse};
use crate::engine::{Engine, Family, WriteOps};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle, PartitionId};
use crate::log::Partition;
use crate::partition::{Intervals, Offsets, PartitionState};
use crate::reclaim;
use crate::recovery;
use crate::waiters::{complete, lock};

/// The handle that is given away next.
pub(crate) fn stored_next_handle(engine: &dyn Engine) -> Result<Handle, StorageError> {
    match engine.get(Family::Log, &keys::next_handle())? {
        Some(value) => keys::parse_handle(&value).ok_or_else(|| {
            StorageError::Engine(EngineError::Corruption(
                "the handle counter has an unknown layout".to_owned(),
            ))
        }),
        None => Ok(Handle::METADATA),
    }
}

/// Creates partitions that are not there, durably. Called by the writer, and once at open.
pub(crate) fn create_now(
    shared: &Shared,
    ids: &[PartitionId],
) -> Result<Vec<Arc<Partition>>, StorageError> {
    let mut next_handle = lock(&shared.next_handle);
    let mut next = match *next_handle {
        Some(next) => next,
        None => stored_next_handle(shared.engine.as_ref())?,
    };
    let mut ops = WriteOps::new();
    let missing = ids.iter().filter(|id| !shared.partitions.contains_key(id));
    let intervals = Intervals::of(shared.partitions.len() + missing.count());
    let mut made: HashMap<PartitionId, Arc<Partition>> = HashMap::new();
    for id in ids {
        if shared.partitions.contains_key(id) || made.contains_key(id) {
            continue;
        }
        if (*id == PartitionId::METADATA) != (next == Handle::METADATA) {
            return Err(StorageError::Engine(EngineError::Corruption(format!(
                "handle {} would not be of its partition: the counter or the metadata partition's binding is lost",
                next.0
            ))));
        }
        ops.put(Family::Log, keys::binding(*id), keys::handle_value(next));
        let mut state = PartitionState::new(next, shared.node_id);
        state.producers.set_limit(shared.max_producers);
        state.intervals = intervals;
        made.insert(*id, Arc::new(Partition::new(*id, state)));
        next = Handle(next.0 + 1);
    }
    if !made.is_empty() {
        ops.put(Family::Log, keys::next_handle(), keys::handle_value(next));
        shared.write_durably(&ops)?;
        *next_handle = Some(next);
    }
    for (id, partition) in &made {
        shared.partitions.insert(*id, partition.clone());
    }
    ids.iter()
        .map(|id| {
            let found = shared.partitions.get(id);
            found
                .map(|entry| entry.value().clone())
                .ok_or(StorageError::NoSuchPartition)
        })
        .collect()
}

impl Writer {
    pub(super) fn append_follower(
        &mut self,
        partition: &Arc<Partition>,
        batches: &Bytes,
    ) -> Result<Offsets, StorageError> {
        self.shared.check()?;
        let mut ops = WriteOps::new();
        let mut inner = partition.lock();
        if inner.gone {
            return Err(StorageError::NoSuchPartition);
        }
        // Planned on a copy: a later batch that does not fit must leave no trace of an earlier one.
        let mut state = inner.state.clone();
        for step in batch::walk(batches) {
            let (header, bytes) =
                step.map_err(|error| StorageError::InvalidBatch(error.to_string()))?;
            ops.append(state.plan_follower_append(&batches.slice_ref(bytes), &header)?);
        }
        inner.state = state;
        drop(inner);
        self.shared.write_durably(&ops)?;
        let mut inner = partition.lock();
        let end = inner.state.log_end;
        inner.state.written(end);
        inner.state.synced(end);
        inner.tail.clear();
        let offsets = inner.state.offsets();
        let done = inner.waiters.advance(&offsets);
        drop(inner);
        complete(done);
        Ok(offsets)
    }

    /// Where batches end once the one that holds `offset` and all after it are gone. Where the cleaner left a gap
    /// before them, that is before the gap: recovery sees only batches.
    fn end_before(&self, handle: Handle, offset: i64, log_start: i64) -> Result<i64, StorageError> {
        let (from, _) = keys::batches(handle, 0);
        let mut below = offset;
        loop {
            let to = keys::batch(handle, below);
            let found = self.shared.engine.last(Family::Log, &from, &to)?;
            let Some((_, value)) = found else {
                return Ok(log_start.min(below));
            };
            let header = recovery::stored_header(handle, &value)?;
            if header.last_offset() < offset {
                return Ok(header.next_offset());
            }
            below = header.base_offset;
        }
    }

    pub(super) fn truncate(
        &mut self,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> Result<Offsets, StorageError> {
        let offsets = partition.offsets();
        if partition.is_gone() {
            return Err(StorageError::NoSuchPartition);
        }
        if offset < offsets.log_start {
            return Err(StorageError::OffsetOutOfRange {
                offset,
                log_start: offsets.log_start,
                log_end: offsets.log_end,
            });
        }
        if offset >= offsets.log_end {
            return Ok(offsets);
        }
        let end = self.end_before(partition.handle(), offset, offsets.log_start)?;
        let engine = self.shared.engine.as_ref();
        let times_from = recovery::times_before(engine, partition.handle(), end)?;
        let beyond = self
            .chunks_between(partition.handle(), end, end)?
            .first()
            .map_or(end, |chunk| chunk.base_offset);
        let ops = partition
            .lock()
            .state
            .plan_truncate(end, times_from, beyond);
        self.rebuild(partition, &ops)
    }

    pub(super) fn truncate_fully(
        &mut self,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> Result<Offsets, StorageError> {
        let ops = {
            let inner = partition.lock();
            if inner.gone {
                return Err(StorageError::NoSuchPartition);
            }
            if offset < 0 {
                return Err(StorageError::OffsetOutOfRange {
                    offset,
                    log_start: inner.state.log_start,
                    log_end: inner.state.log_end,
                });
            }
            inner.state.plan_truncate_fully(offset)
        };
        self.rebuild(partition, &ops)
    }

    /// Writes `ops` and recovers the partition's state from what is left. Appends that wait are refused.
    fn rebuild(
        &mut self,
        partition: &Arc<Partition>,
        ops: &WriteOps,
    ) -> Result<Offsets, StorageError> {
        self.shared.write_durably(ops)?;
        let recovered = recovery::recover(
            self.shared.engine.as_ref(),
            partition.handle(),
            self.shared.node_id,
            self.shared.max_producers,
        );
        let state = recovered.inspect_err(|error| {
            // The store holds another log than the state describes: nothing may be built on that.
            self.shared.fail(&match error {
                StorageError::Engine(cause) => cause.clone(),
                other => EngineError::Failed(other.to_string()),
            });
        })?;
        let mut inner = partition.lock();
        let bytes = inner.state.size_bytes.saturating_sub(state.size_bytes);
        inner.state.truncated(state);
        inner.front = None;
        inner.tail.clear();
        let offsets = inner.state.offsets();
        let waiting = inner.waiters.give_up();
        drop(inner);
        refuse(waiting, &StorageError::NoSuchPartition);
        let now = self.shared.clock.monotonic();
        lock(&self.shared.unreclaimed).add(keys::partition(partition.handle()), bytes, now);
        Ok(offsets)
    }

    pub(super) fn delete(&mut self, ids: &[PartitionId]) -> Result<(), StorageError> {
        let mut ops = WriteOps::new();
        let (mut ranges, mut bytes) = (Vec::new(), 0);
        // Nobody deletes the metadata partition, and without it the next start would be one of an empty broker.
        for id in ids.iter().filter(|id| **id != PartitionId::METADATA) {
            let Some((_, partition)) = self.shared.partitions.remove(id) else {
                continue;
            };
            let mut inner = partition.lock();
            inner.gone = true;
            inner.tail.clear();
            let waiting = inner.waiters.give_up();
            bytes += inner.state.size_bytes + inner.unerased.bytes;
            drop(inner);
            refuse(waiting, &StorageError::NoSuchPartition);
            ranges.push(keys::partition(partition.handle()));
            ops.delete(Family::Log, keys::binding(*id));
        }
        if ops.is_empty() {
            return Ok(());
        }
        // The partitions of a topic have handles in a row: their ranges become one.
        let ranges = reclaim::merged(ranges);
        for (from, to) in &ranges {
            ops.delete_range(Family::Log, from.clone(), to.clone());
        }
        self.shared.write_durably(&ops)?;
        let now = self.shared.clock.monotonic();
        let mut pending = lock(&self.shared.unreclaimed);
        for range in ranges {
            pending.add(range, std::mem::take(&mut bytes), now);
        }
        Ok(())
    }

    pub(super) fn close(&mut self) -> Result<(), StorageError> {
        let mut ops = WriteOps::new();
        for entry in self.shared.partitions.iter() {
            let mut inner = entry.value().lock();
            if !inner.state.snapshots.is_empty() {
                inner.state.snapshot(&mut ops);
            }
        }
        self.shared.write_durably(&ops)?;
        // Appends that were written but not synced are now both.
        for entry in self.shared.partitions.iter() {
            let mut inner = entry.value().lock();
            let end = inner.state.written_end;
            inner.state.synced(end);
            let offsets = inner.state.offsets();
            let done = inner.waiters.advance(&offsets);
            drop(inner);
            complete(done);
        }
        Ok(())
    }
}
