//! Whether the broker can serve: for `/readyz`, and for those who end the process when the store failed. Made by
//! `start.rs`; nothing is decided here but what a failure of the store leads to.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ottla_storage::error::EngineError;
use ottla_storage::log::Observer;
use tokio_util::sync::CancellationToken;

use crate::disk::Disk;
use crate::http;
use crate::metrics::Metrics;

/// Where the broker stands, for `/readyz`.
#[derive(Debug, Default)]
pub(crate) struct Health {
    state: AtomicU8,
    failure: OnceLock<String>,
    disk: Arc<Disk>,
}

impl Health {
    const RUNNING: u8 = 1;
    const STOPPING: u8 = 2;

    /// Of a broker that starts.
    pub(crate) fn new(disk: Arc<Disk>) -> Self {
        Self {
            disk,
            ..Self::default()
        }
    }

    /// It serves from now on.
    pub(crate) fn serves(&self) {
        self.state.store(Self::RUNNING, Ordering::Release);
    }

    /// It stops.
    pub(crate) fn stops(&self) {
        self.state.store(Self::STOPPING, Ordering::Release);
    }
}

impl http::HealthSource for Health {
    fn ready(&self) -> Result<(), String> {
        if let Some(failure) = self.failure.get() {
            return Err(format!("storage failed: {failure}"));
        }
        match self.state.load(Ordering::Acquire) {
            Self::RUNNING => match self.disk.refusal() {
                Some(refusal) => Err(refusal.to_owned()),
                None => Ok(()),
            },
            Self::STOPPING => Err("stopping".to_owned()),
            _ => Err("starting".to_owned()),
        }
    }
}

/// Hears of commits and syncs, and of the end of storage.
#[derive(Clone)]
pub(crate) struct Watcher {
    pub(crate) metrics: Metrics,
    pub(crate) health: Arc<Health>,
    pub(crate) disk: Arc<Disk>,
    /// Cancelled when only a new start can tell what is safe.
    pub(crate) storage_lost: CancellationToken,
}

impl Observer for Watcher {
    fn group_written(&self, requests: usize, batches: usize, bytes: usize) {
        self.metrics.group_commit(requests, batches, bytes);
        self.disk.written(bytes);
    }

    fn synced(&self, took: Duration) {
        self.metrics.fsync(took);
    }

    fn failed(&self, error: &EngineError) {
        self.metrics.log_directory_offline(true);
        // Only the first failure counts, and the log reports no other.
        let _ = self.health.failure.set(error.to_string());
        match error {
            // Reads go on; once there is room the disk's watcher lets the process begin anew.
            EngineError::Full(_) => {}
            // What reached the disk is not known, and a sync must not be tried again: only a new start tells.
            EngineError::Io(_) | EngineError::Corruption(_) | EngineError::Failed(_) => {
                self.storage_lost.cancel();
            }
        }
    }
}
