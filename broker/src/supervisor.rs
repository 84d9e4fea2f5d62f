//! What becomes of coordinators' tasks that panic. Called where such tasks begin; it starts and restarts none.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;

/// A machine that panics ends the process: nothing it answers for could be changed any more.
pub(crate) async fn supervise(machine: JoinHandle<()>, metrics: Metrics, lost: CancellationToken) {
    if let Err(error) = machine.await
        && error.is_panic()
    {
        metrics.panicked();
        tracing::error!(%error, "a coordinator's task panicked");
        lost.cancel();
    }
}

/// Looks after the tasks of coordinators that start while the broker runs.
#[derive(Clone)]
pub(crate) struct Supervisor {
    pub(crate) tasks: TaskTracker,
    pub(crate) metrics: Metrics,
    /// Cancelled when one is gone.
    pub(crate) lost: CancellationToken,
}

impl Supervisor {
    pub(crate) fn watch(&self, machines: Vec<JoinHandle<()>>) {
        for machine in machines {
            self.tasks
                .spawn(supervise(machine, self.metrics.clone(), self.lost.clone()));
        }
    }
}
