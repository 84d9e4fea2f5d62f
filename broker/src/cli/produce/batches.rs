//! Batches of `ottla produce` and their way to the leaders: partitions, sequences, requests, what was written.
//!
//! Used by `produce.rs`, which adds records and says when to send. A request holds one batch a partition, and the next
//! batch of a partition is sent only after the one before it is written, so that sequences never have a gap.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    InitProducerIdRequest, ProduceRequest, ProduceResponse, ProducerId, TopicName,
};
use kafka_protocol::protocol::Request;
use ottla_protocol::batch::BatchBuilder;
use ottla_protocol::error_code::ErrorCode;
use serde_json::json;

use super::input::Message;
use super::{Acks, check_partition};
use crate::cli::client::{Client, Node, text};
use crate::cli::failure::{Failure, Kind, Result};
use crate::cli::output::counted;
use crate::cli::run::Session;

/// A batch is closed above this, well below the default of `max.message.bytes`.
const BATCH_BYTES: usize = 512 * 1024;
/// Bytes of all batches of one round of requests.
const ROUND_BYTES: usize = 8 * 1024 * 1024;
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

pub(super) struct Producer {
    topic: String,
    partitions: Vec<i32>,
    acks: Acks,
    /// Id and epoch of an idempotent producer.
    identity: Option<(i64, i16)>,
    lanes: BTreeMap<i32, Lane>,
    /// Where records without a key go until the next round.
    turn: usize,
    waiting: usize,
    failed: bool,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Producer {
    pub(super) async fn new(
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
            failed: false,
            records: 0,
            bytes: 0,
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting >= ROUND_BYTES
    }

    pub(super) fn add(&mut self, message: Message, now_ms: i64) -> Result<()> {
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
    pub(super) async fn send(&mut self, client: &mut Client) -> Result<()> {
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
            if let Err(failure) = self.send_round(client, round).await {
                self.failed = true;
                return Err(failure);
            }
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

    /// Whether anything was written.
    pub(super) fn has_written(&self) -> bool {
        self.lanes.values().any(|lane| lane.records > 0)
    }

    /// Whether a batch could not be written: none behind it must be sent.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn report(&self, session: &mut Session) -> Result<()> {
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
}
