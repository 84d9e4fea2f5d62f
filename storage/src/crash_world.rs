//! Random calls, faults and crashes on a log, held against `crash_model.rs`. A seed decides everything that is
//! called; how the log's threads interleave is theirs, so the model says what may be seen, not when.
//!
//! On the engine in memory syncs are held and fail, writes fail and the power is cut; on RocksDB the process is
//! killed, that is: cut off from the store between two writes and opened again.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use ottla_protocol::batch::{BatchBuilder, BatchHeader};
use uuid::Uuid;

use crate::crash_model::{Expected, Model, Sent, marker};
use crate::directory::TempDir;
use crate::engine::{Engine, Family, Start, Visit, WriteOps};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, PartitionId};
use crate::log::{AppendAnswers, AppendEntry, Log, NoObserver, ReadLimit};
use crate::log_tests::{TestClock, block};
use crate::memory::MemoryEngine;
use crate::partition::{Appended, LogConfig, Offsets};
use crate::recovery;
use crate::rocks::{RocksEngine, RocksOptions};
use crate::waiters::{Acks, Watch};

const PARTITIONS: usize = 3;
const LIMITS: [ReadLimit; 3] = [
    ReadLimit::LogEnd,
    ReadLimit::HighWatermark,
    ReadLimit::Stable,
];

fn id_of(index: usize) -> PartitionId {
    PartitionId {
        topic_id: Uuid::from_u128(50),
        partition: index as i32,
    }
}

/// One life of the process: when it is over, nothing of it reaches the store any more.
struct Life {
    engine: Arc<dyn Engine>,
    over: Mutex<bool>,
}

impl Life {
    fn end(&self) {
        *self.over.lock().expect("not poisoned") = true;
    }
}

fn killed() -> EngineError {
    EngineError::Io("killed".to_owned())
}

impl Engine for Life {
    fn write(&self, ops: &WriteOps) -> Result<(), EngineError> {
        let over = self.over.lock().expect("not poisoned");
        if *over {
            return Err(killed());
        }
        self.engine.write(ops)
    }
    fn sync(&self) -> Result<(), EngineError> {
        if *self.over.lock().expect("not poisoned") {
            return Err(killed());
        }
        self.engine.sync()?;
        if *self.over.lock().expect("not poisoned") {
            return Err(killed());
        }
        Ok(())
    }
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
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

/// What outlives a life.
enum Store {
    Memory(Arc<MemoryEngine>),
    Rocks(TempDir),
}

impl Store {
    fn begin(&self) -> Arc<Life> {
        let engine: Arc<dyn Engine> = match self {
            Store::Memory(engine) => engine.clone(),
            Store::Rocks(dir) => {
                let options = RocksOptions::default();
                Arc::new(RocksEngine::open(dir.path(), &options).expect("opens"))
            }
        };
        Arc::new(Life {
            engine,
            over: Mutex::new(false),
        })
    }

    fn memory(&self) -> Option<&Arc<MemoryEngine>> {
        match self {
            Store::Memory(engine) => Some(engine),
            Store::Rocks(_) => None,
        }
    }
}

/// An append whose answers are not there yet: for each entry its partition and what must be answered.
struct Pending {
    answers: AppendAnswers,
    expected: Vec<(usize, Expected)>,
}

/// A change that was on its way when the process died.
#[derive(Debug, Clone, Copy)]
enum Change {
    DeletePrefix(i64),
    Truncate(i64),
    TruncateFully(i64),
    Delete,
}

struct World {
    rng: fastrand::Rng,
    store: Store,
    clock: Arc<TestClock>,
    life: Arc<Life>,
    log: Log,
    models: Vec<Model>,
    pending: Vec<Pending>,
    appended: u64,
    greatest_handle: u32,
    held: bool,
    faulted: bool,
}

/// Runs `steps` random steps.
pub(crate) fn run_in_memory(seed: u64, steps: usize) {
    World::new(seed, Store::Memory(Arc::new(MemoryEngine::new()))).run(steps);
}

/// Runs `steps` random steps with kills only.
pub(crate) fn run_on_rocks(seed: u64, steps: usize) {
    World::new(seed, Store::Rocks(TempDir::new("crash-world"))).run(steps);
}

fn open(life: &Arc<Life>, clock: &Arc<TestClock>) -> Log {
    Log::open(life.clone(), 1, clock.clone(), Arc::new(NoObserver)).expect("opens")
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
        let log = open(&life, &clock);
        let created = block(log.create((0..PARTITIONS).map(id_of).collect())).expect("creates");
        let greatest = created.iter().map(|held| held.handle().0).max();
        Self {
            rng: fastrand::Rng::with_seed(seed),
            store,
            clock,
            life,
            log,
            models: created.into_iter().map(Model::new).collect(),
            pending: Vec::new(),
            appended: 0,
            greatest_handle: greatest.expect("some were created"),
            held: false,
            faulted: false,
        }
    }

    fn run(mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
        self.crash(false, None);
        self.settle();
        self.check_all();
    }

    fn step(&mut self) {
        let in_memory = self.store.memory().is_some();
        match self.rng.u8(0..100) {
            0..50 => self.append(),
            50..65 => self.read(),
            65..69 => self.look_up_times(),
            69..73 => self.check_all(),
            73..76 => self.configure(),
            76..78 => self.lead(),
            78..79 => self.expire(),
            79..81 => self.advance_clock(),
            81..84 if in_memory => self.hold(),
            84..86 if in_memory => self.fault(),
            86..94 => self.change(),
            94..96 => self.crash(in_memory, None),
            96..97 => self.crash(false, None),
            97..99 => {
                let change = self.some_change();
                let power_cut = in_memory && self.rng.bool();
                self.crash(power_cut, Some(change));
            }
            99.. => self.close(),
            _ => self.append(),
        }
    }

    /// Everything sent so far is planned and, unless the store failed, written.
    fn barrier(&self) {
        block(self.log.create(vec![id_of(0)])).expect("nothing is created");
    }

    /// Waits for every answer and for the high watermarks.
    fn settle(&mut self) {
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

    fn answered(
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

    fn partition(&mut self) -> usize {
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
            builder = builder.record(*timestamp, Some(b"k"), Some(&value), &[]);
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

    fn append(&mut self) {
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
                bytes: sent.bytes.clone(),
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
            let results = match answers.try_recv() {
                Ok(results) => results,
                // The thread that saw the store fail answers, a little later perhaps.
                Err(_) if self.faulted => block(answers).expect("answered"),
                Err(error) => panic!("acks=0 waits for nothing but the write: {error}"),
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

    fn read(&mut self) {
        if self.faulted {
            return;
        }
        self.barrier();
        let partition = self.partition();
        let limit = LIMITS[self.rng.usize(0..3)];
        let model = &self.models[partition];
        let from = self.rng.i64(model.log_start - 2..=model.log_end + 2);
        let max = [0, 1, 100, 500, 5_000, usize::MAX][self.rng.usize(0..6)];
        let one = self.rng.bool();
        let (offsets, read) = loop {
            let before = model.partition.offsets();
            let read = self.log.read(&model.partition, from, max, one, limit);
            if model.partition.offsets() == before {
                break (before, read);
            }
        };
        if from < model.log_start || from > model.log_end {
            assert!(
                matches!(read, Err(StorageError::OffsetOutOfRange { .. })),
                "{read:?}"
            );
            return;
        }
        let read = read.expect("reads");
        let end = Model::end_of(limit, &offsets);
        let (batches, next) = model.read(from, end, max, one);
        assert_eq!(read.batches, batches, "from {from} to {end}, at most {max}");
        assert_eq!(read.bytes, batches.iter().map(Bytes::len).sum::<usize>());
        if limit != ReadLimit::Stable || batches.is_empty() {
            assert!(read.aborted.is_empty());
        } else if let Some(aborted) = model.aborted_in(from, next) {
            let found: Vec<_> = read
                .aborted
                .iter()
                .map(|held| (held.last_offset, held.producer_id))
                .collect();
            assert_eq!(found, aborted, "{from}..{next}");
        }
        let beyond = end.max(from);
        let mut watch = Watch::new();
        watch.add(&model.partition, limit, beyond);
        if Model::end_of(limit, &model.partition.offsets()) <= beyond {
            assert!(model.partition.parked_fetches() <= 1);
        }
        drop(watch);
        assert_eq!(model.partition.parked_fetches(), 0);
        self.models[partition].observe(&offsets);
    }

    fn look_up_times(&mut self) {
        if self.faulted {
            return;
        }
        self.barrier();
        let partition = self.partition();
        let model = &self.models[partition];
        let limit = LIMITS[self.rng.usize(0..3)];
        for _ in 0..5 {
            let timestamp = match self.rng.u8(0..12) {
                0 => i64::MIN,
                1 => i64::MAX,
                2 => -1,
                _ => self.rng.i64(0..102),
            };
            let (offsets, found) = loop {
                let before = model.partition.offsets();
                let found = self
                    .log
                    .offset_for_timestamp(&model.partition, timestamp, limit);
                if model.partition.offsets() == before {
                    break (before, found);
                }
            };
            let found = found
                .expect("looks up")
                .map(|held| (held.timestamp, held.offset));
            let end = Model::end_of(limit, &offsets);
            assert_eq!(
                found,
                model.first_since(timestamp, end),
                "since {timestamp}"
            );
        }
        let (offsets, found) = loop {
            let before = model.partition.offsets();
            let found = self.log.max_timestamp(&model.partition, limit);
            if model.partition.offsets() == before {
                break (before, found);
            }
        };
        let found = found
            .expect("looks up")
            .map(|held| (held.timestamp, held.offset));
        assert_eq!(
            found,
            model.greatest(Model::end_of(limit, &offsets)),
            "greatest"
        );
    }

    /// Checks what a reader may see at any time, and all that is derived from the log.
    fn check_all(&mut self) {
        self.barrier();
        for index in 0..PARTITIONS {
            let (offsets, state) = {
                let inner = self.models[index].partition.lock();
                (inner.state.offsets(), inner.state.clone())
            };
            self.check_offsets(index, &offsets);
            let model = &mut self.models[index];
            model.observe(&offsets);
            if self.faulted {
                continue;
            }
            assert_eq!(
                (offsets.log_start, offsets.log_end, offsets.leader_epoch),
                (model.log_start, model.log_end, model.leader_epoch)
            );
            assert_eq!(
                offsets.last_stable,
                model.last_stable(offsets.high_watermark)
            );
            assert_eq!(state.epochs, model.epochs);
            let matched = model.match_producers(&state.producers, false);
            matched.unwrap_or_else(|what| panic!("{what}"));
            for epoch in -1..model.leader_epoch + 3 {
                let end = model.partition.epoch_end(epoch);
                assert_eq!(end, model.epoch_end(epoch), "epoch {epoch}");
            }
            for offset in model.log_start..model.log_end {
                let epoch = model.epoch_of(offset).expect("every offset is held");
                assert_eq!(model.partition.epoch_of(offset), epoch, "offset {offset}");
            }
        }
    }

    /// Nothing is shown as committed or as fsynced that a power cut would take.
    fn check_offsets(&self, index: usize, offsets: &Offsets) {
        let model = &self.models[index];
        let ends = [
            offsets.log_start,
            offsets.last_stable,
            offsets.high_watermark,
            offsets.committed_end,
            offsets.log_end,
        ];
        assert!(ends.is_sorted(), "{offsets:?}");
        let Some(engine) = self.store.memory() else {
            return;
        };
        let handle = model.partition.handle();
        let (from, to) = keys::batches(handle, 0);
        let durable_end = match engine.durable_last(Family::Log, &from, &to) {
            Some((_, value)) => BatchHeader::parse(&value).expect("a batch").next_offset(),
            None => engine
                .durable(Family::Log, &keys::start(handle))
                .and_then(|value| keys::parse_start(&value))
                .map_or(0, |(start, _)| start),
        };
        let durable_end = durable_end.max(offsets.log_start);
        assert!(
            offsets.fsynced_end <= durable_end,
            "{offsets:?}, durable {durable_end}"
        );
        let shown = model.batches.iter().filter(|held| {
            held.durable_topic && held.header.next_offset() <= offsets.high_watermark
        });
        for held in shown {
            let end = held.header.next_offset();
            assert!(
                end <= durable_end,
                "{offsets:?} shows {end}, durable {durable_end}"
            );
        }
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

    fn change(&mut self) {
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

    fn created_anew(&mut self, index: usize) {
        let created = block(self.log.create(vec![id_of(index)])).expect("creates");
        let partition = created[0].clone();
        assert!(
            partition.handle().0 > self.greatest_handle,
            "a handle is used again"
        );
        self.greatest_handle = partition.handle().0;
        self.models[index] = Model::new(partition);
    }

    fn recovered_producers(&mut self, index: usize) {
        let model = &mut self.models[index];
        let live = model.partition.state().producers;
        let matched = model.match_producers(&live, true);
        matched.unwrap_or_else(|what| panic!("partition {index}: {what}"));
    }

    fn close(&mut self) {
        self.settle();
        let closed = block(self.log.close());
        assert!(closed.is_ok() || self.faulted, "{closed:?}");
        self.crash(false, None);
    }

    /// The process dies, perhaps with the power and perhaps while a change is on its way; then the log is opened
    /// again and must hold all that it had promised.
    fn crash(&mut self, power_cut: bool, change: Option<(usize, Change)>) {
        let mut on_its_way = None;
        if let Some((index, change)) = change {
            on_its_way = Some(self.send(index, change));
            if self.rng.bool() {
                std::thread::yield_now();
            }
        }
        self.life.end();
        if let Some(engine) = self.store.memory().filter(|_| power_cut) {
            engine.power_cut();
        }
        // Whatever was answered before the end counts, and a failure at the end is none.
        self.faulted = true;
        for mut pending in std::mem::take(&mut self.pending) {
            if let Ok(results) = pending.answers.try_recv() {
                self.answered(&pending.expected, results);
            }
        }
        drop(on_its_way);
        if let Some(engine) = self.store.memory() {
            engine.hold_syncs(false);
            engine.fail_writes(None);
            engine.fail_syncs(None);
        }
        self.held = false;
        let life = self.life.clone();
        // A log that is gone for good: nothing but `life` keeps the store open.
        self.log = {
            let (none, clock) = (Arc::new(MemoryEngine::new()), self.clock.clone());
            Log::open(none, 1, clock, Arc::new(NoObserver)).expect("opens")
        };
        self.life = Arc::new(Life {
            engine: Arc::new(MemoryEngine::new()),
            over: Mutex::new(true),
        });
        while Arc::strong_count(&life) > 1 {
            std::thread::yield_now();
        }
        drop(life);
        self.life = self.store.begin();
        self.log = open(&self.life, &self.clock);
        self.faulted = false;
        self.recovered(power_cut, change);
    }

    /// Sends a change without waiting for it.
    fn send(&self, index: usize, change: Change) -> Pin<Box<dyn Future<Output = ()>>> {
        let (log, partition) = (self.log.clone(), self.models[index].partition.clone());
        let mut future: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            match change {
                Change::DeletePrefix(offset) => drop(log.delete_prefix(&partition, offset).await),
                Change::Truncate(offset) => drop(log.truncate_to(&partition, offset).await),
                Change::TruncateFully(offset) => {
                    drop(log.truncate_fully_and_start_at(&partition, offset).await);
                }
                Change::Delete => drop(log.delete(vec![partition.id()]).await),
            }
        });
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        if polled == Poll::Ready(()) {
            return Box::pin(std::future::ready(()));
        }
        future
    }

    fn recovered(&mut self, power_cut: bool, change: Option<(usize, Change)>) {
        let mut lost = BTreeSet::new();
        for index in 0..PARTITIONS {
            let change = change
                .filter(|(at, _)| *at == index)
                .map(|(_, change)| change);
            let Some(partition) = self.log.partition(id_of(index)) else {
                assert!(
                    matches!(change, Some(Change::Delete)),
                    "a partition is lost"
                );
                self.created_anew(index);
                continue;
            };
            let mut model = self.models[index].clone();
            assert_eq!(model.partition.handle(), partition.handle());
            model.partition = partition;
            model.config = LogConfig::default();
            // As if the change had been, or else as if it had not: what a truncation took is not lost.
            let mut before = model.clone();
            let offsets = model.partition.offsets();
            match change {
                Some(Change::DeletePrefix(-1)) => model.delete_prefix(offsets.log_start),
                Some(Change::DeletePrefix(offset)) => model.delete_prefix(offset),
                Some(Change::Truncate(offset)) => model.truncate(offset),
                Some(Change::TruncateFully(offset)) => model.truncate_fully(offset),
                Some(Change::Delete) | None => {}
            }
            let taken = self.matches(&mut model, power_cut).or_else(|what| {
                let lost = self.matches(&mut before, power_cut);
                model = before;
                lost.map_err(|other| format!("after {change:?}: {what}\nwithout it: {other}"))
            });
            lost.extend(taken.unwrap_or_else(|what| panic!("partition {index}: {what}")));
            model.leader_epoch = model
                .leader_epoch
                .max(model.partition.offsets().leader_epoch);
            if self.rng.bool() {
                model.leader_epoch += 1;
            }
            model.partition.become_leader(model.leader_epoch, vec![1]);
            self.models[index] = model;
        }
        let first_lost = lost.first().copied().unwrap_or(u64::MAX);
        for (index, model) in self.models.iter().enumerate() {
            let last = model.last_index().unwrap_or(0);
            assert!(
                last < first_lost,
                "partition {index} has {last}, but {first_lost} is lost"
            );
        }
        let no_change: Vec<_> = self
            .models
            .iter()
            .map(|model| model.partition.offsets())
            .collect();
        for offsets in no_change {
            assert_eq!(offsets.high_watermark, offsets.log_end);
        }
        self.check_all();
    }

    /// Compares a recovered partition with a model, and says which batches are lost.
    fn matches(&self, model: &mut Model, power_cut: bool) -> Result<Vec<u64>, String> {
        let state = model.partition.state();
        if state.log_start != model.log_start {
            return Err(format!(
                "begins at {}, not at {}",
                state.log_start, model.log_start
            ));
        }
        let lost = model.lose_from(state.log_end, power_cut)?;
        let limit = ReadLimit::LogEnd;
        let read = self
            .log
            .read(&model.partition, state.log_start, usize::MAX, true, limit);
        let read = read.map_err(|error| error.to_string())?;
        let (batches, _) = model.read(state.log_start, state.log_end, usize::MAX, true);
        if read.batches != batches {
            return Err("the batches differ".to_owned());
        }
        if state.epochs != model.epochs {
            return Err(format!(
                "epochs are {:?}, not {:?}",
                state.epochs, model.epochs
            ));
        }
        if state.running_max_timestamp < model.max_timestamp_held() {
            return Err("the greatest timestamp is too small".to_owned());
        }
        model.match_producers(&state.producers, true)?;
        let again = recovery::recover(self.life.as_ref(), model.partition.handle(), 1);
        if again.as_ref() != Ok(&state) {
            return Err("a second recovery differs".to_owned());
        }
        Ok(lost)
    }
}
