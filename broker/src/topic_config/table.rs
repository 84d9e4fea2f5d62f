//! The table of topic configs: one row for each of Kafka 4.3.1's.
//!
//! Read by `topic_config.rs` for values, checks and descriptions, and by the broker's table for the
//! state of a broker-wide default. It parses nothing. Invariants, each tested: the rows are Kafka's, in
//! order of name; a row whose default or bounds differ from Kafka's says why.

use crate::config::State::{self, Effective, NoMeaning};
use crate::config::value::{Bounds, ConfigType};
use Bounds::{Any, AtLeast, Between, BetweenOr, ListOf, OneOf, Share, ThrottledReplicas};
use ConfigType::{Boolean, Double, Int, List, Long, String as Text};
use Unit::{Hours, Minutes, Same};

/// The unit of a broker property that stands for a topic config in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// The same as the topic config's.
    Same,
    /// Minutes, for a config in ms.
    Minutes,
    /// Hours, for a config in ms.
    Hours,
}

/// One topic config.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub config_type: ConfigType,
    /// Its value where neither topic nor broker sets one.
    pub default: &'static str,
    /// What it may be, beyond its type.
    pub bounds: Bounds,
    /// The broker properties that give its default; the first that has a value counts.
    pub synonyms: &'static [(&'static str, Unit)],
    /// One sentence on what it does.
    pub documentation: &'static str,
    /// Whether it changes anything.
    pub state: State,
    /// Why its default or bounds differ from Kafka's, where they do.
    pub difference: Option<&'static str>,
}

impl Row {
    const fn new(
        name: &'static str,
        config_type: ConfigType,
        default: &'static str,
        bounds: Bounds,
        synonyms: &'static [(&'static str, Unit)],
        state: State,
        documentation: &'static str,
    ) -> Self {
        Self {
            name,
            config_type,
            default,
            bounds,
            synonyms,
            documentation,
            state,
            difference: None,
        }
    }

    const fn differs(self, reason: &'static str) -> Self {
        Self {
            difference: Some(reason),
            ..self
        }
    }
}

/// The row of a topic config.
pub fn row(name: &str) -> Option<&'static Row> {
    TOPIC_CONFIGS.iter().find(|row| row.name == name)
}

/// The values of `cleanup.policy`.
pub(crate) const CLEANUP_POLICIES: &[&str] = &["compact", "delete"];
/// The values of `compression.type`.
pub(crate) const COMPRESSION_TYPES: &[&str] =
    &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];
/// The values of `message.timestamp.type`.
pub(crate) const TIMESTAMP_TYPES: &[&str] = &["CreateTime", "LogAppendTime"];
/// Why `flush.messages` has another default than Kafka's.
pub(crate) const DURABLE_BY_DEFAULT: &str = "durable by default: a batch is acknowledged once it is synced; Kafka leaves it to the page cache";
const NO_SEGMENTS: &str = "a partition is not cut into segment files";
const BY_BATCH: &str = "a partition is not cut into segment files; records are deleted batch by batch, and none is kept until a segment is full or old enough";
const ONE_REPLICA: &str = "a partition has one replica, on this broker";
const NO_TIERS: &str = "there is no tiered storage";
/// The switch of tiered storage.
pub(crate) const REMOTE_STORAGE: &str = "remote.storage.enable";
const MAX: &str = "9223372036854775807";

/// All topic configs of Kafka 4.3.1, in order of name.
#[rustfmt::skip]
pub const TOPIC_CONFIGS: &[Row] = &[
    Row::new("cleanup.policy", List, "delete", ListOf(CLEANUP_POLICIES), &[("log.cleanup.policy", Same)],
        Effective,
        "What happens with old records: delete by age and size, compact to the newest of each key, or both."),
    Row::new("compression.gzip.level", Int, "-1", BetweenOr(1, 9, -1), &[("compression.gzip.level", Same)],
        Effective, "Level for compression.type=gzip."),
    Row::new("compression.lz4.level", Int, "9", Between(1, 17), &[("compression.lz4.level", Same)],
        Effective, "Level for compression.type=lz4; at 9 the fast compressor is used, else the thorough one, as in Kafka."),
    Row::new("compression.type", Text, "producer", OneOf(COMPRESSION_TYPES), &[("compression.type", Same)],
        Effective, "Codec that produced batches are stored with; producer keeps each as it came."),
    Row::new("compression.zstd.level", Int, "3", Between(-131_072, 22), &[("compression.zstd.level", Same)],
        Effective, "Level for compression.type=zstd."),
    Row::new("delete.retention.ms", Long, "86400000", AtLeast(0), &[("log.cleaner.delete.retention.ms", Same)],
        Effective, "How long a compacted topic keeps tombstones."),
    Row::new("file.delete.delay.ms", Long, "60000", AtLeast(0), &[("log.segment.delete.delay.ms", Same)],
        NoMeaning(NO_SEGMENTS), "How long a deleted segment file stays on disk."),
    Row::new("flush.messages", Long, "1", AtLeast(1), &[("log.flush.interval.messages", Same)],
        Effective, "A sync is due after this many messages; at 1 every acknowledged batch is on disk.")
        .differs(DURABLE_BY_DEFAULT),
    Row::new("flush.ms", Long, MAX, AtLeast(0), &[("log.flush.interval.ms", Same), ("log.flush.scheduler.interval.ms", Same)],
        Effective, "Longest time until written messages are synced; it delays no answer."),
    Row::new("follower.replication.throttled.replicas", List, "", ThrottledReplicas, &[],
        NoMeaning(ONE_REPLICA), "Replicas whose copying is throttled on the follower's side."),
    Row::new("index.interval.bytes", Int, "4096", AtLeast(0), &[("log.index.interval.bytes", Same)],
        NoMeaning("every batch is found by its key"), "Bytes of records per entry of the offset index."),
    Row::new("leader.replication.throttled.replicas", List, "", ThrottledReplicas, &[],
        NoMeaning(ONE_REPLICA), "Replicas whose copying is throttled on the leader's side."),
    Row::new("local.retention.bytes", Long, "-2", AtLeast(-2), &[("log.local.retention.bytes", Same)],
        NoMeaning(NO_TIERS), "Bytes of a partition kept on local disk; -2: as retention.bytes."),
    Row::new("local.retention.ms", Long, "-2", AtLeast(-2), &[("log.local.retention.ms", Same)],
        NoMeaning(NO_TIERS), "Time that records are kept on local disk; -2: as retention.ms."),
    Row::new("max.compaction.lag.ms", Long, MAX, AtLeast(1), &[("log.cleaner.max.compaction.lag.ms", Same)],
        Effective, "A record is compacted at the latest after this time."),
    Row::new("max.message.bytes", Int, "1048588", AtLeast(0), &[("message.max.bytes", Same)],
        Effective, "Largest record batch, as compressed by its producer and by compression.type."),
    Row::new("message.timestamp.after.max.ms", Long, "3600000", AtLeast(0), &[("log.message.timestamp.after.max.ms", Same)],
        Effective, "How far a record's timestamp may lie ahead of the broker's clock (CreateTime)."),
    Row::new("message.timestamp.before.max.ms", Long, MAX, AtLeast(0), &[("log.message.timestamp.before.max.ms", Same)],
        Effective, "How far a record's timestamp may lie behind the broker's clock (CreateTime)."),
    Row::new("message.timestamp.type", Text, "CreateTime", OneOf(TIMESTAMP_TYPES), &[("log.message.timestamp.type", Same)],
        Effective, "Whether records keep the producer's timestamp or get the time of their append."),
    Row::new("min.cleanable.dirty.ratio", Double, "0.5", Share, &[("log.cleaner.min.cleanable.ratio", Same)],
        Effective, "Share of a log that must be uncompacted before it is compacted again."),
    Row::new("min.compaction.lag.ms", Long, "0", AtLeast(0), &[("log.cleaner.min.compaction.lag.ms", Same)],
        Effective, "A record is not compacted before this time."),
    Row::new("min.insync.replicas", Int, "1", AtLeast(1), &[("min.insync.replicas", Same)],
        Effective, "Replicas that must be in sync for a write with acks=all; of a partition with fewer replicas, all of them."),
    Row::new("preallocate", Boolean, "false", Any, &[("log.preallocate", Same)],
        NoMeaning(NO_SEGMENTS), "Whether segment files are allocated at once."),
    Row::new("remote.log.copy.disable", Boolean, "false", Any, &[],
        NoMeaning(NO_TIERS), "Whether a tiered topic stops copying to remote storage."),
    Row::new("remote.log.delete.on.disable", Boolean, "false", Any, &[],
        NoMeaning(NO_TIERS), "Whether remote data goes when tiering is switched off."),
    Row::new(REMOTE_STORAGE, Boolean, "false", Any, &[],
        NoMeaning(NO_TIERS), "Whether the topic is tiered to remote storage; true is refused."),
    Row::new("retention.bytes", Long, "-1", Any, &[("log.retention.bytes", Same)],
        Effective, "Bytes that a partition keeps at least; older batches go while the rest has as many; negative: no limit."),
    Row::new("retention.ms", Long, "604800000", AtLeast(-1),
        &[("log.retention.ms", Same), ("log.retention.minutes", Minutes), ("log.retention.hours", Hours)],
        Effective, "A batch is deleted when its newest timestamp is older than this, and so are all before it; -1: no limit."),
    Row::new("segment.bytes", Int, "1073741824", AtLeast(1_048_576), &[("log.segment.bytes", Same)],
        NoMeaning(BY_BATCH), "Size at which Kafka closes a segment file, the unit in which it deletes records."),
    Row::new("segment.index.bytes", Int, "10485760", AtLeast(4), &[("log.index.size.max.bytes", Same)],
        NoMeaning(NO_SEGMENTS), "Size of a segment's index."),
    Row::new("segment.jitter.ms", Long, "0", AtLeast(0), &[("log.roll.jitter.ms", Same), ("log.roll.jitter.hours", Hours)],
        NoMeaning(NO_SEGMENTS), "Random time taken off segment.ms."),
    Row::new("segment.ms", Long, "604800000", AtLeast(1), &[("log.roll.ms", Same), ("log.roll.hours", Hours)],
        NoMeaning(BY_BATCH), "Age at which Kafka closes a segment file, full or not."),
    Row::new("unclean.leader.election.enable", Boolean, "false", Any, &[("unclean.leader.election.enable", Same)],
        NoMeaning(ONE_REPLICA), "Whether a replica that lags may become leader when no other is left."),
];
