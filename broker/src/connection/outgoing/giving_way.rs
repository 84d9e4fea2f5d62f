//! Large answers offer the processor to others in between, while somebody appends: sending megabytes keeps a thread busy
//! for milliseconds, and an append goes through several threads, each of which would wait that long. Used by `outgoing.rs`;
//! it waits for nobody. Where only readers are it lets them go on for longer: others of the thread are looked for now and then.

use std::time::Duration;

use ottla_storage::log::Appends;
use tokio::time::Instant;

/// Offered after each piece that brings what was written to so much, in bytes; and to so much where nobody appended lately.
const OFFER_BYTES: usize = 64 << 10;
const ALONE_BYTES: usize = 1 << 20;

/// After an append others are expected for so long.
const LATELY: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(in crate::connection) struct GivingWay {
    appends: Appends,
    /// How many those were last, and until when more are expected.
    seen: u64,
    until: Option<Instant>,
    /// Bytes since then, and since others went first.
    bytes: usize,
    alone: usize,
}

impl GivingWay {
    /// To these.
    pub(in crate::connection) fn to(appends: Appends) -> Self {
        Self {
            seen: appends.count(),
            appends,
            until: None,
            bytes: 0,
            alone: 0,
        }
    }

    /// Notes that `count` bytes were written, and lets others go first if it is time.
    pub(super) async fn wrote(&mut self, count: usize, now: Instant) {
        let first = self.goes_first(count, now);
        if first == Some(Others::Appends) {
            std::thread::yield_now();
        }
        if first.is_some() {
            tokio::task::yield_now().await;
        }
    }

    fn goes_first(&mut self, count: usize, now: Instant) -> Option<Others> {
        self.bytes += count;
        self.alone += count;
        if self.bytes < OFFER_BYTES {
            return None;
        }
        self.bytes = 0;
        let appends = self.appends.count();
        if std::mem::replace(&mut self.seen, appends) != appends {
            self.until = Some(now + LATELY);
        }
        let others = if self.until.is_some_and(|until| now < until) {
            Others::Appends
        } else if self.alone >= ALONE_BYTES {
            Others::Connections
        } else {
            return None;
        };
        self.alone = 0;
        Some(others)
    }
}

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    /// Other threads that want this processor, and what this thread has to do besides.
    Appends,
    /// Only the latter: the system shares out its processors by itself.
    Connections,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_go_first_after_each_large_piece_for_a_while_after_an_append() {
        let appends = Appends::default();
        appends.add();
        let mut giving_way = GivingWay::to(appends.clone());
        let now = Instant::now();
        assert_eq!(giving_way.goes_first(10 * OFFER_BYTES, now), None);
        let long = giving_way.goes_first(ALONE_BYTES, now);
        assert_eq!(long, Some(Others::Connections));
        assert_eq!(giving_way.goes_first(ALONE_BYTES - 1, now), None);
        assert_eq!(giving_way.goes_first(1, now), None, "not looked at so soon");
        appends.add();
        let mut appending = |count, now| giving_way.goes_first(count, now) == Some(Others::Appends);
        assert!(!appending(OFFER_BYTES - 2, now));
        assert!(appending(1, now));
        assert!(!appending(1, now));
        let last = now + LATELY - Duration::from_millis(1);
        assert!(appending(OFFER_BYTES, last));
        assert!(!appending(OFFER_BYTES, now + LATELY));
        appends.add();
        assert!(appending(OFFER_BYTES, now + LATELY));
    }
}
