//! How a classic group takes a JoinGroup: who is let in, who is sent back with an id, who takes over a static
//! member's place. Called by the group machine; see the table in `classic.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::classic::ClassicGroup;
use super::command::{GroupState, JoinGroup};
use super::members::{Member, protocol_bytes};
use super::reply::{GroupError, Reply};
use super::step::Step;
use crate::machine::ReplyId;

/// As long a new member's join may be parked: it cannot heartbeat, and an abandoned one must not hold up the
/// group for ever. Kafka's `group.new.member.join.timeout.ms`.
const NEW_MEMBER_JOIN_TIMEOUT_MS: i32 = 5 * 60 * 1000;

impl ClassicGroup {
    pub(super) fn join(&mut self, reply: ReplyId, mut join: JoinGroup, step: &mut Step<'_>) {
        dedupe(&mut join.protocols);
        if let Err(error) = self.admit(&join, step) {
            // Kafka forgets a member it turns away, which only matters for one that is not in yet.
            if error == GroupError::GroupMaxSizeReached
                && self.members.given.remove(&join.member_id, step.now)
                && self.state == GroupState::PreparingRebalance
            {
                self.complete_join_if_all_joined(step);
            }
            return step.refuse_join(reply, &join.member_id, error);
        }
        let static_member = join.group_instance_id.as_deref();
        let static_member = static_member.and_then(|id| self.members.static_member(id).cloned());
        if !join.member_id.is_empty() {
            return self.rejoin(reply, join, step);
        }
        if let Some(old_id) = static_member {
            return self.replace_static_member(reply, join, &old_id, step);
        }
        if join.group_instance_id.is_none() && join.require_known_member_id {
            let id = join.fresh_member_id.as_str();
            let until = step.now.saturating_add(join.session_timeout_ms.into());
            self.members.given.insert(id, until);
            self.watch_given(step.now, step);
            return step.refuse_join(reply, id, GroupError::MemberIdRequired);
        }
        let id = join.fresh_member_id.as_str().into();
        self.add_member(reply, join, id, step);
    }

    /// Whether the group has room for the member and a protocol in common with it.
    fn admit(&self, join: &JoinGroup, step: &Step<'_>) -> Result<(), GroupError> {
        let known = self.members.get(&join.member_id);
        // A static member that comes back needs no new place; Kafka turns it away from a full group.
        let takes_over = join.member_id.is_empty()
            && join
                .group_instance_id
                .as_deref()
                .is_some_and(|id| self.members.static_member(id).is_some());
        let has_room = match self.state {
            GroupState::Empty | GroupState::Dead => true,
            // Counting parked joins, a limit that was lowered turns away whoever rejoins last.
            GroupState::PreparingRebalance => {
                known.is_some_and(Member::is_joining)
                    || self.members.joining() < step.config.max_size
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                known.is_some() || takes_over || self.members.len() < step.config.max_size
            }
        };
        let held = known.map_or(0, |member| protocol_bytes(&member.protocols));
        let bytes = self.members.bytes() - held
            + protocol_bytes(&join.protocols)
            + join.fresh_member_id.len();
        if !has_room || bytes > step.config.group_max_bytes {
            return Err(GroupError::GroupMaxSizeReached);
        }
        let names = || join.protocols.iter().map(|(name, _)| name);
        let in_common = if self.state == GroupState::Empty {
            !join.protocol_type.is_empty() && !join.protocols.is_empty()
        } else {
            self.protocol_type.as_ref() == Some(&join.protocol_type)
                && names().any(|name| self.members.all_support(name))
        };
        if !in_common {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// A join with a member id.
    fn rejoin(&mut self, reply: ReplyId, join: JoinGroup, step: &mut Step<'_>) {
        if self.members.given.contains(&join.member_id, step.now) {
            if join.group_instance_id.is_some() {
                // It was given to a client without instance id.
                return step.refuse_join(reply, &join.member_id, GroupError::UnknownMemberId);
            }
            self.members.given.remove(&join.member_id, step.now);
            let id = join.member_id.as_str().into();
            return self.add_member(reply, join, id, step);
        }
        if let Err(error) = self.validate(&join.member_id, join.group_instance_id.as_deref()) {
            return step.refuse_join(reply, &join.member_id, error);
        }
        let member = self.members.get(&join.member_id);
        let unchanged = member.is_some_and(|member| member.protocols == join.protocols);
        let is_leader = self.leader.as_deref() == Some(join.member_id.as_str());
        match self.state {
            // The first answer may have been lost: say it again.
            GroupState::CompletingRebalance if unchanged => {
                let joined = self.joined(&join.member_id, is_leader);
                step.answer(reply, joined);
            }
            // A leader rejoins when what it assigns has changed, a topic's partitions for instance.
            GroupState::Stable if unchanged && !is_leader => {
                let joined = self.joined(&join.member_id, false);
                step.answer(reply, joined);
            }
            GroupState::PreparingRebalance
            | GroupState::CompletingRebalance
            | GroupState::Stable => self.update_member(reply, join, step),
            GroupState::Empty | GroupState::Dead => {
                step.refuse_join(reply, &join.member_id, GroupError::UnknownMemberId);
            }
        }
    }

    fn add_member(&mut self, reply: ReplyId, join: JoinGroup, id: Arc<str>, step: &mut Step<'_>) {
        let member = Member::new(
            join.group_instance_id.as_deref().map(Arc::from),
            (join.client_id, join.client_host),
            (join.session_timeout_ms, join.rebalance_timeout_ms),
            copied(join.protocols),
        );
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type);
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.members.add(id.clone(), member);
        self.members.park_join(&id, reply);
        if let Some(initial) = &mut self.initial {
            initial.member_added = true;
        }
        step.arm(self.session_timer(&id), NEW_MEMBER_JOIN_TIMEOUT_MS);
        self.rebalance_or_complete(step);
    }

    fn update_member(&mut self, reply: ReplyId, join: JoinGroup, step: &mut Step<'_>) {
        let timeouts = (join.session_timeout_ms, join.rebalance_timeout_ms);
        self.members
            .set_protocols(&join.member_id, copied(join.protocols), timeouts);
        if let Some(superseded) = self.members.park_join(&join.member_id, reply) {
            step.refuse_join(superseded, &join.member_id, GroupError::RebalanceInProgress);
        }
        self.rebalance_or_complete(step);
    }

    /// A client comes back with a known instance id but without member id: it takes the place of the old member,
    /// which is fenced from now on. In a Stable group whose protocol stays selected nothing else changes (KIP-345).
    fn replace_static_member(
        &mut self,
        reply: ReplyId,
        join: JoinGroup,
        old_id: &Arc<str>,
        step: &mut Step<'_>,
    ) {
        let id: Arc<str> = join.fresh_member_id.as_str().into();
        let Some((old, old_join, old_sync)) = self.members.remove(old_id) else {
            return step.refuse_join(reply, "", GroupError::UnknownMemberId);
        };
        step.cancel(self.session_timer(old_id));
        if let Some(fenced) = old_join {
            step.refuse_join(fenced, old_id, GroupError::FencedInstanceId);
        }
        if let Some(fenced) = old_sync {
            step.answer(fenced, Reply::Failed(GroupError::FencedInstanceId));
        }
        let mut member = Member::new(
            old.instance_id,
            (join.client_id, join.client_host),
            (join.session_timeout_ms, join.rebalance_timeout_ms),
            copied(join.protocols),
        );
        member.assignment = old.assignment;
        member.is_new = false;
        self.members.add(id.clone(), member);
        if self.pending_sync.remove(old_id) {
            self.pending_sync.insert(id.clone());
        }
        let was_leader = self.leader.as_ref() == Some(old_id);
        if was_leader {
            self.leader = Some(id.clone());
        }
        self.arm_session(&id, step);
        if self.state == GroupState::Stable && self.members.select_protocol() == self.protocol {
            step.write(self.record());
            let mut joined = self.joined_parts(&id, was_leader && join.supports_skip_assignment);
            joined.skip_assignment = was_leader && join.supports_skip_assignment;
            if was_leader && !join.supports_skip_assignment {
                // It must not take itself for the leader and assign anew; Kafka answers the old id, too.
                joined.leader = old_id.to_string();
            }
            return step.answer(reply, Reply::Joined(joined));
        }
        self.members.park_join(&id, reply);
        self.rebalance_or_complete(step);
    }
}

/// The first of each name counts.
fn dedupe(protocols: &mut Vec<(String, Bytes)>) {
    let mut seen = BTreeSet::new();
    protocols.retain(|(name, _)| seen.insert(name.clone()));
}

/// A request's bytes are slices of its frame, which must not live as long as the member does.
fn copied(protocols: Vec<(String, Bytes)>) -> Vec<(String, Bytes)> {
    let copy = |(name, metadata): (String, Bytes)| (name, Bytes::copy_from_slice(&metadata));
    protocols.into_iter().map(copy).collect()
}
