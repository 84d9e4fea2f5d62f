//! Compaction by a real broker process: which records are left, what a kill in the middle leaves, and what becomes of
//! committed offsets.

mod client;

use std::collections::BTreeMap;
use std::path::Path;

use client::{Client, Record, batch};
use ottla_integration_tests::broker::free_port;
use ottla_integration_tests::{Broker, TempDir, seed};

const TOPIC: &str = "latest";

/// Cleaned as soon as anything is dirty.
const EAGER: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("min.cleanable.dirty.ratio", "0.01"),
];

/// A broker whose cleaner hardly rests.
fn start(folder: &Path, more: &[(&str, &str)]) -> Broker {
    let listener = format!("PLAINTEXT://127.0.0.1:{}", free_port());
    let usual = [
        ("listeners", listener.as_str()),
        ("log.cleaner.backoff.ms", "5"),
    ];
    Broker::start(folder, &[&usual, more].concat())
}

/// The newest record of each key, in the order of the log.
fn newest(written: &[Record]) -> Vec<Record> {
    let mut newest: BTreeMap<&[u8], &Record> = BTreeMap::new();
    for record in written {
        newest.insert(&record.key, record);
    }
    let mut left: Vec<Record> = newest.into_values().cloned().collect();
    left.sort_unstable_by_key(|record| record.offset);
    left
}

/// Writes batches of records with few keys and some tombstones, and notes them.
fn write(client: &mut Client, random: &mut fastrand::Rng, batches: usize, all: &mut Vec<Record>) {
    for _ in 0..batches {
        let records: Vec<(String, Option<String>)> = (0..random.usize(1..20))
            .map(|_| {
                let key = format!("key {}", random.u8(0..40));
                let value = (random.u8(0..8) > 0).then(|| format!("value {}", random.u32(..)));
                (key, value)
            })
            .collect();
        let borrowed: Vec<(&str, Option<&str>)> = records
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
            .collect();
        let now_ms = client.now_ms();
        let base = client.produce(TOPIC, batch(now_ms, &borrowed));
        let noted = records.into_iter().zip(base..);
        all.extend(noted.map(|((key, value), offset)| Record {
            offset,
            key: key.into_bytes(),
            value: value.map(String::into_bytes),
        }));
    }
}

#[test]
fn the_newest_record_of_each_key_stays_where_it_was() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new("compaction");
    let broker = start(folder.path(), &[]);
    let mut client = Client::of(&broker);
    client.create(TOPIC, EAGER);
    let mut written = Vec::new();
    for _ in 0..3 {
        write(&mut client, &mut random, 40, &mut written);
        let wanted = newest(&written);
        let what = "only the newest records are left";
        client.wait_for(TOPIC, what, |records| records == wanted);
    }
}

#[test]
fn a_tombstone_goes_after_its_time() {
    let folder = TempDir::new("tombstones");
    let broker = start(folder.path(), &[]);
    let mut client = Client::of(&broker);
    client.create(TOPIC, &[EAGER, &[("delete.retention.ms", "300")]].concat());
    client.put(TOPIC, "gone", Some("value"));
    let tombstone = client.put(TOPIC, "gone", None);
    client.put(TOPIC, "stays", Some("0"));
    let left = client.wait_for(TOPIC, "the value goes", |records| {
        records.iter().all(|record| record.offset > 0)
    });
    let has_tombstone = |records: &[Record]| records.iter().any(|held| held.offset == tombstone);
    assert!(has_tombstone(&left), "{left:?}");
    // A round needs something dirty.
    let mut last = 0;
    while has_tombstone(&client.records(TOPIC)) {
        last = client.put(TOPIC, "stays", Some("again"));
        client.wait_for(TOPIC, "a round is made", |records| {
            let stays = records.iter().filter(|record| record.key == b"stays");
            stays.count() == 1
        });
    }
    assert!(last > tombstone, "not in the first round");
    let left: Vec<_> = client.records(TOPIC);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        (left[0].offset, left[0].key.as_slice()),
        (last, &b"stays"[..])
    );
}

#[test]
fn kills_in_the_middle_of_rounds_lose_no_newest_record() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new("compaction-kills");
    // Many small steps and rounds.
    let small = [
        ("log.cleaner.io.buffer.size", "1000"),
        ("log.cleaner.dedupe.buffer.size", "1000"),
    ];
    let mut broker = start(folder.path(), &small);
    broker.allow_log("unclean");
    let mut client = Client::of(&broker);
    client.create(TOPIC, EAGER);
    let mut written = Vec::new();
    for _ in 0..10 {
        let batches = random.usize(1..60);
        write(&mut client, &mut random, batches, &mut written);
        broker.kill9();
        broker.restart();
        client = Client::of(&broker);
        let held = client.records(TOPIC);
        assert!(held.is_sorted_by_key(|record| record.offset));
        for record in newest(&written) {
            assert!(held.contains(&record), "lost: {record:?}");
        }
        assert!(held.iter().all(|record| written.contains(record)));
    }
    let wanted = newest(&written);
    let what = "only the newest records are left";
    client.wait_for(TOPIC, what, |records| records == wanted);
}

#[test]
fn committed_offsets_are_compacted_and_groups_load_after_a_kill() {
    const OFFSETS: &str = "__consumer_offsets";
    let folder = TempDir::new("compaction-groups");
    let mut broker = start(
        folder.path(),
        &[
            ("offsets.topic.num.partitions", "1"),
            ("log.cleaner.min.cleanable.ratio", "0.01"),
        ],
    );
    broker.allow_log("unclean");
    let mut client = Client::of(&broker);
    client.create(TOPIC, &[]);
    client.find_coordinator("group 0");
    let groups: Vec<String> = (0..10).map(|index| format!("group {index}")).collect();
    for offset in 0..100 {
        for group in &groups {
            client.commit(group, TOPIC, offset);
        }
    }
    let few = 2 * groups.len();
    let what = "one record for each group is left";
    client.wait_for(OFFSETS, what, |records| records.len() <= few);
    broker.kill9();
    broker.restart();
    let mut client = Client::of(&broker);
    client.find_coordinator("group 0");
    for group in &groups {
        assert_eq!(client.committed(group, TOPIC), 99, "{group}");
    }
}
