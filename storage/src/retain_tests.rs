//! Retention, erasing and reclaiming of a log on both engines, with the clock in the test's hand. What damage does to
//! them is in `damage.rs`.

mod damage;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use ottla_protocol::batch::{BatchBuilder, BatchHeader};
use uuid::Uuid;

use crate::directory::TempDir;
use crate::engine::{Engine, Family};
use crate::error::StorageError;
use crate::keys::{self, PartitionId};
use crate::log::{AppendEntry, Expired, Log, NoObserver, Partition, ReadLimit};
use crate::log_tests::{TestClock, block};
use crate::memory::MemoryEngine;
use crate::partition::Appended;
use crate::retention::Policy;
use crate::rocks::{RocksEngine, RocksOptions};
use crate::waiters::Acks;

const START_MS: i64 = 1_000_000;

struct Place {
    engine: Arc<dyn Engine>,
    clock: Arc<TestClock>,
    log: Log,
    partitions: Vec<Arc<Partition>>,
}

fn id(index: i32) -> PartitionId {
    PartitionId {
        topic_id: Uuid::from_u128(77),
        partition: index,
    }
}

impl Place {
    fn on(engine: Arc<dyn Engine>, now_ms: i64, partitions: i32) -> Self {
        let clock = Arc::new(TestClock(AtomicI64::new(now_ms)));
        let log = Log::open(engine.clone(), 1, clock.clone(), Arc::new(NoObserver)).expect("opens");
        let partitions = block(log.create((0..partitions).map(id).collect())).expect("creates");
        Self {
            engine,
            clock,
            log,
            partitions,
        }
    }

    fn now(&self) -> i64 {
        self.clock.0.load(Ordering::SeqCst)
    }

    fn wait(&self, ms: i64) {
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
    }

    /// The process ends and starts again over the same store.
    fn killed(self) -> Self {
        let (now, count) = (self.now(), self.partitions.len() as i32);
        block(self.log.close()).expect("closes");
        Self::on(self.engine, now, count)
    }

    /// The process is killed and starts again over the same store.
    fn crashed(self) -> Self {
        let (now, count) = (self.now(), self.partitions.len() as i32);
        Self::on(self.engine, now, count)
    }

    fn append(&self, index: usize, timestamp: i64, bytes: usize) {
        let batch = BatchBuilder::new(timestamp)
            .record(timestamp, None, Some(&vec![b'x'; bytes]), &[])
            .build();
        self.append_batch(index, batch);
    }

    fn append_batch(&self, index: usize, batch: Bytes) -> Appended {
        let entry = AppendEntry {
            partition: self.partitions[index].clone(),
            header: BatchHeader::parse(&batch).expect("a batch"),
            bytes: batch.into(),
            leader_epoch: 0,
        };
        let answers = block(self.log.append(vec![entry], Acks::All)).expect("open");
        let answer = block(answers).expect("answered").remove(0);
        answer.expect("appended")
    }

    /// One tick over all partitions; answers the bytes deleted.
    fn retain(&self, policy: Policy) -> u64 {
        block(self.log.advance_starts(self.expired(policy))).expect("advances")
    }

    fn expired(&self, policy: Policy) -> Vec<Expired> {
        let looked = self.partitions.iter().filter_map(|partition| {
            let expired = self.log.expired(partition, &policy, self.now(), 0);
            expired.expect("looks")
        });
        looked.collect()
    }

    fn erase(&self) {
        self.try_erase().expect("erases");
    }

    fn try_erase(&self) -> Result<(), StorageError> {
        let (due, failure) = self.log.erasable();
        let erased = block(self.log.erase(due));
        failure.map_or(erased, Err)
    }

    fn time_entries(&self, index: usize) -> usize {
        let (from, to) = keys::times(self.partitions[index].handle());
        let start = crate::engine::Start::At(&from);
        let mut count = 0;
        let scanned = self.engine.scan(Family::Log, start, &to, &mut |_, _| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        });
        scanned.expect("scans");
        count
    }

    fn start(&self, index: usize) -> i64 {
        self.partitions[index].offsets().log_start
    }

    fn sizes(&self, index: usize) -> Vec<usize> {
        let partition = &self.partitions[index];
        let from = self.start(index);
        let read = self
            .log
            .read(partition, from, usize::MAX, true, ReadLimit::HighWatermark);
        read.expect("reads")
            .batches
            .iter()
            .map(Bytes::len)
            .collect()
    }

    fn batch_key(&self, index: usize, base_offset: i64) -> Vec<u8> {
        keys::batch(self.partitions[index].handle(), base_offset)
    }

    /// Base offset of the first batch in the store, deleted or not.
    fn first_stored(&self, index: usize) -> Option<i64> {
        let (from, to) = keys::batches(self.partitions[index].handle(), 0);
        let mut first = None;
        self.engine
            .scan(
                Family::Log,
                crate::engine::Start::At(&from),
                &to,
                &mut |key, _| {
                    first = keys::parse_batch(key);
                    std::ops::ControlFlow::Break(())
                },
            )
            .expect("scans");
        first
    }
}

/// Runs a test on both engines.
fn on_both(name: &str, test: impl Fn(Arc<dyn Engine>)) {
    test(Arc::new(MemoryEngine::new()));
    let dir = TempDir::new(name);
    let options = RocksOptions::default();
    test(Arc::new(
        RocksEngine::open(dir.path(), &options).expect("opens"),
    ));
}

#[test]
fn an_idle_log_loses_its_only_record_when_it_is_old_and_the_next_offset_goes_on() {
    on_both("retain-idle", |engine| {
        let place = Place::on(engine, START_MS, 1);
        place.append(0, START_MS, 10);
        let policy = Policy::delete(1_000, -1);
        place.wait(1_000);
        assert_eq!(place.retain(policy), 0);
        assert_eq!(place.start(0), 0);
        place.wait(1);
        assert!(place.retain(policy) > 0);
        let offsets = place.partitions[0].offsets();
        assert_eq!((offsets.log_start, offsets.log_end), (1, 1));
        assert_eq!(place.partitions[0].size_bytes(), 0);
        assert_eq!(place.retain(policy), 0);
        let place = place.killed();
        let offsets = place.partitions[0].offsets();
        assert_eq!(
            (offsets.log_start, offsets.high_watermark, offsets.log_end),
            (1, 1, 1)
        );
        assert_eq!(
            place.partitions[0].size_bytes(),
            0,
            "of what is not erased yet"
        );
        place.append(0, START_MS + 5_000, 10);
        assert_eq!(place.partitions[0].offsets().log_end, 2);
    });
}

#[test]
fn the_log_start_moves_first_and_erasing_waits_for_a_minute_or_for_much() {
    on_both("retain-erase", |engine| {
        let place = Place::on(engine, START_MS, 2);
        for batch in 0..20 {
            place.append(0, START_MS + batch, 2_000);
        }
        for _ in 0..17 {
            place.append(1, START_MS, 1 << 20);
        }
        place.wait(1_010);
        assert!(place.retain(Policy::delete(1_000, -1)) > 17 << 20);
        assert_eq!((place.start(0), place.start(1)), (10, 17));
        assert_eq!(
            (place.first_stored(0), place.first_stored(1)),
            (Some(0), Some(0))
        );
        place.erase();
        let stored = (place.first_stored(0), place.first_stored(1));
        assert_eq!(stored, (Some(0), None), "16 MiB do not wait");
        place.wait(59_000);
        place.erase();
        assert_eq!(place.first_stored(0), Some(0));
        place.wait(1_000);
        place.erase();
        assert_eq!(place.first_stored(0), Some(10));
        assert_eq!(place.sizes(0).len(), 10);
        place.log.reclaim_due(&|| false).expect("reclaims");
        place.wait(60_000);
        place.log.reclaim_due(&|| false).expect("reclaims");
        assert_eq!(place.sizes(0).len(), 10);
    });
}

#[test]
fn what_a_stop_left_unerased_is_erased_after_the_start() {
    on_both("retain-again", |engine| {
        let place = Place::on(engine, START_MS, 1);
        for batch in 0..20 {
            place.append(0, START_MS + batch, 300);
        }
        place.wait(1_010);
        place.retain(Policy::delete(1_000, -1));
        let held = place.sizes(0);
        let place = place.killed();
        assert_eq!((place.start(0), place.first_stored(0)), (10, Some(0)));
        assert_eq!(
            place.partitions[0].size_bytes(),
            held.iter().sum::<usize>() as u64
        );
        assert_eq!(place.sizes(0), held);
        place.wait(60_000);
        place.erase();
        assert_eq!((place.start(0), place.first_stored(0)), (10, Some(10)));
        let place = place.killed();
        assert_eq!(place.sizes(0), held);
        assert_eq!(
            place.partitions[0].size_bytes(),
            held.iter().sum::<usize>() as u64
        );
    });
}

#[test]
fn a_log_that_begins_anew_below_an_erasure_keeps_what_came_since() {
    on_both("retain-anew", |engine| {
        let place = Place::on(engine, START_MS, 1);
        for _ in 0..20 {
            place.append(0, START_MS, 100);
        }
        place.wait(2_000);
        place.retain(Policy::delete(1_000, -1));
        assert_eq!(place.start(0), 20);
        let anew = place
            .log
            .truncate_fully_and_start_at(&place.partitions[0], 5);
        block(anew).expect("begins anew");
        for _ in 0..3 {
            place.append(0, START_MS, 100);
        }
        place.wait(60_000);
        place.erase();
        assert_eq!((place.start(0), place.sizes(0).len()), (5, 3));
    });
}

#[test]
fn deleted_records_and_partitions_are_erased_too() {
    on_both("retain-delete", |engine| {
        let place = Place::on(engine, START_MS, 3);
        for index in 0..3 {
            for _ in 0..5 {
                place.append(index, START_MS, 5_000);
            }
        }
        let deleted = place.log.delete_prefix(&place.partitions[0], 3);
        assert_eq!(block(deleted), Ok(3));
        assert_eq!(place.first_stored(0), Some(0));
        block(place.log.delete(vec![id(1), id(2)])).expect("deletes");
        assert_eq!((place.first_stored(1), place.first_stored(2)), (None, None));
        place.wait(60_000);
        place.erase();
        place.wait(60_000);
        place.log.reclaim_due(&|| false).expect("reclaims");
        assert_eq!((place.first_stored(0), place.sizes(0).len()), (Some(3), 2));
        let space = place.engine.space().expect("tells");
        assert!(space.key_bytes + space.value_bytes < 20_000, "{space:?}");
    });
}

#[test]
fn idle_logs_that_keep_their_records_are_not_read_again() {
    let engine = Arc::new(MemoryEngine::new());
    let place = Place::on(engine.clone(), START_MS, 300);
    for index in 0..200 {
        // Some of them have more than one chunk.
        for _ in 0..index % 4 {
            place.append(index, START_MS, 400);
        }
    }
    let policy = Policy::delete(100_000, 1 << 30);
    assert_eq!(place.retain(policy), 0);
    let scans = engine.scans();
    assert!(scans > 0);
    for _ in 0..10 {
        place.wait(10_000);
        assert_eq!(place.retain(policy), 0);
        place.erase();
    }
    assert_eq!(engine.scans(), scans);
    place.wait(1);
    let writes = engine.writes();
    assert!(place.retain(policy) > 0);
    assert!(
        engine.writes() - writes <= 3,
        "150 log starts move together"
    );
    assert_eq!((place.start(1), place.start(2), place.start(3)), (1, 2, 3));
}

/// A batch of the model: where it ends, its greatest timestamp, its size.
struct Held {
    end: i64,
    timestamp: i64,
    bytes: u64,
}

#[test]
fn a_log_under_retention_is_what_a_model_says_batch_by_batch() {
    for seed in 0..60 {
        println!("seed {seed}");
        on_both("retain-model", |engine| {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut place = Place::on(engine, START_MS, 2);
            let mut model: Vec<Vec<Held>> = vec![Vec::new(), Vec::new()];
            let mut starts = [0, 0];
            let policy = Policy::delete(rng.i64(-1..800), rng.i64(-1..6_000));
            for _ in 0..120 {
                let index = rng.usize(0..2);
                match rng.u8(0..20) {
                    0..12 => {
                        let timestamp = place.now() + rng.i64(-300..60);
                        place.append(index, timestamp, rng.usize(0..1_500));
                        let offsets = place.partitions[index].offsets();
                        let bytes = place.partitions[index].size_bytes();
                        let before: u64 = model[index].iter().map(|held| held.bytes).sum();
                        model[index].push(Held {
                            end: offsets.log_end,
                            timestamp,
                            bytes: bytes - before,
                        });
                    }
                    12..15 => place.wait(rng.i64(0..200)),
                    15 => {
                        place.wait(rng.i64(0..70_000));
                        place.erase();
                    }
                    16 => {
                        let end = place.partitions[index].offsets().high_watermark;
                        let to = rng.i64(starts[index]..=end);
                        let deleted = place.log.delete_prefix(&place.partitions[index], to);
                        block(deleted).expect("deletes");
                        starts[index] = to;
                        model[index].retain(|held| held.end > to);
                    }
                    17 => place = place.killed(),
                    _ => {
                        place.retain(policy);
                        for index in 0..2 {
                            expire(&mut model[index], &mut starts[index], &policy, place.now());
                        }
                    }
                }
                for index in 0..2 {
                    assert_eq!(place.start(index), starts[index], "seed {seed}");
                    let expected: Vec<usize> = model[index]
                        .iter()
                        .map(|held| held.bytes as usize)
                        .collect();
                    assert_eq!(place.sizes(index), expected, "seed {seed}");
                    let bytes = expected.iter().sum::<usize>() as u64;
                    assert_eq!(place.partitions[index].size_bytes(), bytes, "seed {seed}");
                }
            }
            block(place.log.close()).expect("closes");
        });
    }
}

/// Kafka's two passes, batch by batch.
fn expire(held: &mut Vec<Held>, start: &mut i64, policy: &Policy, now: i64) {
    let mut left: u64 = held.iter().map(|held| held.bytes).sum();
    let mut gone = 0;
    if let Some(kept) = policy.retention_bytes {
        while let Some(first) = held.get(gone).filter(|first| left - first.bytes >= kept) {
            left -= first.bytes;
            gone += 1;
        }
    }
    if let Some(kept_ms) = policy.retention_ms {
        while held
            .get(gone)
            .is_some_and(|first| now - first.timestamp > kept_ms)
        {
            gone += 1;
        }
    }
    if let Some(last) = held.drain(..gone).next_back() {
        *start = (*start).max(last.end);
    }
}

#[test]
fn time_index_entries_that_came_after_the_look_at_what_is_to_be_erased_stay() {
    on_both("retain-times", |engine| {
        let place = Place::on(engine, START_MS, 2);
        let fill = |index, from_ms| {
            for number in 0..8 {
                place.append(index, from_ms + number, 600);
            }
        };
        fill(0, START_MS);
        fill(1, START_MS);
        assert_eq!((place.time_entries(0), place.time_entries(1)), (8, 8));
        for partition in &place.partitions {
            block(place.log.delete_prefix(partition, -1)).expect("deletes");
        }
        place.wait(60_000);
        let (due, failure) = place.log.erasable();
        assert_eq!((due.len(), failure), (2, None));
        fill(0, START_MS + 100);
        let anew = place
            .log
            .truncate_fully_and_start_at(&place.partitions[1], 5);
        block(anew).expect("begins anew");
        fill(1, START_MS - 100);
        block(place.log.erase(due)).expect("erases");
        assert_eq!((place.time_entries(0), place.time_entries(1)), (8, 8));
        for index in 0..2 {
            block(place.log.delete_prefix(&place.partitions[index], -1)).expect("deletes");
        }
        place.wait(60_000);
        place.erase();
        assert_eq!((place.time_entries(0), place.time_entries(1)), (0, 0));
    });
}
