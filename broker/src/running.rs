//! A broker that serves, and its two ends: a stop, which leaves everything in order, and the end of one whose store
//! failed, which leaves everything as it is. Made by `start.rs`, ended by `main.rs` and the tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ottla_storage::directory::DataDirectory;
use ottla_storage::durable::keeper::Keeper;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Broker;
use crate::health::Health;
use crate::metrics::BrokerState;
use crate::network_threads::NetworkThreads;
use crate::router::Listener;
use crate::scrape::Scrape;
use crate::scrub::Scrub;
use crate::start_error::StartError;

/// How long connections may take to finish what they began, once asked to stop.
const DRAIN: Duration = Duration::from_millis(1_000);

/// How long answers that tell of a failed store may take to leave, before the process ends.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// A broker that serves.
pub struct Running {
    /// The broker.
    pub broker: Arc<Broker>,
    /// Name and address of each listener, ports filled in.
    pub listeners: Vec<(Arc<Listener>, SocketAddr)>,
    /// Where `/metrics` is, if it is anywhere.
    pub metrics_address: Option<SocketAddr>,
    /// Cancelled when storage can no longer be trusted, or a coordinator is gone, and the process has to end.
    pub storage_lost: CancellationToken,
    /// Cancelled when the store, stopped by a full disk, can be started again: only a new start tells what is there.
    pub begin_anew: CancellationToken,
    pub(crate) health: Arc<Health>,
    pub(crate) directory: DataDirectory,
    pub(crate) keeper: Keeper,
    pub(crate) scrub: Scrub,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) machines: Vec<JoinHandle<()>>,
    pub(crate) stop_machines: CancellationToken,
    pub(crate) _network: Arc<NetworkThreads>,
    pub(crate) _scrape: Arc<Scrape>,
}

impl Running {
    /// Stops: no new connections, answers for what was begun, producer snapshots, a last sync, and the mark of a
    /// clean stop.
    ///
    /// # Errors
    /// When the log could not be closed; the next start then counts as unclean.
    pub async fn stop(self) -> Result<(), StartError> {
        self.health.stops();
        self.broker.metrics.broker_state(BrokerState::ShuttingDown);
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(left = self.tasks.len(), "connections did not end in time");
        }
        self.scrub.stop();
        self.stop_machines.cancel();
        for machine in self.machines {
            // How it ended was told by `supervise`.
            let _ = machine.await;
        }
        let closed = self.broker.log.close().await;
        // What was synced is safe whatever else went wrong.
        self.keeper.stop();
        closed.map_err(StartError::Close)?;
        Ok(self.directory.close()?)
    }

    /// Ends without a stop, because storage failed: no new connections, and a moment for the answers that say so. What
    /// was acknowledged is there at the next start. The store and its threads are left as they are, for the process
    /// ends now: whoever waited for them might wait for a disk that hangs, and a store that is closed writes.
    pub async fn abandon(self) {
        self.health.stops();
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(LAST_ANSWERS, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!(left = self.tasks.len(), "connections did not end in time");
        }
        std::mem::forget(self);
    }
}
