//! What the broker does beside its requests: retention moves log starts and erases what lies before them, reclaiming
//! gives the room back to the disk, and producers that were idle for long are forgotten. One row of [`start`] for each job.
//!
//! Called once by `start.rs`. It decides nothing: the rules are `retention.rs` and `reclaim.rs` of the storage crate.
//! Invariants: a job never runs twice at a time, ends when the broker stops, survives a panic of one run, and never keeps
//! an async worker waiting for the disk.

use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use ottla_storage::error::StorageError;
use ottla_storage::log::Expired;
use ottla_storage::retention::Policy;
use tokio::sync::Notify;
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Broker;
use crate::disk::Level;
use crate::disk::early::Early;
use crate::metrics::Metrics;
use crate::topic_config::TopicConfig;

/// Producers are looked through for expired ones this often (Kafka's `producer.id.expiration.check.interval.ms`).
const PRODUCER_EXPIRY_CHECK: Duration = Duration::from_secs(600);

/// Starts all jobs; they end when `stop` is cancelled.
pub fn start(broker: &Arc<Broker>, tasks: &TaskTracker, stop: &CancellationToken) {
    // A batch is looked at twice within the interval, so that it is gone within it.
    let interval_ms = broker.config.log_retention_check_interval_ms;
    let patience_ms = interval_ms / 2;
    let period = Duration::from_millis((interval_ms - patience_ms).max(1));
    let job = |name, period, early| Job {
        name,
        period,
        early,
        woken: None,
        metrics: broker.metrics.clone(),
        stop: stop.clone(),
    };
    let early = || Some(Early::new(&broker.disk));
    let deleted = Arc::new(Notify::new());
    let (held, stopping, told) = (broker.clone(), stop.clone(), deleted.clone());
    tasks.spawn(job("retention", period, early()).run(move || {
        let (broker, stop, told) = (held.clone(), stopping.clone(), told.clone());
        async move {
            outcome(
                "retention",
                &broker,
                &stop,
                retain(broker.clone(), patience_ms, told).await,
            )
        }
    }));
    let (held, stopping) = (broker.clone(), stop.clone());
    let reclaiming = Job {
        woken: Some(deleted),
        ..job("reclaim", period, early())
    };
    tasks.spawn(reclaiming.run(move || {
        let (broker, stop) = (held.clone(), stopping.clone());
        async move {
            outcome(
                "reclaim",
                &broker,
                &stop,
                reclaim(broker.clone(), stop.clone()).await,
            )
        }
    }));
    let held = broker.clone();
    tasks.spawn(
        job("producer expiry", PRODUCER_EXPIRY_CHECK, None).run(move || {
            let broker = held.clone();
            async move { expire_producers(&broker) }
        }),
    );
}

/// Work that is done again and again.
struct Job {
    name: &'static str,
    /// From the end of one run to the begin of the next.
    period: Duration,
    /// Of one that frees space.
    early: Option<Early>,
    /// Of one that another one's work wakes, so that the room of much that was deleted does not wait for the period.
    woken: Option<Arc<Notify>>,
    metrics: Metrics,
    stop: CancellationToken,
}

impl Job {
    /// Runs until it is stopped, or says so itself. A run that panics is counted, and followed by another one.
    async fn run<F, R>(mut self, mut work: F)
    where
        F: FnMut() -> R,
        R: Future<Output = ControlFlow<()>>,
    {
        loop {
            let rest = async {
                match &mut self.early {
                    Some(early) => early.rest(self.period).await,
                    None => tokio::time::sleep(self.period).await,
                }
            };
            let woken = async {
                match &self.woken {
                    Some(woken) => woken.notified().await,
                    None => std::future::pending().await,
                }
            };
            let turn = async {
                tokio::select! {
                    () = rest => {}
                    () = woken => {}
                }
                AssertUnwindSafe(async { work().await })
                    .catch_unwind()
                    .await
            };
            let done = tokio::select! {
                () = self.stop.cancelled() => return,
                done = turn => done,
            };
            match done {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return,
                Err(_) => panicked(self.name, &self.metrics),
            }
        }
    }
}

fn panicked(name: &'static str, metrics: &Metrics) {
    metrics.panicked();
    tracing::error!(job = name, "background work panicked, it is tried again");
}

/// Runs `work` of the job `name`; `None`, counted, when it panics.
pub fn survives<T>(name: &'static str, metrics: &Metrics, work: impl FnOnce() -> T) -> Option<T> {
    let done = std::panic::catch_unwind(AssertUnwindSafe(work));
    if done.is_err() {
        panicked(name, metrics);
    }
    done.ok()
}

/// What follows from a run: jobs end with the broker, or with its storage, because a failed store accepts nothing more.
fn outcome(
    name: &'static str,
    broker: &Broker,
    stop: &CancellationToken,
    done: Result<(), StorageError>,
) -> ControlFlow<()> {
    let Err(error) = done else {
        return ControlFlow::Continue(());
    };
    if stop.is_cancelled() || broker.log.failure().is_some() {
        return ControlFlow::Break(());
    }
    if let Some(suppressed) = broker.log_lines.admit(name, broker.env.now_ms()) {
        tracing::warn!(job = name, suppressed, %error, "background work failed, it is tried again");
    }
    ControlFlow::Continue(())
}

fn expire_producers(broker: &Broker) -> ControlFlow<()> {
    let expiration_ms = broker.dynamic.current().producer_id_expiration_ms;
    let oldest = broker.env.now_ms() - expiration_ms;
    let partitions = broker.log.partitions();
    let expired: usize = partitions
        .iter()
        .map(|partition| partition.expire_producers(oldest))
        .sum();
    tracing::debug!(expired, "looked for expired producers");
    ControlFlow::Continue(())
}

/// One look at all partitions: log starts move, then what was deleted a while ago is erased. `told` hears of it.
async fn retain(
    broker: Arc<Broker>,
    patience_ms: u64,
    told: Arc<Notify>,
) -> Result<(), StorageError> {
    let log = broker.log.clone();
    // With little room, what has expired goes at once, even where more of it would go together a little later.
    let patience_ms = match broker.disk.level() {
        Level::Enough => patience_ms,
        Level::Low | Level::Full => 0,
    };
    let looked = spawn_blocking(move || all_expired(&broker, patience_ms)).await;
    let (expired, failure) = finished(looked)?;
    let moved = log.advance_starts(expired).await;
    let deleted = *moved.as_ref().unwrap_or(&0);
    if deleted > 0 {
        tracing::debug!(bytes = deleted, "retention moved log starts");
    }
    // Nor does a failure of one keep what all others deleted from being erased.
    let look = log.clone();
    let (due, unread) = finished(spawn_blocking(move || look.erasable()).await)?;
    let erased = log.erase(due).await;
    if deleted > 0 {
        told.notify_one();
    }
    failure.or(unread).map_or(moved.map(drop).and(erased), Err)
}

/// Every log whose front has expired. A log that cannot be read does not keep the others from it; the last failure is
/// told beside.
fn all_expired(broker: &Broker, patience_ms: u64) -> (Vec<Expired>, Option<StorageError>) {
    let now_ms = broker.env.now_ms();
    let patience_ms = i64::try_from(patience_ms).unwrap_or(i64::MAX);
    let (mut all, mut failure) = (Vec::new(), None);
    for topic in broker.partitions.all() {
        let policy = policy(&topic.config);
        if policy == Policy::KEEP {
            continue;
        }
        for partition in &topic.partitions {
            match broker.log.expired(partition, &policy, now_ms, patience_ms) {
                Ok(expired) => all.extend(expired),
                Err(error) => failure = Some(error),
            }
        }
    }
    (all, failure)
}

/// Without `delete` in `cleanup.policy` nothing is deleted for its age or for the log's size, as in Kafka.
fn policy(config: &TopicConfig) -> Policy {
    if config.cleanup_policy.delete {
        Policy::delete(config.retention_ms, config.retention_bytes)
    } else {
        Policy::KEEP
    }
}

async fn reclaim(broker: Arc<Broker>, stop: CancellationToken) -> Result<(), StorageError> {
    let done = spawn_blocking(move || broker.log.reclaim_due(&|| stop.is_cancelled())).await;
    finished(done)?
}

/// What a blocking part came to. It ends early only with the runtime; a panic goes on here, where it is seen.
fn finished<T>(joined: Result<T, JoinError>) -> Result<T, StorageError> {
    joined.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => StorageError::ShuttingDown,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Config, DynamicConfig};
    use crate::metrics::Detail;

    fn at_start() -> DynamicConfig {
        let loaded = Config::load(None, std::iter::empty(), &[]);
        DynamicConfig::at_start(&loaded.expect("loads").config)
    }

    fn policy_of(sets: &[(&str, &str)]) -> Policy {
        let own: BTreeMap<String, String> = sets
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        policy(&TopicConfig::resolve(&own, &at_start()))
    }

    #[tokio::test]
    async fn a_job_that_panics_is_counted_and_runs_again() {
        let metrics = Metrics::new(Detail::Partition);
        let job = Job {
            name: "test",
            period: Duration::from_millis(1),
            early: None,
            woken: None,
            metrics: metrics.clone(),
            stop: CancellationToken::new(),
        };
        let mut runs = 0;
        let run = job.run(|| {
            runs += 1;
            let run = runs;
            async move {
                match run {
                    1 => panic!("the first run"),
                    2 => {
                        let work = || -> Result<(), StorageError> { panic!("off the workers") };
                        let done = finished(spawn_blocking(work).await);
                        panic!("the panic went on here: {done:?}")
                    }
                    3 => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            }
        });
        let ended = tokio::time::timeout(Duration::from_secs(60), run).await;
        ended.expect("it ends when it says so");
        assert_eq!(runs, 4);
        assert_eq!(survives("test", &metrics, || 5), Some(5));
        assert_eq!(
            survives("test", &metrics, || -> u8 { panic!("again") }),
            None
        );
        let page = metrics.render();
        assert!(page.contains("ottla_panics_total 3"), "{page}");
    }

    #[test]
    fn only_the_delete_policy_deletes() {
        assert_eq!(policy_of(&[]), Policy::delete(604_800_000, -1));
        let limits = [("retention.ms", "5"), ("retention.bytes", "7")];
        let with = |cleanup| policy_of(&[limits[0], limits[1], ("cleanup.policy", cleanup)]);
        assert_eq!(with("delete"), Policy::delete(5, 7));
        assert_eq!(with("compact,delete"), Policy::delete(5, 7));
        assert_eq!(with("compact"), Policy::KEEP);
        assert_eq!(with(""), Policy::KEEP);
    }

    #[test]
    fn offsets_are_not_deleted_by_age() {
        let own = crate::groups::topic_configs();
        let offsets = TopicConfig::resolve(&own, &at_start());
        assert_eq!(policy(&offsets), Policy::KEEP);
    }
}
