//! Apache Kafka's own kafka-consumer-groups and kafka-groups of 4.3.1 on groups of its console consumer, against a real
//! broker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla_integration_tests::clients::{kafka_tool_at, kcat};
use ottla_integration_tests::{Broker, Output, Process, TempDir, groups, unique};
use rustix::process::Signal;
use serde_json::Value;

const CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const CONSUMER_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const GROUPS: &str = "org.apache.kafka.tools.GroupsCommand";
const PATIENCE: Duration = Duration::from_secs(40);
/// Runs of a tool until it shows what is waited for.
const TRIES: usize = 20;

fn consumer_groups(broker: &Broker, args: &[&str]) -> Output {
    kafka_tool_at(broker, CONSUMER_GROUPS, args).finish()
}

/// The rows of a printed table by column; the first printed line with this column name is its head.
fn table(output: &Output, column: &str) -> Vec<BTreeMap<String, String>> {
    let words =
        |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    let mut lines = output.stdout.lines().map(words);
    let Some(head) = lines.find(|words| words.iter().any(|word| word == column)) else {
        return Vec::new();
    };
    lines
        .take_while(|row| !row.is_empty())
        .map(|row| head.iter().cloned().zip(row).collect())
        .collect()
}

/// Runs kafka-consumer-groups until its table is as wanted.
fn wait_table(
    broker: &Broker,
    args: &[&str],
    column: &str,
    wanted: impl Fn(&[BTreeMap<String, String>]) -> bool,
) -> Vec<BTreeMap<String, String>> {
    let mut last = None;
    for _ in 0..TRIES {
        let output = consumer_groups(broker, args);
        let rows = table(&output, column);
        if wanted(&rows) {
            return rows;
        }
        last = Some(output);
    }
    panic!("{args:?} never showed what was waited for: {last:?}");
}

fn produce(broker: &Broker, topic: &str, values: std::ops::Range<usize>) {
    for partition in 0..4 {
        let lines: String = values
            .clone()
            .map(|n| format!("value {partition} {n}\n"))
            .collect();
        let partition = partition.to_string();
        let args = ["-P", "-t", topic, "-p", &partition];
        kcat(broker).args(args).stdin(lines).succeed();
    }
}

/// A console consumer of a group with a short session and frequent automatic commits.
fn console_consumer(broker: &Broker, topic: &str, group: &str) -> Process {
    let args = ["--topic", topic, "--group", group, "--from-beginning"];
    let settings = [
        "session.timeout.ms=6000",
        "heartbeat.interval.ms=500",
        "auto.commit.interval.ms=200",
    ];
    let settings = settings
        .iter()
        .flat_map(|each| ["--command-property", each]);
    kafka_tool_at(broker, CONSUMER, &args)
        .args(settings)
        .start()
}

fn wait_line(consumer: &Process, value: &str) {
    let found = |line: &str| (line == value).then_some(());
    let found = consumer.stdout.wait_for_line(PATIENCE, found);
    found.unwrap_or_else(|| panic!("no {value:?} came\n{}", consumer.output()));
}

#[test]
fn a_group_of_console_consumers_is_listed_and_described_while_members_come_and_go() {
    let folder = TempDir::new("java-described");
    let broker = groups::broker(&folder);
    let (topic, group) = (unique("shared"), unique("group"));
    produce(&broker, &topic, 0..10);
    let first = console_consumer(&broker, &topic, &group);
    let second = console_consumer(&broker, &topic, &group);

    // Two members with two partitions each.
    let members = ["--describe", "--group", &group, "--members", "--verbose"];
    let rows = wait_table(&broker, &members, "#PARTITIONS", |rows| {
        rows.len() == 2 && rows.iter().all(|row| row["#PARTITIONS"] == "2")
    });
    let mut partitions = BTreeSet::new();
    for row in &rows {
        assert_eq!(row["CLIENT-ID"], "console-consumer", "{row:?}");
        assert_eq!(row["HOST"], "/127.0.0.1", "{row:?}");
        // Printed as topic:partition,partition.
        let (name, list) = row["CURRENT-ASSIGNMENT"]
            .split_once(':')
            .expect("an assignment");
        assert_eq!(name, topic, "{row:?}");
        partitions.extend(list.split(',').map(str::to_owned));
    }
    assert_eq!(partitions, (0..4).map(|n| n.to_string()).collect());

    // All is read and committed: no lag.
    let describe = ["--describe", "--group", &group];
    let rows = wait_table(&broker, &describe, "CURRENT-OFFSET", |rows| {
        rows.len() == 4 && rows.iter().all(|row| row["LAG"] == "0")
    });
    let owners: BTreeSet<&String> = rows.iter().map(|row| &row["CONSUMER-ID"]).collect();
    assert_eq!(owners.len(), 2, "{rows:?}");
    for row in &rows {
        assert_eq!(
            (row["TOPIC"].as_str(), row["CURRENT-OFFSET"].as_str()),
            (topic.as_str(), "10")
        );
        assert_eq!(row["LOG-END-OFFSET"], "10", "{row:?}");
    }

    let state = consumer_groups(&broker, &["--describe", "--group", &group, "--state"]);
    let row = &table(&state, "ASSIGNMENT-STRATEGY")[0];
    assert_eq!(row["ASSIGNMENT-STRATEGY"], "range", "{state:?}");
    // COORDINATOR (ID) is a head of two words above one value of two words.
    assert_eq!(
        (row["STATE"].as_str(), row["#MEMBERS"].as_str()),
        ("Stable", "2"),
        "{state:?}"
    );
    assert!(state.stdout.contains(&broker.bootstrap()), "{state:?}");

    let listed = consumer_groups(&broker, &["--list", "--state", "Stable"]);
    assert_eq!(table(&listed, "STATE")[0]["GROUP"], group, "{listed:?}");
    let listed = kafka_tool_at(&broker, GROUPS, &["--list"]).succeed();
    let row = &table(&listed, "PROTOCOL")[0];
    assert_eq!(
        (row["GROUP"].as_str(), row["TYPE"].as_str()),
        (group.as_str(), "Classic")
    );
    assert_eq!(row["PROTOCOL"], "consumer", "{listed:?}");

    // A group with members is neither reset nor deleted.
    let reset = [
        "--reset-offsets",
        "--group",
        &group,
        "--topic",
        &topic,
        "--to-earliest",
    ];
    let refused = consumer_groups(&broker, &[&reset[..], &["--execute"]].concat());
    let reason = format!("Assignments can only be reset if the group '{group}' is inactive");
    assert!(refused.stdout.contains(&reason), "{refused:?}");
    let refused = consumer_groups(&broker, &["--delete", "--group", &group]);
    assert!(
        refused.stdout.contains("GroupNotEmptyException"),
        "{refused:?}"
    );

    // One leaves: the other reads on in its place, long before a session could end.
    second.signal(Signal::TERM);
    second.wait(PATIENCE).expect("it ends");
    produce(&broker, &topic, 10..11);
    for partition in 0..4 {
        wait_line(&first, &format!("value {partition} 10"));
    }

    // One crashes: the other one takes over when its session has ended.
    let third = console_consumer(&broker, &topic, &group);
    wait_table(&broker, &members, "#PARTITIONS", |rows| {
        rows.len() == 2 && rows.iter().all(|row| row["#PARTITIONS"] == "2")
    });
    first.signal(Signal::KILL);
    first.wait(PATIENCE).expect("it ends");
    produce(&broker, &topic, 11..12);
    for partition in 0..4 {
        wait_line(&third, &format!("value {partition} 11"));
    }
    third.signal(Signal::TERM);
    third.wait(PATIENCE).expect("it ends");

    // Everything was read, and nothing that was committed was read again.
    let mut read: BTreeMap<String, usize> = BTreeMap::new();
    for consumer in [&first, &second, &third] {
        assert!(consumer.stdout.wait_for_end(PATIENCE));
        for line in consumer.stdout.all() {
            *read.entry(line).or_default() += 1;
        }
    }
    let values = (0..4).flat_map(|partition| (0..12).map(move |n| (partition, n)));
    for (partition, n) in values {
        let value = format!("value {partition} {n}");
        let times = read.get(&value).copied().unwrap_or(0);
        // The crash may have come before the last automatic commit.
        let fine = times == 1 || n == 10 && times == 2;
        assert!(fine, "{value:?} was read {times} times");
    }

    let empty = consumer_groups(&broker, &["--describe", "--group", &group]);
    let reason = format!("Consumer group '{group}' has no active members.");
    let told = format!("{}{}", empty.stdout, empty.stderr);
    assert!(told.contains(&reason), "{empty:?}");
    let rows = table(&empty, "CURRENT-OFFSET");
    assert!(
        rows.iter()
            .all(|row| row["LAG"] == "0" && row["CONSUMER-ID"] == "-"),
        "{empty:?}"
    );
    let deleted = consumer_groups(&broker, &["--delete", "--group", &group]);
    assert!(deleted.stdout.contains("was successful"), "{deleted:?}");
    let gone = consumer_groups(&broker, &["--describe", "--group", &group]);
    let told = format!("{}{}", gone.stdout, gone.stderr);
    assert!(
        told.contains(&format!("Group {group} not found")),
        "{gone:?}"
    );
}

#[test]
fn the_offsets_topic_is_readable_with_the_formatters() {
    let folder = TempDir::new("java-formatters");
    let broker = groups::broker(&folder);
    let (topic, group) = (unique("told"), unique("group"));
    produce(&broker, &topic, 0..10);
    let member = [
        "-G",
        &group,
        "-e",
        "-c",
        "40",
        "-X",
        "auto.offset.reset=earliest",
    ];
    let read = kcat(&broker).args(member).args([topic.clone()]).succeed();
    assert_eq!(read.lines().len(), 40, "{read:?}");

    let formatted = |formatter: &str| -> Vec<Value> {
        let class = format!("org.apache.kafka.tools.consumer.{formatter}");
        let args = ["--topic", "__consumer_offsets", "--from-beginning"];
        let output = kafka_tool_at(&broker, CONSUMER, &args)
            .args(["--timeout-ms", "5000", "--formatter", &class])
            .finish();
        // The formatters print no line ends between records.
        let values = serde_json::Deserializer::from_str(&output.stdout).into_iter();
        let values: Vec<Value> = values.map_while(Result::ok).collect();
        let own = |value: &Value| value["key"]["data"]["group"] == group.as_str();
        values.into_iter().filter(own).collect()
    };

    let mut offsets = BTreeMap::new();
    for commit in formatted("OffsetsMessageFormatter") {
        let key = &commit["key"];
        assert_eq!(
            (&key["type"], &key["data"]["topic"]),
            (&Value::from(1), &Value::from(topic.clone()))
        );
        let data = &commit["value"]["data"];
        assert!(
            data["commitTimestamp"].as_i64() > Some(1_700_000_000_000),
            "{commit}"
        );
        let partition = key["data"]["partition"].as_i64().expect("a partition");
        offsets.insert(partition, data["offset"].as_i64().expect("an offset"));
    }
    assert_eq!(offsets, (0..4).map(|partition| (partition, 10)).collect());

    let told = formatted("GroupMetadataMessageFormatter");
    assert!(told.iter().all(|each| each["key"]["type"] == 2), "{told:?}");
    let of_one =
        |each: &&Value| each["value"]["data"]["members"].as_array().map(Vec::len) == Some(1);
    let stable = told.iter().find(of_one);
    let stable = &stable.unwrap_or_else(|| panic!("no member in {told:?}"))["value"]["data"];
    assert_eq!(stable["protocolType"], "consumer", "{stable}");
    assert_eq!(stable["protocol"], "range", "{stable}");
    let member = &stable["members"][0];
    assert_eq!(member["clientId"], "rdkafka", "{member}");
    assert_eq!(member["memberId"], stable["leader"], "{member}");
    assert_eq!(member["clientHost"], "/127.0.0.1", "{member}");
    let last = &told.last().expect("records")["value"]["data"];
    assert_eq!(
        last["members"],
        Value::Array(Vec::new()),
        "it has left: {last}"
    );
    assert!(
        last["generation"].as_i64() > stable["generation"].as_i64(),
        "{last}"
    );
}
