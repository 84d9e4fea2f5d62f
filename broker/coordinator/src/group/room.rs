//! Which groups there are in a shard, where each lies, and which one makes room for another. Called by the group
//! machine around everything it does with a group; knows nothing of members and offsets but whether there are any.

use std::sync::Arc;

use super::given::Given;
use super::newcomers::Newcomer;
use super::offsets::Offsets;
use super::reply::GroupError;
use super::{Group, GroupMachine, GroupState, Soft};
use crate::group_record::GroupRecord;
use crate::machine::{Millis, Outcome};

/// What newcomers may cost, for each group that is allowed in all: their number alone would not bound their ids.
const NEWCOMER_BYTES: usize = 256;

/// How every newcomer looks to its clients: empty. Its member id is nobody's yet.
static NEWCOMER: Group = Group {
    metadata: None,
    offsets: Offsets::NONE,
    soft: Soft::Quiet(Given::None),
    last_used: Millis::MIN,
    is_idle: false,
};

impl GroupMachine {
    pub(super) fn exists(&self, id: &str) -> bool {
        self.groups.contains_key(id) || self.newcomers.contains(id)
    }

    /// The id of a group that exists.
    pub(super) fn id(&self, id: &str) -> Option<Arc<str>> {
        match self.groups.get_key_value(id) {
            Some((id, _)) => Some(id.clone()),
            None => self.newcomers.contains(id).then(|| id.into()),
        }
    }

    /// Makes a newcomer a group like others, until the next `settle`.
    pub(super) fn bring_in(&mut self, id: &Arc<str>) {
        let Some(newcomer) = self.newcomers.remove(id) else {
            return;
        };
        let group = self.groups.entry(id.clone()).or_default();
        group.last_used = newcomer.last_used;
        group.soft = Soft::Quiet(Given::One {
            id: newcomer.member_id,
            until: newcomer.until,
        });
    }

    /// A group as it looks to its clients.
    pub(super) fn group(&self, id: &str) -> Option<&Group> {
        let newcomer = || self.newcomers.contains(id).then_some(&NEWCOMER);
        self.groups.get(id).or_else(newcomer)
    }

    /// All of them, in order of their ids.
    pub(super) fn all(&self) -> impl Iterator<Item = (Arc<str>, &Group)> {
        let newcomers = self.newcomers.ids().map(|id| (id.into(), &NEWCOMER));
        let groups = self.groups.iter().map(|(id, group)| (id.clone(), group));
        let mut all: Vec<(Arc<str>, &Group)> = groups.chain(newcomers).collect();
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        all.into_iter()
    }

    /// After any use of a group: keep `idle` true, and the group where it belongs, or nowhere if nothing is left of it.
    pub(super) fn settle(&mut self, id: &Arc<str>, used: Millis) {
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        let was_idle = group.is_idle;
        let before = group.last_used;
        group.last_used = before.max(used);
        let stays = group.is_more_than_newcomer();
        group.is_idle = stays && group.is_unused();
        if was_idle && !(group.is_idle && group.last_used == before) {
            self.idle.remove(&(before, id.clone()));
        }
        if group.is_idle && !(was_idle && group.last_used == before) {
            self.idle.insert((group.last_used, id.clone()));
        }
        if !stays && let Some(group) = self.groups.remove(id) {
            let Soft::Quiet(Given::One { id: given, until }) = group.soft else {
                return;
            };
            let newcomer = Newcomer {
                member_id: given,
                until,
                last_used: group.last_used,
            };
            let max_bytes = self.config.max_groups.saturating_mul(NEWCOMER_BYTES);
            self.newcomers.insert(id, newcomer, max_bytes);
        }
    }

    /// Room for one more group. The oldest unused one without offsets goes, if it must; committed offsets never do.
    pub(super) fn make_room(&mut self, out: &mut Outcome<Self>) -> Result<(), GroupError> {
        if self.group_count() < self.config.max_groups {
            return Ok(());
        }
        let idle = self.idle.first().cloned();
        let oldest = idle.into_iter().chain(self.newcomers.oldest()).min();
        let (_, id) = oldest.ok_or(GroupError::TooManyGroups)?;
        self.forget_group(&id, out);
        Ok(())
    }

    /// Ends a group without members: its record with the next replay, its soft state now.
    pub(super) fn forget_group(&mut self, id: &Arc<str>, out: &mut Outcome<Self>) {
        self.newcomers.remove(id);
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        debug_assert!(group.live().is_none(), "it has no members");
        group.soft = Soft::default();
        if group.metadata.is_some() {
            out.records.push(GroupRecord::GroupMetadata {
                group: id.clone(),
                value: None,
            });
        }
        self.settle(id, Millis::MIN);
    }
}

impl Group {
    /// There is more of it than one member id that was given out.
    fn is_more_than_newcomer(&self) -> bool {
        let is_more = match &self.soft {
            Soft::Live(_) => true,
            Soft::Quiet(Given::None | Given::One { .. }) => false,
            Soft::Quiet(given @ Given::Many(_)) => !given.is_empty(),
        };
        is_more || self.metadata.is_some() || !self.offsets.is_empty()
    }

    /// Without members and offsets; ids that were only given out do not count.
    fn is_unused(&self) -> bool {
        self.offsets.is_empty() && self.state() == GroupState::Empty
    }
}
