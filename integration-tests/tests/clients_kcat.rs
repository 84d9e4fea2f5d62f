//! kcat 1.7 unchanged against a real broker: list, produce in every codec, consume from every kind of start, query.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_integration_tests::clients::{kcat, wordnet_key, wordnet_lines};
use ottla_integration_tests::{Broker, TempDir, unique};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// One record as kcat prints it with [`FORMAT`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    partition: i32,
    offset: i64,
    key: String,
    value: String,
    headers: String,
    timestamp: i64,
}

const FORMAT: &str = "%p\t%o\t%k\t%h\t%T\t%s\n";

fn parse(line: &str) -> Record {
    let fields: Vec<&str> = line.splitn(6, '\t').collect();
    let [partition, offset, key, headers, timestamp, value] = fields[..] else {
        panic!("not a record: {line:?}")
    };
    Record {
        partition: partition.parse().expect("a partition"),
        offset: offset.parse().expect("an offset"),
        key: key.to_owned(),
        value: value.to_owned(),
        headers: headers.to_owned(),
        timestamp: timestamp.parse().expect("a timestamp"),
    }
}

/// Reads to the end of every partition, or of the one that `args` names.
fn consume(broker: &Broker, topic: &str, args: &[&str]) -> Vec<Record> {
    let output = kcat(broker)
        .args(["-C", "-e", "-q", "-t", topic, "-f", FORMAT])
        .args(args.to_vec())
        .succeed();
    output.lines().into_iter().map(parse).collect()
}

fn produce(broker: &Broker, topic: &str, args: &[&str], lines: &[String]) {
    kcat(broker)
        .args(["-P", "-t", topic])
        .args(args.to_vec())
        .stdin(lines.join("\n") + "\n")
        .succeed();
}

fn values(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.value.as_str()).collect()
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("value {n}")).collect()
}

fn broker(folder: &TempDir) -> Broker {
    Broker::small(folder.path(), &[("num.partitions", "3")])
}

#[test]
fn the_list_names_the_broker_and_every_partition_with_its_leader() {
    let folder = TempDir::new("kcat-list");
    let broker = broker(&folder);
    let topic = unique("listed");
    produce(&broker, &topic, &[], &numbered(0..1));

    let text = kcat(&broker).args(["-L"]).succeed().stdout;
    assert!(
        text.contains(&format!("at {}", broker.bootstrap())),
        "{text}"
    );
    assert!(
        text.contains(&format!("topic \"{topic}\" with 3 partitions:")),
        "{text}"
    );

    let json = kcat(&broker)
        .args(["-L", "-J", "-t", &topic])
        .succeed()
        .stdout;
    let json: Value = serde_json::from_str(&json).expect("-J prints JSON");
    assert_eq!(json["brokers"][0]["name"], Value::from(broker.bootstrap()));
    let node = &json["brokers"][0]["id"];
    assert_eq!(&json["controllerid"], node);
    assert_eq!(json["topics"][0]["topic"], Value::from(topic));
    let partitions = json["topics"][0]["partitions"]
        .as_array()
        .expect("partitions");
    assert_eq!(partitions.len(), 3);
    for (index, partition) in partitions.iter().enumerate() {
        assert_eq!(partition["partition"], Value::from(index));
        assert_eq!(&partition["leader"], node);
        assert_eq!(&partition["replicas"][0]["id"], node);
        assert_eq!(&partition["isrs"][0]["id"], node);
    }
}

#[test]
fn keyed_records_come_back_in_order_with_their_headers_from_every_codec() {
    let folder = TempDir::new("kcat-codecs");
    let broker = broker(&folder);
    let lines: Vec<String> = wordnet_lines().into_iter().step_by(100).take(500).collect();
    let keyed: Vec<String> = lines
        .iter()
        .map(|line| format!("{}\t{line}", wordnet_key(line)))
        .collect();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = unique(codec);
        produce(
            &broker,
            &topic,
            &["-K", "\t", "-H", "source=wordnet", "-z", codec],
            &keyed,
        );

        let records = consume(&broker, &topic, &["-o", "beginning"]);
        assert_eq!(records.len(), lines.len(), "{codec}");
        let mut by_partition: BTreeMap<i32, Vec<&Record>> = BTreeMap::new();
        for record in &records {
            assert_eq!(record.headers, "source=wordnet", "{codec}");
            assert_eq!(record.key, wordnet_key(&record.value), "{codec}");
            by_partition
                .entry(record.partition)
                .or_default()
                .push(record);
        }
        assert_eq!(
            by_partition.len(),
            3,
            "{codec}: keys spread over all partitions"
        );
        let mut partition_of_key = BTreeMap::new();
        for (&partition, records) in &by_partition {
            for (offset, record) in records.iter().enumerate() {
                assert_eq!(
                    record.offset, offset as i64,
                    "{codec}: offsets without a gap"
                );
                let known = *partition_of_key
                    .entry(record.key.clone())
                    .or_insert(partition);
                assert_eq!(known, partition, "{codec}: a key stays in its partition");
            }
            let got: Vec<&str> = records.iter().map(|record| record.value.as_str()).collect();
            let sent: Vec<&str> = lines
                .iter()
                .map(String::as_str)
                .filter(|line| partition_of_key.get(wordnet_key(line)) == Some(&partition))
                .collect();
            assert_eq!(got, sent, "{codec}: in the order they were sent");
        }
    }
}

#[test]
fn null_and_empty_keys_and_values_stay_different() {
    let folder = TempDir::new("kcat-null");
    let broker = broker(&folder);
    let topic = unique("null");
    let sizes = |args: &[&str]| {
        let output = kcat(&broker)
            .args([
                "-C",
                "-e",
                "-q",
                "-t",
                &topic,
                "-f",
                "%o %K %S\n",
                "-o",
                "beginning",
            ])
            .args(args.to_vec());
        output
            .succeed()
            .lines()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    // -Z sends empty as null.
    produce(
        &broker,
        &topic,
        &["-K:", "-Z", "-p", "0"],
        &["key:".to_owned(), ":value".to_owned()],
    );
    produce(
        &broker,
        &topic,
        &["-K:", "-p", "0"],
        &["key:".to_owned(), ":value".to_owned()],
    );
    assert_eq!(sizes(&["-p", "0"]), ["0 3 -1", "1 -1 5", "2 3 0", "3 0 5"]);
}

#[test]
fn every_acks_setting_and_the_idempotent_producer_store_their_records() {
    let folder = TempDir::new("kcat-acks");
    let broker = broker(&folder);
    for setting in ["acks=1", "acks=all", "acks=0", "enable.idempotence=true"] {
        let topic = unique(&setting.replace('=', "-"));
        let sent = numbered(0..1000);
        produce(&broker, &topic, &["-X", setting, "-p", "1"], &sent);
        // acks=0 is not answered: the records may arrive after the producer has gone, so read until all are there.
        let count = sent.len().to_string();
        let format = ["-f", FORMAT, "-o", "beginning", "-p", "1", "-c", &count];
        let output = kcat(&broker)
            .args(["-C", "-q", "-t", &topic])
            .args(format)
            .timeout(PATIENCE)
            .succeed();
        let records: Vec<Record> = output.lines().into_iter().map(parse).collect();
        assert_eq!(values(&records), sent, "{setting}");
        assert_eq!(
            records.last().map(|record| record.offset),
            Some(999),
            "{setting}"
        );
    }
}

#[test]
fn consuming_starts_at_the_start_an_offset_the_last_few_or_a_timestamp() {
    let folder = TempDir::new("kcat-starts");
    let broker = broker(&folder);
    let topic = unique("starts");
    produce(&broker, &topic, &["-p", "0"], &numbered(0..50));
    let first_part = consume(&broker, &topic, &["-p", "0", "-o", "beginning"]);
    let last_timestamp = first_part
        .iter()
        .map(|record| record.timestamp)
        .max()
        .expect("records");
    // kcat stamps with the clock: write until a record is later than the first part.
    let mut count = 50;
    let later = loop {
        produce(&broker, &topic, &["-p", "0"], &numbered(count..count + 10));
        count += 10;
        let all = consume(&broker, &topic, &["-p", "0", "-o", "beginning"]);
        assert_eq!(all.len(), count);
        if let Some(record) = all.iter().find(|record| record.timestamp > last_timestamp) {
            break record.clone();
        }
    };
    let all = consume(&broker, &topic, &["-p", "0", "-o", "beginning"]);
    assert_eq!(values(&all), numbered(0..count));
    assert_eq!(
        all.iter().map(|record| record.offset).collect::<Vec<_>>(),
        (0..count as i64).collect::<Vec<_>>()
    );

    assert_eq!(
        consume(&broker, &topic, &["-p", "0", "-o", "42"]),
        all[42..]
    );
    assert_eq!(
        consume(&broker, &topic, &["-p", "0", "-o", "-7"]),
        all[count - 7..]
    );
    assert_eq!(consume(&broker, &topic, &["-p", "0", "-o", "end"]), []);
    let from_later = format!("s@{}", later.timestamp);
    assert_eq!(
        consume(&broker, &topic, &["-p", "0", "-o", &from_later]),
        all[later.offset as usize..]
    );
    let until_later = format!("e@{}", later.timestamp);
    let between = consume(
        &broker,
        &topic,
        &["-p", "0", "-o", "s@0", "-o", &until_later],
    );
    assert_eq!(between, all[..later.offset as usize]);

    let query = |at: &str| {
        kcat(&broker)
            .args(["-Q", "-t", &format!("{topic}:0:{at}")])
            .succeed()
            .stdout
    };
    let answer = |offset: i64| format!("{topic} [0] offset {offset}\n");
    assert_eq!(query("-1"), answer(count as i64));
    assert_eq!(query("-2"), answer(0));
    assert_eq!(query(&later.timestamp.to_string()), answer(later.offset));
    assert_eq!(query(&first_part[0].timestamp.to_string()), answer(0));
}

#[test]
fn a_consumer_waiting_at_the_end_gets_what_is_written_next() {
    let folder = TempDir::new("kcat-end");
    let broker = broker(&folder);
    let topic = unique("end");
    produce(&broker, &topic, &["-p", "0"], &numbered(0..5));
    let consumer = kcat(&broker)
        .args([
            "-C", "-u", "-t", &topic, "-p", "0", "-o", "end", "-f", FORMAT, "-c", "3",
        ])
        .start();
    let at_end = |line: &str| {
        line.contains(&format!("Reached end of topic {topic} [0] at offset 5"))
            .then_some(())
    };
    consumer
        .stderr
        .wait_for_line(PATIENCE, at_end)
        .unwrap_or_else(|| panic!("not at the end\n{}", consumer.output()));

    produce(&broker, &topic, &["-p", "0"], &numbered(5..8));
    let status = consumer
        .wait(PATIENCE)
        .unwrap_or_else(|| panic!("no records came\n{}", consumer.output()));
    assert!(status.success());
    assert!(consumer.stdout.wait_for_end(PATIENCE));
    let records: Vec<Record> = consumer
        .stdout
        .all()
        .iter()
        .map(|line| parse(line))
        .collect();
    assert_eq!(values(&records), numbered(5..8));
    assert_eq!(
        records
            .iter()
            .map(|record| record.offset)
            .collect::<Vec<_>>(),
        [5, 6, 7]
    );
}

#[test]
fn records_survive_a_clean_stop_and_a_kill() {
    let folder = TempDir::new("kcat-restart");
    let mut broker = broker(&folder);
    let topic = unique("kept");
    produce(&broker, &topic, &["-p", "2"], &numbered(0..10));
    assert!(broker.sigterm().success());
    broker.restart();
    produce(&broker, &topic, &["-p", "2"], &numbered(10..20));
    broker.kill9();
    broker.allow_log("unclean");
    broker.restart();
    produce(&broker, &topic, &["-p", "2"], &numbered(20..30));

    let records = consume(&broker, &topic, &["-p", "2", "-o", "beginning"]);
    assert_eq!(values(&records), numbered(0..30));
    assert_eq!(records.last().map(|record| record.offset), Some(29));
}
