//! How idle the threads were, over the last minute.
//!
//! Fed with the network threads' total busy time at every scrape, and every few seconds by the metrics listener, so that the
//! window is a minute whether or not anybody scrapes. Pure: times come in.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back the share looks.
const WINDOW: Duration = Duration::from_secs(60);
/// How often the metrics listener feeds it.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_secs(15);

/// The runtime's busy time at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusyTime {
    /// The moment, by a clock that never goes back.
    pub at: Duration,
    /// Busy time of all threads since they began.
    pub busy: Duration,
    /// How many threads there are.
    pub threads: usize,
}

/// Samples of the last minute, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Idle {
    samples: VecDeque<BusyTime>,
}

impl Idle {
    /// Takes a sample and answers the idle share since the oldest one in the window, 0 to 1. The first one is
    /// compared with the moment 0, when nothing had been done.
    pub(super) fn sample(&mut self, now: BusyTime) -> f64 {
        while self.samples.len() > 1 && self.samples[1].at + WINDOW <= now.at {
            self.samples.pop_front();
        }
        let (since_at, since_busy) = self
            .samples
            .front()
            .map_or((Duration::ZERO, Duration::ZERO), |oldest| {
                (oldest.at, oldest.busy)
            });
        let is_due = |newest: &BusyTime| newest.at + SAMPLE_EVERY / 2 <= now.at;
        if self.samples.back().is_none_or(is_due) {
            self.samples.push_back(now);
        }
        let passed = now.at.saturating_sub(since_at).as_secs_f64() * now.threads.max(1) as f64;
        if passed <= 0.0 {
            return 1.0;
        }
        let busy = now.busy.saturating_sub(since_busy).as_secs_f64();
        (1.0 - busy / passed).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, busy: u64) -> BusyTime {
        BusyTime {
            at: Duration::from_secs(seconds),
            busy: Duration::from_secs(busy),
            threads: 2,
        }
    }

    #[test]
    fn the_share_is_that_of_all_threads() {
        let mut idle = Idle::default();
        assert_eq!(idle.sample(at(10, 5)), 0.75);
        assert_eq!(idle.sample(at(20, 25)), 0.0);
        assert_eq!(idle.sample(at(30, 25)), 0.5);
    }

    #[test]
    fn what_was_a_minute_ago_is_forgotten() {
        let mut idle = Idle::default();
        for second in (0..=60).step_by(15) {
            idle.sample(at(second, 2 * second));
        }
        for second in (75..=135).step_by(15) {
            idle.sample(at(second, 120));
        }
        assert_eq!(idle.sample(at(136, 120)), 1.0);
    }

    #[test]
    fn many_samples_are_kept_as_few() {
        let mut idle = Idle::default();
        (0..100_000).for_each(|second| {
            idle.sample(at(second / 100, 0));
        });
        assert!(idle.samples.len() < 12, "{}", idle.samples.len());
    }

    #[test]
    fn clocks_that_stand_or_run_oddly_give_a_share() {
        let mut idle = Idle::default();
        for sample in [at(0, 0), at(0, 9), at(5, 2), at(5, 2), at(4, 90), at(4, 0)] {
            let share = idle.sample(sample);
            assert!((0.0..=1.0).contains(&share), "{sample:?}: {share}");
        }
    }
}
