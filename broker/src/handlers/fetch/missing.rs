//! What a fetch that found too little waits for: partitions may grow many times before there is enough, and only sizes
//! are added up meanwhile (Kafka's `DelayedFetch.tryComplete`). Called by `fetch.rs`; it reads no batch.
//!
//! It may say too early that there is enough, for what is appended is not yet readable; it says so too when anything but
//! an append happened. The fetch then reads anew, and begins to count anew.

use ottla_storage::log::ReadLimit;

use super::Target;
use super::read::Outcome;

/// Where a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) log_start: i64,
    pub(super) log_end: i64,
    pub(super) leader_epoch: i32,
    pub(super) size_bytes: u64,
    pub(super) gone: bool,
    /// It ends with batches that cannot be read yet: they are in the size, and in no answer.
    pub(super) unreadable_end: bool,
}

/// Where the partitions stand that were found.
pub(super) fn states(targets: &[Target], limit: ReadLimit) -> Vec<Option<State>> {
    let state = |target: &Target| {
        let (_, partition) = target.found.as_ref().ok()?;
        let offsets = partition.offsets();
        Some(State {
            log_start: offsets.log_start,
            log_end: offsets.log_end,
            leader_epoch: offsets.leader_epoch,
            size_bytes: partition.size_bytes(),
            gone: partition.is_gone(),
            unreadable_end: limit.end(&offsets) < offsets.log_end,
        })
    };
    targets.iter().map(state).collect()
}

/// What is missing until a fetch has `min_bytes`.
#[derive(Debug)]
pub(super) struct Missing {
    min_bytes: u64,
    parts: Vec<Part>,
    /// What was read does not go with the sizes: any news may be what is missing.
    unsure: bool,
}

#[derive(Debug)]
struct Part {
    last: Option<State>,
    /// What can be read, as far as is known.
    bytes: u64,
    /// What the answer can have at most.
    most: u64,
}

impl Missing {
    /// After a read that began at `before`.
    pub(super) fn new(
        targets: &[Target],
        before: Vec<Option<State>>,
        outcomes: &[Outcome],
        min_bytes: usize,
    ) -> Self {
        let read = targets.iter().zip(outcomes).map(|(target, outcome)| {
            let most = u64::try_from(target.wanted.max_bytes).unwrap_or(0);
            (most, outcome.bytes as u64, outcome.left_out > 0)
        });
        Self::of(before, read, min_bytes as u64)
    }

    /// Of each partition: the most the client takes, what was read, and whether more was there.
    fn of(
        before: Vec<Option<State>>,
        read: impl Iterator<Item = (u64, u64, bool)>,
        min_bytes: u64,
    ) -> Self {
        let unsure = before.iter().flatten().any(|state| state.unreadable_end);
        let parts = before.into_iter().zip(read).map(|(last, read)| {
            let (most, bytes, more) = read;
            Part {
                last,
                bytes,
                // What did not fit will not fit later.
                most: if more { bytes } else { most },
            }
        });
        let parts = parts.collect();
        Self {
            min_bytes,
            parts,
            unsure,
        }
    }

    /// Whether a read may find enough, or something else, now that the partitions stand there.
    pub(super) fn may_be_there(&mut self, now: &[Option<State>]) -> bool {
        let mut bytes: u64 = 0;
        for (part, now) in self.parts.iter_mut().zip(now) {
            let (Some(last), Some(now)) = (part.last, *now) else {
                continue;
            };
            let appended = State {
                log_end: now.log_end,
                size_bytes: now.size_bytes,
                unreadable_end: now.unreadable_end,
                ..last
            };
            if now != appended || now.log_end < last.log_end || now.size_bytes < last.size_bytes {
                return true;
            }
            part.bytes += now.size_bytes - last.size_bytes;
            part.last = Some(now);
            bytes = bytes.saturating_add(part.bytes.min(part.most));
        }
        self.unsure || bytes >= self.min_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(log_end: i64, size_bytes: u64) -> State {
        State {
            log_start: 0,
            log_end,
            leader_epoch: 1,
            size_bytes,
            gone: false,
            unreadable_end: false,
        }
    }

    fn missing(read: &[(u64, u64, bool)], min_bytes: u64) -> Missing {
        let before = vec![Some(at(5, 1_000)); read.len()];
        Missing::of(before, read.iter().copied(), min_bytes)
    }

    #[test]
    fn appends_are_added_up_until_there_may_be_enough() {
        let mut missing = missing(&[(1_000, 100, false), (1_000, 0, false)], 300);
        assert!(!missing.may_be_there(&[Some(at(6, 1_100)), Some(at(5, 1_000))]));
        assert!(!missing.may_be_there(&[Some(at(6, 1_100)), Some(at(6, 1_099))]));
        assert!(!missing.may_be_there(&[Some(at(6, 1_100)), Some(at(6, 1_099))]));
        assert!(missing.may_be_there(&[Some(at(6, 1_100)), Some(at(7, 1_100))]));
    }

    #[test]
    fn a_partition_counts_for_no_more_than_the_client_takes_of_it() {
        let mut capped = missing(&[(200, 100, false)], 300);
        assert!(!capped.may_be_there(&[Some(at(9, 9_000))]));
        // It read less than it may take, because the next batch was too large.
        let mut full = missing(&[(200, 100, true), (200, 0, false)], 300);
        assert!(!full.may_be_there(&[Some(at(9, 9_000)), Some(at(6, 1_199))]));
        assert!(full.may_be_there(&[Some(at(9, 9_000)), Some(at(6, 1_200))]));
    }

    #[test]
    fn what_was_appended_before_the_read_and_could_not_be_read_is_not_waited_for_twice() {
        let before = State {
            unreadable_end: true,
            ..at(5, 1_000)
        };
        let mut unsure = Missing::of(vec![Some(before)], [(900, 200, false)].into_iter(), 300);
        assert!(
            unsure.may_be_there(&[Some(at(5, 1_000))]),
            "it is readable now"
        );
        // What comes later is in the sizes only, and may be counted early.
        let mut later = missing(&[(900, 200, false)], 300);
        let unreadable = State {
            unreadable_end: true,
            ..at(6, 1_099)
        };
        assert!(!later.may_be_there(&[Some(unreadable)]));
        assert!(later.may_be_there(&[Some(at(7, 1_100))]));
    }

    #[test]
    fn whatever_is_no_append_is_looked_at() {
        let moved: [fn(&mut State); 5] = [
            |state| state.log_start = 1,
            |state| state.log_end = 4,
            |state| state.leader_epoch = 2,
            |state| state.size_bytes = 999,
            |state| state.gone = true,
        ];
        for change in moved {
            let mut now = at(5, 1_000);
            assert!(!missing(&[(900, 0, false)], 300).may_be_there(&[Some(now)]));
            change(&mut now);
            assert!(
                missing(&[(900, 0, false)], 300).may_be_there(&[Some(now)]),
                "{now:?}"
            );
        }
    }
}
