//! The log cleaner's task: finds the dirtiest compacted log whose round is due, cleans it step by step, and rests for
//! `log.cleaner.backoff.ms` when there is none, less while the disk has little room (Kafka's
//! `LogCleaner.CleanerThread`, of which there is one here).
//!
//! Started once by `start.rs`, ends when the broker stops: a round that is cut short is begun anew by the next one. It
//! decides nothing about records: the rules are `compaction.rs` of the storage crate. Invariants: one round at a time,
//! no async worker ever waits for the disk, and a log that cannot be read is left alone until the next start.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ottla_storage::compaction::{Cleanable, CompactionConfig, dirtiest};
use ottla_storage::error::{EngineError, StorageError};
use ottla_storage::keys::Handle;
use ottla_storage::log::{Cleaning, Partition, Round};
use ottla_storage::partition::Offsets;
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::Broker;
use crate::disk::early::Early;
use crate::topic_config::TopicConfig;

/// What is remembered from one look at the logs to the next.
#[derive(Debug, Default)]
struct Memory {
    /// Logs in which nothing was due, as they were then.
    quiet: HashMap<Handle, (Offsets, CompactionConfig)>,
    /// Logs that could not be cleaned (Kafka's uncleanable partitions).
    uncleanable: HashSet<Handle>,
}

/// A log whose round is due.
struct Due {
    topic: Arc<str>,
    partition: Arc<Partition>,
    cleanable: Cleanable,
    config: CompactionConfig,
}

/// Runs until `stop` is cancelled, or storage has failed.
pub async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let mut memory = Memory::default();
    let mut early = Early::new(&broker.disk);
    while !stop.is_cancelled() && broker.log.failure().is_none() {
        let looked = {
            let broker = broker.clone();
            spawn_blocking(move || {
                let due = look(&broker, &mut memory);
                (memory, due)
            })
        };
        let due = match looked.await {
            Ok((kept, due)) => {
                memory = kept;
                due
            }
            Err(error) => return panicked(&broker, &error),
        };
        let Some(due) = due else {
            rest(&broker, &mut early, &stop).await;
            continue;
        };
        let handle = due.partition.handle();
        let (topic, index) = (due.topic.clone(), due.partition.id().partition);
        match clean(&broker, due, &stop).await {
            Ok(Ok(round)) => {
                if let Some(round) = round {
                    tracing::debug!(
                        topic = &*topic,
                        partition = index,
                        first_dirty = round.end,
                        records_read = round.records_read,
                        records_kept = round.records_kept,
                        "a log was cleaned"
                    );
                }
            }
            Ok(Err(error)) if is_harmless(&error, broker.log.failure().is_some()) => {
                tracing::debug!(topic = &*topic, partition = index, %error, "cleaning ended early");
                rest(&broker, &mut early, &stop).await;
            }
            Ok(Err(error)) => {
                tracing::error!(
                    topic = &*topic,
                    partition = index,
                    %error,
                    "a log cannot be cleaned, it is left as it is until the next start"
                );
                memory.uncleanable.insert(handle);
            }
            Err(error) => return panicked(&broker, &error),
        }
    }
}

async fn rest(broker: &Broker, early: &mut Early, stop: &CancellationToken) {
    let backoff_ms = broker.dynamic.current().cleaner.backoff_ms;
    tokio::select! {
        () = stop.cancelled() => {}
        () = early.rest(Duration::from_millis(backoff_ms.max(1))) => {}
    }
}

fn panicked(broker: &Broker, error: &JoinError) {
    if error.is_panic() {
        broker.metrics.panicked();
        tracing::error!(%error, "the log cleaner panicked, logs are not compacted until the next start");
    }
}

/// Whether an end of a round says nothing about its log: it is gone or was cut, or the broker or its store stops.
fn is_harmless(error: &StorageError, store_failed: bool) -> bool {
    match error {
        StorageError::NoSuchPartition
        | StorageError::Overtaken
        | StorageError::ShuttingDown
        | StorageError::Engine(EngineError::Failed(_) | EngineError::Full(_)) => true,
        // A failed write ends the store; where that goes on, something of the log cannot be read.
        StorageError::Engine(EngineError::Io(_)) => store_failed,
        StorageError::Engine(EngineError::Corruption(_))
        | StorageError::InvalidBatch(_)
        | StorageError::OffsetOutOfRange { .. }
        | StorageError::FencedLeaderEpoch { .. }
        | StorageError::UnknownLeaderEpoch { .. }
        | StorageError::OutOfOrderSequence { .. }
        | StorageError::InvalidProducerEpoch { .. }
        | StorageError::TransactionCoordinatorFenced { .. }
        | StorageError::NotContinuous { .. } => false,
    }
}

/// The dirtiest log whose round is due. Blocks on the disk.
fn look(broker: &Broker, memory: &mut Memory) -> Option<Due> {
    let now_ms = broker.env.now_ms();
    let mut candidates = Vec::new();
    let mut here = HashSet::new();
    for topic in broker.partitions.all() {
        if !topic.config.cleanup_policy.compact {
            continue;
        }
        let config = compaction_config(&topic.config);
        for partition in &topic.partitions {
            let handle = partition.handle();
            here.insert(handle);
            let offsets = partition.offsets();
            let seen = memory.quiet.get(&handle);
            if memory.uncleanable.contains(&handle)
                || seen.is_some_and(|seen| *seen == (offsets, config))
            {
                continue;
            }
            match broker.log.cleanable(partition, &config, now_ms) {
                Ok(cleanable) if cleanable.is_due(&config, now_ms) => {
                    candidates.push(((topic.name.clone(), partition.clone()), cleanable, config));
                }
                Ok(_) => {
                    // Where time alone can make a round due, the log is looked at each time.
                    let timeless = config.min_compaction_lag_ms <= 0
                        && config.max_compaction_lag_ms == i64::MAX;
                    if timeless {
                        memory.quiet.insert(handle, (offsets, config));
                    }
                }
                Err(error) if is_harmless(&error, broker.log.failure().is_some()) => {}
                Err(error) => {
                    tracing::error!(
                        topic = &*topic.name,
                        partition = partition.id().partition,
                        %error,
                        "a log cannot be looked at, it is not compacted until the next start"
                    );
                    memory.uncleanable.insert(handle);
                }
            }
        }
    }
    memory.quiet.retain(|handle, _| here.contains(handle));
    memory.uncleanable.retain(|handle| here.contains(handle));
    let configs: HashMap<Handle, CompactionConfig> = candidates
        .iter()
        .map(|((_, partition), _, config)| (partition.handle(), *config))
        .collect();
    let ((topic, partition), cleanable) = dirtiest(candidates, now_ms)?;
    let config = configs[&partition.handle()];
    Some(Due {
        topic,
        partition,
        cleanable,
        config,
    })
}

/// Cleans one log; `None` when the broker stopped meanwhile.
async fn clean(
    broker: &Arc<Broker>,
    due: Due,
    stop: &CancellationToken,
) -> Result<Result<Option<Round>, StorageError>, JoinError> {
    let settings = broker.dynamic.current().cleaner;
    let begin = {
        let broker = broker.clone();
        move || {
            let now_ms = broker.env.now_ms();
            let log = &broker.log;
            let limits = settings.limits;
            log.clean(&due.partition, &due.cleanable, &due.config, limits, now_ms)
        }
    };
    let mut cleaning = match spawn_blocking(begin).await? {
        Ok(cleaning) => cleaning,
        Err(error) => return Ok(Err(error)),
    };
    let began = broker.env.monotonic();
    let mut bytes = 0;
    loop {
        if stop.is_cancelled() {
            return Ok(Ok(None));
        }
        let stepped = spawn_blocking(move || {
            let step = cleaning.step();
            (cleaning, step)
        });
        let (kept, step): (Cleaning, _) = stepped.await?;
        cleaning = kept;
        let step = match step {
            Ok(step) => step,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(round) = step.done {
            return Ok(Ok(Some(round)));
        }
        bytes += step.read_bytes + step.written_bytes;
        let rate = broker.dynamic.current().cleaner.io_max_bytes_per_second;
        let early = ahead(bytes, broker.env.monotonic().saturating_sub(began), rate);
        if !early.is_zero() {
            tokio::select! {
                () = stop.cancelled() => return Ok(Ok(None)),
                () = tokio::time::sleep(early) => {}
            }
        }
    }
}

/// The longest pause between two steps, however small the rate is.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How much sooner than at `bytes_per_second` so many bytes were done (Kafka's `Throttler`).
fn ahead(bytes: u64, taken: Duration, bytes_per_second: f64) -> Duration {
    let wanted = bytes as f64 / bytes_per_second;
    let early = wanted - taken.as_secs_f64();
    if early.is_nan() || early <= 0.0 {
        return Duration::ZERO;
    }
    Duration::from_secs_f64(early.min(LONGEST_PAUSE.as_secs_f64()))
}

fn compaction_config(config: &TopicConfig) -> CompactionConfig {
    CompactionConfig {
        min_cleanable_dirty_ratio: config.min_cleanable_dirty_ratio,
        min_compaction_lag_ms: config.min_compaction_lag_ms,
        max_compaction_lag_ms: config.max_compaction_lag_ms,
        delete_retention_ms: config.delete_retention_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_sector_is_the_logs_own_trouble_unless_the_store_failed() {
        let engine = |error: fn(String) -> EngineError| StorageError::Engine(error(String::new()));
        let sector = engine(EngineError::Io);
        assert!(!is_harmless(&sector, false));
        assert!(is_harmless(&sector, true));
        assert!(!is_harmless(&engine(EngineError::Corruption), true));
        assert!(is_harmless(&engine(EngineError::Full), false));
        assert!(is_harmless(&StorageError::Overtaken, false));
    }

    #[test]
    fn the_cleaner_pauses_for_as_long_as_it_is_ahead_of_its_rate() {
        let second = Duration::from_secs(1);
        assert_eq!(ahead(1_000, second, 500.0), second);
        assert_eq!(ahead(1_000, second, 1_000.0), Duration::ZERO);
        assert_eq!(ahead(1_000, second, f64::MAX), Duration::ZERO);
        assert_eq!(ahead(1_000, second, 1e-9), LONGEST_PAUSE);
        assert_eq!(ahead(0, second, 0.0), Duration::ZERO, "a rate of nothing");
        assert_eq!(ahead(1, second, 0.0), LONGEST_PAUSE);
        assert_eq!(ahead(1, second, -5.0), Duration::ZERO);
    }
}
