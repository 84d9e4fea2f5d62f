//! A gate in front of a store in memory: it stops a sync of the writer or of the syncer before it begins or before it
//! returns, fails one, or fails one read, or has something happen between a read and what the log makes of it. Used by
//! `two_threads.rs`.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::between::{Between, Through};
use crate::engine::{Engine, Family, Start};
use crate::error::EngineError;
use crate::keys::{self, PartitionId};
use crate::log::{Log, NoObserver};
use crate::log_tests::{Bench, TestClock, block};
use crate::memory::MemoryEngine;

/// A thread of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Writer,
    Syncer,
}

/// Where a thread stands with its sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// It has not begun.
    Begin,
    /// It is done, but does not return.
    End,
}

#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    hold: Option<At>,
    stands: Option<At>,
    fail: bool,
    /// Syncs that began.
    begun: u64,
}

pub(super) struct Gate {
    clock: Arc<TestClock>,
    /// How far a sync moves the clock.
    sync_ms: AtomicI64,
    turns: Mutex<[Turn; 2]>,
    moved: Condvar,
    fail_get: AtomicBool,
    after_batches: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    visited_by_writer: AtomicU64,
}

pub(super) type Gated = Through<Gate>;

impl Gated {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            engine: Arc::new(MemoryEngine::new()),
            between: Gate {
                clock: Arc::new(TestClock(AtomicI64::new(1_000))),
                sync_ms: AtomicI64::new(0),
                turns: Mutex::default(),
                moved: Condvar::new(),
                fail_get: AtomicBool::new(false),
                after_batches: Mutex::default(),
                visited_by_writer: AtomicU64::new(0),
            },
        })
    }

    /// A log on this store with the partition `id`.
    pub(super) fn bench(self: &Arc<Self>, id: PartitionId) -> Bench {
        let clock = self.between.clock.clone();
        let log = Log::open(self.clone(), 1, clock, Arc::new(NoObserver)).expect("opens");
        let partition = block(log.create(vec![id])).expect("creates").remove(0);
        Bench {
            engine: Arc::new(MemoryEngine::new()),
            log,
            partition,
        }
    }

    /// Syncs of the log's threads take so long from now on; nobody knows how long, if nothing.
    pub(super) fn syncs_take(&self, ms: i64) {
        self.between.sync_ms.store(ms, Ordering::SeqCst);
    }

    /// The next read of one key finds damage.
    pub(super) fn fail_get(&self) {
        self.between.fail_get.store(true, Ordering::SeqCst);
    }

    /// Does something once the next scan of batches is over, before the log knows what was found.
    pub(super) fn after_batches(&self, what: impl FnOnce() + Send + 'static) {
        let mut after = self.between.after_batches.lock().expect("not poisoned");
        *after = Some(Box::new(what));
    }

    /// How many keys the writer's scans have visited.
    pub(super) fn visited_by_writer(&self) -> u64 {
        self.between.visited_by_writer.load(Ordering::SeqCst)
    }

    /// The thread's syncs stop at `at` from now on; `None` lets them pass.
    pub(super) fn hold(&self, who: Who, at: impl Into<Option<At>>) {
        self.between.turn(who, |turn| turn.hold = at.into());
    }

    /// The thread's next sync fails, at its end.
    pub(super) fn fail_sync(&self, who: Who) {
        self.between.turn(who, |turn| turn.fail = true);
    }

    /// How many syncs the thread has begun.
    pub(super) fn begun(&self, who: Who) -> u64 {
        let mut begun = 0;
        self.between.turn(who, |turn| begun = turn.begun);
        begun
    }

    /// Waits until the thread stands at `at`.
    pub(super) fn wait_until(&self, who: Who, at: At) {
        let turns = self.between.turns.lock().expect("not poisoned");
        let (held, waited) = self
            .between
            .moved
            .wait_timeout_while(turns, Duration::from_secs(60), |turns| {
                turns[who as usize].stands != Some(at)
            })
            .expect("not poisoned");
        drop(held);
        assert!(!waited.timed_out(), "{who:?} never came to {at:?}");
    }
}

impl Gate {
    fn turn(&self, who: Who, change: impl FnOnce(&mut Turn)) {
        change(&mut self.turns.lock().expect("not poisoned")[who as usize]);
        self.moved.notify_all();
    }

    /// The thread passes here; it stays as long as it shall.
    fn pass(&self, who: Who, at: At) {
        let mut turns = self.turns.lock().expect("not poisoned");
        if turns[who as usize].hold == Some(at) {
            turns[who as usize].stands = Some(at);
            self.moved.notify_all();
        }
        let held = self
            .moved
            .wait_while(turns, |turns| turns[who as usize].hold == Some(at));
        held.expect("not poisoned")[who as usize].stands = None;
    }
}

impl Between for Gate {
    fn sync(&self, engine: &dyn Engine) -> Result<(), EngineError> {
        let who = match std::thread::current().name() {
            Some("ottla-writer") => Who::Writer,
            Some("ottla-syncer") => Who::Syncer,
            _ => return engine.sync(),
        };
        self.turn(who, |turn| turn.begun += 1);
        self.pass(who, At::Begin);
        let synced = engine.sync();
        let took = self.sync_ms.load(Ordering::SeqCst);
        self.clock.0.fetch_add(took, Ordering::SeqCst);
        self.pass(who, At::End);
        let mut fail = false;
        self.turn(who, |turn| fail = std::mem::take(&mut turn.fail));
        if fail {
            return Err(EngineError::Io(format!("the sync of {who:?} failed")));
        }
        synced
    }

    fn get(
        &self,
        engine: &dyn Engine,
        family: Family,
        key: &[u8],
    ) -> Result<Option<Bytes>, EngineError> {
        if self.fail_get.swap(false, Ordering::SeqCst) {
            return Err(EngineError::Corruption("test".to_owned()));
        }
        engine.get(family, key)
    }

    fn scanned(&self, start: Start<'_>, visited: u64) {
        if std::thread::current().name() == Some("ottla-writer") {
            self.visited_by_writer.fetch_add(visited, Ordering::SeqCst);
        }
        let (Start::At(key) | Start::Floor { key, .. }) = start;
        if keys::parse_batch(key).is_none() {
            return;
        }
        let what = self.after_batches.lock().expect("not poisoned").take();
        if let Some(what) = what {
            what();
        }
    }
}
