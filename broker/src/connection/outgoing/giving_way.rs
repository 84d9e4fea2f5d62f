//! Large answers offer the processor to others in between, while somebody appends: sending megabytes keeps a thread busy
//! for milliseconds, and an append goes through several threads, each of which would wait that long. Used by `outgoing.rs`;
//! it waits for nobody. Where only readers are it lets them go on for long: giving way often costs a sixth of what they read.

use std::time::Duration;

use ottla_storage::log::Appends;
use tokio::time::Instant;

/// Offered after each piece that brings what was written to so much, in bytes; and to so much where nobody appended lately.
const OFFER_BYTES: usize = 64 << 10;
const ALONE_BYTES: usize = 4 << 20;

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
        if self.is_time(count, now) {
            // To other threads that want this processor, and to what this thread has to do besides.
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
    }

    fn is_time(&mut self, count: usize, now: Instant) -> bool {
        self.bytes += count;
        self.alone += count;
        if self.bytes < OFFER_BYTES {
            return false;
        }
        self.bytes = 0;
        let appends = self.appends.count();
        if std::mem::replace(&mut self.seen, appends) != appends {
            self.until = Some(now + LATELY);
        }
        let appends_lately = self.until.is_some_and(|until| now < until);
        let is_time = appends_lately || self.alone >= ALONE_BYTES;
        if is_time {
            self.alone = 0;
        }
        is_time
    }
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
        assert!(!giving_way.is_time(10 * OFFER_BYTES, now), "nobody appends");
        assert!(giving_way.is_time(ALONE_BYTES, now), "it was long");
        assert!(!giving_way.is_time(ALONE_BYTES - 1, now));
        assert!(!giving_way.is_time(0, now), "not looked at again so soon");
        appends.add();
        assert!(!giving_way.is_time(OFFER_BYTES - 1, now));
        assert!(giving_way.is_time(1, now));
        assert!(!giving_way.is_time(1, now));
        let last = now + LATELY - Duration::from_millis(1);
        assert!(giving_way.is_time(OFFER_BYTES, last));
        assert!(!giving_way.is_time(OFFER_BYTES, now + LATELY));
        appends.add();
        assert!(giving_way.is_time(OFFER_BYTES, now + LATELY));
    }
}
