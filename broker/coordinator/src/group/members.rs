//! The members of one classic group and the sums that a group asks for on every request. Called by the state
//! machine only; decides nothing. Soft state: what of it must survive a restart is in the group's records.
//!
//! Invariants: `joining` counts the members with a parked join, `supporters` the members that know a protocol,
//! `bytes` everything members made the group hold; an id that was given out is never a member's id.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::given::Given;
use crate::machine::ReplyId;

/// What a member costs besides its bytes; a round number near the truth.
const ENTRY_BYTES: usize = 256;

/// A member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout_ms: i32,
    pub(super) rebalance_timeout_ms: i32,
    /// Best first; never changed but through [`Members::set_protocols`].
    pub(super) protocols: Vec<(String, Bytes)>,
    /// Empty, or what the leader of the last completed rebalance assigned.
    pub(super) assignment: Bytes,
    /// The parked JoinGroup.
    join: Option<ReplyId>,
    /// The parked SyncGroup.
    pub(super) sync: Option<ReplyId>,
    /// It has not been in a generation yet, so it cannot heartbeat while its join is parked.
    pub(super) is_new: bool,
}

impl Member {
    /// A member that knows `protocols` and has no assignment yet.
    pub(super) fn new(
        instance_id: Option<Arc<str>>,
        client: (String, String),
        timeouts: (i32, i32),
        protocols: Vec<(String, Bytes)>,
    ) -> Self {
        Self {
            instance_id,
            client_id: client.0,
            client_host: client.1,
            session_timeout_ms: timeouts.0,
            rebalance_timeout_ms: timeouts.1,
            protocols,
            assignment: Bytes::new(),
            join: None,
            sync: None,
            is_new: true,
        }
    }

    /// Its metadata for a protocol.
    pub(super) fn metadata(&self, protocol: &str) -> Option<&Bytes> {
        let known = self.protocols.iter().find(|(name, _)| name == protocol);
        known.map(|(_, metadata)| metadata)
    }

    /// Whether its join is parked.
    pub(super) fn is_joining(&self) -> bool {
        self.join.is_some()
    }

    fn bytes(&self, id: &str) -> usize {
        let instance = self.instance_id.as_ref().map_or(0, |id| id.len());
        ENTRY_BYTES
            + id.len()
            + instance
            + self.client_id.len()
            + self.client_host.len()
            + protocol_bytes(&self.protocols)
            + self.assignment.len()
    }
}

/// What protocols cost.
pub(super) fn protocol_bytes(protocols: &[(String, Bytes)]) -> usize {
    let each = protocols
        .iter()
        .map(|(name, metadata)| name.len() + metadata.len() + 64);
    each.sum()
}

/// All members of a group, and who is about to become one.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_id: BTreeMap<Arc<str>, Member>,
    by_instance: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids given to clients that have not come back with them.
    pub(super) given: Given,
    supporters: BTreeMap<String, usize>,
    joining: usize,
    bytes: usize,
}

impl Members {
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Members with a parked join.
    pub(super) fn joining(&self) -> usize {
        self.joining
    }

    /// Bytes held for clients.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.given.bytes()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Member> {
        self.by_id.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Member)> {
        self.by_id.iter()
    }

    /// Every member id, to be walked while members change.
    pub(super) fn ids(&self) -> Vec<Arc<str>> {
        self.by_id.keys().cloned().collect()
    }

    pub(super) fn static_member(&self, instance_id: &str) -> Option<&Arc<str>> {
        self.by_instance.get(instance_id)
    }

    /// Every known member has rejoined, and everyone with a fresh id has come back with it.
    pub(super) fn all_joined(&self) -> bool {
        self.joining == self.by_id.len() && self.given.is_empty()
    }

    /// The longest any member may take to rejoin.
    pub(super) fn rebalance_timeout_ms(&self) -> i32 {
        let timeouts = self
            .by_id
            .values()
            .map(|member| member.rebalance_timeout_ms);
        timeouts.max().unwrap_or(0).max(0)
    }

    /// Whether every member knows the protocol.
    pub(super) fn all_support(&self, protocol: &str) -> bool {
        self.supporters.get(protocol).copied().unwrap_or(0) == self.by_id.len()
    }

    /// The protocol with the most votes: each member's is the first of its own that all know. Ties go to the
    /// first name, so that the same members always agree on the same protocol.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.by_id.values() {
            let mut names = member.protocols.iter().map(|(name, _)| name.as_str());
            if let Some(name) = names.find(|name| self.all_support(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.values().max().copied()?;
        let winner = votes.into_iter().find(|(_, count)| *count == most);
        winner.map(|(name, _)| name.to_owned())
    }

    pub(super) fn add(&mut self, id: Arc<str>, member: Member) {
        debug_assert!(!self.contains(&id) && member.join.is_none());
        self.bytes += member.bytes(&id);
        self.support(&member.protocols);
        if let Some(instance_id) = &member.instance_id {
            self.by_instance.insert(instance_id.clone(), id.clone());
        }
        self.by_id.insert(id, member);
    }

    /// Takes a member out, with whatever it has parked: (join, sync).
    pub(super) fn remove(
        &mut self,
        id: &str,
    ) -> Option<(Member, Option<ReplyId>, Option<ReplyId>)> {
        let join = self.take_join(id);
        let mut member = self.by_id.remove(id)?;
        let sync = member.sync.take();
        self.bytes -= member.bytes(id);
        self.unsupport(&member.protocols);
        if let Some(instance_id) = &member.instance_id
            && self
                .by_instance
                .get(instance_id)
                .is_some_and(|now| **now == *id)
        {
            self.by_instance.remove(instance_id);
        }
        Some((member, join, sync))
    }

    /// Gives a member new protocols and timeouts.
    pub(super) fn set_protocols(
        &mut self,
        id: &str,
        protocols: Vec<(String, Bytes)>,
        timeouts: (i32, i32),
    ) {
        let Some(member) = self.by_id.get_mut(id) else {
            return;
        };
        self.bytes += protocol_bytes(&protocols);
        self.bytes -= protocol_bytes(&member.protocols);
        (member.session_timeout_ms, member.rebalance_timeout_ms) = timeouts;
        let old = std::mem::replace(&mut member.protocols, protocols.clone());
        self.unsupport(&old);
        self.support(&protocols);
    }

    pub(super) fn set_assignment(&mut self, id: &str, assignment: Bytes) {
        if let Some(member) = self.by_id.get_mut(id) {
            self.bytes += assignment.len();
            self.bytes -= member.assignment.len();
            member.assignment = assignment;
        }
    }

    /// Parks a join; the one parked before, if any, is handed back to be answered.
    pub(super) fn park_join(&mut self, id: &str, reply: ReplyId) -> Option<ReplyId> {
        let member = self.by_id.get_mut(id)?;
        let before = member.join.replace(reply);
        self.joining += usize::from(before.is_none());
        before
    }

    /// Unparks a join to answer it.
    pub(super) fn take_join(&mut self, id: &str) -> Option<ReplyId> {
        let join = self.by_id.get_mut(id)?.join.take();
        self.joining -= usize::from(join.is_some());
        join
    }

    /// Parks a sync; the one parked before, if any, is handed back to be answered.
    pub(super) fn park_sync(&mut self, id: &str, reply: ReplyId) -> Option<ReplyId> {
        self.by_id.get_mut(id)?.sync.replace(reply)
    }

    /// Unparks a sync to answer it.
    pub(super) fn take_sync(&mut self, id: &str) -> Option<ReplyId> {
        self.by_id.get_mut(id)?.sync.take()
    }

    /// The member is in a generation now.
    pub(super) fn set_known(&mut self, id: &str) {
        if let Some(member) = self.by_id.get_mut(id) {
            member.is_new = false;
        }
    }

    fn support(&mut self, protocols: &[(String, Bytes)]) {
        for (name, _) in protocols {
            *self.supporters.entry(name.clone()).or_default() += 1;
        }
    }

    fn unsupport(&mut self, protocols: &[(String, Bytes)]) {
        for (name, _) in protocols {
            if let Some(count) = self.supporters.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.supporters.remove(name);
                }
            }
        }
    }
}
