//! The limit of producers of a partition: who is forgotten is a function of the log, what one costs is bounded, and
//! a log opened again holds the state it had.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use ottla_protocol::batch::BatchHeader;

use crate::error::StorageError;
use crate::log::{AppendEntry, Log, LogOptions, NoObserver};
use crate::log_tests::{ID, TestClock, block, sequenced};
use crate::memory::MemoryEngine;
use crate::producers::{
    BATCHES_KEPT, BatchMetadata, DEFAULT_LIMIT, ProducerState, Producers, Sequenced,
};
use crate::waiters::Acks;

const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// What happens to one producer.
#[derive(Debug, Clone, Copy)]
enum Step {
    Batch { transactional: bool },
    Marker { commit: bool, raise_epoch: bool },
}

/// A log in the making, and what a reader of it knows of each producer.
#[derive(Default)]
struct Written {
    next_offset: i64,
    /// Epoch, next sequence, and whether a transaction is open.
    known: HashMap<i64, (i16, i32, bool)>,
}

impl Written {
    fn next(&mut self, producer_id: i64, step: Step) -> BatchHeader {
        let (epoch, sequence, open) = self.known.entry(producer_id).or_default();
        let mut header = BatchHeader {
            base_offset: self.next_offset,
            batch_length: 100,
            partition_leader_epoch: 0,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: 0,
            base_timestamp: self.next_offset,
            max_timestamp: self.next_offset,
            producer_id,
            producer_epoch: *epoch,
            base_sequence: *sequence,
            record_count: 1,
        };
        match step {
            Step::Batch { transactional } => {
                *sequence += 1;
                if transactional {
                    header.attributes = TRANSACTIONAL;
                    *open = true;
                }
            }
            Step::Marker { raise_epoch, .. } => {
                if raise_epoch {
                    *epoch += 1;
                    *sequence = 0;
                }
                header.producer_epoch = *epoch;
                header.base_sequence = -1;
                header.attributes = TRANSACTIONAL | CONTROL;
                *open = false;
            }
        }
        self.next_offset += 1;
        header
    }

    fn open(&self) -> usize {
        self.known.values().filter(|(_, _, open)| *open).count()
    }
}

fn apply(producers: &mut Producers, header: &BatchHeader, step: Step) {
    match step {
        Step::Batch { .. } => producers.apply(header),
        Step::Marker { commit, .. } => {
            producers.apply_marker(header, commit, 0);
        }
    }
}

/// What a snapshot keeps.
fn snapshot(producers: &Producers) -> Vec<(i64, ProducerState)> {
    let mut states: Vec<_> = producers
        .iter()
        .map(|(id, state)| (id, state.clone()))
        .collect();
    states.sort_unstable_by_key(|(id, _)| *id);
    states
}

/// A state as recovery makes it.
fn restored(states: &[(i64, ProducerState)], limit: usize) -> Producers {
    let mut producers = Producers::default();
    for (id, state) in states {
        producers.restore(*id, state.clone());
    }
    producers.set_limit(limit);
    producers
}

fn limited(limit: usize) -> Producers {
    restored(&[], limit)
}

fn random_step(rng: &mut fastrand::Rng, written: &Written, producer_id: i64) -> Step {
    let open = written
        .known
        .get(&producer_id)
        .is_some_and(|(_, _, open)| *open);
    match rng.u8(0..10) {
        0 | 1 => Step::Batch {
            transactional: true,
        },
        2..=4 if open => Step::Marker {
            commit: rng.bool(),
            raise_epoch: rng.bool(),
        },
        _ => Step::Batch {
            transactional: open,
        },
    }
}

#[test]
fn recovery_from_any_snapshot_arrives_at_the_live_state() {
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let limit = rng.usize(1..40);
        let ids = rng.i64(2..100);
        let mut written = Written::default();
        let mut live = limited(limit);
        let mut snapshots = Vec::new();
        let mut log = Vec::new();
        for _ in 0..400 {
            if rng.u8(0..20) == 0 {
                snapshots.push((log.len(), snapshot(&live)));
            }
            let id = rng.i64(0..ids);
            let step = random_step(&mut rng, &written, id);
            let header = written.next(id, step);
            apply(&mut live, &header, step);
            log.push((header, step));
            let most = limit.max(written.open() + 1);
            assert!(live.len() <= most, "seed {seed}: {} of {most}", live.len());
            assert!(live.get(id).is_some(), "seed {seed}: {id} just wrote");
        }
        for (at, states) in &snapshots {
            let mut recovered = restored(states, limit);
            for (header, step) in &log[*at..] {
                apply(&mut recovered, header, *step);
            }
            // What recovery restores of transactions comes from elsewhere.
            assert_eq!(
                snapshot(&recovered),
                snapshot(&live),
                "seed {seed}: replayed from {at}"
            );
            assert_eq!(
                recovered.first_open_offset(),
                live.first_open_offset(),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn the_oldest_go_first_and_open_transactions_stay() {
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let limit = rng.usize(1..40);
        let ids = rng.i64(2..100);
        let mut written = Written::default();
        let mut producers = limited(limit);
        let mut last_use = HashMap::new();
        for offset in 0..400 {
            let id = rng.i64(0..ids);
            let step = match random_step(&mut rng, &written, id) {
                // Those have no batch afterwards: they are the next test's.
                Step::Marker { commit, .. } => Step::Marker {
                    commit,
                    raise_epoch: false,
                },
                batch => batch,
            };
            let before: Vec<i64> = producers.iter().map(|(id, _)| id).collect();
            let header = written.next(id, step);
            apply(&mut producers, &header, step);
            if matches!(step, Step::Batch { .. }) {
                last_use.insert(id, offset);
            }
            let gone: Vec<i64> = before
                .into_iter()
                .filter(|id| producers.get(*id).is_none())
                .collect();
            let stays = |id: &i64| producers.get(*id).is_some() && *id != header.producer_id;
            let oldest_left = written
                .known
                .iter()
                .filter(|(id, (_, _, open))| !open && stays(id))
                .map(|(id, _)| last_use[id])
                .min();
            for id in &gone {
                assert!(!written.known[id].2, "seed {seed}: {id} has a transaction");
                assert!(
                    oldest_left.is_none_or(|oldest| last_use[id] < oldest),
                    "seed {seed}: {id} went before an older one"
                );
            }
        }
    }
}

#[test]
fn one_without_a_batch_goes_before_all_that_have_one() {
    let mut written = Written::default();
    let mut producers = limited(3);
    let batch = Step::Batch {
        transactional: false,
    };
    let marker = Step::Marker {
        commit: true,
        raise_epoch: true,
    };
    for (id, step) in [(1, batch), (2, batch), (3, marker), (4, batch)] {
        let header = written.next(id, step);
        apply(&mut producers, &header, step);
    }
    assert!(producers.get(3).is_none());
    assert_eq!(producers.len(), 3);
}

#[test]
fn who_was_forgotten_may_begin_anywhere_and_who_was_not_may_not() {
    let mut written = Written::default();
    let mut producers = limited(2);
    let step = Step::Batch {
        transactional: false,
    };
    for id in 1..=3 {
        let header = written.next(id, step);
        apply(&mut producers, &header, step);
    }
    let gap = |id| {
        let mut header = Written::default().next(id, step);
        header.base_sequence = 77;
        header
    };
    assert_eq!(producers.check(&gap(1)), Ok(Sequenced::New));
    for id in [2, 3] {
        assert!(matches!(
            producers.check(&gap(id)),
            Err(StorageError::OutOfOrderSequence { .. })
        ));
    }
}

#[test]
fn a_smaller_limit_trims_with_the_next_batch_and_a_larger_one_takes_all() {
    let mut written = Written::default();
    let mut producers = limited(100);
    let step = Step::Batch {
        transactional: false,
    };
    for id in 0..100 {
        let header = written.next(id, step);
        apply(&mut producers, &header, step);
    }
    let states = snapshot(&producers);
    assert_eq!(restored(&states, 1_000).len(), 100);
    let mut trimmed = restored(&states, 5);
    assert_eq!(trimmed.len(), 100);
    apply(&mut trimmed, &written.next(99, step), step);
    let kept: Vec<i64> = snapshot(&trimmed).into_iter().map(|(id, _)| id).collect();
    assert_eq!(kept, [95, 96, 97, 98, 99]);
}

/// What the allocator adds to a piece of memory, and the steps it gives it in.
fn allocated(bytes: usize) -> usize {
    (bytes + 8).next_multiple_of(16).max(32)
}

#[test]
fn a_producer_takes_at_most_256_bytes() {
    // A table of twice as many places as are needed at most, each with a byte of its own.
    let places = (DEFAULT_LIMIT + 1).div_ceil(7) * 8;
    let places = places.next_power_of_two();
    let place = size_of::<(i64, ProducerState)>() + 1;
    for batches in [1, BATCHES_KEPT] {
        let mut written = Written::default();
        let mut producers = limited(DEFAULT_LIMIT);
        let step = Step::Batch {
            transactional: false,
        };
        for id in 0..DEFAULT_LIMIT as i64 {
            for _ in 0..batches {
                let header = written.next(id, step);
                apply(&mut producers, &header, step);
            }
        }
        assert_eq!(producers.len(), DEFAULT_LIMIT);
        let of_batches: usize = producers
            .iter()
            .map(|(_, state)| allocated(state.batches.capacity() * size_of::<BatchMetadata>()))
            .sum();
        let each = (places * place + of_batches) / DEFAULT_LIMIT;
        println!("{batches} batches: {each} bytes a producer");
        assert!(each <= 256, "{batches} batches: {each} bytes a producer");
    }
}

#[test]
fn a_log_that_is_opened_again_remembers_the_same_producers() {
    for seed in 0..30 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let limit = rng.usize(1..12);
        let engine = Arc::new(MemoryEngine::new());
        let open = || {
            let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
            let options = LogOptions {
                max_producers: limit,
                ..LogOptions::default()
            };
            Log::open_with(engine.clone(), 1, options, clock, Arc::new(NoObserver)).expect("opens")
        };
        let mut sequences: HashMap<i64, i32> = HashMap::new();
        for _ in 0..4 {
            let log = open();
            let partition = block(log.create(vec![ID])).expect("creates")[0].clone();
            for _ in 0..rng.usize(0..120) {
                let id = rng.i64(0..30);
                let sequence = sequences.entry(id).or_default();
                let bytes = sequenced(id, 0, *sequence, 1);
                *sequence += 1;
                let entry = AppendEntry {
                    partition: partition.clone(),
                    header: BatchHeader::parse(&bytes).expect("a batch"),
                    bytes: bytes.into(),
                    leader_epoch: partition.offsets().leader_epoch,
                };
                let answers = block(log.append(vec![entry], Acks::All)).expect("the log is open");
                let appended = block(answers).expect("answered").remove(0);
                assert!(!appended.expect("appended").duplicate, "seed {seed}");
            }
            let live = snapshot(partition.state().producers());
            assert!(live.len() <= limit, "seed {seed}");
            // Not closed, as if it was killed: closing would take a snapshot.
            drop((log, partition));
            let again = open();
            let partition = again.partition(ID).expect("it is there");
            assert_eq!(
                snapshot(partition.state().producers()),
                live,
                "seed {seed}, limit {limit}"
            );
        }
    }
}
