//! Apache Kafka's own verifiable producer and consumer of 4.3.1 as members of a group, and its test of what a client
//! may expect of a broker.

use std::collections::BTreeMap;

use ottla_integration_tests::clients::{kafka_tool, kafka_tool_at};
use ottla_integration_tests::member::{Commit, Event, GroupClient, Place, Sent, What};
use ottla_integration_tests::{Broker, Run, TempDir, groups, unique};
use serde_json::Value;

/// The classic Java consumer. It commits what it reads after every poll, also when the story asks for nothing: the
/// member that crashes leaves nothing behind then.
struct Verifiable {
    folder: TempDir,
}

impl GroupClient for Verifiable {
    /// The verifiable producer counts its own values, behind a prefix.
    fn records(&self, round: usize, lines: &[&str]) -> Vec<Sent> {
        let record = |index: usize| Sent {
            key: (index % 20).to_string(),
            value: format!("{round}.{index}"),
        };
        (0..lines.len()).map(record).collect()
    }

    fn produce(
        &self,
        broker: &Broker,
        topic: &str,
        round: usize,
        records: &[Sent],
    ) -> Vec<Option<Place>> {
        let (count, prefix) = (records.len().to_string(), round.to_string());
        let class = "org.apache.kafka.tools.VerifiableProducer";
        let args = ["--topic", topic, "--max-messages", &count];
        let counted = ["--value-prefix", &prefix, "--repeating-keys", "20"];
        let output = kafka_tool_at(broker, class, &args).args(counted).succeed();
        let mut places = BTreeMap::new();
        for line in output.lines() {
            let told: Value = serde_json::from_str(line).expect("JSON lines");
            if told["name"] == "producer_send_success" {
                let value = text(&told, "value");
                assert_eq!(places.insert(value.clone(), place(&told)), None, "{value}");
            }
        }
        let found = records.iter().map(|record| places.get(&record.value));
        found.map(Option::<&Place>::copied).collect()
    }

    fn member(&self, broker: &Broker, topic: &str, group: &str, commit: Commit) -> Run {
        let file = self.folder.path().join("consumer.properties");
        let settings = "heartbeat.interval.ms=500\nreconnect.backoff.max.ms=500\n";
        std::fs::write(&file, settings).expect("a file in the test's folder");
        let file = file.display().to_string();
        let run = kafka_tool_at(
            broker,
            "org.apache.kafka.tools.VerifiableConsumer",
            &["--topic", topic, "--group-id", group, "--verbose"],
        )
        .args(["--session-timeout", "6000", "--reset-policy", "earliest"])
        .args(["--command-config", &file]);
        match commit {
            Commit::Each | Commit::None => run,
            Commit::First(count) => run.args(["--max-messages", &count.to_string()]),
        }
    }

    fn events(&self, line: &str) -> Vec<Event> {
        let told: Value = serde_json::from_str(line).expect("JSON lines");
        let at = told["timestamp"].as_i64().map(|at| at * 1000);
        let partitions = || {
            let listed = told["partitions"].as_array().expect("partitions");
            let partition = |each: &Value| each["partition"].as_i64().expect("a partition") as i32;
            listed.iter().map(partition).collect()
        };
        let what = match told["name"].as_str() {
            Some("partitions_assigned") => What::Assigned(partitions()),
            Some("partitions_revoked") => What::Revoked(partitions()),
            Some("record_data") => What::Record {
                place: place(&told),
                key: told["key"].as_str().map(str::to_owned),
                value: text(&told, "value"),
            },
            Some("offsets_committed") if told["success"] == true => {
                let offsets = told["offsets"].as_array().expect("offsets");
                let event = |each: &Value| Event {
                    at,
                    what: What::Committed(place(each)),
                };
                return offsets.iter().map(event).collect();
            }
            Some("shutdown_requested") => What::Leaving,
            Some("shutdown_complete") => What::Left,
            Some(_) => return Vec::new(),
            None => panic!("no event: {line}"),
        };
        vec![Event { at, what }]
    }

    fn ends_after_first(&self) -> bool {
        true
    }

    /// A JVM that ends in its own good time after SIGTERM still tells the signal.
    fn status_after_sigterm(&self) -> i32 {
        143
    }
}

fn text(told: &Value, name: &str) -> String {
    told[name].as_str().expect("a text").to_owned()
}

fn place(told: &Value) -> Place {
    let number = |name: &str| told[name].as_i64().expect("a number");
    (number("partition") as i32, number("offset"))
}

#[test]
fn members_share_leave_crash_and_resume() {
    let client = Verifiable {
        folder: TempDir::new("java-verifiable-settings"),
    };
    groups::members_share_leave_crash_and_resume("java-verifiable", &client);
}

#[test]
fn the_client_compatibility_test_finds_everything_it_asks_for() {
    let folder = TempDir::new("java-compatibility");
    let broker = groups::broker(&folder);
    let expected = [
        ("offsets-for-times-supported", "true"),
        ("cluster-id-supported", "true"),
        ("expect-record-too-large-exception", "false"),
        ("num-cluster-nodes", "1"),
        ("create-topics-supported", "true"),
        // Supported means answered; a broker without an authorizer answers that security is disabled.
        ("describe-acls-supported", "true"),
        ("describe-configs-supported", "true"),
        ("idempotent-producer-supported", "true"),
    ];
    let mut run = kafka_tool("org.apache.kafka.tools.ClientCompatibilityTest").args([
        "--bootstrap-server",
        &broker.bootstrap(),
        "--topic",
        &unique("compatibility"),
    ]);
    for (name, value) in expected {
        run = run.args([format!("--{name}"), value.to_owned()]);
    }
    let output = run.succeed();
    assert_eq!(output.lines().last(), Some(&"SUCCESS."), "{output:?}");
}
