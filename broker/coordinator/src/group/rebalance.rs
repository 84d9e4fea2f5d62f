//! How a classic group gets from state to state: the initial delay, the join phase, the sync barrier, and what
//! happens when a timer runs out. See the table in `classic.rs`.

use std::sync::Arc;

use bytes::Bytes;

use super::classic::{ClassicGroup, InitialRebalance};
use super::command::GroupState;
use super::reply::{GroupError, Joined, JoinedMember, Reply};
use super::step::{Step, Timer};

impl ClassicGroup {
    pub(super) fn enter(&mut self, state: GroupState, step: &Step<'_>) {
        self.state = state;
        self.state_since = step.now;
    }

    /// Something about the members has changed: rebalance, or go on with the rebalance there is.
    pub(super) fn rebalance_or_complete(&mut self, step: &mut Step<'_>) {
        match self.state {
            GroupState::PreparingRebalance => self.complete_join_if_all_joined(step),
            _ => self.prepare_rebalance(step),
        }
    }

    /// The end of the join phase, if nobody is missing. The initial rebalance always takes its time.
    pub(super) fn complete_join_if_all_joined(&mut self, step: &mut Step<'_>) {
        if self.initial.is_none() && self.members.all_joined() {
            self.complete_join(step);
        }
    }

    pub(super) fn prepare_rebalance(&mut self, step: &mut Step<'_>) {
        if self.state == GroupState::CompletingRebalance {
            self.abandon_assignment(step);
        }
        self.pending_sync.clear();
        step.cancel(self.sync_timer());
        let is_initial = self.state == GroupState::Empty;
        self.enter(GroupState::PreparingRebalance, step);
        if is_initial {
            // As Kafka's InitialDelayedJoin: the first of a group of starting clients waits for the others.
            let delay_ms = step.config.initial_rebalance_delay_ms.max(0);
            let remaining_ms = (self.members.rebalance_timeout_ms() - delay_ms).max(0);
            self.initial = Some(InitialRebalance {
                remaining_ms,
                delay_ms,
                member_added: false,
            });
            step.arm(self.join_timer(), delay_ms);
        } else if self.members.all_joined() {
            self.complete_join(step);
        } else {
            step.arm(self.join_timer(), self.members.rebalance_timeout_ms());
        }
    }

    /// Whoever waits for an assignment has to join again.
    fn abandon_assignment(&mut self, step: &mut Step<'_>) {
        for id in self.members.ids() {
            self.members.set_assignment(&id, Bytes::new());
            if let Some(reply) = self.members.take_sync(&id) {
                step.answer(reply, Reply::Failed(GroupError::RebalanceInProgress));
                self.arm_session(&id, step);
            }
        }
    }

    /// The next generation, of those that have joined. Static members may be late; dynamic ones are out.
    pub(super) fn complete_join(&mut self, step: &mut Step<'_>) {
        step.cancel(self.join_timer());
        for id in self.members.ids() {
            let is_out = self
                .members
                .get(&id)
                .is_some_and(|member| !member.is_joining() && member.instance_id.is_none());
            if is_out {
                self.remove_member(&id, step);
            }
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only static members, and none is back: their sessions decide.
            step.arm(self.join_timer(), self.members.rebalance_timeout_ms());
            return;
        }
        self.initial = None;
        self.generation = self.generation.checked_add(1).unwrap_or(0);
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.enter(GroupState::Empty, step);
            return step.write(self.record());
        }
        self.protocol = self.members.select_protocol();
        self.enter(GroupState::CompletingRebalance, step);
        for id in self.members.ids() {
            self.pending_sync.insert(id.clone());
            self.members.set_known(&id);
            if let Some(reply) = self.members.take_join(&id) {
                let is_leader = self.leader.as_ref() == Some(&id);
                let joined = self.joined(&id, is_leader);
                step.answer(reply, joined);
            }
            self.arm_session(&id, step);
        }
        step.arm(self.sync_timer(), self.members.rebalance_timeout_ms());
    }

    /// Keeps the leader if it has joined, else takes the first member that has. False if none has.
    fn elect_joined_leader(&mut self) -> bool {
        let has_joined = |id: &Arc<str>| {
            let member = self.members.get(id);
            member.is_some_and(|member| member.is_joining())
        };
        if self.leader.as_ref().is_some_and(has_joined) {
            return true;
        }
        let mut members = self.members.iter();
        let joined = members.find(|(_, member)| member.is_joining());
        let Some(leader) = joined.map(|(id, _)| id.clone()) else {
            return false;
        };
        self.leader = Some(leader);
        true
    }

    /// Takes a member out. What it has parked is answered so that a client still alive joins anew.
    pub(super) fn remove_member(&mut self, id: &str, step: &mut Step<'_>) {
        let Some((_, join, sync)) = self.members.remove(id) else {
            return;
        };
        step.cancel(self.session_timer(id));
        if let Some(reply) = join {
            step.refuse_join(reply, "", GroupError::UnknownMemberId);
        }
        if let Some(reply) = sync {
            step.answer(reply, Reply::Failed(GroupError::UnknownMemberId));
        }
        self.pending_sync.remove(id);
        if self.leader.as_deref() == Some(id) {
            let mut members = self.members.iter();
            self.leader = members.next().map(|(id, _)| id.clone());
        }
    }

    /// A member has asked for its assignment.
    pub(super) fn has_synced(&mut self, id: &str, step: &mut Step<'_>) {
        if self.pending_sync.remove(id) && self.pending_sync.is_empty() {
            step.cancel(self.sync_timer());
        }
    }

    /// A session timer ran out.
    pub(super) fn expire_session(&mut self, id: &str, step: &mut Step<'_>) {
        let Some(member) = self.members.get(id) else {
            return;
        };
        // Whoever waits for the group cannot heartbeat; its timer is armed again with the answer.
        let is_waiting = member.is_joining() || member.sync.is_some();
        if is_waiting && !member.is_new {
            return;
        }
        self.remove_member(id, step);
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(step),
            GroupState::PreparingRebalance if self.members.all_joined() => self.complete_join(step),
            GroupState::PreparingRebalance | GroupState::Empty | GroupState::Dead => {}
        }
    }

    /// The join timer ran out.
    pub(super) fn expire_join(&mut self, step: &mut Step<'_>) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        let timer = self.join_timer();
        if let Some(initial) = &mut self.initial
            && initial.member_added
            && initial.remaining_ms > 0
        {
            initial.member_added = false;
            let next = step
                .config
                .initial_rebalance_delay_ms
                .min(initial.remaining_ms);
            initial.remaining_ms = (initial.remaining_ms - initial.delay_ms).max(0);
            initial.delay_ms = next.max(0);
            return step.arm(timer, initial.delay_ms);
        }
        self.complete_join(step);
    }

    /// The sync timer ran out: whoever has not asked for its assignment is out.
    pub(super) fn expire_sync(&mut self, step: &mut Step<'_>) {
        let is_due = matches!(
            self.state,
            GroupState::CompletingRebalance | GroupState::Stable
        );
        if !is_due || self.pending_sync.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_sync) {
            self.remove_member(&id, step);
        }
        self.prepare_rebalance(step);
    }

    /// The answer to a join of this generation.
    pub(super) fn joined(&self, id: &str, with_members: bool) -> Reply {
        Reply::Joined(self.joined_parts(id, with_members))
    }

    pub(super) fn joined_parts(&self, id: &str, with_members: bool) -> Joined {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.iter().filter(|_| with_members);
        let members = members.map(|(id, member)| JoinedMember {
            member_id: id.to_string(),
            group_instance_id: member.instance_id.as_deref().map(str::to_owned),
            metadata: member.metadata(protocol).cloned().unwrap_or_default(),
        });
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol_name: protocol.to_owned(),
            leader: self.leader.as_deref().unwrap_or_default().to_owned(),
            skip_assignment: false,
            member_id: id.to_owned(),
            members: members.collect(),
        }
    }

    /// The answer to a sync of this generation.
    pub(super) fn synced(&self, id: &str) -> Reply {
        let member = self.members.get(id);
        Reply::Synced {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol_name: self.protocol.clone().unwrap_or_default(),
            assignment: member
                .map(|member| member.assignment.clone())
                .unwrap_or_default(),
        }
    }

    pub(super) fn join_timer(&self) -> Timer {
        Timer::Join {
            group: self.id.clone(),
        }
    }

    pub(super) fn sync_timer(&self) -> Timer {
        Timer::Sync {
            group: self.id.clone(),
        }
    }
}
