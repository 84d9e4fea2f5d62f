//! What a machine wants to be woken for, and when. Kept by the driver in time of the monotonic clock, so that a
//! step of the wall clock ends nobody's session. Reads no clock itself.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// Timers by when they are due.
pub struct Timers<T> {
    due: BTreeSet<(Duration, T)>,
    armed: HashMap<T, Duration>,
}

impl<T: Clone + Ord + Hash> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Ord + Hash> Timers<T> {
    /// None is armed.
    pub fn new() -> Self {
        Self {
            due: BTreeSet::new(),
            armed: HashMap::new(),
        }
    }

    /// Arms a timer; one that is armed moves.
    pub fn arm(&mut self, timer: T, at: Duration) {
        self.cancel(&timer);
        self.armed.insert(timer.clone(), at);
        self.due.insert((at, timer));
    }

    /// Forgets a timer, armed or not.
    pub fn cancel(&mut self, timer: &T) {
        if let Some((timer, at)) = self.armed.remove_entry(timer) {
            self.due.remove(&(at, timer));
        }
    }

    /// When the first one is due.
    pub fn next(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the first one that is due at `now`.
    pub fn pop(&mut self, now: Duration) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.due.pop_first()?;
        self.armed.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn timers_come_in_order_once_and_only_when_due() {
        let mut timers = Timers::new();
        let at = Duration::from_millis;
        timers.arm("late", at(30));
        timers.arm("moved", at(10));
        timers.arm("early", at(5));
        timers.arm("moved", at(20));
        timers.arm("gone", at(1));
        timers.cancel(&"gone");
        timers.cancel(&"never armed");
        assert_eq!(timers.next(), Some(at(5)));
        assert_eq!(timers.pop(at(4)), None);
        assert_eq!(timers.pop(at(25)), Some("early"));
        assert_eq!(timers.pop(at(25)), Some("moved"));
        assert_eq!(timers.pop(at(25)), None);
        assert_eq!(timers.pop(at(30)), Some("late"));
        assert_eq!((timers.pop(at(99)), timers.next()), (None, None));
    }

    #[test]
    fn they_agree_with_a_plain_map() {
        for seed in 0..2_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut timers = Timers::new();
            let mut plain: BTreeMap<u8, Duration> = BTreeMap::new();
            for _ in 0..50 {
                let timer = rng.u8(0..6);
                let at = Duration::from_millis(rng.u64(0..20));
                match rng.u8(0..3) {
                    0 => {
                        timers.arm(timer, at);
                        plain.insert(timer, at);
                    }
                    1 => {
                        timers.cancel(&timer);
                        plain.remove(&timer);
                    }
                    _ => {
                        let first = plain.iter().map(|(timer, at)| (*at, *timer)).min();
                        let due = first.filter(|(first, _)| *first <= at);
                        assert_eq!(timers.pop(at), due.map(|(_, timer)| timer), "seed {seed}");
                        if let Some((_, timer)) = due {
                            plain.remove(&timer);
                        }
                    }
                }
            }
        }
    }
}
