//! Says when a log line about a repeating cause may be written.
//!
//! Called wherever input from outside is refused: a flood of bad frames must not become a flood of log lines. Writes
//! nothing and reads no clock; the time comes in as an argument. The counters in `metrics` count every case, so the
//! cases left out here are only left out of the log.
//!
//! Invariant: at most one `Some` per cause in any second, and the numbers handed out add up to the calls refused
//! before.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// How long a cause stays silent after a line.
const SILENCE_MS: i64 = 1_000;

/// One line per cause and second.
///
/// ```text
/// if let Some(suppressed) = limit.admit(cause, env.now_ms()) {
///     tracing::warn!(cause, suppressed, peer = %peer, "request refused");
/// }
/// ```
#[derive(Debug, Default)]
pub struct RateLimit {
    // Causes are names in the code, so the map cannot grow with what clients send.
    lines: Mutex<HashMap<&'static str, Line>>,
}

/// The last line of one cause.
#[derive(Debug)]
struct Line {
    written_ms: i64,
    suppressed: u64,
}

impl RateLimit {
    /// A limit under which no cause has been logged yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a line about `cause` may be written now. The number is how many were suppressed since the line before.
    ///
    /// A clock that was set back does not silence a cause: a line from the future counts as old.
    pub fn admit(&self, cause: &'static str, now_ms: i64) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(line) = lines.get_mut(cause) else {
            lines.insert(
                cause,
                Line {
                    written_ms: now_ms,
                    suppressed: 0,
                },
            );
            return Some(0);
        };
        let silent = line.written_ms..line.written_ms.saturating_add(SILENCE_MS);
        if silent.contains(&now_ms) {
            line.suppressed += 1;
            return None;
        }
        line.written_ms = now_ms;
        Some(std::mem::take(&mut line.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_cause_is_written() {
        let limit = RateLimit::new();
        assert_eq!(limit.admit("frame_size", 0), Some(0));
        assert_eq!(limit.admit("bad_header", 0), Some(0));
    }

    #[test]
    fn within_a_second_lines_are_counted_and_the_next_line_tells_how_many() {
        let limit = RateLimit::new();
        assert_eq!(limit.admit("frame_size", 10_000), Some(0));
        assert_eq!(limit.admit("frame_size", 10_000), None);
        assert_eq!(limit.admit("frame_size", 10_999), None);
        assert_eq!(limit.admit("bad_header", 10_999), Some(0));
        assert_eq!(limit.admit("frame_size", 11_000), Some(2));
        assert_eq!(limit.admit("frame_size", 11_001), None);
        assert_eq!(limit.admit("frame_size", 99_000), Some(1));
        assert_eq!(limit.admit("frame_size", 999_000), Some(0));
    }

    #[test]
    fn a_clock_set_back_does_not_silence_a_cause() {
        let limit = RateLimit::new();
        assert_eq!(limit.admit("frame_size", 5_000_000), Some(0));
        assert_eq!(limit.admit("frame_size", 5_000_100), None);
        assert_eq!(limit.admit("frame_size", 1_000), Some(1));
        assert_eq!(limit.admit("frame_size", 1_500), None);
    }

    #[test]
    fn the_ends_of_the_clock_do_not_overflow() {
        let limit = RateLimit::new();
        assert_eq!(limit.admit("frame_size", i64::MAX), Some(0));
        assert_eq!(limit.admit("frame_size", i64::MIN), Some(0));
        assert_eq!(limit.admit("frame_size", i64::MAX), Some(0));
    }

    #[test]
    fn every_call_is_written_or_counted_and_lines_keep_their_distance() {
        for seed in 0..2_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let limit = RateLimit::new();
            let (mut now, mut calls, mut told) = (0i64, 0u64, 0u64);
            let mut last_line = None;
            for _ in 0..200 {
                now += rng.i64(0..400);
                calls += 1;
                if let Some(suppressed) = limit.admit("cause", now) {
                    told += suppressed + 1;
                    let distance = last_line.map_or(i64::MAX, |last| now - last);
                    assert!(distance >= SILENCE_MS, "seed {seed}: {distance} ms apart");
                    last_line = Some(now);
                    assert_eq!(told, calls, "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn of_many_threads_at_one_moment_one_writes() {
        let limit = RateLimit::new();
        let written: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1_000)
                            .filter(|_| limit.admit("cause", 7).is_some())
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(written, 1);
        assert_eq!(limit.admit("cause", 1_007), Some(7_999));
    }
}
