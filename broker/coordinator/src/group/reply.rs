//! What a group shard answers. Plain values, no behaviour.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use super::command::{GroupState, GroupType};
use crate::machine::Millis;

/// An answer of a group shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To JoinGroup.
    Joined(Joined),
    /// To JoinGroup, with the member id to answer: the given one for `MemberIdRequired`.
    JoinFailed {
        /// The member id.
        member_id: String,
        /// Why not.
        error: GroupError,
    },
    /// To SyncGroup.
    Synced {
        /// The group's protocol type.
        protocol_type: String,
        /// The selected protocol.
        protocol_name: String,
        /// What the leader assigned to the member; empty only if the leader left it out.
        assignment: Bytes,
    },
    /// To LeaveGroup: an outcome for each member, in order.
    Left(Vec<Result<(), GroupError>>),
    /// To OffsetCommit: per topic and partition as asked.
    Committed(Vec<PartitionResults>),
    /// To OffsetFetch: as asked, or all in order.
    Fetched(Vec<FetchedTopic>),
    /// To DescribeGroup.
    Described(DescribedGroup),
    /// To ListGroups.
    Listed(Vec<ListedGroup>),
    /// To Summary.
    Summary(Vec<GroupSummary>),
    /// To OffsetDelete: per topic and partition as asked.
    OffsetsDeleted(Vec<PartitionResults>),
    /// Nothing more to say.
    Done,
    /// The whole request failed.
    Failed(GroupError),
}

/// A member is in the generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The generation.
    pub generation: i32,
    /// The group's protocol type.
    pub protocol_type: String,
    /// The selected protocol.
    pub protocol_name: String,
    /// The leader's member id.
    pub leader: String,
    /// The leader shall not assign: it rejoined a stable group (version 9 and up).
    pub skip_assignment: bool,
    /// The member's id.
    pub member_id: String,
    /// For the leader: everybody.
    pub members: Vec<JoinedMember>,
}

/// A member as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: String,
    /// Its instance id.
    pub group_instance_id: Option<String>,
    /// Its metadata for the selected protocol.
    pub metadata: Bytes,
}

/// An outcome for each partition of a topic, in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionResults {
    /// The topic.
    pub topic: String,
    /// Partition and outcome.
    pub partitions: Vec<(i32, Result<(), GroupError>)>,
}

/// Committed offsets of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedTopic {
    /// The topic.
    pub topic: Arc<str>,
    /// Partition and what is committed, if anything.
    pub partitions: Vec<(i32, Option<CommittedOffset>)>,
}

/// What was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// -1 if unknown.
    pub leader_epoch: i32,
    /// What the client kept with it.
    pub metadata: Arc<str>,
    /// When, in milliseconds.
    pub commit_timestamp: Millis,
}

/// A group with its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedGroup {
    /// Its state.
    pub state: GroupState,
    /// Its protocol type; empty for one that never had members.
    pub protocol_type: String,
    /// The selected protocol, when stable.
    pub protocol: String,
    /// Its members.
    pub members: Vec<DescribedMember>,
}

/// A member of a described group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedMember {
    /// Its id.
    pub member_id: String,
    /// Its instance id.
    pub group_instance_id: Option<String>,
    /// The client's id.
    pub client_id: String,
    /// The client's host.
    pub client_host: String,
    /// Its metadata for the selected protocol, when stable.
    pub metadata: Bytes,
    /// What it is assigned.
    pub assignment: Bytes,
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    /// Its id.
    pub group: Arc<str>,
    /// Its protocol type; empty for one that never had members.
    pub protocol_type: String,
    /// Its state.
    pub state: GroupState,
    /// Its type.
    pub group_type: GroupType,
}

/// A group as metrics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its id.
    pub group: Arc<str>,
    /// Its type.
    pub group_type: GroupType,
    /// Its protocol type; empty for one that never had members.
    pub protocol_type: String,
    /// Its state.
    pub state: GroupState,
    /// How many members it has.
    pub members: usize,
    /// For how many partitions it has committed offsets.
    pub offset_count: usize,
    /// What it has committed, by topic and partition; empty if it was not asked for.
    pub offsets: Vec<SummaryOffset>,
}

/// A committed offset as metrics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SummaryOffset {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// When it was committed, in milliseconds.
    pub commit_timestamp: Millis,
}

/// Why a request to a group failed; Kafka's error of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GroupError {
    /// The group id is empty or too long.
    #[error("The group id is invalid.")]
    InvalidGroupId,
    /// No such member.
    #[error("The coordinator is not aware of this member.")]
    UnknownMemberId,
    /// Another generation.
    #[error("Specified group generation id is not valid.")]
    IllegalGeneration,
    /// No protocol in common with the group.
    #[error(
        "The group member's supported protocols are incompatible with those of existing members."
    )]
    InconsistentGroupProtocol,
    /// The session timeout is out of bounds.
    #[error("The session timeout is not within the range allowed by the broker.")]
    InvalidSessionTimeout,
    /// Join again.
    #[error("The group is rebalancing, so a rejoin is needed.")]
    RebalanceInProgress,
    /// Join again with the member id that comes with this.
    #[error(
        "The group member needs to have a valid member id before actually entering a consumer group."
    )]
    MemberIdRequired,
    /// Another process joined with the same instance id.
    #[error(
        "A static consumer with the same group.instance.id has joined with a different member id."
    )]
    FencedInstanceId,
    /// The group has all members, or holds all bytes, that it may.
    #[error("The consumer group has reached its max size.")]
    GroupMaxSizeReached,
    /// A limit of this broker, or a field that no record can carry.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// The shard holds all groups that it may, and none is unused.
    #[error("The broker holds as many groups as it may.")]
    TooManyGroups,
    /// No such group.
    #[error("The group id does not exist.")]
    GroupIdNotFound,
    /// The group has members.
    #[error("The group is not empty.")]
    NonEmptyGroup,
    /// The group's members read the topic.
    #[error(
        "Deleting offsets of a topic is forbidden while the consumer group is actively subscribed to it."
    )]
    GroupSubscribedToTopic,
    /// The metadata of a commit is too large.
    #[error("The metadata field of the offset request was too large.")]
    OffsetMetadataTooLarge,
}
