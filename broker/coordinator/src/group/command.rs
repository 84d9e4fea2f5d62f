//! What handlers ask of a group shard, and its configuration. Plain values, no behaviour.

use std::collections::BTreeSet;
use std::str::FromStr;

use bytes::Bytes;
use thiserror::Error;
use uuid::Uuid;

use crate::machine::Millis;

/// Limits and times, by the names of Kafka's broker configuration where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`: how long the first members of a group wait for others.
    pub initial_rebalance_delay_ms: i32,
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.max.size`: members of one group.
    pub max_size: usize,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: Millis,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: Millis,
    /// Bytes of protocol metadata that one member may bring (Kafka has no such limit).
    pub member_metadata_max_bytes: usize,
    /// Bytes that all members of a group may hold, assignments included (Kafka has no such limit).
    pub group_max_bytes: usize,
    /// Groups of one shard (Kafka has no such limit). The oldest unused one without offsets makes room. Those without
    /// members and records also share 256 B for each, so that long ids leave room for fewer.
    pub max_groups: usize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            initial_rebalance_delay_ms: 3_000,
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            max_size: i32::MAX as usize,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
            offsets_retention_check_interval_ms: 600_000,
            member_metadata_max_bytes: 256 * 1024,
            group_max_bytes: 64 * 1024 * 1024,
            max_groups: 20_000,
        }
    }
}

/// A request to a group shard. The caller has checked authority and sent it to the group's shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Answered by `Joined` or `JoinFailed`, maybe after the rebalance.
    JoinGroup(JoinGroup),
    /// Answered by `Synced`, maybe after the leader's one.
    SyncGroup(SyncGroup),
    /// Answered by `Done`.
    Heartbeat {
        /// Who says it is alive.
        caller: Caller,
    },
    /// Answered by `Left`.
    LeaveGroup {
        /// The group.
        group: String,
        /// Who leaves.
        members: Vec<LeavingMember>,
    },
    /// Answered by `Committed`.
    OffsetCommit(OffsetCommit),
    /// Answered by `Fetched`.
    OffsetFetch {
        /// The group.
        group: String,
        /// Which partitions; `None` is all that have an offset.
        topics: Option<Vec<TopicPartitions>>,
    },
    /// Answered by `Described`, or `Failed(GroupIdNotFound)`.
    DescribeGroup {
        /// The group.
        group: String,
    },
    /// Answered by `Listed`, in order of group id.
    ListGroups {
        /// Only groups in these states; `None` is all.
        states: Option<Vec<GroupState>>,
        /// Only groups of these types; `None` is all.
        types: Option<Vec<GroupType>>,
    },
    /// Answered by `Summary`, in order of group id. For metrics: it only reads, and copies no names but those of newcomers.
    Summary {
        /// Whether each offset is told, or only how many there are.
        offsets: bool,
    },
    /// Answered by `Done`.
    DeleteGroup {
        /// The group.
        group: String,
    },
    /// Answered by `OffsetsDeleted`.
    OffsetDelete {
        /// The group.
        group: String,
        /// Which offsets.
        topics: Vec<TopicPartitions>,
    },
    /// These topics are gone, and with them all offsets committed for them. Answered by `Done`.
    TopicsDeleted {
        /// Their names.
        topics: Vec<String>,
    },
    /// These are all topics there are: offsets committed for others go. Answered by `Done`.
    TopicsKept {
        /// Their names.
        topics: BTreeSet<String>,
    },
    /// The configuration has changed; it holds from the next request on. Answered by `Done`.
    Configure(Box<GroupConfig>),
}

/// Who speaks for which generation of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caller {
    /// The group.
    pub group: String,
    /// The member id; may be empty in a commit without membership.
    pub member_id: String,
    /// The instance id of a static member.
    pub group_instance_id: Option<String>,
    /// The generation; -1 in a commit without membership.
    pub generation: i32,
}

/// A member wants to be in the next generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinGroup {
    /// The group.
    pub group: String,
    /// Empty at the first time.
    pub member_id: String,
    /// The id given to it if it has none. Kafka's form is the instance id or client id, `-`, a UUID.
    pub fresh_member_id: String,
    /// The instance id of a static member.
    pub group_instance_id: Option<String>,
    /// After that long without a sign of life the member is out.
    pub session_timeout_ms: i32,
    /// As long a rebalance waits for it; at version 0 the session timeout.
    pub rebalance_timeout_ms: i32,
    /// The protocol type, `consumer` or `connect` for instance.
    pub protocol_type: String,
    /// Protocol names with the member's metadata, best first.
    pub protocols: Vec<(String, Bytes)>,
    /// The client's id.
    pub client_id: String,
    /// The client's host, in Kafka's form `/127.0.0.1`.
    pub client_host: String,
    /// A dynamic member must come back with its id before it counts (version 4 and up, KIP-394).
    pub require_known_member_id: bool,
    /// The client understands `skip_assignment` (version 9 and up, KIP-814).
    pub supports_skip_assignment: bool,
}

/// A member wants its assignment; the leader brings all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncGroup {
    /// Who asks.
    pub caller: Caller,
    /// The protocol type it believes in (version 5 and up).
    pub protocol_type: Option<String>,
    /// The protocol it believes in (version 5 and up).
    pub protocol_name: Option<String>,
    /// From the leader: an assignment per member id.
    pub assignments: Vec<(String, Bytes)>,
}

/// A member that leaves or is removed by an administrator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeavingMember {
    /// Its member id; empty when a static member is removed by its instance id.
    pub member_id: String,
    /// Its instance id.
    pub group_instance_id: Option<String>,
}

/// Offsets to commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OffsetCommit {
    /// Who commits.
    pub caller: Caller,
    /// How long to keep the offsets (versions 2-4), if the request says so.
    pub retention_ms: Option<Millis>,
    /// What to commit.
    pub topics: Vec<CommitTopic>,
}

/// Offsets to commit for one topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitTopic {
    /// Its name.
    pub name: String,
    /// Its id, nil if the request named it only.
    pub topic_id: Uuid,
    /// Its partitions.
    pub partitions: Vec<CommitPartition>,
}

/// An offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPartition {
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the last consumed record, -1 if unknown.
    pub leader_epoch: i32,
    /// What the client keeps with it.
    pub metadata: Option<String>,
}

/// Some partitions of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPartitions {
    /// The topic.
    pub topic: String,
    /// The partitions.
    pub partitions: Vec<i32>,
}

/// The state of a group, as DescribeGroups and ListGroups name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupState {
    /// No members; maybe offsets.
    Empty,
    /// Waits for members to join.
    PreparingRebalance,
    /// Waits for the leader's assignment.
    CompletingRebalance,
    /// Every member has its assignment, or can have it.
    Stable,
    /// Does not exist.
    Dead,
}

impl GroupState {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// A name that names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a known name")]
pub struct UnknownName;

impl FromStr for GroupState {
    type Err = UnknownName;

    /// By Kafka's name in any case.
    fn from_str(name: &str) -> Result<Self, UnknownName> {
        [
            Self::Empty,
            Self::PreparingRebalance,
            Self::CompletingRebalance,
            Self::Stable,
            Self::Dead,
        ]
        .into_iter()
        .find(|state| state.name().eq_ignore_ascii_case(name))
        .ok_or(UnknownName)
    }
}

/// Which protocol a group speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupType {
    /// Join, sync, heartbeat.
    Classic,
}

impl GroupType {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
        }
    }
}

impl FromStr for GroupType {
    type Err = UnknownName;

    /// By Kafka's name in any case.
    fn from_str(name: &str) -> Result<Self, UnknownName> {
        if name.eq_ignore_ascii_case(Self::Classic.name()) {
            Ok(Self::Classic)
        } else {
            Err(UnknownName)
        }
    }
}
