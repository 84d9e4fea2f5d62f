//! The textbook scenario: a topic with two partitions and a group of one, two, then three consumers, of which one
//! idles; one dies and the idle one takes over; committed offsets, reset to the start, the end, a time and by a
//! shift; replay from the start.
//!
//! Members are franz-go, the resets are Kafka's own console tool.

use std::collections::{BTreeMap, BTreeSet};

use ottla_integration_tests::clients::{franz_go, kafka_tool, kcat};
use ottla_integration_tests::json_client::JsonClient;
use ottla_integration_tests::member::{
    Commit, Event, GroupClient, Member, Place, Sent, What, owned,
};
use ottla_integration_tests::{Broker, TempDir, unique};

const MEMBERS: JsonClient = JsonClient {
    program: franz_go,
    produce: &[&[]],
    member: &["balancer=range"],
};

/// A topic with its group and what is written so far.
struct Textbook {
    broker: Broker,
    topic: String,
    group: String,
    written: Vec<Place>,
}

impl Textbook {
    /// Writes `count` records and answers where they lie.
    fn write(&mut self, count: usize) -> BTreeSet<Place> {
        let from = self.written.len();
        let records: Vec<Sent> = (from..from + count)
            .map(|number| Sent {
                key: format!("key-{}", number % 17),
                value: format!("value-{number}"),
            })
            .collect();
        let places = MEMBERS.produce(&self.broker, &self.topic, 0, &records);
        let places: Vec<Place> = places
            .into_iter()
            .map(|place| place.expect("franz-go knows its places"))
            .collect();
        self.written.extend(&places);
        places.into_iter().collect()
    }

    fn join(&self, name: &'static str) -> Member<'_> {
        let names = (self.topic.as_str(), self.group.as_str());
        Member::join(name, &MEMBERS, &self.broker, names, Commit::Each)
    }

    /// The end of each partition.
    fn ends(&self) -> BTreeMap<i32, i64> {
        let mut ends = BTreeMap::new();
        for (partition, offset) in &self.written {
            let end: &mut i64 = ends.entry(*partition).or_default();
            *end = (*end).max(offset + 1);
        }
        ends
    }

    /// Runs the reset and answers the offsets it says it has set.
    fn reset(&self, how: &[&str]) -> BTreeMap<i32, i64> {
        let output = self.console(
            &[
                &["--reset-offsets", "--topic", &self.topic, "--execute"],
                how,
            ]
            .concat(),
        );
        let rows = output
            .iter()
            .filter(|row| row[0] == self.group && row[1] == self.topic);
        rows.map(|row| {
            let number = |text: &String| text.parse::<i64>().expect("a number");
            (number(&row[2]) as i32, number(&row[3]))
        })
        .collect()
    }

    /// The committed offsets and the lag, as the console tool describes them.
    fn described(&self) -> BTreeMap<i32, (i64, i64)> {
        let output = self.console(&["--describe"]);
        let rows = output
            .iter()
            .filter(|row| row.len() > 5 && row[1] == self.topic);
        rows.map(|row| {
            let number = |text: &String| text.parse::<i64>().expect("a number");
            (number(&row[2]) as i32, (number(&row[3]), number(&row[5])))
        })
        .collect()
    }

    fn console(&self, arguments: &[&str]) -> Vec<Vec<String>> {
        let bootstrap = self.broker.bootstrap();
        let output = kafka_tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand")
            .args(["--bootstrap-server", &bootstrap, "--group", &self.group])
            .args(arguments.to_vec())
            .succeed();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        let lines = output
            .lines()
            .into_iter()
            .filter(|line| !line.trim().is_empty());
        lines.map(words).collect()
    }
}

fn partitions(member: &Member<'_>) -> BTreeSet<i32> {
    owned(&member.events()).unwrap_or_default()
}

fn revocations(member: &Member<'_>) -> usize {
    let events = member.events();
    let revoked = |event: &&Event| matches!(event.what, What::Revoked(_));
    events.iter().filter(revoked).count()
}

#[test]
fn the_textbook_scenario_of_a_consumer_group() {
    let folder = TempDir::new("textbook");
    let properties = [
        ("num.partitions", "2"),
        ("group.initial.rebalance.delay.ms", "0"),
    ];
    let broker = Broker::small(folder.path(), &properties);
    let mut book = Textbook {
        broker,
        topic: unique("textbook"),
        group: unique("group"),
        written: Vec::new(),
    };
    let first = book.write(100);
    assert_eq!(book.ends().len(), 2, "both partitions hold records");

    // One consumer has both partitions.
    let one = book.join("one");
    assert_eq!(one.wait_owned(2), BTreeSet::from([0, 1]));
    one.wait_read(&first);
    one.crash();

    // Two have one each, three leave one idle. The crashed one is replaced when its session is over.
    let (a, b) = (book.join("a"), book.join("b"));
    let shares = [a.wait_owned(1), b.wait_owned(1)];
    assert!(shares[0].is_disjoint(&shares[1]), "{shares:?}");
    let before = [revocations(&a), revocations(&b)];
    let c = book.join("c");
    // Which of them idles is the assignor's choice; all three look until it is made.
    let mut tries = 0;
    let idler = loop {
        let rebalanced = revocations(&a) > before[0] && revocations(&b) > before[1];
        let owned: Vec<_> = [&a, &b, &c].map(partitions).into();
        let all: usize = owned.iter().map(BTreeSet::len).sum();
        let without = owned.iter().position(BTreeSet::is_empty);
        if let Some(index) = without.filter(|_| rebalanced && all == 2) {
            break index;
        }
        tries += 1;
        assert!(
            tries < 300,
            "three share two partitions like this: {owned:?}"
        );
        c.wait_a_moment();
    };
    let second: Vec<&Member<'_>> = [&a, &b, &c]
        .into_iter()
        .enumerate()
        .filter_map(|(index, member)| (index != idler).then_some(member))
        .collect();
    let idle = [&a, &b, &c][idler];

    // One of the two that work dies: the idle one takes over.
    let lost = partitions(second[0]);
    second[0].crash();
    let taken = idle.wait("the owner of the partition of the dead one", |events| {
        owned(events).filter(|owned| !owned.is_empty())
    });
    let other = second[1].wait_owned(1);
    assert!(taken.is_disjoint(&other), "{taken:?} and {other:?}");
    assert!(taken.union(&other).count() == 2 && lost.len() == 1);

    // They leave, and what they committed stays.
    idle.leave();
    second[1].leave();
    let ends = book.ends();
    let committed = |lag: i64| -> BTreeMap<i32, (i64, i64)> {
        ends.iter()
            .map(|(partition, end)| (*partition, (*end - lag, lag)))
            .collect()
    };
    assert_eq!(book.described(), committed(0));

    // Reset to the start, the end, by a shift, to a time.
    let zero: BTreeMap<i32, i64> = ends.keys().map(|partition| (*partition, 0)).collect();
    assert_eq!(book.reset(&["--to-earliest"]), zero);
    assert_eq!(book.reset(&["--to-latest"]), ends);
    let back: BTreeMap<i32, i64> = ends
        .iter()
        .map(|(partition, end)| (*partition, end - 7))
        .collect();
    assert_eq!(book.reset(&["--shift-by", "-7"]), back);
    assert_eq!(book.described(), committed(7));
    assert_eq!(
        book.reset(&["--to-datetime", "2001-01-01T00:00:00.000"]),
        zero
    );
    let times = kcat(&book.broker)
        .args([
            "-C",
            "-t",
            &book.topic,
            "-o",
            "beginning",
            "-e",
            "-q",
            "-f",
            "%T\n",
        ])
        .succeed();
    assert!(
        times
            .lines()
            .iter()
            .all(|time| time.parse::<i64>().is_ok_and(|ms| ms > 0))
    );

    // Replay from the start, with what came meanwhile.
    let mut all = first;
    all.extend(book.write(20));
    let again = book.join("again");
    again.wait_read(&all);
    again.leave();
    let ends = book.ends();
    let described: BTreeMap<i32, (i64, i64)> = ends
        .iter()
        .map(|(partition, end)| (*partition, (*end, 0)))
        .collect();
    assert_eq!(book.described(), described);
}
