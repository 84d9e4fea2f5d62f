//! The shape all state machines share, so that one driver can run them.
//!
//! State is a fold over records: [`Machine::replay`] is the only place where hard state changes, at
//! run time and at start alike. [`Machine::handle`] and [`Machine::expire`] decide and answer with
//! records; the driver replays those at once, before the next call, so a machine never has to keep
//! track of decisions that are made but not yet applied. Soft state (who waits, who heartbeats) may
//! change in `handle` and is lost by a restart.

use std::fmt;
use std::hash::Hash;

/// Milliseconds since the Unix epoch, as the driver's clock says.
pub type Millis = i64;

/// Names one request to the machine; the driver keeps who waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyId(pub u64);

/// A deterministic state machine: the same records give the same state, and the same state, time and
/// command give the same outcome.
pub trait Machine: Sized {
    /// What can be asked of it.
    type Command;
    /// What it answers.
    type Reply;
    /// What it writes to its log; the log's only content.
    type Record: Clone;
    /// Names a timer; arming an armed one moves it.
    type Timer: Clone + Eq + Hash + Ord;
    /// What the driver shall do besides, once the records are durable.
    type Effect;

    /// Decides a command. Every id is answered exactly once, here or by a later outcome.
    fn handle(&mut self, now: Millis, id: ReplyId, command: Self::Command) -> Outcome<Self>;

    /// Called once after the records of the log are replayed and before the first command: soft state that
    /// follows from the hard one, and the first timers.
    fn start(&mut self, _now: Millis) -> Outcome<Self> {
        Outcome::nothing()
    }

    /// Called when an armed timer is due.
    fn expire(&mut self, now: Millis, timer: Self::Timer) -> Outcome<Self>;

    /// Applies one record: right after the call that returned it, and for every record of the log at start.
    ///
    /// Panics when the record contradicts the state: the log is damaged, and going on would spread it.
    fn replay(&mut self, record: &Self::Record);
}

/// What a call asks the driver to do. The records of one outcome are one atomic append.
pub struct Outcome<M: Machine> {
    /// To be replayed at once, then appended together.
    pub records: Vec<M::Record>,
    /// To be released when the records, and all earlier ones, are durable.
    pub replies: Vec<(ReplyId, M::Reply)>,
    /// Timers to arm or cancel, in order.
    pub timers: Vec<TimerChange<M::Timer>>,
    /// To be performed when the records are durable.
    pub effects: Vec<M::Effect>,
}

impl<M: Machine> Outcome<M> {
    /// Nothing to do.
    pub fn nothing() -> Self {
        Self {
            records: Vec::new(),
            replies: Vec::new(),
            timers: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// One answer, released when `records` are durable.
    pub fn answer(id: ReplyId, reply: M::Reply, records: Vec<M::Record>) -> Self {
        Self {
            records,
            replies: vec![(id, reply)],
            ..Self::nothing()
        }
    }
}

impl<M: Machine> fmt::Debug for Outcome<M>
where
    M::Record: fmt::Debug,
    M::Reply: fmt::Debug,
    M::Timer: fmt::Debug,
    M::Effect: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("records", &self.records)
            .field("replies", &self.replies)
            .field("timers", &self.timers)
            .field("effects", &self.effects)
            .finish()
    }
}

/// A change to the driver's timers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimerChange<T> {
    /// Call `expire` with `timer` at or after `at`; replaces an earlier time of the same timer.
    Arm {
        /// Which timer.
        timer: T,
        /// When it is due.
        at: Millis,
    },
    /// Forget the timer, if it is armed.
    Cancel(T),
}
