//! The transactions of a partition's producers: what is open, what has ended and how, and where that leaves the last
//! stable offset. Never decides whether a transaction commits: the markers in the log say so.

use ottla_protocol::batch::BatchHeader;

use super::{ProducerState, Producers};
use crate::error::StorageError;

/// A transaction that ended in an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Who aborted.
    pub producer_id: i64,
    /// First offset of the transaction.
    pub first_offset: i64,
    /// Offset of the abort marker.
    pub last_offset: i64,
    /// Last stable offset once it had ended.
    pub last_stable_offset: i64,
}

impl Producers {
    /// Checks a transaction marker that a coordinator wants to write.
    ///
    /// # Errors
    /// An older coordinator epoch than one seen before.
    pub fn check_marker(
        &self,
        batch: &BatchHeader,
        coordinator_epoch: i32,
    ) -> Result<(), StorageError> {
        match self.states.get(&batch.producer_id) {
            Some(state) if coordinator_epoch < state.coordinator_epoch => {
                Err(StorageError::TransactionCoordinatorFenced {
                    given: coordinator_epoch,
                    current: state.coordinator_epoch,
                })
            }
            _ => Ok(()),
        }
    }

    /// Takes a transaction marker, with its offset, into the state and says which transaction it aborted, if it did.
    pub fn apply_marker(
        &mut self,
        batch: &BatchHeader,
        commit: bool,
        coordinator_epoch: i32,
    ) -> Option<AbortedTransaction> {
        let state = self
            .states
            .entry(batch.producer_id)
            .or_insert_with(|| ProducerState::new(batch.producer_epoch));
        state.take_epoch(batch.producer_epoch);
        state.coordinator_epoch = coordinator_epoch;
        state.last_timestamp = batch.max_timestamp;
        let ended = state.open_transaction.take();
        self.forget_oldest(batch.producer_id);
        let first_offset = ended?;
        self.open.remove(&(first_offset, batch.producer_id));
        self.ending
            .insert((first_offset, batch.producer_id), batch.last_offset());
        if commit {
            return None;
        }
        let aborted = AbortedTransaction {
            producer_id: batch.producer_id,
            first_offset,
            last_offset: batch.last_offset(),
            last_stable_offset: self.first_open_offset().unwrap_or(batch.next_offset()),
        };
        self.restore_aborted(aborted);
        Some(aborted)
    }

    /// Puts back an entry of the aborted index.
    pub fn restore_aborted(&mut self, aborted: AbortedTransaction) {
        self.aborted
            .insert((aborted.last_offset, aborted.producer_id), aborted);
    }

    /// First offset of the oldest open transaction.
    pub fn first_open_offset(&self) -> Option<i64> {
        self.open.first().map(|(offset, _)| *offset)
    }

    /// First offset of the oldest transaction that is open or could be again: a power cut may still take its
    /// marker. No reader of committed data goes beyond it.
    pub fn first_unstable_offset(&self) -> Option<i64> {
        let ending = self.ending.keys().next().map(|(offset, _)| *offset);
        self.first_open_offset().into_iter().chain(ending).min()
    }

    /// Markers below the high watermark stay.
    pub fn committed(&mut self, high_watermark: i64) {
        self.ending.retain(|_, marker| *marker >= high_watermark);
    }

    /// Aborted transactions that have records in `from..to`, oldest end first. As in Kafka
    /// (`TransactionIndex.collectAbortedTxns`) the search ends with the first one after whose end everything below `to`
    /// was stable: whatever ended later began at or above that.
    pub fn aborted_in(&self, from: i64, to: i64) -> Vec<AbortedTransaction> {
        let mut found = Vec::new();
        for aborted in self.aborted.range((from, i64::MIN)..).map(|(_, held)| held) {
            if aborted.first_offset < to {
                found.push(*aborted);
            }
            if aborted.last_stable_offset >= to {
                break;
            }
        }
        found
    }

    /// Forgets aborted transactions that ended before `log_start`.
    pub fn forget_before(&mut self, log_start: i64) {
        self.aborted = self.aborted.split_off(&(log_start, i64::MIN));
    }

    /// Forgets these aborted transactions, of which no data is left.
    pub fn forget_aborted(&mut self, gone: &[AbortedTransaction]) {
        for transaction in gone {
            self.aborted
                .remove(&(transaction.last_offset, transaction.producer_id));
        }
    }
}
