use super::*;
use crate::config::value::DescribedConfig;

fn config(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let loaded = Config::load(None, std::iter::empty(), &sets);
    loaded.unwrap().config
}

fn settings(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    entries.iter().map(owned).collect()
}

fn synonyms(described: &DescribedConfig) -> Vec<(&str, &str, i8)> {
    let all = described.synonyms.iter();
    all.map(|s| (s.name, s.value.as_deref().unwrap(), s.source.code()))
        .collect()
}

fn named(all: Vec<DescribedConfig>, name: &str) -> DescribedConfig {
    let mut found = all.into_iter().filter(|described| described.name == name);
    found.next().unwrap()
}

#[test]
fn a_value_of_this_broker_counts_before_one_of_all_before_the_file_before_the_default() {
    let config = config(&["message.max.bytes=3000", "max.connections=30"]);
    let all = settings(&[("message.max.bytes", "2000"), ("max.connections", "20")]);
    let this = settings(&[("message.max.bytes", "1000")]);
    let none = BTreeMap::new();
    let bytes_of = |dynamic: &DynamicConfig| dynamic.topic_defaults.max_message_bytes;

    let fixed = DynamicConfig::resolve(&config, &none, &none);
    assert_eq!((bytes_of(&fixed), fixed.max_connections), (3000, 30));
    let of_all = DynamicConfig::resolve(&config, &none, &all);
    assert_eq!((bytes_of(&of_all), of_all.max_connections), (2000, 20));
    let both = DynamicConfig::resolve(&config, &this, &all);
    assert_eq!((bytes_of(&both), both.max_connections), (1000, 20));

    // As measured on Kafka 4.3.1.
    let described = named(both.describe(&config), "message.max.bytes");
    assert_eq!(described.value.as_deref(), Some("1000"));
    assert_eq!(described.source, ConfigSource::DynamicBrokerConfig);
    assert!(!described.read_only);
    assert_eq!(
        synonyms(&described),
        [
            ("message.max.bytes", "1000", 2),
            ("message.max.bytes", "2000", 3),
            ("message.max.bytes", "3000", 4),
            ("message.max.bytes", "1048588", 5),
        ]
    );
    let of_all: Vec<_> = both.describe_of_all();
    let shown: Vec<_> = of_all.iter().map(synonyms).collect();
    assert_eq!(
        shown,
        [
            [("max.connections", "20", 3)],
            [("message.max.bytes", "2000", 3)],
        ]
    );
}

#[test]
fn a_retention_set_at_run_time_goes_before_a_static_one_in_hours() {
    let config = config(&["log.retention.hours=24"]);
    let none = BTreeMap::new();
    let all = settings(&[("log.retention.ms", "5000")]);
    let fixed = DynamicConfig::resolve(&config, &none, &none);
    assert_eq!(fixed.topic_defaults.retention_ms, 86_400_000);
    let dynamic = DynamicConfig::resolve(&config, &none, &all);
    assert_eq!(dynamic.topic_defaults.retention_ms, 5000);
    let described = crate::topic_config::describe(&none, &dynamic);
    assert_eq!(
        synonyms(&named(described, "retention.ms")),
        [
            ("log.retention.ms", "5000", 3),
            ("log.retention.hours", "24", 4),
            ("log.retention.hours", "168", 5),
        ]
    );
}

#[test]
fn settings_that_another_release_took_count_as_unset() {
    let config = config(&[]);
    let this = settings(&[
        ("message.max.bytes", "-5"),
        ("num.partitions", "9"),
        ("no.such.key", "9"),
        ("max.connections", "7"),
    ]);
    let dynamic = DynamicConfig::resolve(&config, &this, &BTreeMap::new());
    assert_eq!(dynamic.topic_defaults.max_message_bytes, 1_048_588);
    assert_eq!(dynamic.max_connections, 7);
    let all = dynamic.describe(&config);
    assert_eq!(all.len(), table::BROKER_CONFIGS.len());
    let partitions = named(all, "num.partitions");
    assert_eq!(partitions.value.as_deref(), Some("1"));
    assert!(partitions.read_only);
    assert_eq!(
        check_dynamic(&dynamic, BrokerScope::ThisBroker, &BTreeMap::new()),
        Ok(())
    );
}

#[test]
fn settings_are_checked_by_themselves_and_together_with_what_is_in_force() {
    let config = config(&["log.cleaner.max.compaction.lag.ms=100"]);
    let live = DynamicConfig::resolve(&config, &BTreeMap::new(), &BTreeMap::new());
    let check = |entries: &[(&str, &str)]| {
        check_dynamic(&live, BrokerScope::AllBrokers, &settings(entries))
    };
    assert_eq!(
        check(&[("log.cleaner.min.compaction.lag.ms", "100")]),
        Ok(())
    );
    for (name, value, problem) in [
        ("message.max.bytes", "-1", "must be at least 0"),
        (
            "message.max.bytes",
            "much",
            "not a number of type int; must be at least 0",
        ),
        (
            "log.retention.ms",
            "0",
            "must be at least 1, or -1 for no limit",
        ),
        (
            "log.cleaner.min.compaction.lag.ms",
            "101",
            "must not be above log.cleaner.max.compaction.lag.ms=100",
        ),
    ] {
        assert_eq!(
            check(&[(name, value)]),
            Err(format!(
                "Invalid value {value} for configuration {name}: {problem}"
            ))
        );
    }
    // The other limit may move along.
    assert_eq!(
        check(&[
            ("log.cleaner.min.compaction.lag.ms", "101"),
            ("log.cleaner.max.compaction.lag.ms", "102"),
        ]),
        Ok(())
    );
}

#[test]
fn a_change_is_seen_by_all_who_look_and_by_those_who_wait() {
    let config = config(&[]);
    let live = LiveConfig::new(&config);
    let mut changes = live.changes();
    assert_eq!(live.current().max_connections, 10_000);
    let all = settings(&[("max.connections", "5")]);
    let dynamic = DynamicConfig::resolve(&config, &BTreeMap::new(), &all);
    live.replace(Arc::new(dynamic));
    assert_eq!(live.current().max_connections, 5);
    assert!(changes.has_changed().unwrap());
    assert_eq!(changes.borrow_and_update().max_connections, 5);
}
