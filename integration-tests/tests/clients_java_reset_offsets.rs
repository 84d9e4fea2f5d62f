//! Every way in which Apache Kafka's own kafka-consumer-groups of 4.3.1 resets and deletes committed offsets, against a
//! real broker.

use std::collections::BTreeMap;

use ottla_integration_tests::clients::{confluent_kafka, kafka_tool_at};
use ottla_integration_tests::{Broker, Output, TempDir, groups, unique};
use serde_json::json;

const CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const CONSUMER_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
/// The first half of the records is stamped from here on, ten seconds apart; the second half with the clock.
const LONG_AGO: i64 = 1_700_000_000_000;

struct Group {
    broker: Broker,
    topic: String,
    group: String,
    folder: TempDir,
}

impl Group {
    fn run(&self, command: &str, args: &[&str]) -> Output {
        kafka_tool_at(
            &self.broker,
            CONSUMER_GROUPS,
            &[command, "--group", &self.group],
        )
        .args(args.to_vec())
        .succeed()
    }

    /// New offsets by partition as a reset prints them.
    fn reset(&self, args: &[&str]) -> BTreeMap<i32, i64> {
        let output = self.run("--reset-offsets", args);
        self.column(&output, "NEW-OFFSET")
    }

    fn reset_topic(&self, args: &[&str]) -> BTreeMap<i32, i64> {
        self.reset(&[&["--topic", &self.topic], args].concat())
    }

    /// What is committed.
    fn committed(&self) -> BTreeMap<i32, i64> {
        let output = self.run("--describe", &["--offsets"]);
        self.column(&output, "CURRENT-OFFSET")
    }

    fn column(&self, output: &Output, column: &str) -> BTreeMap<i32, i64> {
        let mut lines = output.stdout.lines().map(|line| line.split_whitespace());
        let head = lines.find_map(|mut words| words.position(|word| word == column));
        let Some(head) = head else {
            panic!("no column {column} in {output:?}");
        };
        let mut found = BTreeMap::new();
        for row in lines {
            let row: Vec<&str> = row.collect();
            if row.first() == Some(&self.group.as_str()) {
                assert_eq!(row[1], self.topic, "{output:?}");
                let number = |text: &str| text.parse::<i64>().expect("a number");
                found.insert(number(row[2]) as i32, number(row[head]));
            }
        }
        found
    }
}

fn at(offsets: [i64; 2]) -> BTreeMap<i32, i64> {
    (0..2).zip(offsets).collect()
}

/// Two partitions of ten records each.
fn group(name: &str) -> Group {
    let folder = TempDir::new(name);
    let broker = groups::broker(&folder);
    let group = Group {
        broker,
        topic: unique("reset"),
        group: unique("group"),
        folder,
    };
    let class = "org.apache.kafka.tools.TopicCommand";
    let create = ["--create", "--topic", &group.topic, "--partitions", "2"];
    // Records of long ago are not to be deleted because of their age.
    kafka_tool_at(&group.broker, class, &create)
        .args(["--config", "retention.ms=-1"])
        .succeed();
    let mut records = String::new();
    for (partition, n) in (0..2).flat_map(|partition| (0..10).map(move |n| (partition, n))) {
        let mut record = json!({"key": null, "value": format!("value {partition} {n}"),
            "headers": [], "partition": partition});
        if n < 5 {
            record["timestamp"] = json!(LONG_AGO + 10_000 * n);
        }
        records.push_str(&format!("{record}\n"));
    }
    confluent_kafka("client.py")
        .args(["produce", &group.broker.bootstrap(), &group.topic])
        .stdin(records)
        .succeed();
    group
}

#[test]
fn offsets_are_reset_in_every_way_and_found_by_the_next_consumer() {
    let group = group("java-reset");
    // A group that nobody has heard of yet.
    assert_eq!(
        group.reset_topic(&["--to-latest", "--dry-run"]),
        at([10, 10])
    );
    assert_eq!(
        group.reset_topic(&["--to-latest", "--execute"]),
        at([10, 10])
    );
    assert_eq!(group.committed(), at([10, 10]));

    assert_eq!(
        group.reset_topic(&["--to-earliest", "--dry-run"]),
        at([0, 0])
    );
    assert_eq!(
        group.reset_topic(&["--shift-by", "-3", "--execute"]),
        at([7, 7])
    );
    let one = format!("{}:1", group.topic);
    let moved = group.reset(&["--topic", &one, "--to-offset", "4", "--execute"]);
    assert_eq!(moved, BTreeMap::from([(1, 4)]));
    assert_eq!(group.committed(), at([7, 4]), "a dry run changed nothing");
    assert_eq!(
        group.reset(&["--all-topics", "--to-current", "--execute"]),
        at([7, 4])
    );

    // 2023-11-14T22:13:40 is 20 s after the first record; 9,000 days ago there was none.
    let at_time = ["--to-datetime", "2023-11-14T22:13:40.000+0000", "--execute"];
    assert_eq!(group.reset_topic(&at_time), at([2, 2]));
    assert_eq!(
        group.reset_topic(&["--by-duration", "PT1H", "--execute"]),
        at([5, 5])
    );
    assert_eq!(
        group.reset_topic(&["--by-duration", "P9000D", "--dry-run"]),
        at([0, 0])
    );
    assert_eq!(
        group.reset_topic(&["--to-datetime", "2999-01-01T00:00:00.000", "--dry-run"]),
        at([10, 10])
    );
    // Beyond the ends means the ends.
    assert_eq!(
        group.reset_topic(&["--to-offset", "999", "--dry-run"]),
        at([10, 10])
    );
    assert_eq!(
        group.reset_topic(&["--shift-by", "-99", "--dry-run"]),
        at([0, 0])
    );
    assert_eq!(group.committed(), at([5, 5]));

    // Out to a file and in again.
    let exported = group.run(
        "--reset-offsets",
        &["--all-topics", "--to-current", "--export", "--dry-run"],
    );
    let mut lines: Vec<&str> = exported
        .stdout
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    lines.sort_unstable();
    let line = |partition: i32, offset: i64| format!("{},{partition},{offset}", group.topic);
    assert_eq!(lines, [line(0, 5), line(1, 5)]);
    let file = group.folder.path().join("offsets.csv");
    let wanted = format!("{}\n{}\n", line(0, 8), line(1, 3));
    std::fs::write(&file, wanted).expect("a file in the test's folder");
    let file = file.display().to_string();
    assert_eq!(
        group.reset(&["--from-file", &file, "--execute"]),
        at([8, 3])
    );

    // The next member of the group begins there.
    let args = [
        "--topic",
        &group.topic,
        "--group",
        &group.group,
        "--max-messages",
        "9",
    ];
    let read = kafka_tool_at(&group.broker, CONSUMER, &args)
        .args(["--timeout-ms", "30000"])
        .succeed();
    let mut lines = read.lines();
    lines.sort_unstable();
    let rest = (8..10).map(|n| (0, n)).chain((3..10).map(|n| (1, n)));
    let rest: Vec<String> = rest
        .map(|(partition, n)| format!("value {partition} {n}"))
        .collect();
    assert_eq!(lines, rest);
    assert_eq!(group.committed(), at([10, 10]));

    // And again from the start.
    assert_eq!(
        group.reset_topic(&["--to-earliest", "--execute"]),
        at([0, 0])
    );
    let deleted = group.run("--delete-offsets", &["--topic", &one]);
    assert!(deleted.stdout.contains("Successful"), "{deleted:?}");
    assert_eq!(group.committed(), BTreeMap::from([(0, 0)]));
    let deleted = group.run("--delete", &[]);
    assert!(deleted.stdout.contains("was successful"), "{deleted:?}");
    let listed = kafka_tool_at(&group.broker, CONSUMER_GROUPS, &["--list"]).succeed();
    assert!(
        !listed.lines().contains(&group.group.as_str()),
        "{listed:?}"
    );
}
