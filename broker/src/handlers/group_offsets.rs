//! Committed offsets of groups: OffsetCommit, OffsetFetch, OffsetDelete.
//!
//! Called by the router. Who may commit is decided by the group's machine; this file knows the wire and which
//! topics there are. Offsets of partitions that do not exist are refused, so that what a client can make the
//! broker remember is bounded by its topics.

use futures_util::StreamExt;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchRequest, OffsetFetchResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_coordinator::group::{
    Caller, Command, CommitPartition, CommitTopic, FetchedTopic, GroupError, OffsetCommit,
    PartitionResults, Reply, TopicPartitions,
};
use ottla_protocol::error_code::ErrorCode;
use uuid::Uuid;

use super::groups::{MAX_ANSWER_BYTES, failure, some_at_once};
use crate::error::group_error;
use crate::router::Ctx;

/// What a partition takes in an answer of OffsetFetch besides its note; a round number.
const PARTITION_BYTES: usize = 32;

/// OffsetCommit, versions 2 to 9.
///
/// - v2 to v4: a retention time, -1 for the broker's own
/// - v6: leader epochs (KIP-320); v7: static members; v9: a group may not exist
///
/// A topic or partition that does not exist is refused by itself; the others are committed together.
pub async fn offset_commit(ctx: Ctx, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let group = request.group_id.to_string();
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut existing = Vec::new();
    for topic in &request.topics {
        let wanted = existing_partitions(&ctx, topic);
        if !wanted.is_empty() {
            existing.push(CommitTopic {
                name: topic.name.to_string(),
                topic_id: Uuid::nil(),
                partitions: wanted,
            });
        }
    }
    let outcome = if existing.is_empty() {
        // Nothing to ask for; who may commit makes no difference, as in Kafka.
        Ok(Reply::Committed(Vec::new()))
    } else {
        let command = Command::OffsetCommit(OffsetCommit {
            caller: Caller {
                group: group.clone(),
                member_id: request.member_id.to_string(),
                group_instance_id: request.group_instance_id.as_ref().map(|id| id.to_string()),
                generation: request.generation_id_or_member_epoch,
            },
            retention_ms: Some(request.retention_time_ms)
                .filter(|ms| ctx.api_version <= 4 && *ms >= 0),
            topics: existing,
        });
        ctx.broker.groups.ask(&group, command).await
    };
    let (results, failed) = match outcome {
        Ok(Reply::Committed(results)) => (results, ErrorCode::None),
        other => (Vec::new(), commit_failure(failure(other), ctx.api_version)),
    };
    let mut results = results.into_iter().peekable();
    // Kafka does not answer a topic without partitions.
    let asked = request.topics.into_iter();
    for topic in asked.filter(|topic| !topic.partitions.is_empty()) {
        let mut answer = OffsetCommitResponseTopic::default();
        let known = ctx.broker.partitions.by_name(&topic.name);
        let result = results.next_if(|result| result.topic == topic.name.as_str());
        let mut codes = result
            .map(|result| result.partitions)
            .unwrap_or_default()
            .into_iter()
            .peekable();
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let exists = known
                .as_ref()
                .is_some_and(|local| local.partition(index).is_some());
            let code = match codes.next_if(|(answered, _)| *answered == index) {
                Some((_, outcome)) => {
                    outcome.map_or_else(|error| group_error(&error), |()| ErrorCode::None)
                }
                None if !exists => ErrorCode::UnknownTopicOrPartition,
                None => failed,
            };
            answer.partitions.push(
                OffsetCommitResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(code.code()),
            );
        }
        answer.name = topic.name;
        topics.push(answer);
    }
    OffsetCommitResponse::default().with_topics(topics)
}

fn existing_partitions(ctx: &Ctx, topic: &OffsetCommitRequestTopic) -> Vec<CommitPartition> {
    let Some(local) = ctx.broker.partitions.by_name(&topic.name) else {
        return Vec::new();
    };
    let asked = topic.partitions.iter();
    asked
        .filter(|asked| local.partition(asked.partition_index).is_some())
        .map(|asked| CommitPartition {
            partition: asked.partition_index,
            offset: asked.committed_offset,
            leader_epoch: if ctx.api_version >= 6 {
                asked.committed_leader_epoch
            } else {
                -1
            },
            metadata: asked
                .committed_metadata
                .as_ref()
                .map(|text| text.to_string()),
        })
        .collect()
}

/// Before version 9 clients do not know that a group might not exist (Kafka's `validateOffsetCommit`).
fn commit_failure(code: ErrorCode, version: i16) -> ErrorCode {
    match code {
        ErrorCode::GroupIdNotFound if version < 9 => ErrorCode::IllegalGeneration,
        other => other,
    }
}

/// OffsetFetch, versions 1 to 9.
///
/// - v1: an error stands at every partition; v2: all partitions by a null list, and one error for the whole answer
/// - v5: leader epochs; v7: only stable offsets, which all are while there are no transactions
/// - v8: many groups (KIP-709); v9: member ids of the new group protocol, ignored for classic groups
///
/// What was never committed has offset -1 and no error.
pub async fn offset_fetch(ctx: Ctx, request: OffsetFetchRequest) -> OffsetFetchResponse {
    if ctx.api_version >= 8 {
        let groups = fetch_groups(&ctx, request.groups).await;
        return OffsetFetchResponse::default().with_groups(groups);
    }
    let version = ctx.api_version;
    let asked = request.topics.as_ref().map(|topics| {
        let each = topics.iter().map(|topic| TopicPartitions {
            topic: topic.name.to_string(),
            partitions: topic.partition_indexes.clone(),
        });
        each.collect()
    });
    let mut response = OffsetFetchResponse::default();
    match fetch(&ctx, &request.group_id, asked).await {
        Ok(topics) => response.topics = topics.into_iter().map(plain_topic).collect(),
        Err(code) if version >= 2 => response.error_code = code.code(),
        Err(code) => {
            let asked = request.topics.unwrap_or_default().into_iter();
            let topics = asked.map(|topic| {
                let partitions = topic.partition_indexes.iter().map(|index| {
                    OffsetFetchResponsePartition::default()
                        .with_partition_index(*index)
                        .with_committed_offset(-1)
                        .with_metadata(Some(StrBytes::default()))
                        .with_error_code(code.code())
                });
                OffsetFetchResponseTopic::default()
                    .with_partitions(partitions.collect())
                    .with_name(topic.name)
            });
            response.topics = topics.collect();
        }
    }
    response
}

/// The offsets asked for; all of the group if `topics` is none.
async fn fetch(
    ctx: &Ctx,
    group: &str,
    topics: Option<Vec<TopicPartitions>>,
) -> Result<Vec<FetchedTopic>, ErrorCode> {
    let is_all = topics.is_none();
    let command = Command::OffsetFetch {
        group: group.to_owned(),
        topics,
    };
    match ctx.broker.groups.ask(group, command).await {
        // Only who names partitions again and again gets more than there is.
        Ok(Reply::Fetched(topics)) if is_all || fetched_bytes(&topics) <= MAX_ANSWER_BYTES => {
            Ok(topics)
        }
        Ok(Reply::Fetched(_)) => Err(ErrorCode::InvalidRequest),
        other => Err(failure(other)),
    }
}

/// About what topics take in an answer.
fn fetched_bytes(topics: &[FetchedTopic]) -> usize {
    let of_topic = |topic: &FetchedTopic| {
        let partitions = topic.partitions.iter();
        let notes = partitions.filter_map(|(_, committed)| committed.as_ref());
        let notes: usize = notes.map(|committed| committed.metadata.len()).sum();
        topic.topic.len() + notes + topic.partitions.len() * PARTITION_BYTES
    };
    topics.iter().map(of_topic).sum()
}

fn plain_topic(topic: FetchedTopic) -> OffsetFetchResponseTopic {
    let partitions = topic.partitions.into_iter().map(|(index, committed)| {
        let mut answer = OffsetFetchResponsePartition::default();
        answer.partition_index = index;
        answer.committed_offset = -1;
        answer.committed_leader_epoch = -1;
        answer.metadata = Some(StrBytes::default());
        if let Some(committed) = committed {
            answer.committed_offset = committed.offset;
            answer.committed_leader_epoch = committed.leader_epoch;
            answer.metadata = Some(StrBytes::from_string(committed.metadata.to_string()));
        }
        answer
    });
    OffsetFetchResponseTopic::default()
        .with_name(wire_name(&topic.topic))
        .with_partitions(partitions.collect())
}

async fn fetch_groups(
    ctx: &Ctx,
    groups: Vec<OffsetFetchRequestGroup>,
) -> Vec<OffsetFetchResponseGroup> {
    let mut asked = some_at_once(groups.into_iter().map(|group| async move {
        let topics = group.topics.map(|topics| {
            let each = topics.into_iter().map(|topic| TopicPartitions {
                topic: topic.name.to_string(),
                partitions: topic.partition_indexes,
            });
            each.collect()
        });
        let fetched = fetch(ctx, &group.group_id, topics).await;
        (group.group_id, fetched)
    }));
    let mut answers = Vec::new();
    let mut bytes = 0;
    while let Some((group, fetched)) = asked.next().await {
        let mut answer = OffsetFetchResponseGroup::default().with_group_id(group);
        match fetched {
            // Clients ask again for the groups that this answer has no room for.
            Ok(_) if bytes >= MAX_ANSWER_BYTES => {
                answer.error_code = ErrorCode::CoordinatorLoadInProgress.code();
            }
            Ok(topics) => {
                bytes += fetched_bytes(&topics);
                answer.topics = topics.into_iter().map(group_topic).collect();
            }
            Err(code) => answer.error_code = code.code(),
        }
        answers.push(answer);
    }
    answers
}

fn group_topic(topic: FetchedTopic) -> OffsetFetchResponseTopics {
    let partitions = topic.partitions.into_iter().map(|(index, committed)| {
        let mut answer = OffsetFetchResponsePartitions::default();
        answer.partition_index = index;
        answer.committed_offset = -1;
        answer.committed_leader_epoch = -1;
        answer.metadata = Some(StrBytes::default());
        if let Some(committed) = committed {
            answer.committed_offset = committed.offset;
            answer.committed_leader_epoch = committed.leader_epoch;
            answer.metadata = Some(StrBytes::from_string(committed.metadata.to_string()));
        }
        answer
    });
    OffsetFetchResponseTopics::default()
        .with_name(wire_name(&topic.topic))
        .with_partitions(partitions.collect())
}

/// OffsetDelete, version 0 (KIP-496): offsets of topics that the group does not read.
pub async fn offset_delete(ctx: Ctx, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let mut response = OffsetDeleteResponse::default();
    let group = request.group_id.to_string();
    let exists = |topic: &str, partition: i32| {
        let local = ctx.broker.partitions.by_name(topic);
        local.is_some_and(|local| local.partition(partition).is_some())
    };
    let mut asked = Vec::new();
    for topic in &request.topics {
        let indexes = topic.partitions.iter().map(|asked| asked.partition_index);
        let partitions: Vec<i32> = indexes
            .filter(|index| exists(&topic.name, *index))
            .collect();
        asked.push(TopicPartitions {
            topic: topic.name.to_string(),
            partitions,
        });
    }
    let command = Command::OffsetDelete {
        group: group.clone(),
        topics: asked,
    };
    let results = match ctx.broker.groups.ask(&group, command).await {
        Ok(Reply::OffsetsDeleted(results)) => results,
        other => {
            response.error_code = failure(other).code();
            return response;
        }
    };
    let answers = request
        .topics
        .into_iter()
        .zip(results)
        .map(|(topic, result)| {
            let PartitionResults { partitions, .. } = result;
            let mut outcomes = partitions.into_iter().peekable();
            let answers = topic.partitions.iter().map(|asked| {
                let index = asked.partition_index;
                let outcome = outcomes.next_if(|(answered, _)| *answered == index);
                let code = outcome.map_or(ErrorCode::UnknownTopicOrPartition, |(_, outcome)| {
                    outcome.map_or_else(
                        |error: GroupError| group_error(&error),
                        |()| ErrorCode::None,
                    )
                });
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(code.code())
            });
            let partitions = answers.collect();
            OffsetDeleteResponseTopic::default()
                .with_name(topic.name)
                .with_partitions(partitions)
        });
    response.topics = answers.collect();
    response
}

fn wire_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
