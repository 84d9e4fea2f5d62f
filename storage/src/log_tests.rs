//! The log over the engine in memory: order, commits, syncs, crashes, truncation, look-ups.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::batch::{BatchBuilder, BatchHeader};
use tokio::sync::oneshot::error::TryRecvError;
use uuid::Uuid;

use crate::engine::{Engine, Family};
use crate::error::{EngineError, StorageError};
use crate::keys::PartitionId;
use crate::log::{
    AppendAnswers, AppendEntry, Clock, Log, NoObserver, Partition, ReadLimit, TimestampOffset,
};
use crate::memory::MemoryEngine;
use crate::partition::{Appended, LogConfig, Offsets};
use crate::waiters::{Acks, Watch};

pub(crate) struct TestClock(pub(crate) AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.now_ms() as u64)
    }
}

/// The same clock, and each of the `looks` at it takes ten microseconds: how long syncs take is known then, and that it is
/// short.
pub(crate) struct TickingClock {
    pub(crate) clock: Arc<TestClock>,
    pub(crate) looks: Arc<AtomicU64>,
}

impl Clock for TickingClock {
    fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    fn monotonic(&self) -> Duration {
        let looks = self.looks.fetch_add(1, Ordering::SeqCst);
        self.clock.monotonic() + Duration::from_micros(10 * looks)
    }
}

pub(crate) struct Bench {
    pub(crate) engine: Arc<MemoryEngine>,
    pub(crate) log: Log,
    pub(crate) partition: Arc<Partition>,
}

pub(crate) const ID: PartitionId = PartitionId {
    topic_id: Uuid::from_u128(99),
    partition: 0,
};

pub(crate) fn block<F: Future>(future: F) -> F::Output {
    // Nothing here needs a reactor: waiting for the log's threads is enough.
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

impl Bench {
    pub(crate) fn on(engine: Arc<MemoryEngine>) -> Self {
        let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
        let log = Log::open(engine.clone(), 1, clock, Arc::new(NoObserver)).expect("opens");
        let partition = block(log.create(vec![ID])).expect("creates")[0].clone();
        Self {
            engine,
            log,
            partition,
        }
    }

    pub(crate) fn new() -> Self {
        Self::on(Arc::new(MemoryEngine::new()))
    }

    /// A kill -9: the log is opened anew on what was written.
    pub(crate) fn killed(self) -> Self {
        Self::on(self.engine)
    }

    /// A power cut: the log is opened anew on what was synced, when the threads of the old one are gone.
    pub(crate) fn power_cut(self) -> Self {
        self.engine.power_off();
        // What it could not write is what a power cut is about.
        let _ = block(self.log.close());
        self.engine.power_on();
        Self::on(self.engine)
    }

    pub(crate) fn submit(&self, bytes: Bytes, acks: Acks) -> AppendAnswers {
        let header = BatchHeader::parse(&bytes).expect("a batch");
        let entry = AppendEntry {
            partition: self.partition.clone(),
            bytes: bytes.into(),
            header,
            leader_epoch: self.partition.offsets().leader_epoch,
        };
        block(self.log.append(vec![entry], acks)).expect("the log is open")
    }

    pub(crate) fn append(&self, bytes: Bytes) -> Result<Appended, StorageError> {
        block(self.submit(bytes, Acks::All))
            .expect("answered")
            .remove(0)
    }

    pub(crate) fn appended(&self, bytes: Bytes) -> i64 {
        self.append(bytes).expect("appended").base_offset
    }

    pub(crate) fn read(&self, from: i64) -> Result<Vec<i64>, StorageError> {
        let limit = ReadLimit::HighWatermark;
        let read = self
            .log
            .read(&self.partition, from, usize::MAX, true, limit)?;
        Ok(read
            .batches
            .iter()
            .map(|bytes| BatchHeader::parse(bytes).expect("a batch").base_offset)
            .collect())
    }

    pub(crate) fn offsets(&self) -> Offsets {
        self.partition.offsets()
    }

    pub(crate) fn relaxed(&self, flush_messages: i64) {
        self.partition.set_config(LogConfig {
            flush_messages,
            ..LogConfig::default()
        });
    }
}

pub(crate) fn plain(count: usize) -> Bytes {
    timed(&vec![1_000; count])
}

pub(crate) fn timed(timestamps: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new(timestamps[0]);
    for timestamp in timestamps {
        builder = builder.record(*timestamp, Some(b"k"), Some(b"v"), &[]);
    }
    builder.build()
}

pub(crate) fn sequenced(producer_id: i64, epoch: i16, sequence: i32, count: usize) -> Bytes {
    let mut builder = BatchBuilder::new(1_000).producer(producer_id, epoch, sequence);
    for _ in 0..count {
        builder = builder.record(1_000, None, Some(b"v"), &[]);
    }
    builder.build()
}

#[test]
fn offsets_follow_each_other_and_come_back_stamped() {
    let bench = Bench::new();
    bench.partition.become_leader(3, vec![1]);
    assert_eq!(bench.appended(plain(2)), 0);
    assert_eq!(bench.appended(plain(3)), 2);
    assert_eq!(bench.appended(plain(1)), 5);
    let read = bench
        .log
        .read(
            &bench.partition,
            3,
            usize::MAX,
            true,
            ReadLimit::HighWatermark,
        )
        .expect("reads");
    let headers: Vec<_> = read
        .batches
        .iter()
        .map(|bytes| BatchHeader::parse(bytes).expect("a batch"))
        .collect();
    assert_eq!(headers[0].base_offset, 2, "the batch that holds offset 3");
    assert_eq!(headers[0].partition_leader_epoch, 3);
    assert_eq!(headers[1].base_offset, 5);
    assert!(
        read.batches
            .iter()
            .all(|b| ottla_protocol::batch::crc_matches(b))
    );
}

#[test]
fn nothing_is_answered_or_served_before_its_sync() {
    let bench = Bench::new();
    bench.engine.hold_syncs(true);
    let mut answers = bench.submit(plain(1), Acks::All);
    let mut leader = bench.submit(plain(1), Acks::Leader);
    let none = block(bench.submit(plain(1), Acks::None)).expect("answered");
    assert_eq!(none[0].as_ref().expect("written").base_offset, 2);
    assert_eq!(answers.try_recv().err(), Some(TryRecvError::Empty));
    assert_eq!(leader.try_recv().err(), Some(TryRecvError::Empty));
    assert_eq!(bench.offsets().high_watermark, 0);
    assert_eq!(bench.read(0), Ok(vec![]));
    bench.engine.hold_syncs(false);
    assert!(block(answers).expect("answered")[0].is_ok());
    assert!(block(leader).expect("answered")[0].is_ok());
    assert!(bench.offsets().high_watermark >= 2);
    assert_eq!(
        bench.offsets().committed_end,
        bench.offsets().high_watermark
    );
}

#[test]
fn everything_answered_survives_a_power_cut_and_nothing_else_is_needed() {
    let seed = 11;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bench = Bench::new();
    let mut acknowledged = Vec::new();
    for _ in 0..10 {
        for _ in 0..rng.usize(1..20) {
            acknowledged.push(bench.appended(plain(rng.usize(1..4))));
        }
        bench.engine.hold_syncs(true);
        let lost = bench.submit(plain(1), Acks::All);
        bench = bench.power_cut();
        drop(lost);
        let read = bench.read(0).expect("reads");
        assert!(acknowledged.iter().all(|offset| read.contains(offset)));
    }
}

#[test]
fn relaxed_appends_are_answered_when_written_and_survive_a_kill() {
    let bench = Bench::new();
    bench.relaxed(i64::MAX);
    bench.engine.hold_syncs(true);
    assert_eq!(bench.appended(plain(1)), 0);
    assert_eq!(bench.appended(plain(1)), 1);
    let offsets = bench.offsets();
    assert_eq!((offsets.high_watermark, offsets.fsynced_end), (2, 0));
    bench.engine.hold_syncs(false);
    let bench = bench.killed();
    assert_eq!(bench.read(0), Ok(vec![0, 1]));
    assert_eq!(bench.offsets().fsynced_end, 2, "synced before it is served");
}

#[test]
fn flush_messages_makes_the_append_that_completes_them_wait() {
    let bench = Bench::new();
    bench.relaxed(3);
    bench.engine.hold_syncs(true);
    assert_eq!(bench.appended(plain(1)), 0);
    assert_eq!(bench.appended(plain(1)), 1);
    let mut third = bench.submit(plain(1), Acks::Leader);
    let mut fourth = bench.submit(plain(1), Acks::Leader);
    assert_eq!(third.try_recv().err(), Some(TryRecvError::Empty));
    assert_eq!(fourth.try_recv().err(), Some(TryRecvError::Empty));
    bench.engine.hold_syncs(false);
    assert!(block(third).expect("answered")[0].is_ok());
    assert!(block(fourth).expect("answered")[0].is_ok());
    assert_eq!(bench.offsets().high_watermark, 4);
}

#[test]
fn one_sync_serves_all_that_was_written_before_it() {
    let bench = Bench::new();
    let before = bench.engine.syncs();
    bench.engine.hold_syncs(true);
    let answers: Vec<_> = (0..200)
        .map(|_| bench.submit(plain(1), Acks::All))
        .collect();
    bench.engine.hold_syncs(false);
    for answer in answers {
        assert!(block(answer).expect("answered")[0].is_ok());
    }
    let syncs = bench.engine.syncs() - before;
    assert!(syncs <= 20, "{syncs} syncs for 200 appends");
}

#[test]
fn after_a_failed_sync_everything_waiting_fails_and_nothing_is_accepted() {
    let bench = Bench::new();
    bench.appended(plain(1));
    bench.engine.hold_syncs(true);
    bench
        .engine
        .fail_syncs(Some(EngineError::Io("test".into())));
    let waiting: Vec<_> = (0..3).map(|_| bench.submit(plain(1), Acks::All)).collect();
    bench.engine.hold_syncs(false);
    for waiting in waiting {
        let answer = block(waiting).expect("answered").remove(0);
        assert!(matches!(answer, Err(StorageError::Engine(_))), "{answer:?}");
    }
    bench.engine.fail_syncs(None);
    assert!(
        bench.append(plain(1)).is_err(),
        "not retried on the same state"
    );
    assert!(bench.log.failure().is_some());
    assert_eq!(bench.read(0), Ok(vec![0]), "reads go on");
    assert!(block(bench.log.delete_prefix(&bench.partition, 1)).is_err());
}

#[test]
fn a_failed_write_fails_its_group_and_all_later_ones() {
    let bench = Bench::new();
    bench.appended(plain(1));
    bench
        .engine
        .fail_writes(Some(EngineError::Full("test".into())));
    assert_eq!(
        bench.append(plain(1)),
        Err(StorageError::Engine(EngineError::Full("test".into())))
    );
    bench.engine.fail_writes(None);
    assert!(matches!(
        bench.append(plain(1)),
        Err(StorageError::Engine(EngineError::Failed(_)))
    ));
    let bench = bench.killed();
    assert_eq!(bench.read(0), Ok(vec![0]));
    assert_eq!(bench.appended(plain(1)), 1);
}

#[test]
fn a_duplicate_in_flight_waits_for_the_same_offset() {
    let bench = Bench::new();
    bench.engine.hold_syncs(true);
    let first = bench.submit(sequenced(7, 0, 0, 2), Acks::All);
    let mut again = bench.submit(sequenced(7, 0, 0, 2), Acks::All);
    assert_eq!(again.try_recv().err(), Some(TryRecvError::Empty));
    bench.engine.hold_syncs(false);
    let first = block(first).expect("answered").remove(0).expect("appended");
    let again = block(again)
        .expect("answered")
        .remove(0)
        .expect("a duplicate");
    assert_eq!((first.base_offset, first.duplicate), (0, false));
    assert_eq!((again.base_offset, again.duplicate), (0, true));
    assert_eq!(bench.offsets().log_end, 2, "stored once");
}

#[test]
fn producer_state_is_the_same_live_and_recovered() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::new();
        let mut next = [(0_i16, 0_i32); 4];
        for _ in 0..rng.usize(1..60) {
            let who = rng.usize(0..4);
            if rng.u8(0..10) == 0 {
                next[who] = (next[who].0 + 1, 0);
            }
            let count = rng.usize(1..4);
            let (epoch, sequence) = next[who];
            bench.appended(sequenced(who as i64, epoch, sequence, count));
            next[who].1 += count as i32;
            if rng.u8(0..8) == 0 {
                bench.appended(plain(1));
            }
        }
        let live = bench.partition.state();
        if rng.bool() {
            block(bench.log.close()).expect("closes");
        }
        bench = bench.killed();
        let recovered = bench.partition.state();
        assert_eq!(recovered.producers, live.producers, "seed {seed}");
        assert_eq!(recovered.epochs, live.epochs, "seed {seed}");
        assert_eq!(recovered.log_end, live.log_end, "seed {seed}");
        assert_eq!(
            recovered.running_max_timestamp, live.running_max_timestamp,
            "seed {seed}"
        );
        let (epoch, sequence) = next[0];
        if live.producers.get(0).is_some() {
            assert!(
                bench.append(sequenced(0, epoch, sequence + 1, 1)).is_err(),
                "a gap after recovery, seed {seed}"
            );
        }
        assert!(
            bench.append(sequenced(0, epoch, sequence, 1)).is_ok(),
            "seed {seed}"
        );
    }
}

#[test]
fn snapshots_are_bounded_to_two() {
    let bench = Bench::new();
    let value = vec![0_u8; 1 << 20];
    for sequence in 0..20 {
        let batch = BatchBuilder::new(1_000)
            .producer(1, 0, sequence)
            .record(1_000, None, Some(&value), &[])
            .build();
        bench.appended(batch);
    }
    let (from, to) = crate::keys::producers(bench.partition.handle(), 0);
    let ends = bench
        .engine
        .dump(Family::Log)
        .into_iter()
        .filter(|(key, _)| *key >= from && *key < to)
        .filter(|(key, _)| matches!(crate::keys::parse_producer(key), Some((_, None))))
        .count();
    assert_eq!(ends, 2);
    let bench = bench.killed();
    assert!(bench.append(sequenced(1, 0, 20, 1)).is_ok());
}

#[test]
fn leader_epochs_are_kept_fenced_and_answered() {
    let mut bench = Bench::new();
    bench.appended(plain(2));
    bench.partition.become_leader(2, vec![1]);
    bench.appended(plain(3));
    bench = bench.killed();
    bench.partition.become_leader(5, vec![1]);
    let ends = |bench: &Bench| [0, 1, 2, 3, 5, 6, -1].map(|epoch| bench.partition.epoch_end(epoch));
    assert_eq!(
        ends(&bench),
        [(0, 2), (0, 2), (2, 5), (2, 5), (5, 5), (-1, -1), (-1, -1)]
    );
    bench.appended(plain(1));
    assert_eq!(bench.partition.epoch_end(2), (2, 5));
    assert_eq!(bench.partition.epoch_end(5), (5, 6));
    assert_eq!(bench.partition.epoch_of(4), 2);
    assert!(matches!(
        bench.partition.check_epoch(4),
        Err(StorageError::FencedLeaderEpoch { current: 5, .. })
    ));
    assert!(matches!(
        bench.partition.check_epoch(6),
        Err(StorageError::UnknownLeaderEpoch { current: 5, .. })
    ));
    assert!(bench.partition.check_epoch(-1).is_ok());
}

#[test]
fn reads_are_whole_batches_within_bounds() {
    let bench = Bench::new();
    for _ in 0..5 {
        bench.appended(plain(2));
    }
    let size = plain(2).len();
    let read = |from, max, one| {
        let limit = ReadLimit::HighWatermark;
        bench.log.read(&bench.partition, from, max, one, limit)
    };
    assert_eq!(read(0, 2 * size, false).expect("reads").batches.len(), 2);
    assert_eq!(
        read(0, 2 * size + 1, false).expect("reads").batches.len(),
        2
    );
    assert_eq!(read(0, 1, true).expect("reads").batches.len(), 1, "KIP-74");
    assert_eq!(read(0, 1, false).expect("reads").batches.len(), 0);
    assert_eq!(read(10, size, true).expect("at the end").batches.len(), 0);
    assert!(matches!(
        read(11, 1, true),
        Err(StorageError::OffsetOutOfRange { .. })
    ));
    assert!(matches!(
        read(-5, 1, true),
        Err(StorageError::OffsetOutOfRange { .. })
    ));
}

#[test]
fn delete_prefix_moves_the_start_at_once_and_for_good() {
    let bench = Bench::new();
    for _ in 0..5 {
        bench.appended(plain(2));
    }
    let start = |bench: &Bench, offset| block(bench.log.delete_prefix(&bench.partition, offset));
    assert_eq!(start(&bench, 3), Ok(3));
    assert_eq!(
        bench.read(3),
        Ok(vec![2, 4, 6, 8]),
        "the batch of offset 3 stays"
    );
    assert!(bench.read(2).is_err());
    assert_eq!(start(&bench, 1), Ok(3), "never back");
    assert!(start(&bench, 11).is_err());
    let bench = bench.power_cut();
    assert_eq!(bench.offsets().log_start, 3);
    assert_eq!(start(&bench, -1), Ok(10), "to the high watermark");
    let bench = bench.power_cut();
    let offsets = bench.offsets();
    assert_eq!((offsets.log_start, offsets.log_end), (10, 10));
    assert_eq!(bench.appended(plain(1)), 10);
}

#[test]
fn truncation_takes_everything_that_derives_from_the_batches() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(1_000 + seed);
        let bench = Bench::new();
        let mut states = vec![(0, bench.partition.state())];
        let mut sequences = [0_i32; 3];
        for step in 0..rng.usize(2..40) {
            if rng.u8(0..10) == 0 {
                bench.partition.become_leader(step as i32, vec![1]);
            }
            let who = rng.usize(0..3);
            let count = rng.usize(1..4);
            bench.appended(sequenced(who as i64, 0, sequences[who], count));
            sequences[who] += count as i32;
            states.push((bench.offsets().log_end, bench.partition.state()));
        }
        let (end, expected) = &states[rng.usize(0..states.len())];
        // Anywhere inside the batch that follows cuts at the same place.
        let inside = states.iter().map(|(end, _)| *end).find(|next| next > end);
        let target = match inside {
            Some(next) => rng.i64(*end..next),
            None => *end,
        };
        let offsets = block(bench.log.truncate_to(&bench.partition, target)).expect("truncates");
        assert_eq!(offsets.log_end, *end, "seed {seed}");
        let cut = bench.partition.state();
        assert_eq!(cut.producers, expected.producers, "seed {seed}");
        assert_eq!(cut.epochs, expected.epochs, "seed {seed}");
        let bench = bench.power_cut();
        assert_eq!(
            bench.partition.state().producers,
            expected.producers,
            "seed {seed}"
        );
        assert_eq!(bench.appended(plain(1)), *end, "seed {seed}");
    }
}

#[test]
fn a_sync_of_the_log_before_a_truncation_is_not_credited_to_the_one_after() {
    let bench = Bench::new();
    bench.relaxed(i64::MAX);
    for _ in 0..4 {
        bench.appended(plain(1));
    }
    block(bench.log.truncate_to(&bench.partition, 1)).expect("truncates");
    assert_eq!(bench.appended(plain(1)), 1);
    assert_eq!(bench.offsets().fsynced_end, 1);
    block(bench.log.truncate_fully_and_start_at(&bench.partition, 100)).expect("truncates");
    let offsets = bench.offsets();
    assert_eq!((offsets.log_start, offsets.log_end), (100, 100));
    assert_eq!(bench.appended(plain(1)), 100);
    let bench = bench.killed();
    assert_eq!(bench.read(100), Ok(vec![100]));
}

#[test]
fn a_follower_takes_bytes_as_they_are_and_only_what_continues_its_log() {
    let leader = Bench::new();
    leader.partition.become_leader(4, vec![1]);
    for _ in 0..3 {
        leader.appended(plain(2));
    }
    let read = |from| {
        let limit = ReadLimit::LogEnd;
        let read = leader
            .log
            .read(&leader.partition, from, usize::MAX, true, limit);
        Bytes::from(read.expect("reads").batches.concat())
    };
    let follower = Bench::new();
    let take = |bytes| block(follower.log.append_as_follower(&follower.partition, bytes));
    assert!(matches!(
        take(read(2)),
        Err(StorageError::NotContinuous {
            given: 2,
            log_end: 0
        })
    ));
    assert_eq!(take(read(0)).expect("continues").log_end, 6);
    assert!(take(read(0)).is_err(), "an overlap");
    assert_eq!(follower.partition.epoch_of(0), 4);
    let own = follower
        .log
        .read(&follower.partition, 0, usize::MAX, true, ReadLimit::LogEnd)
        .expect("reads");
    assert_eq!(Bytes::from(own.batches.concat()), read(0));
}

#[test]
fn the_high_watermark_waits_for_every_replica_in_sync() {
    let bench = Bench::new();
    bench.partition.become_leader(1, vec![1, 2]);
    let mut all = bench.submit(plain(3), Acks::All);
    let leader = block(bench.submit(plain(1), Acks::Leader)).expect("answered");
    assert!(leader[0].is_ok(), "acks=1 needs the leader only");
    assert_eq!(all.try_recv().err(), Some(TryRecvError::Empty));
    assert_eq!(bench.offsets().high_watermark, 0);
    bench.partition.lock().state.follower_at(2, 3);
    let offsets = bench.offsets();
    assert_eq!((offsets.high_watermark, offsets.committed_end), (3, 4));
    block(bench.submit(plain(1), Acks::Leader)).expect("answered")[0]
        .as_ref()
        .expect("written");
    assert!(block(all).expect("answered")[0].is_ok());
}

#[test]
fn timestamps_are_found_as_a_full_scan_finds_them() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(2_000 + seed);
        let bench = Bench::new();
        let mut model = Vec::new();
        for _ in 0..rng.usize(1..40) {
            let timestamps: Vec<i64> = (0..rng.usize(1..4)).map(|_| rng.i64(0..50)).collect();
            let base = bench.appended(timed(&timestamps));
            model.extend(timestamps.into_iter().zip(base..));
        }
        let start = rng.i64(0..=bench.offsets().high_watermark);
        block(bench.log.delete_prefix(&bench.partition, start)).expect("deletes");
        model.retain(|(_, offset)| *offset >= start);
        let limit = ReadLimit::HighWatermark;
        for timestamp in 0..51 {
            let found = bench
                .log
                .offset_for_timestamp(&bench.partition, timestamp, limit)
                .expect("looks up");
            let expected = model.iter().find(|(held, _)| *held >= timestamp);
            assert_eq!(
                found.map(|found| (found.timestamp, found.offset)),
                expected.copied(),
                "seed {seed} timestamp {timestamp}"
            );
        }
        let expected = model
            .iter()
            .copied()
            .reduce(|best, next| if next.0 > best.0 { next } else { best });
        let found = bench
            .log
            .max_timestamp(&bench.partition, limit)
            .expect("looks up");
        assert_eq!(
            found.map(
                |TimestampOffset {
                     timestamp, offset, ..
                 }| (timestamp, offset)
            ),
            expected,
            "seed {seed}"
        );
    }
}

#[test]
fn a_parked_fetch_wakes_when_its_limit_moves_and_leaves_nothing_behind() {
    let bench = Bench::new();
    let mut watch = Watch::new();
    watch.add(&bench.partition, ReadLimit::HighWatermark, 0);
    assert_eq!(bench.partition.parked_fetches(), 1);
    bench.appended(plain(1));
    block(watch.fired());
    let mut watch = Watch::new();
    watch.add(&bench.partition, ReadLimit::HighWatermark, 0);
    block(watch.fired());
    let mut dropped = Watch::new();
    dropped.add(&bench.partition, ReadLimit::HighWatermark, 1);
    assert_eq!(bench.partition.parked_fetches(), 1);
    drop(dropped);
    assert_eq!(bench.partition.parked_fetches(), 0);
}

#[test]
fn a_deleted_partition_refuses_everything_and_its_handle_is_not_used_again() {
    let bench = Bench::new();
    bench.appended(plain(1));
    let old = bench.partition.clone();
    let mut watch = Watch::new();
    watch.add(&old, ReadLimit::HighWatermark, 1);
    block(bench.log.delete(vec![ID])).expect("deletes");
    block(watch.fired());
    assert_eq!(bench.append(plain(1)), Err(StorageError::NoSuchPartition));
    assert_eq!(bench.read(0), Err(StorageError::NoSuchPartition));
    let (from, to) = crate::keys::partition(old.handle());
    let left = bench.engine.dump(Family::Log);
    assert!(!left.iter().any(|(key, _)| *key >= from && *key < to));
    let bench = bench.killed();
    assert!(bench.partition.handle() > old.handle());
    assert_eq!(bench.appended(plain(1)), 0);
}

#[test]
fn log_append_time_is_stamped_with_a_matching_crc() {
    let bench = Bench::new();
    bench.partition.set_config(LogConfig {
        log_append_time: true,
        ..LogConfig::default()
    });
    let appended = bench.append(timed(&[5, 9])).expect("appended");
    assert_eq!(appended.log_append_time, Some(1_000));
    let limit = ReadLimit::HighWatermark;
    let read = bench
        .log
        .read(&bench.partition, 0, usize::MAX, true, limit)
        .expect("reads");
    assert!(ottla_protocol::batch::crc_matches(&read.batches[0]));
    let found = bench
        .log
        .offset_for_timestamp(&bench.partition, 1_000, limit);
    assert_eq!(found.expect("looks up").map(|found| found.offset), Some(0));
}

#[test]
fn a_closed_log_accepts_nothing() {
    let bench = Bench::new();
    bench.appended(plain(1));
    block(bench.log.close()).expect("closes");
    let header = BatchHeader::parse(&plain(1)).expect("a batch");
    let entry = AppendEntry {
        partition: bench.partition.clone(),
        bytes: plain(1).into(),
        header,
        leader_epoch: 0,
    };
    assert_eq!(
        block(bench.log.append(vec![entry], Acks::All)).err(),
        Some(StorageError::ShuttingDown)
    );
    assert!(
        bench
            .engine
            .get(Family::Log, &[9])
            .expect("reads")
            .is_none()
    );
}

#[test]
fn flush_ms_bounds_the_time_to_the_next_sync_and_delays_no_answer() {
    let bench = Bench::new();
    bench.relaxed(i64::MAX);
    let before = bench.engine.syncs();
    bench.engine.hold_syncs(true);
    for _ in 0..3 {
        bench.appended(plain(1));
    }
    assert_eq!(bench.offsets().fsynced_end, 0, "answered without a sync");
    bench.engine.hold_syncs(false);
    bench.partition.set_config(LogConfig {
        flush_messages: i64::MAX,
        flush_ms: 0,
        log_append_time: false,
    });
    bench.appended(plain(1));
    // Due at once: the clock stands still, so nothing but flush.ms can have asked for this sync.
    while bench.offsets().fsynced_end < 4 {
        std::thread::yield_now();
    }
    assert_eq!(bench.engine.syncs(), before + 1);
}
