//! Requests in few words, and what their answers hold. Used by all files of this test; checks only what every
//! caller relies on.

use std::ops::ControlFlow;

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::EpochEndOffset;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteRecordsRequest, FetchRequest, FetchResponse,
    InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest,
    ProduceRequest, ProduceResponse, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes, VersionRange};
use ottla_integration_tests::unique;
use ottla_integration_tests::wire::Wire;
use ottla_protocol::batch::{self, BatchBuilder, BatchHeader};
use ottla_protocol::records;
use uuid::Uuid;

/// Timestamp of the first record of every batch that does not say otherwise; records are 10 ms apart.
pub const TIME: i64 = 1_700_000_000_000;
pub const NONE: i16 = 0;
pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;

/// The newest version of `Q` that the codec has; the broker's rows go as far.
pub fn newest<Q: Request>() -> i16 {
    let VersionRange { max, .. } = Q::VERSIONS;
    max
}

pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A topic as versions before and since topic ids name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
}

impl Topic {
    pub fn unknown() -> Topic {
        Topic {
            name: unique("unknown"),
            id: Uuid::from_u128(0x7777),
        }
    }
}

pub fn creatable(name: &str, partitions: i32, configs: &[(&str, &str)]) -> CreatableTopic {
    let config = |(name, value): &(&str, &str)| {
        CreatableTopicConfig::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
    };
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(-1)
        .with_configs(configs.iter().map(config).collect())
}

pub fn create_request(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest::default()
        .with_topics(topics)
        .with_timeout_ms(10_000)
}

/// Asks for one topic and returns its answer.
pub fn create_one(wire: &mut Wire, version: i16, topic: CreatableTopic) -> CreatableTopicResult {
    let mut response = wire.ask(version, &create_request(vec![topic]));
    assert_eq!(response.topics.len(), 1);
    response.topics.remove(0)
}

/// Creates a topic that no other test knows, ready for use.
pub fn create(wire: &mut Wire, partitions: i32, configs: &[(&str, &str)]) -> Topic {
    let name = unique("wire");
    let result = create_one(
        wire,
        newest::<CreateTopicsRequest>(),
        creatable(&name, partitions, configs),
    );
    assert_eq!(result.error_code, NONE, "{:?}", result.error_message);
    let topic = Topic {
        name,
        id: result.topic_id,
    };
    // Here a topic is ready when its creation is answered; in Apache Kafka (`OTTLA_TEST_BOOTSTRAP`) soon after.
    while std::env::var_os("OTTLA_TEST_BOOTSTRAP").is_some() && !is_ready(wire, &topic, partitions)
    {
    }
    topic
}

fn is_ready(wire: &mut Wire, topic: &Topic, partitions: i32) -> bool {
    (0..partitions).all(|partition| fetch(wire, topic, partition, 0).error_code == NONE)
        && describe(wire, &topic.name).partitions.len() == partitions as usize
}

/// A batch of these values, without keys, timestamps from `TIME` on.
pub fn batch(values: &[&str]) -> Bytes {
    records_at(BatchBuilder::new(TIME), &timed(values)).build()
}

/// The same from an idempotent producer.
pub fn batch_of(producer: (i64, i16), sequence: i32, values: &[&str]) -> Bytes {
    let builder = BatchBuilder::new(TIME).producer(producer.0, producer.1, sequence);
    records_at(builder, &timed(values)).build()
}

/// A batch of values with their timestamps.
pub fn batch_at(values: &[(i64, &str)]) -> Bytes {
    records_at(BatchBuilder::new(values[0].0), values).build()
}

fn timed<'a>(values: &[&'a str]) -> Vec<(i64, &'a str)> {
    (0..)
        .map(|index| TIME + 10 * index)
        .zip(values.iter().copied())
        .collect()
}

fn records_at(builder: BatchBuilder, values: &[(i64, &str)]) -> BatchBuilder {
    let add = |builder: BatchBuilder, (timestamp, value): &(i64, &str)| {
        builder.record(*timestamp, None, Some(value.as_bytes()), &[])
    };
    values.iter().fold(builder, add)
}

pub fn produce_request(
    version: i16,
    acks: i16,
    entries: &[(&Topic, i32, Bytes)],
) -> ProduceRequest {
    let entry = |(topic, partition, records): &(&Topic, i32, Bytes)| {
        let data = PartitionProduceData::default()
            .with_index(*partition)
            .with_records(Some(records.clone()));
        let entry = TopicProduceData::default().with_partition_data(vec![data]);
        if version >= 13 {
            entry.with_topic_id(topic.id)
        } else {
            entry.with_name(topic_name(&topic.name))
        }
    };
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(10_000)
        .with_topic_data(entries.iter().map(entry).collect())
}

/// The answer for the only partition of a request.
pub fn produced(mut response: ProduceResponse) -> PartitionProduceResponse {
    assert_eq!(response.responses.len(), 1, "{response:?}");
    let mut topic = response.responses.remove(0);
    assert_eq!(topic.partition_responses.len(), 1, "{topic:?}");
    topic.partition_responses.remove(0)
}

/// Produces one batch with acks=all at the newest version; any outcome.
pub fn try_produce(
    wire: &mut Wire,
    topic: &Topic,
    partition: i32,
    batch: Bytes,
) -> PartitionProduceResponse {
    let version = newest::<ProduceRequest>();
    produced(wire.ask(
        version,
        &produce_request(version, -1, &[(topic, partition, batch)]),
    ))
}

/// Produces one batch and returns its base offset.
pub fn produce(wire: &mut Wire, topic: &Topic, partition: i32, batch: Bytes) -> i64 {
    let response = try_produce(wire, topic, partition, batch);
    assert_eq!(response.error_code, NONE, "{:?}", response.error_message);
    response.base_offset
}

/// A fetch that does not wait, outside of a session, of partitions from offsets on.
pub fn fetch_request(version: i16, wanted: &[(&Topic, i32, i64)]) -> FetchRequest {
    let topics = wanted.iter().map(|(topic, partition, offset)| {
        let partition = FetchPartition::default()
            .with_partition(*partition)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(1 << 20);
        let entry = FetchTopic::default().with_partitions(vec![partition]);
        if version >= 13 {
            entry.with_topic_id(topic.id)
        } else {
            entry.with_topic(topic_name(&topic.name))
        }
    });
    FetchRequest::default()
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(topics.collect())
}

/// Changes every partition of a fetch.
pub fn each_partition(
    mut request: FetchRequest,
    change: impl Fn(FetchPartition) -> FetchPartition,
) -> FetchRequest {
    for topic in &mut request.topics {
        topic.partitions = topic.partitions.drain(..).map(&change).collect();
    }
    request
}

/// The answer for the only partition of a fetch.
pub fn fetched(mut response: FetchResponse) -> PartitionData {
    assert_eq!(response.error_code, NONE);
    assert_eq!(response.responses.len(), 1, "{response:?}");
    let mut topic = response.responses.remove(0);
    assert_eq!(topic.partitions.len(), 1, "{topic:?}");
    topic.partitions.remove(0)
}

/// Fetches from one partition at the newest version; any outcome.
pub fn fetch(wire: &mut Wire, topic: &Topic, partition: i32, offset: i64) -> PartitionData {
    let version = newest::<FetchRequest>();
    fetched(wire.ask(
        version,
        &fetch_request(version, &[(topic, partition, offset)]),
    ))
}

/// The batches of a fetched partition: headers, checksums checked.
pub fn headers(data: &PartitionData) -> Vec<BatchHeader> {
    let batches = batch::walk(data.records.as_deref().unwrap_or_default());
    let header = |found| {
        let (header, bytes): (BatchHeader, &[u8]) = found;
        assert!(batch::crc_matches(bytes), "{header:?}");
        header
    };
    batches
        .map(|found| header(found.expect("whole batches")))
        .collect()
}

/// The records of a fetched partition: offset and value.
pub fn values(data: &PartitionData) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    for found in batch::walk(data.records.as_deref().unwrap_or_default()) {
        let (header, bytes) = found.expect("whole batches");
        let read = records::for_each_record(bytes, 1 << 20, |record| {
            let value = String::from_utf8_lossy(record.value.expect("a value")).into_owned();
            values.push((header.base_offset + i64::from(record.offset_delta), value));
            ControlFlow::Continue(())
        });
        read.expect("readable records");
    }
    values
}

/// `values` of a partition's log from its start, without offsets.
pub fn stored(wire: &mut Wire, topic: &Topic, partition: i32) -> Vec<String> {
    values(&fetch(wire, topic, partition, 0))
        .into_iter()
        .map(|(_, value)| value)
        .collect()
}

pub fn list_request(topic: &str, partition: i32, timestamp: i64) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic])
}

/// Looks one timestamp up; any outcome.
pub fn list(
    wire: &mut Wire,
    version: i16,
    topic: &Topic,
    partition: i32,
    timestamp: i64,
) -> ListOffsetsPartitionResponse {
    let mut response = wire.ask(version, &list_request(&topic.name, partition, timestamp));
    assert_eq!(response.throttle_time_ms, 0);
    assert_eq!(response.topics[0].name, topic_name(&topic.name));
    let found = response.topics[0].partitions.remove(0);
    assert_eq!(found.partition_index, partition);
    found
}

/// First and next offset of a partition.
pub fn bounds(wire: &mut Wire, topic: &Topic, partition: i32) -> (i64, i64) {
    let mut bound = |timestamp| {
        let found = list(
            wire,
            newest::<ListOffsetsRequest>(),
            topic,
            partition,
            timestamp,
        );
        assert_eq!(found.error_code, NONE);
        found.offset
    };
    (bound(EARLIEST), bound(LATEST))
}

/// Asks for topics by name; `None` for all of them.
pub fn metadata_request(topics: Option<&[&str]>) -> MetadataRequest {
    let by_name = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    let topics = topics.map(|names| names.iter().map(by_name).collect());
    MetadataRequest::default().with_topics(topics)
}

/// One topic as Metadata describes it, without creating it.
pub fn describe(wire: &mut Wire, name: &str) -> MetadataResponseTopic {
    let request = metadata_request(Some(&[name])).with_allow_auto_topic_creation(false);
    let mut response = wire.ask(newest::<MetadataRequest>(), &request);
    assert_eq!(response.topics.len(), 1);
    response.topics.remove(0)
}

/// The leader epoch of a topic's first partition.
pub fn leader_epoch(wire: &mut Wire, topic: &Topic) -> i32 {
    describe(wire, &topic.name).partitions[0].leader_epoch
}

pub fn epoch_request(
    topic: &str,
    partition: i32,
    current: i32,
    epoch: i32,
) -> OffsetForLeaderEpochRequest {
    let partition = OffsetForLeaderPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(current)
        .with_leader_epoch(epoch);
    let topic = OffsetForLeaderTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(vec![partition]);
    OffsetForLeaderEpochRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic])
}

/// Where an epoch ends; any outcome.
pub fn epoch_end(wire: &mut Wire, topic: &Topic, current: i32, epoch: i32) -> EpochEndOffset {
    let version = newest::<OffsetForLeaderEpochRequest>();
    let mut response = wire.ask(version, &epoch_request(&topic.name, 0, current, epoch));
    response.topics[0].partitions.remove(0)
}

pub fn delete_records_request(topic: &str, partition: i32, offset: i64) -> DeleteRecordsRequest {
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(partition)
        .with_offset(offset);
    let topic = DeleteRecordsTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    DeleteRecordsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000)
}

pub fn producer_id_request(
    transactional_id: Option<&str>,
    timeout_ms: i32,
) -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(transactional_id.map(|id| text(id).into()))
        .with_transaction_timeout_ms(timeout_ms)
}

/// A fresh idempotent producer.
pub fn producer(wire: &mut Wire) -> (i64, i16) {
    let response = wire.ask(
        newest::<InitProducerIdRequest>(),
        &producer_id_request(None, i32::MAX),
    );
    assert_eq!(response.error_code, NONE);
    (response.producer_id.0, response.producer_epoch)
}

/// Panics unless a partition's first and next offset are these.
pub fn bounds_are(wire: &mut Wire, topic: &Topic, partition: i32, expected: (i64, i64)) {
    assert_eq!(
        bounds(wire, topic, partition),
        expected,
        "{topic:?} {partition}"
    );
}
