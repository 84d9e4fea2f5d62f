//! kcat -G, the balanced consumer of kcat 1.7, unchanged against a real broker.

use std::collections::{BTreeMap, BTreeSet};

use ottla_integration_tests::clients::{kcat, wordnet_lines};
use ottla_integration_tests::member::{Commit, Event, GroupClient, Member, Place, Sent, What};
use ottla_integration_tests::{Broker, Run, TempDir, groups, unique};

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

/// kcat as a static member (KIP-345).
struct Static(&'static str);

impl GroupClient for Static {
    fn produce(
        &self,
        broker: &Broker,
        topic: &str,
        round: usize,
        records: &[Sent],
    ) -> Vec<Option<Place>> {
        Kcat.produce(broker, topic, round, records)
    }

    fn member(&self, broker: &Broker, topic: &str, group: &str, commit: Commit) -> Run {
        let instance = format!("group.instance.id={}", self.0);
        Kcat.member(broker, topic, group, commit)
            .args(["-X", &instance])
    }

    fn events(&self, line: &str) -> Vec<Event> {
        Kcat.events(line)
    }

    fn tells_commits(&self) -> bool {
        false
    }
}

/// Assignments and revocations.
fn changes(member: &Member<'_>) -> usize {
    let events = member.events();
    let change = |event: &&Event| matches!(event.what, What::Assigned(_) | What::Revoked(_));
    events.iter().filter(change).count()
}

#[test]
fn a_static_member_that_crashes_and_starts_again_has_its_partitions_and_nobody_rebalances() {
    let folder = TempDir::new("kcat-static");
    let broker = groups::broker(&folder);
    let (topic, group) = (unique("static"), unique("group"));
    let names = (topic.as_str(), group.as_str());
    let lines = wordnet_lines();
    let mut lines = lines.iter().step_by(97).map(String::as_str);
    let mut round = || -> BTreeSet<Place> {
        let lines: Vec<&str> = lines.by_ref().take(60).collect();
        let places = Kcat.produce(&broker, &topic, 0, &Kcat.records(0, &lines));
        places.into_iter().flatten().collect()
    };
    let read_by = |member: &Member<'_>, share: &BTreeSet<i32>, places: &BTreeSet<Place>| {
        let own = places.iter().filter(|place| share.contains(&place.0));
        member.wait_read(&own.copied().collect());
    };
    let first = round();
    let (static_a, static_b) = (Static("a"), Static("b"));
    let a = Member::join("A", &static_a, &broker, names, Commit::Each);
    a.wait_owned(4);
    a.wait_read(&first);
    let b = Member::join("B", &static_b, &broker, names, Commit::Each);
    let shares = [a.wait_owned(2), b.wait_owned(2)];
    assert!(shares[0].is_disjoint(&shares[1]), "{shares:?}");
    let before = changes(&a);

    b.crash();
    let again = Member::join("B again", &static_b, &broker, names, Commit::Each);
    assert_eq!(again.wait_owned(2), shares[1], "its own partitions");
    let places = round();
    read_by(&again, &shares[1], &places);
    read_by(&a, &shares[0], &places);
    assert_eq!(changes(&a), before, "A was left alone");
    again.leave();
    a.leave();
}
