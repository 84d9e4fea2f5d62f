//! What many tests ask of one topic over the wire: to make it, to append a batch, where an offset is, what lies there.
//!
//! Each function is one request, in a version that knows topics by name. What an error means is the caller's business.

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, FetchRequest, ListOffsetsRequest, MetadataRequest,
    ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::wire::Wire;

/// As long as a broker may take, but for what a test asks otherwise.
const TIMEOUT_MS: i32 = 10_000;

/// A topic's name as requests have it.
pub fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// Creates a topic; the answer.
pub fn create(
    wire: &mut Wire,
    topic: &str,
    partitions: i32,
    configs: &[(&str, &str)],
) -> CreatableTopicResult {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let configs = configs.iter().map(|(name, value)| {
        CreatableTopicConfig::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
    });
    let topic = CreatableTopic::default()
        .with_name(topic_name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(TIMEOUT_MS);
    wire.ask(7, &request).topics.remove(0)
}

/// What Metadata says of a topic.
pub fn metadata(wire: &mut Wire, topic: &str) -> MetadataResponseTopic {
    let topic = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
    let request = MetadataRequest::default().with_topics(Some(vec![topic]));
    wire.ask(9, &request).topics.remove(0)
}

/// Appends a batch with `acks=all`; the answer.
pub fn produce(
    wire: &mut Wire,
    topic: &str,
    partition: i32,
    batch: Bytes,
) -> PartitionProduceResponse {
    produce_within(wire, topic, partition, batch, TIMEOUT_MS)
}

/// The same, with a time of one's own for the broker.
pub fn produce_within(
    wire: &mut Wire,
    topic: &str,
    partition: i32,
    batch: Bytes,
    timeout_ms: i32,
) -> PartitionProduceResponse {
    let data = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(batch));
    let topic = TopicProduceData::default()
        .with_name(topic_name(topic))
        .with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(timeout_ms)
        .with_topic_data(vec![topic]);
    let mut response = wire.ask(9, &request);
    response.responses[0].partition_responses.remove(0)
}

/// The offset of a timestamp in partition 0: -2 is the earliest, -1 the latest.
pub fn offset_of(wire: &mut Wire, topic: &str, timestamp: i64) -> ListOffsetsPartitionResponse {
    let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic]);
    let mut response = wire.ask(5, &request);
    response.topics[0].partitions.remove(0)
}

/// A fetch of version 12 of so many bytes of one partition, which does not wait.
pub fn fetch_request(topic: &str, partition: i32, offset: i64, max_bytes: i32) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(max_bytes);
    let topic = FetchTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_bytes(max_bytes)
        .with_topics(vec![topic])
}
