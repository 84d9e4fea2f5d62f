//! The group shard's commands that ask about groups or take them apart: describe, list, summary, fetch, delete,
//! topic deletion and expiry. None of them changes a group's members.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::command::{GroupState, GroupType, TopicPartitions};
use super::offsets::Retention;
use super::reply::{DescribedGroup, DescribedMember, GroupError, GroupSummary, ListedGroup, Reply};
use super::{Group, GroupMachine, MAX_EXPIRED_PER_TICK, Soft, subscription};
use crate::group_record::GroupMetadataValue;
use crate::machine::{Millis, Outcome};

impl GroupMachine {
    pub(super) fn fetch(&self, group: &str, topics: Option<Vec<TopicPartitions>>) -> Reply {
        // A group that does not exist has no offsets, which is not an error.
        let nothing = Group::default();
        let group = self.groups.get(group).unwrap_or(&nothing);
        Reply::Fetched(group.offsets.fetch(topics))
    }

    pub(super) fn describe(&self, group: &str) -> Reply {
        match self.group(group) {
            Some(group) => Reply::Described(group.describe()),
            None => Reply::Failed(GroupError::GroupIdNotFound),
        }
    }

    pub(super) fn list(&self, states: Option<&[GroupState]>, types: Option<&[GroupType]>) -> Reply {
        let is_wanted = |group: &Group| {
            states.is_none_or(|states| states.contains(&group.state()))
                && types.is_none_or(|types| types.contains(&GroupType::Classic))
        };
        let wanted = self.all().filter(|(_, group)| is_wanted(group));
        let listed = wanted.map(|(id, group)| ListedGroup {
            group: id,
            protocol_type: group.protocol_type().unwrap_or_default().to_owned(),
            state: group.state(),
            group_type: GroupType::Classic,
        });
        Reply::Listed(listed.collect())
    }

    pub(super) fn summary(&self, offsets: bool) -> Reply {
        let summaries = self.all().map(|(id, group)| GroupSummary {
            group: id,
            group_type: GroupType::Classic,
            protocol_type: group.protocol_type().unwrap_or_default().to_owned(),
            state: group.state(),
            members: group.member_count(),
            offset_count: group.offsets.count(),
            offsets: if offsets {
                group.offsets.summary()
            } else {
                Vec::new()
            },
        });
        Reply::Summary(summaries.collect())
    }

    pub(super) fn delete(&mut self, group: &str, out: &mut Outcome<Self>) -> Reply {
        let (Some(id), Some(group)) = (self.id(group), self.group(group)) else {
            return Reply::Failed(GroupError::GroupIdNotFound);
        };
        if group.state() != GroupState::Empty {
            return Reply::Failed(GroupError::NonEmptyGroup);
        }
        out.records.extend(group.offsets.forget_all(&id));
        self.forget_group(&id, out);
        Reply::Done
    }

    pub(super) fn delete_offsets(
        &mut self,
        group: &str,
        topics: Vec<TopicPartitions>,
        out: &mut Outcome<Self>,
    ) -> Reply {
        if group.is_empty() {
            return Reply::Failed(GroupError::InvalidGroupId);
        }
        let (Some(id), Some(group)) = (self.id(group), self.group(group)) else {
            return Reply::Failed(GroupError::GroupIdNotFound);
        };
        if group.state() != GroupState::Empty && !group.is_consumer() {
            // Nobody can tell what the members of another protocol read.
            return Reply::Failed(GroupError::NonEmptyGroup);
        }
        let subscription = group.subscription();
        let is_subscribed = |topic: &str| subscription.contains(topic);
        let (records, results) = group.offsets.delete(&id, topics, is_subscribed);
        out.records.extend(records);
        Reply::OffsetsDeleted(results)
    }

    pub(super) fn forget_topics(
        &mut self,
        is_gone: impl Fn(&str) -> bool,
        out: &mut Outcome<Self>,
    ) -> Reply {
        for (id, group) in &self.groups {
            out.records
                .extend(group.offsets.forget_topics(id, &is_gone));
        }
        Reply::Done
    }

    /// Forgets expired offsets, and empty groups of which nothing is left.
    pub(super) fn expire_offsets(&mut self, now: Millis, out: &mut Outcome<Self>) {
        self.newcomers.expire(now);
        let mut forgotten: Vec<Arc<str>> = Vec::new();
        let mut is_complete = true;
        for (id, group) in &mut self.groups {
            if out.records.len() + forgotten.len() >= MAX_EXPIRED_PER_TICK {
                is_complete = false;
                break;
            }
            let subscription = group.subscription();
            let (records, all) = group.offsets.expire(
                id,
                now,
                self.config.offsets_retention_ms,
                group.retention(),
                |topic| subscription.contains(topic),
            );
            out.records.extend(records);
            drop(subscription);
            // With an id given out, a member may be about to join.
            if let Soft::Quiet(given) = &mut group.soft {
                given.expire(now);
                if all && given.is_empty() && group.state() == GroupState::Empty {
                    forgotten.push(id.clone());
                }
            }
        }
        for id in forgotten {
            self.forget_group(&id, out);
        }
        let interval_ms = self.config.offsets_retention_check_interval_ms;
        self.arm_expiry(now, if is_complete { interval_ms } else { 1 }, out);
    }
}

/// The topics that the members of a group read.
enum Subscription<'a> {
    None,
    Topics(BTreeSet<&'a str>),
    /// Not yet known, or not understood: any of them might be read.
    Unknown,
}

impl Subscription<'_> {
    fn contains(&self, topic: &str) -> bool {
        match self {
            Self::None => false,
            Self::Topics(topics) => topics.contains(topic),
            Self::Unknown => true,
        }
    }
}

impl Group {
    pub(super) fn state(&self) -> GroupState {
        let has_members = |metadata: &Arc<GroupMetadataValue>| !metadata.members.is_empty();
        match self.live() {
            Some(live) => live.state,
            None if self.metadata.as_ref().is_some_and(has_members) => GroupState::Stable,
            None => GroupState::Empty,
        }
    }

    fn member_count(&self) -> usize {
        match (self.live(), &self.metadata) {
            (Some(live), _) => live.members.len(),
            (None, Some(metadata)) => metadata.members.len(),
            (None, None) => 0,
        }
    }

    fn protocol_type(&self) -> Option<&str> {
        let live = self.live();
        let hard = self.metadata.as_ref();
        let live = live.map(|live| live.protocol_type.as_deref());
        live.unwrap_or_else(|| hard.map(|metadata| metadata.protocol_type.as_str()))
            .filter(|name| !name.is_empty())
    }

    fn is_consumer(&self) -> bool {
        self.protocol_type() == Some(subscription::CONSUMER)
    }

    /// As Kafka's `ClassicGroup.isSubscribedToTopic`: only consumers' metadata can be read.
    fn subscription(&self) -> Subscription<'_> {
        let Some(live) = self.live().filter(|live| !live.members.is_empty()) else {
            return Subscription::None;
        };
        if !self.is_consumer() {
            return Subscription::None;
        }
        let Some(protocol) = live.protocol.as_deref() else {
            return Subscription::Unknown;
        };
        let mut topics = BTreeSet::new();
        for (_, member) in live.members.iter() {
            let metadata = member.metadata(protocol);
            match metadata.map(|metadata| subscription::topics(metadata)) {
                Some(Ok(names)) => topics.extend(names),
                Some(Err(_)) | None => return Subscription::Unknown,
            }
        }
        Subscription::Topics(topics)
    }

    /// As Kafka's `ClassicGroup.offsetExpirationCondition`.
    fn retention(&self) -> Retention {
        if self.protocol_type().is_none() {
            return Retention::SinceCommit;
        }
        match self.state() {
            GroupState::Empty => match self.metadata.as_ref().map(|m| m.current_state_timestamp) {
                Some(since) if since >= 0 => Retention::Since(since),
                _ => Retention::SinceCommit,
            },
            GroupState::Stable if self.is_consumer() => match self.subscription() {
                Subscription::Topics(_) => Retention::SinceCommit,
                Subscription::None | Subscription::Unknown => Retention::Keep,
            },
            _ => Retention::Keep,
        }
    }

    fn describe(&self) -> DescribedGroup {
        let state = self.state();
        let protocol_type = self.protocol_type().unwrap_or_default().to_owned();
        let mut described = DescribedGroup {
            state,
            protocol_type,
            protocol: String::new(),
            members: Vec::new(),
        };
        let Some(live) = self.live() else {
            return described;
        };
        // Outside of Stable a protocol and metadata might be those of the generation before.
        let protocol = live.protocol.as_deref();
        let protocol = protocol.filter(|_| state == GroupState::Stable);
        described.protocol = protocol.unwrap_or_default().to_owned();
        let members = live.members.iter().map(|(id, member)| DescribedMember {
            member_id: id.to_string(),
            group_instance_id: member.instance_id.as_deref().map(str::to_owned),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: protocol
                .and_then(|protocol| member.metadata(protocol).cloned())
                .unwrap_or_default(),
            assignment: member.assignment.clone(),
        });
        described.members = members.collect();
        described
    }
}
