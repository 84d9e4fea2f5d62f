//! A classic group with members: join, sync, heartbeat, leave, static members, and who may commit. Called by the
//! group machine for one group at a time; `join.rs` takes joins, `rebalance.rs` holds the ways from state to state.
//! Follows Kafka's `ClassicGroup` and the classic part of its `GroupMetadataManager`.
//!
//! All of this is soft state. Hard is only the group's last record, written when a leader's assignment arrives,
//! when the last member is gone and when a static member is replaced; a restart goes on from there, so a
//! rebalance under way is forgotten and its members find out by `IllegalGeneration` or `UnknownMemberId`.
//! Replies are released after the records of the same outcome, so no member sees an assignment that could be lost.
//!
//! | state | join, no id or new static | join, known member | sync | heartbeat | leave, session expired | commit |
//! |---|---|---|---|---|---|---|
//! | Empty | to Preparing (initial delay) | UnknownMemberId | UnknownMemberId | UnknownMemberId | UnknownMemberId | without member: yes; else UnknownMemberId |
//! | PreparingRebalance | parked | parked | RebalanceInProgress | RebalanceInProgress | may complete the join phase | yes, own generation |
//! | CompletingRebalance | to Preparing, parked | same metadata: the generation; else to Preparing | parked; the leader's: record, all answered, to Stable | ok | to Preparing | RebalanceInProgress |
//! | Stable | to Preparing, parked; a known static one takes over without rebalance | leader or changed: to Preparing; else the generation | its assignment | ok | to Preparing | yes, own generation |
//!
//! Before the table: a dynamic client without id gets MemberIdRequired with an id (KIP-394), which counts as
//! not yet rejoined until its session timeout; an unknown id is UnknownMemberId, an instance id that belongs to
//! another member FencedInstanceId, another generation IllegalGeneration, no protocol in common
//! InconsistentGroupProtocol, a full group GroupMaxSizeReached. A group that does not exist is Dead: every id is
//! unknown to it. Parked requests that another one of the same member supersedes get RebalanceInProgress.
//!
//! Invariants: every member without a parked request has a session timer; in PreparingRebalance the join timer is
//! armed; while syncs are missing after a join phase the sync timer is armed; while ids are given out theirs is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::command::{Caller, GroupState, LeavingMember, SyncGroup};
use super::given::Given;
use super::members::{Member, Members};
use super::reply::{GroupError, Reply};
use super::step::{Step, Timer};
use crate::group_record::{GroupMetadataValue, GroupRecord, MemberMetadata};
use crate::machine::{Millis, ReplyId};

/// Ids that were given out are looked through no more often than this.
const GIVEN_CHECK_MS: Millis = 1_000;

/// How far the initial rebalance, with its delay, has come.
#[derive(Debug)]
pub(super) struct InitialRebalance {
    /// How long the group may still be held open.
    pub(super) remaining_ms: i32,
    /// The delay the join timer is armed with.
    pub(super) delay_ms: i32,
    /// Somebody joined since the timer was armed.
    pub(super) member_added: bool,
}

/// The soft state of a group that has, or is about to have, members.
#[derive(Debug)]
pub(super) struct ClassicGroup {
    pub(super) id: Arc<str>,
    pub(super) state: GroupState,
    pub(super) state_since: Millis,
    /// In PreparingRebalance, when it came from Empty.
    pub(super) initial: Option<InitialRebalance>,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<Arc<str>>,
    pub(super) members: Members,
    /// When the timer of ids that were given out is due, if it is armed.
    given_due: Option<Millis>,
    /// Members of this generation that have not synced.
    pub(super) pending_sync: BTreeSet<Arc<str>>,
}

impl ClassicGroup {
    /// The group as its last record left it: Stable with members, else Empty. Session timers start anew. With the
    /// ids that were given out meanwhile.
    pub(super) fn restore(
        id: &Arc<str>,
        record: Option<&GroupMetadataValue>,
        given: Given,
        step: &mut Step<'_>,
    ) -> Self {
        let mut group = Self {
            id: id.clone(),
            state: GroupState::Empty,
            state_since: step.now,
            initial: None,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: Members::default(),
            given_due: None,
            pending_sync: BTreeSet::new(),
        };
        group.members.given = given;
        group.watch_given(step.now, step);
        let Some(record) = record else {
            return group;
        };
        group.generation = record.generation;
        group.state_since = record.current_state_timestamp;
        group.protocol_type = Some(record.protocol_type.clone()).filter(|name| !name.is_empty());
        group.protocol = record.protocol.clone();
        group.leader = record.leader.as_deref().map(Arc::from);
        for member in &record.members {
            group.restore_member(member, step);
        }
        if !group.members.is_empty() {
            group.state = GroupState::Stable;
        }
        group
    }

    fn restore_member(&mut self, record: &MemberMetadata, step: &mut Step<'_>) {
        let id: Arc<str> = record.member_id.as_str().into();
        let rebalance_timeout_ms = match record.rebalance_timeout {
            -1 => record.session_timeout,
            ms => ms,
        };
        let protocol = self.protocol.clone().unwrap_or_default();
        let mut member = Member::new(
            record.group_instance_id.as_deref().map(Arc::from),
            (record.client_id.clone(), record.client_host.clone()),
            (record.session_timeout, rebalance_timeout_ms),
            vec![(protocol, record.subscription.clone())],
        );
        member.assignment = record.assignment.clone();
        member.is_new = false;
        self.members.add(id.clone(), member);
        self.arm_session(&id, step);
    }

    /// The record that makes the present state hard.
    pub(super) fn record(&self) -> GroupRecord {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let member_metadata = |(id, member): (&Arc<str>, &Member)| MemberMetadata {
            member_id: id.to_string(),
            group_instance_id: member.instance_id.as_deref().map(str::to_owned),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout: member.rebalance_timeout_ms,
            session_timeout: member.session_timeout_ms,
            subscription: member.metadata(protocol).cloned().unwrap_or_default(),
            assignment: member.assignment.clone(),
        };
        let value = GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.as_deref().map(str::to_owned),
            current_state_timestamp: self.state_since,
            members: self.members.iter().map(member_metadata).collect(),
        };
        GroupRecord::GroupMetadata {
            group: self.id.clone(),
            value: Some(Arc::new(value)),
        }
    }

    /// Nobody is in it. Its record says all there is to say of it, beside the ids that were given out.
    pub(super) fn is_empty(&self) -> bool {
        self.state == GroupState::Empty
    }

    /// The end of a group that is empty: what is left to keep.
    pub(super) fn into_given(self: Box<Self>, step: &mut Step<'_>) -> Given {
        if self.given_due.is_some() {
            step.cancel(self.given_timer());
        }
        self.members.given
    }

    pub(super) fn sync(&mut self, reply: ReplyId, sync: SyncGroup, step: &mut Step<'_>) {
        if let Err(error) = self.validate_sync(&sync) {
            return step.answer(reply, Reply::Failed(error));
        }
        let id = sync.caller.member_id.as_str();
        match self.state {
            GroupState::Empty | GroupState::Dead => {
                step.answer(reply, Reply::Failed(GroupError::UnknownMemberId));
            }
            GroupState::PreparingRebalance => {
                step.answer(reply, Reply::Failed(GroupError::RebalanceInProgress));
            }
            GroupState::CompletingRebalance => {
                let is_leader = self.leader.as_deref() == Some(id);
                if is_leader && self.assigned_bytes(&sync) > step.config.group_max_bytes {
                    let error = GroupError::InvalidRequest("The assignment is too large.");
                    return step.answer(reply, Reply::Failed(error));
                }
                if let Some(superseded) = self.members.park_sync(id, reply) {
                    let error = GroupError::RebalanceInProgress;
                    step.answer(superseded, Reply::Failed(error));
                }
                self.has_synced(id, step);
                if is_leader {
                    self.assign(sync.assignments, step);
                }
            }
            GroupState::Stable => {
                self.has_synced(id, step);
                let synced = self.synced(id);
                step.answer(reply, synced);
            }
        }
    }

    fn validate_sync(&self, sync: &SyncGroup) -> Result<(), GroupError> {
        self.validate_generation(&sync.caller)?;
        let differs = |theirs: &Option<String>, ours: &Option<String>| {
            theirs.is_some() && ours.is_some() && theirs != ours
        };
        if differs(&sync.protocol_type, &self.protocol_type)
            || differs(&sync.protocol_name, &self.protocol)
        {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// What the group would hold with the assignment.
    fn assigned_bytes(&self, sync: &SyncGroup) -> usize {
        let new: usize = sync.assignments.iter().map(|(_, bytes)| bytes.len()).sum();
        let members = self.members.iter();
        let old: usize = members.map(|(_, member)| member.assignment.len()).sum();
        self.members.bytes() - old + new
    }

    /// The leader's assignment: a record, then everybody's answer. Whom it leaves out gets empty bytes.
    fn assign(&mut self, assignments: Vec<(String, Bytes)>, step: &mut Step<'_>) {
        let mut assignments: BTreeMap<String, Bytes> = assignments.into_iter().collect();
        for id in self.members.ids() {
            let assignment = assignments.remove(&*id).unwrap_or_default();
            self.members
                .set_assignment(&id, Bytes::copy_from_slice(&assignment));
        }
        self.enter(GroupState::Stable, step);
        step.write(self.record());
        for id in self.members.ids() {
            if let Some(reply) = self.members.take_sync(&id) {
                let synced = self.synced(&id);
                step.answer(reply, synced);
                self.arm_session(&id, step);
            }
        }
    }

    pub(super) fn heartbeat(
        &mut self,
        caller: &Caller,
        step: &mut Step<'_>,
    ) -> Result<(), GroupError> {
        self.validate_generation(caller)?;
        self.arm_session(&caller.member_id, step);
        match self.state {
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            GroupState::Empty | GroupState::Dead => Err(GroupError::UnknownMemberId),
        }
    }

    /// Takes members out, each with its own outcome, then rebalances once for all of them.
    pub(super) fn leave(
        &mut self,
        leaving: Vec<LeavingMember>,
        step: &mut Step<'_>,
    ) -> Vec<Result<(), GroupError>> {
        let outcomes: Vec<_> = leaving
            .into_iter()
            .map(|leaving| self.leave_one(&leaving, step))
            .collect();
        if outcomes.iter().any(Result::is_ok) {
            match self.state {
                GroupState::Stable | GroupState::CompletingRebalance => {
                    self.prepare_rebalance(step)
                }
                GroupState::PreparingRebalance => self.complete_join_if_all_joined(step),
                GroupState::Empty | GroupState::Dead => {}
            }
        }
        outcomes
    }

    fn leave_one(
        &mut self,
        leaving: &LeavingMember,
        step: &mut Step<'_>,
    ) -> Result<(), GroupError> {
        let instance_id = leaving.group_instance_id.as_deref();
        if leaving.member_id.is_empty() {
            // An administrator removes a static member by its instance id.
            let member = instance_id.and_then(|id| self.members.static_member(id).cloned());
            let id = member.ok_or(GroupError::UnknownMemberId)?;
            self.remove_member(&id, step);
        } else if !self.members.given.remove(&leaving.member_id, step.now) {
            self.validate(&leaving.member_id, instance_id)?;
            self.remove_member(&leaving.member_id, step);
        }
        Ok(())
    }

    /// Whether the caller may commit offsets; a sign of life if it may.
    pub(super) fn commit(
        &mut self,
        caller: &Caller,
        step: &mut Step<'_>,
    ) -> Result<(), GroupError> {
        if caller.generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        if caller.generation < 0
            && caller.member_id.is_empty()
            && caller.group_instance_id.is_none()
        {
            return Err(GroupError::UnknownMemberId);
        }
        self.validate_generation(caller)?;
        if self.state == GroupState::CompletingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        self.arm_session(&caller.member_id, step);
        Ok(())
    }

    fn validate_generation(&self, caller: &Caller) -> Result<(), GroupError> {
        self.validate(&caller.member_id, caller.group_instance_id.as_deref())?;
        if caller.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        Ok(())
    }

    /// The member exists, and an instance id is its own.
    pub(super) fn validate(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), GroupError> {
        if let Some(instance_id) = instance_id {
            let owner = self.members.static_member(instance_id);
            let owner = owner.ok_or(GroupError::UnknownMemberId)?;
            if **owner != *member_id {
                return Err(GroupError::FencedInstanceId);
            }
        }
        if !self.members.contains(member_id) {
            return Err(GroupError::UnknownMemberId);
        }
        Ok(())
    }

    /// Arms the timer of ids that were given out, if it has to ring before it would, but not before `not_before`.
    pub(super) fn watch_given(&mut self, not_before: Millis, step: &mut Step<'_>) {
        let earliest = self.members.given.earliest();
        if let Some(at) = earliest.map(|earliest| earliest.max(not_before))
            && self.given_due.is_none_or(|due| at < due)
        {
            self.given_due = Some(at);
            step.arm_at(self.given_timer(), at);
        }
    }

    fn given_timer(&self) -> Timer {
        Timer::Given {
            group: self.id.clone(),
        }
    }

    /// The timer of ids that were given out rings.
    pub(super) fn expire_given(&mut self, step: &mut Step<'_>) {
        self.given_due = None;
        let any = self.members.given.expire(step.now);
        self.watch_given(step.now.saturating_add(GIVEN_CHECK_MS), step);
        // Kafka ends an initial rebalance early here as well.
        if any && self.state == GroupState::PreparingRebalance && self.members.all_joined() {
            self.complete_join(step);
        }
    }

    pub(super) fn session_timer(&self, id: &str) -> Timer {
        Timer::Session {
            group: self.id.clone(),
            member: id.into(),
        }
    }

    /// Starts a member's session anew.
    pub(super) fn arm_session(&self, id: &str, step: &mut Step<'_>) {
        if let Some(member) = self.members.get(id) {
            step.arm(self.session_timer(id), member.session_timeout_ms);
        }
    }
}
