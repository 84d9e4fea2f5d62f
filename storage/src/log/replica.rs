//! One partition's log on this broker: its state behind a lock, with its configuration and those who wait for
//! it. Called by handlers, the writer and the syncer; it never does I/O, and the lock is never held over any.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::error::StorageError;
use crate::keys::{Handle, PartitionId};
use crate::partition::{LogConfig, Offsets, PartitionState};
use crate::tail::Tail;
use crate::waiters::{self, Waiters, lock};

/// One partition's log on this broker.
#[derive(Debug)]
pub struct Partition {
    id: PartitionId,
    handle: Handle,
    inner: Mutex<Inner>,
}

/// What the partition's lock protects.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) state: PartitionState,
    pub(crate) config: LogConfig,
    pub(crate) waiters: Waiters,
    pub(crate) tail: Tail,
    pub(crate) gone: bool,
    pub(crate) unerased: Unerased,
    /// The log start that retention last looked at, with the greatest timestamp of the batch there.
    pub(crate) front: Option<(i64, i64)>,
}

impl Inner {
    /// Which log this is and how often the cleaner changed it: what was read of it holds as long as this does.
    pub(crate) fn version(&self) -> (u64, u64) {
        (self.state.generation, self.state.edition)
    }
}

/// What lies before the log start and is still in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Unerased {
    /// Bytes of its batches, as far as they were deleted by this process.
    pub(crate) bytes: u64,
    /// Since when there is any; `None`: there is none. In time of the monotonic clock.
    pub(crate) since: Option<Duration>,
}

impl Partition {
    pub(crate) fn new(id: PartitionId, state: PartitionState) -> Self {
        // An erasure that the last stop interrupted is made up for.
        let unerased = Unerased {
            bytes: 0,
            since: (state.log_start > 0).then_some(Duration::ZERO),
        };
        Self {
            id,
            handle: state.handle,
            inner: Mutex::new(Inner {
                unerased,
                front: None,
                state,
                config: LogConfig::default(),
                waiters: Waiters::default(),
                tail: Tail::default(),
                gone: false,
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Its topic's id and its index.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Its number in the data directory.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// All offsets, as one consistent reading.
    pub fn offsets(&self) -> Offsets {
        self.lock().state.offsets()
    }

    /// Whether it was deleted.
    pub fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Bytes of all batches it holds, the one that the log start lies in included.
    pub fn size_bytes(&self) -> u64 {
        self.lock().state.size_bytes
    }

    /// How many producers are remembered.
    pub fn producer_count(&self) -> usize {
        self.lock().state.producers().len()
    }

    /// Takes over a new configuration; holds for appends from now on.
    pub fn set_config(&self, config: LogConfig) {
        self.lock().config = config;
    }

    /// Becomes leader in `leader_epoch` with these in-sync replicas; parked fetches look again.
    pub fn become_leader(&self, leader_epoch: i32, isr: Vec<i32>) {
        let mut inner = self.lock();
        inner.state.become_leader(leader_epoch, isr);
        inner.waiters.wake_fetches();
        // Fewer replicas in sync may be all that an append waited for.
        let offsets = inner.state.offsets();
        let done = inner.waiters.advance(&offsets);
        drop(inner);
        waiters::complete(done);
    }

    /// Checks a request's leader epoch; -1 means that the client does not know one.
    ///
    /// # Errors
    /// Fenced or unknown epoch.
    pub fn check_epoch(&self, given: i32) -> Result<(), StorageError> {
        if given < 0 {
            return Ok(());
        }
        self.lock().state.check_epoch(given)
    }

    /// The greatest epoch at most `epoch` and its end offset; `(-1, -1)` when unknown.
    pub fn epoch_end(&self, epoch: i32) -> (i32, i64) {
        self.lock().state.epoch_end(epoch)
    }

    /// The epoch that `offset` was written in; -1 when unknown.
    pub fn epoch_of(&self, offset: i64) -> i32 {
        self.lock().state.epoch_of(offset)
    }

    /// Forgets producers that wrote nothing since `oldest`; returns how many.
    pub fn expire_producers(&self, oldest: i64) -> usize {
        self.lock().state.expire_producers(oldest)
    }

    #[cfg(test)]
    pub(crate) fn state(&self) -> PartitionState {
        self.lock().state.clone()
    }

    #[cfg(test)]
    pub(crate) fn parked_fetches(&self) -> usize {
        self.lock().waiters.parked_fetches()
    }
}
