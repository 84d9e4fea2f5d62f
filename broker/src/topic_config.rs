//! Topic configs: the typed values in force for one topic, and what may be set (table in `table.rs`).
//!
//! Called by CreateTopics and the config handlers ([`validate`], [`describe`]), and by whoever serves a
//! partition ([`TopicConfig::resolve`], once per change of the metadata image, not per request).
//! It stores nothing: a topic's own settings are text in the metadata image.
//!
//! A value comes from the topic itself, else from the broker's properties (by the synonyms of the row,
//! in their order), else from the default. Invariant, tested: `resolve` never fails, and gives what
//! `describe` shows.

pub mod table;

use std::collections::BTreeMap;
use std::str::FromStr;

use ottla_protocol::records::Encoding;

use crate::config::value::{self, Bounds, ConfigSource, ConfigSynonym, DescribedConfig};
use crate::config::{DynamicConfig, Values, markdown};
use table::{REMOTE_STORAGE, Row, TOPIC_CONFIGS, Unit, row};

/// What is to happen with old records; both may be set, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Keep the newest record of each key.
    pub compact: bool,
    /// Delete by age and size.
    pub delete: bool,
}

/// How the broker is to compress what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionType {
    /// As the producer did.
    Producer,
    /// Not at all.
    Uncompressed,
    /// With gzip.
    Gzip,
    /// With snappy.
    Snappy,
    /// With LZ4.
    Lz4,
    /// With Zstandard.
    Zstd,
}

/// Whose clock stamps the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageTimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's.
    LogAppendTime,
}

/// The configs in force for one topic. Configs without a meaning here have no field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopicConfig {
    /// `cleanup.policy`
    pub cleanup_policy: CleanupPolicy,
    /// `compression.gzip.level`
    pub compression_gzip_level: i32,
    /// `compression.lz4.level`
    pub compression_lz4_level: i32,
    /// `compression.type`
    pub compression_type: CompressionType,
    /// `compression.zstd.level`
    pub compression_zstd_level: i32,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
    /// `flush.messages`, at least 1
    pub flush_messages: i64,
    /// `flush.ms`
    pub flush_ms: i64,
    /// `max.compaction.lag.ms`
    pub max_compaction_lag_ms: i64,
    /// `max.message.bytes`
    pub max_message_bytes: usize,
    /// `message.timestamp.after.max.ms`
    pub message_timestamp_after_max_ms: i64,
    /// `message.timestamp.before.max.ms`
    pub message_timestamp_before_max_ms: i64,
    /// `message.timestamp.type`
    pub message_timestamp_type: MessageTimestampType,
    /// `min.cleanable.dirty.ratio`
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`
    pub min_compaction_lag_ms: i64,
    /// `min.insync.replicas`
    pub min_insync_replicas: usize,
    /// `retention.bytes`; negative: no limit
    pub retention_bytes: i64,
    /// `retention.ms`; -1: no limit
    pub retention_ms: i64,
    /// `unclean.leader.election.enable`
    pub unclean_leader_election_enable: bool,
}

impl TopicConfig {
    /// The configs in force for a topic with these settings of its own.
    ///
    /// A setting that does not pass its bounds (written by a release that knew others) counts as unset.
    pub fn resolve(overrides: &BTreeMap<String, String>, broker: &DynamicConfig) -> Self {
        if overrides.is_empty() {
            broker.topic_defaults
        } else {
            Self::from_values(overrides, broker.values())
        }
    }

    /// As `resolve`, from the broker's values; used while the broker's config itself is being built.
    pub(crate) fn from_values(overrides: &BTreeMap<String, String>, broker: &Values) -> Self {
        let source = InForce { overrides, broker };
        Self {
            cleanup_policy: source.cleanup_policy(),
            compression_gzip_level: source.number("compression.gzip.level"),
            compression_lz4_level: source.number("compression.lz4.level"),
            compression_type: source.compression_type(),
            compression_zstd_level: source.number("compression.zstd.level"),
            delete_retention_ms: source.number("delete.retention.ms"),
            flush_messages: source.number("flush.messages"),
            flush_ms: source.number("flush.ms"),
            max_compaction_lag_ms: source.number("max.compaction.lag.ms"),
            max_message_bytes: source.number("max.message.bytes"),
            message_timestamp_after_max_ms: source.number("message.timestamp.after.max.ms"),
            message_timestamp_before_max_ms: source.number("message.timestamp.before.max.ms"),
            message_timestamp_type: source.message_timestamp_type(),
            min_cleanable_dirty_ratio: source.number("min.cleanable.dirty.ratio"),
            min_compaction_lag_ms: source.number("min.compaction.lag.ms"),
            min_insync_replicas: source.number("min.insync.replicas"),
            retention_bytes: source.number("retention.bytes"),
            retention_ms: source.number("retention.ms"),
            unclean_leader_election_enable: source.text("unclean.leader.election.enable") == "true",
        }
    }

    /// What batches are compressed with before they are stored; `None` leaves it to producers.
    pub fn encoding(&self) -> Option<Encoding> {
        Some(match self.compression_type {
            CompressionType::Producer => return None,
            CompressionType::Uncompressed => Encoding::Uncompressed,
            CompressionType::Gzip => Encoding::Gzip {
                level: self.compression_gzip_level,
            },
            CompressionType::Snappy => Encoding::Snappy,
            CompressionType::Lz4 => Encoding::Lz4 {
                level: self.compression_lz4_level,
            },
            CompressionType::Zstd => Encoding::Zstd {
                level: self.compression_zstd_level,
            },
        })
    }

    /// How many of so many replicas must be in sync for a write with acks=all: `min.insync.replicas`, but all of them
    /// where there are fewer (Kafka's `Partition.effectiveMinIsr`).
    pub fn effective_min_isr(&self, replicas: usize) -> usize {
        self.min_insync_replicas.min(replicas)
    }
}

/// Checks one setting of a topic. The error names key, value and what is allowed.
pub fn validate(name: &str, value: &str) -> Result<(), String> {
    let row = row(name).ok_or_else(|| unknown(name))?;
    let refused = |reason: &str| {
        let value = value::shown(value);
        format!("Invalid value {value} for configuration {name}: {reason}")
    };
    let checked =
        value::check(row.config_type, row.bounds, value).map_err(|reason| refused(&reason))?;
    if name == REMOTE_STORAGE && checked == "true" {
        return Err(refused("there is no tiered storage"));
    }
    Ok(())
}

/// What is said of a name that is no topic config.
pub fn unknown(name: &str) -> String {
    let of_broker = TOPIC_CONFIGS
        .iter()
        .find(|row| row.synonyms.iter().any(|(synonym, _)| *synonym == name));
    match of_broker {
        Some(row) => format!(
            "Unknown topic config name: {name}. That is a broker property; for a topic use {}.",
            row.name
        ),
        None => format!("Unknown topic config name: {}", value::shown(name)),
    }
}

/// Checks all settings of a topic, and that they do not contradict each other or the broker's defaults.
pub fn validate_all(
    overrides: &BTreeMap<String, String>,
    broker: &DynamicConfig,
) -> Result<(), String> {
    for (name, value) in overrides {
        validate(name, value)?;
    }
    check_together(overrides, broker)
}

/// Checks that the settings of a topic do not contradict each other or the broker's defaults
/// (Kafka's `LogConfig.validateTopicLogConfigValues`).
pub fn check_together(
    overrides: &BTreeMap<String, String>,
    broker: &DynamicConfig,
) -> Result<(), String> {
    let (least, most) = ("min.compaction.lag.ms", "max.compaction.lag.ms");
    if !overrides.contains_key(least) && !overrides.contains_key(most) {
        return Ok(());
    }
    let source = InForce {
        overrides,
        broker: broker.values(),
    };
    let (least_ms, most_ms): (i64, i64) = (source.number(least), source.number(most));
    if least_ms > most_ms {
        return Err(format!(
            "{least} ({least_ms}) must not be above {most} ({most_ms})"
        ));
    }
    Ok(())
}

/// The value in force for a topic that does not set this config.
pub fn default_of(row: &Row, broker: &DynamicConfig) -> String {
    let source = InForce {
        overrides: &BTreeMap::new(),
        broker: broker.values(),
    };
    source.value(row)
}

/// All configs of a topic with the values in force, as DescribeConfigs shows them, in order of name.
pub fn describe(
    overrides: &BTreeMap<String, String>,
    broker: &DynamicConfig,
) -> Vec<DescribedConfig> {
    let source = InForce {
        overrides,
        broker: broker.values(),
    };
    TOPIC_CONFIGS
        .iter()
        .map(|row| source.describe(row))
        .collect()
}

/// The topic's table for the README.
pub fn markdown_table() -> String {
    let mut table = markdown::header("Topic config");
    for row in TOPIC_CONFIGS {
        let notes = markdown::notes(row.documentation, row.state, row.difference);
        table += &markdown::row(
            row.name,
            row.config_type,
            Some(row.default),
            row.bounds,
            &notes,
        );
    }
    table
}

/// The settings of a topic over those of the broker.
struct InForce<'a> {
    overrides: &'a BTreeMap<String, String>,
    broker: &'a Values,
}

impl InForce<'_> {
    fn describe(&self, row: &'static Row) -> DescribedConfig {
        let mut synonyms = Vec::new();
        if let Some(value) = self.own_value(row) {
            synonyms.push(ConfigSynonym {
                name: row.name,
                value: Some(value),
                source: ConfigSource::TopicConfig,
            });
        }
        // Kafka asks for the synonyms of the first broker property, so one set in hours is not listed
        // and its value goes as a default (ConfigHelper.createTopicConfigEntry). Clients see the same here.
        if let Some((first, _)) = row.synonyms.first() {
            synonyms.extend(self.broker.synonyms(first));
        }
        DescribedConfig {
            name: row.name,
            value: Some(self.value(row)),
            source: synonyms
                .first()
                .map_or(ConfigSource::DefaultConfig, |synonym| synonym.source),
            read_only: false,
            sensitive: false,
            config_type: row.config_type,
            documentation: row.state.documented(row.documentation),
            synonyms,
        }
    }

    /// The value in force, as checked text.
    fn value(&self, row: &Row) -> String {
        self.own_value(row)
            .or_else(|| self.broker_value(row))
            .unwrap_or_else(|| row.default.to_owned())
    }

    fn own_value(&self, row: &Row) -> Option<String> {
        value::check(row.config_type, row.bounds, self.overrides.get(row.name)?).ok()
    }

    /// The broker's value, in the topic config's unit and within its bounds: the broker's own bounds of
    /// some are wider (any negative retention stands for none).
    fn broker_value(&self, row: &Row) -> Option<String> {
        let (value, unit) = row
            .synonyms
            .iter()
            .find_map(|(name, unit)| Some((self.broker.value(name)?, *unit)))?;
        let Ok(number) = value.parse::<i64>() else {
            return Some(value.to_owned());
        };
        let number = number.saturating_mul(unit.in_ms());
        Some(match row.bounds {
            Bounds::AtLeast(low) => number.max(low).to_string(),
            _ => number.to_string(),
        })
    }

    fn text(&self, name: &str) -> String {
        self.value(row(name).expect("every typed topic config has a row"))
    }

    fn number<T: FromStr>(&self, name: &str) -> T {
        let value = self.text(name).parse().ok();
        value.expect("a checked number fits the type of its field")
    }

    fn cleanup_policy(&self) -> CleanupPolicy {
        let text = self.text("cleanup.policy");
        let has = |policy: &str| value::split_list(&text).any(|item| item == policy);
        CleanupPolicy {
            compact: has("compact"),
            delete: has("delete"),
        }
    }

    fn compression_type(&self) -> CompressionType {
        match self.text("compression.type").as_str() {
            "uncompressed" => CompressionType::Uncompressed,
            "gzip" => CompressionType::Gzip,
            "snappy" => CompressionType::Snappy,
            "lz4" => CompressionType::Lz4,
            "zstd" => CompressionType::Zstd,
            _ => CompressionType::Producer,
        }
    }

    fn message_timestamp_type(&self) -> MessageTimestampType {
        match self.text("message.timestamp.type").as_str() {
            "LogAppendTime" => MessageTimestampType::LogAppendTime,
            _ => MessageTimestampType::CreateTime,
        }
    }
}

impl Unit {
    fn in_ms(self) -> i64 {
        match self {
            Unit::Same => 1,
            Unit::Minutes => 60_000,
            Unit::Hours => 3_600_000,
        }
    }
}

#[cfg(test)]
mod tests;
