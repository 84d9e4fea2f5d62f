//! What bad luck and hostile bytes do to a log, one test for each: deletions and truncations across producer
//! snapshots, markers on their way, stores that fail between two steps. `crash_model.rs` searches at random.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use ottla_protocol::batch::{self, BatchBuilder};
use tokio::sync::oneshot::error::TryRecvError;

use crate::crash_model::marker;
use crate::crash_world;
use crate::engine::{Engine, Family, Start, Visit, WriteOps};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle, PartitionId};
use crate::log::{Log, NoObserver, ReadLimit};
use crate::log_tests::{Bench, ID, TestClock, block, plain, sequenced, timed};
use crate::memory::MemoryEngine;
use crate::partition::{LogConfig, PartitionState};
use crate::waiters::{Acks, Watch};

fn transactional(producer_id: i64, epoch: i16, sequence: i32) -> Bytes {
    BatchBuilder::new(1_000)
        .producer(producer_id, epoch, sequence)
        .transactional(true)
        .record(1_000, None, Some(b"v"), &[])
        .build()
}

fn big(producer_id: i64, sequence: i32) -> Bytes {
    BatchBuilder::new(1_000)
        .producer(producer_id, 0, sequence)
        .record(1_000, None, Some(&[7; 1_500]), &[])
        .build()
}

/// A batch of a leader, as a follower gets it.
fn stamped(bytes: &Bytes, base_offset: i64, leader_epoch: i32) -> Bytes {
    let mut bytes = bytes.to_vec();
    batch::stamp(&mut bytes, base_offset, leader_epoch);
    bytes.into()
}

#[test]
fn an_idempotent_producer_goes_on_after_its_batches_were_deleted_and_the_broker_killed() {
    for records in 1..12 {
        let bench = Bench::new();
        for sequence in 0..records {
            bench.appended(sequenced(7, 0, sequence, 1));
        }
        block(bench.log.delete_prefix(&bench.partition, -1)).expect("deletes");
        let bench = bench.killed();
        assert!(
            bench.append(sequenced(7, 0, records + 1, 1)).is_err(),
            "a gap"
        );
        assert_eq!(
            bench
                .append(sequenced(7, 0, records, 1))
                .map(|a| a.base_offset),
            Ok(i64::from(records))
        );
        let again = bench
            .append(sequenced(7, 0, records, 1))
            .expect("a duplicate");
        assert!(again.duplicate);
    }
}

#[test]
fn a_truncation_below_every_snapshot_remembers_producers_and_open_transactions() {
    let bench = Bench::new();
    for sequence in 0..20 {
        bench.appended(big(1, sequence));
        if sequence == 2 {
            bench.appended(transactional(2, 0, 0));
        }
    }
    let oldest = bench.partition.state().snapshots[0];
    assert!(oldest > 5, "the first snapshots are gone: {oldest}");
    block(bench.log.truncate_to(&bench.partition, 5)).expect("truncates");
    let check = |bench: &Bench| {
        assert_eq!(bench.offsets().log_end, 5);
        assert_eq!(bench.offsets().last_stable, 3, "the transaction is open");
        let state = bench.partition.state();
        let last = state.producers.get(1).and_then(|held| held.batches.back());
        assert_eq!(last.map(|last| last.last_sequence), Some(3));
    };
    check(&bench);
    let bench = bench.power_cut();
    check(&bench);
    assert!(bench.append(big(1, 5)).is_err(), "a gap");
    assert!(bench.append(big(1, 3)).expect("a duplicate").duplicate);
    assert_eq!(bench.appended(big(1, 4)), 5);
}

#[test]
fn recovery_reads_little_when_the_last_producer_expired_long_ago() {
    let bench = Bench::new();
    bench.appended(sequenced(1, 0, 0, 1));
    assert_eq!(bench.partition.expire_producers(i64::MAX), 1);
    for _ in 0..40 {
        bench.appended(timed(&[1; 20]));
    }
    let state = bench.partition.state();
    assert!(state.snapshots[0] > 10, "{:?}", state.snapshots);
    let bench = bench.killed();
    assert!(bench.partition.state().producers.is_empty());
}

#[test]
fn a_marker_that_is_not_committed_opens_nothing_to_readers_of_committed_data() {
    for commit in [true, false] {
        let bench = Bench::new();
        bench.appended(transactional(1, 0, 0));
        bench.appended(plain(1));
        assert_eq!(bench.offsets().last_stable, 0);
        bench.engine.hold_syncs(true);
        let ended = bench.submit(marker(1, 0, commit, 0), Acks::All);
        let after = bench.submit(plain(1), Acks::All);
        block(bench.log.create(vec![ID])).expect("both are written");
        assert_eq!(bench.offsets().high_watermark, 2);
        assert_eq!(
            bench.offsets().last_stable,
            0,
            "a power cut would open the transaction again"
        );
        bench.engine.hold_syncs(false);
        for answers in [ended, after] {
            assert!(block(answers).expect("answered")[0].is_ok());
        }
        assert_eq!(bench.offsets().last_stable, 4);
    }
}

#[test]
fn a_batch_cut_by_the_log_start_still_counts_for_timestamps_after_a_restart() {
    let bench = Bench::new();
    bench.appended(timed(&[100]));
    bench.appended(timed(&[400, 500, 450]));
    block(bench.log.delete_prefix(&bench.partition, 2)).expect("deletes");
    let bench = bench.killed();
    for _ in 0..10 {
        bench.appended(timed(&[200; 20]));
    }
    let limit = ReadLimit::HighWatermark;
    let found = bench.log.offset_for_timestamp(&bench.partition, 460, limit);
    assert_eq!(found.expect("looks up").map(|found| found.offset), Some(2));
    let found = bench.log.max_timestamp(&bench.partition, limit);
    assert_eq!(found.expect("looks up").map(|found| found.offset), Some(2));
}

#[test]
fn the_first_sequence_after_a_lone_marker_is_0() {
    // Kafka's `ProducerAppendInfo.checkSequence`: an entry without batches continues at -1. Anything else would
    // let a second batch overtake a first one that is being retried.
    let bench = Bench::new();
    bench.appended(transactional(1, 0, 0));
    bench.appended(marker(1, 1, true, 0));
    assert!(matches!(
        bench.append(transactional(1, 1, 1)),
        Err(StorageError::OutOfOrderSequence { expected: 0, .. })
    ));
    bench.appended(transactional(1, 1, 0));
}

#[test]
fn an_older_coordinator_is_refused_when_it_writes_but_never_when_it_is_read_back() {
    let bench = Bench::new();
    bench.appended(transactional(1, 0, 0));
    bench.appended(marker(1, 0, true, 5));
    assert!(matches!(
        bench.append(marker(1, 0, true, 4)),
        Err(StorageError::TransactionCoordinatorFenced { .. })
    ));
    bench.partition.expire_producers(i64::MAX);
    bench.appended(marker(1, 0, true, 3));
    bench.appended(transactional(1, 0, 0));
    let live = bench.partition.state();
    let bench = bench.killed();
    let held = |state: &PartitionState| {
        let held = state.producers.get(1).expect("known");
        (held.coordinator_epoch, held.open_transaction)
    };
    assert_eq!(held(&bench.partition.state()), held(&live));
}

#[test]
fn an_expired_producer_that_comes_back_with_an_older_epoch_goes_on_after_a_kill() {
    let bench = Bench::new();
    bench.appended(sequenced(1, 5, 0, 1));
    bench.partition.expire_producers(i64::MAX);
    bench.appended(sequenced(1, 3, 0, 1));
    let bench = bench.killed();
    bench.appended(sequenced(1, 3, 1, 1));
}

#[test]
fn nothing_is_written_under_the_handle_of_a_deleted_partition() {
    let bench = Bench::new();
    let old = bench.partition.clone();
    bench.appended(plain(1));
    block(bench.log.delete(vec![ID])).expect("deletes");
    let before = bench.engine.dump(Family::Log);
    assert_eq!(
        block(bench.log.truncate_fully_and_start_at(&old, 5)),
        Err(StorageError::NoSuchPartition)
    );
    assert_eq!(
        block(bench.log.truncate_to(&old, 0)),
        Err(StorageError::NoSuchPartition)
    );
    assert_eq!(bench.engine.dump(Family::Log), before);
}

#[test]
fn the_metadata_partition_cannot_be_deleted() {
    let bench = Bench::new();
    block(bench.log.delete(vec![PartitionId::METADATA, ID])).expect("deletes");
    assert!(bench.log.partition(ID).is_none());
    let bench = bench.killed();
    let metadata = bench.log.partition(PartitionId::METADATA).expect("stays");
    assert_eq!(metadata.handle(), Handle::METADATA);
}

/// Lets one read of single keys fail, as recovery does after a truncation.
struct FailingGets {
    engine: MemoryEngine,
    failing: AtomicBool,
}

impl Engine for FailingGets {
    fn write(&self, ops: &WriteOps) -> Result<(), EngineError> {
        self.engine.write(ops)
    }
    fn sync(&self) -> Result<(), EngineError> {
        self.engine.sync()
    }
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if self.failing.swap(false, Ordering::SeqCst) {
            return Err(EngineError::Corruption("test".to_owned()));
        }
        self.engine.get(family, key)
    }
    fn scan(
        &self,
        family: Family,
        start: Start<'_>,
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), EngineError> {
        self.engine.scan(family, start, to, visit)
    }
    fn last(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
    ) -> Result<Option<(Vec<u8>, Bytes)>, EngineError> {
        self.engine.last(family, from, to)
    }
    fn properties(&self) -> Vec<(&'static str, u64)> {
        self.engine.properties()
    }
}

#[test]
fn a_truncation_that_cannot_be_read_back_stops_the_log() {
    let engine = Arc::new(FailingGets {
        engine: MemoryEngine::new(),
        failing: AtomicBool::new(false),
    });
    let open = || {
        let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
        let log = Log::open(engine.clone(), 1, clock, Arc::new(NoObserver)).expect("opens");
        let partition = block(log.create(vec![ID])).expect("creates")[0].clone();
        Bench {
            engine: Arc::new(MemoryEngine::new()),
            log,
            partition,
        }
    };
    let bench = open();
    for _ in 0..4 {
        bench.appended(plain(1));
    }
    engine.failing.store(true, Ordering::SeqCst);
    assert!(block(bench.log.truncate_to(&bench.partition, 2)).is_err());
    assert!(
        bench.append(plain(1)).is_err(),
        "what is known of the log no longer fits what is stored"
    );
    drop(bench);
    let bench = open();
    assert_eq!(bench.appended(plain(1)), 2);
    assert_eq!(bench.read(0), Ok(vec![0, 1, 2]));
}

#[test]
fn a_smaller_isr_answers_those_who_waited_for_the_replica_that_left() {
    let bench = Bench::new();
    bench.partition.become_leader(1, vec![1, 2]);
    let mut waiting = bench.submit(plain(1), Acks::All);
    block(bench.submit(plain(1), Acks::Leader)).expect("answered")[0]
        .as_ref()
        .expect("committed");
    assert_eq!(waiting.try_recv().err(), Some(TryRecvError::Empty));
    bench.partition.become_leader(1, vec![1]);
    let answered = waiting.try_recv().expect("answered at once");
    assert!(answered[0].is_ok());
}

#[test]
fn the_high_watermark_never_passes_what_this_broker_committed() {
    let bench = Bench::new();
    bench.partition.become_leader(1, vec![2]);
    bench.partition.lock().state.follower_at(2, 1_000);
    assert_eq!(bench.offsets().high_watermark, 0);
    bench.appended(plain(2));
    assert_eq!(bench.offsets().high_watermark, 2);
}

#[test]
fn a_truncation_does_not_commit_what_a_follower_lacks() {
    let bench = Bench::new();
    bench.partition.become_leader(1, vec![1, 2]);
    for _ in 0..5 {
        block(bench.submit(plain(1), Acks::Leader)).expect("answered")[0]
            .as_ref()
            .expect("written");
    }
    bench.partition.lock().state.follower_at(2, 2);
    let offsets = block(bench.log.truncate_to(&bench.partition, 4)).expect("truncates");
    assert_eq!((offsets.high_watermark, offsets.log_end), (2, 4));
    bench.partition.lock().state.follower_at(2, 4);
    assert_eq!(bench.offsets().high_watermark, 4);
    let offsets = block(bench.log.truncate_to(&bench.partition, 1)).expect("truncates");
    assert_eq!((offsets.high_watermark, offsets.log_end), (1, 1));
    block(bench.submit(plain(3), Acks::Leader)).expect("answered")[0]
        .as_ref()
        .expect("written");
    assert_eq!(
        bench.offsets().high_watermark,
        1,
        "the follower's old end is of another log"
    );
}

#[test]
fn offsets_do_not_wrap_and_a_hostile_leader_is_refused() {
    let bench = Bench::new();
    let end = i64::MAX - 3;
    let start_at = |offset| {
        block(
            bench
                .log
                .truncate_fully_and_start_at(&bench.partition, offset),
        )
    };
    assert!(matches!(
        start_at(-1),
        Err(StorageError::OffsetOutOfRange { .. })
    ));
    start_at(end).expect("begins there");
    assert!(matches!(
        bench.append(plain(4)),
        Err(StorageError::InvalidBatch(_))
    ));
    assert_eq!(bench.appended(plain(2)), end);
    let follow = |bytes| block(bench.log.append_as_follower(&bench.partition, bytes));
    assert!(matches!(
        follow(stamped(&plain(2), end + 2, 0)),
        Err(StorageError::InvalidBatch(_))
    ));
    let mut negative = stamped(&plain(1), end + 2, 0).to_vec();
    negative[23..27].copy_from_slice(&(-5_i32).to_be_bytes());
    assert!(matches!(
        follow(negative.into()),
        Err(StorageError::InvalidBatch(_))
    ));
    assert!(bench.log.failure().is_none(), "nothing panicked");
    assert_eq!(bench.read(end), Ok(vec![end]));
}

#[test]
fn a_follower_takes_a_marker_of_an_older_coordinator() {
    let bench = Bench::new();
    let mut offset = 0;
    for bytes in [
        transactional(1, 0, 0),
        marker(1, 0, true, 7),
        marker(1, 0, true, 6),
    ] {
        let taken = bench
            .log
            .append_as_follower(&bench.partition, stamped(&bytes, offset, 0));
        offset = block(taken).expect("the leader decided already").log_end;
    }
}

#[test]
fn headers_with_extreme_timestamps_do_no_harm() {
    let bench = Bench::new();
    let extremes = [i64::MIN, -1, 0, i64::MAX];
    for round in 0..12_usize {
        let mut bytes = timed(&[extremes[round % 4]; 12]).to_vec();
        batch::stamp_max_timestamp(&mut bytes, extremes[round % 4]);
        bench.appended(bytes.into());
    }
    let limit = ReadLimit::HighWatermark;
    for bench in [bench.killed()] {
        for timestamp in extremes {
            let found = bench
                .log
                .offset_for_timestamp(&bench.partition, timestamp, limit);
            let first = extremes.iter().position(|held| *held >= timestamp);
            let expected = first.map(|index| index as i64 * 12);
            assert_eq!(
                found.expect("looks up").map(|found| found.offset),
                expected,
                "{timestamp}"
            );
        }
        let found = bench.log.max_timestamp(&bench.partition, limit);
        let found = found.expect("looks up").expect("there is one");
        assert_eq!((found.timestamp, found.offset), (i64::MAX, 36));
    }
}

#[test]
fn a_duplicate_keeps_the_append_time_and_the_offset_it_was_first_answered_with() {
    let bench = Bench::new();
    bench.partition.set_config(LogConfig {
        log_append_time: true,
        ..LogConfig::default()
    });
    let first = bench.append(sequenced(1, 0, 0, 2)).expect("appended");
    block(bench.log.delete_prefix(&bench.partition, 2)).expect("deletes");
    let bench = bench.power_cut();
    bench.partition.set_config(LogConfig {
        log_append_time: true,
        ..LogConfig::default()
    });
    let again = bench.append(sequenced(1, 0, 0, 2)).expect("a duplicate");
    assert!(again.duplicate);
    assert_eq!(
        (again.base_offset, again.log_append_time, again.log_start),
        (first.base_offset, first.log_append_time, 2)
    );
}

#[test]
fn epochs_are_answered_alike_before_and_after_a_crash() {
    let bench = Bench::new();
    for epoch in [0, 2, 5] {
        bench.partition.become_leader(epoch, vec![1]);
        bench.appended(plain(3));
    }
    block(bench.log.delete_prefix(&bench.partition, 4)).expect("deletes");
    let ends = |bench: &Bench| -> BTreeMap<i32, (i32, i64)> {
        (-1..8)
            .map(|epoch| (epoch, bench.partition.epoch_end(epoch)))
            .collect()
    };
    let live = ends(&bench);
    assert_eq!(live[&0], (0, 4), "gone: where the first known one starts");
    assert_eq!(live[&3], (2, 6));
    let bench = bench.power_cut();
    assert_eq!(ends(&bench), live);
    block(bench.log.delete_prefix(&bench.partition, -1)).expect("deletes");
    let live = ends(&bench);
    assert_eq!((live[&5], live[&6]), ((5, 9), (-1, -1)));
    let bench = bench.power_cut();
    assert_eq!(ends(&bench), live);
    assert_eq!(bench.partition.epoch_of(9), 5);
}

#[test]
fn a_follower_has_what_its_leader_has() {
    for seed in 0..300 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let leader = Bench::new();
        let mut sequences = [0_i32; 4];
        for epoch in 0..rng.i32(1..30) {
            if rng.u8(0..4) == 0 {
                leader.partition.become_leader(epoch, vec![1]);
            }
            let who = rng.usize(0..4);
            let bytes = match rng.u8(0..4) {
                0 => plain(rng.usize(1..4)),
                1 => marker(who as i64, 0, rng.bool(), epoch),
                _ => {
                    sequences[who] += 1;
                    transactional(who as i64, 0, sequences[who] - 1)
                }
            };
            leader.appended(bytes);
        }
        let follower = Bench::new();
        while follower.offsets().log_end < leader.offsets().log_end {
            let (from, max) = (follower.offsets().log_end, rng.usize(1..1_000));
            let read = leader
                .log
                .read(&leader.partition, from, max, true, ReadLimit::LogEnd);
            let bytes = Bytes::from(read.expect("reads").batches.concat());
            let taken = follower.log.append_as_follower(&follower.partition, bytes);
            block(taken).expect("continues");
        }
        let (led, follows) = (leader.partition.state(), follower.partition.state());
        assert_eq!(follows.producers, led.producers);
        assert_eq!(
            (&follows.epochs, follows.log_end),
            (&led.epochs, led.log_end)
        );
        let newest = led.epochs.last_key_value().map_or(0, |(epoch, _)| *epoch);
        for epoch in -1..=newest {
            assert_eq!(
                follower.partition.epoch_end(epoch),
                leader.partition.epoch_end(epoch),
                "epoch {epoch}"
            );
        }
        let recovered = follower.killed().partition.state();
        assert_eq!(recovered.producers, led.producers);
    }
}

#[test]
fn a_watch_misses_nothing_while_the_log_moves() {
    const BATCHES: i64 = 3_000;
    let bench = Bench::new();
    let (log, partition) = (bench.log.clone(), bench.partition.clone());
    let reader = std::thread::spawn(move || {
        let mut wakes = 0;
        loop {
            // As a fetch does it: watch, read, wait.
            let end = partition.offsets().high_watermark;
            let mut watch = Watch::new();
            watch.add(&partition, ReadLimit::HighWatermark, end);
            let read = log.read(&partition, end, 1, true, ReadLimit::HighWatermark);
            if partition.is_gone() {
                return wakes;
            }
            if read.is_ok_and(|read| read.batches.is_empty()) {
                block(watch.fired());
                wakes += 1;
            }
        }
    });
    for _ in 0..BATCHES {
        bench.appended(plain(1));
    }
    // Nothing but the deletion wakes a reader at the end of the log.
    block(bench.log.delete(vec![ID])).expect("deletes");
    assert!(reader.join().expect("no panic") > 0);
    assert_eq!(bench.partition.parked_fetches(), 0);
}

#[test]
fn a_store_that_would_give_a_handle_away_twice_is_refused() {
    for lost in [keys::next_handle(), keys::binding(PartitionId::METADATA)] {
        let bench = Bench::new();
        let mut ops = WriteOps::new();
        ops.delete(Family::Log, lost);
        bench.engine.write(&ops).expect("writes");
        let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
        let opened = Log::open(bench.engine.clone(), 1, clock, Arc::new(NoObserver));
        assert!(
            matches!(
                opened,
                Err(StorageError::Engine(EngineError::Corruption(_)))
            ),
            "{opened:?}"
        );
    }
}

/// Seeds to run, from the environment variable `name` (`first..last`) or `first..last` as given here.
fn seeds(name: &str, usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let asked = std::env::var(name).ok();
    let parsed = asked.as_deref().map(|asked| {
        let (first, last) = asked.split_once("..").expect("first..last");
        first.parse().expect("a seed")..last.parse().expect("a seed")
    });
    parsed.unwrap_or(usual)
}

#[test]
fn any_sequence_of_calls_faults_and_crashes_leaves_what_the_model_says() {
    for seed in seeds("OTTLA_CRASH_SEEDS", 0..2_000) {
        println!("seed {seed}");
        crash_world::run_in_memory(seed, 60);
    }
}

#[test]
fn a_killed_process_finds_on_rocksdb_what_the_model_says() {
    for seed in seeds("OTTLA_CRASH_ROCKS_SEEDS", 0..24) {
        println!("seed {seed}");
        crash_world::run_on_rocks(seed, 60);
    }
}
