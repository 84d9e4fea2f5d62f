//! A shard of groups: the machine of one partition of `__consumer_offsets`. It finds the group, keeps the shard's
//! caps, and answers whatever needs no state machine. Run by the broker's driver; handlers reach it by commands.
//!
//! Hard state, changed by `replay` alone: per group its last metadata record and its committed offsets. Soft
//! state, lost by a restart: `ClassicGroup`, which exists while a group has members, member ids given out, and when a
//! group was last used. A group without any of them does not exist; one of which there is no more than one member id
//! that was given out lies in `newcomers`, and looks like any empty group to its clients. Unlike Kafka, a group gets
//! no record before its first assignment or offset: a flood of group ids costs no disk, and the answers are the same.
//!
//! | timer | armed | due |
//! |---|---|---|
//! | Session | with every sign of life of a member | the member is out |
//! | Given | while a group with members has ids given out | they count no longer |
//! | Join | while a join phase lasts | initial delay over, or rebalance timeout: go on without the missing |
//! | Sync | until all members of a generation have synced | those who have not are out |
//! | OffsetExpiry | always | expired offsets and groups without any are forgotten |

mod classic;
mod command;
mod given;
mod join;
mod members;
mod newcomers;
mod offsets;
mod queries;
mod rebalance;
mod reply;
mod room;
mod step;
mod subscription;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use crate::group_record::{GroupMetadataValue, GroupRecord, MAX_STRING};
use crate::machine::{Machine, Millis, Outcome, ReplyId, TimerChange};
use classic::ClassicGroup;
pub use command::*;
use given::Given;
use members::protocol_bytes;
use newcomers::Newcomers;
use offsets::Offsets;
pub use reply::*;
use step::Step;
pub use step::Timer;

/// Tombstones written by one tick of the expiry; the rest follows at once, in the next.
const MAX_EXPIRED_PER_TICK: usize = 10_000;

/// The machine of one shard.
#[derive(Debug)]
pub struct GroupMachine {
    config: GroupConfig,
    /// All groups but the newcomers.
    groups: BTreeMap<Arc<str>, Group>,
    newcomers: Newcomers,
    /// Of `groups` those without offsets and members, by the time of their last use: the first goes first.
    idle: BTreeSet<(Millis, Arc<str>)>,
}

#[derive(Debug, Default)]
struct Group {
    metadata: Option<Arc<GroupMetadataValue>>,
    offsets: Offsets,
    soft: Soft,
    last_used: Millis,
    /// `idle` holds it, under `last_used`.
    is_idle: bool,
}

/// What a restart loses.
#[derive(Debug)]
enum Soft {
    /// The group has no members, or they have not been heard of since the start.
    Quiet(Given),
    /// The group has members, or is about to.
    Live(Box<ClassicGroup>),
}

impl Default for Soft {
    fn default() -> Self {
        Self::Quiet(Given::None)
    }
}

impl Machine for GroupMachine {
    type Command = Command;
    type Reply = Reply;
    type Record = GroupRecord;
    type Timer = Timer;
    type Effect = Infallible;

    /// Members of the log get fresh session timers; a group larger than now allowed rebalances.
    fn start(&mut self, now: Millis) -> Outcome<Self> {
        let mut out = Outcome::nothing();
        let has_members = |group: &Group| {
            let metadata = group.metadata.as_ref();
            metadata.is_some_and(|metadata| !metadata.members.is_empty())
        };
        let groups = self.groups.iter().filter(|(_, group)| has_members(group));
        let ids: Vec<Arc<str>> = groups.map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.act(now, &id, &mut out, |group, step| {
                if group.members.len() > step.config.max_size {
                    group.prepare_rebalance(step);
                }
            });
        }
        self.arm_expiry(
            now,
            self.config.offsets_retention_check_interval_ms,
            &mut out,
        );
        out
    }

    fn handle(&mut self, now: Millis, id: ReplyId, command: Command) -> Outcome<Self> {
        let mut out = Outcome::nothing();
        let reply = match command {
            Command::JoinGroup(join) => {
                self.join(now, id, join, &mut out);
                None
            }
            Command::SyncGroup(sync) => self.sync(now, id, sync, &mut out),
            Command::Heartbeat { caller } => Some(self.heartbeat(now, &caller, &mut out)),
            Command::LeaveGroup { group, members } => {
                Some(self.leave(now, &group, members, &mut out))
            }
            Command::OffsetCommit(commit) => Some(self.commit(now, commit, &mut out)),
            Command::OffsetFetch { group, topics } => Some(self.fetch(&group, topics)),
            Command::DescribeGroup { group } => Some(self.describe(&group)),
            Command::ListGroups { states, types } => {
                Some(self.list(states.as_deref(), types.as_deref()))
            }
            Command::Summary { offsets } => Some(self.summary(offsets)),
            Command::DeleteGroup { group } => Some(self.delete(&group, &mut out)),
            Command::OffsetDelete { group, topics } => {
                Some(self.delete_offsets(&group, topics, &mut out))
            }
            Command::TopicsDeleted { topics } => {
                let topics: BTreeSet<String> = topics.into_iter().collect();
                Some(self.forget_topics(|topic| topics.contains(topic), &mut out))
            }
            Command::TopicsKept { topics } => {
                Some(self.forget_topics(|topic| !topics.contains(topic), &mut out))
            }
            Command::Configure(config) => {
                self.config = *config;
                Some(Reply::Done)
            }
        };
        out.replies.extend(reply.map(|reply| (id, reply)));
        out
    }

    fn expire(&mut self, now: Millis, timer: Timer) -> Outcome<Self> {
        let mut out = Outcome::nothing();
        match timer {
            Timer::Session { group, member } => {
                self.act(now, &group, &mut out, |group, step| {
                    group.expire_session(&member, step);
                });
            }
            Timer::Given { group } => {
                self.act(now, &group, &mut out, |group, step| {
                    group.expire_given(step);
                });
            }
            Timer::Join { group } => {
                self.act(now, &group, &mut out, |group, step| group.expire_join(step));
            }
            Timer::Sync { group } => {
                self.act(now, &group, &mut out, |group, step| group.expire_sync(step));
            }
            Timer::OffsetExpiry => self.expire_offsets(now, &mut out),
        }
        out
    }

    fn replay(&mut self, record: &GroupRecord) {
        let id = record.group().clone();
        self.bring_in(&id);
        let group = self.groups.entry(id.clone()).or_default();
        let mut used = Millis::MIN;
        match record {
            GroupRecord::OffsetCommit {
                topic,
                partition,
                value,
                ..
            } => group.offsets.apply(topic, *partition, value.as_ref()),
            GroupRecord::GroupMetadata { value, .. } => {
                if let Some(value) = value {
                    used = value.current_state_timestamp;
                }
                group.metadata = value.clone();
            }
        }
        self.settle(&id, used);
    }
}

impl GroupMachine {
    /// A shard without groups, to replay the log into.
    pub fn new(config: GroupConfig) -> Self {
        Self {
            config,
            groups: BTreeMap::new(),
            newcomers: Newcomers::default(),
            idle: BTreeSet::new(),
        }
    }

    /// How many groups there are.
    pub fn group_count(&self) -> usize {
        self.groups.len() + self.newcomers.len()
    }

    fn join(&mut self, now: Millis, id: ReplyId, join: JoinGroup, out: &mut Outcome<Self>) {
        let config = &self.config;
        let session = join.session_timeout_ms;
        let checked = if join.group.is_empty() || join.group.len() > MAX_STRING {
            Err(GroupError::InvalidGroupId)
        } else if session < config.min_session_timeout_ms || session > config.max_session_timeout_ms
        {
            Err(GroupError::InvalidSessionTimeout)
        } else if !has_sane_strings(&join) {
            Err(GroupError::InvalidRequest(
                "A string of the member is too long.",
            ))
        } else if protocol_bytes(&join.protocols) > config.member_metadata_max_bytes {
            Err(GroupError::InvalidRequest(
                "The member's metadata is too large.",
            ))
        } else if self.exists(&join.group) {
            Ok(())
        } else if !join.member_id.is_empty() {
            Err(GroupError::UnknownMemberId)
        } else {
            self.make_room(out)
        };
        if let Err(error) = checked {
            let member_id = join.member_id;
            return out
                .replies
                .push((id, Reply::JoinFailed { member_id, error }));
        }
        let group: Arc<str> = join.group.as_str().into();
        self.groups.entry(group.clone()).or_default();
        self.act(now, &group, out, |group, step| group.join(id, join, step));
    }

    fn sync(
        &mut self,
        now: Millis,
        id: ReplyId,
        sync: SyncGroup,
        out: &mut Outcome<Self>,
    ) -> Option<Reply> {
        let group = match self.known(&sync.caller.group) {
            Ok(group) => group,
            Err(error) => return Some(Reply::Failed(error)),
        };
        self.act(now, &group, out, |group, step| group.sync(id, sync, step));
        None
    }

    fn heartbeat(&mut self, now: Millis, caller: &Caller, out: &mut Outcome<Self>) -> Reply {
        let known = self.known(&caller.group);
        let beat = known.and_then(|group| {
            self.act(now, &group, out, |group, step| {
                group.heartbeat(caller, step)
            })
            .unwrap_or(Err(GroupError::UnknownMemberId))
        });
        done(beat)
    }

    fn leave(
        &mut self,
        now: Millis,
        group: &str,
        members: Vec<LeavingMember>,
        out: &mut Outcome<Self>,
    ) -> Reply {
        let count = members.len();
        match self.known(group) {
            Err(GroupError::UnknownMemberId) => {
                Reply::Left(vec![Err(GroupError::UnknownMemberId); count])
            }
            Err(error) => Reply::Failed(error),
            Ok(group) => {
                let left = self.act(now, &group, out, |group, step| group.leave(members, step));
                Reply::Left(left.unwrap_or_default())
            }
        }
    }

    fn commit(&mut self, now: Millis, commit: OffsetCommit, out: &mut Outcome<Self>) -> Reply {
        let id = commit.caller.group.as_str();
        if id.len() > MAX_STRING {
            return Reply::Failed(GroupError::InvalidGroupId);
        }
        let id: Arc<str> = id.into();
        let allowed = if self.exists(&id) {
            self.act(now, &id, out, |group, step| {
                group.commit(&commit.caller, step)
            })
            .unwrap_or(Err(GroupError::UnknownMemberId))
        } else if commit.caller.generation < 0 {
            self.make_room(out)
        } else {
            Err(GroupError::GroupIdNotFound)
        };
        if let Err(error) = allowed {
            return Reply::Failed(error);
        }
        let (records, results) = offsets::commit(&id, commit, now, &self.config);
        out.records.extend(records);
        Reply::Committed(results)
    }

    /// The group of a request that only a member can make.
    fn known(&self, id: &str) -> Result<Arc<str>, GroupError> {
        if id.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        self.id(id).ok_or(GroupError::UnknownMemberId)
    }

    /// Lets a group's state machine act; nothing if there is no such group.
    fn act<T>(
        &mut self,
        now: Millis,
        id: &Arc<str>,
        out: &mut Outcome<Self>,
        act: impl FnOnce(&mut ClassicGroup, &mut Step<'_>) -> T,
    ) -> Option<T> {
        self.bring_in(id);
        let group = self.groups.get_mut(id)?;
        let config = &self.config;
        let mut step = Step { now, config, out };
        let mut live = match std::mem::take(&mut group.soft) {
            Soft::Live(live) => live,
            Soft::Quiet(given) => {
                let record = group.metadata.as_deref();
                Box::new(ClassicGroup::restore(id, record, given, &mut step))
            }
        };
        let result = act(&mut live, &mut step);
        group.soft = if live.is_empty() {
            Soft::Quiet(live.into_given(&mut step))
        } else {
            Soft::Live(live)
        };
        self.settle(id, now);
        Some(result)
    }

    fn arm_expiry(&self, now: Millis, in_ms: Millis, out: &mut Outcome<Self>) {
        out.timers.push(TimerChange::Arm {
            timer: Timer::OffsetExpiry,
            at: now.saturating_add(in_ms.max(1)),
        });
    }
}

impl Group {
    fn live(&self) -> Option<&ClassicGroup> {
        match &self.soft {
            Soft::Live(live) => Some(live),
            Soft::Quiet(_) => None,
        }
    }
}

/// Whether records can carry the strings.
fn has_sane_strings(join: &JoinGroup) -> bool {
    let names = join.protocols.iter().map(|(name, _)| name);
    let mut strings = names.chain([
        &join.member_id,
        &join.fresh_member_id,
        &join.protocol_type,
        &join.client_id,
        &join.client_host,
    ]);
    strings.all(|string| string.len() <= MAX_STRING)
        && join
            .group_instance_id
            .as_ref()
            .is_none_or(|id| id.len() <= MAX_STRING)
}

fn done(result: Result<(), GroupError>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed(error),
    }
}

#[cfg(test)]
mod commit_tests;
#[cfg(test)]
mod room_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
