//! How fast RocksDB writes in the background: evenly while there is time, so that a sync never waits behind many megabytes;
//! as fast as the disk takes it once flushes or compactions are behind, or somebody waits. Used by `rocks.rs` with each write
//! of the log; it knows no store.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use super::options::UNLIMITED_RATE;
use crate::waiters::lock;

/// While there is time, in bytes a second.
pub(super) const CALM_RATE: i64 = 96 << 20;

/// The store is looked at once so much was written, in bytes.
const LOOK_BYTES: i64 = 1 << 20;

/// After it was behind, nothing is held back for so much more.
pub(super) const HURRY_BYTES: i64 = 256 << 20;

/// So many write buffers wait where flushes are behind: one is what a flush always has.
pub(super) const WAITING: u64 = 2;

/// Owned by the engine; called by its writer, and by others now and then.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bytes until the next look.
    left: AtomicI64,
    /// Whether nothing is held back. Locked until the rate is set, so that the last word counts.
    hurries: Mutex<bool>,
}

impl Pace {
    /// Notes a write of `bytes`. Now and then asks whether the store is `behind`, and sets another rate if need be.
    pub(super) fn wrote(&self, bytes: usize, behind: impl FnOnce() -> bool, set: impl FnOnce(i64)) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.left.fetch_sub(bytes, Ordering::Relaxed) > bytes {
            return;
        }
        if behind() {
            return self.hurry(set);
        }
        self.left.store(LOOK_BYTES, Ordering::Relaxed);
        self.change(false, CALM_RATE, set);
    }

    /// Somebody waits: nothing is held back for a while.
    pub(super) fn hurry(&self, set: impl FnOnce(i64)) {
        self.left.store(HURRY_BYTES, Ordering::Relaxed);
        self.change(true, UNLIMITED_RATE, set);
    }

    fn change(&self, hurry: bool, rate: i64, set: impl FnOnce(i64)) {
        let mut hurries = lock(&self.hurries);
        if std::mem::replace(&mut *hurries, hurry) != hurry {
            set(rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn nothing_is_held_back_while_the_store_is_behind_and_for_a_while_after() {
        let pace = Pace::default();
        let rate = Cell::new(CALM_RATE);
        let wrote = |bytes: i64, behind: bool| {
            pace.wrote(bytes as usize, || behind, |new| rate.set(new));
            rate.get()
        };
        assert_eq!(wrote(1, false), CALM_RATE, "from the beginning");
        assert_eq!(wrote(LOOK_BYTES - 1, true), CALM_RATE, "not looked at yet");
        assert_eq!(wrote(1, true), UNLIMITED_RATE);
        for _ in 1..HURRY_BYTES / LOOK_BYTES {
            assert_eq!(wrote(LOOK_BYTES, false), UNLIMITED_RATE);
        }
        assert_eq!(
            wrote(LOOK_BYTES, true),
            UNLIMITED_RATE,
            "it is behind again"
        );
        assert_eq!(wrote(HURRY_BYTES, false), CALM_RATE);
        pace.hurry(|new| rate.set(new));
        assert_eq!(
            wrote(HURRY_BYTES - 1, false),
            UNLIMITED_RATE,
            "somebody waits"
        );
        assert_eq!(wrote(1, false), CALM_RATE);
    }
}
