use super::*;
use crate::config::tests::{in_kafkas_words, kafka_configs};
use crate::config::value::{ConfigType, check};
use crate::config::{Config, State};

const KAFKA_TOPIC_CONFIGS: &str = include_str!("../testdata/kafka-4.3.1-topic-configs.tsv");

fn broker(sets: &[&str]) -> DynamicConfig {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let loaded = Config::load(None, std::iter::empty(), &sets).unwrap();
    DynamicConfig::at_start(&loaded.config)
}

fn overrides(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
    settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn described(config: &DynamicConfig, settings: &[(&str, &str)], name: &str) -> DescribedConfig {
    let all = describe(&overrides(settings), config);
    all.into_iter()
        .find(|described| described.name == name)
        .unwrap()
}

fn synonyms(described: &DescribedConfig) -> Vec<(&'static str, &str, i8)> {
    let synonyms = described.synonyms.iter();
    synonyms
        .map(|s| (s.name, s.value.as_deref().unwrap(), s.source.code()))
        .collect()
}

#[test]
fn the_rows_are_kafkas_in_order_or_say_why_not() {
    let kafka = kafka_configs(KAFKA_TOPIC_CONFIGS);
    let names: Vec<&str> = TOPIC_CONFIGS.iter().map(|row| row.name).collect();
    assert_eq!(
        names,
        kafka.iter().map(|theirs| theirs.name).collect::<Vec<_>>()
    );
    assert_eq!(names.len(), 33);
    let mut differing = Vec::new();
    for (row, theirs) in TOPIC_CONFIGS.iter().zip(&kafka) {
        let name = row.name;
        assert_eq!(
            row.config_type.name().to_ascii_uppercase(),
            theirs.config_type,
            "{name}"
        );
        let own_synonyms: Vec<&str> = row.synonyms.iter().map(|(synonym, _)| *synonym).collect();
        assert_eq!(own_synonyms, theirs.broker_synonyms, "{name}");
        assert!(!theirs.read_only, "{name}");
        let same =
            Some(row.default) == theirs.default && in_kafkas_words(row.bounds) == theirs.valid;
        assert_eq!(
            row.difference.is_some(),
            !same,
            "{name}: {:?} {}",
            theirs.default,
            theirs.valid
        );
        if !same {
            differing.push(name);
        }
    }
    assert_eq!(differing, ["flush.messages"]);
}

#[test]
fn the_default_of_a_row_is_what_the_brokers_defaults_come_to() {
    let config = broker(&[]);
    for (row, described) in TOPIC_CONFIGS
        .iter()
        .zip(describe(&BTreeMap::new(), &config))
    {
        assert_eq!(
            described.value.as_deref(),
            Some(row.default),
            "{}",
            row.name
        );
        assert_eq!(
            described.source,
            ConfigSource::DefaultConfig,
            "{}",
            row.name
        );
        assert_eq!(
            check(row.config_type, row.bounds, row.default).as_deref(),
            Ok(row.default),
            "{}",
            row.name
        );
    }
}

#[test]
fn every_synonym_is_a_broker_property_of_this_topic_config() {
    for row in TOPIC_CONFIGS {
        for (synonym, unit) in row.synonyms {
            let broker_row = crate::config::table::row(synonym).unwrap();
            assert_eq!(broker_row.topic, Some(row.name), "{synonym}");
            assert_eq!(broker_row.state(), row.state, "{synonym}");
            let wider = matches!(
                (broker_row.bounds, row.bounds),
                (Bounds::Any, Bounds::AtLeast(_))
            );
            assert!(
                broker_row.bounds == row.bounds || wider || *unit != Unit::Same,
                "{synonym}"
            );
        }
    }
    for broker_row in crate::config::table::BROKER_CONFIGS
        .iter()
        .filter(|row| row.topic.is_some())
    {
        let topic = row(broker_row.topic.unwrap()).unwrap();
        assert!(
            topic
                .synonyms
                .iter()
                .any(|(synonym, _)| *synonym == broker_row.name),
            "{}",
            broker_row.name
        );
    }
}

#[test]
fn documentation_is_one_sentence() {
    for row in TOPIC_CONFIGS {
        let text = row.documentation;
        assert!(
            text.ends_with('.') && !text.contains(". "),
            "{}: {text}",
            row.name
        );
    }
}

#[test]
fn a_topics_own_setting_goes_before_the_brokers_before_the_default() {
    let config = broker(&[
        "message.max.bytes=5000",
        "log.cleanup.policy=compact, delete",
    ]);
    let topic = TopicConfig::resolve(&overrides(&[]), &config);
    assert_eq!(topic.max_message_bytes, 5000);
    assert_eq!(
        topic.cleanup_policy,
        CleanupPolicy {
            compact: true,
            delete: true
        }
    );
    let topic = TopicConfig::resolve(
        &overrides(&[
            ("max.message.bytes", " 7000 "),
            ("cleanup.policy", "compact"),
            ("message.timestamp.type", "LogAppendTime"),
            ("compression.type", "zstd"),
            ("flush.messages", "9223372036854775807"),
            ("min.cleanable.dirty.ratio", "0.25"),
        ]),
        &config,
    );
    assert_eq!(topic.max_message_bytes, 7000);
    assert_eq!(
        topic.cleanup_policy,
        CleanupPolicy {
            compact: true,
            delete: false
        }
    );
    assert_eq!(
        topic.message_timestamp_type,
        MessageTimestampType::LogAppendTime
    );
    assert_eq!(topic.compression_type, CompressionType::Zstd);
    assert_eq!(topic.flush_messages, i64::MAX);
    assert_eq!(topic.min_cleanable_dirty_ratio, 0.25);
    assert_eq!(topic.message_timestamp_after_max_ms, 3_600_000);
}

#[test]
fn the_finest_unit_that_the_broker_sets_counts() {
    let retention = |sets: &[&str]| broker(sets).topic_defaults.retention_ms;
    assert_eq!(retention(&[]), 604_800_000);
    assert_eq!(retention(&["log.retention.hours=24"]), 86_400_000);
    assert_eq!(
        retention(&["log.retention.hours=24", "log.retention.minutes=2"]),
        120_000
    );
    assert_eq!(
        retention(&["log.retention.minutes=2", "log.retention.ms=3"]),
        3
    );
    assert_eq!(retention(&["log.retention.hours=-1"]), -1);
    assert_eq!(
        retention(&["log.retention.hours=2147483647"]),
        2_147_483_647 * 3_600_000
    );
    assert_eq!(
        broker(&["log.flush.scheduler.interval.ms=5000"])
            .topic_defaults
            .flush_ms,
        5000
    );
    assert_eq!(
        broker(&["log.flush.interval.ms=-1"])
            .topic_defaults
            .flush_ms,
        0
    );
}

#[test]
fn configs_are_described_with_their_synonyms_as_kafka_does() {
    // Measured on Kafka 4.3.1 with the same settings.
    let config = broker(&[
        "log.segment.bytes=2097152",
        "log.message.timestamp.type=LogAppendTime",
        "log.roll.ms=43200000",
        "log.retention.hours=24",
        "unclean.leader.election.enable=true",
    ]);
    let own = [
        ("segment.bytes", "3000000"),
        ("unclean.leader.election.enable", "FALSE"),
        ("flush.ms", "77"),
    ];
    let segment = described(&config, &own, "segment.bytes");
    assert_eq!(
        (segment.value.as_deref(), segment.source),
        (Some("3000000"), ConfigSource::TopicConfig)
    );
    assert_eq!(
        synonyms(&segment),
        [
            ("segment.bytes", "3000000", 1),
            ("log.segment.bytes", "2097152", 4),
            ("log.segment.bytes", "1073741824", 5)
        ]
    );
    assert_eq!(
        (segment.config_type, segment.read_only, segment.sensitive),
        (ConfigType::Int, false, false)
    );
    assert_eq!(
        synonyms(&described(&config, &own, "flush.ms")),
        [("flush.ms", "77", 1)]
    );
    assert_eq!(
        synonyms(&described(&config, &own, "message.timestamp.type")),
        [
            ("log.message.timestamp.type", "LogAppendTime", 4),
            ("log.message.timestamp.type", "CreateTime", 5)
        ]
    );
    assert_eq!(
        synonyms(&described(&config, &own, "unclean.leader.election.enable")),
        [
            ("unclean.leader.election.enable", "false", 1),
            ("unclean.leader.election.enable", "true", 4),
            ("unclean.leader.election.enable", "false", 5),
        ]
    );
    let segment_ms = described(&config, &own, "segment.ms");
    assert_eq!(
        (segment_ms.value.as_deref(), segment_ms.source),
        (Some("43200000"), ConfigSource::StaticBrokerConfig)
    );
    assert_eq!(
        synonyms(&segment_ms),
        [("log.roll.ms", "43200000", 4), ("log.roll.hours", "168", 5)]
    );
    let retention = described(&config, &own, "retention.ms");
    assert_eq!(
        (retention.value.as_deref(), retention.source),
        (Some("86400000"), ConfigSource::DefaultConfig)
    );
    assert_eq!(synonyms(&retention), []);
}

#[test]
fn connects_topics_are_exactly_compact() {
    // Connect refuses to start when its topics are not (apache/kafka 8828).
    let policy = described(
        &broker(&[]),
        &[("cleanup.policy", "compact")],
        "cleanup.policy",
    );
    assert_eq!(policy.value.as_deref(), Some("compact"));
}

#[test]
fn a_stored_setting_that_no_longer_passes_counts_as_unset() {
    let config = broker(&["message.max.bytes=5000"]);
    let own = [
        ("max.message.bytes", "many"),
        ("retention.ms", "-9"),
        ("from.the.future", "1"),
    ];
    let topic = TopicConfig::resolve(&overrides(&own), &config);
    assert_eq!(
        (topic.max_message_bytes, topic.retention_ms),
        (5000, 604_800_000)
    );
    let shown = described(&config, &own, "max.message.bytes");
    assert_eq!(
        (shown.value.as_deref(), shown.source),
        (Some("5000"), ConfigSource::StaticBrokerConfig)
    );
}

#[test]
fn settings_are_checked_with_name_value_and_range() {
    for (name, value) in [
        ("retention.ms", "-1"),
        ("retention.ms", " 5 "),
        ("retention.bytes", "-5"),
        ("cleanup.policy", "delete,compact"),
        ("cleanup.policy", ""),
        ("preallocate", "TRUE"),
        ("compression.type", "gzip"),
        ("follower.replication.throttled.replicas", "*"),
        ("remote.storage.enable", "false"),
        ("local.retention.bytes", "0"),
        ("max.message.bytes", "0"),
    ] {
        assert_eq!(validate(name, value), Ok(()), "{name}={value}");
    }
    for (name, value, expected) in [
        ("nope", "1", "Unknown topic config name: nope"),
        (
            "log.retention.ms",
            "1",
            "Unknown topic config name: log.retention.ms. That is a broker property; for a topic use retention.ms.",
        ),
        (
            "segment.bytes",
            "5",
            "Invalid value 5 for configuration segment.bytes: must be at least 1048576",
        ),
        (
            "retention.ms",
            "-2",
            "Invalid value -2 for configuration retention.ms: must be at least -1",
        ),
        (
            "max.message.bytes",
            "x",
            "Invalid value x for configuration max.message.bytes: not a number of type int; must be at least 0",
        ),
        (
            "max.message.bytes",
            "99999999999",
            "Invalid value 99999999999 for configuration max.message.bytes: not a number of type int; must be at least 0",
        ),
        (
            "cleanup.policy",
            "none",
            "Invalid value none for configuration cleanup.policy: must be a list of compact, delete",
        ),
        (
            "compression.type",
            "none",
            "Invalid value none for configuration compression.type: must be one of uncompressed, zstd, lz4, snappy, gzip, producer",
        ),
        (
            "remote.storage.enable",
            "true",
            "Invalid value true for configuration remote.storage.enable: there is no tiered storage",
        ),
    ] {
        assert_eq!(validate(name, value), Err(expected.to_owned()));
    }
    assert_eq!(
        validate("nope", ""),
        Err("Unknown topic config name: nope".to_owned())
    );
}

#[test]
fn settings_that_contradict_each_other_or_the_broker_are_refused() {
    let broker = broker(&["log.cleaner.max.compaction.lag.ms=7"]);
    let check = |settings: &[(&str, &str)]| validate_all(&overrides(settings), &broker);
    let (least, most) = ("min.compaction.lag.ms", "max.compaction.lag.ms");
    assert_eq!(check(&[(least, "5"), (most, "5")]), Ok(()));
    assert_eq!(check(&[(least, "10"), (most, "10")]), Ok(()));
    assert_eq!(check(&[(least, "7")]), Ok(()));
    assert_eq!(
        check(&[(least, "10"), (most, "5")]),
        Err("min.compaction.lag.ms (10) must not be above max.compaction.lag.ms (5)".to_owned())
    );
    assert_eq!(
        check(&[(least, "8")]),
        Err("min.compaction.lag.ms (8) must not be above max.compaction.lag.ms (7)".to_owned())
    );
    assert!(check(&[("segment.bytes", "1")]).is_err());
}

#[test]
fn only_these_have_no_effect() {
    let without: Vec<&str> = TOPIC_CONFIGS
        .iter()
        .filter(|row| row.state != State::Effective)
        .map(|row| row.name)
        .collect();
    assert_eq!(
        without,
        [
            "file.delete.delay.ms",
            "follower.replication.throttled.replicas",
            "index.interval.bytes",
            "leader.replication.throttled.replicas",
            "local.retention.bytes",
            "local.retention.ms",
            "preallocate",
            "remote.log.copy.disable",
            "remote.log.delete.on.disable",
            "remote.storage.enable",
            "segment.bytes",
            "segment.index.bytes",
            "segment.jitter.ms",
            "segment.ms",
            "unclean.leader.election.enable",
        ]
    );
    let described = describe(&BTreeMap::new(), &broker(&[]));
    for (row, described) in TOPIC_CONFIGS.iter().zip(described) {
        let says_so = described.documentation.contains(" No effect here: ");
        assert_eq!(says_so, without.contains(&row.name), "{}", row.name);
        assert!(!described.documentation.contains("Not yet"), "{}", row.name);
    }
}

#[test]
fn batches_are_stored_with_the_codec_and_level_of_their_topic() {
    let config = broker(&["compression.type=gzip", "compression.zstd.level=7"]);
    let encoding =
        |settings: &[(&str, &str)]| TopicConfig::resolve(&overrides(settings), &config).encoding();
    assert_eq!(encoding(&[]), Some(Encoding::Gzip { level: -1 }));
    for (settings, expected) in [
        (&[("compression.type", "producer")][..], None),
        (
            &[("compression.type", "uncompressed")],
            Some(Encoding::Uncompressed),
        ),
        (
            &[("compression.gzip.level", "9")],
            Some(Encoding::Gzip { level: 9 }),
        ),
        (&[("compression.type", "snappy")], Some(Encoding::Snappy)),
        (
            &[("compression.type", "lz4")],
            Some(Encoding::Lz4 { level: 9 }),
        ),
        (
            &[("compression.type", "lz4"), ("compression.lz4.level", "17")],
            Some(Encoding::Lz4 { level: 17 }),
        ),
        (
            &[("compression.type", "zstd")],
            Some(Encoding::Zstd { level: 7 }),
        ),
        (
            &[
                ("compression.type", "zstd"),
                ("compression.zstd.level", "-5"),
            ],
            Some(Encoding::Zstd { level: -5 }),
        ),
    ] {
        assert_eq!(encoding(settings), expected, "{settings:?}");
    }
}

#[test]
fn resolve_and_describe_agree_on_random_settings() {
    let seed = 0x0771c;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let config = broker(&["log.retention.minutes=7", "message.max.bytes=9999"]);
    let values = [
        "",
        "0",
        "1",
        "-1",
        "-2",
        "5",
        "2147483647",
        "9223372036854775807",
        "0.3",
        "true",
        "compact",
        "gzip",
        "LogAppendTime",
        "é",
    ];
    for _ in 0..5_000 {
        let own: Vec<(&str, &str)> = (0..rng.usize(0..8))
            .map(|_| {
                (
                    TOPIC_CONFIGS[rng.usize(0..33)].name,
                    values[rng.usize(0..values.len())],
                )
            })
            .collect();
        let own = overrides(&own);
        let topic = TopicConfig::resolve(&own, &config);
        let shown: BTreeMap<_, _> = describe(&own, &config)
            .into_iter()
            .map(|d| (d.name, d.value.unwrap()))
            .collect();
        assert_eq!(shown["retention.ms"], topic.retention_ms.to_string());
        assert_eq!(
            shown["max.message.bytes"],
            topic.max_message_bytes.to_string()
        );
        assert_eq!(shown["flush.messages"], topic.flush_messages.to_string());
        assert_eq!(
            shown["min.insync.replicas"],
            topic.min_insync_replicas.to_string()
        );
        assert_eq!(
            shown["cleanup.policy"].contains("compact"),
            topic.cleanup_policy.compact
        );
        for (name, value) in &own {
            if validate(name, value).is_ok() {
                assert_eq!(shown[name.as_str()], value.trim(), "{name}");
            }
        }
    }
}

#[test]
fn the_markdown_has_a_line_per_row() {
    let table = markdown_table();
    assert_eq!(table.lines().count(), 35);
    assert!(
        table.lines().all(|line| line.matches('|').count() == 6),
        "{table}"
    );
    assert!(table.contains("| `flush.messages` | long | `1` | at least 1 | "));
}
