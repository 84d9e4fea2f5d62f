//! Look-ups and changes of a log's bounds: ListOffsets, OffsetForLeaderEpoch, DeleteRecords.
//!
//! ListOffsets 1..=10: 2 adds isolation and throttle time, 4 leader epochs, 6 is flexible, 7 brings the
//! maximum timestamp (-3), 8 the earliest local offset (-4), 9 the latest tiered one (-5, never any here),
//! 10 a timeout for tiered look-ups, which need none here. "Nothing found" is offset -1 without an error.
//!
//! OffsetForLeaderEpoch 2..=4: 3 adds the replica id, 4 is flexible.
//!
//! DeleteRecords 0..=2: 2 is flexible; the timeout has no meaning on one node.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};
use ottla_coordinator::metadata::topic_name;
use ottla_protocol::error_code::ErrorCode;
use ottla_storage::log::{Partition, ReadLimit, TimestampOffset};

use super::apart;
use crate::env::kafka_uuid;
use crate::error::storage_error;
use crate::router::Ctx;

/// Timestamps with a meaning of their own (Kafka's `ListOffsetsRequest`).
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

fn find(ctx: &Ctx, topic: &str, index: i32) -> Result<Arc<Partition>, ErrorCode> {
    let local = ctx.broker.partitions.by_name(topic);
    local
        .and_then(|local| local.partition(index).cloned())
        .ok_or(ErrorCode::UnknownTopicOrPartition)
}

/// Handles ListOffsets.
pub async fn list_offsets(ctx: Ctx, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let limit = if request.isolation_level == 1 {
        ReadLimit::Stable
    } else {
        ReadLimit::HighWatermark
    };
    let mut seen = HashSet::new();
    let mut twice = HashSet::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let key = (topic.name.0.clone(), partition.partition_index);
            if !seen.insert(key.clone()) {
                twice.insert(key);
            }
        }
    }
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let index = asked.partition_index;
            let found = if twice.contains(&(topic.name.0.clone(), index)) {
                Err(ErrorCode::InvalidRequest)
            } else {
                look_up(&ctx, &topic.name.0, &asked, limit).await
            };
            let mut response = ListOffsetsPartitionResponse::default()
                .with_partition_index(index)
                .with_timestamp(-1)
                .with_offset(-1);
            match found {
                Ok(Some(found)) => {
                    response.timestamp = found.timestamp;
                    response.offset = found.offset;
                    if ctx.api_version >= 4 {
                        response.leader_epoch = found.leader_epoch;
                    }
                }
                Ok(None) => {}
                Err(code) => response.error_code = code.code(),
            }
            partitions.push(response);
        }
        topics.push(
            ListOffsetsTopicResponse::default()
                .with_name(topic.name)
                .with_partitions(partitions),
        );
    }
    ListOffsetsResponse::default().with_topics(topics)
}

async fn look_up(
    ctx: &Ctx,
    topic: &str,
    asked: &ListOffsetsPartition,
    limit: ReadLimit,
) -> Result<Option<TimestampOffset>, ErrorCode> {
    let known_since = match asked.timestamp {
        MAX_TIMESTAMP => 7,
        EARLIEST_LOCAL => 8,
        LATEST_TIERED => 9,
        LATEST | EARLIEST | 0.. => 1,
        _ => i16::MAX,
    };
    if ctx.api_version < known_since {
        return Err(ErrorCode::UnsupportedVersion);
    }
    let partition = find(ctx, topic, asked.partition_index)?;
    partition
        .check_epoch(asked.current_leader_epoch)
        .map_err(|error| storage_error(&error))?;
    let offsets = partition.offsets();
    let at = |offset: i64, leader_epoch: i32| TimestampOffset {
        timestamp: -1,
        offset,
        leader_epoch,
    };
    match asked.timestamp {
        LATEST => Ok(Some(at(limit.end(&offsets), offsets.leader_epoch))),
        EARLIEST => Ok(Some(at(
            offsets.log_start,
            partition.epoch_of(offsets.log_start),
        ))),
        EARLIEST_LOCAL => {
            let start = offsets.local_log_start;
            Ok(Some(at(start, partition.epoch_of(start))))
        }
        LATEST_TIERED => Ok(None),
        MAX_TIMESTAMP => {
            blocking(ctx, partition, move |log, partition| {
                log.max_timestamp(partition, limit)
            })
            .await
        }
        timestamp => {
            blocking(ctx, partition, move |log, partition| {
                log.offset_for_timestamp(partition, timestamp, limit)
            })
            .await
        }
    }
}

async fn blocking<T: Send + 'static>(
    ctx: &Ctx,
    partition: Arc<Partition>,
    look: impl FnOnce(
        &ottla_storage::log::Log,
        &Partition,
    ) -> Result<T, ottla_storage::error::StorageError>
    + Send
    + 'static,
) -> Result<T, ErrorCode> {
    let log = ctx.broker.log.clone();
    let id = partition.id();
    apart(move || look(&log, &partition))
        .await?
        .map_err(|error| {
            let lines = &ctx.broker.log_lines;
            if let Some(more) = lines.admit("look_up_failed", ctx.broker.env.now_ms()) {
                let (topic_id, partition) = (kafka_uuid(&id.topic_id), id.partition);
                tracing::error!(%error, topic_id, partition, more, "offset look-up failed");
            }
            storage_error(&error)
        })
}

/// Handles OffsetForLeaderEpoch: where a leader epoch ends, so that clients notice a log that was cut (KIP-320).
pub async fn offset_for_leader_epoch(
    ctx: Ctx,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request
        .topics
        .into_iter()
        .map(|topic| {
            let partitions = topic
                .partitions
                .iter()
                .map(|asked| epoch_end(&ctx, &topic.topic.0, asked))
                .collect();
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic)
                .with_partitions(partitions)
        })
        .collect();
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}

fn epoch_end(ctx: &Ctx, topic: &str, asked: &OffsetForLeaderPartition) -> EpochEndOffset {
    let response = EpochEndOffset::default()
        .with_partition(asked.partition)
        .with_leader_epoch(-1)
        .with_end_offset(-1);
    let found = find(ctx, topic, asked.partition).and_then(|partition| {
        partition
            .check_epoch(asked.current_leader_epoch)
            .map_err(|error| storage_error(&error))?;
        Ok(partition.epoch_end(asked.leader_epoch))
    });
    match found {
        Ok((epoch, end)) => response.with_leader_epoch(epoch).with_end_offset(end),
        Err(code) => response.with_error_code(code.code()),
    }
}

/// Handles DeleteRecords: moves the log start; answered when that is durable.
pub async fn delete_records(ctx: Ctx, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let result =
                delete_before(&ctx, &topic.name.0, asked.partition_index, asked.offset).await;
            let response = DeleteRecordsPartitionResult::default()
                .with_partition_index(asked.partition_index)
                .with_low_watermark(-1);
            partitions.push(match result {
                Ok(log_start) => response.with_low_watermark(log_start),
                Err(code) => response.with_error_code(code.code()),
            });
        }
        topics.push(
            DeleteRecordsTopicResult::default()
                .with_name(topic.name)
                .with_partitions(partitions),
        );
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

async fn delete_before(ctx: &Ctx, topic: &str, index: i32, offset: i64) -> Result<i64, ErrorCode> {
    let local = ctx.broker.partitions.by_name(topic);
    let local = local.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition = local
        .partition(index)
        .ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if topic_name::is_internal(&local.name) {
        return Err(ErrorCode::InvalidTopicException);
    }
    if !local.config.cleanup_policy.delete && local.config.cleanup_policy.compact {
        // A compacted log may not lose the newest value of a key (Kafka's `ReplicaManager`).
        return Err(ErrorCode::PolicyViolation);
    }
    if offset < -1 {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let moved = ctx.broker.log.delete_prefix(partition, offset).await;
    moved.map_err(|error| storage_error(&error))
}
