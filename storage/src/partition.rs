//! The state of one partition's log, pure: offsets, leader epochs, producers, time index. It plans what an
//! append writes and is told what became of it. Called by `writer.rs` and `recovery.rs`; it does no I/O and
//! holds no lock.
//!
//! Invariant, checked after every change:
//! `log start <= last stable offset <= high watermark <= committed end <= written end <= log end`
//! and `fsynced end <= written end`. A plan moves the log end at once, so that the next plan continues it;
//! the other ends follow when the write and the sync returned.

mod chunks;
mod cleaning;
mod cuts;
mod derived;
mod intervals;

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use ottla_protocol::batch::{self, BatchHeader};

pub use self::chunks::Chunk;
pub(crate) use self::chunks::Cut;
pub(crate) use self::cleaning::{CleaningStep, Edit, Recount, recount};
pub(crate) use self::cuts::Range;
pub(crate) use self::derived::marker;
pub(crate) use self::intervals::Intervals;
use crate::compaction::Cleaned;
use crate::engine::{Family, WriteOps};
use crate::error::StorageError;
use crate::keys::{self, Handle};
use crate::producers::{AbortedTransaction, Producers, Sequenced};

/// How an append behaves; from the topic's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// `flush.messages`: the append that completes this many messages waits for a sync. 1: every one does.
    pub flush_messages: i64,
    /// `flush.ms`: the log is synced at most this long after a write. Never delays an answer.
    pub flush_ms: i64,
    /// `message.timestamp.type=LogAppendTime`: batches are stamped with the broker's time.
    pub log_append_time: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            flush_messages: 1,
            flush_ms: i64::MAX,
            log_append_time: false,
        }
    }
}

/// All offsets of a partition, as one consistent reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    /// First offset a client may read.
    pub log_start: i64,
    /// First offset held on this broker's disk.
    pub local_log_start: i64,
    /// First offset that an open transaction hides; the high watermark when there is none.
    pub last_stable: i64,
    /// First offset that is not yet on all in-sync replicas.
    pub high_watermark: i64,
    /// First offset that this broker has not committed (`flush.messages` says what that takes).
    pub committed_end: i64,
    /// First offset that a power cut may take.
    pub fsynced_end: i64,
    /// Offset of the next record.
    pub log_end: i64,
    /// Epoch of the partition's leader.
    pub leader_epoch: i32,
}

/// What an append will be answered once it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset after the last record.
    pub end_offset: i64,
    /// The time stamped on the batch under LogAppendTime.
    pub log_append_time: Option<i64>,
    /// The partition's log start at the time.
    pub log_start: i64,
    /// Whether the batch was a retry of one that is in the log.
    pub duplicate: bool,
}

/// An append on its way.
#[derive(Debug)]
pub struct Planned {
    /// What to answer.
    pub appended: Appended,
    /// What to write; empty for a duplicate.
    pub ops: WriteOps,
    /// The batch as it is stored, and the bytes of its allocation; `None` for a duplicate.
    pub stored: Option<(Bytes, usize)>,
    /// Whether it commits only after a sync.
    pub needs_sync: bool,
}

/// The state. Fields that recovery fills are visible in the crate.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionState {
    pub(crate) handle: Handle,
    pub(crate) node_id: i32,
    pub(crate) isr: Vec<i32>,
    pub(crate) follower_ends: BTreeMap<i32, i64>,
    pub(crate) leader_epoch: i32,
    pub(crate) log_start: i64,
    pub(crate) local_log_start: i64,
    /// Base offset of the batch that the log start lies in, or the log start. No batch that begins below is held.
    pub(crate) first_kept: i64,
    pub(crate) log_end: i64,
    pub(crate) written_end: i64,
    pub(crate) fsynced_end: i64,
    pub(crate) sync_required_to: i64,
    pub(crate) committed_end: i64,
    pub(crate) high_watermark: i64,
    pub(crate) unflushed_messages: i64,
    pub(crate) epochs: BTreeMap<i32, i64>,
    pub(crate) producers: Producers,
    pub(crate) running_max_timestamp: i64,
    pub(crate) indexed_max_timestamp: i64,
    pub(crate) bytes_since_time_entry: usize,
    pub(crate) snapshots: Vec<i64>,
    pub(crate) bytes_since_snapshot: usize,
    /// When chunks are closed and producers snapshot.
    pub(crate) intervals: Intervals,
    /// Bytes of all batches that are held, the one that the log start lies in included.
    pub(crate) size_bytes: u64,
    /// The batches after the last chunk that was written.
    pub(crate) open_chunk: Chunk,
    /// What the log cleaner has reached.
    pub(crate) cleaned: Cleaned,
    /// Raised whenever the cleaner changes batches, so that nobody changes what is no longer so.
    pub(crate) edition: u64,
    /// Raised whenever the cleaner forgets an aborted transaction.
    pub(crate) forgets: u64,
    /// Raised by every truncation, so that a sync of the log before it is not credited to the one after.
    pub(crate) generation: u64,
}

impl PartitionState {
    /// An empty log that begins at offset 0.
    pub fn new(handle: Handle, node_id: i32) -> Self {
        Self {
            handle,
            node_id,
            isr: vec![node_id],
            follower_ends: BTreeMap::new(),
            leader_epoch: 0,
            log_start: 0,
            local_log_start: 0,
            first_kept: 0,
            log_end: 0,
            written_end: 0,
            fsynced_end: 0,
            sync_required_to: 0,
            committed_end: 0,
            high_watermark: 0,
            unflushed_messages: 0,
            epochs: BTreeMap::new(),
            producers: Producers::default(),
            running_max_timestamp: i64::MIN,
            indexed_max_timestamp: i64::MIN,
            bytes_since_time_entry: 0,
            snapshots: Vec::new(),
            bytes_since_snapshot: 0,
            intervals: Intervals::of(1),
            size_bytes: 0,
            open_chunk: Chunk::empty_at(0),
            cleaned: Cleaned::default(),
            edition: 0,
            forgets: 0,
            generation: 0,
        }
    }

    /// All offsets.
    pub fn offsets(&self) -> Offsets {
        Offsets {
            log_start: self.log_start,
            local_log_start: self.local_log_start,
            last_stable: self.last_stable(),
            high_watermark: self.high_watermark,
            committed_end: self.committed_end,
            fsynced_end: self.fsynced_end,
            log_end: self.log_end,
            leader_epoch: self.leader_epoch,
        }
    }

    fn last_stable(&self) -> i64 {
        let unstable = self.producers.first_unstable_offset();
        unstable.map_or(self.high_watermark, |unstable| {
            unstable.clamp(self.log_start, self.high_watermark)
        })
    }

    /// The producers, for snapshots and descriptions.
    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// Aborted transactions with records in `from..to`.
    pub fn aborted_in(&self, from: i64, to: i64) -> Vec<AbortedTransaction> {
        self.producers.aborted_in(from, to)
    }

    /// Plans an append of one validated batch by the leader: assigns its offsets, stamps base offset and
    /// leader epoch, and takes it into the state. The caller writes plans in the order they were made.
    ///
    /// # Errors
    /// A leader epoch other than the current one; a producer's epoch or sequence, or a marker's coordinator
    /// (`producers.rs`); offsets that do not fit.
    pub fn plan_append(
        &mut self,
        mut bytes: BytesMut,
        header: &BatchHeader,
        leader_epoch: i32,
        config: &LogConfig,
        now_ms: i64,
    ) -> Result<Planned, StorageError> {
        self.check_epoch(leader_epoch)?;
        if let Sequenced::Duplicate(kept) = self.producers.check(header)? {
            return Ok(Planned {
                appended: Appended {
                    base_offset: kept.first_offset(),
                    end_offset: kept.last_offset + 1,
                    log_append_time: config.log_append_time.then_some(kept.timestamp),
                    log_start: self.log_start,
                    duplicate: true,
                },
                ops: WriteOps::new(),
                stored: None,
                needs_sync: false,
            });
        }
        let mut header = *header;
        header.base_offset = self.log_end;
        header.partition_leader_epoch = leader_epoch;
        check_offsets(&header)?;
        if let Some((_, coordinator_epoch)) = marker(&header, &bytes) {
            self.producers.check_marker(&header, coordinator_epoch)?;
        }
        batch::stamp(&mut bytes, header.base_offset, leader_epoch);
        let log_append_time = config.log_append_time.then_some(now_ms);
        if let Some(now_ms) = log_append_time {
            batch::stamp_log_append_time(&mut bytes, now_ms);
            header.max_timestamp = now_ms;
        }
        let allocated = bytes.capacity();
        let stamped = bytes.freeze();
        let ops = self.take(&header, stamped.clone());
        self.unflushed_messages = self
            .unflushed_messages
            .saturating_add(i64::from(header.record_count.max(1)));
        let needs_sync = self.unflushed_messages >= config.flush_messages;
        if needs_sync {
            self.unflushed_messages = 0;
            self.sync_required_to = self.log_end;
        }
        self.check_invariant();
        Ok(Planned {
            appended: Appended {
                base_offset: header.base_offset,
                end_offset: self.log_end,
                log_append_time,
                log_start: self.log_start,
                duplicate: false,
            },
            ops,
            stored: Some((stamped, allocated)),
            needs_sync,
        })
    }

    /// Plans an append of a batch that the leader stamped: its offset must continue the log and its epoch
    /// must not go back. The bytes are taken as they are.
    ///
    /// # Errors
    /// A gap or an overlap; an epoch below the newest in the log; offsets that do not fit.
    pub fn plan_follower_append(
        &mut self,
        bytes: &Bytes,
        header: &BatchHeader,
    ) -> Result<WriteOps, StorageError> {
        if header.base_offset != self.log_end {
            return Err(StorageError::NotContinuous {
                given: header.base_offset,
                log_end: self.log_end,
            });
        }
        let newest = self.epochs.last_key_value().map_or(-1, |(epoch, _)| *epoch);
        if header.partition_leader_epoch < newest {
            return Err(StorageError::FencedLeaderEpoch {
                given: header.partition_leader_epoch,
                current: newest,
            });
        }
        check_offsets(header)?;
        let ops = self.take(header, bytes.clone());
        self.sync_required_to = self.log_end;
        self.check_invariant();
        Ok(ops)
    }

    /// Takes a stamped batch into the state and lists what is written with it.
    fn take(&mut self, header: &BatchHeader, stamped: Bytes) -> WriteOps {
        let length = stamped.len();
        let mut ops = WriteOps::new();
        let aborted = self.take_producer(header, &stamped);
        ops.put(
            Family::Log,
            keys::batch(self.handle, header.base_offset),
            stamped,
        );
        if let Some(aborted) = aborted {
            ops.put(
                Family::Log,
                keys::aborted(self.handle, aborted.last_offset, aborted.producer_id),
                keys::aborted_value(aborted.first_offset, aborted.last_stable_offset),
            );
        }
        self.log_end = header.next_offset();
        self.take_epoch(header, &mut ops);
        self.bytes_since_time_entry += length;
        self.bytes_since_snapshot += length;
        self.take_time(header, &mut ops);
        self.take_snapshot(&mut ops);
        self.take_chunk(header, length, &mut ops);
        ops
    }

    /// Takes a batch that is already in the log into the state: recovery's half of `take`.
    pub(crate) fn replay(&mut self, header: &BatchHeader, bytes: &[u8]) {
        self.take_producer(header, bytes);
        self.bytes_since_snapshot += bytes.len();
    }

    fn take_producer(&mut self, header: &BatchHeader, bytes: &[u8]) -> Option<AbortedTransaction> {
        if let Some((commit, coordinator_epoch)) = marker(header, bytes) {
            return self
                .producers
                .apply_marker(header, commit, coordinator_epoch);
        }
        self.producers.apply(header);
        None
    }

    /// The write of everything up to `end` returned.
    pub fn written(&mut self, end: i64) {
        self.written_end = self.written_end.max(end);
        self.commit();
    }

    /// A sync that began after everything up to `end` was written returned.
    pub fn synced(&mut self, end: i64) {
        self.fsynced_end = self.fsynced_end.max(end);
        self.commit();
    }

    /// A follower in the ISR reported its log end. Until there is a cluster, nobody does.
    pub fn follower_at(&mut self, node_id: i32, end: i64) {
        self.follower_ends.insert(node_id, end);
        self.commit();
    }

    fn commit(&mut self) {
        let end = if self.sync_required_to > self.fsynced_end {
            self.fsynced_end
        } else {
            self.written_end
        };
        self.committed_end = self.committed_end.max(end);
        // The high watermark is the least end among the in-sync replicas; this broker's is its committed end.
        let everywhere = self
            .isr
            .iter()
            .map(|node| {
                if *node == self.node_id {
                    self.committed_end
                } else {
                    self.follower_ends.get(node).copied().unwrap_or(0)
                }
            })
            .min()
            .unwrap_or(self.committed_end)
            .min(self.committed_end);
        self.high_watermark = self.high_watermark.max(everywhere);
        self.producers.committed(self.high_watermark);
        self.check_invariant();
    }

    /// Becomes leader in `leader_epoch`, with these in-sync replicas.
    pub fn become_leader(&mut self, leader_epoch: i32, isr: Vec<i32>) {
        self.leader_epoch = self.leader_epoch.max(leader_epoch);
        self.isr = isr;
        self.commit();
    }

    /// Forgets producers that wrote nothing since `oldest`.
    pub fn expire_producers(&mut self, oldest: i64) -> usize {
        self.producers.expire(oldest)
    }

    fn check_invariant(&self) {
        let offsets = self.offsets();
        assert!(
            self.first_kept <= offsets.log_start
                && offsets.log_start <= offsets.last_stable
                && offsets.last_stable <= offsets.high_watermark
                && offsets.high_watermark <= offsets.committed_end
                && offsets.committed_end <= self.written_end
                && self.written_end <= offsets.log_end
                && offsets.fsynced_end <= self.written_end,
            "offsets of handle {} out of order: {offsets:?}, written end {}",
            self.handle.0,
            self.written_end
        );
    }
}

/// Offsets must go forward and leave room for the log end after them.
fn check_offsets(header: &BatchHeader) -> Result<(), StorageError> {
    let next = header
        .base_offset
        .checked_add(i64::from(header.last_offset_delta))
        .and_then(|last| last.checked_add(1));
    if header.last_offset_delta < 0 || next.is_none() {
        return Err(StorageError::InvalidBatch(format!(
            "{} offsets from {} on",
            i64::from(header.last_offset_delta) + 1,
            header.base_offset
        )));
    }
    Ok(())
}
