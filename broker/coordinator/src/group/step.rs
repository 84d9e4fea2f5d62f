//! One call of the group machine on its way through a group: what the group may know, and the outcome it fills.

use std::sync::Arc;

use super::GroupMachine;
use super::command::GroupConfig;
use super::reply::{GroupError, Reply};
use crate::group_record::GroupRecord;
use crate::machine::{Millis, Outcome, ReplyId, TimerChange};

/// What the driver wakes the machine for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// A member was silent for its session timeout.
    Session {
        /// The group.
        group: Arc<str>,
        /// The member id.
        member: Arc<str>,
    },
    /// A client has had a fresh member id for long enough without coming back with it.
    Given {
        /// The group.
        group: Arc<str>,
    },
    /// A join phase has lasted long enough.
    Join {
        /// The group.
        group: Arc<str>,
    },
    /// Members have had long enough to sync.
    Sync {
        /// The group.
        group: Arc<str>,
    },
    /// It is time to look for expired offsets.
    OffsetExpiry,
}

/// One call of the machine: the time, the limits, and the outcome that grows.
pub(super) struct Step<'a> {
    pub(super) now: Millis,
    pub(super) config: &'a GroupConfig,
    pub(super) out: &'a mut Outcome<GroupMachine>,
}

impl Step<'_> {
    pub(super) fn answer(&mut self, id: ReplyId, reply: Reply) {
        self.out.replies.push((id, reply));
    }

    pub(super) fn refuse_join(&mut self, id: ReplyId, member_id: &str, error: GroupError) {
        let member_id = member_id.to_owned();
        self.answer(id, Reply::JoinFailed { member_id, error });
    }

    pub(super) fn arm(&mut self, timer: Timer, in_ms: i32) {
        self.arm_at(timer, self.now.saturating_add(in_ms.into()));
    }

    pub(super) fn arm_at(&mut self, timer: Timer, at: Millis) {
        self.out.timers.push(TimerChange::Arm { timer, at });
    }

    pub(super) fn cancel(&mut self, timer: Timer) {
        self.out.timers.push(TimerChange::Cancel(timer));
    }

    pub(super) fn write(&mut self, record: GroupRecord) {
        self.out.records.push(record);
    }
}
