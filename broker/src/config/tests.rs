use std::collections::BTreeSet;

use super::table::{BROKER_CONFIGS, Row, markdown_table};
use super::value::{Bounds, ConfigSource, ConfigType, DescribedConfig, check};
use super::*;

const KAFKA_BROKER_CONFIGS: &str = include_str!("../testdata/kafka-4.3.1-broker-configs.tsv");

/// One line of a dump of Kafka's configs, by column: name, type, default, valid, read_only.
pub(crate) struct KafkaConfig<'a> {
    pub name: &'a str,
    pub config_type: &'a str,
    pub default: Option<&'a str>,
    pub valid: &'a str,
    pub read_only: bool,
    pub broker_synonyms: Vec<&'a str>,
}

/// Reads a dump; `-` stands for null.
pub(crate) fn kafka_configs(dump: &str) -> Vec<KafkaConfig<'_>> {
    let columns = |line| str::split(line, '\t').collect::<Vec<&str>>();
    let config = |line| {
        let fields = columns(line);
        KafkaConfig {
            name: fields[0],
            config_type: fields[1],
            default: Some(fields[2]).filter(|default| *default != "-"),
            valid: fields[3],
            read_only: fields[4] == "true",
            broker_synonyms: fields
                .get(6)
                .filter(|names| **names != "-")
                .map_or(Vec::new(), |names| names.split(',').collect()),
        }
    };
    dump.lines().skip(1).map(config).collect()
}

/// Bounds in the words of Kafka's validators, as the dumps have them.
pub(crate) fn in_kafkas_words(bounds: Bounds) -> String {
    match bounds {
        Bounds::Any => "-".to_owned(),
        Bounds::AtLeast(low) => format!("[{low},...]"),
        Bounds::Between(low, high) => format!("[{low},...,{high}]"),
        Bounds::BetweenOr(low, high, other) => format!("[{low},...,{high}] or {other}"),
        Bounds::Share => "[0,...,1]".to_owned(),
        Bounds::OneOf(choices) | Bounds::ListOf(choices) => format!("[{}]", choices.join(", ")),
        Bounds::ThrottledReplicas => {
            "[partitionId]:[brokerId],[partitionId]:[brokerId],...".to_owned()
        }
        Bounds::OnlyEmpty => "only empty".to_owned(),
    }
}

fn load(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Config::load(None, std::iter::empty(), &sets)
        .unwrap()
        .config
}

fn described(config: &Config, name: &str) -> DescribedConfig {
    DynamicConfig::at_start(config)
        .describe(config)
        .into_iter()
        .find(|described| described.name == name)
        .unwrap()
}

#[test]
fn every_row_is_kafkas_or_says_why_not() {
    let kafka = kafka_configs(KAFKA_BROKER_CONFIGS);
    let mut differing = Vec::new();
    for row in BROKER_CONFIGS {
        let Some(theirs) = kafka.iter().find(|theirs| theirs.name == row.name) else {
            assert!(
                row.difference.is_some(),
                "{} is not Kafka's and does not say why",
                row.name
            );
            continue;
        };
        assert_eq!(
            row.config_type.name().to_ascii_uppercase(),
            theirs.config_type,
            "{}",
            row.name
        );
        let dynamic_there = row.dynamic || row.restart_needed.is_some();
        assert_eq!(dynamic_there, !theirs.read_only, "{}", row.name);
        assert!(!row.dynamic || row.restart_needed.is_none(), "{}", row.name);
        let unbounded = matches!(theirs.valid, "-" | "" | "non-null string");
        let same_bounds =
            in_kafkas_words(row.bounds) == theirs.valid || (row.bounds == Bounds::Any && unbounded);
        let same = row.default == theirs.default && same_bounds;
        assert_eq!(
            row.difference.is_some(),
            !same,
            "{}: default {:?} against {:?}, bounds {} against {}",
            row.name,
            row.default,
            theirs.default,
            row.bounds,
            theirs.valid
        );
        if !same {
            differing.push(row.name);
        }
    }
    // A difference is a promise to the reader of the README: adding one is a decision.
    assert_eq!(
        differing,
        [
            "listeners",
            "controller.listener.names",
            "node.id",
            "log.dir",
            "authorizer.class.name",
            "default.replication.factor",
            "socket.send.buffer.bytes",
            "socket.receive.buffer.bytes",
            "max.connections",
            "max.connections.per.ip",
            "max.connection.creation.rate",
            "queued.max.request.bytes",
            "log.flush.interval.messages",
            "log.retention.check.interval.ms",
        ]
    );
}

#[test]
fn every_default_passes_its_own_bounds_unchanged() {
    for Row {
        name,
        config_type,
        default,
        bounds,
        ..
    } in BROKER_CONFIGS
    {
        if let Some(default) = default {
            assert_eq!(
                check(*config_type, *bounds, default).as_deref(),
                Ok(*default),
                "{name}"
            );
        }
    }
}

#[test]
fn names_are_unique_and_never_silent_too() {
    let names: BTreeSet<&str> = BROKER_CONFIGS.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), BROKER_CONFIGS.len());
    assert!(names.iter().all(|name| table::silent(name).is_none()));
    assert_eq!(
        table::silent("process.roles"),
        Some("there is no KRaft quorum: metadata is kept by the broker itself")
    );
}

#[test]
fn every_silent_key_is_kafkas() {
    let kafka: BTreeSet<&str> = kafka_configs(KAFKA_BROKER_CONFIGS)
        .iter()
        .map(|config| config.name)
        .collect();
    for (key, reason) in table::SILENT_KEYS {
        assert!(kafka.contains(key), "{key}");
        assert!(!reason.is_empty());
    }
}

#[test]
fn the_largest_request_is_documented_with_the_limits_that_no_setting_raises() {
    let limits = ottla_protocol::frame::FrameLimits::new(usize::MAX);
    let row = table::row("socket.request.max.bytes").expect("a row");
    for limit in [limits.produce, limits.group, limits.other] {
        assert!(row.documentation.contains(&limit.to_string()), "{limit}");
    }
}

#[test]
fn documentation_is_one_sentence() {
    for row in BROKER_CONFIGS {
        let text = row.documentation;
        assert!(
            text.ends_with('.') && !text.contains(". "),
            "{}: {text}",
            row.name
        );
        assert!(
            row.difference.is_none_or(|reason| !reason.ends_with('.')),
            "{}",
            row.name
        );
    }
}

#[test]
fn without_settings_every_field_has_its_default() {
    let config = load(&[]);
    assert_eq!(config.node_id, 1);
    assert_eq!(
        config.listeners[0].to_string(),
        "PLAINTEXT://127.0.0.1:9092"
    );
    assert_eq!(config.advertised_listeners, config.listeners);
    assert_eq!(
        config.metrics_listener,
        Some(("127.0.0.1".to_owned(), 9404))
    );
    assert_eq!(config.log_dir, PathBuf::from("./ottla-data"));
    assert_eq!(config.socket_request_max_bytes, 104_857_600);
    assert_eq!(config.connections_max_idle_ms, Some(600_000));
    assert_eq!(config.queued_max_request_bytes, None);
    assert!((16 << 20..=384 << 20).contains(&config.memory_budget_bytes));
    assert!(config.auto_create_topics_enable && config.delete_topic_enable);
    assert_eq!(
        DynamicConfig::at_start(&config)
            .topic_defaults
            .flush_messages,
        1
    );
    assert_eq!(config.broker_rack, None);
}

#[test]
fn every_detail_of_metrics_has_a_name() {
    for name in Detail::NAMES {
        let config = load(&[&format!("metrics.detail={name}")]);
        assert_eq!(Some(config.metrics_detail), Detail::named(name));
    }
    assert_eq!(load(&[]).metrics_detail, Detail::Partition);
}

#[test]
fn settings_reach_their_fields() {
    let config = load(&[
        "node.id=7",
        "broker.rack=cellar",
        "metrics.listener=",
        "metrics.detail=topic",
        "log.dirs=/srv/ottla",
        "connections.max.idle.ms=-1",
        "queued.max.request.bytes=1048576",
        "memory.budget.bytes=33554432",
        "auto.create.topics.enable=FALSE",
        "num.partitions=3",
        "message.max.bytes=2000",
    ]);
    assert_eq!(config.node_id, 7);
    assert_eq!(config.broker_rack.as_deref(), Some("cellar"));
    assert_eq!(config.metrics_listener, None);
    assert_eq!(config.metrics_detail, Detail::Topic);
    assert_eq!(config.log_dir, PathBuf::from("/srv/ottla"));
    assert_eq!(config.connections_max_idle_ms, None);
    assert_eq!(config.queued_max_request_bytes, Some(1_048_576));
    assert_eq!(config.memory_budget_bytes, 33_554_432);
    assert!(!config.auto_create_topics_enable);
    assert_eq!(config.num_partitions, 3);
    assert_eq!(
        DynamicConfig::at_start(&config)
            .topic_defaults
            .max_message_bytes,
        2000
    );
}

#[test]
fn a_set_property_is_described_over_its_default() {
    let config = load(&["num.partitions=3", "memory.budget.bytes=33554432"]);
    let partitions = described(&config, "num.partitions");
    assert_eq!(partitions.value.as_deref(), Some("3"));
    assert_eq!(partitions.source, ConfigSource::StaticBrokerConfig);
    assert_eq!(partitions.config_type, ConfigType::Int);
    assert!(partitions.read_only);
    let synonyms: Vec<_> = partitions
        .synonyms
        .iter()
        .map(|s| (s.name, s.value.as_deref().unwrap(), s.source.code()))
        .collect();
    assert_eq!(
        synonyms,
        [("num.partitions", "3", 4), ("num.partitions", "1", 5)]
    );
    assert_eq!(
        described(&config, "memory.budget.bytes").value.as_deref(),
        Some("33554432")
    );

    let unset = described(&config, "broker.rack");
    assert_eq!(
        (unset.value, unset.source, unset.synonyms),
        (None, ConfigSource::DefaultConfig, vec![])
    );
    // ksqlDB asks for it (redpanda 554).
    assert_eq!(
        described(&config, "authorizer.class.name").value.as_deref(),
        Some("")
    );
    // Kafka shows both names of the node id, whichever was set.
    let config = load(&["broker.id=4"]);
    assert_eq!(described(&config, "node.id").value.as_deref(), Some("4"));
    assert_eq!(config.node_id, 4);
}

#[test]
fn synonyms_of_a_property_begin_with_its_own_name() {
    // Measured on Kafka 4.3.1 with log.roll.ms and log.retention.hours set.
    let config = load(&["log.roll.ms=43200000", "log.retention.hours=24"]);
    let synonyms = |name| -> Vec<_> {
        let synonyms = described(&config, name).synonyms;
        synonyms
            .into_iter()
            .map(|s| (s.name, s.value.unwrap(), s.source.code()))
            .collect()
    };
    assert_eq!(
        synonyms("log.roll.ms"),
        [
            ("log.roll.ms", "43200000".to_owned(), 4),
            ("log.roll.hours", "168".to_owned(), 5)
        ]
    );
    assert_eq!(
        synonyms("log.roll.hours"),
        [("log.roll.hours", "168".to_owned(), 5)]
    );
    assert_eq!(
        synonyms("log.retention.hours"),
        [
            ("log.retention.hours", "24".to_owned(), 4),
            ("log.retention.hours", "168".to_owned(), 5)
        ]
    );
    assert_eq!(synonyms("log.retention.ms"), []);
}

#[test]
fn the_markdown_has_a_line_per_row() {
    let table = markdown_table();
    assert_eq!(table.lines().count(), BROKER_CONFIGS.len() + 2);
    assert!(
        table
            .lines()
            .all(|line| line.matches('|').count() - line.matches("\\|").count() == 6),
        "{table}"
    );
    assert!(table.contains("| `num.partitions` | int | `1` | at least 1 | Partitions of a topic whose creator did not say. |"));
}
