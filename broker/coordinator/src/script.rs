//! Runs a machine as the broker's driver does, with a clock moved by hand, and checks what every
//! machine must keep. For tests only; it is the model of the driver's contract.

use std::collections::{BTreeMap, BTreeSet};

use crate::machine::{Machine, Millis, Outcome, ReplyId, TimerChange};

pub struct Script<M: Machine> {
    pub machine: M,
    pub now: Millis,
    /// Every record ever written, in order.
    pub log: Vec<M::Record>,
    /// Every answer, in order.
    pub replies: Vec<(ReplyId, M::Reply)>,
    timers: BTreeMap<M::Timer, Millis>,
    waiting: BTreeSet<ReplyId>,
    next_id: u64,
}

impl<M: Machine> Script<M> {
    pub fn new(machine: M) -> Self {
        Self {
            machine,
            now: 1_000,
            log: Vec::new(),
            replies: Vec::new(),
            timers: BTreeMap::new(),
            waiting: BTreeSet::new(),
            next_id: 0,
        }
    }

    /// Lets a machine that replayed its log begin.
    pub fn start(&mut self) {
        let outcome = self.machine.start(self.now);
        self.perform(outcome);
    }

    /// Sends one command; its answer may come later.
    pub fn send(&mut self, command: M::Command) -> ReplyId {
        self.next_id += 1;
        let id = ReplyId(self.next_id);
        self.waiting.insert(id);
        let outcome = self.machine.handle(self.now, id, command);
        self.perform(outcome);
        id
    }

    /// Sends one command that is answered at once.
    pub fn ask(&mut self, command: M::Command) -> &M::Reply {
        let id = self.send(command);
        let (answered, reply) = self.replies.last().expect("an answer at once");
        assert_eq!(*answered, id, "the last answer is to this command");
        reply
    }

    /// Moves the clock and fires the timers that become due, in order of time.
    pub fn advance(&mut self, by: Millis) {
        let until = self.now + by;
        while let Some((timer, at)) = self.first_due(until) {
            self.timers.remove(&timer);
            self.now = self.now.max(at);
            let outcome = self.machine.expire(self.now, timer);
            self.perform(outcome);
        }
        self.now = until;
    }

    /// Requests without an answer.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn first_due(&self, until: Millis) -> Option<(M::Timer, Millis)> {
        let due = self.timers.iter().filter(|(_, at)| **at <= until);
        due.min_by_key(|(timer, at)| (**at, (*timer).clone()))
            .map(|(timer, at)| (timer.clone(), *at))
    }

    fn perform(&mut self, outcome: Outcome<M>) {
        for record in outcome.records {
            self.machine.replay(&record);
            self.log.push(record);
        }
        for (id, reply) in outcome.replies {
            assert!(
                self.waiting.remove(&id),
                "{id:?} was answered twice, or never asked"
            );
            self.replies.push((id, reply));
        }
        for change in outcome.timers {
            match change {
                TimerChange::Arm { timer, at } => self.timers.insert(timer, at),
                TimerChange::Cancel(timer) => self.timers.remove(&timer),
            };
        }
    }
}
