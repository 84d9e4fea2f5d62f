//! What waits for the syncer: how far partitions were written, who waits for a sync of it, and when there is enough of it.
//!
//! Filled by the writer. Emptied by the syncer (`syncer.rs`), so that writing goes on meanwhile; or, where syncs are short, by a
//! writer that has nothing else to do, which need not wake another thread. Both hold a sync back while those who were just
//! answered come again: each sync begins with a page that the one before it wrote, so that fewer syncs write less. It never
//! syncs.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::keys::Handle;
use crate::log::{Clock, Partition};
use crate::waiters::lock;
use crate::writer::Touched;

/// A sync that has so much to write, in bytes, gains little by more.
const ENOUGH_BYTES: usize = 64 << 10;

/// The longest time that a sync is held back for more.
const MOST_PATIENCE: Duration = Duration::from_micros(500);

/// So many batches take longer to come again.
const MANY: usize = 8;

/// The writer syncs itself as long as the last sync took no longer: what needs none waits for it.
const SHORT_SYNC: Duration = Duration::from_millis(1);

pub(super) type Ends = HashMap<Handle, Written>;

/// How far a partition was written; `generation` tells apart logs before and after a truncation.
pub(super) struct Written {
    pub(super) partition: Arc<Partition>,
    pub(super) generation: u64,
    pub(super) end: i64,
}

/// The queue between the writer and the syncer.
pub(super) struct Queue {
    clock: Arc<dyn Clock>,
    waiting: Mutex<Waiting>,
    queued: Condvar,
}

struct Waiting {
    written: Ends,
    /// Bytes of it.
    bytes: usize,
    /// Batches among it whose sync somebody waits for.
    wanted: usize,
    /// So many of them are worth waking up for. It is more than one only while one of the two threads waits for more and
    /// looks again in time: nobody wakes it for less.
    enough: usize,
    deadline: Option<Duration>,
    /// Half of the shortest time that anything in `written` has.
    half: Duration,
    /// Whether the syncer is at work.
    syncing: bool,
    /// How long the last sync took; zero if nobody knows.
    took: Duration,
    closing: bool,
}

impl Waiting {
    fn new() -> Self {
        Self {
            written: HashMap::new(),
            bytes: 0,
            wanted: 0,
            enough: 1,
            deadline: None,
            half: Duration::MAX,
            syncing: false,
            took: Duration::ZERO,
            closing: false,
        }
    }

    /// Whether a sync is wanted that is not worth waiting with.
    fn is_enough(&self) -> bool {
        self.wanted >= self.enough || self.bytes >= ENOUGH_BYTES
    }

    /// Whether a writer that is idle had better sync by itself.
    fn is_little(&self) -> bool {
        let short = !self.took.is_zero() && self.took <= SHORT_SYNC;
        short && !self.syncing && !self.closing && self.bytes < ENOUGH_BYTES
    }

    /// What the writer is to sync. What aged stays the syncer's, and so does when it is due.
    fn take_little(&mut self, now: Duration) -> Option<Round> {
        let deadline = self.deadline;
        let round = self.take(now);
        self.deadline = deadline;
        round
    }

    /// Notes a sync that is over; how long the next one is held back.
    fn synced(&mut self, last: Last) -> Duration {
        let patience = last.patience();
        self.took = last.took;
        self.enough = if patience.is_zero() {
            1
        } else {
            (last.wanted + self.wanted).max(1)
        };
        patience
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

    /// What there is to do, if it is time for it.
    fn take(&mut self, now: Duration) -> Option<Round> {
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        let woken = if self.closing {
            Woken::Closing
        } else if self.wanted > 0 && (due || self.is_enough()) {
            Woken::Wanted
        } else if due {
            Woken::Due
        } else {
            return None;
        };
        self.deadline = None;
        // Whoever takes it waits for nothing any more.
        self.enough = 1;
        Some(Round {
            woken,
            written: std::mem::take(&mut self.written),
            bytes: std::mem::take(&mut self.bytes),
            wanted: std::mem::take(&mut self.wanted),
            half: std::mem::replace(&mut self.half, Duration::MAX),
        })
    }
}

/// Why the syncer woke up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// Somebody waits for a sync.
    Wanted,
    /// It is time for what nobody waits for.
    Due,
    /// The log closes.
    Closing,
}

/// What the syncer has to do.
pub(super) struct Round {
    pub(super) woken: Woken,
    pub(super) written: Ends,
    pub(super) bytes: usize,
    /// Batches whose sync somebody waits for.
    pub(super) wanted: usize,
    /// Half of the time that what nobody waits for has.
    pub(super) half: Duration,
}

/// How the last sync went, by which the next one is held back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    /// Batches that were answered.
    pub(super) wanted: usize,
    pub(super) took: Duration,
}

impl Last {
    /// No longer than half a sync, or where many were answered than one: whoever is not answered sooner gets that back when
    /// the next one is not waited for.
    fn patience(&self) -> Duration {
        let most = if self.wanted < MANY {
            self.took / 2
        } else {
            self.took
        };
        most.min(MOST_PATIENCE)
    }
}

impl Queue {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            waiting: Mutex::new(Waiting::new()),
            queued: Condvar::new(),
        }
    }

    /// Hands over what was written with one write of `bytes`; nobody waits for it longer than `flush_ms`. A writer that is
    /// `idle` may get it back, with all that waits, to sync it.
    pub(super) fn add(
        &self,
        touched: Vec<Touched>,
        bytes: usize,
        flush_ms: i64,
        idle: bool,
    ) -> Option<Round> {
        let wanted = touched.iter().filter(|touched| touched.needs_sync).count();
        let mut waiting = lock(&self.waiting);
        let mut any = false;
        for touched in touched.into_iter().filter(|touched| touched.end > 0) {
            any = true;
            let entry = waiting
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
            return None;
        }
        waiting.wanted += wanted;
        waiting.bytes += bytes;
        let half = Duration::from_millis(u64::try_from(flush_ms).unwrap_or(0)) / 2;
        waiting.half = waiting.half.min(half);
        let now = self.clock.monotonic();
        let enough = wanted > 0 && waiting.is_enough();
        if enough && idle && waiting.is_little() {
            return waiting.take_little(now);
        }
        let sooner = waiting.due_within(now, half);
        drop(waiting);
        if sooner || enough {
            self.queued.notify_one();
        }
        None
    }

    /// The writer's sync is over; how long it had better wait for more, unless what comes is enough.
    pub(super) fn synced(&self, last: Last) -> Option<Duration> {
        let mut waiting = lock(&self.waiting);
        let patience = waiting.synced(last);
        (waiting.enough > 1).then_some(patience)
    }

    /// The writer waited for more and is idle: what is it to sync?
    pub(super) fn waited(&self) -> Option<Round> {
        let mut waiting = lock(&self.waiting);
        waiting.enough = 1;
        if waiting.wanted == 0 {
            return None;
        }
        if waiting.is_little() {
            return waiting.take_little(self.clock.monotonic());
        }
        drop(waiting);
        self.queued.notify_one();
        None
    }

    /// The writer cannot wait for more: the syncer takes what there is.
    pub(super) fn hand_over(&self) {
        lock(&self.waiting).enough = 1;
        self.queued.notify_one();
    }

    /// Has the syncer look again after `wait`.
    pub(super) fn look_within(&self, wait: Duration) {
        let now = self.clock.monotonic();
        lock(&self.waiting).due_within(now, wait);
    }

    pub(super) fn close(&self) {
        lock(&self.waiting).closing = true;
        self.queued.notify_all();
    }

    /// Whoever waits in `wait_while` looks again.
    pub(super) fn tell(&self) {
        // Who waits for this news looks for it with the queue in hand.
        drop(lock(&self.waiting));
        self.queued.notify_all();
    }

    /// Waits while something holds that `tell` may change, for `most` at the most.
    pub(super) fn wait_while(&self, most: Duration, holds: impl Fn() -> bool) {
        let waiting = lock(&self.waiting);
        let waited = self.queued.wait_timeout_while(waiting, most, |_| holds());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until the syncer has something to do. `last` is the sync that it comes from, if any.
    pub(super) fn next_round(&self, last: Option<Last>) -> Round {
        let mut waiting = lock(&self.waiting);
        waiting.syncing = false;
        let mut patience = last
            .map(|last| waiting.synced(last))
            .filter(|_| waiting.enough > 1);
        loop {
            let now = self.clock.monotonic();
            if let Some(round) = waiting.take(now) {
                waiting.syncing = true;
                return round;
            }
            let until_due = waiting.deadline.map(|due| due.saturating_sub(now));
            // Nobody wakes this thread for less than what is enough.
            let Some(wait) = until_due.into_iter().chain(patience).min() else {
                let waited = self.queued.wait(waiting);
                waiting = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let waited = self.queued.wait_timeout(waiting, wait);
            let (back, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            waiting = back;
            if waited.timed_out() && patience.take().is_some() {
                waiting.enough = 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
