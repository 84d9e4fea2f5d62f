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

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use ottla_protocol::batch::BatchHeader;

use crate::error::StorageError;

/// Batches remembered for each producer: the most it may have in flight.
pub const BATCHES_KEPT: usize = 5;

/// Producers remembered for each partition where nobody says otherwise. With all that belongs to it one takes at most
/// 256 bytes, so that a full partition takes 1.25 MB.
pub const DEFAULT_LIMIT: usize = 5_000;

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
    fn new(epoch: i16) -> Self {
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
    fn take_epoch(&mut self, epoch: i16) {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }

    fn push(&mut self, batch: BatchMetadata) {
        if self.batches.len() == BATCHES_KEPT {
            self.batches.pop_front();
        }
        // Exactly one more: most producers of a flood write once.
        self.batches.reserve_exact(1);
        self.batches.push_back(batch);
    }

    /// How recently it was used: by the log's order where it has a batch, else by time and before all that have one.
    fn recency(&self) -> i64 {
        match self.batches.back() {
            Some(newest) => newest.last_offset,
            None => i64::MIN.saturating_add(self.last_timestamp.max(0)),
        }
    }
}

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

    /// Puts back an entry of the aborted index.
    pub fn restore_aborted(&mut self, aborted: AbortedTransaction) {
        self.aborted
            .insert((aborted.last_offset, aborted.producer_id), aborted);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(producer_id: i64, epoch: i16, sequence: i32, count: i32, offset: i64) -> BatchHeader {
        BatchHeader {
            base_offset: offset,
            batch_length: 100,
            partition_leader_epoch: 0,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 0,
            max_timestamp: offset,
            producer_id,
            producer_epoch: epoch,
            base_sequence: sequence,
            record_count: count,
        }
    }

    #[test]
    fn an_unknown_producer_may_begin_anywhere() {
        let producers = Producers::default();
        assert_eq!(producers.check(&batch(1, 0, 77, 3, 0)), Ok(Sequenced::New));
    }

    #[test]
    fn the_next_batch_follows_and_a_gap_is_refused() {
        let mut producers = Producers::default();
        producers.apply(&batch(1, 0, 0, 3, 10));
        assert_eq!(producers.check(&batch(1, 0, 3, 1, 0)), Ok(Sequenced::New));
        assert!(matches!(
            producers.check(&batch(1, 0, 5, 1, 0)),
            Err(StorageError::OutOfOrderSequence { expected: 3, .. })
        ));
    }

    #[test]
    fn a_retry_among_the_last_five_is_a_duplicate_with_its_old_offset() {
        let mut producers = Producers::default();
        for index in 0..7 {
            producers.apply(&batch(1, 0, index * 2, 2, i64::from(index) * 10));
        }
        for index in 2..7 {
            let Ok(Sequenced::Duplicate(kept)) = producers.check(&batch(1, 0, index * 2, 2, 0))
            else {
                panic!("{index}");
            };
            assert_eq!(kept.first_offset(), i64::from(index) * 10);
        }
        assert!(producers.check(&batch(1, 0, 2, 2, 0)).is_err(), "too old");
        assert!(
            producers.check(&batch(1, 0, 12, 1, 0)).is_err(),
            "same first sequence, other length"
        );
    }

    #[test]
    fn epochs_fence() {
        let mut producers = Producers::default();
        producers.apply(&batch(1, 4, 0, 1, 0));
        assert!(matches!(
            producers.check(&batch(1, 3, 1, 1, 0)),
            Err(StorageError::InvalidProducerEpoch { current: 4, .. })
        ));
        assert!(producers.check(&batch(1, 5, 1, 1, 0)).is_err());
        assert_eq!(producers.check(&batch(1, 5, 0, 1, 0)), Ok(Sequenced::New));
        producers.apply(&batch(1, 5, 0, 1, 1));
        assert!(producers.check(&batch(1, 4, 1, 1, 0)).is_err());
        assert!(matches!(
            producers.check(&batch(9, -5, 0, 1, 0)),
            Err(StorageError::InvalidProducerEpoch { .. })
        ));
    }

    #[test]
    fn sequences_wrap() {
        let mut producers = Producers::default();
        producers.apply(&batch(1, 0, i32::MAX - 1, 4, 0));
        let last = *producers
            .get(1)
            .expect("known")
            .batches
            .back()
            .expect("one");
        assert_eq!(last.first_sequence(), i32::MAX - 1);
        assert_eq!(last.last_sequence, 1);
        assert_eq!(producers.check(&batch(1, 0, 2, 1, 0)), Ok(Sequenced::New));
        producers.apply(&batch(2, 0, i32::MAX, 1, 9));
        assert_eq!(producers.check(&batch(2, 0, 0, 1, 0)), Ok(Sequenced::New));
    }

    #[test]
    fn open_transactions_bound_the_stable_offset_and_aborts_are_listed() {
        const TRANSACTIONAL: i16 = 0x10;
        const CONTROL: i16 = 0x20;
        let mut producers = Producers::default();
        let open = |id, offset| BatchHeader {
            attributes: TRANSACTIONAL,
            ..batch(id, 0, 0, 2, offset)
        };
        let marker = |id, offset| BatchHeader {
            attributes: TRANSACTIONAL | CONTROL,
            ..batch(id, 0, -1, 1, offset)
        };
        producers.apply(&open(1, 5));
        producers.apply(&open(2, 7));
        assert_eq!(producers.first_open_offset(), Some(5));
        let aborted = producers
            .apply_marker(&marker(1, 9), false, 0)
            .expect("aborted");
        assert_eq!((aborted.first_offset, aborted.last_offset), (5, 9));
        assert_eq!(aborted.last_stable_offset, 7);
        assert_eq!(producers.first_open_offset(), Some(7));
        assert_eq!(producers.apply_marker(&marker(2, 10), true, 3), None);
        assert_eq!(producers.first_open_offset(), None);
        let mut unstable = |high_watermark| {
            producers.committed(high_watermark);
            producers.first_unstable_offset()
        };
        assert_eq!(unstable(9), Some(5));
        assert_eq!(unstable(10), Some(7));
        assert_eq!(unstable(11), None);
        assert_eq!(producers.aborted_in(0, 5), []);
        assert_eq!(producers.aborted_in(0, 6), [aborted]);
        assert_eq!(producers.aborted_in(9, 100), [aborted]);
        assert_eq!(producers.aborted_in(10, 100), []);
        assert!(producers.check_marker(&marker(2, 11), 2).is_err());
        assert!(producers.check_marker(&marker(2, 11), 3).is_ok());
        producers.forget_before(10);
        assert_eq!(producers.aborted_in(0, 100), []);
    }

    #[test]
    fn the_search_for_aborts_ends_where_all_is_stable_and_misses_none() {
        for seed in 0..500 {
            println!("seed {seed}");
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut producers = Producers::default();
            let mut aborted = Vec::new();
            for offset in 0..60 {
                let header = BatchHeader {
                    attributes: 0x10,
                    ..batch(rng.i64(0..6), 0, 0, 1, offset)
                };
                if rng.bool() {
                    producers.apply(&header);
                } else {
                    let commit = rng.u8(0..4) == 0;
                    aborted.extend(producers.apply_marker(&header, commit, 0));
                }
            }
            for from in 0..60 {
                for to in from..=60 {
                    let overlaps = |held: &&AbortedTransaction| {
                        held.last_offset >= from && held.first_offset < to
                    };
                    let expected: Vec<_> = aborted.iter().filter(overlaps).copied().collect();
                    assert_eq!(producers.aborted_in(from, to), expected, "seed {seed}");
                }
            }
            // One that no log has shows how far the search goes.
            let beyond = AbortedTransaction {
                producer_id: 9,
                first_offset: 0,
                last_offset: 100,
                last_stable_offset: 101,
            };
            producers.restore_aborted(beyond);
            for to in 1..60 {
                let ends = aborted.iter().any(|held| held.last_stable_offset >= to);
                let met = producers.aborted_in(0, to).contains(&beyond);
                assert_eq!(met, !ends, "seed {seed}, to {to}");
            }
        }
    }

    #[test]
    fn quiet_producers_expire_unless_they_hold_a_transaction() {
        let mut producers = Producers::default();
        producers.apply(&batch(1, 0, 0, 1, 50));
        producers.apply(&batch(2, 0, 0, 1, 150));
        let open = BatchHeader {
            attributes: 0x10,
            ..batch(3, 0, 0, 1, 50)
        };
        producers.apply(&open);
        assert_eq!(producers.expire(100), 1);
        assert!(producers.get(1).is_none());
        assert_eq!(producers.len(), 2);
    }
}
