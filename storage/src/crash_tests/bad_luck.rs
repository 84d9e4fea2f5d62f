//! Crashes, deletions and truncations at the worst moment, one test for each.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use ottla_protocol::batch::BatchBuilder;
use tokio::sync::oneshot::error::TryRecvError;

use super::model::marker;
use super::transactional;
use crate::engine::{Engine, Family, Start, Visit, WriteOps};
use crate::error::EngineError;
use crate::keys::PartitionId;
use crate::log::{Log, NoObserver, ReadLimit};
use crate::log_tests::{Bench, ID, TestClock, block, plain, sequenced, timed};
use crate::memory::MemoryEngine;
use crate::partition::LogConfig;
use crate::waiters::{Acks, Watch};

fn big(producer_id: i64, sequence: i32) -> Bytes {
    BatchBuilder::new(1_000)
        .producer(producer_id, 0, sequence)
        .record(1_000, None, Some(&[7; 1_500]), &[])
        .build()
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

/// Where the syncer of a `Meddled` store is made to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syncer {
    Free,
    /// Its sync is done, but does not return.
    Done,
    /// Its sync has not begun.
    Waiting,
}

/// A store in memory that can fail one read and hold the syncer's syncs, but never the writer's.
struct Meddled {
    engine: MemoryEngine,
    fail_get: Mutex<bool>,
    /// Where the syncer shall stand, and where it stands.
    syncer: Mutex<(Syncer, Syncer)>,
    moved: Condvar,
}

impl Meddled {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            engine: MemoryEngine::new(),
            fail_get: Mutex::new(false),
            syncer: Mutex::new((Syncer::Free, Syncer::Free)),
            moved: Condvar::new(),
        })
    }

    fn open(self: &Arc<Self>, ids: Vec<PartitionId>) -> (Log, Vec<Arc<crate::log::Partition>>) {
        let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
        let log = Log::open(self.clone(), 1, clock, Arc::new(NoObserver)).expect("opens");
        let partitions = block(log.create(ids)).expect("creates");
        (log, partitions)
    }

    fn hold(&self, place: Syncer) {
        self.syncer.lock().expect("not poisoned").0 = place;
        self.moved.notify_all();
    }

    fn wait_until(&self, place: Syncer) {
        let held = self.syncer.lock().expect("not poisoned");
        let held = self.moved.wait_while(held, |held| held.1 != place);
        drop(held.expect("not poisoned"));
    }

    /// The syncer passes here; it stays as long as it shall.
    fn pass(&self, place: Syncer) {
        let mut held = self.syncer.lock().expect("not poisoned");
        if held.0 == place {
            held.1 = place;
            self.moved.notify_all();
        }
        let held = self.moved.wait_while(held, |held| held.0 == place);
        held.expect("not poisoned").1 = Syncer::Free;
    }
}

impl Engine for Meddled {
    fn write(&self, ops: &WriteOps) -> Result<(), EngineError> {
        self.engine.write(ops)
    }
    fn sync(&self) -> Result<(), EngineError> {
        if std::thread::current().name() != Some("ottla-syncer") {
            return self.engine.sync();
        }
        self.pass(Syncer::Waiting);
        self.engine.sync()?;
        self.pass(Syncer::Done);
        Ok(())
    }
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if std::mem::take(&mut *self.fail_get.lock().expect("not poisoned")) {
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

fn bench_on(engine: &Arc<Meddled>) -> Bench {
    let (log, mut partitions) = engine.open(vec![ID]);
    Bench {
        engine: Arc::new(MemoryEngine::new()),
        log,
        partition: partitions.remove(0),
    }
}

#[test]
fn a_truncation_that_cannot_be_read_back_stops_the_log() {
    let engine = Meddled::new();
    let bench = bench_on(&engine);
    for _ in 0..4 {
        bench.appended(plain(1));
    }
    *engine.fail_get.lock().expect("not poisoned") = true;
    assert!(block(bench.log.truncate_to(&bench.partition, 2)).is_err());
    assert!(
        bench.append(plain(1)).is_err(),
        "what is known of the log no longer fits what is stored"
    );
    drop(bench);
    let bench = bench_on(&engine);
    assert_eq!(bench.appended(plain(1)), 2);
    assert_eq!(bench.read(0), Ok(vec![0, 1, 2]));
}

#[test]
fn a_sync_that_a_truncation_overtakes_is_not_credited_to_what_was_written_since() {
    let engine = Meddled::new();
    let bench = bench_on(&engine);
    let relaxed = |flush_ms| {
        bench.partition.set_config(LogConfig {
            flush_messages: i64::MAX,
            flush_ms,
            log_append_time: false,
        });
    };
    relaxed(i64::MAX);
    for _ in 0..3 {
        bench.appended(plain(1));
    }
    engine.hold(Syncer::Done);
    relaxed(0);
    bench.appended(plain(1));
    engine.wait_until(Syncer::Done);
    block(bench.log.truncate_to(&bench.partition, 1)).expect("truncates");
    relaxed(i64::MAX);
    for _ in 0..3 {
        bench.appended(plain(1));
    }
    // The next sync waits for its turn, so that the one before it has been credited.
    engine.hold(Syncer::Waiting);
    let other = PartitionId { partition: 1, ..ID };
    let durable = Bench {
        engine: Arc::new(MemoryEngine::new()),
        log: bench.log.clone(),
        partition: block(bench.log.create(vec![other])).expect("creates")[0].clone(),
    };
    let waiting = durable.submit(plain(1), Acks::All);
    engine.wait_until(Syncer::Waiting);
    let offsets = bench.offsets();
    assert_eq!((offsets.log_end, offsets.fsynced_end), (4, 1));
    engine.hold(Syncer::Free);
    assert!(block(waiting).expect("answered")[0].is_ok());
}
