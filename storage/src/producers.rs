//! Producer state of one partition: a pure function of its log. Called by `partition.rs` only; no I/O.
//!
//! Invariants:
//! * at most `BATCHES_KEPT` newest batches of a producer are remembered, as many as an idempotent producer
//!   may have in flight, so that a retry is recognised and answered with its old offset;
//! * state changes only through `apply` and `apply_marker`, with batches in log order, live and at recovery
//!   alike; both take what the log holds and refuse nothing (`check` and `check_marker` do, before);
//! * at most `limit` producers are remembered, besides those with an open transaction. When there are more, an eighth
//!   of the limit goes at once, the oldest first, so that looking for them costs little a batch. A producer is as old
//!   as its newest batch's offset; one without a batch (a marker raised its epoch) has no retry to recognise, so it
//!   counts as older than all that have one, and among those the marker's time decides. Who goes is therefore a
//!   function of the log and the limit, and recovery from a snapshot arrives where the live state was. Two things
//!   are not of the log, and make a recovered state remember other old producers than the live one did: `expire`, and
//!   a limit that was changed by the restart. Both ways it is safe: one that is remembered is remembered as the log
//!   has it, and one that is forgotten is answered as unknown, which its next batch survives (KIP-360);
//! * the last stable offset is derived from the transactions that are open, or whose marker is not below the
//!   high watermark; it is never stored.
//!
//! What a first sequence is answered (KIP-98, KIP-360; Kafka's `ProducerAppendInfo`):
//!
//! ```text
//! producer unknown here             any first sequence is accepted
//! epoch older than the newest       InvalidProducerEpoch
//! epoch newer than the newest       only sequence 0, else OutOfOrderSequence
//! same epoch, equal to a kept batch duplicate: its offset is the answer
//! same epoch, follows the last one  accepted (after i32::MAX comes 0; after a lone marker only 0)
//! same epoch, anything else         OutOfOrderSequence
//! ```

mod state;
#[cfg(test)]
mod tests;
mod transactions;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ottla_protocol::batch::BatchHeader;

pub use self::state::{BATCHES_KEPT, BatchMetadata, ProducerState};
pub use self::transactions::AbortedTransaction;

use crate::error::StorageError;

/// Producers remembered for each partition where nobody says otherwise. With all that belongs to it one takes at most
/// 256 bytes, so that a full partition takes 1.25 MB.
pub const DEFAULT_LIMIT: usize = 5_000;

/// What a batch is, before it gets an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequenced {
    /// It is new.
    New,
    /// It is a retry of a batch that is in the log or on its way there.
    Duplicate(BatchMetadata),
}

/// All producers of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producers {
    limit: usize,
    states: HashMap<i64, ProducerState>,
    open: BTreeSet<(i64, i64)>,
    /// Transactions whose marker is not below the high watermark yet, by first offset and producer: the marker's
    /// offset (Kafka's `unreplicatedTxns`).
    ending: BTreeMap<(i64, i64), i64>,
    aborted: BTreeMap<(i64, i64), AbortedTransaction>,
}

fn next_sequence(last: i32) -> i32 {
    if last == i32::MAX { 0 } else { last + 1 }
}

impl Default for Producers {
    fn default() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            states: HashMap::new(),
            open: BTreeSet::new(),
            ending: BTreeMap::new(),
            aborted: BTreeMap::new(),
        }
    }
}

impl Producers {
    /// Remembers at most so many producers from the next batch on, besides those with an open transaction. Not at
    /// once: a snapshot may hold one more that just wrote, and the live state had it too.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// How many producers are remembered.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether no producer is remembered.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// One producer's state.
    pub fn get(&self, producer_id: i64) -> Option<&ProducerState> {
        self.states.get(&producer_id)
    }

    /// All states, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &ProducerState)> {
        self.states.iter().map(|(id, state)| (*id, state))
    }

    /// Puts back a state from a snapshot.
    pub fn restore(&mut self, producer_id: i64, state: ProducerState) {
        if let Some(first) = state.open_transaction {
            self.open.insert((first, producer_id));
        }
        self.states.insert(producer_id, state);
    }

    /// Checks a batch against what is known of its producer; see the table in the file's head.
    pub fn check(&self, batch: &BatchHeader) -> Result<Sequenced, StorageError> {
        if !batch.has_producer_id() {
            return Ok(Sequenced::New);
        }
        let state = self.states.get(&batch.producer_id);
        let fenced = |current: i16| StorageError::InvalidProducerEpoch {
            producer_id: batch.producer_id,
            given: batch.producer_epoch,
            current,
        };
        if batch.producer_epoch < 0 {
            return Err(fenced(state.map_or(0, |state| state.epoch)));
        }
        let Some(state) = state else {
            return Ok(Sequenced::New);
        };
        if batch.producer_epoch < state.epoch {
            return Err(fenced(state.epoch));
        }
        if batch.is_control() {
            return Ok(Sequenced::New);
        }
        let out_of_order = |expected: i32| StorageError::OutOfOrderSequence {
            producer_id: batch.producer_id,
            epoch: batch.producer_epoch,
            given: batch.base_sequence,
            expected,
        };
        if batch.producer_epoch > state.epoch {
            return if batch.base_sequence == 0 {
                Ok(Sequenced::New)
            } else {
                Err(out_of_order(0))
            };
        }
        let duplicate = state.batches.iter().find(|kept| {
            kept.first_sequence() == batch.base_sequence
                && kept.last_sequence == batch.last_sequence()
        });
        if let Some(kept) = duplicate {
            return Ok(Sequenced::Duplicate(*kept));
        }
        let last = state.batches.back().map(|last| last.last_sequence);
        let expected = last.map_or(0, next_sequence);
        if batch.base_sequence == expected {
            Ok(Sequenced::New)
        } else {
            Err(out_of_order(expected))
        }
    }

    /// Takes a data batch, with its offsets, into the state.
    pub fn apply(&mut self, batch: &BatchHeader) {
        if !batch.has_producer_id() || batch.is_control() {
            return;
        }
        let state = self
            .states
            .entry(batch.producer_id)
            .or_insert_with(|| ProducerState::new(batch.producer_epoch));
        state.take_epoch(batch.producer_epoch);
        state.last_timestamp = batch.max_timestamp;
        state.push(BatchMetadata {
            last_sequence: batch.last_sequence(),
            last_offset: batch.last_offset(),
            offset_delta: batch.last_offset_delta,
            timestamp: batch.max_timestamp,
        });
        if batch.is_transactional() && state.open_transaction.is_none() {
            state.open_transaction = Some(batch.base_offset);
            self.open.insert((batch.base_offset, batch.producer_id));
        }
        self.forget_oldest(batch.producer_id);
    }

    /// Back to an eighth below the limit once there are more. Neither those with an open transaction go, which would
    /// move the last stable offset, nor the one that just wrote.
    fn forget_oldest(&mut self, writing: i64) {
        let unused = self.states.len() - self.open.len();
        if self.states.len() <= self.limit || unused == 0 {
            return;
        }
        let mut unused: Vec<(i64, i64)> = self
            .states
            .iter()
            .filter(|(id, state)| state.open_transaction.is_none() && **id != writing)
            .map(|(id, state)| (state.recency(), *id))
            .collect();
        let kept = self.limit - self.limit / 8;
        let too_many = (self.states.len() - kept).min(unused.len());
        if too_many == 0 {
            return;
        }
        unused.select_nth_unstable(too_many - 1);
        for (_, id) in &unused[..too_many] {
            self.states.remove(id);
        }
    }

    /// Forgets producers that wrote nothing since `oldest` and have no open transaction; returns how many.
    pub fn expire(&mut self, oldest: i64) -> usize {
        let before = self.states.len();
        self.states
            .retain(|_, state| state.open_transaction.is_some() || state.last_timestamp >= oldest);
        before - self.states.len()
    }
}
