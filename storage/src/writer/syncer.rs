//! The thread that syncs, and what it shares with the writer and the readers. One sync serves all partitions that
//! were written before it began.
//!
//! Called by `writer.rs` (`queue_sync`), its rare changes (`write_durably`) and `log.rs`; it never writes. A sync is
//! credited only with what had been written before it began, and never once the store has failed. A failed sync is
//! never tried again, whatever its reason: the system may have dropped what it could not write, and tells so once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use dashmap::DashMap;

use super::Touched;
use crate::engine::{Engine, WriteOps};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle, PartitionId};
use crate::log::{Clock, Observer, Partition};
use crate::reclaim::Unreclaimed;
use crate::waiters::{AppendWaiter, complete, lock};

/// How long the writer may take to tell of a failed write whose consequence the syncer has met.
const WRITER_TELLS: Duration = Duration::from_secs(1);

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
    queue: Mutex<SyncQueue>,
    queued: Condvar,
}

/// A sync that has so much to write, in bytes, gains little by more.
const ENOUGH_BYTES: usize = 64 << 10;

/// Of what nobody waits for, so much is rather flushed than synced, in bytes: it is written once then.
const FLUSHED_BYTES: usize = 16 << 20;

/// The longest time that a sync is held back for more.
const MOST_PATIENCE: Duration = Duration::from_micros(500);

type Ends = HashMap<Handle, Written>;

struct SyncQueue {
    written: Ends,
    /// Bytes of it.
    bytes: usize,
    /// Batches among it whose sync somebody waits for.
    wanted: usize,
    /// So many of them are worth waking up for.
    enough: usize,
    deadline: Option<Duration>,
    /// Half of the shortest time that anything in `written` has.
    half: Duration,
    closing: bool,
}

impl SyncQueue {
    /// Whether a sync is wanted that is not worth waiting with.
    fn is_enough(&self) -> bool {
        self.wanted >= self.enough || self.bytes >= ENOUGH_BYTES
    }

    /// Has the syncer wake up after `wait` at the latest; whether that is sooner than it would.
    fn due_within(&mut self, now: Duration, wait: Duration) -> bool {
        let due = now.saturating_add(wait);
        let sooner = self.deadline.is_none_or(|deadline| due < deadline);
        if sooner {
            self.deadline = Some(due);
        }
        sooner
    }
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
            reclaiming: Mutex::default(),
            queue: Mutex::new(SyncQueue {
                written: HashMap::new(),
                bytes: 0,
                wanted: 0,
                enough: 1,
                deadline: None,
                half: Duration::MAX,
                closing: false,
            }),
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
            // Who waits for this news looks for it with the queue in hand.
            drop(lock(&self.queue));
            self.queued.notify_all();
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

    /// The syncer's sync failed. If it only says that a write did so before, the writer is about to say with what:
    /// a full disk is no reason to end the process.
    fn syncer_failed(&self, error: &EngineError) {
        if matches!(error, EngineError::Failed(_)) {
            let untold = |_: &mut SyncQueue| self.failure().is_none();
            let queue = lock(&self.queue);
            let waited = self.queued.wait_timeout_while(queue, WRITER_TELLS, untold);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
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
        lock(&self.queue).closing = true;
        self.queued.notify_all();
    }

    /// Hands over what was written with one write of `bytes`.
    pub(super) fn queue_sync(&self, touched: Vec<Touched>, bytes: usize, flush_ms: i64) {
        let wanted = touched.iter().filter(|touched| touched.needs_sync).count();
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
        queue.wanted += wanted;
        queue.bytes += bytes;
        let half = Duration::from_millis(u64::try_from(flush_ms).unwrap_or(0)) / 2;
        queue.half = queue.half.min(half);
        let sooner = queue.due_within(self.clock.monotonic(), half);
        let wake = sooner || (wanted > 0 && queue.is_enough());
        drop(queue);
        if wake {
            self.queued.notify_one();
        }
    }

    /// Has the syncer look again after `wait`.
    fn sync_within(&self, wait: Duration) {
        let now = self.clock.monotonic();
        lock(&self.queue).due_within(now, wait);
    }
}

pub(super) fn refuse(waiting: Vec<AppendWaiter>, error: &StorageError) {
    for waiter in waiting {
        waiter.pending.complete(waiter.index, Err(error.clone()));
    }
}

/// Why the syncer woke up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// Somebody waits for a sync.
    Wanted,
    /// It is time for what nobody waits for.
    Due,
    /// The log closes.
    Closing,
}

/// What the syncer has to do.
struct Round {
    woken: Woken,
    written: Ends,
    bytes: usize,
    /// Batches whose sync somebody waits for.
    wanted: usize,
    /// Half of the time that what nobody waits for has.
    half: Duration,
}

/// How the last sync went, by which the next one is held back: those who were answered mostly come again at once, and one
/// sync for them and for those who came meanwhile writes less, since each begins with a page that the one before it wrote.
#[derive(Debug, Default)]
struct Last {
    wanted: usize,
    took: Duration,
}

impl Last {
    /// No longer than half a sync: whoever is not answered sooner gets that back when the next one is not waited for.
    fn patience(&self) -> Duration {
        (self.took / 2).min(MOST_PATIENCE)
    }
}

/// What was written before the engine told this number of its journal.
struct Aging {
    journal: u64,
    written: Ends,
}

pub(super) fn sync_loop(shared: &Shared) {
    let mut aging: Option<Aging> = None;
    let mut last = Last::default();
    loop {
        let round = next_round(shared, &last);
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
                    shared.sync_within(round.half);
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
        let began = shared.clock.monotonic();
        if let Err(error) = shared.engine.sync() {
            shared.syncer_failed(&error);
            continue;
        }
        if shared.check().is_err() {
            // The writer's own sync failed meanwhile: this one's success is worth nothing.
            continue;
        }
        let took = shared.clock.monotonic().saturating_sub(began);
        shared.observer.synced(took);
        last = Last {
            wanted: round.wanted,
            took,
        };
        credit(written);
    }
}

/// Waits until there is something to do.
fn next_round(shared: &Shared, last: &Last) -> Round {
    let mut queue = lock(&shared.queue);
    let patience = last.patience();
    queue.enough = if patience.is_zero() {
        1
    } else {
        (last.wanted + queue.wanted).max(1)
    };
    loop {
        let now = shared.clock.monotonic();
        let due = queue.deadline.is_some_and(|deadline| deadline <= now);
        let woken = if queue.closing {
            Some(Woken::Closing)
        } else if queue.wanted > 0 && (due || queue.is_enough()) {
            Some(Woken::Wanted)
        } else {
            due.then_some(Woken::Due)
        };
        if let Some(woken) = woken {
            queue.deadline = None;
            return Round {
                woken,
                written: std::mem::take(&mut queue.written),
                bytes: std::mem::take(&mut queue.bytes),
                wanted: std::mem::take(&mut queue.wanted),
                half: std::mem::replace(&mut queue.half, Duration::MAX),
            };
        }
        let until_due = queue.deadline.map(|deadline| deadline.saturating_sub(now));
        // Nobody wakes this thread for less than what is enough.
        let patient = (queue.enough > 1).then_some(patience);
        queue = match until_due.into_iter().chain(patient).min() {
            Some(wait) => {
                let waited = shared.queued.wait_timeout(queue, wait);
                let (mut queue, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                if waited.timed_out() {
                    queue.enough = 1;
                }
                queue
            }
            None => shared
                .queued
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner),
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_held_back_for_half_of_the_last_one_and_never_for_long() {
        let patience = |micros| {
            let took = Duration::from_micros(micros);
            Last { wanted: 3, took }.patience()
        };
        assert_eq!(Last::default().patience(), Duration::ZERO);
        assert_eq!(patience(200), Duration::from_micros(100));
        assert_eq!(patience(20_000), MOST_PATIENCE);
    }

    #[test]
    fn as_many_as_there_were_or_much_is_enough() {
        let mut queue = SyncQueue {
            written: HashMap::new(),
            bytes: 0,
            wanted: 2,
            enough: 3,
            deadline: None,
            half: Duration::MAX,
            closing: false,
        };
        assert!(!queue.is_enough());
        queue.bytes = ENOUGH_BYTES;
        assert!(queue.is_enough());
        (queue.bytes, queue.wanted) = (0, 3);
        assert!(queue.is_enough());
    }
}
