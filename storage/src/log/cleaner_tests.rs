//! Cleaning rounds on a log in memory: what readers see before, meanwhile and after, and what a restart finds.

use std::sync::atomic::AtomicI64;

use bytes::Bytes;
use ottla_protocol::batch::BatchBuilder;
use ottla_protocol::records::for_each_record;

use super::*;
use crate::engine::Engine;
use crate::log::{AppendEntry, NoObserver, ReadLimit};
use crate::log_tests::{ID, TestClock, block};
use crate::memory::MemoryEngine;
use crate::waiters::Acks;

const CONFIG: CompactionConfig = CompactionConfig {
    min_cleanable_dirty_ratio: 0.5,
    min_compaction_lag_ms: 0,
    max_compaction_lag_ms: i64::MAX,
    delete_retention_ms: 1_000,
};

const LIMITS: CleanerLimits = CleanerLimits {
    dedupe_buffer_bytes: 1 << 20,
    load_factor: 0.9,
    io_buffer_bytes: 600,
};

struct Fixture {
    engine: Arc<MemoryEngine>,
    log: Log,
    partition: Arc<Partition>,
}

fn open(engine: &Arc<MemoryEngine>) -> (Log, Arc<Partition>) {
    let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
    let log = Log::open(engine.clone(), 1, clock, Arc::new(NoObserver)).expect("opens");
    let created = block(log.create(vec![ID])).expect("creates");
    (log, created[0].clone())
}

impl Fixture {
    fn new() -> Self {
        let engine = Arc::new(MemoryEngine::new());
        let (log, partition) = open(&engine);
        Self {
            engine,
            log,
            partition,
        }
    }

    fn append(&self, bytes: Bytes) -> i64 {
        let entry = AppendEntry {
            partition: self.partition.clone(),
            header: BatchHeader::parse(&bytes).expect("a batch"),
            bytes: bytes.into(),
            leader_epoch: 0,
        };
        let answers = block(self.log.append(vec![entry], Acks::All)).expect("open");
        let answers = block(answers).expect("answered");
        answers[0].as_ref().expect("appends").base_offset
    }

    fn put(&self, timestamp: i64, key: &str, value: Option<&str>) -> i64 {
        let value = value.map(str::as_bytes);
        let builder = BatchBuilder::new(timestamp);
        self.append(
            builder
                .record(timestamp, Some(key.as_bytes()), value, &[])
                .build(),
        )
    }

    fn cleanable(&self, config: &CompactionConfig, now_ms: i64) -> Cleanable {
        let found = self.log.cleanable(&self.partition, config, now_ms);
        found.expect("looks")
    }

    fn begin(&self, config: &CompactionConfig, limits: CleanerLimits, now_ms: i64) -> Cleaning {
        let cleanable = self.cleanable(config, now_ms);
        let begun = self
            .log
            .clean(&self.partition, &cleanable, config, limits, now_ms);
        begun.expect("begins")
    }

    fn clean(&self, now_ms: i64) -> Round {
        finish(self.begin(&CONFIG, LIMITS, now_ms)).expect("cleans")
    }

    /// Offset, key and value of every record.
    fn records(&self) -> Vec<(i64, String, Option<String>)> {
        let offsets = self.partition.offsets();
        let limit = ReadLimit::LogEnd;
        let read = self
            .log
            .read(&self.partition, offsets.log_start, usize::MAX, true, limit)
            .expect("reads");
        let mut found = Vec::new();
        for bytes in read.batches {
            let header = BatchHeader::parse(&bytes).expect("a batch");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            for_each_record(&bytes, usize::MAX, |record| {
                found.push((
                    header.base_offset + i64::from(record.offset_delta),
                    record.key.map(text).unwrap_or_default(),
                    record.value.map(text),
                ));
                ControlFlow::Continue(())
            })
            .expect("reads");
        }
        found
    }

    fn keys(&self) -> Vec<(i64, String)> {
        let records = self.records().into_iter();
        records.map(|(offset, key, _)| (offset, key)).collect()
    }

    /// Recovery finds what is live.
    fn check_recovery(&self) {
        let state = self.partition.state();
        let recovered = recovery::recover(
            self.engine.as_ref(),
            self.partition.handle(),
            1,
            crate::producers::DEFAULT_LIMIT,
        )
        .expect("recovers");
        assert_eq!(recovered.cleaned, state.cleaned);
        assert_eq!(recovered.offsets(), state.offsets());
        assert_eq!(recovered.size_bytes, state.size_bytes);
        assert_eq!(recovered.producers, state.producers);
        assert_eq!(recovered.epochs, state.epochs);
    }
}

fn finish(mut cleaning: Cleaning) -> Result<Round, StorageError> {
    loop {
        if let Some(round) = cleaning.step()?.done {
            return Ok(round);
        }
    }
}

fn expected(records: &[(i64, &str)]) -> Vec<(i64, String)> {
    records
        .iter()
        .map(|(offset, key)| (*offset, (*key).to_owned()))
        .collect()
}

#[test]
fn the_newest_of_each_key_stays_at_its_offset() {
    let log = Fixture::new();
    for (index, key) in ["a", "b", "a", "c", "b", "a"].into_iter().enumerate() {
        log.put(1_000, key, Some(&index.to_string()));
    }
    let before = log.cleanable(&CONFIG, 5_000);
    assert_eq!((before.first_dirty, before.first_uncleanable), (0, 6));
    assert_eq!(before.ratio(), 1.0);
    assert_eq!(before.dirty_since_ms, Some(1_000));
    let round = log.clean(5_000);
    assert_eq!((round.end, round.map_was_full), (6, false));
    assert_eq!((round.records_read, round.records_kept), (6, 3));
    assert_eq!(log.keys(), expected(&[(3, "c"), (4, "b"), (5, "a")]));
    let after = log.cleanable(&CONFIG, 5_000);
    assert_eq!((after.first_dirty, after.dirty_bytes), (6, 0));
    assert_eq!(after.clean_bytes, log.partition.size_bytes());
    log.check_recovery();
    // A new value makes the old one go, in the clean part as well.
    log.put(1_000, "c", Some("new"));
    log.clean(5_000);
    assert_eq!(log.keys(), expected(&[(4, "b"), (5, "a"), (6, "c")]));
    log.check_recovery();
}

#[test]
fn the_log_keeps_its_end_when_its_last_record_goes() {
    let log = Fixture::new();
    let transaction = |sequence| {
        BatchBuilder::new(1_000)
            .producer(7, 0, sequence)
            .transactional(true)
            .record(1_000, Some(b"a"), Some(b"x"), &[])
            .build()
    };
    log.append(transaction(0));
    let marker = BatchBuilder::new(1_000)
        .producer(7, 0, -1)
        .transactional(true)
        .control(true)
        .record(1_000, Some(&[0, 0, 0, 0]), Some(&[0; 6]), &[])
        .build();
    log.append(marker);
    log.clean(5_000);
    assert_eq!(log.records().len(), 1, "the marker stays");
    log.check_recovery();
    assert_eq!(log.partition.offsets().log_end, 2);
    let limit = ReadLimit::Stable;
    let read = log.log.read(&log.partition, 0, usize::MAX, true, limit);
    let read = read.expect("reads");
    assert_eq!(read.aborted.len(), 1, "its batch is there, without records");
    // The producer's last sequence is still known.
    log.append(transaction(1));
    assert_eq!(log.partition.offsets().log_end, 3);
}

#[test]
fn nothing_of_an_open_transaction_is_touched() {
    let log = Fixture::new();
    log.put(1_000, "a", Some("1"));
    log.put(1_000, "a", Some("2"));
    let open = BatchBuilder::new(1_000)
        .producer(7, 0, 0)
        .transactional(true)
        .record(1_000, Some(b"a"), Some(b"open"), &[]);
    log.append(open.build());
    log.put(1_000, "a", Some("3"));
    assert_eq!(log.cleanable(&CONFIG, 5_000).first_uncleanable, 2);
    assert_eq!(log.clean(5_000).end, 2);
    assert_eq!(log.keys(), expected(&[(1, "a"), (2, "a"), (3, "a")]));
    log.check_recovery();
}

#[test]
fn records_that_are_too_young_wait() {
    let log = Fixture::new();
    for (time, key) in [(1_000, "a"), (1_500, "a"), (2_000, "a"), (1_000, "a")] {
        log.put(time, key, Some("x"));
    }
    let config = CompactionConfig {
        min_compaction_lag_ms: 1_000,
        ..CONFIG
    };
    assert_eq!(log.cleanable(&config, 2_500).first_uncleanable, 2);
    assert_eq!(log.cleanable(&config, 1_900).first_uncleanable, 0);
    assert_eq!(log.cleanable(&config, 3_000).first_uncleanable, 4);
    finish(log.begin(&config, LIMITS, 2_500)).expect("cleans");
    assert_eq!(log.keys(), expected(&[(1, "a"), (2, "a"), (3, "a")]));
}

#[test]
fn a_tombstone_goes_in_a_later_round_when_its_time_has_come() {
    let log = Fixture::new();
    log.put(1_000, "a", Some("1"));
    log.put(1_000, "a", None);
    log.put(1_000, "z", Some("1"));
    log.clean(5_000);
    assert_eq!(log.keys(), expected(&[(1, "a"), (2, "z")]));
    log.put(1_000, "z", Some("2"));
    log.clean(5_999);
    assert_eq!(log.keys(), expected(&[(1, "a"), (3, "z")]), "not yet");
    assert_eq!(log.partition.state().cleaned.deletes_to, 0);
    log.put(1_000, "z", Some("3"));
    log.clean(6_000);
    assert_eq!(log.keys(), expected(&[(4, "z")]));
    assert_eq!(log.partition.state().cleaned.deletes_to, 2);
    log.check_recovery();
}

#[test]
fn appends_and_deletions_go_on_between_the_steps_of_a_round() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let log = Fixture::new();
        let key = |rng: &mut fastrand::Rng| rng.usize(0..10).to_string();
        for _ in 0..60 {
            log.put(1_000, &key(&mut rng), Some("some value"));
        }
        let mut cleaning = log.begin(&CONFIG, LIMITS, 5_000);
        let mut steps = 0;
        let round = loop {
            if rng.bool() {
                log.put(1_000, &key(&mut rng), Some("some value"));
            }
            if rng.u8(0..6) == 0 {
                let offsets = log.partition.offsets();
                let offset = rng.i64(offsets.log_start..offsets.high_watermark);
                block(log.log.delete_prefix(&log.partition, offset)).expect("deletes");
            }
            steps += 1;
            if let Some(round) = cleaning.step().expect("goes on").done {
                break round;
            }
        };
        assert!(steps > 1, "seed {seed}: {steps} steps");
        assert_eq!(round.end, 60);
        let kept = log.keys();
        let log_start = log.partition.offsets().log_start;
        let mut below = std::collections::HashSet::new();
        for (offset, key) in &kept {
            assert!(*offset >= log_start, "seed {seed}: {offset} is back");
            assert!(*offset >= 60 || below.insert(key.clone()), "seed {seed}");
        }
        log.check_recovery();
    }
}

#[test]
fn a_map_that_is_too_small_takes_more_rounds() {
    for seed in 0..50 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let log = Fixture::new();
        let mut newest = std::collections::BTreeMap::new();
        for _ in 0..rng.usize(1..20) {
            let mut builder = BatchBuilder::new(1_000);
            let count = rng.i64(1..9);
            let keys: Vec<_> = (0..count).map(|_| rng.usize(0..20).to_string()).collect();
            for key in &keys {
                builder = builder.record(1_000, Some(key.as_bytes()), Some(b"v"), &[]);
            }
            let base = log.append(builder.build());
            newest.extend(keys.into_iter().zip(base..));
        }
        let limits = CleanerLimits {
            dedupe_buffer_bytes: 24 * rng.usize(2..8),
            ..LIMITS
        };
        let mut rounds = 0;
        while log.cleanable(&CONFIG, 5_000).dirty_bytes > 0 {
            let round = finish(log.begin(&CONFIG, limits, 5_000)).expect("cleans");
            let ended = round.end == log.partition.offsets().log_end;
            assert_eq!(round.map_was_full, !ended, "seed {seed}");
            rounds += 1;
            assert!(rounds < 1_000, "seed {seed}: no progress");
        }
        let mut kept: Vec<_> = newest.into_iter().map(|(key, at)| (at, key)).collect();
        kept.sort_unstable();
        assert_eq!(log.keys(), kept, "seed {seed}");
        log.check_recovery();
    }
}

#[test]
fn two_rounds_at_once_do_not_undo_each_other() {
    let log = Fixture::new();
    for _ in 0..20 {
        log.put(1_000, "a", Some("x"));
    }
    let (mut one, mut other) = (
        log.begin(&CONFIG, LIMITS, 5_000),
        log.begin(&CONFIG, LIMITS, 5_000),
    );
    one.step().expect("maps");
    while one.partition().state().edition == 0 {
        one.step().expect("cleans");
    }
    let lost = loop {
        match other.step() {
            Ok(step) => assert_eq!(step.done, None),
            Err(error) => break error,
        }
    };
    assert_eq!(lost, StorageError::Overtaken);
    finish(one).expect("goes on");
    assert_eq!(log.keys(), expected(&[(19, "a")]));
}

#[test]
fn a_truncation_ends_a_round_and_makes_what_is_left_of_it_dirty() {
    let log = Fixture::new();
    for index in 0..20 {
        log.put(1_000, &(index % 3).to_string(), Some("x"));
    }
    log.clean(5_000);
    assert_eq!(log.partition.state().cleaned.first_dirty, 20);
    let cleaning = log.begin(&CONFIG, LIMITS, 5_000);
    // Only 17, 18 and 19 are left; the log then ends where the last batch before the cut did.
    let offsets = block(log.log.truncate_to(&log.partition, 18)).expect("truncates");
    assert_eq!((offsets.log_end, offsets.high_watermark), (18, 18));
    assert_eq!(finish(cleaning), Err(StorageError::Overtaken));
    assert_eq!(log.partition.state().cleaned.first_dirty, 18);
    let offsets = block(log.log.truncate_to(&log.partition, 5)).expect("truncates");
    assert_eq!(offsets.log_end, 0, "nothing is left before 17");
    log.check_recovery();
    log.put(1_000, "a", Some("x"));
    log.put(1_000, "a", Some("y"));
    log.clean(5_000);
    assert_eq!(log.keys(), expected(&[(1, "a")]));
    log.check_recovery();
}

#[test]
fn a_restart_goes_on_where_the_last_round_ended() {
    let log = Fixture::new();
    for _ in 0..5 {
        log.put(1_000, "a", Some("x"));
    }
    log.clean(5_000);
    block(log.log.close()).expect("closes");
    let (reopened, partition) = open(&log.engine);
    let found = reopened
        .cleanable(&partition, &CONFIG, 5_000)
        .expect("looks");
    assert_eq!((found.first_dirty, found.dirty_bytes), (5, 0));
}

#[test]
fn a_power_cut_in_the_middle_of_a_round_leaves_the_log_as_it_was_or_cleaner() {
    for seed in 0..100 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let log = Fixture::new();
        for index in 0..40 {
            log.put(1_000, &(index % 7).to_string(), Some("a value"));
        }
        let mut cleaning = log.begin(&CONFIG, LIMITS, 5_000);
        for _ in 0..rng.usize(0..9) {
            if cleaning.step().expect("goes on").done.is_some() {
                break;
            }
        }
        log.engine.power_off();
        drop(cleaning);
        let _ = block(log.log.close());
        log.engine.power_on();
        let (reopened, partition) = open(&log.engine);
        let log = Fixture {
            engine: log.engine.clone(),
            log: reopened,
            partition,
        };
        let kept = log.keys();
        for (offset, key) in (33..40).map(|index| (index, (index % 7).to_string())) {
            assert!(
                kept.contains(&(offset, key)),
                "seed {seed}: {offset} is lost"
            );
        }
        log.clean(5_000);
        assert_eq!(log.keys().len(), 7, "seed {seed}");
        log.check_recovery();
    }
}

#[test]
fn a_damaged_batch_stops_the_round_and_nothing_is_lost() {
    let log = Fixture::new();
    log.put(1_000, "a", Some("1"));
    log.put(1_000, "a", Some("2"));
    let key = keys::batch(log.partition.handle(), 0);
    let mut bytes = log
        .engine
        .get(Family::Log, &key)
        .expect("reads")
        .expect("is there")
        .to_vec();
    *bytes.last_mut().expect("has bytes") ^= 1;
    let mut ops = crate::engine::WriteOps::new();
    ops.put(Family::Log, key, bytes);
    log.engine.write(&ops).expect("writes");
    let ended = finish(log.begin(&CONFIG, LIMITS, 5_000));
    assert!(
        matches!(ended, Err(StorageError::Engine(EngineError::Corruption(_)))),
        "{ended:?}"
    );
    assert_eq!(log.log.failure(), None, "appends go on");
    log.put(1_000, "a", Some("3"));
}

#[test]
fn the_clock_of_a_round_is_the_one_it_is_given() {
    let log = Fixture::new();
    log.put(1_000, "a", None);
    log.put(1_000, "b", Some("x"));
    log.clean(70_000);
    let read = log
        .log
        .read(&log.partition, 0, usize::MAX, true, ReadLimit::LogEnd);
    let first = read.expect("reads").batches[0].clone();
    let header = BatchHeader::parse(&first).expect("a batch");
    assert_eq!(header.delete_horizon_ms(), Some(71_000));
}
