//! One round trip with every client that has an administrator's API: topics, configurations and groups are made, listed,
//! described, altered and deleted.
//!
//! The programs of `compat/*` run it as `admin BOOTSTRAP STEP ...`, where a step is `name` or `name=argument,...`, and
//! print `{"step": name}` for each, with what is asked for below. Called by `clients_*.rs`; panics, with the client's
//! output, on the first difference.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::groups::broker;
use crate::member::{Commit, GroupClient, JsonClient, Member};
use crate::{Broker, TempDir, clients, unique};

/// How a client alters the configuration of a topic: one key of it, or the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alter {
    /// IncrementalAlterConfigs.
    OneKey,
    /// AlterConfigs.
    Whole,
}

/// Does the round trip. Steps that the client has no call for are named in `without`, and in its `excluded.txt`.
pub fn topics_configs_and_groups_are_managed(
    name: &str,
    client: &JsonClient,
    alters: &[Alter],
    without: &[&str],
) {
    let folder = TempDir::new(name);
    let broker = broker(&folder);
    let admin = Admin {
        broker: &broker,
        client,
        without,
    };
    let (topic, read, group) = (unique("made"), unique("read"), unique("group"));

    let made = admin.run(&[
        format!("create-topic={topic},3"),
        "list-topics".to_owned(),
        format!("describe-topic={topic}"),
        format!("grow-topic={topic},5"),
    ]);
    contains(&made, "list-topics", "topics", &topic);
    assert_eq!(made["describe-topic"]["partitions"], json!(3), "{made}");
    for (alter, retention) in alters.iter().zip(["1234567", "7654321"]) {
        let step = match alter {
            Alter::OneKey => "alter-config",
            Alter::Whole => "alter-config-whole",
        };
        admin.run(&[format!("{step}={topic},retention.ms,{retention}")]);
        // Apache Kafka's controller answers before its broker knows; clients keep what they know for a while.
        let configs = (0..10).map(|_| {
            let mut answers = admin.run(&[format!("describe-config={topic}")]);
            answers["describe-config"]["configs"].take()
        });
        let altered = |configs: &Value| configs["retention.ms"] == json!(retention);
        let configs = configs.into_iter().find(altered);
        let configs = configs.unwrap_or_else(|| panic!("{alter:?}: retention.ms={retention}"));
        assert_eq!(configs["cleanup.policy"], json!("delete"), "{alter:?}");
    }

    let committed = commit_some(&broker, client, &read, &group, |member| {
        let seen = admin.run(&[
            format!("describe-topic={topic}"),
            "broker-config".to_owned(),
            "list-groups".to_owned(),
            format!("describe-group={group}"),
        ]);
        assert_eq!(seen["describe-topic"]["partitions"], json!(5), "{seen}");
        let broker = &seen["broker-config"]["configs"];
        assert_eq!(broker["num.partitions"], json!("4"), "{broker}");
        assert_eq!(broker["message.max.bytes"], json!("1048588"), "{broker}");
        contains(&seen, "list-groups", "groups", &group);
        assert_eq!(seen["describe-group"]["state"], json!("Stable"), "{seen}");
        assert_eq!(seen["describe-group"]["members"], json!(1), "{seen}");
        member.leave();
    });

    let left = admin.run(&[
        format!("describe-group={group}"),
        format!("group-offsets={group}"),
        format!("delete-group={group}"),
        format!("delete-topic={topic}"),
    ]);
    assert_eq!(left["describe-group"]["state"], json!("Empty"), "{left}");
    assert_eq!(left["describe-group"]["members"], json!(0), "{left}");
    if let Some(offsets) = left["group-offsets"]["offsets"].as_array() {
        let offsets: BTreeSet<String> = offsets.iter().map(Value::to_string).collect();
        assert_eq!(offsets, committed, "{left}");
    } else {
        assert!(without.contains(&"group-offsets"), "{left}");
    }

    let gone = admin.run(&["list-topics".to_owned(), "list-groups".to_owned()]);
    assert!(
        !names(&gone, "list-topics", "topics").contains(&topic),
        "{gone}"
    );
    contains(&gone, "list-topics", "topics", &read);
    let deleted = !without.contains(&"delete-group");
    let listed = names(&gone, "list-groups", "groups").contains(&group);
    assert_eq!(listed, !deleted, "{gone}");
}

struct Admin<'a> {
    broker: &'a Broker,
    client: &'a JsonClient,
    without: &'a [&'a str],
}

impl Admin<'_> {
    /// Runs the steps that the client has, and returns their answers by name.
    fn run(&self, steps: &[String]) -> Value {
        let name = |step: &str| step.split('=').next().unwrap_or_default().to_owned();
        let steps: Vec<&String> = steps
            .iter()
            .filter(|step| !self.without.contains(&name(step).as_str()))
            .collect();
        let output = (self.client.program)()
            .args(["admin", &self.broker.bootstrap()])
            .args(self.client.member.to_vec())
            .args(steps.clone())
            .succeed();
        let mut answers = json!({});
        for line in output.lines() {
            let answer: Value = serde_json::from_str(line).expect("the client prints JSON lines");
            let step = answer["step"].as_str().expect("the step's name").to_owned();
            answers[step] = answer;
        }
        let answered: BTreeSet<String> = answers
            .as_object()
            .map(|answers| answers.keys().cloned().collect())
            .unwrap_or_default();
        let asked: BTreeSet<String> = steps.iter().map(|step| name(step)).collect();
        assert_eq!(answered, asked, "{output:?}");
        answers
    }
}

/// Runs a group of one member that reads and commits some records, and `meanwhile`, which has to end the member.
/// Returns the committed offsets as JSON: topic, partition, offset.
fn commit_some(
    broker: &Broker,
    client: &JsonClient,
    topic: &str,
    group: &str,
    meanwhile: impl FnOnce(&Member),
) -> BTreeSet<String> {
    let lines = clients::wordnet_lines();
    let lines: Vec<&str> = lines
        .iter()
        .step_by(531)
        .take(40)
        .map(String::as_str)
        .collect();
    let records = client.records(1, &lines);
    let places = client.produce(broker, topic, 1, &records);
    let member = Member::join("A", client, broker, (topic, group), Commit::Each);
    member.wait_read(&places.into_iter().flatten().collect());
    meanwhile(&member);
    let committed = member.committed().into_iter();
    committed
        .map(|(partition, offset)| json!([topic, partition, offset]).to_string())
        .collect()
}

fn names(answers: &Value, step: &str, list: &str) -> Vec<String> {
    let listed = answers[step][list].as_array();
    let listed = listed.unwrap_or_else(|| panic!("{list} of {step} in {answers}"));
    let names = listed.iter().filter_map(|name| name.as_str());
    names.map(str::to_owned).collect()
}

fn contains(answers: &Value, step: &str, list: &str, name: &str) {
    let names = names(answers, step, list);
    assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
}
