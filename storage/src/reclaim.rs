//! When and how deleted data gives its room on the disk back, pure: which ranges of keys are to be compacted, and
//! which files are to be emptied.
//!
//! Called by the writer, which tells what it erased, and by `log/retain.rs`, which does what is due. It touches no store.
//!
//! Erasing writes a mark only. The room comes back in two steps:
//! * compacting the erased range drops its keys, and the files of values that nothing refers to any more with them;
//! * a file of values in which a few are left goes when those are moved, which rewrites them (`collection.rs`).

use std::time::Duration;

use crate::partition::Range;

mod collection;

pub use collection::ValueFile;
pub(crate) use collection::next_collection;

/// Erased data is reclaimed at once when there is this much of it, compared with what is live: one part in so many...
const RECLAIM_SHARE: u64 = 16;

/// ...but no less than this, and no more than that.
const RECLAIM_LEAST_BYTES: u64 = 32 << 20;
const RECLAIM_MOST_BYTES: u64 = 256 << 20;

/// Less of it waits this long for more.
const RECLAIM_AFTER: Duration = Duration::from_secs(15);

/// So little of it, compared with the keys that a compaction may rewrite, waits this long.
const RECLAIM_LITTLE_AFTER: Duration = Duration::from_secs(600);

/// As share of the bytes of keys: less than one part in so many is little.
const LITTLE_SHARE: u64 = 8;

/// What an earlier process erased is looked after where a compaction rewrites no more keys than this. In a larger store
/// the compactions that come anyway do it.
const SMALL_STORE_BYTES: u64 = 1 << 30;

/// Ranges compacted one by one; more are joined with their neighbours.
const MOST_RANGES: usize = 64;

/// So many ranges are kept until it is time; more are joined with their neighbours, too.
const MOST_KEPT_RANGES: usize = 4_096;

/// What the store takes on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes of keys, with the values that lie beside them.
    pub key_bytes: u64,
    /// Bytes of files of values, garbage included.
    pub value_bytes: u64,
    /// Bytes of values in those files that nothing refers to.
    pub garbage_bytes: u64,
}

impl Space {
    fn live_bytes(&self) -> u64 {
        self.key_bytes + self.value_bytes.saturating_sub(self.garbage_bytes)
    }
}

/// What was erased and has not given its room back yet.
#[derive(Debug, Default)]
pub(crate) struct Unreclaimed {
    ranges: Vec<Range>,
    /// How many of them were left the last time they were merged.
    merged: usize,
    bytes: u64,
    since: Option<Duration>,
}

impl Unreclaimed {
    /// Adds what was erased at `now`; 0 bytes where that was long ago and nobody knows.
    pub(crate) fn add(&mut self, range: Range, bytes: u64, now: Duration) {
        self.ranges.push(range);
        self.bytes += bytes;
        self.since.get_or_insert(now);
        // The same partitions come again and again. Merging goes through all of them, so that it waits for twice as many.
        if self.ranges.len() > (16 * MOST_RANGES).max(2 * self.merged) {
            let ranges = merged(std::mem::take(&mut self.ranges));
            self.ranges = joined(ranges, MOST_KEPT_RANGES);
            self.merged = self.ranges.len();
        }
    }

    /// Takes the ranges to compact, if it is time.
    pub(crate) fn take_due(&mut self, now: Duration, space: &Space) -> Option<Vec<Range>> {
        let waited = now.saturating_sub(self.since?);
        if self.bytes == 0 && space.key_bytes > SMALL_STORE_BYTES {
            *self = Self::default();
            return None;
        }
        let little = self.bytes < space.key_bytes / LITTLE_SHARE;
        let much = space.live_bytes().saturating_sub(self.bytes) / RECLAIM_SHARE;
        let much = much.clamp(RECLAIM_LEAST_BYTES, RECLAIM_MOST_BYTES);
        let patience = if self.bytes > 0 && little {
            RECLAIM_LITTLE_AFTER
        } else if self.bytes < much {
            RECLAIM_AFTER
        } else {
            Duration::ZERO
        };
        if waited < patience {
            return None;
        }
        let taken = std::mem::take(self);
        Some(joined(merged(taken.ranges), MOST_RANGES))
    }
}

/// The same keys in fewer ranges: those that overlap or touch become one.
pub(crate) fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match merged.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(std::mem::take(end)),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// At most `most` ranges that cover `ranges`, which are in order.
fn joined(ranges: Vec<Range>, most: usize) -> Vec<Range> {
    let group = ranges.len().div_ceil(most).max(1);
    let span = |group: &[Range]| (group[0].0.clone(), group[group.len() - 1].1.clone());
    ranges.chunks(group).map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn range(from: u8, to: u8) -> Range {
        (vec![from], vec![to])
    }

    #[test]
    fn merging_and_joining_lose_no_key() {
        for seed in 0..5_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let ranges: Vec<Range> = (0..rng.usize(0..20))
                .map(|_| {
                    let from = rng.u8(0..100);
                    range(from, rng.u8(from + 1..=101))
                })
                .collect();
            let held = |ranges: &[Range], key: u8| {
                ranges
                    .iter()
                    .any(|(from, to)| *from <= vec![key] && vec![key] < *to)
            };
            let merged = merged(ranges.clone());
            for key in 0..102 {
                assert_eq!(held(&ranges, key), held(&merged, key), "seed {seed}");
            }
            assert!(
                merged.windows(2).all(|two| two[0].1 < two[1].0),
                "seed {seed}"
            );
            let most = rng.usize(1..6);
            let joined = joined(merged.clone(), most);
            assert!(joined.len() <= most, "seed {seed}");
            assert!((0..102).all(|key| !held(&merged, key) || held(&joined, key)));
        }
    }

    #[test]
    fn much_is_reclaimed_at_once_some_after_a_while_and_very_little_later() {
        let due = |bytes, waited, key_bytes| {
            let mut unreclaimed = Unreclaimed::default();
            let space = Space {
                key_bytes,
                ..Space::default()
            };
            let began = Duration::from_secs(100);
            unreclaimed.add(range(1, 2), bytes, began);
            unreclaimed.add(range(2, 3), 0, began + waited);
            let taken = unreclaimed.take_due(began + waited, &space);
            if taken.is_some() {
                assert_eq!(unreclaimed.take_due(began + waited * 100, &space), None);
            }
            taken
        };
        assert_eq!(due(0, RECLAIM_AFTER - Duration::from_secs(1), MIB), None);
        assert!(due(0, RECLAIM_AFTER, SMALL_STORE_BYTES).is_some());
        assert_eq!(due(0, Duration::MAX / 200, SMALL_STORE_BYTES + 1), None);
        let whole = Some(vec![range(1, 3)]);
        let second = Duration::from_secs(1);
        let waited = RECLAIM_AFTER - second;
        assert_eq!(due(32 * MIB, Duration::ZERO, MIB), whole);
        assert_eq!(due(32 * MIB - 1, waited, MIB), None);
        // A sixteenth of what is left, and never more than 256 MiB.
        assert_eq!(due(100 * MIB, waited, 1_701 * MIB), None);
        assert_eq!(due(100 * MIB, waited, 800 * MIB), whole);
        assert_eq!(due(256 * MIB, waited, 2048 * MIB), whole);
        assert_eq!(due(MIB, RECLAIM_AFTER, MIB), whole);
        assert_eq!(due(MIB, RECLAIM_AFTER, 9 * MIB), None);
        assert_eq!(due(MIB, RECLAIM_LITTLE_AFTER, 9 * MIB), whole);
        let none = Unreclaimed::default().take_due(Duration::MAX, &Space::default());
        assert_eq!(none, None);
    }

    #[test]
    fn very_many_ranges_are_merged_seldom_kept_few_and_all_taken() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut unreclaimed = Unreclaimed::default();
        // No two of them touch.
        let mut starts: Vec<u32> = (0..100_000).map(|number| 3 * number).collect();
        rng.shuffle(&mut starts);
        let range = |start: u32| {
            let key = |number: u32| number.to_be_bytes().to_vec();
            (key(start), key(start + 1))
        };
        let mut merges = 0;
        for start in &starts {
            unreclaimed.add(range(*start), 1, Duration::ZERO);
            merges += u32::from(unreclaimed.ranges.len() == unreclaimed.merged);
            assert!(unreclaimed.ranges.len() <= 2 * MOST_KEPT_RANGES);
        }
        assert!((10..60).contains(&merges), "{merges} times");
        let waited = RECLAIM_LITTLE_AFTER;
        let taken = unreclaimed.take_due(waited, &Space::default());
        let taken = taken.expect("it is time");
        assert!(taken.len() <= MOST_RANGES);
        for (from, to) in starts.into_iter().map(range) {
            let at = taken.partition_point(|(first, _)| *first <= from);
            assert!(at > 0 && to <= taken[at - 1].1);
        }
        assert_eq!(unreclaimed.merged, 0);
    }
}
