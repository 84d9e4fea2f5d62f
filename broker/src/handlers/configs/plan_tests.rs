use super::*;
use crate::config::Config;

const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn live(sets: &[&str], of_all: &[(&str, &str)]) -> DynamicConfig {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let loaded = Config::load(None, std::iter::empty(), &sets).unwrap();
    DynamicConfig::resolve(&loaded.config, &Settings::new(), &settings(of_all))
}

fn settings(entries: &[(&str, &str)]) -> Settings {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    entries.iter().map(owned).collect()
}

fn asked(replace: bool, entries: &[(&str, i8, Option<&str>)]) -> Asked {
    let owned = |(name, operation, value): &(&str, i8, Option<&str>)| {
        ((*name).to_owned(), *operation, value.map(str::to_owned))
    };
    Asked {
        replace,
        entries: entries.iter().map(owned).collect(),
    }
}

fn topic() -> Target {
    Target::Topic("t".to_owned())
}

const ALL: Target = Target::Broker(BrokerScope::AllBrokers);
const THIS: Target = Target::Broker(BrokerScope::ThisBroker);

/// Changes some settings; the outcome, or code and message.
fn change(
    target: &Target,
    present: &[(&str, &str)],
    entries: &[(&str, i8, Option<&str>)],
) -> Result<Settings, (i16, String)> {
    let live = live(&[], &[]);
    plan(target, &asked(false, entries), &settings(present), &live)
        .map_err(|refusal| (refusal.code.code(), refusal.message))
}

fn refused(target: &Target, entries: &[(&str, i8, Option<&str>)]) -> (i16, String) {
    change(target, &[], entries).expect_err("a refusal")
}

#[test]
fn keys_are_set_and_deleted_and_all_others_stay() {
    let present = [("retention.ms", "5"), ("flush.ms", "6")];
    let entries = [
        ("retention.ms", SET, Some("7")),
        ("flush.ms", DELETE, Some("ignored")),
        ("segment.ms", DELETE, None),
        ("no.such.key", DELETE, None),
        ("max.message.bytes", SET, Some("8")),
    ];
    assert_eq!(
        change(&topic(), &present, &entries),
        Ok(settings(&[
            ("retention.ms", "7"),
            ("max.message.bytes", "8")
        ]))
    );
}

#[test]
fn alter_configs_replaces_all_settings() {
    let live = live(&[], &[]);
    let present = settings(&[("retention.ms", "5"), ("flush.ms", "6")]);
    let replaced = plan(
        &topic(),
        &asked(true, &[("flush.ms", SET, Some("7"))]),
        &present,
        &live,
    );
    assert_eq!(replaced, Ok(settings(&[("flush.ms", "7")])));
    assert_eq!(
        plan(&topic(), &asked(true, &[]), &present, &live),
        Ok(Settings::new())
    );
    assert_eq!(
        plan(&ALL, &asked(true, &[]), &present, &live),
        Ok(Settings::new())
    );
}

/// Each outcome as measured on Apache Kafka 4.3.1.
#[test]
fn lists_grow_and_shrink_from_what_is_in_force() {
    let policy = |present: &[(&str, &str)], operation, items| {
        change(
            &topic(),
            present,
            &[("cleanup.policy", operation, Some(items))],
        )
        .map(|settings| settings["cleanup.policy"].clone())
    };
    let compact = [("cleanup.policy", "compact")];
    assert_eq!(
        policy(&compact, APPEND, "delete").as_deref(),
        Ok("compact,delete")
    );
    let both = [("cleanup.policy", "compact,delete")];
    assert_eq!(
        policy(&both, APPEND, "delete").as_deref(),
        Ok("compact,delete")
    );
    assert_eq!(policy(&both, SUBTRACT, "compact").as_deref(), Ok("delete"));
    assert_eq!(
        policy(&both, SUBTRACT, " delete , compact ").as_deref(),
        Ok("")
    );
    assert_eq!(policy(&[], SUBTRACT, "compact").as_deref(), Ok("delete"));
    assert_eq!(
        policy(&[], APPEND, " compact , delete").as_deref(),
        Ok("delete,compact")
    );

    let key = "log.cleanup.policy";
    let append = asked(false, &[(key, APPEND, Some("compact"))]);
    let live = live(&["log.cleanup.policy="], &[(key, "delete")]);
    let none = Settings::new();
    let appended =
        |target| plan(target, &append, &none, &live).map(|settings| settings[key].clone());
    assert_eq!(
        appended(&THIS).as_deref(),
        Ok("delete,compact"),
        "over that of all"
    );
    assert_eq!(appended(&ALL).as_deref(), Ok("compact"), "over the file's");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let (name, value) = ("retention.ms", Some("1"));
    for (target, name) in [
        (topic(), name),
        (ALL, "log.retention.ms"),
        (THIS, "log.retention.ms"),
    ] {
        for (entries, code) in [
            (&[(name, SET, value), (name, DELETE, None)][..], 42),
            (&[(name, SET, None)], 42),
            (&[(name, APPEND, None)], 42),
            (&[(name, 4, value)], 42),
            (&[(name, -1, value)], 42),
            (&[(name, APPEND, value)], 40),
            (&[(name, SUBTRACT, value)], 40),
            (&[("nope", SET, value)], 40),
            (&[("nope", APPEND, value)], 40),
            (&[("", SET, value)], 40),
        ] {
            assert_eq!(refused(&target, entries).0, code, "{target:?} {entries:?}");
        }
    }
}

#[test]
fn a_refused_value_is_named_with_its_key_and_what_is_allowed() {
    assert_eq!(
        refused(&topic(), &[("retention.ms", SET, Some("-7"))]),
        (
            40,
            "Invalid value -7 for configuration retention.ms: must be at least -1".to_owned()
        )
    );
    assert_eq!(
        refused(&topic(), &[("cleanup.policy", APPEND, Some("none"))]),
        (
            40,
            "Invalid value delete,none for configuration cleanup.policy: must be a list of compact, delete"
                .to_owned()
        )
    );
    assert_eq!(
        refused(&THIS, &[("message.max.bytes", SET, Some("-4"))]),
        (
            42,
            "Invalid value -4 for configuration message.max.bytes: must be at least 0".to_owned()
        )
    );
    assert_eq!(
        refused(
            &topic(),
            &[
                ("min.compaction.lag.ms", SET, Some("7")),
                ("max.compaction.lag.ms", SET, Some("5"))
            ]
        ),
        (
            40,
            "min.compaction.lag.ms (7) must not be above max.compaction.lag.ms (5)".to_owned()
        )
    );
    assert!(
        refused(&topic(), &[("log.retention.ms", SET, Some("1"))])
            .1
            .contains("use retention.ms")
    );
    assert!(
        refused(&ALL, &[("retention.ms", SET, Some("1"))])
            .1
            .contains("is log.retention.ms")
    );
}

#[test]
fn a_topic_may_not_contradict_the_defaults_of_the_broker() {
    let live = live(&[], &[("log.cleaner.max.compaction.lag.ms", "5")]);
    let lag = |value| asked(false, &[("min.compaction.lag.ms", SET, Some(value))]);
    assert!(plan(&topic(), &lag("5"), &Settings::new(), &live).is_ok());
    assert!(plan(&topic(), &lag("6"), &Settings::new(), &live).is_err());
}

#[test]
fn what_needs_a_restart_is_refused_with_all_its_keys() {
    let value = Some("3");
    for target in [ALL, THIS] {
        assert_eq!(
            refused(
                &target,
                &[
                    ("num.partitions", SET, value),
                    ("log.retention.hours", SET, value),
                    ("message.max.bytes", SET, Some("-1")),
                    ("listeners", SET, value),
                    ("num.io.threads", SET, value),
                ]
            ),
            (
                42,
                "Cannot update these configs dynamically: [listeners, log.retention.hours, num.io.threads, num.partitions]"
                    .to_owned()
            )
        );
        let deleted = change(&target, &[], &[("num.partitions", DELETE, None)]);
        assert_eq!(deleted, Ok(Settings::new()));
    }
}

#[test]
fn groups_and_client_metrics_know_no_key() {
    let group = Target::Without(Kind::Group);
    assert_eq!(change(&group, &[], &[]), Ok(Settings::new()));
    assert_eq!(
        change(&group, &[], &[("x", DELETE, None)]),
        Ok(Settings::new())
    );
    assert_eq!(
        refused(&group, &[("consumer.session.timeout.ms", SET, Some("1"))]),
        (
            40,
            "Unknown group config name: consumer.session.timeout.ms".to_owned()
        )
    );
    assert_eq!(
        refused(
            &Target::Without(Kind::ClientMetrics),
            &[("interval.ms", SET, Some("1"))]
        ),
        (
            42,
            "Unknown client metrics configuration: interval.ms".to_owned()
        )
    );
}

/// The longest strings of the wire: answers must fit into such a string too, and no list takes long to check.
#[test]
fn hostile_names_and_values_are_refused_in_few_words() {
    let long = "x".repeat(32_767);
    let many = vec!["7:7"; 8_191].join(",");
    for target in [topic(), ALL, THIS, Target::Without(Kind::Group)] {
        for entries in [
            [(long.as_str(), SET, Some(long.as_str()))],
            [(long.as_str(), SET, None)],
            [(long.as_str(), 9, Some(""))],
            [("cleanup.policy", SET, Some(long.as_str()))],
            [("log.cleanup.policy", APPEND, Some(long.as_str()))],
        ] {
            assert!(refused(&target, &entries).1.len() < 2_000);
        }
    }
    let name = "leader.replication.throttled.replicas";
    let distinct = |from: usize| {
        let items = (from..from + 3_000).map(|replica| format!("{replica}:1"));
        items.collect::<Vec<_>>().join(",")
    };
    let once = change(&topic(), &[], &[(name, SET, Some(many.as_str()))]);
    assert!(once.is_ok());
    let grown = change(
        &topic(),
        &[(name, &distinct(10_000))],
        &[(name, APPEND, Some(&distinct(50_000)))],
    );
    let (code, message) = grown.expect_err("too long to be shown");
    assert_eq!(code, 40);
    assert!(
        message.ends_with("must be at most 32767 bytes long"),
        "{message}"
    );
}
