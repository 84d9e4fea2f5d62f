//! What a step of the log cleaner changes: batches that lose records or go, and all that counts them. Called by the
//! writer (`writer/cleaning.rs`); the rules of what goes are in `compaction.rs`. It never moves an offset of the log.
//!
//! A snapshot of the producers comes with the first step of a round, so that recovery never has to read a batch that
//! was cleaned to know what a producer sent. The older ones go: in what they were followed by, markers of transactions
//! that they hold for open may be gone. So a truncation to before the snapshot has everything replayed that is left,
//! which tells the last sequence of every active producer, as in Kafka.

use bytes::Bytes;

use super::{Chunk, PartitionState};
use crate::compaction::Cleaned;
use crate::engine::{Family, WriteOps};
use crate::error::StorageError;
use crate::keys;
use crate::producers::AbortedTransaction;

/// One batch that changes.
#[derive(Debug, Clone)]
pub(crate) struct Edit {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    /// Its size until now.
    pub(crate) old_bytes: usize,
    /// What takes its place; `None` when it goes.
    pub(crate) bytes: Option<Bytes>,
}

/// Changes that are made at once.
#[derive(Debug, Clone)]
pub(crate) struct CleaningStep {
    /// The log's generation when the round began.
    pub(crate) generation: u64,
    /// The log's edition that the edits were made from.
    pub(crate) edition: u64,
    /// First offset that the round does not touch.
    pub(crate) until: i64,
    /// In order of offset.
    pub(crate) edits: Vec<Edit>,
    /// Aborted transactions of which nothing but the marker is left.
    pub(crate) forgotten: Vec<AbortedTransaction>,
    /// Offset after the last tombstone that goes because its time has come; 0 for none.
    pub(crate) deletes_to: i64,
    /// The next first dirty offset, with the last step of a round.
    pub(crate) first_dirty: Option<i64>,
}

/// What counts the batches, after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recount {
    /// Closed chunks that change; one without bytes goes.
    pub(crate) closed: Vec<Chunk>,
    /// The open chunk.
    pub(crate) open: Chunk,
    /// Bytes that are no longer part of the log: the old values, which the store still has to give back.
    pub(crate) garbage: u64,
    /// Bytes that took their place.
    pub(crate) written: u64,
}

/// Counts again. `closed` are the chunks that the edits lie in, in order. A chunk keeps its offsets and its greatest
/// timestamp, which then is a bound: what it held may be gone.
pub(crate) fn recount(edits: &[Edit], mut closed: Vec<Chunk>, mut open: Chunk) -> Recount {
    let (mut garbage, mut written) = (0, 0);
    for edit in edits {
        let new = edit.bytes.as_ref().map_or(0, Bytes::len) as u64;
        let old = edit.old_bytes as u64;
        garbage += old;
        written += new;
        let holds = |chunk: &Chunk| {
            chunk.base_offset <= edit.base_offset && edit.base_offset < chunk.end_offset
        };
        let chunk = match closed.binary_search_by(|chunk| {
            if holds(chunk) {
                std::cmp::Ordering::Equal
            } else {
                chunk.base_offset.cmp(&edit.base_offset)
            }
        }) {
            Ok(at) => &mut closed[at],
            Err(_) => &mut open,
        };
        chunk.bytes = (chunk.bytes + new).saturating_sub(old);
    }
    Recount {
        closed,
        open,
        garbage,
        written,
    }
}

impl PartitionState {
    /// Whether the log is still the one that the step was made for.
    ///
    /// # Errors
    /// It was truncated, or another round changed it.
    pub(crate) fn check_cleaning(&self, step: &CleaningStep) -> Result<(), StorageError> {
        if step.generation != self.generation || step.edition != self.edition {
            return Err(StorageError::Overtaken);
        }
        Ok(())
    }

    /// What the cleaner has reached once the step is done.
    fn reached(&self, step: &CleaningStep) -> Cleaned {
        Cleaned {
            first_dirty: step.first_dirty.unwrap_or(self.cleaned.first_dirty),
            deletes_to: self.cleaned.deletes_to.max(step.deletes_to),
        }
    }

    /// Plans a step. Its edits must all be of batches that are held; no byte is counted anew until `cleaned`.
    pub(crate) fn plan_cleaning(&mut self, step: &CleaningStep, recount: &Recount) -> WriteOps {
        let mut ops = WriteOps::new();
        let handle = self.handle;
        if !step.edits.is_empty() {
            self.snapshot_beyond(step.until, &mut ops);
        }
        for edit in &step.edits {
            let key = keys::batch(handle, edit.base_offset);
            match &edit.bytes {
                Some(bytes) => ops.put(Family::Log, key, bytes.clone()),
                None => ops.delete(Family::Log, key),
            }
        }
        for chunk in &recount.closed {
            let key = keys::chunk(handle, chunk.base_offset);
            if chunk.bytes == 0 {
                ops.delete(Family::Log, key);
            } else {
                ops.put(Family::Log, key, keys::chunk_value(chunk));
            }
        }
        for gone in &step.forgotten {
            let key = keys::aborted(handle, gone.last_offset, gone.producer_id);
            ops.delete(Family::Log, key);
        }
        let reached = self.reached(step);
        if reached != self.cleaned {
            ops.put(
                Family::Log,
                keys::cleaned(handle),
                keys::cleaned_value(&reached),
            );
        }
        ops
    }

    /// Leaves only snapshots that need no batch before `until`, and one of those at least.
    fn snapshot_beyond(&mut self, until: i64, ops: &mut WriteOps) {
        if self.snapshots.first().is_none_or(|oldest| *oldest >= until) {
            return;
        }
        if self.snapshots.last().is_some_and(|newest| *newest < until) {
            self.snapshot(ops);
        }
        self.snapshots.retain(|held| *held >= until);
        if let Some(oldest) = self.snapshots.first() {
            let from = keys::producers(self.handle, 0).0;
            ops.delete_range(Family::Log, from, keys::producers(self.handle, *oldest).0);
        }
    }

    /// The step planned by `plan_cleaning` is written.
    pub(crate) fn cleaned(&mut self, step: &CleaningStep, recount: &Recount) {
        self.edition += 1;
        self.forgets += u64::from(!step.forgotten.is_empty());
        self.size_bytes = (self.size_bytes + recount.written).saturating_sub(recount.garbage);
        self.open_chunk = recount.open;
        self.producers.forget_aborted(&step.forgotten);
        self.cleaned = self.reached(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(base_offset: i64, end_offset: i64, bytes: u64) -> Chunk {
        Chunk {
            base_offset,
            end_offset,
            bytes,
            max_timestamp: 9,
        }
    }

    fn edit(base_offset: i64, old_bytes: usize, new_bytes: Option<usize>) -> Edit {
        Edit {
            base_offset,
            last_offset: base_offset,
            old_bytes,
            bytes: new_bytes.map(|len| vec![0; len].into()),
        }
    }

    #[test]
    fn bytes_are_taken_from_the_chunk_that_held_them() {
        let closed = vec![chunk(0, 10, 100), chunk(10, 20, 100), chunk(30, 40, 50)];
        let edits = [
            edit(0, 60, None),
            edit(9, 40, None),
            edit(10, 70, Some(30)),
            edit(35, 50, Some(50)),
            edit(41, 80, Some(20)),
        ];
        let found = recount(&edits, closed, chunk(40, 60, 200));
        let expected = [chunk(0, 10, 0), chunk(10, 20, 60), chunk(30, 40, 50)];
        assert_eq!(found.closed, expected);
        assert_eq!(found.open, chunk(40, 60, 140));
        assert_eq!((found.garbage, found.written), (300, 100));
    }
}
