//! `ottla topic`: list, create, describe, delete, alter.
//!
//! Each subcommand is one request to any broker and one table; `describe` also asks the leaders for offsets. Several
//! names are handled in one request, and what was done for some is said also when others failed.

use clap::{Args, Subcommand};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, TopicName,
};
use ottla_protocol::error_code::ErrorCode;
use serde_json::{Map, Value, json};

use super::client::{At, Node, text, topic_failure};
use super::config::{self, Resource, Setting};
use super::consume::places::keys;
use super::failure::{Failure, Result};
use super::output::{Table, counted};
use super::run::{Common, Session};
use crate::env::kafka_uuid;

/// `ottla topic`.
#[derive(Debug, Args)]
pub struct TopicArgs {
    /// What all client commands have.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: TopicCommand,
}

/// The subcommands of `topic`.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// All topics with their partitions
    List {
        /// The broker's own topics too
        #[arg(long)]
        internal: bool,
    },
    /// Create topics
    Create {
        /// Names of the topics
        #[arg(required = true)]
        names: Vec<String>,
        /// Partitions of each; the broker's num.partitions without it
        #[arg(short, long)]
        partitions: Option<i32>,
        /// Replicas of each partition; the broker's default.replication.factor without it
        #[arg(short, long)]
        replication_factor: Option<i16>,
        /// A topic config; may be repeated
        #[arg(short, long = "config", value_name = "KEY=VALUE")]
        configs: Vec<String>,
        /// A topic that exists already is no error
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Partitions with leaders, replicas and offsets, and the configs that were set
    Describe {
        /// Names of the topics; all without any
        names: Vec<String>,
    },
    /// Delete topics with all their records
    Delete {
        /// Names of the topics
        #[arg(required = true)]
        names: Vec<String>,
        /// A topic that does not exist is no error
        #[arg(long)]
        if_exists: bool,
    },
    /// Add partitions, set or unset configs
    #[command(arg_required_else_help = true)]
    Alter {
        /// Name of the topic
        name: String,
        /// Partitions it shall have; only more than now
        #[arg(short, long)]
        partitions: Option<i32>,
        /// Set a topic config; may be repeated
        #[arg(long = "set", value_name = "KEY=VALUE")]
        sets: Vec<String>,
        /// Give a topic config its default back; may be repeated
        #[arg(long = "unset", value_name = "KEY")]
        unsets: Vec<String>,
    },
}

/// Runs it.
pub async fn run(session: &mut Session, command: &TopicCommand) -> Result<()> {
    match command {
        TopicCommand::List { internal } => list(session, *internal).await,
        TopicCommand::Create {
            names,
            partitions,
            replication_factor,
            configs,
            if_not_exists,
        } => {
            let mut topics = Vec::new();
            for name in names {
                let configs = configs.iter().map(|config| {
                    let (name, value) = config::key_value(config)?;
                    Ok(CreatableTopicConfig::default()
                        .with_name(text(name))
                        .with_value(Some(text(value))))
                });
                topics.push(
                    CreatableTopic::default()
                        .with_name(TopicName(text(name)))
                        .with_num_partitions(partitions.unwrap_or(-1))
                        .with_replication_factor(replication_factor.unwrap_or(-1))
                        .with_configs(configs.collect::<Result<_>>()?),
                );
            }
            create(session, topics, *if_not_exists).await
        }
        TopicCommand::Describe { names } => describe(session, names).await,
        TopicCommand::Delete { names, if_exists } => delete(session, names, *if_exists).await,
        TopicCommand::Alter {
            name,
            partitions,
            sets,
            unsets,
        } => {
            let settings = Setting::all(sets, unsets)?;
            if partitions.is_none() && settings.is_empty() {
                return Err(Failure::usage(
                    "nothing to alter: give --partitions, --set or --unset",
                ));
            }
            if let Some(partitions) = partitions {
                add_partitions(session, name, *partitions).await?;
            }
            if !settings.is_empty() {
                config::alter(session, &Resource::Topic(name.clone()), &settings).await?;
            }
            Ok(())
        }
    }
}

async fn list(session: &mut Session, internal: bool) -> Result<()> {
    let metadata = session.client.metadata(None, false).await?;
    let mut topics = metadata.topics;
    topics.retain(|topic| topic.error_code == 0 && (internal || !topic.is_internal));
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "REPLICAS"]);
    let mut objects = Vec::new();
    for topic in &topics {
        let name = topic.name.as_deref().map_or("", |name| name.as_str());
        let (partitions, replicas) = (topic.partitions.len(), replicas(topic));
        table.row([
            name.to_owned(),
            partitions.to_string(),
            replicas.to_string(),
        ]);
        objects.push(json!({
            "topic": name, "partitions": partitions, "replication_factor": replicas,
            "internal": topic.is_internal, "id": kafka_uuid(&topic.topic_id),
        }));
    }
    session.out.rows(&table, &objects)
}

fn replicas(topic: &MetadataResponseTopic) -> usize {
    let replicas = topic
        .partitions
        .iter()
        .map(|partition| partition.replica_nodes.len());
    replicas.max().unwrap_or(0)
}

/// Partition indexes in order.
pub fn topic_partitions(topic: &MetadataResponseTopic) -> Vec<i32> {
    let indexes = topic
        .partitions
        .iter()
        .map(|partition| partition.partition_index);
    let mut indexes: Vec<i32> = indexes.collect();
    indexes.sort_unstable();
    indexes
}

async fn create(
    session: &mut Session,
    topics: Vec<CreatableTopic>,
    if_not_exists: bool,
) -> Result<()> {
    let names: Vec<String> = topics.iter().map(|topic| topic.name.to_string()).collect();
    let request = CreateTopicsRequest::default()
        .with_topics(topics)
        .with_timeout_ms(session.timeout_ms());
    let mut response = session.client.ask(Node::Any, 2..=7, &request).await?;
    response
        .topics
        .sort_by_key(|topic| place(&names, &topic.name));
    let mut failed = None;
    for topic in response.topics {
        let name = topic.name.as_str();
        let exists = topic.error_code == ErrorCode::TopicAlreadyExists.code();
        if topic.error_code != 0 && !(exists && if_not_exists) {
            let message = topic.error_message.as_deref();
            let failure = Failure::told(format_args!("topic {name}"), topic.error_code, message);
            keep_first(
                &mut failed,
                if exists {
                    failure.hint("--if-not-exists makes that no error")
                } else {
                    failure
                },
            );
            continue;
        }
        if session.out.is_json() {
            session.out.object(&json!({
                "topic": name, "created": !exists,
                "partitions": Some(topic.num_partitions).filter(|count| *count > 0),
            }))?;
        } else if exists {
            session.out.line(format_args!("{name} exists already"))?;
        } else if topic.num_partitions > 0 {
            let partitions = counted(topic.num_partitions.unsigned_abs().into(), "partition");
            session
                .out
                .line(format_args!("created {name} with {partitions}"))?;
        } else {
            session.out.line(format_args!("created {name}"))?;
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn delete(session: &mut Session, names: &[String], if_exists: bool) -> Result<()> {
    let request = DeleteTopicsRequest::default()
        .with_topic_names(names.iter().map(|name| TopicName(text(name))).collect())
        .with_timeout_ms(session.timeout_ms());
    let mut response = session.client.ask(Node::Any, 1..=5, &request).await?;
    let by_place = |topic: &DeletableTopicResult| {
        let name = topic.name.as_deref();
        name.map_or(usize::MAX, |name| place(names, name))
    };
    response.responses.sort_by_key(by_place);
    let mut failed = None;
    for topic in response.responses {
        let name = topic.name.as_deref().map_or("", |name| name.as_str());
        let missing = topic.error_code == ErrorCode::UnknownTopicOrPartition.code();
        if topic.error_code != 0 && !(missing && if_exists) {
            let message = topic.error_message.as_deref();
            let failure = Failure::told(format_args!("topic {name}"), topic.error_code, message);
            keep_first(
                &mut failed,
                if missing {
                    failure.hint("see ottla topic list; --if-exists makes that no error")
                } else {
                    failure
                },
            );
            continue;
        }
        if session.out.is_json() {
            session
                .out
                .object(&json!({ "topic": name, "deleted": !missing }))?;
        } else if missing {
            session.out.line(format_args!("{name} does not exist"))?;
        } else {
            session.out.line(format_args!("deleted {name}"))?;
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Answers are told in the order that was asked in, which is not every broker's.
fn place(names: &[String], name: &str) -> usize {
    let found = names.iter().position(|asked| asked == name);
    found.unwrap_or(names.len())
}

/// The first failure ends the command; the others are said at once.
pub fn keep_first(kept: &mut Option<Failure>, failure: Failure) {
    match kept {
        None => *kept = Some(failure),
        Some(_) => super::output::remark(&failure),
    }
}

async fn add_partitions(session: &mut Session, name: &str, count: i32) -> Result<()> {
    let topic = CreatePartitionsTopic::default()
        .with_name(TopicName(text(name)))
        .with_count(count)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(session.timeout_ms());
    let response = session.client.ask(Node::Any, 0..=3, &request).await?;
    let Some(result) = response.results.into_iter().next() else {
        return Err(Failure::refused(format_args!(
            "topic {name}: the broker did not answer about it"
        )));
    };
    match result.error_code {
        0 => {}
        code if code == ErrorCode::UnknownTopicOrPartition.code() => {
            return Err(topic_failure(name, code));
        }
        code => {
            let what = format_args!("topic {name}, --partitions {count}");
            return Err(Failure::told(what, code, result.error_message.as_deref()));
        }
    }
    if session.out.is_json() {
        session
            .out
            .object(&json!({ "topic": name, "partitions": count }))
    } else {
        session.out.line(format_args!(
            "{name} has {} now",
            counted(count.unsigned_abs().into(), "partition")
        ))
    }
}

async fn describe(session: &mut Session, names: &[String]) -> Result<()> {
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let wanted = if wanted.is_empty() {
        None
    } else {
        Some(wanted.as_slice())
    };
    let metadata = session.client.metadata(wanted, false).await?;
    let mut topics = metadata.topics;
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let mut failed = None;
    let mut is_first = true;
    for topic in &topics {
        let name = topic.name.as_deref().map_or("", |name| name.as_str());
        if topic.error_code != 0 {
            keep_first(&mut failed, topic_failure(name, topic.error_code));
            continue;
        }
        if names.is_empty() && topic.is_internal {
            continue;
        }
        if !std::mem::take(&mut is_first) && !session.out.is_json() {
            session.out.line("")?;
        }
        describe_one(session, name, topic).await?;
    }
    failed.map_or(Ok(()), Err)
}

async fn describe_one(
    session: &mut Session,
    name: &str,
    topic: &MetadataResponseTopic,
) -> Result<()> {
    let led = topic
        .partitions
        .iter()
        .filter(|partition| partition.leader_id.0 >= 0);
    let led: Vec<i32> = led.map(|partition| partition.partition_index).collect();
    let keys = keys(name, &led);
    let starts = session.client.offsets(&keys, At::Earliest).await?;
    let ends = session.client.offsets(&keys, At::Latest).await?;
    let resource = Resource::Topic(name.to_owned());
    let set = config::described(session, &resource, None, false).await?;
    let set: Vec<_> = set
        .into_iter()
        .filter(|config| config.is_set_here)
        .collect();

    let mut table = Table::new(&["PARTITION", "LEADER", "REPLICAS", "ISR", "START", "END"]);
    let mut objects = Vec::new();
    let mut partitions: Vec<_> = topic.partitions.iter().collect();
    partitions.sort_by_key(|partition| partition.partition_index);
    for partition in partitions {
        let index = partition.partition_index;
        let key = (name.to_owned(), index);
        let (start, end) = (
            starts.get(&key).copied().flatten(),
            ends.get(&key).copied().flatten(),
        );
        let ids = |nodes: &[kafka_protocol::messages::BrokerId]| -> Vec<i32> {
            nodes.iter().map(|node| node.0).collect()
        };
        let shown = |nodes: &[i32]| {
            let nodes: Vec<String> = nodes.iter().map(i32::to_string).collect();
            nodes.join(",")
        };
        let leader = Some(partition.leader_id.0).filter(|leader| *leader >= 0);
        let (replicas, isr) = (ids(&partition.replica_nodes), ids(&partition.isr_nodes));
        table.row([
            index.to_string(),
            or_dash(leader),
            shown(&replicas),
            shown(&isr),
            or_dash(start),
            or_dash(end),
        ]);
        objects.push(json!({
            "partition": index, "leader": leader, "leader_epoch": partition.leader_epoch,
            "replicas": replicas, "isr": isr, "start": start, "end": end,
        }));
    }
    let id = kafka_uuid(&topic.topic_id);
    if session.out.is_json() {
        let set: Map<String, Value> = set
            .into_iter()
            .map(|config| (config.name, config.value.into()))
            .collect();
        return session.out.object(&json!({
            "topic": name, "id": id, "internal": topic.is_internal,
            "replication_factor": replicas(topic), "configs": set, "partitions": objects,
        }));
    }
    let partitions = counted(topic.partitions.len() as u64, "partition");
    session.out.line(format_args!(
        "{name}: {partitions}, {}, id {id}",
        counted(replicas(topic) as u64, "replica")
    ))?;
    for config in set {
        session.out.line(format_args!(
            "  {}={}",
            config.name,
            config.value.as_deref().unwrap_or("")
        ))?;
    }
    session.out.rows(&table, &[])
}

/// A number, or a dash where there is none.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
