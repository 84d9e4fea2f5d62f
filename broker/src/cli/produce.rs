//! `ottla produce`: a record for each line of standard input, or of files.
//!
//! Lines are read on a thread of their own, because standard input blocks; everything else is one task. Records wait
//! for no more than what is there already, so that a typed line leaves at once and a long file in large batches. With
//! `--acks all` the producer is idempotent, and a batch whose answer was lost is sent once more without a double.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    InitProducerIdRequest, ProduceRequest, ProduceResponse, ProducerId, TopicName,
};
use kafka_protocol::protocol::Request;
use ottla_protocol::batch::BatchBuilder;
use ottla_protocol::error_code::ErrorCode;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::client::{Client, Node, text};
use super::failure::{Failure, Kind, Result};
use super::format::{json_bytes, unescape};
use super::output::{Progress, counted, size};
use super::run::Session;
use super::topic::topic_partitions;

/// A batch is closed above this, well below the default of `max.message.bytes`.
const BATCH_BYTES: usize = 512 * 1024;
/// Bytes of all batches of one round of requests.
const ROUND_BYTES: usize = 8 * 1024 * 1024;
/// Lines that the reader may be ahead.
const LINES_AHEAD: usize = 10_000;
/// A longer line is an error, not a reason to fill the memory.
const LINE_MAX: u64 = 64 * 1024 * 1024;

/// Options of `produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// The topic; it is created if the broker creates topics on first use
    pub topic: String,
    /// Files to read instead of standard input
    #[arg(long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What a line is: the value, or an object as consume --json prints it
    #[arg(long, value_enum, default_value_t = Input::Lines)]
    pub input: Input,
    /// The key stands before this text in each line, the value behind it
    #[arg(short = 'K', long, value_name = "TEXT", conflicts_with = "key")]
    pub key_separator: Option<String>,
    /// The same key for all records
    #[arg(long)]
    pub key: Option<String>,
    /// A header for all records; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<String>,
    /// The partition of all records; otherwise the key decides as in Kafka's own producer, or batches take turns
    #[arg(short = 'p', long)]
    pub partition: Option<i32>,
    /// An empty value is null, which deletes the key from a compacted topic; an empty key is null too
    #[arg(short = 'Z', long)]
    pub empty_is_null: bool,
    /// When the broker answers: once the batch is safe, or once its leader has it
    #[arg(long, value_enum, default_value_t = Acks::All)]
    pub acks: Acks,
}

/// What a line of input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Input {
    /// A value, perhaps with its key.
    Lines,
    /// An object with key, value, headers, partition, timestamp; all optional.
    Json,
}

/// Kafka's `acks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Acks {
    /// All in-sync replicas have it.
    All,
    /// The leader has it.
    #[value(name = "1")]
    Leader,
}

/// A record on its way.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Message {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    partition: Option<i32>,
    timestamp: Option<i64>,
}

impl Message {
    fn len(&self) -> usize {
        let size = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + size(value));
        size(&self.key) + size(&self.value) + headers.sum::<usize>()
    }
}

/// Runs it.
pub async fn run(session: &mut Session, args: &ProduceArgs) -> Result<()> {
    let shape = Shape::of(args)?;
    let topic = session.client.topic(&args.topic, true).await?;
    let partitions = topic_partitions(&topic);
    if let Some(partition) = args.partition {
        check_partition(&args.topic, partition, &partitions)?;
    }
    let mut producer = Producer::new(session, &args.topic, partitions, args.acks).await?;
    let mut lines = read_lines(args.files.clone());
    let mut progress = Progress::new();
    let mut number = 0u64;
    let mut input_failed = None;
    'input: while let Some(first) = lines.recv().await {
        let mut next = Some(first);
        while let Some(line) = next {
            number += 1;
            let message = line.and_then(|line| {
                shape.message(line).map_err(|why| {
                    Failure::usage(format_args!("line {number} of the input: {why}"))
                })
            });
            let added = match message {
                Ok(message) => producer.add(message, session.env.now_ms()),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = added {
                // What was read before it is written all the same.
                input_failed = Some(failure);
                break 'input;
            }
            next = if producer.is_full() {
                None
            } else {
                lines.try_recv().ok()
            };
        }
        producer.send(&mut session.client).await?;
        let (records, bytes) = (producer.records, producer.bytes);
        progress.show(|seconds| {
            let rate = size((bytes as f64 / seconds) as u64);
            format!("{} to {}, {rate}/s", counted(records, "record"), args.topic)
        });
    }
    let sent = producer.send(&mut session.client).await;
    progress.end();
    sent?;
    producer.report(session)?;
    input_failed.map_or(Ok(()), Err)
}

/// What every line is made into.
struct Shape {
    input: Input,
    separator: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    partition: Option<i32>,
    empty_is_null: bool,
}

impl Shape {
    fn of(args: &ProduceArgs) -> Result<Self> {
        let separator = match &args.key_separator {
            None => None,
            Some(text) => {
                let separator = unescape(text).filter(|separator| !separator.is_empty());
                Some(separator.ok_or_else(|| {
                    Failure::usage(format_args!(
                        "--key-separator {text:?} is empty or ends in a \\"
                    ))
                })?)
            }
        };
        let mut headers = Vec::new();
        for header in &args.headers {
            let (name, value) = header.split_once('=').ok_or_else(|| {
                Failure::usage(format_args!("--header {header:?} is not NAME=VALUE"))
            })?;
            headers.push((name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())));
        }
        if args.input == Input::Json && separator.is_some() {
            return Err(Failure::usage(
                "--key-separator is for --input lines: JSON objects name their key",
            ));
        }
        Ok(Self {
            input: args.input,
            separator,
            key: args.key.as_ref().map(|key| key.as_bytes().to_vec()),
            headers,
            partition: args.partition,
            empty_is_null: args.empty_is_null,
        })
    }

    fn message(&self, line: Vec<u8>) -> std::result::Result<Message, String> {
        let mut message = match self.input {
            Input::Lines => self.split_line(line),
            Input::Json => from_json(&line)?,
        };
        if message.key.is_none() {
            message.key.clone_from(&self.key);
        }
        if self.empty_is_null {
            message.key = message.key.filter(|key| !key.is_empty());
            message.value = message.value.filter(|value| !value.is_empty());
        }
        message.headers.extend(self.headers.iter().cloned());
        message.partition = self.partition.or(message.partition);
        Ok(message)
    }

    fn split_line(&self, mut line: Vec<u8>) -> Message {
        let mut key = None;
        if let Some(separator) = &self.separator {
            let at = line
                .windows(separator.len())
                .position(|window| window == separator.as_slice());
            if let Some(at) = at {
                let value = line.split_off(at + separator.len());
                line.truncate(at);
                key = Some(std::mem::replace(&mut line, value));
            }
        }
        Message {
            key,
            value: Some(line),
            ..Message::default()
        }
    }
}

fn from_json(line: &[u8]) -> std::result::Result<Message, String> {
    let object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("no JSON object: {error}"))?;
    let mut headers = Vec::new();
    match object.get("headers") {
        None | Some(Value::Null) => {}
        Some(Value::Array(array)) => {
            for header in array {
                let header = header.as_object().ok_or("a header is no object")?;
                let name = header.get("name").and_then(Value::as_str);
                let name = name.ok_or("a header has no name")?.as_bytes().to_vec();
                headers.push((name, json_bytes(header, "value")?));
            }
        }
        Some(_) => return Err("headers is no array of objects with name and value".to_owned()),
    }
    let number = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_i64()
            .map(Some)
            .ok_or_else(|| format!("{name} is no whole number")),
    };
    let partition = number("partition")?
        .map(|partition| i32::try_from(partition).map_err(|_| "partition is too large".to_owned()))
        .transpose()?;
    Ok(Message {
        key: json_bytes(&object, "key")?,
        value: json_bytes(&object, "value")?,
        headers,
        partition,
        timestamp: number("timestamp")?.filter(|timestamp| *timestamp >= 0),
    })
}

fn check_partition(topic: &str, partition: i32, partitions: &[i32]) -> Result<()> {
    if partitions.contains(&partition) {
        return Ok(());
    }
    Err(Failure::refused(format_args!(
        "topic {topic} has no partition {partition}: they go from 0 to {}",
        partitions.len().saturating_sub(1)
    )))
}

/// Lines, until all files or standard input have ended.
fn read_lines(files: Vec<PathBuf>) -> mpsc::Receiver<Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    tokio::task::spawn_blocking(move || {
        if files.is_empty() {
            send_lines(std::io::stdin().lock(), "standard input", &sender);
        }
        for path in files {
            let name = path.display().to_string();
            match File::open(&path) {
                Ok(file) => send_lines(BufReader::with_capacity(256 * 1024, file), &name, &sender),
                Err(error) => {
                    let failure = Failure::usage(format_args!("cannot read {name}: {error}"));
                    let _ = sender.blocking_send(Err(failure));
                }
            }
        }
    });
    receiver
}

/// Stops when nobody listens any more.
fn send_lines(mut from: impl BufRead, name: &str, sender: &mpsc::Sender<Result<Vec<u8>>>) {
    loop {
        let mut line = Vec::new();
        let outcome = match from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(read) if read as u64 == LINE_MAX && !line.ends_with(b"\n") => Err(Failure::usage(
                format_args!("{name}: a line is longer than {}", size(LINE_MAX)),
            )),
            Ok(_) => {
                if line.ends_with(b"\n") {
                    line.pop();
                }
                Ok(line)
            }
            Err(error) => Err(Failure::usage(format_args!("cannot read {name}: {error}"))),
        };
        let failed = outcome.is_err();
        if sender.blocking_send(outcome).is_err() || failed {
            return;
        }
    }
}

/// The records of one partition that are not sent yet, and what is known of those that are.
struct Lane {
    batch: Option<BatchBuilder>,
    full: Vec<Batch>,
    sequence: i32,
    written: Option<(i64, i64)>,
    records: u64,
}

struct Batch {
    bytes: Bytes,
    records: i32,
}

struct Producer {
    topic: String,
    partitions: Vec<i32>,
    acks: Acks,
    /// Id and epoch of an idempotent producer.
    identity: Option<(i64, i16)>,
    lanes: BTreeMap<i32, Lane>,
    /// Where records without a key go until the next round.
    turn: usize,
    waiting: usize,
    records: u64,
    bytes: u64,
}

impl Producer {
    async fn new(
        session: &mut Session,
        topic: &str,
        partitions: Vec<i32>,
        acks: Acks,
    ) -> Result<Self> {
        let identity = if acks == Acks::All {
            producer_identity(&mut session.client).await?
        } else {
            None
        };
        let turn = session.env.random_u64() as usize % partitions.len().max(1);
        Ok(Self {
            topic: topic.to_owned(),
            partitions,
            acks,
            identity,
            lanes: BTreeMap::new(),
            turn,
            waiting: 0,
            records: 0,
            bytes: 0,
        })
    }

    fn is_full(&self) -> bool {
        self.waiting >= ROUND_BYTES
    }

    fn add(&mut self, message: Message, now_ms: i64) -> Result<()> {
        let partition = match (&message.partition, &message.key) {
            (Some(partition), _) => {
                check_partition(&self.topic, *partition, &self.partitions)?;
                *partition
            }
            (None, Some(key)) => self.partitions[partition_of(key, self.partitions.len())],
            (None, None) => self.partitions[self.turn],
        };
        let identity = self.identity;
        let lane = self.lanes.entry(partition).or_insert(Lane {
            batch: None,
            full: Vec::new(),
            sequence: 0,
            written: None,
            records: 0,
        });
        let timestamp = message.timestamp.unwrap_or(now_ms);
        let size = message.len();
        let fits = |batch: &BatchBuilder| batch.encoded_len() + size <= BATCH_BYTES;
        if lane.batch.as_ref().is_some_and(|batch| !fits(batch)) {
            lane.close();
        }
        let batch = lane.batch.take().unwrap_or_else(|| {
            let batch = BatchBuilder::new(timestamp);
            match identity {
                Some((id, epoch)) => batch.producer(id, epoch, lane.sequence),
                None => batch,
            }
        });
        let headers: Vec<(&[u8], Option<&[u8]>)> = message
            .headers
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_deref()))
            .collect();
        lane.batch = Some(batch.record(
            timestamp,
            message.key.as_deref(),
            message.value.as_deref(),
            &headers,
        ));
        self.waiting += size;
        self.bytes += size as u64;
        self.records += 1;
        Ok(())
    }

    /// Sends all that waits: a batch of each partition at a time, because a request holds one a partition.
    async fn send(&mut self, client: &mut Client) -> Result<()> {
        for lane in self.lanes.values_mut() {
            lane.close();
            lane.full.reverse();
        }
        loop {
            let mut round = BTreeMap::new();
            for (partition, lane) in &mut self.lanes {
                if let Some(batch) = lane.full.pop() {
                    round.insert(*partition, batch);
                }
            }
            if round.is_empty() {
                break;
            }
            self.send_round(client, round).await?;
        }
        self.waiting = 0;
        self.turn = (self.turn + 1) % self.partitions.len().max(1);
        Ok(())
    }

    async fn send_round(
        &mut self,
        client: &mut Client,
        mut round: BTreeMap<i32, Batch>,
    ) -> Result<()> {
        let mut again = true;
        loop {
            let failure = match self.send_once(client, &mut round).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            // Without an identity a lost answer may mean a written batch.
            let lost = failure.kind == Kind::Unreachable;
            if !again || !(failure.retriable() || lost && self.identity.is_some()) {
                return Err(failure);
            }
            again = false;
            client.pause().await;
            client.topic(&self.topic, false).await?;
        }
    }

    /// Takes out of the round what is written.
    async fn send_once(
        &mut self,
        client: &mut Client,
        round: &mut BTreeMap<i32, Batch>,
    ) -> Result<()> {
        let mut by_leader: HashMap<Node, Vec<PartitionProduceData>> = HashMap::new();
        for (partition, batch) in round.iter() {
            let leader = client.leader(&self.topic, *partition).ok_or_else(|| {
                Failure::told(
                    format_args!("topic {}, partition {partition}", self.topic),
                    5,
                    None,
                )
            })?;
            let data = PartitionProduceData::default()
                .with_index(*partition)
                .with_records(Some(batch.bytes.clone()));
            by_leader.entry(leader).or_default().push(data);
        }
        let timeout_ms = client.timeout().as_millis().min(i32::MAX as u128) as i32;
        let requests = by_leader.into_iter().map(|(leader, partitions)| {
            let topic = TopicProduceData::default()
                .with_name(TopicName(text(&self.topic)))
                .with_partition_data(partitions);
            let request = ProduceRequest::default()
                .with_acks(if self.acks == Acks::All { -1 } else { 1 })
                .with_timeout_ms(timeout_ms)
                .with_topic_data(vec![topic]);
            (leader, request)
        });
        let answers = client.ask_each(3..=12, requests.collect()).await;
        let mut failed = None;
        for answer in answers {
            match answer {
                Ok(response) => {
                    failed = self.credit(response, round).err().or(failed);
                }
                Err(failure) => failed = Some(failure),
            }
        }
        match failed {
            None if round.is_empty() => Ok(()),
            None => Err(Failure::refused("a broker did not answer for every batch")),
            Some(failure) => Err(failure),
        }
    }

    fn credit(
        &mut self,
        response: ProduceResponse,
        round: &mut BTreeMap<i32, Batch>,
    ) -> Result<()> {
        let mut outcome = Ok(());
        for topic in response.responses {
            for partition in topic.partition_responses {
                let index = partition.index;
                let known = ErrorCode::from_code(partition.error_code);
                // The first attempt was written, and only its answer lost.
                let written = matches!(
                    known,
                    Some(ErrorCode::None | ErrorCode::DuplicateSequenceNumber)
                );
                if !written {
                    let what = format_args!("topic {}, partition {index}", self.topic);
                    let message = partition.error_message.as_deref();
                    outcome = Err(Failure::told(what, partition.error_code, message));
                    continue;
                }
                let (Some(batch), Some(lane)) = (round.remove(&index), self.lanes.get_mut(&index))
                else {
                    continue;
                };
                lane.credit(partition.base_offset, batch.records);
            }
        }
        outcome
    }

    fn report(&self, session: &mut Session) -> Result<()> {
        let written = |lane: &Lane| lane.records;
        let total: u64 = self.lanes.values().map(written).sum();
        let topic = &self.topic;
        if session.out.is_json() {
            for (partition, lane) in &self.lanes {
                if let Some((first, last)) = lane.written {
                    session.out.object(&json!({
                        "topic": topic, "partition": partition, "records": lane.records,
                        "first_offset": first, "last_offset": last,
                    }))?;
                }
            }
            return Ok(());
        }
        let places = self.lanes.iter().filter_map(|(partition, lane)| {
            let (first, last) = lane.written?;
            Some(if first == last {
                format!("partition {partition} at offset {first}")
            } else {
                format!("partition {partition} at offsets {first} to {last}")
            })
        });
        let places: Vec<String> = places.collect();
        let shown = match places.len() {
            0 => String::new(),
            1..=4 => format!(": {}", places.join(", ")),
            many => format!(" in {many} partitions"),
        };
        session.out.line(format_args!(
            "{} written to {topic}{shown}",
            counted(total, "record")
        ))
    }
}

impl Lane {
    fn close(&mut self) {
        if let Some(batch) = self.batch.take() {
            let records = batch.record_count();
            // Sequences go from the largest on to 0.
            self.sequence = self
                .sequence
                .checked_add(records)
                .unwrap_or_else(|| self.sequence.wrapping_add(records).wrapping_sub(i32::MIN));
            self.full.push(Batch {
                bytes: batch.build(),
                records,
            });
        }
    }

    fn credit(&mut self, base_offset: i64, records: i32) {
        self.records += u64::from(records.unsigned_abs());
        // -1 stands for a duplicate whose place the broker does not tell.
        if base_offset >= 0 {
            let last = base_offset + i64::from(records) - 1;
            let first = self.written.map_or(base_offset, |(first, _)| first);
            self.written = Some((first, last));
        }
    }
}

/// An id for an idempotent producer, if the cluster gives any.
async fn producer_identity(client: &mut Client) -> Result<Option<(i64, i16)>> {
    let connection = client.connect(Node::Any).await?;
    if connection.versions(InitProducerIdRequest::KEY).is_none() {
        return Ok(None);
    }
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let response = client
        .ask_settled(Node::Any, 0..=5, &request, |response| response.error_code)
        .await?;
    if response.error_code != 0 {
        return Err(Failure::told("producer id", response.error_code, None)
            .hint("--acks 1 does without one"));
    }
    Ok(Some((response.producer_id.0, response.producer_epoch)))
}

/// The partition that Kafka's own producer gives to a key: murmur2, its sign bit off.
fn partition_of(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions
}

/// MurmurHash2 with the seed that Kafka's `Utils.murmur2` has.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Kafka's own `UtilsTest`.
    #[test]
    fn keys_are_hashed_as_kafkas_producer_does() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    fn shape() -> Shape {
        Shape {
            input: Input::Lines,
            separator: Some(b"::".to_vec()),
            key: None,
            headers: vec![(b"h".to_vec(), Some(b"1".to_vec()))],
            partition: None,
            empty_is_null: false,
        }
    }

    #[test]
    fn a_line_is_cut_at_the_first_separator() {
        let of = |shape: &Shape, line: &[u8]| {
            let message = shape.message(line.to_vec()).unwrap();
            (message.key, message.value)
        };
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        let mut shape = shape();
        assert_eq!(of(&shape, b"k::v::w"), (bytes("k"), bytes("v::w")));
        assert_eq!(of(&shape, b"value"), (None, bytes("value")));
        assert_eq!(of(&shape, b"::"), (bytes(""), bytes("")));
        shape.empty_is_null = true;
        assert_eq!(of(&shape, b"k::"), (bytes("k"), None));
        shape.key = bytes("all");
        shape.separator = None;
        assert_eq!(of(&shape, b"v"), (bytes("all"), bytes("v")));
    }

    #[test]
    fn json_lines_say_everything_themselves() {
        let shape = Shape {
            input: Input::Json,
            separator: None,
            ..shape()
        };
        let line = br#"{"key":"k","value":null,"partition":3,"timestamp":5,"headers":[{"name":"a","value":"b"}]}"#;
        let message = shape.message(line.to_vec()).unwrap();
        assert_eq!((message.key, message.value), (Some(b"k".to_vec()), None));
        assert_eq!((message.partition, message.timestamp), (Some(3), Some(5)));
        assert_eq!(message.headers.len(), 2);
        for wrong in [
            "",
            "3",
            "[]",
            "{\"partition\":\"x\"}",
            "{\"partition\":5000000000}",
            "{\"headers\":{}}",
            "{\"headers\":[{\"value\":\"x\"}]}",
        ] {
            assert!(shape.message(wrong.as_bytes().to_vec()).is_err(), "{wrong}");
        }
    }
}
