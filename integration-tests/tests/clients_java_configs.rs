//! Apache Kafka's own kafka-configs, kafka-log-dirs and kafka-consumer-perf-test of 4.3.1 against a real broker.

use ottla_integration_tests::clients::{kafka_tool_at, kcat};
use ottla_integration_tests::{Broker, Output, TempDir, groups, unique};
use serde_json::Value;

const CONFIGS: &str = "kafka.admin.ConfigCommand";

/// kafka-configs for one entity; `kind` is its `--entity-type`, no name stands for the default of all brokers.
fn configs(broker: &Broker, kind: &str, name: Option<&str>, args: &[&str]) -> Output {
    let entity = match name {
        Some(name) => vec!["--entity-type", kind, "--entity-name", name],
        None => vec!["--entity-type", kind, "--entity-default"],
    };
    kafka_tool_at(broker, CONFIGS, &entity)
        .args(args.to_vec())
        .finish()
}

/// The printed line of one key, without its indentation.
fn line(output: &Output, key: &str) -> Option<String> {
    let start = format!("{key}=");
    let found = output.lines().into_iter().map(str::trim);
    found
        .filter(|line| line.starts_with(&start))
        .map(str::to_owned)
        .next()
}

fn produce(broker: &Broker, topic: &str, lines: &str) -> Output {
    kcat(broker)
        .args(["-P", "-t", topic, "-p", "0"])
        .args(["-X", "message.max.bytes=3000000"])
        .stdin(lines)
        .finish()
}

#[test]
fn configs_of_a_topic_are_described_altered_refused_and_deleted() {
    let folder = TempDir::new("java-topic-configs");
    let broker = groups::broker(&folder);
    let topic = unique("configured");
    assert!(produce(&broker, &topic, "value\n").status.success());
    let of_topic = |args: &[&str]| configs(&broker, "topics", Some(&topic), args);

    let all = of_topic(&["--describe", "--all"]);
    let wanted = "retention.ms=604800000 sensitive=false synonyms={}";
    assert_eq!(
        line(&all, "retention.ms").as_deref(),
        Some(wanted),
        "{all:?}"
    );
    let default = "max.message.bytes=1048588 sensitive=false synonyms={DEFAULT_CONFIG:message.max.bytes=1048588}";
    assert_eq!(line(&all, "max.message.bytes").as_deref(), Some(default));
    assert!(
        !produce(&broker, &topic, &"x".repeat(1_500_000))
            .status
            .success()
    );

    let wanted = "retention.ms=1234567,cleanup.policy=[compact,delete],max.message.bytes=2000000";
    let altered = of_topic(&["--alter", "--add-config", wanted]);
    let completed = format!("Completed updating config for topic {topic}.");
    assert!(altered.stdout.contains(&completed), "{altered:?}");
    let dynamic = of_topic(&["--describe"]);
    let policy = "cleanup.policy=compact,delete sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact,delete, DEFAULT_CONFIG:log.cleanup.policy=delete}";
    assert_eq!(line(&dynamic, "cleanup.policy").as_deref(), Some(policy));
    let retention =
        "retention.ms=1234567 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=1234567}";
    assert_eq!(line(&dynamic, "retention.ms").as_deref(), Some(retention));
    assert_eq!(
        line(&dynamic, "segment.bytes"),
        None,
        "only what was set: {dynamic:?}"
    );
    assert!(
        configs(
            &broker,
            "topics",
            Some(&topic),
            &["--alter", "--delete-config", "cleanup.policy"]
        )
        .status
        .success()
    );
    let large = produce(&broker, &topic, &"x".repeat(1_500_000));
    assert!(large.status.success(), "the new limit holds: {large:?}");

    let refused = of_topic(&["--alter", "--add-config", "retention.ms=abc"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let reason = "Invalid value abc for configuration retention.ms: Not a number of type LONG";
    assert!(
        format!("{}{}", refused.stdout, refused.stderr).contains(reason),
        "{refused:?}"
    );
    let deleted = of_topic(&["--alter", "--delete-config", "retention.ms"]);
    assert!(deleted.stdout.contains(&completed), "{deleted:?}");
    let left = of_topic(&["--describe"]);
    assert_eq!(line(&left, "retention.ms"), None, "{left:?}");
    assert!(line(&left, "max.message.bytes").is_some(), "{left:?}");
}

#[test]
fn configs_of_the_broker_are_described_altered_and_deleted() {
    let folder = TempDir::new("java-broker-configs");
    let broker = groups::broker(&folder);
    let metadata = kcat(&broker).args(["-L", "-J"]).succeed().stdout;
    let metadata: Value = serde_json::from_str(&metadata).expect("-J prints JSON");
    let node = metadata["brokers"][0]["id"].to_string();
    let topic = unique("large");
    assert!(produce(&broker, &topic, "value\n").status.success());

    let all = configs(&broker, "brokers", Some(&node), &["--describe", "--all"]);
    let partitions = "num.partitions=4 sensitive=false synonyms={STATIC_BROKER_CONFIG:num.partitions=4, DEFAULT_CONFIG:num.partitions=1}";
    assert_eq!(line(&all, "num.partitions").as_deref(), Some(partitions));
    let size = "message.max.bytes=1048588 sensitive=false synonyms={DEFAULT_CONFIG:message.max.bytes=1048588}";
    assert_eq!(line(&all, "message.max.bytes").as_deref(), Some(size));

    let add = ["--alter", "--add-config", "message.max.bytes=2000000"];
    let altered = configs(&broker, "brokers", None, &add);
    assert!(altered.status.success(), "{altered:?}");
    let described = configs(&broker, "brokers", None, &["--describe"]);
    let dynamic = "message.max.bytes=2000000 sensitive=false synonyms={DYNAMIC_DEFAULT_BROKER_CONFIG:message.max.bytes=2000000}";
    assert_eq!(
        line(&described, "message.max.bytes").as_deref(),
        Some(dynamic)
    );
    let large = produce(&broker, &topic, &"x".repeat(1_500_000));
    assert!(large.status.success(), "the new limit holds: {large:?}");

    // What is set for one broker comes before what is set for all.
    let add = ["--alter", "--add-config", "message.max.bytes=1000000"];
    let altered = configs(&broker, "brokers", Some(&node), &add);
    assert!(altered.status.success(), "{altered:?}");
    let described = configs(&broker, "brokers", Some(&node), &["--describe"]);
    let own = "message.max.bytes=1000000 sensitive=false synonyms={DYNAMIC_BROKER_CONFIG:message.max.bytes=1000000, DYNAMIC_DEFAULT_BROKER_CONFIG:message.max.bytes=2000000, DEFAULT_CONFIG:message.max.bytes=1048588}";
    assert_eq!(line(&described, "message.max.bytes").as_deref(), Some(own));

    for name in [Some(node.as_str()), None] {
        let delete = ["--alter", "--delete-config", "message.max.bytes"];
        let deleted = configs(&broker, "brokers", name, &delete);
        assert!(deleted.status.success(), "{deleted:?}");
        let described = configs(&broker, "brokers", name, &["--describe"]);
        let left = line(&described, "message.max.bytes");
        // Of one broker, what is set for all is described as well.
        let fine =
            left.is_none_or(|left| name.is_some() && !left.contains("{DYNAMIC_BROKER_CONFIG"));
        assert!(fine, "{described:?}");
    }
    let refused = produce(&broker, &topic, &"x".repeat(1_500_000));
    assert!(
        !refused.status.success(),
        "the old limit is back: {refused:?}"
    );
}

#[test]
fn log_dirs_tell_the_size_of_every_partition() {
    let folder = TempDir::new("java-log-dirs");
    let broker = groups::broker(&folder);
    let topic = unique("sized");
    assert!(
        produce(&broker, &topic, &"value\n".repeat(1000))
            .status
            .success()
    );
    let class = "org.apache.kafka.tools.LogDirsCommand";
    let args = ["--describe", "--topic-list", &topic];
    let output = kafka_tool_at(&broker, class, &args).succeed();
    let lines = output.lines();
    let told: Value = serde_json::from_str(lines.last().expect("JSON")).expect("JSON");
    let folder = &told["brokers"][0]["logDirs"][0];
    assert_eq!(folder["error"], Value::Null, "{told}");
    let partitions = folder["partitions"].as_array().expect("partitions");
    let mut sizes: Vec<(String, i64)> = partitions
        .iter()
        .map(|each| {
            assert_eq!(each["offsetLag"], 0, "{told}");
            assert_eq!(each["isFuture"], false, "{told}");
            let name = each["partition"].as_str().expect("a name").to_owned();
            (name, each["size"].as_i64().expect("a size"))
        })
        .collect();
    sizes.sort();
    let names: Vec<String> = (0..4).map(|index| format!("{topic}-{index}")).collect();
    assert_eq!(
        sizes.iter().map(|each| each.0.clone()).collect::<Vec<_>>(),
        names
    );
    assert!(sizes[0].1 > 5_000, "1,000 values of 5 bytes: {told}");
    assert_eq!(sizes[3].1, 0, "{told}");
}

#[test]
fn the_consumer_performance_test_reads_every_record() {
    let folder = TempDir::new("java-consumer-performance");
    let broker = groups::broker(&folder);
    let topic = unique("fast");
    assert!(
        produce(&broker, &topic, &"value\n".repeat(20_000))
            .status
            .success()
    );
    let class = "org.apache.kafka.tools.ConsumerPerformance";
    let args = [
        "--topic",
        &topic,
        "--num-records",
        "20000",
        "--timeout",
        "30000",
    ];
    let output = kafka_tool_at(&broker, class, &args)
        .args(["--group", &unique("group")])
        .succeed();
    let lines = output.lines();
    let (head, row) = (lines[lines.len() - 2], lines[lines.len() - 1]);
    let column = head
        .split(", ")
        .position(|name| name == "data.consumed.in.nMsg");
    let count = column.and_then(|column| row.split(", ").nth(column));
    assert_eq!(count, Some("20000"), "{output:?}");
}
