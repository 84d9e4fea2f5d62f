//! What is remembered of one producer: its epoch and its newest batches. Changed by `Producers` only, as the log says.

use std::collections::VecDeque;

/// Batches remembered for each producer: the most it may have in flight.
pub const BATCHES_KEPT: usize = 5;

/// What is remembered of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMetadata {
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Records in the batch, less one.
    pub offset_delta: i32,
    /// Its greatest timestamp.
    pub timestamp: i64,
}

impl BatchMetadata {
    /// Sequence of the first record; wraps below 0 as sequences do.
    pub fn first_sequence(&self) -> i32 {
        let first = i64::from(self.last_sequence) - i64::from(self.offset_delta);
        if first < 0 {
            (first + (1 << 31)) as i32
        } else {
            first as i32
        }
    }

    /// Offset of the first record.
    pub fn first_offset(&self) -> i64 {
        self.last_offset - i64::from(self.offset_delta)
    }
}

/// What is remembered of one producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerState {
    /// Newest epoch seen.
    pub epoch: i16,
    /// Newest epoch of a transaction coordinator that wrote a marker; -1 when none did.
    pub coordinator_epoch: i32,
    /// Greatest timestamp of its newest batch.
    pub last_timestamp: i64,
    /// First offset of its open transaction.
    pub open_transaction: Option<i64>,
    /// Newest batches of this epoch, oldest first.
    pub batches: VecDeque<BatchMetadata>,
}

impl ProducerState {
    pub(super) fn new(epoch: i16) -> Self {
        Self {
            epoch,
            coordinator_epoch: -1,
            last_timestamp: -1,
            open_transaction: None,
            batches: VecDeque::new(),
        }
    }

    /// Of another epoch no batch counts any more. It may be a lower one, where the producer had expired when it
    /// wrote: the log says what was accepted.
    pub(super) fn take_epoch(&mut self, epoch: i16) {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }

    pub(super) fn push(&mut self, batch: BatchMetadata) {
        if self.batches.len() == BATCHES_KEPT {
            self.batches.pop_front();
        }
        // Exactly one more: most producers of a flood write once.
        self.batches.reserve_exact(1);
        self.batches.push_back(batch);
    }

    /// How recently it was used: by the log's order where it has a batch, else by time and before all that have one.
    pub(super) fn recency(&self) -> i64 {
        match self.batches.back() {
            Some(newest) => newest.last_offset,
            None => i64::MIN.saturating_add(self.last_timestamp.max(0)),
        }
    }
}
