//! Topics made, grown and deleted: CreateTopics, CreatePartitions, DeleteTopics,
//! ListPartitionReassignments.
//!
//! Called by the router. Every change is a proposal to the metadata log; what the rules are, its
//! machine decides. Handlers turn wire fields into commands and back, check what only the broker's
//! tables know (configs, defaults), and refuse a request that names a topic twice.
//!
//! The request's timeout is ignored everywhere here: Kafka waits that long for the change to reach
//! other brokers, and here it has happened once the metadata log answers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use futures_util::future::join_all;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_coordinator::metadata::{
    Command, Image, MAX_PARTITIONS_PER_REQUEST, MetadataError, Reply, TopicRef, in_partition_order,
    topic_name,
};
use ottla_protocol::error_code::ErrorCode;
use uuid::Uuid;

use crate::config::{DynamicConfig, value};
use crate::env::kafka_uuid;
use crate::handlers::refusal::Refusal;
use crate::router::Ctx;
use crate::topic_config;

fn duplicate_name() -> Refusal {
    Refusal::invalid_request("Duplicate topic name.")
}

fn too_many_partitions() -> Refusal {
    let message = "Excessively large number of partitions per request.";
    Refusal::new(ErrorCode::PolicyViolation, message)
}

/// What appears more than once.
fn repeated<T: Eq + Hash>(items: impl Iterator<Item = T>) -> HashSet<T> {
    let mut times: HashMap<T, usize> = HashMap::new();
    for item in items {
        *times.entry(item).or_default() += 1;
    }
    times
        .into_iter()
        .filter_map(|(item, times)| (times > 1).then_some(item))
        .collect()
}

/// CreateTopics, versions 2 to 7.
///
/// - v4: partitions and replication factor may be -1 for the broker's defaults (KIP-464); taken at every version
/// - v5: answers tell partitions, replication factor and all configs (KIP-525)
/// - v6: a quota may refuse; there is none yet
/// - v7: answers tell the topic id
///
/// A name that appears twice is refused once and created not at all. A topic exists completely or not
/// at all; the topics of one request stand alone, except that too many partitions refuse all of it.
pub async fn create_topics(ctx: Ctx, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let doubled = repeated(request.topics.iter().map(|topic| topic.name.as_str()));
    let too_many = partitions_to_create(&request, ctx.broker.config.num_partitions)
        > MAX_PARTITIONS_PER_REQUEST;
    let mut answered = HashSet::new();
    let create = |topic| create_or_refuse(&ctx, topic, &request, &doubled, too_many);
    let creations = request
        .topics
        .iter()
        .filter(|topic| answered.insert(topic.name.as_str()))
        .map(create);
    let results = join_all(creations).await;

    let mut response = CreateTopicsResponse::default();
    response.topics = results;
    response
}

/// How many partitions a request would create if all of it succeeded.
fn partitions_to_create(request: &CreateTopicsRequest, default_partitions: i32) -> usize {
    let of_topic = |topic: &CreatableTopic| {
        if !topic.assignments.is_empty() {
            return topic.assignments.len();
        }
        let count = if topic.num_partitions == -1 {
            default_partitions
        } else {
            topic.num_partitions
        };
        usize::try_from(count).unwrap_or(0) // refused for its own reason
    };
    request.topics.iter().map(of_topic).sum()
}

async fn create_or_refuse(
    ctx: &Ctx,
    topic: &CreatableTopic,
    request: &CreateTopicsRequest,
    doubled: &HashSet<&str>,
    too_many: bool,
) -> CreatableTopicResult {
    let outcome = if doubled.contains(topic.name.as_str()) {
        Err(duplicate_name())
    } else if too_many {
        Err(too_many_partitions())
    } else if let Some(full) = ctx.broker.disk.refusal().filter(|_| !request.validate_only) {
        Err(Refusal::new(ErrorCode::KafkaStorageError, full))
    } else {
        create_topic(ctx, topic, request.validate_only).await
    };
    outcome.unwrap_or_else(|refusal| {
        let mut result = CreatableTopicResult::default();
        result.name = topic.name.clone();
        result.error_code = refusal.code.code();
        result.error_message = refusal.message();
        result
    })
}

async fn create_topic(
    ctx: &Ctx,
    topic: &CreatableTopic,
    validate_only: bool,
) -> Result<CreatableTopicResult, Refusal> {
    let config = &ctx.broker.config;
    let name = topic.name.as_str();
    let configs = if creatable_name(&ctx.broker.metadata.image(), name) {
        checked_configs(topic, &ctx.broker.dynamic.current())?
    } else {
        BTreeMap::new() // the machine refuses the name, which Kafka tells first
    };
    let assigned = !topic.assignments.is_empty();
    let or_default = |count: i32, default: i32| {
        if count == -1 && !assigned {
            default
        } else {
            count
        }
    };
    let factor = or_default(
        i32::from(topic.replication_factor),
        i32::from(config.default_replication_factor),
    );
    let command = Command::CreateTopic {
        name: name.to_owned(),
        id: ctx.broker.env.uuid(),
        partitions: assigned.then(|| assignments(topic)).transpose()?,
        num_partitions: or_default(topic.num_partitions, config.num_partitions),
        replication_factor: i16::try_from(factor).expect("one of two int16 values"),
        configs: configs.clone(),
        validate_only,
    };
    let (id, num_partitions, replication_factor) =
        match ctx.broker.metadata.propose(command).await? {
            Reply::TopicCreated {
                id,
                num_partitions,
                replication_factor,
            } => (id, num_partitions, replication_factor),
            other => return Err(Refusal::of(other)),
        };
    if !validate_only {
        tracing::info!(
            topic = name,
            id = kafka_uuid(&id),
            partitions = num_partitions,
            "topic created"
        );
    }

    let mut result = CreatableTopicResult::default();
    result.name = topic.name.clone();
    result.error_message = None;
    result.topic_id = id;
    if ctx.api_version >= 5 {
        result.num_partitions = num_partitions;
        result.replication_factor = replication_factor;
        result.configs = Some(all_configs(&configs, ctx));
    }
    Ok(result)
}

fn creatable_name(image: &Image, name: &str) -> bool {
    topic_name::validate(name).is_ok() && image.topic(name).is_none()
}

/// The configs of a new topic: known ones, with values they may have, that do not contradict each other.
fn checked_configs(
    topic: &CreatableTopic,
    live: &DynamicConfig,
) -> Result<BTreeMap<String, String>, Refusal> {
    let invalid = |message| Refusal::new(ErrorCode::InvalidConfig, message);
    let mut configs = BTreeMap::new();
    for entry in &topic.configs {
        match &entry.value {
            Some(value) => configs.insert(entry.name.to_string(), value.to_string()),
            None => {
                return Err(invalid(format!(
                    "Null value not supported for topic configs: {}",
                    value::shown(&entry.name)
                )));
            }
        };
    }
    topic_config::validate_all(&configs, live).map_err(invalid)?;
    Ok(configs)
}

fn assignments(topic: &CreatableTopic) -> Result<Vec<Vec<i32>>, MetadataError> {
    let given = topic.assignments.iter();
    in_partition_order(
        given.map(|assignment| (assignment.partition_index, node_ids(&assignment.broker_ids))),
    )
}

fn node_ids(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.0).collect()
}

fn all_configs(overrides: &BTreeMap<String, String>, ctx: &Ctx) -> Vec<CreatableTopicConfigs> {
    let described = topic_config::describe(overrides, &ctx.broker.dynamic.current()).into_iter();
    let answer = described.map(|config| {
        let mut answer = CreatableTopicConfigs::default();
        answer.name = StrBytes::from_static_str(config.name);
        answer.value = config.value.map(StrBytes::from_string);
        answer.read_only = config.read_only;
        answer.config_source = config.source.code();
        answer.is_sensitive = config.sensitive;
        answer
    });
    answer.collect()
}

/// DeleteTopics, versions 1 to 6.
///
/// - v3: `delete.topic.enable=false` is told as TOPIC_DELETION_DISABLED, before as INVALID_REQUEST
/// - v5: answers carry a message
/// - v6: topics are named by name or by id, one of them
///
/// Answered once the deletion is durable; the bytes of the topic go later.
pub async fn delete_topics(ctx: Ctx, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let asked = topics_to_delete(&request, ctx.api_version);
    let refuse_all =
        (!ctx.broker.config.delete_topic_enable).then(|| deletion_disabled(ctx.api_version));
    let planned = plan_deletions(&ctx.broker.metadata.image(), asked, refuse_all);
    let results = join_all(
        planned
            .into_iter()
            .map(|deletion| delete_topic(&ctx, deletion)),
    )
    .await;

    let mut response = DeleteTopicsResponse::default();
    response.responses = results;
    response
}

/// One entry of a DeleteTopics request: what it says, whether or not that makes sense.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct NamedTopic {
    name: Option<String>,
    id: Uuid,
}

/// One entry of the answer, and what to do for it.
#[derive(Debug, PartialEq, Eq)]
struct Deletion {
    named: NamedTopic,
    outcome: Result<TopicRef, Refusal>,
}

fn topics_to_delete(request: &DeleteTopicsRequest, version: i16) -> Vec<NamedTopic> {
    if version < 6 {
        let by_name = |name: &TopicName| NamedTopic {
            name: Some(name.to_string()),
            id: Uuid::nil(),
        };
        return request.topic_names.iter().map(by_name).collect();
    }
    let either = request.topics.iter().map(|topic| NamedTopic {
        name: topic.name.as_ref().map(|name| name.to_string()),
        id: topic.topic_id,
    });
    either.collect()
}

fn deletion_disabled(version: i16) -> Refusal {
    if version < 3 {
        Refusal::new(ErrorCode::InvalidRequest, "Topic deletion is disabled.")
    } else {
        ErrorCode::TopicDeletionDisabled.into()
    }
}

fn plan_deletions(
    image: &Image,
    asked: Vec<NamedTopic>,
    refuse_all: Option<Refusal>,
) -> Vec<Deletion> {
    let doubled = repeated(asked.iter().cloned());
    let ids: HashSet<Uuid> = asked
        .iter()
        .filter(|named| named.name.is_none())
        .map(|named| named.id)
        .collect();
    let mut answered = HashSet::new();
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    let once = asked
        .into_iter()
        .filter(|named| answered.insert(named.clone()));
    let plan = once.map(|named| {
        let outcome = match (&refuse_all, &named.name) {
            (Some(refusal), _) => Err(refusal.clone()),
            (None, None) if named.id.is_nil() => {
                invalid("Neither topic name nor id were specified.")
            }
            (None, Some(_)) if !named.id.is_nil() => {
                invalid("You may not specify both topic name and topic id.")
            }
            (None, None) if doubled.contains(&named) => invalid("Duplicate topic id."),
            (None, Some(_)) if doubled.contains(&named) => invalid("Duplicate topic name."),
            (None, None) => Ok(TopicRef::Id(named.id)),
            (None, Some(name))
                if image
                    .topic(name)
                    .is_some_and(|topic| ids.contains(&topic.id)) =>
            {
                invalid("The provided topic name maps to an ID that was already supplied.")
            }
            (None, Some(name)) => Ok(TopicRef::Name(name.clone())),
        };
        Deletion { named, outcome }
    });
    plan.collect()
}

async fn delete_topic(ctx: &Ctx, deletion: Deletion) -> DeletableTopicResult {
    let outcome = match deletion.outcome {
        Ok(topic) => propose_deletion(ctx, topic).await,
        Err(refusal) => Err(refusal),
    };
    let mut result = DeletableTopicResult::default();
    let (named, refusal) = match outcome {
        Ok(deleted) => (deleted, None),
        Err(refusal) => (deletion.named, Some(refusal)),
    };
    result.name = named
        .name
        .map(|name| TopicName(StrBytes::from_string(name)));
    if ctx.api_version >= 6 {
        result.topic_id = named.id;
    }
    if let Some(refusal) = refusal {
        result.error_code = refusal.code.code();
        if ctx.api_version >= 5 {
            result.error_message = refusal.message();
        }
    }
    result
}

async fn propose_deletion(ctx: &Ctx, topic: TopicRef) -> Result<NamedTopic, Refusal> {
    match ctx
        .broker
        .metadata
        .propose(Command::DeleteTopic { topic })
        .await?
    {
        Reply::TopicDeleted { id, name } => {
            tracing::info!(topic = name, id = kafka_uuid(&id), "topic deleted");
            Ok(NamedTopic {
                name: Some(name),
                id,
            })
        }
        other => Err(Refusal::of(other)),
    }
}

/// CreatePartitions, versions 0 to 3: all alike but for the encoding (v2) and quotas (v3), of which
/// there are none yet.
///
/// Internal topics do not grow. Kafka lets them, and then looks for a group in another partition than the one
/// that holds its offsets.
pub async fn create_partitions(
    ctx: Ctx,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let doubled = repeated(request.topics.iter().map(|topic| topic.name.as_str()));
    let too_many =
        partitions_to_add(&ctx.broker.metadata.image(), &request) > MAX_PARTITIONS_PER_REQUEST;
    let mut answered = HashSet::new();
    let grow = |topic| grow_or_refuse(&ctx, topic, request.validate_only, &doubled, too_many);
    let growths = request
        .topics
        .iter()
        .filter(|topic| answered.insert(topic.name.as_str()))
        .map(grow);
    let results = join_all(growths).await;

    let mut response = CreatePartitionsResponse::default();
    response.results = results;
    response
}

/// How many partitions a request would add if all of it succeeded.
fn partitions_to_add(image: &Image, request: &CreatePartitionsRequest) -> usize {
    let of_topic = |topic: &CreatePartitionsTopic| {
        let present = image.topic(&topic.name)?.partitions.len();
        usize::try_from(topic.count).ok()?.checked_sub(present)
    };
    request.topics.iter().filter_map(of_topic).sum()
}

async fn grow_or_refuse(
    ctx: &Ctx,
    topic: &CreatePartitionsTopic,
    validate_only: bool,
    doubled: &HashSet<&str>,
    too_many: bool,
) -> CreatePartitionsTopicResult {
    let outcome = if doubled.contains(topic.name.as_str()) {
        Err(duplicate_name())
    } else if too_many {
        Err(too_many_partitions())
    } else if let Some(full) = ctx.broker.disk.refusal().filter(|_| !validate_only) {
        Err(Refusal::new(ErrorCode::KafkaStorageError, full))
    } else {
        grow_topic(ctx, topic, validate_only).await
    };
    let mut result = CreatePartitionsTopicResult::default();
    result.name = topic.name.clone();
    if let Err(refusal) = outcome {
        result.error_code = refusal.code.code();
        result.error_message = refusal.message();
    }
    result
}

async fn grow_topic(
    ctx: &Ctx,
    topic: &CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), Refusal> {
    if topic_name::is_internal(&topic.name) {
        let message = format!(
            "The number of partitions of the internal topic {} is fixed: its keys would move to others.",
            topic.name.as_str()
        );
        return Err(Refusal::new(ErrorCode::InvalidPartitions, message));
    }
    let given = topic.assignments.as_ref();
    let command = Command::CreatePartitions {
        name: topic.name.to_string(),
        new_count: topic.count,
        assignments: given.map(|given| given.iter().map(|one| node_ids(&one.broker_ids)).collect()),
        validate_only,
    };
    match ctx.broker.metadata.propose(command).await? {
        Reply::PartitionsCreated => {
            if !validate_only {
                tracing::info!(
                    topic = topic.name.as_str(),
                    partitions = topic.count,
                    "partitions created"
                );
            }
            Ok(())
        }
        other => Err(Refusal::of(other)),
    }
}

/// ListPartitionReassignments, version 0: none is ever under way on one node, whatever was asked for.
pub async fn list_partition_reassignments(
    _ctx: Ctx,
    _request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let mut response = ListPartitionReassignmentsResponse::default();
    response.error_message = None;
    response
}

#[cfg(test)]
#[path = "topics_tests.rs"]
mod tests;
