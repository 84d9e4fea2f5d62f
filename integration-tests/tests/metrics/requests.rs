//! Requests of these tests, by topic name.

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    CreateTopicsRequest, FindCoordinatorRequest, GroupId, OffsetCommitRequest, ProduceRequest,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_integration_tests::Broker;
use ottla_integration_tests::exposition::Page;
use ottla_integration_tests::http::{get, metrics_when};
use ottla_integration_tests::wire::Wire;
use ottla_protocol::batch::BatchBuilder;

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub fn metrics_port(broker: &Broker) -> u16 {
    broker
        .metrics_port()
        .expect("the banner names the metrics listener")
}

/// The page, read strictly.
pub fn scrape(broker: &Broker) -> Page {
    let (status, page) = get(metrics_port(broker), "/metrics");
    assert_eq!(status, 200);
    Page::parse(&page)
}

/// The page once it is as `wanted`.
pub fn scrape_when(broker: &Broker, what: &str, mut wanted: impl FnMut(&Page) -> bool) -> Page {
    let is_wanted = |page: &str| wanted(&Page::parse(page));
    Page::parse(&metrics_when(metrics_port(broker), what, is_wanted))
}

/// Creates topics of so many partitions.
pub fn create(wire: &mut Wire, names: &[&str], partitions: i32, configs: &[(&str, &str)]) {
    let config = |(name, value): &(&str, &str)| {
        CreatableTopicConfig::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
    };
    let topic = |name: &&str| {
        CreatableTopic::default()
            .with_name(TopicName(text(name)))
            .with_num_partitions(partitions)
            .with_replication_factor(-1)
            .with_configs(configs.iter().map(config).collect())
    };
    let request = CreateTopicsRequest::default()
        .with_topics(names.iter().map(topic).collect())
        .with_timeout_ms(30_000);
    for created in wire.ask(7, &request).topics {
        assert_eq!(created.error_code, 0, "{:?}", created.error_message);
    }
}

/// One batch with a record for each of these timestamps.
pub fn batch(timestamps: &[i64]) -> Bytes {
    let builder = BatchBuilder::new(timestamps[0]);
    let add = |builder: BatchBuilder, timestamp: &i64| {
        builder.record(*timestamp, None, Some(b"value"), &[])
    };
    timestamps.iter().fold(builder, add).build()
}

/// Produces one batch to each of these partitions.
pub fn produce(wire: &mut Wire, topic: &str, partitions: &[i32], batch: &Bytes) {
    let data = partitions.iter().map(|partition| {
        PartitionProduceData::default()
            .with_index(*partition)
            .with_records(Some(batch.clone()))
    });
    let topic = TopicProduceData::default()
        .with_name(TopicName(text(topic)))
        .with_partition_data(data.collect());
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic]);
    for topic in wire.ask(9, &request).responses {
        for produced in topic.partition_responses {
            assert_eq!(produced.error_code, 0, "{:?}", produced.error_message);
        }
    }
}

/// Makes the coordinator ready.
pub fn find_coordinator(wire: &mut Wire) {
    let request = FindCoordinatorRequest::default().with_key(text("any"));
    assert_eq!(wire.ask(3, &request).error_code, 0);
}

/// Commits offsets of one topic as a consumer without membership; the error code of each.
pub fn commit(wire: &mut Wire, group: &str, topic: &str, offsets: &[(i32, i64)]) {
    let offset = |(partition, offset): &(i32, i64)| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(text("")))
    };
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text(topic)))
        .with_partitions(offsets.iter().map(offset).collect());
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    for topic in wire.ask(8, &request).topics {
        for committed in topic.partitions {
            assert_eq!(committed.error_code, 0);
        }
    }
}
