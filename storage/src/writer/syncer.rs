//! The thread that syncs, and what it shares with the writer and the readers. One sync serves all partitions that
//! were written before it began.
//!
//! Called by `writer.rs` (`queue_sync`), its rare changes (`write_durably`) and `log.rs`; it never writes. A sync is
//! credited only with what had been written before it began, and never once the store has failed.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use dashmap::DashMap;

use super::Touched;
use crate::engine::{Engine, WriteOps};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle, PartitionId};
use crate::log::{Clock, Observer, Partition};
use crate::reclaim::{Collector, Unreclaimed};
use crate::waiters::{AppendWaiter, complete, lock};

/// What the writer, the syncer and the readers share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<dyn Engine>,
    pub(super) node_id: i32,
    pub(super) max_producers: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) partitions: Arc<DashMap<PartitionId, Arc<Partition>>>,
    failure: OnceLock<EngineError>,
    pub(super) next_handle: Mutex<Option<Handle>>,
    pub(crate) unreclaimed: Mutex<Unreclaimed>,
    /// Held by whoever reclaims, one at a time.
    pub(crate) collector: Mutex<Collector>,
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
            unreclaimed: Mutex::default(),
            collector: Mutex::default(),
            queue: Mutex::new(SyncQueue::default()),
            queued: Condvar::new(),
        }
    }

    pub(crate) fn failure(&self) -> Option<EngineError> {
        self.failure.get().cloned()
    }

    pub(super) fn check(&self) -> Result<(), StorageError> {
        self.failure.get().map_or(Ok(()), |error| {
            Err(StorageError::Engine(EngineError::Failed(error.to_string())))
        })
    }

    /// Marks the store failed and answers everybody who waits.
    pub(super) fn fail(&self, error: &EngineError) {
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

    /// Writes without a sync, for rare changes that may be made again after a power cut.
    pub(super) fn write(&self, ops: &WriteOps) -> Result<(), StorageError> {
        self.check()?;
        if ops.is_empty() {
            return Ok(());
        }
        self.engine.write(ops).map_err(|error| {
            self.fail(&error);
            StorageError::Engine(error)
        })
    }

    /// Writes and syncs at once, for rare changes that are not appends.
    pub(super) fn write_durably(&self, ops: &WriteOps) -> Result<(), StorageError> {
        self.check()?;
        let done = self.engine.write(ops).and_then(|()| self.engine.sync());
        done.map_err(|error| {
            self.fail(&error);
            StorageError::Engine(error)
        })?;
        // The system tells a failed fsync once: if it told the syncer, the success here is worth nothing.
        self.check()
    }

    /// Nobody remembers whether the room of what an earlier process erased was given back: it is looked after once more.
    /// `handles` are those in use, in order.
    pub(crate) fn reclaim_deleted(&self, handles: &[Handle], next: Handle) {
        let now = self.clock.monotonic();
        let mut unreclaimed = lock(&self.unreclaimed);
        let mut free = Handle::METADATA;
        for used in handles.iter().copied().chain([next]) {
            if free < used {
                let range = (keys::partition(free).0, keys::partition(used).0);
                unreclaimed.add(range, 0, now);
            }
            free = Handle(used.0 + 1);
        }
    }

    pub(super) fn close_queue(&self) {
        lock(&self.queue).closing = true;
        self.queued.notify_all();
    }
    pub(super) fn queue_sync(&self, touched: Vec<Touched>, wanted: bool, flush_ms: i64) {
        let mut queue = lock(&self.queue);
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
        let due =
            self.clock.monotonic() + Duration::from_millis(u64::try_from(flush_ms).unwrap_or(0));
        let sooner = queue.deadline.is_none_or(|deadline| due < deadline);
        if sooner {
            queue.deadline = Some(due);
        }
        drop(queue);
        if wanted || sooner {
            self.queued.notify_one();
        }
    }
}

pub(super) fn refuse(waiting: Vec<AppendWaiter>, error: &StorageError) {
    for waiter in waiting {
        waiter.pending.complete(waiter.index, Err(error.clone()));
    }
}

pub(super) fn sync_loop(shared: &Shared) {
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
