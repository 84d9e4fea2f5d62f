//! What the cluster looks like: Metadata, DescribeCluster, DescribeTopicPartitions.
//!
//! Called by the router. Answers come from the metadata image and from the listener the client came
//! in by, never from the config file. The metadata partition is not a topic and never shows.
//! The only thing a request here can change is a topic that Metadata creates because it was asked for.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_coordinator::metadata::{
    Command, Image, MAX_PARTITIONS_PER_REQUEST, MetadataError, NO_LEADER, Partition, Reply, Topic,
    TopicRef, topic_name,
};
use ottla_protocol::error_code::ErrorCode;
use uuid::Uuid;

use crate::error::metadata_error;
use crate::router::Ctx;

/// Answer to a client that did not ask what it may do (KIP-430).
const OPERATIONS_NOT_ASKED: i32 = i32::MIN;
/// Every operation Kafka knows on a topic, one bit each: what Kafka answers without an authorizer.
const ALL_TOPIC_OPERATIONS: i32 = 3576;
/// Every operation Kafka knows on the cluster.
const ALL_CLUSTER_OPERATIONS: i32 = 8096;

/// `EndpointType` of DescribeCluster.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// Metadata, versions 0 to 13.
///
/// - v0: an empty array asks for all topics; from v1 it asks for none, and null asks for all
/// - v1: rack, controller id, internal flag; v2: cluster id; v3: throttle time; v5: offline replicas; v7: leader epoch
/// - v4: the client says whether unknown topics may be created; before, they always may
/// - v8: authorized operations, all of them while there is no authorizer; those of the cluster only up to v10
/// - v10: topic ids in answers; v12: topics may be asked for by id, which v10 and v11 define and do not allow
/// - v13: an error for the whole request
///
/// A topic created by the request is answered at once: on one node it is ready when its record is
/// durable. Offline replicas are always empty: the one broker there is answers.
pub async fn metadata(ctx: Ctx, request: MetadataRequest) -> MetadataResponse {
    let version = ctx.api_version;
    let Some(asked) = asked_topics(&request, version) else {
        return refuse_request(request, version);
    };
    let may_create = version < 4 || request.allow_auto_topic_creation;
    let topics = match asked {
        Asked::All => {
            let image = ctx.broker.metadata.image();
            let by_name = image.names.values().filter_map(|id| image.topic_by_id(id));
            by_name.map(|topic| topic_answer(topic)).collect()
        }
        Asked::These(topics) => answer_topics(&ctx, &topics, may_create).await,
    };

    let mut response = MetadataResponse::default();
    response.brokers = vec![broker_answer(&ctx)];
    response.cluster_id = Some(StrBytes::from_string(
        ctx.broker.identity.cluster_id.clone(),
    ));
    // No broker but this one could be the controller.
    response.controller_id = BrokerId(ctx.broker.identity.node_id);
    response.topics = topics;
    if request.include_topic_authorized_operations {
        for topic in response
            .topics
            .iter_mut()
            .filter(|topic| topic.error_code == 0)
        {
            topic.topic_authorized_operations = ALL_TOPIC_OPERATIONS;
        }
    }
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = ALL_CLUSTER_OPERATIONS;
    }
    response
}

/// Topics that Metadata requests are creating now, so that requests beside each other stay within
/// `auto.create.topics.limit` together.
#[derive(Debug, Default)]
pub struct AutoCreations(AtomicUsize);

/// Room for so many topics, until it is dropped.
struct Reserved<'a> {
    creations: &'a AutoCreations,
    count: usize,
}

impl AutoCreations {
    /// Room for at most `wanted` more topics. `existing` is called after the room is taken: who gave room back before
    /// has its topics in what is counted then, so that there is never room for one too many. There may be too little
    /// for a moment, while a topic is counted both ways.
    fn reserve(&self, wanted: usize, limit: usize, existing: impl Fn() -> usize) -> Reserved<'_> {
        let before = self.0.fetch_add(wanted, Ordering::SeqCst);
        let room = limit.saturating_sub(before.saturating_add(existing()));
        let count = wanted.min(room);
        self.0.fetch_sub(wanted - count, Ordering::SeqCst);
        Reserved {
            creations: self,
            count,
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.creations.0.fetch_sub(self.count, Ordering::SeqCst);
    }
}

/// Creates a topic that a client used without creating it; its name is creatable.
///
/// Returns the topic also when another request created it meanwhile.
async fn auto_create(ctx: &Ctx, name: &str) -> Result<Arc<Topic>, ErrorCode> {
    if ctx.broker.disk.refusal().is_some() {
        return Err(ErrorCode::KafkaStorageError);
    }
    let config = &ctx.broker.config;
    let command = Command::CreateTopic {
        name: name.to_owned(),
        id: ctx.broker.env.uuid(),
        partitions: None,
        num_partitions: config.num_partitions,
        replication_factor: config.default_replication_factor,
        configs: BTreeMap::new(),
        validate_only: false,
    };
    match ctx.broker.metadata.propose(command).await? {
        Reply::TopicCreated { num_partitions, .. } => {
            tracing::info!(
                topic = name,
                partitions = num_partitions,
                "topic created on first use"
            );
        }
        Reply::Failed(MetadataError::TopicAlreadyExists(_)) => {}
        Reply::Failed(error) => return Err(metadata_error(&error)),
        other => {
            tracing::error!(reply = ?other, "metadata machine gave an answer to another question");
            return Err(ErrorCode::UnknownServerError);
        }
    }
    let image = ctx.broker.metadata.image();
    // Gone again: somebody deleted it in between.
    image
        .topic(name)
        .cloned()
        .ok_or(ErrorCode::UnknownTopicOrPartition)
}

/// Whether a Metadata request may create a topic of this name: not one that Kafka forbids, nor an internal one, whose
/// creation belongs to its coordinator.
fn is_creatable(name: &str) -> bool {
    let reserved = topic_name::is_internal(name) || name == topic_name::CLUSTER_METADATA;
    !reserved && topic_name::validate(name).is_ok()
}

/// Which topics a Metadata request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    These(Vec<TopicRef>),
}

/// `None`: the request uses fields its version defines but does not allow.
fn asked_topics(request: &MetadataRequest, version: i16) -> Option<Asked> {
    let topics = match &request.topics {
        None => return Some(Asked::All),
        Some(topics) if topics.is_empty() && version == 0 => return Some(Asked::All),
        Some(topics) => topics,
    };
    let mut seen_names = HashSet::new();
    let mut seen_ids = HashSet::new();
    let mut asked = Vec::with_capacity(topics.len());
    for topic in topics {
        let by_id = topic.name.is_none() || !topic.topic_id.is_nil();
        if by_id && version < 12 {
            return None;
        }
        // A topic named twice is answered once, as in Kafka.
        match &topic.name {
            Some(name) if !by_id => {
                if seen_names.insert(name.as_str()) {
                    asked.push(TopicRef::Name(name.to_string()));
                }
            }
            _ => {
                if seen_ids.insert(topic.topic_id) {
                    asked.push(TopicRef::Id(topic.topic_id));
                }
            }
        }
    }
    Some(Asked::These(asked))
}

fn refuse_request(request: MetadataRequest, version: i16) -> MetadataResponse {
    let mut response = MetadataResponse::default();
    if version >= 13 {
        response.error_code = ErrorCode::InvalidRequest.code();
    }
    for topic in request.topics.unwrap_or_default() {
        let name = topic.name.unwrap_or_default();
        response.topics.push(unknown_topic(
            Some(name),
            Uuid::nil(),
            ErrorCode::InvalidRequest,
        ));
    }
    response
}

async fn answer_topics(
    ctx: &Ctx,
    asked: &[TopicRef],
    may_create: bool,
) -> Vec<MetadataResponseTopic> {
    let refused = if may_create {
        create_missing(ctx, asked).await
    } else {
        BTreeMap::new()
    };
    let image = ctx.broker.metadata.image();
    let answer = |topic: &TopicRef| match topic {
        TopicRef::Name(name) => image.topic(name).map_or_else(
            || {
                let error = refused
                    .get(name.as_str())
                    .copied()
                    .unwrap_or_else(|| unknown_name_error(name));
                unknown_topic(Some(wire_name(name)), Uuid::nil(), error)
            },
            |topic| topic_answer(topic),
        ),
        TopicRef::Id(id) => image.topic_by_id(id).map_or_else(
            || unknown_topic(None, *id, ErrorCode::UnknownTopicId),
            |topic| topic_answer(topic),
        ),
    };
    asked.iter().map(answer).collect()
}

/// Creates the topics that do not exist; returns why one was not created.
async fn create_missing<'a>(ctx: &Ctx, asked: &'a [TopicRef]) -> BTreeMap<&'a str, ErrorCode> {
    let image = ctx.broker.metadata.image();
    let missing: Vec<&str> = asked
        .iter()
        .filter_map(|topic| match topic {
            TopicRef::Name(name) if image.topic(name).is_none() && is_creatable(name) => {
                Some(name.as_str())
            }
            TopicRef::Name(_) | TopicRef::Id(_) => None,
        })
        .collect();
    let config = &ctx.broker.config;
    if missing.is_empty() || !config.auto_create_topics_enable {
        return BTreeMap::new();
    }
    // Kafka creates them by one CreateTopics request, whose limit therefore holds here too.
    let partitions_each = usize::try_from(config.num_partitions).unwrap_or(1).max(1);
    let wanted = missing
        .len()
        .min(MAX_PARTITIONS_PER_REQUEST / partitions_each);
    let reserved =
        ctx.broker
            .auto_creations
            .reserve(wanted, config.auto_create_topics_limit, || {
                ctx.broker.metadata.image().names.len()
            });
    if reserved.count < wanted {
        tell_of_limit(ctx, wanted - reserved.count);
    }
    let (creatable, too_many) = missing.split_at(reserved.count);
    // Proposed together, so that they share a sync.
    let outcomes = join_all(creatable.iter().map(|name| auto_create(ctx, name))).await;
    let refused = creatable
        .iter()
        .zip(outcomes)
        .filter_map(|(name, outcome)| Some((*name, outcome.err()?)));
    let over_limit = too_many
        .iter()
        .map(|name| (*name, ErrorCode::PolicyViolation));
    refused.chain(over_limit).collect()
}

fn tell_of_limit(ctx: &Ctx, names: usize) {
    ctx.broker.metrics.refused("auto_create_limit");
    let log = &ctx.broker.log_lines;
    if let Some(more) = log.admit("auto_create_limit", ctx.broker.env.now_ms()) {
        let limit = ctx.broker.config.auto_create_topics_limit;
        tracing::warn!(
            names,
            limit,
            client = %ctx.client_id,
            peer = %ctx.peer,
            more,
            "topics not created on first use: there are as many as auto.create.topics.limit allows"
        );
    }
}

fn unknown_name_error(name: &str) -> ErrorCode {
    match topic_name::validate(name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(error) => metadata_error(&error),
    }
}

fn unknown_topic(name: Option<TopicName>, id: Uuid, error: ErrorCode) -> MetadataResponseTopic {
    let mut answer = MetadataResponseTopic::default();
    answer.error_code = error.code();
    answer.is_internal = name
        .as_ref()
        .is_some_and(|name| topic_name::is_internal(name));
    answer.name = name;
    answer.topic_id = id;
    answer.topic_authorized_operations = OPERATIONS_NOT_ASKED;
    answer
}

fn topic_answer(topic: &Topic) -> MetadataResponseTopic {
    let mut answer = MetadataResponseTopic::default();
    answer.name = Some(wire_name(&topic.name));
    answer.topic_id = topic.id;
    answer.is_internal = topic_name::is_internal(&topic.name);
    answer.partitions = (0..).zip(&topic.partitions).map(partition_answer).collect();
    answer
}

fn partition_answer((index, partition): (i32, &Partition)) -> MetadataResponsePartition {
    let mut answer = MetadataResponsePartition::default();
    answer.error_code = partition_error(partition).code();
    answer.partition_index = index;
    answer.leader_id = BrokerId(partition.leader);
    answer.leader_epoch = partition.leader_epoch;
    answer.replica_nodes = broker_ids(&partition.replicas);
    answer.isr_nodes = broker_ids(&partition.isr);
    answer
}

fn partition_error(partition: &Partition) -> ErrorCode {
    if partition.leader == NO_LEADER {
        ErrorCode::LeaderNotAvailable
    } else {
        ErrorCode::None
    }
}

fn broker_answer(ctx: &Ctx) -> MetadataResponseBroker {
    let mut broker = MetadataResponseBroker::default();
    broker.node_id = BrokerId(ctx.broker.identity.node_id);
    broker.host = StrBytes::from_string(ctx.listener.advertised_host.clone());
    broker.port = i32::from(ctx.listener.advertised_port);
    broker.rack = rack(ctx);
    broker
}

fn rack(ctx: &Ctx) -> Option<StrBytes> {
    ctx.broker
        .config
        .broker_rack
        .clone()
        .map(StrBytes::from_string)
}

fn wire_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn broker_ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

/// DescribeCluster, versions 0 to 2.
///
/// - v1: the client says which endpoints it wants; this port is a broker's, so controllers (2) are
///   answered MISMATCHED_ENDPOINT_TYPE as a Kafka broker does, anything else UNSUPPORTED_ENDPOINT_TYPE
/// - v2: fenced brokers may be asked for: there are none
pub async fn describe_cluster(
    ctx: Ctx,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let mut response = DescribeClusterResponse::default();
    if let Some((error, message)) = endpoint_type_error(request.endpoint_type) {
        response.error_code = error.code();
        response.error_message = Some(StrBytes::from_string(message));
        return response;
    }
    let mut broker = DescribeClusterBroker::default();
    broker.broker_id = BrokerId(ctx.broker.identity.node_id);
    broker.host = StrBytes::from_string(ctx.listener.advertised_host.clone());
    broker.port = i32::from(ctx.listener.advertised_port);
    broker.rack = rack(&ctx);
    response.brokers = vec![broker];
    response.cluster_id = StrBytes::from_string(ctx.broker.identity.cluster_id.clone());
    response.controller_id = BrokerId(ctx.broker.identity.node_id);
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = ALL_CLUSTER_OPERATIONS;
    }
    response
}

fn endpoint_type_error(asked: i8) -> Option<(ErrorCode, String)> {
    match asked {
        BROKERS => None,
        CONTROLLERS => Some((
            ErrorCode::MismatchedEndpointType,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER".to_owned(),
        )),
        other => Some((
            ErrorCode::UnsupportedEndpointType,
            format!("Unsupported endpoint type {other}"),
        )),
    }
}

/// DescribeTopicPartitions, version 0: topics in order of name, cut into pages of at most
/// `max.request.partition.size.limit` partitions.
///
/// The cursor names the topic and partition a page begins with. Without topics, all are described, and
/// one that is deleted between two pages is left out. Eligible leader replicas are always empty: they
/// belong to a cluster. The authorized operations are always told, as Kafka does.
pub async fn describe_topic_partitions(
    ctx: Ctx,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let most = ctx.broker.config.max_request_partition_size_limit;
    // A limit below 1 would give a page without progress, and a client that asks for ever.
    let asked = usize::try_from(request.response_partition_limit).unwrap_or(1);
    let limit = asked.min(most).max(1);
    describe_page(&ctx.broker.metadata.image(), &request, limit)
}

fn describe_page(
    image: &Image,
    request: &DescribeTopicPartitionsRequest,
    limit: usize,
) -> DescribeTopicPartitionsResponse {
    let mut response = DescribeTopicPartitionsResponse::default();
    let start = request
        .cursor
        .as_ref()
        .map(|cursor| (cursor.topic_name.as_str(), cursor.partition_index));
    let (start_topic, start_partition) = start.unwrap_or(("", 0));
    let all = request.topics.is_empty();
    let asked: BTreeSet<&str> = request
        .topics
        .iter()
        .map(|topic| topic.name.as_str())
        .collect();
    let cursor_is_asked = all || start_topic.is_empty() || asked.contains(start_topic);
    let Some(start_partition) = usize::try_from(start_partition)
        .ok()
        .filter(|_| cursor_is_asked)
    else {
        let refused = asked
            .iter()
            .map(|name| undescribed_topic(name, ErrorCode::InvalidRequest));
        response.topics = refused.collect();
        return response;
    };

    let from_start = (Bound::Included(start_topic), Bound::Unbounded);
    let names: Vec<&str> = if all {
        image
            .names
            .range::<str, _>(from_start)
            .map(|(name, _)| &**name)
            .collect()
    } else {
        asked.range::<str, _>(from_start).copied().collect()
    };
    let mut left = limit;
    for name in names {
        if left == 0 {
            response.next_cursor = Some(cursor(name, 0));
            break;
        }
        let Some(topic) = image.topic(name) else {
            response
                .topics
                .push(undescribed_topic(name, unknown_name_error(name)));
            continue;
        };
        let first = if name == start_topic {
            start_partition
        } else {
            0
        };
        let described = described_topic(topic, first, left);
        left -= described.partitions.len();
        let next = first + described.partitions.len();
        response.topics.push(described);
        if next < topic.partitions.len() {
            response.next_cursor = Some(cursor(name, next));
            break;
        }
    }
    response
}

fn cursor(name: &str, partition: usize) -> Cursor {
    let mut cursor = Cursor::default();
    cursor.topic_name = wire_name(name);
    cursor.partition_index =
        i32::try_from(partition).expect("a topic has fewer than 2^31 partitions");
    cursor
}

fn undescribed_topic(name: &str, error: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    let mut answer = DescribeTopicPartitionsResponseTopic::default();
    answer.error_code = error.code();
    answer.name = Some(wire_name(name));
    answer.is_internal = topic_name::is_internal(name);
    answer
}

fn described_topic(
    topic: &Topic,
    first: usize,
    limit: usize,
) -> DescribeTopicPartitionsResponseTopic {
    let mut answer = DescribeTopicPartitionsResponseTopic::default();
    answer.name = Some(wire_name(&topic.name));
    answer.topic_id = topic.id;
    answer.is_internal = topic_name::is_internal(&topic.name);
    answer.topic_authorized_operations = ALL_TOPIC_OPERATIONS;
    let page = (0..).zip(&topic.partitions).skip(first).take(limit);
    answer.partitions = page.map(described_partition).collect();
    answer
}

fn described_partition(
    (index, partition): (i32, &Partition),
) -> DescribeTopicPartitionsResponsePartition {
    let mut answer = DescribeTopicPartitionsResponsePartition::default();
    answer.error_code = partition_error(partition).code();
    answer.partition_index = index;
    answer.leader_id = BrokerId(partition.leader);
    answer.leader_epoch = partition.leader_epoch;
    answer.replica_nodes = broker_ids(&partition.replicas);
    answer.isr_nodes = broker_ids(&partition.isr);
    answer.eligible_leader_replicas = Some(Vec::new());
    answer.last_known_elr = Some(Vec::new());
    answer
}

#[cfg(test)]
#[path = "metadata_tests.rs"]
mod tests;
