//! One member of a classic consumer group: join, sync, heartbeat, commit, leave.
//!
//! Used by `consume --group`. It shares groups with stock clients: the range assignor, Kafka's `ConsumerProtocol`
//! bytes, and any member may be the leader. It holds no partition's position and reads nothing; `consume.rs` does, and
//! calls [`Member::heartbeat`] often enough. Whatever answer a request gets, the member either goes on, joins again,
//! or fails with what the coordinator said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    SyncGroupRequest,
};
use ottla_protocol::error_code::ErrorCode;

use super::client::{Client, Committer, Partition, text};
use super::consumer_protocol::{self as consumer, RANGE};
use super::failure::{Failure, Kind, Result};

/// As stock clients have it.
const SESSION_TIMEOUT: Duration = Duration::from_secs(45);
/// How long the coordinator waits for members to join again; ours is never away that long.
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a member says that it is alive; stock clients' `heartbeat.interval.ms`.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
/// Attempts to join before the coordinator's answer is taken for its last word.
const JOIN_ATTEMPTS: u32 = 100;

/// What a heartbeat or a commit brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// All is well.
    Fine,
    /// The group is rebalancing: commit, then join.
    Rebalance,
    /// The group goes on without us: what is not committed will be read again. Join.
    Lost,
}

/// A member.
pub struct Member {
    group: String,
    topics: Vec<String>,
    member_id: String,
    generation: i32,
}

impl Member {
    /// One that has not joined yet.
    pub fn new(group: &str, topic: &str) -> Self {
        Self {
            group: group.to_owned(),
            topics: vec![topic.to_owned()],
            member_id: String::new(),
            generation: -1,
        }
    }

    /// The group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Joins, or joins again, and returns the partitions it now owns. Takes as long as the other members do.
    pub async fn join(&mut self, client: &mut Client) -> Result<BTreeSet<Partition>> {
        let mut last = None;
        for _ in 0..JOIN_ATTEMPTS {
            match self.join_once(client).await {
                Ok(partitions) => return Ok(partitions),
                Err(failure) => {
                    if self.after(&failure, client).is_none() {
                        return Err(failure);
                    }
                    if failure.code != Some(ErrorCode::MemberIdRequired) {
                        client.pause().await;
                    }
                    last = Some(failure);
                }
            }
        }
        Err(last.unwrap_or_else(|| Failure::refused("cannot join")))
    }

    /// Says that it is alive.
    pub async fn heartbeat(&mut self, client: &mut Client) -> Result<Beat> {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id));
        let node = client.coordinator(&self.group).await?;
        let answer = client.ask(node, 1..=4, &request).await;
        let outcome = answer.and_then(|response| self.told("heartbeat", response.error_code));
        self.beat(outcome, client)
    }

    /// Commits positions.
    pub async fn commit(
        &mut self,
        client: &mut Client,
        offsets: &BTreeMap<Partition, i64>,
    ) -> Result<Beat> {
        let committer = Committer {
            member_id: &self.member_id,
            generation: self.generation,
        };
        let outcome = client.commit(&self.group, committer, offsets).await;
        self.beat(outcome, client)
    }

    /// Leaves, so that the others need not wait for the session to end.
    pub async fn leave(&mut self, client: &mut Client) -> Result<()> {
        if self.member_id.is_empty() {
            return Ok(());
        }
        let identity = MemberIdentity::default().with_member_id(text(&self.member_id));
        let request = LeaveGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_members(vec![identity]);
        let node = client.coordinator(&self.group).await?;
        let response = client.ask(node, 3..=5, &request).await?;
        let members = response.members.iter().map(|member| member.error_code);
        let code = std::iter::once(response.error_code)
            .chain(members)
            .find(|code| *code != 0);
        self.member_id.clear();
        match code.map(ErrorCode::from_code) {
            // Put out meanwhile: that is as good.
            None | Some(Some(ErrorCode::UnknownMemberId)) => Ok(()),
            Some(_) => self.told("leaving", code.unwrap_or(0)),
        }
    }

    async fn join_once(&mut self, client: &mut Client) -> Result<BTreeSet<Partition>> {
        let joined = self.ask_to_join(client).await?;
        let leads = joined.leader == joined.member_id;
        let assignments = if leads {
            assign(&joined, client).await?
        } else {
            Vec::new()
        };
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id))
            .with_assignments(assignments);
        // Version 5 wants protocol type and name; nothing is gained by it.
        let node = client.coordinator(&self.group).await?;
        let response = client
            .ask_patiently(node, 1..=4, &request, REBALANCE_TIMEOUT)
            .await?;
        self.told("syncing", response.error_code)?;
        consumer::assigned_partitions(&response.assignment).ok_or_else(|| {
            Failure::refused(format_args!(
                "group {}: its leader sent an assignment that cannot be read",
                self.group
            ))
        })
    }

    async fn ask_to_join(&mut self, client: &mut Client) -> Result<JoinGroupResponse> {
        let range = JoinGroupRequestProtocol::default()
            .with_name(text(RANGE))
            .with_metadata(consumer::subscription(&self.topics));
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_session_timeout_ms(SESSION_TIMEOUT.as_millis() as i32)
            .with_rebalance_timeout_ms(REBALANCE_TIMEOUT.as_millis() as i32)
            .with_member_id(text(&self.member_id))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![range]);
        let node = client.coordinator(&self.group).await?;
        let joined = client
            .ask_patiently(node, 4..=7, &request, REBALANCE_TIMEOUT)
            .await?;
        if joined.error_code == ErrorCode::MemberIdRequired.code() {
            // Kept at once, so that leaving works also when joining is given up.
            self.member_id = joined.member_id.to_string();
        }
        self.told("joining", joined.error_code)?;
        self.member_id = joined.member_id.to_string();
        self.generation = joined.generation_id;
        Ok(joined)
    }

    fn told(&self, what: &str, code: i16) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let failure = Failure::told(format_args!("group {}, {what}", self.group), code, None);
        Err(match failure.code {
            Some(ErrorCode::InconsistentGroupProtocol) => failure.hint(
                "its members use no assignor in common with this command, which has range: add range to theirs, or take another group",
            ),
            _ => failure,
        })
    }

    fn beat(&mut self, outcome: Result<()>, client: &mut Client) -> Result<Beat> {
        match outcome {
            Ok(()) => Ok(Beat::Fine),
            Err(failure) => self.after(&failure, client).ok_or(failure),
        }
    }

    /// What to do after a failure; `None`: give up.
    fn after(&mut self, failure: &Failure, client: &mut Client) -> Option<Beat> {
        if failure.kind == Kind::Unreachable {
            // The caller knows how long it wants to wait for the broker.
            client.forget_coordinator(&self.group);
            return None;
        }
        match failure.code? {
            ErrorCode::MemberIdRequired | ErrorCode::RebalanceInProgress => Some(Beat::Rebalance),
            ErrorCode::UnknownMemberId => {
                self.member_id.clear();
                self.generation = -1;
                Some(Beat::Lost)
            }
            ErrorCode::IllegalGeneration => Some(Beat::Lost),
            ErrorCode::NotCoordinator
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::CoordinatorLoadInProgress => {
                client.forget_coordinator(&self.group);
                Some(Beat::Fine)
            }
            code if code.retriable() => Some(Beat::Fine),
            _ => None,
        }
    }
}

/// The leader's work: every partition of every subscribed topic to one member.
async fn assign(
    joined: &JoinGroupResponse,
    client: &mut Client,
) -> Result<Vec<SyncGroupRequestAssignment>> {
    let mut subscriptions = BTreeMap::new();
    for member in &joined.members {
        let topics = consumer::subscribed_topics(&member.metadata).ok_or_else(|| {
            Failure::refused(format_args!(
                "member {} of the group sent a subscription that cannot be read",
                member.member_id.as_str()
            ))
        })?;
        subscriptions.insert(member.member_id.to_string(), topics);
    }
    let topics: BTreeSet<&str> = subscriptions
        .values()
        .flatten()
        .map(String::as_str)
        .collect();
    let topics: Vec<&str> = topics.into_iter().collect();
    let metadata = client.metadata(Some(&topics), false).await?;
    let mut partitions_of = BTreeMap::new();
    for topic in metadata.topics {
        // A topic that is gone has no partitions to give.
        if let Some(name) = topic.name.filter(|_| topic.error_code == 0) {
            partitions_of.insert(name.to_string(), topic.partitions.len() as i32);
        }
    }
    let assigned = consumer::range(&subscriptions, &partitions_of);
    let assignments = assigned.into_iter().map(|(member, partitions)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(&member))
            .with_assignment(consumer::assignment(&partitions))
    });
    Ok(assignments.collect())
}
