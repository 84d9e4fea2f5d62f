//! The log cleaner in a `world`: rounds in pieces between all other calls, and what they may make of a log. The model
//! does not say which records go (`compaction/tests.rs` does), but it says which may, and takes over what it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use ottla_protocol::batch::{BatchHeader, crc_matches};
use ottla_protocol::records::for_each_record;

use super::model::{Edition, Model, Stored};
use super::world::World;
use crate::compaction::CompactionConfig;
use crate::error::StorageError;
use crate::log::{CleanerLimits, Cleaning, ReadLimit};
use crate::partition::PartitionState;

/// A round on its way.
pub(super) struct Cleaner {
    partition: usize,
    cleaning: Cleaning,
    /// Nothing from here on may change.
    bound: i64,
}

/// Offset, key and value of a record.
type Record = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

fn records(batch: &[u8]) -> Vec<Record> {
    let header = BatchHeader::parse(batch).expect("a batch");
    let mut found = Vec::new();
    for_each_record(batch, usize::MAX, |record| {
        let owned = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        let offset = header.base_offset + i64::from(record.offset_delta);
        found.push((offset, owned(record.key), owned(record.value)));
        ControlFlow::Continue(())
    })
    .expect("reads");
    found
}

/// Offsets of the records of a batch.
pub(super) fn offsets_in(batch: &[u8]) -> BTreeSet<i64> {
    records(batch)
        .into_iter()
        .map(|(offset, ..)| offset)
        .collect()
}

impl Model {
    pub(super) fn edition(&self) -> &Edition {
        self.editions.last().expect("there is always one")
    }

    /// The batches that are there, with their bytes as they are now.
    pub(super) fn held(&self) -> impl Iterator<Item = (&Stored, &Bytes)> {
        let content = &self.edition().content;
        self.batches.iter().filter_map(move |held| {
            let bytes = match content.get(&held.header.base_offset) {
                Some(cleaned) => cleaned.as_ref()?,
                None => &held.bytes,
            };
            Some((held, bytes))
        })
    }

    /// Whether recovery learns nothing of a producer from this batch any more.
    pub(super) fn tells_nothing(&self, held: &Stored) -> bool {
        match self.edition().content.get(&held.header.base_offset) {
            Some(None) => true,
            Some(Some(bytes)) => held.header.is_control() && records(bytes).is_empty(),
            None => false,
        }
    }

    /// From now on a producer is counted without what the cleaner took from `gap` on.
    pub(super) fn count_without(&mut self, producer_id: i64, gap: i64) {
        let uncounted: Vec<bool> = self
            .batches
            .iter()
            .map(|held| {
                held.uncounted
                    || held.header.producer_id == producer_id
                        && held.header.base_offset >= gap
                        && self.tells_nothing(held)
            })
            .collect();
        for (held, uncounted) in self.batches.iter_mut().zip(uncounted) {
            held.uncounted = uncounted;
        }
    }

    /// Where batches end without the one that holds `offset` and all after it.
    pub(super) fn end_before(&self, offset: i64) -> i64 {
        self.held()
            .map(|(held, _)| held.header.next_offset())
            .take_while(|end| *end <= offset)
            .last()
            .unwrap_or(0)
    }

    /// Whether these are the batches, as the cleaner left them last, or once before if the power was cut. That edition
    /// then is the only one.
    pub(super) fn is_some_edition(
        &mut self,
        state: &PartitionState,
        found: &[Bytes],
        power_cut: bool,
    ) -> bool {
        let told: BTreeSet<_> = state
            .aborted_in(0, i64::MAX)
            .iter()
            .map(|held| (held.last_offset, held.producer_id))
            .collect();
        let mut editions = std::mem::take(&mut self.editions);
        let ever_forgotten = editions.last().map(|newest| newest.forgotten.clone());
        let ever_forgotten = ever_forgotten.unwrap_or_default();
        while let Some(edition) = editions.pop() {
            let forgotten_since = ever_forgotten.difference(&edition.forgotten);
            let right_aborts = told.is_disjoint(&edition.forgotten)
                && forgotten_since
                    .filter(|(marker, _)| (state.log_start..state.log_end).contains(marker))
                    .all(|held| told.contains(held));
            self.editions = vec![edition];
            let (batches, _) = self.read(state.log_start, state.log_end, usize::MAX, true);
            if batches == found && right_aborts {
                return true;
            }
            if !power_cut {
                return false;
            }
        }
        false
    }

    /// Takes over what a step of the cleaner made of the log. `told` are the aborted transactions that readers are told
    /// of, before and after.
    ///
    /// # Errors
    /// Something changed that must not.
    fn take_over(
        &mut self,
        found: &[Bytes],
        told: [&BTreeMap<(i64, i64), i64>; 2],
        bound: i64,
    ) -> Result<(), String> {
        let mut edition = self.edition().clone();
        let mut found: BTreeMap<i64, &Bytes> = found
            .iter()
            .map(|bytes| {
                let header = BatchHeader::parse(bytes).expect("a batch");
                (header.base_offset, bytes)
            })
            .collect();
        let mut gone: Vec<Record> = Vec::new();
        let mut before: Vec<Record> = Vec::new();
        for (held, bytes) in self.held() {
            let header = &held.header;
            if header.last_offset() < self.log_start {
                continue;
            }
            let base = header.base_offset;
            let aborted = |offset| {
                let covers = |((last, id), first): (&(i64, i64), &i64)| {
                    *id == header.producer_id && (*first..*last).contains(&offset)
                };
                header.is_transactional() && told[0].iter().any(covers)
            };
            let counts = !header.is_control() && !aborted(base);
            let old = records(bytes);
            if counts && base < bound {
                before.extend(old.iter().cloned());
            }
            let new = found.remove(&base);
            if new == Some(bytes) {
                continue;
            }
            if base >= bound {
                return Err(format!("the batch at {base} changed, beyond {bound}"));
            }
            edition.content.insert(base, new.cloned());
            let left = match new {
                Some(new) => {
                    same_place(bytes, new)?;
                    records(new)
                }
                None => Vec::new(),
            };
            if !left.iter().all(|record| old.contains(record)) {
                return Err(format!("the batch at {base} holds other records"));
            }
            if counts {
                gone.extend(old.into_iter().filter(|record| !left.contains(record)));
            }
        }
        if let Some(base) = found.keys().next() {
            return Err(format!("the batch at {base} is out of nowhere"));
        }
        for (offset, key, value) in &gone {
            let newer = |(other, other_key, _): &Record| other > offset && other_key == key;
            if value.is_some() && !before.iter().any(newer) {
                return Err(format!("the newest of {key:?} is lost, at {offset}"));
            }
        }
        for (transaction, first) in told[0] {
            if told[1].contains_key(transaction) {
                continue;
            }
            let (last, id) = *transaction;
            let has_data = |(base, bytes): (&Stored, &Bytes)| {
                let offset = base.header.base_offset;
                base.header.producer_id == id
                    && (*first..last).contains(&offset)
                    && base.header.last_offset() >= self.log_start
                    && !bytes.is_empty()
            };
            if self.held().any(has_data) {
                return Err(format!("{transaction:?} has data and is not told of"));
            }
            edition.forgotten.insert(*transaction);
        }
        self.editions.push(edition);
        Ok(())
    }
}

/// A batch that was cleaned is where it was, and whose it was.
fn same_place(old: &[u8], new: &[u8]) -> Result<(), String> {
    let place = |batch: &[u8]| {
        let header = BatchHeader::parse(batch).expect("a batch");
        (
            (header.base_offset, header.last_offset()),
            (header.producer_id, header.producer_epoch),
            (header.base_sequence, header.partition_leader_epoch),
            (header.is_control(), header.is_transactional()),
        )
    };
    if place(old) != place(new) || !crc_matches(new) {
        return Err(format!("{:?} became {:?}", place(old), place(new)));
    }
    Ok(())
}

impl World {
    /// Goes on with the round that is on its way, or begins one.
    pub(super) fn clean(&mut self) {
        // The last step of a round waits for its sync.
        if self.held || self.faulted {
            return;
        }
        self.barrier();
        let Some(mut cleaner) = self.cleaning.take().or_else(|| self.begin_cleaning()) else {
            return;
        };
        for _ in 0..self.rng.usize(1..12) {
            if self.rng.u8(0..4) == 0 {
                self.append();
                self.barrier();
            }
            match self.clean_step(&mut cleaner) {
                Ok(true) => {}
                Ok(false) => return,
                // It was truncated, deleted, or the store failed.
                Err(StorageError::Overtaken | StorageError::NoSuchPartition) => return,
                Err(error) => panic!("{error}"),
            }
        }
        // Some rounds are never gone on with.
        self.cleaning = (self.rng.u8(0..8) > 0).then_some(cleaner);
    }

    fn begin_cleaning(&mut self) -> Option<Cleaner> {
        let partition = self.partition();
        let config = CompactionConfig {
            min_cleanable_dirty_ratio: 0.0,
            min_compaction_lag_ms: [0, 0, 0, 930][self.rng.usize(0..4)],
            max_compaction_lag_ms: i64::MAX,
            delete_retention_ms: [0, 0, 700][self.rng.usize(0..3)],
        };
        let limits = CleanerLimits {
            dedupe_buffer_bytes: [24 * 3, 1 << 16][self.rng.usize(0..2)],
            load_factor: 0.9,
            io_buffer_bytes: [1, 300, 2_000, 1 << 20][self.rng.usize(0..4)],
        };
        let now_ms = self.clock.0.load(std::sync::atomic::Ordering::SeqCst);
        let held = self.models[partition].partition.clone();
        let cleanable = self.log.cleanable(&held, &config, now_ms).expect("looks");
        assert!(cleanable.first_dirty <= cleanable.first_uncleanable);
        // A truncation may have taken the end of a transaction whose data is clean already.
        let stable = held.offsets().last_stable.max(cleanable.first_dirty);
        assert!(cleanable.first_uncleanable <= stable);
        let cleaning = self.log.clean(&held, &cleanable, &config, limits, now_ms);
        Some(Cleaner {
            partition,
            cleaning: cleaning.expect("begins"),
            bound: cleanable.first_uncleanable,
        })
    }

    /// One step; false after the last one.
    fn clean_step(&mut self, cleaner: &mut Cleaner) -> Result<bool, StorageError> {
        let told = |state: &PartitionState| -> BTreeMap<(i64, i64), i64> {
            let aborted = state.aborted_in(0, i64::MAX).into_iter();
            aborted
                .map(|held| ((held.last_offset, held.producer_id), held.first_offset))
                .collect()
        };
        let index = cleaner.partition;
        let partition = self.models[index].partition.clone();
        if partition.handle() != cleaner.cleaning.partition().handle() {
            let gone = cleaner.cleaning.step();
            match gone {
                // A step that only reads need not notice; none may write or end a round.
                Ok(step) => assert_eq!((step.written_bytes, step.done.is_none()), (0, true)),
                Err(error) => assert_eq!(error, StorageError::NoSuchPartition),
            }
            return Err(StorageError::NoSuchPartition);
        }
        let before = told(&partition.state());
        let step = cleaner.cleaning.step()?;
        let state = partition.state();
        let limit = ReadLimit::LogEnd;
        let read = self
            .log
            .read(&partition, state.log_start, usize::MAX, true, limit)
            .expect("reads");
        let model = &mut self.models[index];
        let taken = model.take_over(&read.batches, [&before, &told(&state)], cleaner.bound);
        taken.unwrap_or_else(|what| panic!("partition {index}: {what}"));
        let Some(round) = step.done else {
            return Ok(true);
        };
        assert_eq!(state.cleaned.first_dirty, round.end);
        // The last step is synced, and all before it.
        let newest = model.editions.split_off(model.editions.len() - 1);
        model.editions = newest;
        let mut keys = BTreeSet::new();
        for (held, bytes) in model.held() {
            if held.header.is_control() || held.header.base_offset >= round.end {
                continue;
            }
            for (offset, key, _) in records(bytes) {
                let counts = offset >= model.log_start && offset < round.end;
                assert!(!counts || keys.insert(key), "twice, again at {offset}");
            }
        }
        Ok(false)
    }
}
