//! What was sent to a topic, what of it was acknowledged, and whether a log keeps to that after a crash.
//!
//! Each batch is a function of the ledger's seed, its partition and its number, so that every byte read back can be
//! compared without keeping any. One connection sends to a partition, the numbers going up and nothing sent twice:
//! so a log without holes, repetitions and remains of other lives has rising numbers at rising offsets. The
//! producer keeps several requests in flight and ends at the first refusal or when its connection breaks.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, FetchRequest, ProduceRequest, ProduceResponse, ResponseHeader,
    TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use ottla_protocol::batch::{self, BatchBuilder, BatchHeader};
use ottla_protocol::records;

use crate::load::{Client, failed};
use crate::wire::frame;

/// No answer takes longer, on however loaded a machine.
const DEADLINE: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 3;
const IN_FLIGHT: usize = 5;
const PRODUCE_VERSION: i16 = 9;
const CREATE_TOPICS_VERSION: i16 = 5;
const FETCH_VERSION: i16 = 12;
const FETCH_BYTES: i32 = 4 << 20;
/// The time of every record, milliseconds since 1970: the bytes shall be the same whenever they are made.
const TIME_MS: i64 = 1_700_000_000_000;

/// What holds for the acknowledged batches of a log after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Every one is there.
    All,
    /// Those at the end may be gone; one is there if anything after it is.
    Beginning,
}

/// What a check found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Batches in the log.
    pub stored: usize,
    /// Batches acknowledged since the last check.
    pub acknowledged: usize,
    /// Of these, gone.
    pub lost: usize,
}

/// One topic's ledger.
pub struct Ledger {
    topic: String,
    seed: u64,
    accounts: Vec<Account>,
}

/// One partition.
#[derive(Default)]
struct Account {
    /// The number of the next batch.
    next: u64,
    /// Base offset and number of what was acknowledged since the last check.
    acknowledged: Vec<(i64, u64)>,
    /// Base offset and number of every batch that the last check found.
    stored: Vec<(i64, u64)>,
}

/// How far the producer of [`Ledger::under_load`] is.
#[derive(Default)]
pub struct Progress {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    acknowledged: usize,
    refusal: Option<(i16, String)>,
    ended: usize,
    stop: bool,
    doubtful: bool,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.moved.notify_all();
    }

    fn wait(&self, goes_on: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self
            .moved
            .wait_timeout_while(self.lock(), DEADLINE, |state| goes_on(state));
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "the producer stands still");
        state
    }

    /// From now on acknowledgements promise nothing.
    pub fn doubt(&self) {
        self.change(|state| state.doubtful = true);
    }

    /// Waits until so many batches were acknowledged. Panics when the producer ends before.
    pub fn wait_for(&self, acknowledged: usize) {
        let state =
            self.wait(|state| state.acknowledged < acknowledged && state.ended < CONNECTIONS);
        assert!(
            state.acknowledged >= acknowledged,
            "the producer ended after {} batches: {:?}",
            state.acknowledged,
            state.refusal
        );
    }

    /// Waits until every connection was refused or broke; the first refusal.
    pub fn wait_for_refusal(&self) -> (i16, String) {
        let state = self.wait(|state| state.ended < CONNECTIONS);
        state.refusal.clone().expect("a refusal")
    }
}

impl Ledger {
    /// Nothing sent yet.
    pub fn new(topic: &str, partitions: usize, seed: u64) -> Ledger {
        Ledger {
            topic: topic.to_owned(),
            seed,
            accounts: (0..partitions).map(|_| Account::default()).collect(),
        }
    }

    /// Creates the topic.
    pub fn create(&self, address: &str, configs: &[(&str, &str)]) {
        let text = |text: &str| StrBytes::from_string(text.to_owned());
        let configs = configs.iter().map(|(name, value)| {
            CreatableTopicConfig::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
        });
        let topic = CreatableTopic::default()
            .with_name(TopicName(text(&self.topic)))
            .with_num_partitions(self.accounts.len() as i32)
            .with_replication_factor(1)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(60_000);
        let response = Client::connect(address)
            .and_then(|mut client| client.ask(CREATE_TOPICS_VERSION, &request))
            .expect("an answer");
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    }

    /// Produces while `during` runs and takes note of what is acknowledged. When `during` returns, what is in flight
    /// is waited for, unless the connections are broken by then.
    pub fn under_load<T>(&mut self, address: &str, during: impl FnOnce(&Progress) -> T) -> T {
        let progress = Progress::default();
        let mut shares: Vec<Vec<(usize, &mut Account)>> = Vec::new();
        shares.resize_with(CONNECTIONS, Vec::new);
        for (partition, account) in self.accounts.iter_mut().enumerate() {
            shares[partition % CONNECTIONS].push((partition, account));
        }
        let (topic, seed) = (self.topic.as_str(), self.seed);
        std::thread::scope(|scope| {
            for share in shares {
                let progress = &progress;
                scope.spawn(move || {
                    let ended = produce(address, topic, seed, share, progress);
                    progress.change(|state| {
                        state.ended += 1;
                        if let Some(refusal) = ended {
                            state.refusal.get_or_insert(refusal);
                        }
                    });
                });
            }
            // Also when it panics, the threads must end.
            let _stop = Stop(&progress);
            during(&progress)
        })
    }

    /// Reads every partition from its start to the high watermark and compares. Panics where the log has a hole, a
    /// damaged batch, one that was not sent, one of another place, or does not keep to `promise`.
    pub fn check(&mut self, address: &str, promise: Promise) -> Checked {
        let mut checked = Checked::default();
        let mut client = Client::connect(address).expect("the broker accepts");
        for (partition, account) in self.accounts.iter_mut().enumerate() {
            let found = read(&mut client, &self.topic, self.seed, partition);
            let place = format!("{}-{partition}", self.topic);
            assert!(
                found.starts_with(&account.stored),
                "{place}: what an earlier start had found is not there: {:?} instead of {:?}",
                first_difference(&found, &account.stored),
                account.stored.last()
            );
            let rising = found.windows(2).all(|pair| pair[0].1 < pair[1].1);
            assert!(
                rising,
                "{place}: a batch is repeated or of another life: {found:?}"
            );
            let mut lost = 0;
            for acknowledged in &account.acknowledged {
                match found.binary_search_by_key(&acknowledged.0, |(offset, _)| *offset) {
                    Ok(at) => assert_eq!(found[at], *acknowledged, "{place}: another batch"),
                    Err(at) => {
                        assert!(
                            at == found.len(),
                            "{place}: a hole where {acknowledged:?} was"
                        );
                        lost += 1;
                    }
                }
            }
            assert!(
                promise == Promise::Beginning || lost == 0,
                "{place}: {lost} acknowledged batches are lost, the log ends with {:?}",
                found.last()
            );
            checked.stored += found.len();
            checked.acknowledged += account.acknowledged.len();
            checked.lost += lost;
            account.acknowledged.clear();
            account.stored = found;
        }
        checked
    }
}

struct Stop<'a>(&'a Progress);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.stop = true);
    }
}

fn first_difference(found: &[(i64, u64)], expected: &[(i64, u64)]) -> Option<(i64, u64)> {
    let differs = expected
        .iter()
        .enumerate()
        .find(|(at, held)| found.get(*at) != Some(held));
    found.get(differs?.0).copied()
}

/// The batch of a number, as its producer sends it: mostly small, some large enough to be stored apart.
fn batch_of(seed: u64, partition: usize, number: u64) -> Bytes {
    let mixed = seed ^ (partition as u64) << 48 ^ number;
    let mut random = fastrand::Rng::with_seed(mixed);
    let mut builder = BatchBuilder::new(TIME_MS);
    for index in 0..random.usize(1..4) {
        let size = match random.u8(0..100) {
            0..60 => random.usize(20..300),
            60..92 => random.usize(1_000..16_000),
            _ => random.usize(60_000..250_000),
        };
        let mut value: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
        if index == 0 {
            value[..8].copy_from_slice(&number.to_be_bytes());
        }
        builder = builder.record(TIME_MS, Some(b"key"), Some(&value), &[]);
    }
    builder.build()
}

/// The number of a batch that was read.
fn number_of(batch: &[u8]) -> Option<u64> {
    let mut number = None;
    records::for_each_record(batch, batch.len(), |record| {
        let head = record.value.and_then(|value| value.first_chunk::<8>());
        number = head.map(|bytes| u64::from_be_bytes(*bytes));
        std::ops::ControlFlow::Break(())
    })
    .ok()?;
    number
}

/// Sends until it is told to stop, is refused (which is answered) or the connection breaks.
fn produce(
    address: &str,
    topic: &str,
    seed: u64,
    mut share: Vec<(usize, &mut Account)>,
    progress: &Progress,
) -> Option<(i16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    let mut flying: VecDeque<(usize, u64)> = VecDeque::new();
    let mut refusal = None;
    let mut turn = 0;
    let mut sent = 0;
    loop {
        let sends = refusal.is_none() && !progress.lock().stop;
        if sends && flying.len() < IN_FLIGHT {
            let at = turn % share.len();
            turn += 1;
            let (partition, account) = &mut share[at];
            let number = account.next;
            account.next += 1;
            sent += 1;
            let request =
                produce_frame(topic, *partition, batch_of(seed, *partition, number), sent);
            if stream.write_all(&request).is_err() {
                return refusal;
            }
            flying.push_back((at, number));
            continue;
        }
        let Some((at, number)) = flying.pop_front() else {
            return refusal;
        };
        let Ok((code, base_offset, message)) = produce_answer(&mut stream) else {
            return refusal;
        };
        if code == 0 {
            let state = progress.lock();
            if !state.doubtful {
                share[at].1.acknowledged.push((base_offset, number));
            }
            drop(state);
            progress.change(|state| state.acknowledged += 1);
        } else {
            refusal.get_or_insert((code, message));
        }
    }
}

fn produce_frame(topic: &str, partition: usize, batch: Bytes, correlation_id: i32) -> Bytes {
    let data = PartitionProduceData::default()
        .with_index(partition as i32)
        .with_records(Some(batch));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(60_000)
        .with_topic_data(vec![topic]);
    let mut body = BytesMut::new();
    request
        .encode(&mut body, PRODUCE_VERSION)
        .expect("a request is encoded");
    frame(
        ApiKey::Produce as i16,
        PRODUCE_VERSION,
        correlation_id,
        2,
        &body,
    )
}

/// Error code, base offset and message of the next answer.
fn produce_answer(stream: &mut TcpStream) -> io::Result<(i16, i64, String)> {
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let mut answer = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut answer)?;
    let mut answer = Bytes::from(answer);
    let undecoded = |error| failed(format!("a Produce answer: {error}"));
    ResponseHeader::decode(&mut answer, 1).map_err(undecoded)?;
    let response = ProduceResponse::decode(&mut answer, PRODUCE_VERSION).map_err(undecoded)?;
    let only = &response.responses[0].partition_responses[0];
    let message = only.error_message.as_ref().map(ToString::to_string);
    Ok((
        only.error_code,
        only.base_offset,
        message.unwrap_or_default(),
    ))
}

/// Base offset and number of every batch of a partition, each compared with what was sent.
fn read(client: &mut Client, topic: &str, seed: u64, partition: usize) -> Vec<(i64, u64)> {
    let place = format!("{topic}-{partition}");
    let mut found = Vec::new();
    let mut next = 0;
    loop {
        let wanted = FetchPartition::default()
            .with_partition(partition as i32)
            .with_fetch_offset(next)
            .with_partition_max_bytes(FETCH_BYTES);
        let wanted = FetchTopic::default()
            .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_partitions(vec![wanted]);
        let request = FetchRequest::default()
            .with_max_bytes(FETCH_BYTES)
            .with_topics(vec![wanted]);
        let end = client
            .ask_with(FETCH_VERSION, &request, |response| {
                let answer = &response.responses[0].partitions[0];
                assert_eq!(answer.error_code, 0, "{place}");
                let bytes = answer.records.clone().unwrap_or_default();
                for step in batch::walk(&bytes) {
                    let (header, bytes) = step.expect("whole batches");
                    found.push((
                        header.base_offset,
                        sent_number(&place, seed, partition, &header, bytes),
                    ));
                    assert_eq!(header.base_offset, next, "{place}: a hole");
                    next = header.next_offset();
                }
                Ok(answer.high_watermark)
            })
            .expect("an answer");
        if next >= end {
            assert_eq!(next, end, "{place}: batches beyond the high watermark");
            return found;
        }
    }
}

fn sent_number(
    place: &str,
    seed: u64,
    partition: usize,
    header: &BatchHeader,
    bytes: &[u8],
) -> u64 {
    let at = header.base_offset;
    assert!(batch::crc_matches(bytes), "{place}@{at}: a damaged batch");
    let number = number_of(bytes).unwrap_or_else(|| panic!("{place}@{at}: a batch nobody sent"));
    let mut as_sent = bytes.to_vec();
    batch::stamp(&mut as_sent, 0, -1);
    assert!(
        batch_of(seed, partition, number) == as_sent,
        "{place}@{at}: not the batch {number} that was sent"
    );
    number
}
