//! Those who wait for a partition to move: produces for their offset to be committed, fetches for anything
//! new. Woken by `writer.rs` after a write or a sync; never polls, never blocks.
//!
//! Invariants: a produce waits for the end offset of its batch, never for the return of a write; every
//! waiter is answered exactly once, with an error when the store failed or the partition went away;
//! a fetch that is dropped leaves nothing behind.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot};

use crate::error::StorageError;
use crate::log::{Partition, ReadLimit};
use crate::partition::{Appended, Offsets};

/// What an append waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// `acks=0`: nothing; the answer is not looked at.
    None,
    /// `acks=1`: the leader's committed end has passed the batch.
    Leader,
    /// `acks=all`: the high watermark has passed the batch.
    All,
}

type Results = Vec<Result<Appended, StorageError>>;

/// The answers of one append call over several partitions, sent when the last one is there.
#[derive(Debug)]
pub(crate) struct PendingAppend {
    inner: Mutex<PendingInner>,
}

#[derive(Debug)]
struct PendingInner {
    results: Vec<Option<Result<Appended, StorageError>>>,
    missing: usize,
    done: Option<oneshot::Sender<Results>>,
}

impl PendingAppend {
    pub(crate) fn new(count: usize) -> (Arc<Self>, oneshot::Receiver<Results>) {
        let (done, receiver) = oneshot::channel();
        let pending = Self {
            inner: Mutex::new(PendingInner {
                results: vec![None; count],
                missing: count,
                done: Some(done),
            }),
        };
        (Arc::new(pending), receiver)
    }

    pub(crate) fn complete(&self, index: usize, result: Result<Appended, StorageError>) {
        let mut inner = lock(&self.inner);
        debug_assert!(inner.results[index].is_none(), "answered twice");
        inner.results[index] = Some(result);
        inner.missing -= 1;
        if inner.missing == 0
            && let Some(done) = inner.done.take()
        {
            let results = inner.results.drain(..).flatten().collect();
            // The connection may be gone; then nobody listens.
            let _ = done.send(results);
        }
    }
}

/// Locks are held for short, panic-free stretches.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One append of one partition that waits.
#[derive(Debug)]
pub(crate) struct AppendWaiter {
    pub(crate) acks: Acks,
    pub(crate) appended: Appended,
    pub(crate) pending: Arc<PendingAppend>,
    pub(crate) index: usize,
}

/// Answers appends that were taken out. Called without any partition's lock.
pub(crate) fn complete(done: Vec<AppendWaiter>) {
    for waiter in done {
        waiter.pending.complete(waiter.index, Ok(waiter.appended));
    }
}

/// All that wait for one partition; lives under the partition's lock.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    appends: VecDeque<AppendWaiter>,
    fetches: Vec<FetchWaiter>,
}

#[derive(Debug)]
struct FetchWaiter {
    signal: Arc<Notify>,
    limit: ReadLimit,
    beyond: i64,
}

impl Waiters {
    pub(crate) fn park_append(&mut self, waiter: AppendWaiter) {
        self.appends.push_back(waiter);
    }

    /// Takes out the appends that `offsets` satisfy and wakes the fetches that have something to read.
    /// The caller completes the appends after it released the partition's lock.
    #[must_use]
    pub(crate) fn advance(&mut self, offsets: &Offsets) -> Vec<AppendWaiter> {
        self.fetches.retain(|waiter| {
            let moved = waiter.limit.end(offsets) > waiter.beyond;
            if moved {
                waiter.signal.notify_one();
            }
            !moved
        });
        let satisfied = |waiter: &AppendWaiter| match waiter.acks {
            Acks::None => true,
            Acks::Leader => waiter.appended.end_offset <= offsets.committed_end,
            Acks::All => waiter.appended.end_offset <= offsets.high_watermark,
        };
        let mut done = Vec::new();
        // Mostly in order; a duplicate may wait for less than the one before it.
        if self.appends.iter().any(satisfied) {
            let (ready, waiting): (Vec<_>, Vec<_>) =
                self.appends.drain(..).partition(|waiter| satisfied(waiter));
            done = ready;
            self.appends = waiting.into();
        }
        done
    }

    /// Takes out everybody, because the partition or the store is no more.
    #[must_use]
    pub(crate) fn give_up(&mut self) -> Vec<AppendWaiter> {
        self.wake_fetches();
        self.appends.drain(..).collect()
    }

    /// Wakes every fetch, for instance because the log was truncated or its leader epoch changed.
    pub(crate) fn wake_fetches(&mut self) {
        for waiter in self.fetches.drain(..) {
            waiter.signal.notify_one();
        }
    }

    fn park_fetch(&mut self, waiter: FetchWaiter) {
        self.fetches.push(waiter);
    }

    fn leave(&mut self, signal: &Arc<Notify>) {
        self.fetches
            .retain(|waiter| !Arc::ptr_eq(&waiter.signal, signal));
    }

    #[cfg(test)]
    pub(crate) fn parked_fetches(&self) -> usize {
        self.fetches.len()
    }
}

/// A fetch's watch over its partitions; dropping it takes it off all of them.
#[derive(Debug, Default)]
pub struct Watch {
    signal: Arc<Notify>,
    partitions: Vec<Arc<Partition>>,
}

impl Watch {
    /// A watch over nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches `partition`: fires once `limit` lies beyond offset `beyond`, at once if it does already, and
    /// when the partition goes away.
    pub fn add(&mut self, partition: &Arc<Partition>, limit: ReadLimit, beyond: i64) {
        let mut inner = partition.lock();
        if inner.gone || limit.end(&inner.state.offsets()) > beyond {
            self.signal.notify_one();
            return;
        }
        inner.waiters.park_fetch(FetchWaiter {
            signal: self.signal.clone(),
            limit,
            beyond,
        });
        drop(inner);
        self.partitions.push(partition.clone());
    }

    /// Returns when any of the partitions fired.
    pub async fn fired(&self) {
        self.signal.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for partition in &self.partitions {
            partition.lock().waiters.leave(&self.signal);
        }
    }
}
