//! Random calls, faults and crashes on a log, held against `model.rs`. A seed decides everything that is
//! called; how the log's threads interleave is theirs, so the model says what may be seen, not when.
//!
//! On the engine in memory syncs are held and fail, writes fail and the power is cut; on RocksDB the process is
//! killed, that is: cut off from the store between two writes and opened again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use ottla_protocol::batch::{BatchBuilder, BatchHeader};
use uuid::Uuid;

use super::cleaning::Cleaner;
use super::model::{Expected, Model, Sent, marker};
use super::store::{Life, Store};
use crate::directory::TempDir;
use crate::error::{EngineError, StorageError};
use crate::keys::PartitionId;
use crate::log::{AppendAnswers, AppendEntry, Clock, Log, NoObserver};
use crate::log_tests::{TestClock, TickingClock, block};
use crate::memory::MemoryEngine;
use crate::partition::{Appended, LogConfig};
use crate::waiters::Acks;

pub(super) const PARTITIONS: usize = 3;

pub(super) fn id_of(index: usize) -> PartitionId {
    PartitionId {
        topic_id: Uuid::from_u128(50),
        partition: index as i32,
    }
}
/// An append whose answers are not there yet: for each entry its partition and what must be answered.
pub(super) struct Pending {
    pub(super) answers: AppendAnswers,
    pub(super) expected: Vec<(usize, Expected)>,
}

/// A change that was on its way when the process died.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    DeletePrefix(i64),
    Truncate(i64),
    TruncateFully(i64),
    Delete,
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) store: Store,
    pub(super) clock: Arc<TestClock>,
    /// Looks at the clock, where the log sees time pass during a sync, and so syncs on the writer's thread, too.
    pub(super) looks: Option<Arc<AtomicU64>>,
    pub(super) life: Arc<Life>,
    pub(super) log: Log,
    pub(super) models: Vec<Model>,
    pub(super) pending: Vec<Pending>,
    pub(super) appended: u64,
    pub(super) greatest_handle: u32,
    pub(super) held: bool,
    pub(super) faulted: bool,
    /// A round of the log cleaner on its way, with its partition.
    pub(super) cleaning: Option<Cleaner>,
}

/// Runs `steps` random steps; with every other seed the writer may sync itself.
pub(super) fn run_in_memory(seed: u64, steps: usize) {
    World::new(seed, Store::Memory(Arc::new(MemoryEngine::new()))).run(steps);
}

/// Runs `steps` random steps with kills only.
pub(super) fn run_on_rocks(seed: u64, steps: usize) {
    World::new(seed, Store::Rocks(TempDir::new("crash-world"))).run(steps);
}

pub(super) fn open(
    life: &Arc<Life>,
    clock: &Arc<TestClock>,
    looks: Option<&Arc<AtomicU64>>,
) -> Log {
    let clock: Arc<dyn Clock> = match looks.cloned() {
        Some(looks) => Arc::new(TickingClock {
            clock: clock.clone(),
            looks,
        }),
        None => clock.clone(),
    };
    Log::open(life.clone(), 1, clock, Arc::new(NoObserver)).expect("opens")
}

fn fits(expected: &Expected, result: &Result<Appended, StorageError>) -> bool {
    use StorageError as E;
    match (expected, result) {
        (
            Expected::Appended {
                base,
                end,
                duplicate,
                ..
            },
            Ok(appended),
        ) => {
            (*base, *end, *duplicate)
                == (
                    appended.base_offset,
                    appended.end_offset,
                    appended.duplicate,
                )
        }
        (Expected::Fenced, Err(E::FencedLeaderEpoch { .. }))
        | (Expected::UnknownEpoch, Err(E::UnknownLeaderEpoch { .. }))
        | (Expected::ProducerEpoch, Err(E::InvalidProducerEpoch { .. }))
        | (Expected::OutOfOrder, Err(E::OutOfOrderSequence { .. }))
        | (Expected::CoordinatorFenced, Err(E::TransactionCoordinatorFenced { .. })) => true,
        _ => false,
    }
}

impl World {
    fn new(seed: u64, store: Store) -> Self {
        let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
        let life = store.begin();
        let looks = (seed % 2 == 1).then(Arc::default);
        let log = open(&life, &clock, looks.as_ref());
        let created = block(log.create((0..PARTITIONS).map(id_of).collect())).expect("creates");
        let greatest = created.iter().map(|held| held.handle().0).max();
        Self {
            rng: fastrand::Rng::with_seed(seed),
            store,
            clock,
            looks,
            life,
            log,
            models: created.into_iter().map(Model::new).collect(),
            pending: Vec::new(),
            appended: 0,
            greatest_handle: greatest.expect("some were created"),
            held: false,
            faulted: false,
            cleaning: None,
        }
    }

    fn run(mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
        self.crash(false, None);
        self.settle();
        self.check_all();
        // What is wanted is never left to the half second after which the syncer looks by itself: by then it has been thousands.
        let looks = self.looks.map_or(0, |looks| looks.load(Ordering::SeqCst));
        assert!(looks < 3_000, "somebody waited: {looks} looks at the clock");
    }

    fn step(&mut self) {
        let in_memory = self.store.memory().is_some();
        match self.rng.u8(0..100) {
            0..42 => self.append(),
            42..50 => self.clean(),
            50..65 => self.read(),
            65..69 => self.look_up_times(),
            69..73 => self.check_all(),
            73..76 => self.configure(),
            76..78 => self.lead(),
            78..79 => self.expire(),
            79..81 => self.advance_clock(),
            // A writer that syncs writes nothing meanwhile.
            81..84 if in_memory && self.looks.is_none() => self.hold(),
            84..86 if in_memory => self.fault(),
            81..86 => self.store_settles(),
            86..94 => self.change(),
            94..96 => self.crash(in_memory, None),
            96..97 => self.crash(false, None),
            97..99 => {
                let change = self.some_change();
                let power_cut = in_memory && self.rng.bool();
                self.crash(power_cut, Some(change));
            }
            99.. => self.close(),
        }
    }

    /// Everything sent so far is planned and, unless the store failed, written.
    pub(super) fn barrier(&self) {
        block(self.log.create(vec![id_of(0)])).expect("nothing is created");
    }

    /// Waits for every answer and for the high watermarks.
    pub(super) fn settle(&mut self) {
        self.release();
        for pending in std::mem::take(&mut self.pending) {
            let results = block(pending.answers).expect("answered");
            self.answered(&pending.expected, results);
        }
        if self.faulted {
            return;
        }
        for model in &self.models {
            let mut looks = 0_u64;
            while model.partition.offsets().high_watermark < model.log_end {
                std::thread::yield_now();
                looks += 1;
                assert!(looks < 200_000_000, "the high watermark stands still");
            }
        }
    }

    pub(super) fn answered(
        &mut self,
        expected: &[(usize, Expected)],
        results: Vec<Result<Appended, StorageError>>,
    ) {
        assert_eq!(expected.len(), results.len());
        for ((partition, expected), result) in expected.iter().zip(results) {
            // At the end of a life an append may also find its partition deleted or cut.
            let failed = matches!(
                result,
                Err(StorageError::Engine(_) | StorageError::NoSuchPartition)
            );
            if self.faulted && failed {
                continue;
            }
            assert!(fits(expected, &result), "{expected:?} but {result:?}");
            if let Expected::Appended { index, .. } = expected {
                self.models[*partition].acknowledged(*index);
            }
        }
    }

    /// What lies before the log starts goes for good. RocksDB moves what it holds to files, range deletions and big
    /// values included.
    fn store_settles(&mut self) {
        if self.rng.bool() {
            self.settle();
            let erased = block(self.log.erase_all());
            assert!(erased.is_ok() || self.faulted, "{erased:?}");
        }
        let compact = self.rng.bool();
        if let Some(engine) = self.life.rocks() {
            engine.settle(compact);
        }
    }

    fn hold(&mut self) {
        if self.held {
            return self.release();
        }
        self.settle();
        self.held = true;
        if let Some(engine) = self.store.memory() {
            engine.hold_syncs(true);
        }
    }

    fn release(&mut self) {
        self.held = false;
        if let Some(engine) = self.store.memory() {
            engine.hold_syncs(false);
        }
    }

    /// From now on writes or syncs fail, for ever or for a while: the log must not take up again by itself.
    fn fault(&mut self) {
        let Some(engine) = self.store.memory() else {
            return;
        };
        let error = EngineError::Io("fault".to_owned());
        if self.faulted {
            engine.fail_writes(None);
            engine.fail_syncs(None);
            return;
        }
        self.faulted = true;
        if self.rng.bool() {
            engine.fail_writes(Some(error));
        } else {
            engine.fail_syncs(Some(error));
        }
    }

    pub(super) fn partition(&mut self) -> usize {
        self.rng.usize(0..PARTITIONS)
    }

    fn timestamps(&mut self, count: usize) -> Vec<i64> {
        match self.rng.u8(0..60) {
            0 => vec![i64::MAX; count],
            1 => vec![-1; count],
            2 => vec![i64::MIN; count],
            _ => (0..count).map(|_| self.rng.i64(0..100)).collect(),
        }
    }

    fn records(&mut self, mut builder: BatchBuilder, timestamps: &[i64]) -> Bytes {
        let size = match self.rng.u8(0..20) {
            0 => 20_000,
            1..4 => 600,
            _ => self.rng.usize(0..60),
        };
        let value = vec![self.rng.u8(..); size];
        for timestamp in timestamps {
            let key = [b'a' + self.rng.u8(0..3)];
            let tombstone = self.rng.u8(0..6) == 0;
            let value = (!tombstone).then_some(value.as_slice());
            builder = builder.record(*timestamp, Some(&key), value, &[]);
        }
        builder.build()
    }

    fn batch(&mut self, partition: usize) -> Sent {
        let count = self.rng.usize(1..4);
        let timestamps = self.timestamps(count);
        let builder = BatchBuilder::new(timestamps[0]);
        if self.rng.u8(0..10) < 3 {
            let bytes = self.records(builder, &timestamps);
            return Sent {
                bytes,
                timestamps,
                marker: None,
            };
        }
        let batches = &self.models[partition].batches;
        if !batches.is_empty() && self.rng.u8(0..8) == 0 {
            let back = self.rng.usize(0..batches.len().min(8));
            return batches[batches.len() - 1 - back].sent.clone();
        }
        // The lower two are idempotent only, the upper two transactional.
        let producer_id = self.rng.i64(0..4);
        let producer = self.models[partition].producer(producer_id);
        let mut epoch = producer.as_ref().map_or(0, |held| held.epoch);
        if producer_id >= 2 && self.rng.u8(0..4) == 0 {
            epoch += self.rng.i16(0..2);
            let coordinator_epoch = producer.map_or(0, |held| held.coordinator_epoch.max(0));
            let coordinator_epoch = coordinator_epoch + self.rng.i32(-1..2);
            let commit = self.rng.bool();
            return Sent {
                bytes: marker(producer_id, epoch, commit, coordinator_epoch),
                timestamps: vec![1_000],
                marker: Some((commit, coordinator_epoch)),
            };
        }
        let mut sequence = match &producer {
            Some(producer) => producer.next_sequence(),
            // Near the end, so that sequences wrap.
            None if self.rng.bool() => i32::MAX - self.rng.i32(0..8),
            None => 0,
        };
        match self.rng.u8(0..40) {
            0 => (epoch, sequence) = (epoch + 1, 0),
            1 => (epoch, sequence) = (epoch + 1, 1),
            2 => epoch = (epoch - 1).max(0),
            3 => sequence = sequence.wrapping_add(1).max(0),
            _ => {}
        }
        let builder = builder
            .producer(producer_id, epoch, sequence)
            .transactional(producer_id >= 2);
        let bytes = self.records(builder, &timestamps);
        Sent {
            bytes,
            timestamps,
            marker: None,
        }
    }

    pub(super) fn append(&mut self) {
        let mut entries = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..self.rng.usize(1..4) {
            let partition = self.partition();
            let sent = self.batch(partition);
            let mut leader_epoch = self.models[partition].leader_epoch;
            match self.rng.u8(0..60) {
                0 => leader_epoch += 1,
                1 => leader_epoch = (leader_epoch - 1).max(0),
                _ => {}
            }
            let model = &mut self.models[partition];
            entries.push(AppendEntry {
                partition: model.partition.clone(),
                bytes: sent.bytes.clone().into(),
                header: BatchHeader::parse(&sent.bytes).expect("a batch"),
                leader_epoch,
            });
            self.appended += 1;
            let now = self.clock.0.load(Ordering::SeqCst);
            let answer = model.append(sent, leader_epoch, now, self.appended);
            expected.push((partition, answer));
        }
        let acks = [Acks::None, Acks::Leader, Acks::All][self.rng.usize(0..3)];
        let mut answers = block(self.log.append(entries, acks)).expect("the log is open");
        if acks == Acks::None {
            // An answer without a wait for the sync says nothing of durability, so nothing is noted.
            self.barrier();
            let mut looks = 0_u64;
            let results = loop {
                if let Ok(results) = answers.try_recv() {
                    break results;
                }
                // The syncer may have taken the waiter, and answers a little later.
                std::thread::yield_now();
                looks += 1;
                assert!(
                    looks < 200_000_000,
                    "acks=0 waits for nothing but the write"
                );
            };
            for ((_, expected), result) in expected.iter().zip(&results) {
                let failed = self.faulted && matches!(result, Err(StorageError::Engine(_)));
                assert!(
                    failed || fits(expected, result),
                    "{expected:?} but {result:?}"
                );
            }
            return;
        }
        self.pending.push(Pending { answers, expected });
        if self.rng.bool() && !self.held {
            self.settle();
        }
    }

    fn configure(&mut self) {
        self.barrier();
        let partition = self.partition();
        let config = LogConfig {
            flush_messages: [1, 1, 2, 5, i64::MAX][self.rng.usize(0..5)],
            flush_ms: [i64::MAX, i64::MAX, 0, 100][self.rng.usize(0..4)],
            log_append_time: self.rng.u8(0..6) == 0,
        };
        let model = &mut self.models[partition];
        model.config = config;
        model.partition.set_config(config);
    }

    fn lead(&mut self) {
        self.barrier();
        let partition = self.partition();
        let raised = self.rng.i32(1..3);
        let model = &mut self.models[partition];
        model.leader_epoch += raised;
        model.partition.become_leader(model.leader_epoch, vec![1]);
    }

    fn expire(&mut self) {
        if self.held {
            // The model forgets transactions with their producer, also those whose marker is on its way.
            return;
        }
        self.settle();
        let partition = self.partition();
        let oldest = self.rng.i64(0..2_000);
        if !self.faulted {
            let model = &mut self.models[partition];
            model.expire(oldest);
            model.partition.expire_producers(oldest);
        }
    }

    fn advance_clock(&mut self) {
        self.barrier();
        let passed = self.rng.i64(1..2_000);
        self.clock.0.fetch_add(passed, Ordering::SeqCst);
    }

    fn some_change(&mut self) -> (usize, Change) {
        let partition = self.partition();
        let model = &self.models[partition];
        let (start, end) = (model.log_start, model.log_end);
        let high_watermark = model.partition.offsets().high_watermark;
        let change = match self.rng.u8(0..10) {
            0..4 => Change::DeletePrefix(self.rng.i64(start..=high_watermark.max(start))),
            4 => Change::DeletePrefix(-1),
            5..8 => Change::Truncate(self.rng.i64(start..=end)),
            8 => Change::TruncateFully(self.rng.i64(0..=end + 10)),
            _ => Change::Delete,
        };
        (partition, change)
    }

    pub(super) fn change(&mut self) {
        self.settle();
        if self.faulted {
            return;
        }
        let (index, change) = self.some_change();
        let partition = self.models[index].partition.clone();
        match change {
            Change::DeletePrefix(offset) => {
                let start = block(self.log.delete_prefix(&partition, offset)).expect("deletes");
                self.models[index].delete_prefix(if offset == -1 { start } else { offset });
                assert_eq!(start, self.models[index].log_start);
            }
            Change::Truncate(offset) => {
                let offsets = block(self.log.truncate_to(&partition, offset)).expect("truncates");
                self.models[index].truncate(offset);
                assert_eq!(offsets.log_end, self.models[index].log_end);
                assert_eq!(offsets.high_watermark, offsets.log_end);
                self.recovered_producers(index);
            }
            Change::TruncateFully(offset) => {
                let done = self.log.truncate_fully_and_start_at(&partition, offset);
                let offsets = block(done).expect("truncates");
                assert_eq!((offsets.log_start, offsets.log_end), (offset, offset));
                self.models[index].truncate_fully(offset);
            }
            Change::Delete => {
                block(self.log.delete(vec![id_of(index)])).expect("deletes");
                self.created_anew(index);
            }
        }
        self.check_all();
    }

    pub(super) fn created_anew(&mut self, index: usize) {
        let created = block(self.log.create(vec![id_of(index)])).expect("creates");
        let partition = created[0].clone();
        assert!(
            partition.handle().0 > self.greatest_handle,
            "a handle is used again"
        );
        self.greatest_handle = partition.handle().0;
        self.models[index] = Model::new(partition);
    }

    pub(super) fn recovered_producers(&mut self, index: usize) {
        let model = &mut self.models[index];
        let live = model.partition.state().producers;
        let matched = model.match_producers(&live, true, true);
        matched.unwrap_or_else(|what| panic!("partition {index}: {what}"));
    }

    fn close(&mut self) {
        self.settle();
        let closed = block(self.log.close());
        assert!(closed.is_ok() || self.faulted, "{closed:?}");
        self.crash(false, None);
    }
}
