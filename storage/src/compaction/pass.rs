//! What becomes of every batch of a log in one cleaning round, pure. Fed by `log/cleaner.rs` with all batches that
//! are stored, in order; it never moves an offset and keeps no batch.
//!
//! What stays (Kafka's `Cleaner.shouldRetainRecord` and `checkBatchRetention`):
//!
//! ```text
//! record of data    if no newer record of its key is mapped, and it has a value or its batch's delete horizon is not
//!                   reached; one that is not mapped yet in any case, one without key never
//! aborted data      never
//! marker            until its transaction has no batch left and its delete horizon is reached
//! batch with none   as a header without records while it is the newest of an active producer or ends where the
//!                   cleanable part ends; else not at all
//! ```
//!
//! A batch with a tombstone that stays, and the marker of a transaction that has no batch left, get their delete
//! horizon in the first round that meets them (KIP-534).

use std::collections::HashMap;

use bytes::Bytes;
use ottla_protocol::batch::BatchHeader;
use ottla_protocol::records::{DeleteHorizon, RecordsError, Retained, emptied, retain_records};

use super::{OffsetMap, Transactions};
use crate::partition::marker;
use crate::producers::AbortedTransaction;

/// What becomes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its bytes stay as they are.
    Keep,
    /// These bytes take its place, at the same base offset.
    Replace(Bytes),
    /// It goes.
    Remove,
}

/// The newest batch of a producer that is remembered (Kafka's `LastRecord`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastRecord {
    /// Its last offset; none when only markers were seen.
    pub(crate) offset: Option<i64>,
    /// The producer's epoch.
    pub(crate) epoch: i16,
}

/// How far a round goes, and when it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach {
    /// First offset that cannot be cleaned, in this round or a later one.
    pub(crate) first_uncleanable: i64,
    /// Milliseconds since 1970.
    pub(crate) now_ms: i64,
    /// `delete.retention.ms`
    pub(crate) delete_retention_ms: i64,
}

/// What a round has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) records_read: u64,
    pub(crate) records_kept: u64,
    /// Offset after the last tombstone that was removed because its time had come; 0 for none.
    pub(crate) deletes_to: i64,
}

/// One round's filter.
#[derive(Debug)]
pub(crate) struct Pass {
    map: OffsetMap,
    transactions: Transactions,
    producers: HashMap<i64, LastRecord>,
    reach: Reach,
    tally: Tally,
    forgotten: Vec<AbortedTransaction>,
}

impl Pass {
    /// A filter by these newest offsets; `aborted` are the aborted transactions of the whole log.
    pub(crate) fn new(
        map: OffsetMap,
        aborted: Vec<AbortedTransaction>,
        producers: HashMap<i64, LastRecord>,
        reach: Reach,
    ) -> Self {
        Self {
            map,
            transactions: Transactions::new(aborted),
            producers,
            reach,
            tally: Tally::default(),
            forgotten: Vec::new(),
        }
    }

    /// What was done so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Takes the aborted transactions that readers need not be told of any more, since the last call.
    pub(crate) fn take_forgotten(&mut self) -> Vec<AbortedTransaction> {
        std::mem::take(&mut self.forgotten)
    }

    /// A batch goes by that lies before the log start, but is still stored: the marker of its transaction stays, too, so
    /// that whoever reads all that is stored does not find a transaction without an end.
    pub(crate) fn pass_over(&mut self, header: &BatchHeader, bytes: &[u8]) {
        if header.is_control() {
            let commits = marker(header, bytes).map(|(commits, _)| commits);
            self.transactions.ended(header, commits);
        } else {
            self.transactions.is_aborted(header);
        }
    }

    /// What becomes of the next batch. `bytes` is exactly that batch.
    ///
    /// # Errors
    /// Records that cannot be read.
    pub(crate) fn batch(
        &mut self,
        header: &BatchHeader,
        bytes: &[u8],
    ) -> Result<Fate, RecordsError> {
        let due = header
            .delete_horizon_ms()
            .is_some_and(|horizon_ms| horizon_ms <= self.reach.now_ms);
        let (discarded, empty_transaction) = if header.is_control() {
            let commits = marker(header, bytes).map(|(commits, _)| commits);
            let ended = self.transactions.ended(header, commits);
            self.forgotten.extend(ended.forgotten);
            (ended.is_empty && due, ended.is_empty)
        } else {
            (self.transactions.is_aborted(header), false)
        };
        let records = u64::try_from(header.record_count).unwrap_or(0);
        self.tally.records_read += records;
        let retained = if discarded || header.record_count == 0 {
            Retained::Nothing
        } else {
            self.retain(header, bytes, due, empty_transaction)?
        };
        Ok(match retained {
            Retained::Unchanged => {
                self.tally.records_kept += records;
                Fate::Keep
            }
            Retained::Rewritten(batch) => {
                let left = BatchHeader::parse(&batch).map_or(0, |left| left.record_count);
                self.tally.records_kept += u64::try_from(left).unwrap_or(0);
                Fate::Replace(batch.into())
            }
            Retained::Nothing if !self.stays_empty(header) => Fate::Remove,
            Retained::Nothing if header.record_count == 0 => Fate::Keep,
            Retained::Nothing => Fate::Replace(emptied(bytes)?.into()),
        })
    }

    fn retain(
        &mut self,
        header: &BatchHeader,
        bytes: &[u8],
        due: bool,
        empty_transaction: bool,
    ) -> Result<Retained, RecordsError> {
        let horizon = DeleteHorizon {
            at_ms: (self.reach.now_ms).saturating_add(self.reach.delete_retention_ms),
            empty_transaction,
        };
        // It passed the bound for decompressed bytes on its way in, which may have been another one then.
        retain_records(bytes, usize::MAX, horizon, |record| {
            if header.is_control() {
                return true;
            }
            let offset = header.base_offset + i64::from(record.offset_delta);
            if offset > self.map.latest() {
                return true;
            }
            let Some(key) = record.key else {
                return false;
            };
            if self.map.newest(key).is_some_and(|newest| offset < newest) {
                return false;
            }
            if record.value.is_none() && due {
                self.tally.deletes_to = self.tally.deletes_to.max(offset + 1);
                return false;
            }
            true
        })
    }

    /// Whether a batch must be there even without records: it tells of its producer, or where the log ends.
    fn stays_empty(&self, header: &BatchHeader) -> bool {
        let last_of_producer =
            self.producers
                .get(&header.producer_id)
                .is_some_and(|last| match last.offset {
                    Some(offset) => header.last_offset() == offset,
                    None => header.is_control() && header.producer_epoch == last.epoch,
                });
        last_of_producer || header.next_offset() == self.reach.first_uncleanable
    }
}
