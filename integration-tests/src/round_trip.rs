//! One story told with every client library that speaks the JSON lines of `compat/*`: what goes in comes out,
//! whatever the codec, from every kind of start.
//!
//! Called by `clients_librdkafka.rs` and `clients_franz.rs`. Panics, with the client's output, on the first difference.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::clients::{wordnet_key, wordnet_lines};
use crate::process::Run;
use crate::{Broker, unique};

/// Partitions of the topics used here; the broker under test creates them with that many.
pub const PARTITIONS: i32 = 3;

/// A client program of `compat/*`, ready for its arguments.
pub struct Client<'a> {
    /// Where it connects.
    pub broker: &'a Broker,
    /// Makes a fresh run of it.
    pub program: fn() -> Run,
}

/// One acknowledgement of a produce run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Acknowledged {
    line: usize,
    partition: i32,
    offset: i64,
}

impl Client<'_> {
    fn run(&self, args: &[&str], input: String) -> Vec<Value> {
        let bootstrap = self.broker.bootstrap();
        let run = (self.program)()
            .args([args[0], &bootstrap])
            .args(args[1..].to_vec());
        let output = run.stdin(input).succeed();
        output
            .lines()
            .iter()
            .map(|line| serde_json::from_str(line).expect("the client prints JSON lines"))
            .collect()
    }

    /// Sends records and returns one acknowledgement for each, in the order of the records.
    fn produce(&self, topic: &str, settings: &[&str], records: &[Value]) -> Vec<Acknowledged> {
        let input: String = records
            .iter()
            .map(|record| record.to_string() + "\n")
            .collect();
        let answers = self.run(&[&["produce", topic], settings].concat(), input);
        let number = |answer: &Value, name: &str| {
            answer[name]
                .as_i64()
                .unwrap_or_else(|| panic!("{name} in {answer}"))
        };
        let mut acknowledged: Vec<Acknowledged> = answers
            .iter()
            .map(|answer| Acknowledged {
                line: number(answer, "line") as usize,
                partition: number(answer, "partition") as i32,
                offset: number(answer, "offset"),
            })
            .collect();
        acknowledged.sort();
        let lines: Vec<usize> = acknowledged.iter().map(|each| each.line).collect();
        assert_eq!(
            lines,
            (0..records.len()).collect::<Vec<_>>(),
            "each record acknowledged once"
        );
        acknowledged
    }

    /// Reads the partitions that `starts` (`partition=start`) name to their end.
    fn consume(&self, topic: &str, starts: &[String]) -> Vec<Value> {
        let starts: Vec<&str> = starts.iter().map(String::as_str).collect();
        self.run(&[&["consume", topic], &starts[..]].concat(), String::new())
    }

    fn watermarks(&self, topic: &str, partition: i32) -> (i64, i64) {
        let answer = &self.run(
            &["watermarks", topic, &partition.to_string()],
            String::new(),
        )[0];
        let number = |name: &str| {
            answer[name]
                .as_i64()
                .unwrap_or_else(|| panic!("{name} in {answer}"))
        };
        (number("low"), number("high"))
    }

    /// Keyed text in every codec comes back as it was sent, in order, at the acknowledged offsets.
    ///
    /// `settings` holds the client's settings of each run; an empty list stands for its defaults.
    pub fn keyed_text_comes_back(&self, settings: &[&[&str]]) {
        let records: Vec<Value> = wordnet_lines()
            .iter()
            .step_by(50)
            .map(|line| json!({"key": wordnet_key(line), "value": line, "headers": [["length", line.len().to_string()]]}))
            .collect();
        for settings in settings {
            let topic = unique("text");
            let acknowledged = self.produce(&topic, settings, &records);
            let everything: Vec<String> = (0..PARTITIONS)
                .map(|partition| format!("{partition}=beginning"))
                .collect();
            let consumed = self.consume(&topic, &everything);
            assert_eq!(
                consumed.len(),
                records.len(),
                "{settings:?}: everything, and nothing twice"
            );
            check_places(&records, &acknowledged, &consumed);
            check_order(&records, &acknowledged);
        }
    }

    /// Nulls, empty strings, repeated header names, text outside ASCII and given timestamps come back unchanged.
    pub fn unusual_records_come_back(&self) {
        let topic = unique("unusual");
        let timestamp = 1_700_000_000_000_i64;
        let unusual = [
            json!({"key": null, "value": "no key", "headers": []}),
            json!({"key": "", "value": "empty key", "headers": []}),
            json!({"key": "k", "value": null, "headers": []}),
            json!({"key": "k", "value": "", "headers": []}),
            json!({"key": null, "value": null, "headers": []}),
            json!({"key": "ключ", "value": "値 \u{1f9a6}", "headers": [["schlüssel", "wörter"]]}),
            json!({"key": "k", "value": "twice", "headers": [["h", "1"], ["h", "2"], ["a", "0"], ["h", null], ["", ""]]}),
            json!({"key": "k", "value": "x".repeat(900_000), "headers": []}),
        ];
        let records: Vec<Value> = unusual
            .into_iter()
            .enumerate()
            .map(|(index, mut record)| {
                record["partition"] = json!(1);
                record["timestamp"] = json!(timestamp + index as i64);
                record
            })
            .collect();
        self.produce(&topic, &[], &records);
        let consumed = self.consume(&topic, &["1=beginning".to_owned()]);
        assert_eq!(consumed, at_offsets(&records, 0));
    }

    /// Reading starts at the start, an offset, a timestamp or the end; the watermarks tell the same.
    pub fn every_start_is_found(&self) {
        let topic = unique("starts");
        let timestamp = 1_700_000_000_000_i64;
        let record = |index: i64| {
            json!({"key": "k", "value": format!("value {index}"), "headers": [], "partition": 0,
                   "timestamp": timestamp + 10 * index})
        };
        let records: Vec<Value> = (0..1000).map(record).collect();
        self.produce(&topic, &[], &records[..600]);
        self.produce(&topic, &[], &records[600..]);

        let from = |start: &str| self.consume(&topic, &[format!("0={start}")]);
        assert_eq!(from("beginning"), at_offsets(&records, 0));
        assert_eq!(from("123"), at_offsets(&records, 123));
        assert_eq!(from("999"), at_offsets(&records, 999));
        assert_eq!(from("end"), Vec::<Value>::new());
        let between_two = format!("@{}", timestamp + 7_001);
        assert_eq!(from(&between_two), at_offsets(&records, 701));
        let exact = format!("@{}", timestamp + 7_000);
        assert_eq!(from(&exact), at_offsets(&records, 700));
        assert_eq!(from("@0"), at_offsets(&records, 0));
        assert_eq!(self.watermarks(&topic, 0), (0, 1000));
        assert_eq!(self.watermarks(&topic, 2), (0, 0));
    }
}

/// The tail of the records of one partition as they come back, from an offset on.
fn at_offsets(records: &[Value], from: usize) -> Vec<Value> {
    let with_offset = |(offset, record): (usize, &Value)| {
        let mut record = record.clone();
        record["offset"] = json!(offset);
        record
    };
    records
        .iter()
        .enumerate()
        .skip(from)
        .map(with_offset)
        .collect()
}

/// Every acknowledged record lies where its acknowledgement said.
fn check_places(records: &[Value], acknowledged: &[Acknowledged], consumed: &[Value]) {
    let mut by_place = BTreeMap::new();
    for record in consumed {
        let place = (record["partition"].as_i64(), record["offset"].as_i64());
        assert!(
            by_place.insert(place, record).is_none(),
            "twice at one place: {record}"
        );
    }
    for (record, place) in records.iter().zip(acknowledged) {
        let found = by_place.get(&(Some(i64::from(place.partition)), Some(place.offset)));
        let found = found.unwrap_or_else(|| panic!("nothing at {place:?}"));
        for part in ["key", "value", "headers"] {
            assert_eq!(found[part], record[part], "{part} at {place:?}");
        }
    }
}

/// A key stays in one partition, offsets have no gap, and the order of sending is the order of offsets.
fn check_order(records: &[Value], acknowledged: &[Acknowledged]) {
    let mut next_offset: BTreeMap<i32, i64> = BTreeMap::new();
    let mut partition_of_key: BTreeMap<String, i32> = BTreeMap::new();
    for (record, place) in records.iter().zip(acknowledged) {
        let next = next_offset.entry(place.partition).or_default();
        assert_eq!(
            place.offset, *next,
            "the next offset of its partition: {place:?}"
        );
        *next += 1;
        let partition = *partition_of_key
            .entry(record["key"].to_string())
            .or_insert(place.partition);
        assert_eq!(
            partition, place.partition,
            "a key stays in its partition: {}",
            record["key"]
        );
    }
    assert_eq!(
        next_offset.len(),
        PARTITIONS as usize,
        "keys spread over all partitions"
    );
}
