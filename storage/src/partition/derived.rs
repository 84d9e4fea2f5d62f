//! What the log holds beside its batches and derives from them: leader epochs, the time index, producer
//! snapshots, and how a transaction marker reads. Called by `partition.rs` while a batch is taken into the
//! state, and to answer questions about epochs; it never moves an offset.

use bytes::Bytes;
use ottla_protocol::batch::BatchHeader;
use ottla_protocol::records;

use super::PartitionState;
use crate::engine::{Family, WriteOps};
use crate::error::StorageError;
use crate::keys;

// Both are small in unit tests, so that a few small batches cross them.

/// A time index entry is written when the maximum grew and this many bytes came since the last one.
const TIME_INDEX_INTERVAL_BYTES: usize = if cfg!(test) { 512 } else { 64 << 10 };

/// A producer snapshot is written after as many bytes of log as `intervals.rs` says, so that recovery reads no more than
/// that, or after this many times its own size, whichever is more.
const SNAPSHOT_SHARE: usize = if cfg!(test) { 1 } else { 16 };

/// A producer's share of a snapshot: key and value with five batches.
const SNAPSHOT_BYTES_EACH: usize = 165;

impl PartitionState {
    pub(super) fn take_epoch(&mut self, header: &BatchHeader, ops: &mut WriteOps) {
        let epoch = header.partition_leader_epoch;
        let newest = self.epochs.last_key_value().map_or(-1, |(epoch, _)| *epoch);
        if epoch > newest {
            self.epochs.insert(epoch, header.base_offset);
            ops.put(
                Family::Log,
                keys::epoch(self.handle, epoch),
                keys::epoch_value(header.base_offset),
            );
        }
    }

    pub(super) fn take_time(&mut self, header: &BatchHeader, ops: &mut WriteOps) {
        self.running_max_timestamp = self.running_max_timestamp.max(header.max_timestamp);
        let grew = self.running_max_timestamp > self.indexed_max_timestamp;
        let due = self.bytes_since_time_entry >= TIME_INDEX_INTERVAL_BYTES
            || self.indexed_max_timestamp == i64::MIN;
        if grew && due {
            self.indexed_max_timestamp = self.running_max_timestamp;
            self.bytes_since_time_entry = 0;
            ops.put(
                Family::Log,
                keys::time(self.handle, self.running_max_timestamp, header.base_offset),
                Bytes::new(),
            );
        }
    }

    pub(super) fn take_snapshot(&mut self, ops: &mut WriteOps) {
        // Where there was a producer once, snapshots go on even when all have expired: recovery reads from the
        // newest one.
        if self.producers.is_empty() && self.snapshots.is_empty() {
            return;
        }
        let interval = self
            .intervals
            .snapshot_bytes
            .max(self.producers.len() * SNAPSHOT_BYTES_EACH * SNAPSHOT_SHARE);
        // No snapshot at all means: no producer ever. So the first producer's first batch brings one.
        if self.snapshots.is_empty() || self.bytes_since_snapshot >= interval {
            self.snapshot(ops);
        }
    }

    /// Adds a snapshot of the producers at the log end, and the removal of all but the two newest.
    pub fn snapshot(&mut self, ops: &mut WriteOps) {
        if self.snapshots.last() == Some(&self.log_end) {
            return;
        }
        for (producer_id, state) in self.producers.iter() {
            ops.put(
                Family::Log,
                keys::producer(self.handle, self.log_end, producer_id),
                keys::producer_value(state),
            );
        }
        ops.put(
            Family::Log,
            keys::producer_end(self.handle, self.log_end),
            keys::producer_end_value(self.producers.len() as u32),
        );
        self.snapshots.push(self.log_end);
        if self.snapshots.len() > 2 {
            let kept = self.snapshots.split_off(self.snapshots.len() - 2);
            ops.delete_range(
                Family::Log,
                keys::producers(self.handle, self.snapshots[0]).0,
                keys::producers(self.handle, kept[0]).0,
            );
            self.snapshots = kept;
        }
        self.bytes_since_snapshot = 0;
    }

    /// Checks the leader epoch of a request against the current one.
    ///
    /// # Errors
    /// Older: fenced. Newer: unknown.
    pub fn check_epoch(&self, given: i32) -> Result<(), StorageError> {
        let current = self.leader_epoch;
        match given.cmp(&current) {
            std::cmp::Ordering::Less => Err(StorageError::FencedLeaderEpoch { given, current }),
            std::cmp::Ordering::Greater => Err(StorageError::UnknownLeaderEpoch { given, current }),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    /// The greatest epoch that is at most `epoch`, and where it ends; `(-1, -1)` when none is known.
    /// (Kafka's `LeaderEpochFileCache.endOffsetFor`.)
    pub fn epoch_end(&self, epoch: i32) -> (i32, i64) {
        if epoch < 0 {
            return (-1, -1);
        }
        let newest = self.epochs.last_key_value().map_or(-1, |(epoch, _)| *epoch);
        // A follower may hold newer epochs than it has been told of.
        if epoch == self.leader_epoch && epoch >= newest {
            return (epoch, self.log_end);
        }
        if epoch > newest.max(self.leader_epoch) {
            return (-1, -1);
        }
        let next = self.epochs.range(epoch + 1..).next();
        let end = next.map_or(self.log_end, |(_, start)| *start);
        match self.epochs.range(..=epoch).next_back() {
            Some((found, _)) => (*found, end),
            // Everything of that epoch is gone: the answer is where the first known one starts.
            None => (epoch, end),
        }
    }

    /// The epoch that `offset` was written in; -1 when it is not known.
    pub fn epoch_of(&self, offset: i64) -> i32 {
        self.epochs
            .iter()
            .rev()
            .find(|(_, start)| **start <= offset)
            .map_or(-1, |(epoch, _)| *epoch)
    }
}

/// The transaction marker that a batch is, if it is one: whether it commits, and its coordinator's epoch.
pub(crate) fn marker(header: &BatchHeader, bytes: &[u8]) -> Option<(bool, i32)> {
    (header.is_control() && header.has_producer_id())
        .then(|| parse_marker(bytes))
        .flatten()
}

/// Whether a transaction marker commits, and its coordinator's epoch. (Kafka's `EndTransactionMarker`:
/// key `version:2, type:2` with 0 for abort and 1 for commit, value `version:2, coordinator_epoch:4`.)
fn parse_marker(bytes: &[u8]) -> Option<(bool, i32)> {
    let mut marker = None;
    let walked = records::for_each_record(bytes, bytes.len(), |record| {
        marker = (|| {
            let kind = record.key?.get(2..4)?;
            let epoch = record.value?.get(2..6)?;
            let commit = match i16::from_be_bytes(kind.try_into().ok()?) {
                0 => false,
                1 => true,
                _ => return None,
            };
            Some((commit, i32::from_be_bytes(epoch.try_into().ok()?)))
        })();
        std::ops::ControlFlow::Break(())
    });
    walked.ok()?;
    marker
}
