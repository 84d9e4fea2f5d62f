//! kcat -G, the balanced consumer of kcat 1.7, unchanged against a real broker.

use std::collections::BTreeMap;

use ottla_integration_tests::clients::kcat;
use ottla_integration_tests::member::{Commit, Event, GroupClient, Place, Sent, What};
use ottla_integration_tests::{Broker, Run, groups};

/// kcat as a member: it commits silently, every 100 ms, when partitions are taken away and when it ends.
struct Kcat;

impl GroupClient for Kcat {
    /// kcat does not tell what was acknowledged: the records are looked up.
    fn produce(
        &self,
        broker: &Broker,
        topic: &str,
        _round: usize,
        records: &[Sent],
    ) -> Vec<Option<Place>> {
        let lines: String = records
            .iter()
            .map(|record| format!("{}\t{}\n", record.key, record.value))
            .collect();
        let produce = kcat(broker).args(["-P", "-t", topic, "-K", "\t"]);
        produce.stdin(lines).succeed();
        let stored = kcat(broker)
            .args(["-C", "-e", "-q", "-o", "beginning", "-t", topic])
            .args(["-f", "%p\t%o\t%s\n"])
            .succeed();
        let mut places = BTreeMap::new();
        for line in stored.lines() {
            let fields: Vec<&str> = line.splitn(3, '\t').collect();
            places.insert(
                fields[2].to_owned(),
                (number(fields[0]) as i32, number(fields[1])),
            );
        }
        let found = records.iter().map(|record| places.get(&record.value));
        found.map(Option::<&Place>::copied).collect()
    }

    fn member(&self, broker: &Broker, topic: &str, group: &str, commit: Commit) -> Run {
        // Rebalances are told on standard error: one stream keeps them in order with the records.
        let run = Run::new("sh").args(["-c", "exec kcat \"$@\" 2>&1", "kcat"]);
        let bootstrap = broker.bootstrap();
        let mut args = vec![
            "-b",
            &bootstrap,
            "-G",
            group,
            "-u",
            "-E",
            "-f",
            "%p\t%o\t%k\t%s\n",
        ];
        let settings = [
            "auto.offset.reset=earliest",
            "session.timeout.ms=6000",
            "heartbeat.interval.ms=500",
            "auto.commit.interval.ms=100",
            "reconnect.backoff.max.ms=500",
        ];
        args.extend(settings.iter().flat_map(|setting| ["-X", setting]));
        let count;
        match commit {
            Commit::Each => (),
            Commit::None => args.extend(["-X", "enable.auto.commit=false"]),
            Commit::First(first) => {
                count = first.to_string();
                args.extend(["-c", &count]);
            }
        }
        args.push(topic);
        run.args(args)
    }

    fn events(&self, line: &str) -> Vec<Event> {
        let partitions = |text: &str| {
            let each = text.split(", ").filter_map(|each| each.split_once('['));
            each.map(|(_, index)| number(index.trim_end_matches(']')) as i32)
                .collect()
        };
        let what = if let Some((_, given)) = line.split_once("): assigned: ") {
            What::Assigned(partitions(given))
        } else if let Some((_, taken)) = line.split_once("): revoked: ") {
            What::Revoked(partitions(taken))
        } else if line.starts_with('%') {
            return Vec::new();
        } else {
            let fields: Vec<&str> = line.splitn(4, '\t').collect();
            let [partition, offset, key, value] = fields[..] else {
                panic!("not a record: {line}");
            };
            What::Record {
                place: (number(partition) as i32, number(offset)),
                key: Some(key.to_owned()),
                value: value.to_owned(),
            }
        };
        vec![Event { at: None, what }]
    }

    fn tells_commits(&self) -> bool {
        false
    }

    fn ends_after_first(&self) -> bool {
        true
    }
}

fn number(text: &str) -> i64 {
    let number = text.parse();
    number.unwrap_or_else(|_| panic!("not a number: {text}"))
}

#[test]
fn members_share_leave_crash_and_resume() {
    groups::members_share_leave_crash_and_resume("kcat-group", &Kcat);
}
