//! What the broker does beside its requests: retention moves log starts and erases what lies before them, and reclaiming
//! gives the room back to the disk. One row of [`start`] for each job.
//!
//! Called once by `lib.rs`. It decides nothing: the rules are `retention.rs` and `reclaim.rs` of the storage crate.
//! Invariants: a job never runs twice at a time, ends when the broker stops, and never keeps an async worker waiting for
//! the disk.

use std::sync::Arc;
use std::time::Duration;

use ottla_storage::error::StorageError;
use ottla_storage::log::Expired;
use ottla_storage::retention::Policy;
use tokio::sync::Notify;
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Broker;
use crate::topic_config::TopicConfig;

/// Starts all jobs; they end when `stop` is cancelled.
pub fn start(broker: &Arc<Broker>, tasks: &TaskTracker, stop: &CancellationToken) {
    // A batch is looked at twice within the interval, so that it is gone within it.
    let interval_ms = broker.config.log_retention_check_interval_ms;
    let patience_ms = interval_ms / 2;
    let period = Duration::from_millis((interval_ms - patience_ms).max(1));
    let deleted = Arc::new(Notify::new());
    let job = {
        let (broker, deleted) = (broker.clone(), deleted.clone());
        move || retain(broker.clone(), patience_ms, deleted.clone())
    };
    let pause = move || tokio::time::sleep(period);
    tasks.spawn(every("retention", pause, broker.clone(), stop.clone(), job));
    let job = {
        let (broker, stop) = (broker.clone(), stop.clone());
        move || reclaim(broker.clone(), stop.clone())
    };
    // Until something was deleted, so that the room of a lot of it does not wait for another period.
    let pause = move || {
        let deleted = deleted.clone();
        async move {
            tokio::time::timeout(period, deleted.notified())
                .await
                .unwrap_or(())
        }
    };
    tasks.spawn(every("reclaim", pause, broker.clone(), stop.clone(), job));
}

/// Runs a job again and again, with a pause between the end of one run and the begin of the next. Ends with the broker,
/// or with its storage: a failed store accepts nothing more.
async fn every<P, W, F, R>(
    name: &'static str,
    pause: P,
    broker: Arc<Broker>,
    stop: CancellationToken,
    mut job: F,
) where
    P: Fn() -> W,
    W: Future<Output = ()>,
    F: FnMut() -> R,
    R: Future<Output = Result<(), StorageError>>,
{
    loop {
        let done = tokio::select! {
            () = stop.cancelled() => return,
            done = async {
                pause().await;
                job().await
            } => done,
        };
        match done {
            Ok(()) => {}
            Err(_) if stop.is_cancelled() || broker.log.failure().is_some() => return,
            Err(error) => {
                if let Some(suppressed) = broker.log_lines.admit(name, broker.env.now_ms()) {
                    tracing::warn!(job = name, suppressed, %error, "background work failed, it is tried again");
                }
            }
        }
    }
}

/// One look at all partitions: log starts move, then what was deleted a while ago is erased. `told` hears of it.
async fn retain(
    broker: Arc<Broker>,
    patience_ms: u64,
    told: Arc<Notify>,
) -> Result<(), StorageError> {
    let log = broker.log.clone();
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
