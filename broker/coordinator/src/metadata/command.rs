//! What the metadata machine is asked, what it answers, and why it refuses.
//!
//! Commands are made by handlers and by the start of the broker; they carry everything the machine
//! needs (fresh ids, configured defaults), so that it stays a function of its log.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use uuid::Uuid;

use crate::record::ConfigResource;

/// What can be asked of the metadata machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A broker starts.
    RegisterBroker {
        /// Its node id.
        broker_id: i32,
        /// Fresh at this start.
        incarnation: Uuid,
        /// Its last stop was not clean.
        unclean: bool,
    },
    /// Create a topic.
    CreateTopic {
        /// Its name.
        name: String,
        /// A fresh id for it.
        id: Uuid,
        /// Replicas by partition, if the client assigns them itself; then the two numbers must be -1.
        partitions: Option<Vec<Vec<i32>>>,
        /// How many partitions; -1 is 1, callers put their configured default.
        num_partitions: i32,
        /// How many replicas; -1 is 1, callers put their configured default.
        replication_factor: i16,
        /// Its configuration, valid by the caller's table.
        configs: BTreeMap<String, String>,
        /// Answer as if, and do nothing.
        validate_only: bool,
    },
    /// Delete a topic with its partitions and configuration.
    DeleteTopic {
        /// Which one.
        topic: TopicRef,
    },
    /// Add partitions to a topic.
    CreatePartitions {
        /// Which topic.
        name: String,
        /// How many it shall have in all.
        new_count: i32,
        /// Replicas of the new partitions, if the client assigns them itself.
        assignments: Option<Vec<Vec<i32>>>,
        /// Answer as if, and do nothing.
        validate_only: bool,
    },
    /// Give a block of producer ids to a broker.
    AllocateProducerIds {
        /// To which broker.
        broker_id: i32,
        /// Its present epoch: a broker of an earlier start gets nothing.
        broker_epoch: i64,
        /// How many, at least 1.
        count: i32,
    },
    /// Set and remove configuration entries, all or none.
    AlterConfigs {
        /// Whose.
        resource: ConfigResource,
        /// Name and new value; `None` removes. No name twice.
        changes: Vec<(String, Option<String>)>,
        /// What the resource had when the caller chose the changes: nothing is done if it has something
        /// else by now.
        seen: Arc<BTreeMap<String, String>>,
        /// Answer as if, and do nothing.
        validate_only: bool,
    },
    /// Change a partition's leader and in-sync replicas, if it is still as the caller knows it.
    ChangePartition {
        /// Which topic.
        topic_id: Uuid,
        /// Which partition.
        partition: i32,
        /// The partition epoch the caller has seen.
        expected_partition_epoch: i32,
        /// The leader, one of `isr`, or [`NO_LEADER`](super::NO_LEADER).
        leader: i32,
        /// The in-sync replicas, not empty.
        isr: Vec<i32>,
    },
    /// Finalize a feature at a level; 0 removes it.
    SetFeature {
        /// The feature.
        name: String,
        /// Its level.
        level: i16,
    },
}

/// How a request names a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicRef {
    /// By name.
    Name(String),
    /// By id.
    Id(Uuid),
}

/// What the metadata machine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The broker is registered at this epoch.
    BrokerRegistered {
        /// Higher than at any earlier start.
        epoch: i64,
    },
    /// The topic exists, or could (`validate_only`).
    TopicCreated {
        /// Its id.
        id: Uuid,
        /// How many partitions it has.
        num_partitions: i32,
        /// How many replicas each has.
        replication_factor: i16,
    },
    /// The topic is gone.
    TopicDeleted {
        /// The id it had.
        id: Uuid,
        /// The name it had.
        name: String,
    },
    /// The partitions exist, or could (`validate_only`).
    PartitionsCreated,
    /// Ids that are nobody else's.
    ProducerIds {
        /// The first one.
        first: i64,
        /// How many follow each other from there.
        count: i32,
    },
    /// It is as asked for.
    Done,
    /// Nothing was changed.
    Failed(MetadataError),
}

/// Why a command was refused; its text is what a client sees.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetadataError {
    /// A topic of this name exists.
    #[error("Topic '{0}' already exists.")]
    TopicAlreadyExists(String),
    /// The name is not allowed, or collides with another.
    #[error("{0}")]
    InvalidTopicName(String),
    /// The number of partitions is not possible.
    #[error("{0}")]
    InvalidPartitions(String),
    /// More than this broker allows at once.
    #[error("{0}")]
    PolicyViolation(String),
    /// The number of replicas is not possible.
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// An assignment a client gave is not possible.
    #[error("{0}")]
    InvalidReplicaAssignment(String),
    /// No topic has this name, or it has no such partition.
    #[error("This server does not host this topic-partition.")]
    UnknownTopicOrPartition,
    /// No topic has this id.
    #[error("This server does not host this topic ID.")]
    UnknownTopicId,
    /// The broker has started again since, or never registered.
    #[error("The broker epoch is not the present one.")]
    StaleBrokerEpoch,
    /// The partition has changed since the caller looked.
    #[error("The partition epoch is not the present one.")]
    InvalidUpdateVersion,
    /// The resource's configuration has changed since the caller looked.
    #[error("The configuration was changed by another request at the same time.")]
    ConfigsChanged,
    /// All 2^63 producer ids are given out.
    #[error("All producer ids are given out.")]
    ProducerIdsExhausted,
    /// The request contradicts itself.
    #[error("{0}")]
    InvalidRequest(String),
}
