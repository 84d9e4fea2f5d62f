//! What a log loses, at its front and at its end: the plan of each cut, and the state once the cut is on disk.
//! Called by the writer's rare changes (`writer/changes.rs`); the caller looks up what lies in the store.

use super::{Cut, PartitionState};
use crate::engine::{Family, WriteOps};
use crate::error::StorageError;
use crate::keys;

impl PartitionState {
    /// Checks an offset to delete up to.
    ///
    /// # Errors
    /// An offset outside of `0..=high watermark`.
    pub fn check_delete_prefix(&self, offset: i64) -> Result<(), StorageError> {
        if offset > self.high_watermark || offset < 0 {
            return Err(StorageError::OffsetOutOfRange {
                offset,
                log_start: self.log_start,
                log_end: self.high_watermark,
            });
        }
        Ok(())
    }

    /// Plans the deletion of everything before `offset`, which is above the log start. No offset moves until
    /// `deleted_prefix`.
    pub(crate) fn plan_delete_prefix(&mut self, offset: i64, cut: &Cut) -> WriteOps {
        let mut ops = WriteOps::new();
        let handle = self.handle;
        let first_kept = cut.first_kept;
        ops.put(
            Family::Log,
            keys::start(handle),
            keys::start_value(offset, offset),
        );
        let from = keys::batches(handle, 0).0;
        ops.delete_range(Family::Log, from, keys::batch(handle, first_kept));
        let from = keys::aborteds(handle, 0).0;
        ops.delete_range(Family::Log, from, keys::aborteds(handle, offset).0);
        self.keep_snapshots_from(first_kept, &mut ops);
        let from = keys::chunks(handle, 0).0;
        ops.delete_range(Family::Log, from, keys::chunk(handle, first_kept));
        if let Some(rest) = &cut.rest {
            let key = keys::chunk(handle, rest.base_offset);
            ops.put(Family::Log, key, keys::chunk_value(rest));
        }
        let current = self
            .epochs
            .range(..)
            .rev()
            .find(|(_, start)| **start <= offset)
            .map(|(epoch, _)| *epoch);
        if let Some(current) = current {
            let from = keys::epochs(handle, 0).0;
            ops.delete_range(Family::Log, from, keys::epoch(handle, current));
            ops.put(
                Family::Log,
                keys::epoch(handle, current),
                keys::epoch_value(offset),
            );
        }
        ops
    }

    /// Removes the snapshots before `first_kept`: the batches between them and that offset go, and a state that
    /// misses them would take every producer's next batch for a gap. One snapshot at least is left.
    fn keep_snapshots_from(&mut self, first_kept: i64, ops: &mut WriteOps) {
        let Some(newest) = self.snapshots.last().copied() else {
            return;
        };
        if newest < first_kept {
            self.snapshot(ops);
        }
        self.snapshots.retain(|offset| *offset >= first_kept);
        ops.delete_range(
            Family::Log,
            keys::producers(self.handle, 0).0,
            keys::producers(self.handle, first_kept).0,
        );
    }

    /// The deletion planned by `plan_delete_prefix` is on disk.
    pub(crate) fn deleted_prefix(&mut self, offset: i64, cut: &Cut) {
        if offset <= self.log_start {
            return;
        }
        self.size_bytes = self.size_bytes.saturating_sub(cut.deleted_bytes);
        self.open_chunk = cut.open;
        self.log_start = offset;
        self.local_log_start = offset;
        self.producers.forget_before(offset);
        let current = self
            .epochs
            .iter()
            .rev()
            .find(|(_, start)| **start <= offset)
            .map(|(epoch, _)| *epoch);
        if let Some(current) = current {
            self.epochs = self.epochs.split_off(&current);
            self.epochs.insert(current, offset);
        }
        self.check_invariant();
    }

    /// What a truncation to `end` (a batch boundary) removes. The state is recovered anew afterwards.
    /// `time_from` is the first time index entry of a batch at or above `end`, `chunk_from` the base offset of the
    /// first chunk that reaches beyond it.
    pub fn plan_truncate(&self, end: i64, time_from: Option<Vec<u8>>, chunk_from: i64) -> WriteOps {
        let handle = self.handle;
        let mut ops = WriteOps::new();
        let (from, to) = keys::batches(handle, end);
        ops.delete_range(Family::Log, from, to);
        if let Some(from) = time_from {
            ops.delete_range(Family::Log, from, keys::times(handle).1);
        }
        let (from, to) = keys::producers(handle, end + 1);
        ops.delete_range(Family::Log, from, to);
        let (from, to) = keys::chunks(handle, chunk_from);
        ops.delete_range(Family::Log, from, to);
        let cleaned = self.cleaned.cut_at(end);
        if cleaned != self.cleaned {
            ops.put(
                Family::Log,
                keys::cleaned(handle),
                keys::cleaned_value(&cleaned),
            );
        }
        if self.snapshots.first().is_some_and(|oldest| *oldest > end) {
            // No snapshot at all would mean: no producer ever. An empty one at 0 has everything replayed that
            // is left; so does Kafka (`UnifiedLog.rebuildProducerState`).
            ops.put(
                Family::Log,
                keys::producer_end(handle, 0),
                keys::producer_end_value(0),
            );
        }
        let (from, to) = keys::aborteds(handle, end);
        ops.delete_range(Family::Log, from, to);
        if let Some((epoch, _)) = self.epochs.iter().find(|(_, start)| **start >= end) {
            let (from, to) = keys::epochs(handle, *epoch);
            ops.delete_range(Family::Log, from, to);
        }
        ops
    }

    /// What a truncation of everything, to begin anew at `offset`, writes.
    pub fn plan_truncate_fully(&self, offset: i64) -> WriteOps {
        let mut ops = WriteOps::new();
        let (from, to) = keys::partition(self.handle);
        ops.delete_range(Family::Log, from, to);
        ops.put(
            Family::Log,
            keys::start(self.handle),
            keys::start_value(offset, offset),
        );
        ops
    }

    /// Takes over what was recovered after a truncation. Leader, replicas and high watermark are not of the
    /// log's bytes: they stay, the last one cut to the log.
    pub(crate) fn truncated(&mut self, recovered: Self) {
        let before = std::mem::replace(self, recovered);
        self.leader_epoch = before.leader_epoch;
        self.isr = before.isr;
        self.generation = before.generation + 1;
        self.edition = before.edition;
        self.high_watermark = before.high_watermark.clamp(self.log_start, self.log_end);
        self.follower_ends = before.follower_ends;
        for end in self.follower_ends.values_mut() {
            *end = (*end).min(self.log_end);
        }
        self.commit();
    }
}
