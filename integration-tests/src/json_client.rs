//! The programs of `compat/*` that speak JSON lines, as clients that produce and join groups.
//!
//! `produce BOOTSTRAP TOPIC SETTING ...` reads `{"key", "value", "headers"}` from standard input and prints one
//! `{"line", "partition", "offset"}` for each line, offset -1 where the client knows none. For `member` see `member.rs`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Broker;
use crate::member::{Commit, Event, GroupClient, Place, Sent, What};
use crate::process::Run;

/// A program of `compat/*` that knows the commands `produce` and `member`.
pub struct JsonClient {
    /// A fresh run of it.
    pub program: fn() -> Run,
    /// Settings of its producer, by round: the first is its defaults; the last ones are repeated.
    pub produce: &'static [&'static [&'static str]],
    /// Settings of its members.
    pub member: &'static [&'static str],
}

impl GroupClient for JsonClient {
    fn produce(
        &self,
        broker: &Broker,
        topic: &str,
        round: usize,
        records: &[Sent],
    ) -> Vec<Option<Place>> {
        let settings = self.produce[round % self.produce.len()];
        let input: String = records.iter().map(as_json).collect();
        let output = (self.program)()
            .args(["produce", &broker.bootstrap(), topic])
            .args(settings.to_vec())
            .stdin(input)
            .succeed();
        let mut places = BTreeMap::new();
        for line in output.lines() {
            let answer: Value = serde_json::from_str(line).expect("the client prints JSON lines");
            let offset = number(&answer, "offset");
            let place = (offset >= 0).then(|| (number(&answer, "partition") as i32, offset));
            let line = number(&answer, "line") as usize;
            assert_eq!(
                places.insert(line, place),
                None,
                "line {line} acknowledged twice"
            );
        }
        let lines: Vec<usize> = places.keys().copied().collect();
        let all: Vec<usize> = (0..records.len()).collect();
        assert_eq!(lines, all, "{settings:?}: every record acknowledged");
        places.into_values().collect()
    }

    fn member(&self, broker: &Broker, topic: &str, group: &str, commit: Commit) -> Run {
        let commit = match commit {
            Commit::Each => "each".to_owned(),
            Commit::None => "none".to_owned(),
            Commit::First(count) => count.to_string(),
        };
        (self.program)()
            .args(["member", &broker.bootstrap(), topic, group, &commit])
            .args(self.member.to_vec())
    }

    fn events(&self, line: &str) -> Vec<Event> {
        let told: Value = serde_json::from_str(line).expect("the client prints JSON lines");
        let partitions = || {
            let listed = told["partitions"].as_array().expect("partitions");
            listed
                .iter()
                .map(|each| each.as_i64().expect("a partition") as i32)
                .collect()
        };
        let place = || (number(&told, "partition") as i32, number(&told, "offset"));
        let what = match told["event"].as_str() {
            Some("assigned") => What::Assigned(partitions()),
            Some("revoked") => What::Revoked(partitions()),
            Some("record") => What::Record {
                place: place(),
                key: told["key"].as_str().map(str::to_owned),
                value: told["value"].as_str().expect("a value").to_owned(),
            },
            Some("committed") => What::Committed(place()),
            Some("leaving") => What::Leaving,
            Some("left") => What::Left,
            _ => panic!("no event: {line}"),
        };
        let at = Some(number(&told, "at"));
        vec![Event { at, what }]
    }
}

fn as_json(record: &Sent) -> String {
    let Sent { key, value } = record;
    serde_json::json!({"key": key, "value": value, "headers": []}).to_string() + "\n"
}

fn number(answer: &Value, name: &str) -> i64 {
    let found = answer[name].as_i64();
    found.unwrap_or_else(|| panic!("{name} in {answer}"))
}
