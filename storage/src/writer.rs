//! Group commit. One thread owns the order: it plans appends of all partitions as they come, writes them in
//! that order, and hands what must be durable to a second thread that syncs. So writing and syncing overlap,
//! and one sync serves all partitions and connections that wrote before it began.
//!
//! Started by `log.rs`; nothing else changes a log. Invariants:
//! * plans reach the engine in the order they were made, so that a later plan may build on an earlier one;
//! * a sync is credited only with what had been written before it began;
//! * after a failed write or sync everything waiting fails, nothing more is accepted, nothing is retried.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use ottla_protocol::batch;
use tokio::sync::{mpsc, oneshot};

use crate::engine::{Engine, Family, Start, WriteOps};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle, PartitionId};
use crate::log::{AppendEntry, Clock, Observer, Partition};
use crate::partition::{Offsets, PartitionState};
use crate::recovery;
use crate::waiters::{Acks, AppendWaiter, PendingAppend, complete, lock};

/// Appends below this size share one write; larger ones have their own.
const SHARED_WRITE_BYTES: usize = 16 << 10;

/// Commands taken into one group at the most.
const GROUP_COMMANDS: usize = 256;

/// What was only written is synced in the background at least this often.
const BACKGROUND_SYNC_MS: i64 = 1_000;

type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

/// What the writer is asked to do, in order.
#[derive(Debug)]
pub(crate) enum Command {
    Append {
        entries: Vec<AppendEntry>,
        acks: Acks,
        pending: Arc<PendingAppend>,
    },
    AppendFollower {
        partition: Arc<Partition>,
        batches: Bytes,
        reply: Reply<Offsets>,
    },
    DeletePrefix {
        partition: Arc<Partition>,
        offset: i64,
        reply: Reply<i64>,
    },
    Truncate {
        partition: Arc<Partition>,
        offset: i64,
        reply: Reply<Offsets>,
    },
    TruncateFully {
        partition: Arc<Partition>,
        offset: i64,
        reply: Reply<Offsets>,
    },
    Create {
        ids: Vec<PartitionId>,
        reply: Reply<Vec<Arc<Partition>>>,
    },
    Delete {
        ids: Vec<PartitionId>,
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

/// What the writer, the syncer and the readers share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<dyn Engine>,
    node_id: i32,
    max_producers: usize,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    partitions: Arc<DashMap<PartitionId, Arc<Partition>>>,
    failure: OnceLock<EngineError>,
    next_handle: Mutex<Option<Handle>>,
    queue: Mutex<SyncQueue>,
    queued: Condvar,
}

#[derive(Default)]
struct SyncQueue {
    written: HashMap<Handle, Written>,
    wanted: bool,
    deadline: Option<Duration>,
    closing: bool,
}

/// How far a partition was written; `generation` tells apart logs before and after a truncation.
struct Written {
    partition: Arc<Partition>,
    generation: u64,
    end: i64,
}

/// The two threads.
#[derive(Debug)]
pub(crate) struct Threads {
    writer: JoinHandle<()>,
    syncer: JoinHandle<()>,
}

impl Threads {
    pub(crate) fn join(self) {
        for thread in [self.writer, self.syncer] {
            if thread.join().is_err() {
                tracing::error!("a log thread panicked");
            }
        }
    }
}

impl Shared {
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        node_id: i32,
        max_producers: usize,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
        partitions: Arc<DashMap<PartitionId, Arc<Partition>>>,
    ) -> Self {
        Self {
            engine,
            node_id,
            max_producers,
            clock,
            observer,
            partitions,
            failure: OnceLock::new(),
            next_handle: Mutex::new(None),
            queue: Mutex::new(SyncQueue::default()),
            queued: Condvar::new(),
        }
    }

    pub(crate) fn failure(&self) -> Option<EngineError> {
        self.failure.get().cloned()
    }

    fn check(&self) -> Result<(), StorageError> {
        self.failure.get().map_or(Ok(()), |error| {
            Err(StorageError::Engine(EngineError::Failed(error.to_string())))
        })
    }

    /// Marks the store failed and answers everybody who waits.
    fn fail(&self, error: &EngineError) {
        if self.failure.set(error.clone()).is_ok() {
            tracing::error!(%error, "storage failed, no more writes are accepted");
            self.observer.failed(error);
        }
        let partitions: Vec<_> = self
            .partitions
            .iter()
            .map(|entry| entry.value().clone())
            .collect();
        for partition in partitions {
            let waiting = partition.lock().waiters.give_up();
            refuse(waiting, &StorageError::Engine(error.clone()));
        }
    }

    /// Writes and syncs at once, for rare changes that are not appends.
    fn write_durably(&self, ops: &WriteOps) -> Result<(), StorageError> {
        self.check()?;
        let done = self.engine.write(ops).and_then(|()| self.engine.sync());
        done.map_err(|error| {
            self.fail(&error);
            StorageError::Engine(error)
        })?;
        // The system tells a failed fsync once: if it told the syncer, the success here is worth nothing.
        self.check()
    }

    fn close_queue(&self) {
        lock(&self.queue).closing = true;
        self.queued.notify_all();
    }
}

fn refuse(waiting: Vec<AppendWaiter>, error: &StorageError) {
    for waiter in waiting {
        waiter.pending.complete(waiter.index, Err(error.clone()));
    }
}

/// Starts the writer and the syncer.
pub(crate) fn start(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Threads {
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>, shared: Arc<Shared>| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(body)).is_err() {
                    shared.fail(&EngineError::Failed("a log thread panicked".to_owned()));
                }
                shared.close_queue();
            })
            .expect("the system has room for two threads at start")
    };
    let (writer_shared, syncer_shared) = (shared.clone(), shared.clone());
    Threads {
        writer: spawn(
            "ottla-writer",
            Box::new(move || Writer::new(writer_shared).run(commands)),
            shared.clone(),
        ),
        syncer: spawn(
            "ottla-syncer",
            Box::new(move || sync_loop(&syncer_shared)),
            shared,
        ),
    }
}

fn sync_loop(shared: &Shared) {
    loop {
        let mut queue = lock(&shared.queue);
        let written = loop {
            let now = shared.clock.monotonic();
            let due = queue.deadline.is_some_and(|deadline| deadline <= now);
            if queue.wanted || due || queue.closing {
                queue.wanted = false;
                queue.deadline = None;
                break std::mem::take(&mut queue.written);
            }
            queue = match queue.deadline {
                Some(deadline) => {
                    let waited = shared.queued.wait_timeout(queue, deadline - now);
                    waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
                }
                None => shared
                    .queued
                    .wait(queue)
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
            };
        };
        let closing = queue.closing;
        drop(queue);
        if written.is_empty() && closing {
            return;
        }
        if written.is_empty() || shared.check().is_err() {
            continue;
        }
        let began = shared.clock.monotonic();
        if let Err(error) = shared.engine.sync() {
            shared.fail(&error);
            continue;
        }
        if shared.check().is_err() {
            // The writer's own sync failed meanwhile: this one's success is worth nothing.
            continue;
        }
        shared
            .observer
            .synced(shared.clock.monotonic().saturating_sub(began));
        for written in written.into_values() {
            let mut inner = written.partition.lock();
            if inner.state.generation == written.generation {
                inner.state.synced(written.end);
            }
            let offsets = inner.state.offsets();
            let done = inner.waiters.advance(&offsets);
            drop(inner);
            complete(done);
        }
    }
}

/// The handle that is given away next.
pub(crate) fn stored_next_handle(engine: &dyn Engine) -> Result<Handle, StorageError> {
    match engine.get(Family::Log, &keys::next_handle())? {
        Some(value) => keys::parse_handle(&value).ok_or_else(|| {
            StorageError::Engine(EngineError::Corruption(
                "the handle counter has an unknown layout".to_owned(),
            ))
        }),
        None => Ok(Handle::METADATA),
    }
}

/// Creates partitions that are not there, durably. Called by the writer, and once at open.
pub(crate) fn create_now(
    shared: &Shared,
    ids: &[PartitionId],
) -> Result<Vec<Arc<Partition>>, StorageError> {
    let mut next_handle = lock(&shared.next_handle);
    let mut next = match *next_handle {
        Some(next) => next,
        None => stored_next_handle(shared.engine.as_ref())?,
    };
    let mut ops = WriteOps::new();
    let mut made: HashMap<PartitionId, Arc<Partition>> = HashMap::new();
    for id in ids {
        if shared.partitions.contains_key(id) || made.contains_key(id) {
            continue;
        }
        if (*id == PartitionId::METADATA) != (next == Handle::METADATA) {
            return Err(StorageError::Engine(EngineError::Corruption(format!(
                "handle {} would not be of its partition: the counter or the metadata partition's binding is lost",
                next.0
            ))));
        }
        ops.put(Family::Log, keys::binding(*id), keys::handle_value(next));
        let mut state = PartitionState::new(next, shared.node_id);
        state.producers.set_limit(shared.max_producers);
        made.insert(*id, Arc::new(Partition::new(*id, state)));
        next = Handle(next.0 + 1);
    }
    if !made.is_empty() {
        ops.put(Family::Log, keys::next_handle(), keys::handle_value(next));
        shared.write_durably(&ops)?;
        *next_handle = Some(next);
    }
    for (id, partition) in &made {
        shared.partitions.insert(*id, partition.clone());
    }
    ids.iter()
        .map(|id| {
            let found = shared.partitions.get(id);
            found
                .map(|entry| entry.value().clone())
                .ok_or(StorageError::NoSuchPartition)
        })
        .collect()
}

/// Appends that are planned but not written yet.
#[derive(Default)]
struct Group {
    ops: WriteOps,
    touched: Vec<Touched>,
    requests: usize,
    batches: usize,
}

struct Touched {
    partition: Arc<Partition>,
    generation: u64,
    end: i64,
    needs_sync: bool,
    flush_ms: i64,
}

struct Writer {
    shared: Arc<Shared>,
    group: Group,
}

impl Writer {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            group: Group::default(),
        }
    }

    fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            let mut next = Some(first);
            let mut taken = 0;
            while let Some(command) = next.take() {
                taken += 1;
                if let Command::Close { reply } = command {
                    self.write_group();
                    let closed = self.close();
                    commands.close();
                    self.shared.close_queue();
                    // Whoever asked may have gone; the log is closed all the same.
                    let _ = reply.send(closed);
                    return;
                }
                self.perform(command);
                if taken < GROUP_COMMANDS {
                    next = commands.try_recv().ok();
                }
            }
            self.write_group();
        }
    }

    fn perform(&mut self, command: Command) {
        if let Command::Append {
            entries,
            acks,
            pending,
        } = command
        {
            self.group.requests += 1;
            for (index, entry) in entries.into_iter().enumerate() {
                self.append(&entry, acks, &pending, index);
            }
            return;
        }
        // Everything else sees a log without plans in flight.
        self.write_group();
        // A reply nobody waits for any more is no failure, here and below.
        match command {
            Command::Append { .. } | Command::Close { .. } => {}
            Command::AppendFollower {
                partition,
                batches,
                reply,
            } => {
                let _ = reply.send(self.append_follower(&partition, &batches));
            }
            Command::DeletePrefix {
                partition,
                offset,
                reply,
            } => {
                let _ = reply.send(self.delete_prefix(&partition, offset));
            }
            Command::Truncate {
                partition,
                offset,
                reply,
            } => {
                let _ = reply.send(self.truncate(&partition, offset));
            }
            Command::TruncateFully {
                partition,
                offset,
                reply,
            } => {
                let _ = reply.send(self.truncate_fully(&partition, offset));
            }
            Command::Create { ids, reply } => {
                let _ = reply.send(create_now(&self.shared, &ids));
            }
            Command::Delete { ids, reply } => {
                let _ = reply.send(self.delete(&ids));
            }
        }
    }

    fn append(
        &mut self,
        entry: &AppendEntry,
        acks: Acks,
        pending: &Arc<PendingAppend>,
        index: usize,
    ) {
        if let Err(error) = self.shared.check() {
            pending.complete(index, Err(error));
            return;
        }
        let mut inner = entry.partition.lock();
        if inner.gone {
            drop(inner);
            pending.complete(index, Err(StorageError::NoSuchPartition));
            return;
        }
        let config = inner.config;
        let planned = inner.state.plan_append(
            &entry.bytes,
            &entry.header,
            entry.leader_epoch,
            &config,
            self.shared.clock.now_ms(),
        );
        let planned = match planned {
            Ok(planned) => planned,
            Err(error) => {
                drop(inner);
                pending.complete(index, Err(error));
                return;
            }
        };
        inner.waiters.park_append(AppendWaiter {
            acks,
            appended: planned.appended,
            pending: pending.clone(),
            index,
        });
        let touched = Touched {
            partition: entry.partition.clone(),
            generation: inner.state.generation,
            end: if planned.appended.duplicate {
                0
            } else {
                planned.appended.end_offset
            },
            needs_sync: planned.needs_sync,
            flush_ms: config.flush_ms,
        };
        drop(inner);
        let alone = planned.ops.bytes() >= SHARED_WRITE_BYTES;
        if alone && !self.group.ops.is_empty() {
            self.write_group();
        }
        self.group.batches += usize::from(!planned.appended.duplicate);
        self.group.ops.append(planned.ops);
        self.group.touched.push(touched);
        if alone {
            self.write_group();
        }
    }

    /// Writes what is planned, commits what needs no sync, and hands the rest to the syncer.
    fn write_group(&mut self) {
        let group = std::mem::take(&mut self.group);
        if group.touched.is_empty() {
            return;
        }
        if !group.ops.is_empty() {
            let written = self.shared.check().and_then(|()| {
                self.shared
                    .engine
                    .write(&group.ops)
                    .map_err(StorageError::from)
            });
            if let Err(error) = written {
                let cause = match error {
                    StorageError::Engine(cause) => cause,
                    other => EngineError::Failed(other.to_string()),
                };
                self.shared.fail(&cause);
                return;
            }
            self.shared
                .observer
                .group_written(group.requests, group.batches, group.ops.bytes());
        }
        let mut wanted = false;
        let mut flush_ms = BACKGROUND_SYNC_MS;
        for touched in &group.touched {
            wanted |= touched.needs_sync;
            flush_ms = flush_ms.min(touched.flush_ms.max(0));
            let mut inner = touched.partition.lock();
            if touched.end > 0 {
                inner.state.written(touched.end);
            }
            let offsets = inner.state.offsets();
            let done = inner.waiters.advance(&offsets);
            drop(inner);
            complete(done);
        }
        self.queue_sync(group.touched, wanted, flush_ms);
        if self.shared.failure().is_some_and(|error| {
            // The syncer failed meanwhile and may have missed those who were parked since.
            self.shared.fail(&error);
            true
        }) {
            tracing::debug!("a group was written after storage had failed");
        }
    }

    fn queue_sync(&self, touched: Vec<Touched>, wanted: bool, flush_ms: i64) {
        let mut queue = lock(&self.shared.queue);
        let mut any = false;
        for touched in touched.into_iter().filter(|touched| touched.end > 0) {
            any = true;
            let entry = queue
                .written
                .entry(touched.partition.handle())
                .or_insert_with(|| Written {
                    partition: touched.partition.clone(),
                    generation: touched.generation,
                    end: 0,
                });
            if entry.generation != touched.generation {
                entry.generation = touched.generation;
                entry.end = 0;
            }
            entry.end = entry.end.max(touched.end);
        }
        if !any {
            return;
        }
        queue.wanted |= wanted;
        let due = self.shared.clock.monotonic()
            + Duration::from_millis(u64::try_from(flush_ms).unwrap_or(0));
        let sooner = queue.deadline.is_none_or(|deadline| due < deadline);
        if sooner {
            queue.deadline = Some(due);
        }
        drop(queue);
        if wanted || sooner {
            self.shared.queued.notify_one();
        }
    }

    fn append_follower(
        &mut self,
        partition: &Arc<Partition>,
        batches: &Bytes,
    ) -> Result<Offsets, StorageError> {
        self.shared.check()?;
        let mut ops = WriteOps::new();
        let mut inner = partition.lock();
        if inner.gone {
            return Err(StorageError::NoSuchPartition);
        }
        // Planned on a copy: a later batch that does not fit must leave no trace of an earlier one.
        let mut state = inner.state.clone();
        for step in batch::walk(batches) {
            let (header, bytes) =
                step.map_err(|error| StorageError::InvalidBatch(error.to_string()))?;
            ops.append(state.plan_follower_append(&batches.slice_ref(bytes), &header)?);
        }
        inner.state = state;
        drop(inner);
        self.shared.write_durably(&ops)?;
        let mut inner = partition.lock();
        let end = inner.state.log_end;
        inner.state.written(end);
        inner.state.synced(end);
        let offsets = inner.state.offsets();
        let done = inner.waiters.advance(&offsets);
        drop(inner);
        complete(done);
        Ok(offsets)
    }

    /// The base offset of the batch that holds `offset`, or `offset` when no batch does.
    fn batch_holding(&self, handle: Handle, offset: i64) -> Result<i64, StorageError> {
        let (from, _) = keys::batches(handle, 0);
        let below = keys::batch(handle, offset);
        let found = self.shared.engine.last(Family::Log, &from, &below)?;
        let Some((_, value)) = found else {
            return Ok(offset);
        };
        let header = recovery::stored_header(handle, &value)?;
        Ok(if header.last_offset() >= offset {
            header.base_offset
        } else {
            offset
        })
    }

    fn delete_prefix(
        &mut self,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> Result<i64, StorageError> {
        let (ops, offset) = {
            let inner = partition.lock();
            if inner.gone {
                return Err(StorageError::NoSuchPartition);
            }
            let offset = if offset == -1 {
                inner.state.high_watermark
            } else {
                offset
            };
            inner.state.check_delete_prefix(offset)?;
            if offset <= inner.state.log_start {
                return Ok(inner.state.log_start);
            }
            drop(inner);
            let first_kept = self.batch_holding(partition.handle(), offset)?;
            let until = self.first_time_entry(partition.handle(), first_kept)?;
            let mut ops = partition
                .lock()
                .state
                .plan_delete_prefix(offset, first_kept);
            if let Some(until) = until {
                let from = keys::times(partition.handle()).0;
                ops.delete_range(Family::Log, from, until);
            }
            (ops, offset)
        };
        self.shared.write_durably(&ops)?;
        let mut inner = partition.lock();
        inner.state.deleted_prefix(offset);
        Ok(inner.state.log_start)
    }

    /// Key of the first time index entry of a batch at or above `offset`; both grow together.
    fn first_time_entry(
        &self,
        handle: Handle,
        offset: i64,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let (from, to) = keys::times(handle);
        let mut found = None;
        self.shared
            .engine
            .scan(Family::Log, Start::At(&from), &to, &mut |key, _| {
                if keys::parse_time(key).is_some_and(|(_, base)| base >= offset) {
                    found = Some(key.to_vec());
                    return std::ops::ControlFlow::Break(());
                }
                std::ops::ControlFlow::Continue(())
            })?;
        Ok(found)
    }

    fn truncate(
        &mut self,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> Result<Offsets, StorageError> {
        let offsets = partition.offsets();
        if partition.is_gone() {
            return Err(StorageError::NoSuchPartition);
        }
        if offset < offsets.log_start {
            return Err(StorageError::OffsetOutOfRange {
                offset,
                log_start: offsets.log_start,
                log_end: offsets.log_end,
            });
        }
        if offset >= offsets.log_end {
            return Ok(offsets);
        }
        let end = self.batch_holding(partition.handle(), offset)?;
        let time_from = self.first_time_entry(partition.handle(), end)?;
        let ops = partition.lock().state.plan_truncate(end, time_from);
        self.rebuild(partition, &ops)
    }

    fn truncate_fully(
        &mut self,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> Result<Offsets, StorageError> {
        let ops = {
            let inner = partition.lock();
            if inner.gone {
                return Err(StorageError::NoSuchPartition);
            }
            if offset < 0 {
                return Err(StorageError::OffsetOutOfRange {
                    offset,
                    log_start: inner.state.log_start,
                    log_end: inner.state.log_end,
                });
            }
            inner.state.plan_truncate_fully(offset)
        };
        self.rebuild(partition, &ops)
    }

    /// Writes `ops` and recovers the partition's state from what is left. Appends that wait are refused.
    fn rebuild(
        &mut self,
        partition: &Arc<Partition>,
        ops: &WriteOps,
    ) -> Result<Offsets, StorageError> {
        self.shared.write_durably(ops)?;
        let recovered = recovery::recover(
            self.shared.engine.as_ref(),
            partition.handle(),
            self.shared.node_id,
            self.shared.max_producers,
        );
        let state = recovered.inspect_err(|error| {
            // The store holds another log than the state describes: nothing may be built on that.
            self.shared.fail(&match error {
                StorageError::Engine(cause) => cause.clone(),
                other => EngineError::Failed(other.to_string()),
            });
        })?;
        let mut inner = partition.lock();
        inner.state.truncated(state);
        let offsets = inner.state.offsets();
        let waiting = inner.waiters.give_up();
        drop(inner);
        refuse(waiting, &StorageError::NoSuchPartition);
        Ok(offsets)
    }

    fn delete(&mut self, ids: &[PartitionId]) -> Result<(), StorageError> {
        let mut ops = WriteOps::new();
        // Nobody deletes the metadata partition, and without it the next start would be one of an empty broker.
        for id in ids.iter().filter(|id| **id != PartitionId::METADATA) {
            let Some((_, partition)) = self.shared.partitions.remove(id) else {
                continue;
            };
            let mut inner = partition.lock();
            inner.gone = true;
            let waiting = inner.waiters.give_up();
            drop(inner);
            refuse(waiting, &StorageError::NoSuchPartition);
            let (from, to) = keys::partition(partition.handle());
            ops.delete_range(Family::Log, from, to);
            ops.delete(Family::Log, keys::binding(*id));
        }
        if ops.is_empty() {
            return Ok(());
        }
        self.shared.write_durably(&ops)
    }

    fn close(&mut self) -> Result<(), StorageError> {
        let mut ops = WriteOps::new();
        for entry in self.shared.partitions.iter() {
            let mut inner = entry.value().lock();
            if !inner.state.snapshots.is_empty() {
                inner.state.snapshot(&mut ops);
            }
        }
        self.shared.write_durably(&ops)?;
        // Appends that were written but not synced are now both.
        for entry in self.shared.partitions.iter() {
            let mut inner = entry.value().lock();
            let end = inner.state.written_end;
            inner.state.synced(end);
            let offsets = inner.state.offsets();
            let done = inner.waiters.advance(&offsets);
            drop(inner);
            complete(done);
        }
        Ok(())
    }
}
