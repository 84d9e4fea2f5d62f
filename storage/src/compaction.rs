//! What compaction does to a log, pure: how far it may go and when it is due (this file), the newest offset of every
//! key (`offset_map.rs`), which transactions count (`transactions.rs`), and what becomes of a batch (`pass.rs`).
//! Called by `cleaner.rs`; nothing here reads or writes a store or asks for the time.
//!
//! The rules are those of Kafka's `LogCleanerManager` and `Cleaner`. There are no segments here, so that nothing is
//! spared because it lies in the active one:
//!
//! ```text
//! log start <= first dirty offset <= end of a round <= first uncleanable offset <= last stable offset
//!
//! clean    below the first dirty offset: one record per key, as the last round left it
//! dirty    from there to the first uncleanable offset: what the next round maps
//! a round  maps keys from the first dirty offset on until the map is full or the dirty part ends, then filters
//!          everything from the log start up to where the mapping ended, which is the next first dirty offset
//! ```

mod offset_map;
mod pass;
#[cfg(test)]
mod tests;
mod transactions;

pub(crate) use offset_map::{OffsetMap, map_batch};
pub(crate) use pass::{Fate, LastRecord, Pass, Reach};
pub(crate) use transactions::Transactions;

/// The configs of a topic that decide over its compaction; times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompactionConfig {
    /// `min.cleanable.dirty.ratio`
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`
    pub max_compaction_lag_ms: i64,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
}

/// What a log's cleaner has reached; kept in the log (`keys::cleaned`). Both offsets only grow, but for truncations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cleaned {
    /// Below it, every key has one record.
    pub first_dirty: i64,
    /// Offset after the last tombstone that was removed because its time had come. Whoever has read the log up to a
    /// lesser offset only cannot know that its key is gone.
    pub deletes_to: i64,
}

impl Cleaned {
    /// What still holds of a log that was cut at `end`.
    pub fn cut_at(self, end: i64) -> Self {
        Self {
            first_dirty: self.first_dirty.min(end),
            deletes_to: self.deletes_to.min(end),
        }
    }
}

/// What could be cleaned in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleanable {
    /// Where the next round begins to map.
    pub first_dirty: i64,
    /// Where it has to end.
    pub first_uncleanable: i64,
    /// Bytes of the batches below the first dirty offset.
    pub clean_bytes: u64,
    /// Bytes of the batches between the two offsets.
    pub dirty_bytes: u64,
    /// The time of the first dirty batch; none if it has no timestamp, or there is no dirty batch.
    pub dirty_since_ms: Option<i64>,
}

impl Cleanable {
    /// The share of cleanable bytes that is dirty: 0 to 1.
    pub fn ratio(&self) -> f64 {
        let total = self.clean_bytes.saturating_add(self.dirty_bytes);
        if total == 0 {
            return 0.0;
        }
        self.dirty_bytes as f64 / total as f64
    }

    /// Whether a round is due: too much is dirty, or something has been for too long. (Kafka's
    /// `LogCleanerManager.grabFilthiestCompactedLog`.)
    pub fn is_due(&self, config: &CompactionConfig, now_ms: i64) -> bool {
        let late = self.dirty_since_ms.is_some_and(|since_ms| {
            since_ms < now_ms.saturating_sub(config.max_compaction_lag_ms.max(0))
        });
        self.dirty_bytes > 0 && (late || self.ratio() > config.min_cleanable_dirty_ratio)
    }
}

/// The dirtiest of the logs whose round is due.
pub fn dirtiest<T>(
    candidates: impl IntoIterator<Item = (T, Cleanable, CompactionConfig)>,
    now_ms: i64,
) -> Option<(T, Cleanable)> {
    candidates
        .into_iter()
        .filter(|(_, cleanable, config)| cleanable.is_due(config, now_ms))
        .max_by(|(_, left, _), (_, right, _)| left.ratio().total_cmp(&right.ratio()))
        .map(|(log, cleanable, _)| (log, cleanable))
}

/// Where the next round begins: where the last one ended, unless the log no longer reaches that far, or begins later.
/// (Kafka's `LogCleanerManager.cleanableOffsets`: a checkpoint beyond the end counts as none.)
pub(crate) fn first_dirty(reached: i64, log_start: i64, log_end: i64) -> i64 {
    if reached < log_start || reached > log_end {
        log_start
    } else {
        reached
    }
}

/// From which timestamp on a record is too young to be cleaned; none if age does not matter.
pub(crate) fn too_young_from(config: &CompactionConfig, now_ms: i64) -> Option<i64> {
    let lag_ms = config.min_compaction_lag_ms;
    (lag_ms > 0).then(|| now_ms.saturating_sub(lag_ms).saturating_add(1))
}
