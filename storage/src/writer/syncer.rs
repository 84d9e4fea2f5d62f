//! The thread that syncs, and what it shares with the writer and the readers. One sync serves all partitions that
//! were written before it began. What is little and soon synced the writer syncs itself.
//!
//! Called by `writer.rs` (`queue_sync`, `sync_held`, `hand_over`), its rare changes (`write_durably`) and `log.rs`; it never writes. What waits for a
//! sync, and when it begins, stands in `syncer/queue.rs`. A sync is credited only with what had been written before it began,
//! and never once the store has failed. A failed sync is never tried again, whatever its reason: the system may have dropped
//! what it could not write, and tells so once.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use dashmap::DashMap;

use self::queue::{Ends, Last, Queue, Round, Woken};
use super::Touched;
use crate::engine::{Engine, WriteOps};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle, PartitionId};
use crate::log::{Clock, Observer, Partition};
use crate::reclaim::Unreclaimed;
use crate::waiters::{AppendWaiter, complete, lock};

mod queue;

/// How long whoever wrote may take to tell of a failed write whose consequence a sync has met.
const WRITER_TELLS: Duration = Duration::from_secs(1);

/// Of what nobody waits for, so much is rather flushed than synced, in bytes: it is written once then.
const FLUSHED_BYTES: usize = 16 << 20;

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
    /// Innermost: no other lock is taken and nothing is read while it is held, and it is not asked for with a partition's
    /// lock in hand, which readers wait for.
    pub(crate) unreclaimed: Mutex<Unreclaimed>,
    /// Held by whoever reclaims, one at a time.
    pub(crate) reclaiming: Mutex<()>,
    queue: Queue,
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
        let queue = Queue::new(clock.clone());
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
            reclaiming: Mutex::default(),
            queue,
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
            self.queue.tell();
        }
        // Whoever comes second only tells what follows from the first failure.
        let first = StorageError::Engine(self.failure().unwrap_or_else(|| error.clone()));
        let partitions: Vec<_> = self
            .partitions
            .iter()
            .map(|entry| entry.value().clone())
            .collect();
        for partition in partitions {
            let waiting = partition.lock().waiters.give_up();
            refuse(waiting, &first);
        }
    }

    /// Marks the store failed by a sync. That is for good, also where the reason is a full disk.
    fn fail_sync(&self, error: &EngineError) {
        self.fail(&match error {
            EngineError::Full(text) => EngineError::Io(text.clone()),
            other => other.clone(),
        });
    }

    /// A sync of what was appended failed. If it only says that a write did so before, the thread that wrote is about to say
    /// with what: a full disk is no reason to end the process.
    fn append_sync_failed(&self, error: &EngineError) {
        if matches!(error, EngineError::Failed(_)) {
            self.queue
                .wait_while(WRITER_TELLS, || self.failure().is_none());
        }
        // The first failure counts.
        self.fail_sync(error);
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
        self.engine.write(ops).map_err(|error| {
            self.fail(&error);
            StorageError::Engine(error)
        })?;
        self.sync()
    }

    /// Makes durable what is written.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.check()?;
        self.engine.sync().map_err(|error| {
            self.fail_sync(&error);
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
        self.queue.close();
    }

    /// Hands over what was written with one write of `bytes`. If a writer that is `idle` synced it at once, that is told: how
    /// long it had better wait for more before `sync_held`.
    pub(super) fn queue_sync(
        &self,
        touched: Vec<Touched>,
        bytes: usize,
        flush_ms: i64,
        idle: bool,
    ) -> Option<Synced> {
        let round = self.queue.add(touched, bytes, flush_ms, idle)?;
        Some(self.sync_round(round))
    }

    /// Syncs what was held back for more, unless the syncer had better do so; whether it did is told as above.
    pub(super) fn sync_held(&self) -> Option<Synced> {
        self.queue.waited().map(|round| self.sync_round(round))
    }

    /// The syncer takes what was held back for more.
    pub(super) fn hand_over(&self) {
        self.queue.hand_over();
    }

    /// The writer syncs.
    fn sync_round(&self, round: Round) -> Synced {
        match self.sync_written(round.written) {
            Ok(took) => Synced {
                patience: self.queue.synced(Last {
                    wanted: round.wanted,
                    took,
                }),
            },
            Err(error) => {
                self.append_sync_failed(&error);
                Synced { patience: None }
            }
        }
    }

    /// Makes durable what was `written`, and says so; how long the sync took.
    fn sync_written(&self, written: Ends) -> Result<Duration, EngineError> {
        let began = self.clock.monotonic();
        self.engine.sync()?;
        let took = self.clock.monotonic().saturating_sub(began);
        // If another thread's sync failed meanwhile, this one's success is worth nothing.
        if self.failure().is_none() {
            self.observer.synced(took);
            credit(written);
        }
        Ok(took)
    }
}

pub(super) fn refuse(waiting: Vec<AppendWaiter>, error: &StorageError) {
    for waiter in waiting {
        waiter.pending.complete(waiter.index, Err(error.clone()));
    }
}

/// The writer synced what waited.
pub(super) struct Synced {
    /// How long it had better wait for more before it syncs again, if that long.
    pub(super) patience: Option<Duration>,
}

/// What was written before the engine told this number of its journal.
struct Aging {
    journal: u64,
    written: Ends,
}

pub(super) fn sync_loop(shared: &Shared) {
    let mut aging: Option<Aging> = None;
    let mut last = None;
    loop {
        let round = shared.queue.next_round(last.take());
        let mut written = round.written;
        if round.woken == Woken::Due {
            // What nobody waits for has two turns of half its time: at the first one its place in the journal is noted,
            // and when it reached files of its own by the second one, a sync would only write it twice.
            let old = aging.take();
            let flushed = old
                .as_ref()
                .is_none_or(|old| shared.engine.is_flushed(old.journal));
            if flushed && let Ok(journal) = shared.engine.journal() {
                if let Some(old) = old.filter(|_| shared.check().is_ok()) {
                    credit(old.written);
                }
                if !written.is_empty() {
                    if round.bytes >= FLUSHED_BYTES {
                        shared.engine.begin_flush();
                    }
                    aging = Some(Aging { journal, written });
                    shared.queue.look_within(round.half);
                }
                continue;
            }
            merge(&mut written, old);
        } else {
            merge(&mut written, aging.take());
        }
        if written.is_empty() && round.woken == Woken::Closing {
            return;
        }
        if written.is_empty() || shared.check().is_err() {
            continue;
        }
        match shared.sync_written(written) {
            Ok(took) => {
                last = Some(Last {
                    wanted: round.wanted,
                    took,
                });
            }
            Err(error) => shared.append_sync_failed(&error),
        }
    }
}

/// Adds what aged; where a log was truncated meanwhile, only what came later counts.
fn merge(written: &mut Ends, aged: Option<Aging>) {
    for (handle, old) in aged.into_iter().flat_map(|aged| aged.written) {
        match written.entry(handle) {
            Entry::Vacant(place) => drop(place.insert(old)),
            Entry::Occupied(mut place) if place.get().generation == old.generation => {
                let end = &mut place.get_mut().end;
                *end = (*end).max(old.end);
            }
            Entry::Occupied(_) => {}
        }
    }
}

/// Everything in `written` is safe from a power cut.
fn credit(written: Ends) {
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
