//! Produce: check each batch, hand all of them to the log at once, answer when they are safe.
//!
//! Versions 3..=13. 3-8 name topics and are not flexible; 5 adds the log start offset to the answer, 8 the
//! record errors and a message, 9 is flexible, 10 leader hints (never sent: there is one node), 12 enrols
//! partitions in transactions implicitly, 13 names topics by id. zstd needs 7 (KIP-110).
//!
//! What is checked and what each failure is answered stands in `records::validate_produce`, what becomes of the bytes
//! in `produce/batch.rs`; here only what concerns the request as a whole: acks, topics, partitions named twice,
//! in-sync replicas, transactions.

mod batch;
mod submission;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_coordinator::metadata::{Partition as PartitionState, topic_name};
use ottla_protocol::batch::BatchHeader;
use ottla_protocol::error_code::ErrorCode;
use ottla_protocol::records::{ProduceLimits, RecordsError};
use ottla_storage::log::{AppendEntry, Partition};
use ottla_storage::waiters::Acks;
use uuid::Uuid;

use self::submission::Submission;
use crate::error::storage_error;
use crate::metrics::TopicMetrics;
use crate::partitions::LocalTopic;
use crate::room::Held;
use crate::router::{Ctx, Deferred, DeferredAnswer};
use crate::topic_config::{MessageTimestampType, TopicConfig};

/// The client id that may write to internal topics (Kafka's `AdminUtils.ADMIN_CLIENT_ID`).
const ADMIN_CLIENT: &str = "__admin_client";

/// The first version in which a zstd batch may come (KIP-110).
const FIRST_ZSTD_VERSION: i16 = 7;

/// What becomes of one partition of the request.
struct Outcome {
    response: PartitionProduceResponse,
    /// What was handed to the log, when it got that far.
    entry: Option<Submitted>,
}

/// A batch on its way.
struct Submitted {
    /// Its place among the entries handed to the log.
    index: usize,
    records: u64,
    /// As sent: what a codec of the topic makes of them does not count (Kafka's `BytesInPerSec`).
    bytes: u64,
}

struct TopicOutcome {
    name: StrBytes,
    id: Uuid,
    metrics: Option<Arc<TopicMetrics>>,
    partitions: Vec<Outcome>,
}

fn refused(index: i32, code: ErrorCode, message: Option<String>) -> Outcome {
    let response = PartitionProduceResponse::default()
        .with_index(index)
        .with_error_code(code.code())
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1)
        .with_error_message(message.map(StrBytes::from_string));
    Outcome {
        response,
        entry: None,
    }
}

/// Handles Produce. When the returned value is there, the request has its place in the order of the log.
pub async fn produce(ctx: Ctx, request: ProduceRequest) -> Deferred<ProduceResponse> {
    let ProduceRequest {
        transactional_id,
        acks,
        topic_data,
        ..
    } = request;
    // Whatever refers to the frame goes before the batches are taken over, which may then have it without a copy.
    let transactional = transactional_id.is_some();
    drop(transactional_id);
    let acks = match acks {
        0 => Some(Acks::None),
        1 => Some(Acks::Leader),
        -1 => Some(Acks::All),
        _ => None,
    };
    let full = ctx.broker.disk.refusal();
    let mut submission = Submission::new(&ctx.broker.log, acks.unwrap_or(Acks::None));
    let mut topics = Vec::with_capacity(topic_data.len());
    let twice = named_twice(&topic_data);
    for topic in topic_data {
        let local = if ctx.api_version >= 13 {
            ctx.broker.partitions.by_id(&topic.topic_id)
        } else {
            ctx.broker.partitions.by_name(&topic.name.0)
        };
        let metrics = local
            .as_ref()
            .map(|local| ctx.broker.metrics.topic(&local.name));
        let TopicProduceData {
            name,
            topic_id,
            partition_data,
            ..
        } = topic;
        let name = StrBytes::from_string(name.0.to_string());
        let mut partitions = Vec::with_capacity(partition_data.len());
        for data in partition_data {
            // A request may name 20,000, and others wait for this thread.
            tokio::task::consume_budget().await;
            let index = data.index;
            let sent_bytes = data.records.as_ref().map_or(0, Bytes::len);
            let named_twice = !twice.is_empty() && twice.contains(&(name.clone(), topic_id, index));
            let checked = match find(&ctx, local.as_ref(), index) {
                Err(refusal) => Err(refusal),
                Ok(_) if named_twice => Err((
                    ErrorCode::InvalidRequest,
                    Some(format!("partition {index} is named twice in one request")),
                )
                    .into()),
                Ok(_) if acks.is_none() => Err((ErrorCode::InvalidRequiredAcks, None).into()),
                Ok(_) if full.is_some() => {
                    Err((ErrorCode::KafkaStorageError, full.map(str::to_owned)).into())
                }
                Ok((local, _))
                    if acks == Some(Acks::All) && !in_sync_enough(&ctx, local, index) =>
                {
                    let message = "fewer replicas are in sync than min.insync.replicas asks for";
                    Err((ErrorCode::NotEnoughReplicas, Some(message.to_owned())).into())
                }
                Ok((local, partition)) => {
                    let sent = (data, transactional);
                    check(&ctx, local, partition, sent, &mut submission).await
                }
            };
            partitions.push(match checked {
                Ok((entry, grown)) => {
                    let records = u64::try_from(entry.header.record_count).unwrap_or(0);
                    let submitted = Submitted {
                        index: submission.push(entry, grown),
                        records,
                        bytes: sent_bytes as u64,
                    };
                    Outcome {
                        response: PartitionProduceResponse::default().with_index(index),
                        entry: Some(submitted),
                    }
                }
                Err(refusal) => {
                    let mut outcome = refused(index, refusal.code, refusal.message);
                    outcome.response.record_errors = refusal.records;
                    outcome
                }
            });
        }
        topics.push(TopicOutcome {
            name,
            id: topic_id,
            metrics,
            partitions,
        });
    }
    let results = submission.submit().await;
    let wants_answer = acks != Some(Acks::None);
    Deferred {
        answer: Box::pin(async move {
            let results = results.await;
            let mut failed = false;
            for topic in &mut topics {
                for outcome in &mut topic.partitions {
                    if let Some(entry) = &outcome.entry {
                        fill(&ctx, &mut outcome.response, results.get(entry.index));
                    }
                    failed |= outcome.response.error_code != 0;
                    count(topic.metrics.as_deref(), outcome);
                }
            }
            if wants_answer {
                DeferredAnswer::Response(respond(&ctx, topics))
            } else if failed {
                // Without an answer to put it into, a closed connection is the only way to tell.
                DeferredAnswer::Close("acks_0_error")
            } else {
                DeferredAnswer::Nothing
            }
        }),
    }
}

/// Counts what became of one partition.
fn count(metrics: Option<&TopicMetrics>, outcome: &Outcome) {
    let Some(metrics) = metrics else { return };
    let code = outcome.response.error_code;
    metrics.produce_request();
    match &outcome.entry {
        Some(entry) if code == 0 => metrics.appended(entry.records, entry.bytes),
        _ if is_unexpected(code) => metrics.produce_failed(),
        _ => {}
    }
}

/// Whether an error counts as a failed produce: not those that a client is expected to meet (Kafka's
/// `ReplicaManager.appendRecordsToLeader`).
fn is_unexpected(code: i16) -> bool {
    let expected = [
        ErrorCode::None,
        ErrorCode::UnknownTopicOrPartition,
        ErrorCode::UnknownTopicId,
        ErrorCode::InvalidTopicException,
        ErrorCode::NotLeaderOrFollower,
        ErrorCode::InvalidRequiredAcks,
        ErrorCode::InvalidRequest,
        ErrorCode::MessageTooLarge,
        ErrorCode::CorruptMessage,
        ErrorCode::UnsupportedCompressionType,
        ErrorCode::InvalidProducerIdMapping,
        ErrorCode::TransactionalIdAuthorizationFailed,
        ErrorCode::KafkaStorageError,
    ];
    expected.iter().all(|expected| expected.code() != code)
}

/// Partitions that the request names more than once: Kafka keeps the last batch and loses the others silently.
fn named_twice(topics: &[TopicProduceData]) -> HashSet<(StrBytes, Uuid, i32)> {
    let mut seen = HashSet::new();
    let mut twice = HashSet::new();
    for topic in topics {
        for data in &topic.partition_data {
            let key = (topic.name.0.clone(), topic.topic_id, data.index);
            if !seen.insert(key.clone()) {
                twice.insert(key);
            }
        }
    }
    twice
}

/// Why a batch is not taken.
struct Refusal {
    code: ErrorCode,
    message: Option<String>,
    /// The records at fault, where it is not the whole batch.
    records: Vec<BatchIndexAndErrorMessage>,
}

impl From<(ErrorCode, Option<String>)> for Refusal {
    fn from((code, message): (ErrorCode, Option<String>)) -> Self {
        Self {
            code,
            message,
            records: Vec::new(),
        }
    }
}

impl From<RecordsError> for Refusal {
    fn from(error: RecordsError) -> Self {
        let mut refusal = Self::from((error.error_code(), Some(error.to_string())));
        if let RecordsError::Rejected(records) = &error {
            refusal.records = records
                .iter()
                .map(|record| {
                    let cause = StrBytes::from_string(record.cause.to_string());
                    BatchIndexAndErrorMessage::default()
                        .with_batch_index(record.batch_index)
                        .with_batch_index_error_message(Some(cause))
                })
                .collect();
        }
        refusal
    }
}

/// The partition, if clients may write to it.
fn find<'a>(
    ctx: &Ctx,
    local: Option<&'a Arc<LocalTopic>>,
    index: i32,
) -> Result<(&'a LocalTopic, &'a Arc<Partition>), Refusal> {
    let unknown = if ctx.api_version >= 13 {
        ErrorCode::UnknownTopicId
    } else {
        ErrorCode::UnknownTopicOrPartition
    };
    let local = local.ok_or((unknown, None))?;
    let partition = local
        .partition(index)
        .ok_or((ErrorCode::UnknownTopicOrPartition, None))?;
    if topic_name::is_internal(&local.name) && &*ctx.client_id != ADMIN_CLIENT {
        let message = format!("cannot append to the internal topic {}", local.name);
        return Err((ErrorCode::InvalidTopicException, Some(message)).into());
    }
    Ok((local, partition))
}

/// Whether a write with acks=all may begin.
fn in_sync_enough(ctx: &Ctx, local: &LocalTopic, index: i32) -> bool {
    if local.config.min_insync_replicas <= 1 {
        // The leader is always in sync, and this broker is it.
        return true;
    }
    let image = ctx.broker.metadata.image();
    image
        .topic_by_id(&local.id)
        .and_then(|topic| topic.partitions.get(usize::try_from(index).ok()?))
        // A topic deleted meanwhile: the log says so.
        .is_none_or(|state| has_min_isr(state, &local.config))
}

/// Kafka's rule of `Partition.appendRecordsToLeader`.
fn has_min_isr(state: &PartitionState, config: &TopicConfig) -> bool {
    state.isr.len() >= config.effective_min_isr(state.replicas.len())
}

async fn check(
    ctx: &Ctx,
    local: &LocalTopic,
    partition: &Arc<Partition>,
    (data, transactional): (PartitionProduceData, bool),
    submission: &mut Submission<'_>,
) -> Result<(AppendEntry, Option<Held>), Refusal> {
    let bytes = data
        .records
        .ok_or((ErrorCode::InvalidRecord, Some("no records".to_owned())))?;
    let config = &local.config;
    let limits = ProduceLimits {
        max_batch_bytes: config.max_message_bytes,
        max_decompressed_bytes: ctx.broker.config.max_decompressed_message_bytes,
        now_ms: ctx.broker.env.now_ms(),
        timestamp_before_max_ms: config.message_timestamp_before_max_ms,
        timestamp_after_max_ms: config.message_timestamp_after_max_ms,
        zstd_allowed: ctx.api_version >= FIRST_ZSTD_VERSION,
        compacted: config.cleanup_policy.compact,
        log_append_time: config.message_timestamp_type == MessageTimestampType::LogAppendTime,
    };
    let sent_bytes = bytes.len();
    let encoding = batch::other_encoding(&bytes, config.encoding());
    let mut grown = None;
    if encoding.is_some() {
        let most = limits.max_batch_bytes.saturating_sub(sent_bytes);
        let room = submission.room(&ctx.broker.recompressed, most).await;
        grown = Some(room.map_err(|_| (ErrorCode::NotLeaderOrFollower, None))?);
    }
    let (header, bytes) = batch::ready(ctx, bytes, limits, encoding).await?;
    if let Some(grown) = &mut grown {
        grown.shrink(bytes.len().saturating_sub(sent_bytes));
    }
    check_transaction(&header, transactional)?;
    let entry = AppendEntry {
        partition: partition.clone(),
        bytes: batch::own(bytes),
        header,
        leader_epoch: partition.offsets().leader_epoch,
    };
    Ok((entry, grown))
}

/// Until transactions exist no id is known and no partition belongs to one.
fn check_transaction(header: &BatchHeader, transactional: bool) -> Result<(), Refusal> {
    if !header.is_transactional() {
        return Ok(());
    }
    if transactional {
        let message = "the transactional id is not known: transactions are not served yet";
        Err((
            ErrorCode::InvalidProducerIdMapping,
            Some(message.to_owned()),
        )
            .into())
    } else {
        let message = "a transactional batch without a transactional id";
        Err((
            ErrorCode::TransactionalIdAuthorizationFailed,
            Some(message.to_owned()),
        )
            .into())
    }
}

fn fill(
    ctx: &Ctx,
    response: &mut PartitionProduceResponse,
    result: Option<&Result<ottla_storage::partition::Appended, ottla_storage::error::StorageError>>,
) {
    let failed = |response: &mut PartitionProduceResponse, code: ErrorCode, message: String| {
        *response = refused(response.index, code, Some(message)).response;
    };
    match result {
        Some(Ok(appended)) => {
            response.base_offset = appended.base_offset;
            response.log_append_time_ms = appended.log_append_time.unwrap_or(-1);
            response.log_start_offset = if ctx.api_version >= 5 {
                appended.log_start
            } else {
                -1
            };
        }
        Some(Err(error)) => failed(response, storage_error(error), error.to_string()),
        None => failed(
            response,
            ErrorCode::NotLeaderOrFollower,
            "the broker is shutting down".to_owned(),
        ),
    }
}

fn respond(ctx: &Ctx, topics: Vec<TopicOutcome>) -> ProduceResponse {
    let responses = topics
        .into_iter()
        .map(|topic| {
            let partitions = topic
                .partitions
                .into_iter()
                .map(|outcome| {
                    let mut response = outcome.response;
                    if ctx.api_version < 8 {
                        response.error_message = None;
                        response.record_errors.clear();
                    }
                    response
                })
                .collect();
            let mut response = TopicProduceResponse::default().with_partition_responses(partitions);
            if ctx.api_version >= 13 {
                response.topic_id = topic.id;
            } else {
                response.name = topic.name.into();
            }
            response
        })
        .collect();
    ProduceResponse::default().with_responses(responses)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Config, DynamicConfig};

    #[test]
    fn a_write_with_acks_all_needs_the_in_sync_replicas_that_there_can_be() {
        let loaded = Config::load(None, std::iter::empty(), &[]).expect("the defaults load");
        let broker = DynamicConfig::at_start(&loaded.config);
        for (replicas, in_sync, min_insync_replicas, enough) in [
            (1, 1, "1", true),
            // More than there are replicas asks for all of them.
            (1, 1, "2", true),
            (3, 3, "5", true),
            (3, 2, "5", false),
            (3, 2, "2", true),
            (3, 1, "2", false),
            (3, 1, "1", true),
        ] {
            let overrides: BTreeMap<String, String> = [(
                "min.insync.replicas".to_owned(),
                min_insync_replicas.to_owned(),
            )]
            .into();
            let config = TopicConfig::resolve(&overrides, &broker);
            let state = PartitionState {
                replicas: (1..=replicas).collect(),
                isr: (1..=in_sync).collect(),
                leader: 1,
                leader_epoch: 0,
                partition_epoch: 0,
            };
            assert_eq!(
                has_min_isr(&state, &config),
                enough,
                "{in_sync} of {replicas} with min.insync.replicas={min_insync_replicas}"
            );
        }
    }
}
