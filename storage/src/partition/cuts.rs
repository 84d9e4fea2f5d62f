//! What a log loses, at its front and at its end: the plan of each cut, and the state once the cut is on disk.
//! Called by the writer's rare changes (`writer/changes.rs`); the caller looks up what lies in the store.

use super::{Cut, PartitionState};
use crate::engine::{Family, WriteOps};
use crate::error::StorageError;
use crate::keys;

/// Keys from the first one to before the second.
pub(crate) type Range = (Vec<u8>, Vec<u8>);

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

    /// Plans the move of the log start up to `offset`. No offset moves until `deleted_prefix`, and nothing that lies
    /// before it is removed: that is for a later write (`erasable`), which a power cut takes before this one. The plan
    /// must be written: a snapshot that it brings counts as there.
    pub(crate) fn plan_delete_prefix(&mut self, offset: i64, cut: &Cut) -> WriteOps {
        let mut ops = WriteOps::new();
        let handle = self.handle;
        ops.put(
            Family::Log,
            keys::start(handle),
            keys::start_value(offset, cut.first_kept),
        );
        // A state that misses the batches between a snapshot and the first one kept would take every producer's next
        // batch for a gap. So there is always a snapshot that needs none of them.
        let newest = self.snapshots.last().copied();
        if newest.is_some_and(|newest| newest < cut.first_kept) {
            self.snapshot(&mut ops);
        }
        if let Some(rest) = &cut.rest {
            let key = keys::chunk(handle, rest.base_offset);
            ops.put(Family::Log, key, keys::chunk_value(rest));
        }
        if let Some(current) = self.epoch_holding(offset) {
            let key = keys::epoch(handle, current);
            ops.put(Family::Log, key, keys::epoch_value(offset));
        }
        ops
    }

    /// The move planned by `plan_delete_prefix` is on disk.
    pub(crate) fn deleted_prefix(&mut self, offset: i64, cut: &Cut) {
        if offset <= self.log_start {
            return;
        }
        self.size_bytes = self.size_bytes.saturating_sub(cut.deleted_bytes);
        self.open_chunk = cut.open;
        self.log_start = offset;
        self.local_log_start = offset;
        self.first_kept = cut.first_kept;
        self.snapshots.retain(|held| *held >= cut.first_kept);
        self.producers.forget_before(offset);
        if let Some(current) = self.epoch_holding(offset) {
            self.epochs = self.epochs.split_off(&current);
            self.epochs.insert(current, offset);
        }
        self.check_invariant();
    }

    /// The epoch that `offset` lies in, by where each begins.
    fn epoch_holding(&self, offset: i64) -> Option<i32> {
        let mut newest_first = self.epochs.iter().rev();
        let held = newest_first.find(|(_, start)| **start <= offset);
        held.map(|(epoch, _)| *epoch)
    }

    /// Forgets the epochs that ended before the log start, and are still in the store: the one it lies in was written
    /// anew when it moved.
    pub(crate) fn trim_recovered_epochs(&mut self) {
        let mut oldest_first = self.epochs.iter();
        let current = oldest_first.find(|(_, start)| **start == self.log_start);
        if let Some(current) = current.map(|(epoch, _)| *epoch) {
            self.epochs = self.epochs.split_off(&current);
        }
    }

    /// What lies before the log start, each as the range that may be removed; `chunk` is the base offset of the first
    /// chunk with a batch that is kept, `times_to` the key before which time index entries go.
    pub(crate) fn erasable(&self, chunk: i64, times_to: Vec<u8>) -> Vec<Range> {
        let handle = self.handle;
        let mut ranges = vec![
            (keys::batch(handle, 0), keys::batch(handle, self.first_kept)),
            (keys::times(handle).0, times_to),
            (keys::chunk(handle, 0), keys::chunk(handle, chunk)),
            (
                keys::aborteds(handle, 0).0,
                keys::aborteds(handle, self.log_start).0,
            ),
        ];
        if let Some(oldest) = self.snapshots.first() {
            ranges.push((
                keys::producers(handle, 0).0,
                keys::producers(handle, *oldest).0,
            ));
        }
        if let Some((oldest, _)) = self.epochs.first_key_value() {
            ranges.push((keys::epoch(handle, 0), keys::epoch(handle, *oldest)));
        }
        ranges
    }

    /// What a truncation to `end` (a batch boundary) removes. The state is recovered anew afterwards.
    /// `times_from` is the key from which time index entries are of batches at or above `end`, `chunk_from` the base
    /// offset of the first chunk that reaches beyond it.
    pub fn plan_truncate(&self, end: i64, times_from: Vec<u8>, chunk_from: i64) -> WriteOps {
        let handle = self.handle;
        let mut ops = WriteOps::new();
        let (from, to) = keys::batches(handle, end);
        ops.delete_range(Family::Log, from, to);
        ops.delete_range(Family::Log, times_from, keys::times(handle).1);
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
            // is left; so does Kafka (`UnifiedLog.rebuildProducerState`). Older ones of a front that is deleted
            // but not erased yet must not stand in its way.
            let from = keys::producers(handle, 0).0;
            ops.delete_range(Family::Log, from, keys::producers(handle, end + 1).0);
            ops.put(
                Family::Log,
                keys::producer_end(handle, 0),
                keys::producer_end_value(0),
            );
        }
        let (from, to) = keys::aborteds(handle, end);
        ops.delete_range(Family::Log, from, to);
        // What is left of the front's epochs must not come back where all others go.
        if let Some((oldest, _)) = self.epochs.first_key_value() {
            let from = keys::epochs(handle, 0).0;
            ops.delete_range(Family::Log, from, keys::epoch(handle, *oldest));
        }
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
        self.intervals = before.intervals;
        self.generation = before.generation + 1;
        self.edition = before.edition;
        self.forgets = before.forgets;
        self.high_watermark = before.high_watermark.clamp(self.log_start, self.log_end);
        self.follower_ends = before.follower_ends;
        for end in self.follower_ends.values_mut() {
            *end = (*end).min(self.log_end);
        }
        self.commit();
    }
}
