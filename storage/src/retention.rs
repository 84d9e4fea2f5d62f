//! Retention, pure: a policy and facts about a log give the offset that its log start moves to.
//!
//! Called by `log/retain.rs`, which feeds the pieces of a log in order of their offsets: whole chunks, and the batches of
//! the one chunk that has to be looked into. It reads no clock and no store, and deletes nothing.
//!
//! The rules are Kafka's (`UnifiedLog.deleteRetentionSizeBreachedSegments`, then
//! `deleteRetentionMsBreachedSegments`), with a batch in the place of a segment:
//! * by size: the front goes while what is left still has at least `retention.bytes`;
//! * by time: then the front goes while its greatest timestamp is older than `retention.ms`. One batch that is younger,
//!   or has a timestamp in the future, keeps all that follows it;
//! * nothing at or above the high watermark goes, and a log may become empty.
//!
//! A batch without a timestamp (-1) says nothing about its age: it goes with the next one that has one.

use crate::partition::Chunk;

/// What a topic's configuration says about old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// `retention.ms`: records older than this go; `None`: age does not matter.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`: the log keeps at least this many bytes; `None`: size does not matter.
    pub retention_bytes: Option<u64>,
}

impl Policy {
    /// Everything is kept for ever: `cleanup.policy` is empty, or only `compact`.
    pub const KEEP: Policy = Policy {
        retention_ms: None,
        retention_bytes: None,
    };

    /// The policy of `cleanup.policy=delete`, in Kafka's numbers: a negative one is no limit.
    pub fn delete(retention_ms: i64, retention_bytes: i64) -> Self {
        Self {
            retention_ms: (retention_ms >= 0).then_some(retention_ms),
            retention_bytes: u64::try_from(retention_bytes).ok(),
        }
    }

    /// Whether a batch with this greatest timestamp is too old at `now_ms`.
    pub fn has_expired(&self, max_timestamp: i64, now_ms: i64) -> bool {
        self.retention_ms
            .is_some_and(|kept_ms| now_ms.saturating_sub(max_timestamp) > kept_ms)
    }
}

/// What there is to know of a log before its pieces are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The wall clock, in milliseconds since 1970.
    pub now_ms: i64,
    /// First offset a client may read.
    pub log_start: i64,
    /// First offset that must stay, whatever the policy says.
    pub high_watermark: i64,
    /// Bytes of all batches that are held.
    pub size_bytes: u64,
    /// A closed chunk that expires as a whole within this time is waited for rather than read.
    pub patience_ms: i64,
}

/// What to do with a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken; the next piece may follow.
    Take,
    /// Not all of it goes, but perhaps its first batches do.
    LookInside,
    /// It stays, and so does all that follows.
    Stop,
}

/// The way from the log start on, one piece after the other.
#[derive(Debug)]
pub struct Walk {
    policy: Policy,
    facts: Facts,
    /// Bytes that may go by size.
    excess: u64,
    by_size: bool,
    start: i64,
    bytes: u64,
    /// End and bytes of what was walked over, pieces without a timestamp at its end included.
    walked: (i64, u64),
}

impl Walk {
    /// At the log start.
    pub fn new(policy: Policy, facts: Facts) -> Self {
        let kept = policy.retention_bytes;
        Self {
            policy,
            facts,
            excess: kept.map_or(0, |kept| facts.size_bytes.saturating_sub(kept)),
            by_size: kept.is_some(),
            start: facts.log_start,
            bytes: 0,
            walked: (facts.log_start, 0),
        }
    }

    /// Whether the policy can take anything from a log with these facts, whatever its pieces are.
    pub fn can_take(policy: &Policy, facts: &Facts) -> bool {
        let too_large = policy
            .retention_bytes
            .is_some_and(|kept| facts.size_bytes > kept);
        facts.log_start < facts.high_watermark && (too_large || policy.retention_ms.is_some())
    }

    /// Takes the next chunk, whole or not at all.
    pub fn chunk(&mut self, chunk: &Chunk) -> Verdict {
        match self.batch(chunk) {
            Verdict::Stop if self.is_worth_reading(chunk) => Verdict::LookInside,
            verdict => verdict,
        }
    }

    /// Takes the next batch, or stops at it.
    pub fn batch(&mut self, batch: &Chunk) -> Verdict {
        if batch.end_offset > self.facts.high_watermark {
            return Verdict::Stop;
        }
        if self.by_size && self.excess >= batch.bytes {
            self.excess -= batch.bytes;
            self.step(batch);
            self.settle();
            return Verdict::Take;
        }
        if batch.max_timestamp < 0 && self.policy.retention_ms.is_some() {
            self.by_size = false;
            self.step(batch);
            return Verdict::Take;
        }
        if !self
            .policy
            .has_expired(batch.max_timestamp, self.facts.now_ms)
        {
            return Verdict::Stop;
        }
        self.by_size = false;
        self.step(batch);
        self.settle();
        Verdict::Take
    }

    /// Whether some of a chunk's batches may go now although all of them do not.
    fn is_worth_reading(&self, chunk: &Chunk) -> bool {
        if self.by_size && self.excess > 0 {
            return true;
        }
        let soon = self.facts.now_ms.saturating_add(self.facts.patience_ms);
        self.policy.retention_ms.is_some() && !self.policy.has_expired(chunk.max_timestamp, soon)
    }

    fn step(&mut self, piece: &Chunk) {
        self.walked = (piece.end_offset, self.walked.1 + piece.bytes);
    }

    fn settle(&mut self) {
        (self.start, self.bytes) = self.walked;
    }

    /// Where the log start goes: the end of the last piece that goes for sure.
    pub fn log_start(&self) -> i64 {
        self.start
    }

    /// Bytes of what goes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn batch(base_offset: i64, count: i64, bytes: u64, max_timestamp: i64) -> Chunk {
        Chunk {
            base_offset,
            end_offset: base_offset + count,
            bytes,
            max_timestamp,
        }
    }

    fn facts(log_start: i64, batches: &[Chunk]) -> Facts {
        Facts {
            now_ms: NOW,
            log_start,
            high_watermark: batches.last().map_or(log_start, |last| last.end_offset),
            size_bytes: batches.iter().map(|batch| batch.bytes).sum(),
            patience_ms: 0,
        }
    }

    fn walk(policy: Policy, facts: Facts, batches: &[Chunk]) -> (i64, u64) {
        let mut walk = Walk::new(policy, facts);
        for batch in batches {
            if walk.batch(batch) != Verdict::Take {
                break;
            }
        }
        (walk.log_start(), walk.bytes())
    }

    /// One after the other, as Kafka's two passes do it.
    fn naive(policy: Policy, facts: Facts, batches: &[Chunk]) -> (i64, u64) {
        let deletable = |batch: &&Chunk| batch.end_offset <= facts.high_watermark;
        let mut left: &[Chunk] = batches;
        if let Some(kept) = policy.retention_bytes {
            while left.first().filter(deletable).is_some() {
                let rest: u64 = left[1..].iter().map(|batch| batch.bytes).sum();
                if rest < kept {
                    break;
                }
                left = &left[1..];
            }
        }
        if let Some(kept_ms) = policy.retention_ms {
            while let Some(first) = left.first().filter(deletable) {
                if NOW - first.max_timestamp <= kept_ms {
                    break;
                }
                left = &left[1..];
            }
        }
        let gone = &batches[..batches.len() - left.len()];
        let start = gone.last().map_or(facts.log_start, |last| last.end_offset);
        (start, gone.iter().map(|batch| batch.bytes).sum())
    }

    fn any_log(rng: &mut fastrand::Rng) -> Vec<Chunk> {
        let mut offset = rng.i64(0..50);
        let mut clock = NOW - rng.i64(0..400);
        let log = (0..rng.usize(0..40)).map(|_| {
            let count = rng.i64(1..5);
            // Mostly in order, some late, some ahead of the clock.
            clock += rng.i64(-20..40);
            let made = batch(offset, count, rng.u64(1..100), clock);
            // Compaction leaves gaps.
            offset += count + i64::from(rng.u8(0..8) == 0);
            made
        });
        log.collect()
    }

    fn any_policy(rng: &mut fastrand::Rng) -> Policy {
        Policy::delete(rng.i64(-1..500), rng.i64(-1..2_000))
    }

    #[test]
    fn it_does_what_kafkas_two_passes_do() {
        for seed in 0..20_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let log = any_log(&mut rng);
            let policy = any_policy(&mut rng);
            let mut facts = facts(log.first().map_or(0, |first| first.base_offset), &log);
            facts.high_watermark -= rng.i64(0..20).min(facts.high_watermark - facts.log_start);
            let expected = naive(policy, facts, &log);
            assert_eq!(walk(policy, facts, &log), expected, "seed {seed}");
            assert!(expected.0 <= facts.high_watermark.max(facts.log_start));
            if expected.1 > 0 {
                assert!(Walk::can_take(&policy, &facts), "seed {seed}");
            }
        }
    }

    #[test]
    fn chunks_give_what_their_batches_give() {
        for seed in 0..20_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let log = any_log(&mut rng);
            let policy = any_policy(&mut rng);
            let facts = facts(log.first().map_or(0, |first| first.base_offset), &log);
            let mut walk = Walk::new(policy, facts);
            let mut left = log.as_slice();
            while !left.is_empty() {
                let (inside, rest) = left.split_at(rng.usize(1..=left.len()));
                left = rest;
                let chunk = Chunk {
                    base_offset: inside[0].base_offset,
                    end_offset: inside[inside.len() - 1].end_offset,
                    bytes: inside.iter().map(|batch| batch.bytes).sum(),
                    max_timestamp: inside
                        .iter()
                        .map(|batch| batch.max_timestamp)
                        .max()
                        .expect("one"),
                };
                match walk.chunk(&chunk) {
                    Verdict::Take => continue,
                    Verdict::LookInside => {
                        let all = inside.iter().all(|one| walk.batch(one) == Verdict::Take);
                        // First by size, then by time: only then all of them go one by one.
                        if all {
                            continue;
                        }
                    }
                    Verdict::Stop => {}
                }
                break;
            }
            let expected = naive(policy, facts, &log);
            assert_eq!((walk.log_start(), walk.bytes()), expected, "seed {seed}");
        }
    }

    #[test]
    fn a_chunk_about_to_expire_is_waited_for_and_a_longer_one_is_read() {
        let policy = Policy::delete(100, -1);
        let verdict = |max_timestamp| {
            let chunk = batch(0, 10, 10, max_timestamp);
            let facts = Facts {
                patience_ms: 50,
                ..facts(0, &[chunk])
            };
            Walk::new(policy, facts).chunk(&chunk)
        };
        assert_eq!(verdict(NOW - 101), Verdict::Take);
        assert_eq!(verdict(NOW - 100), Verdict::Stop);
        assert_eq!(verdict(NOW - 51), Verdict::Stop);
        assert_eq!(verdict(NOW - 50), Verdict::LookInside);
        assert_eq!(verdict(NOW + 9_000), Verdict::LookInside);
    }

    #[test]
    fn a_timestamp_in_the_future_keeps_what_follows() {
        let log = [
            batch(0, 1, 10, NOW - 500),
            batch(1, 1, 10, NOW + 500),
            batch(2, 1, 10, NOW - 500),
        ];
        let policy = Policy::delete(100, -1);
        assert_eq!(walk(policy, facts(0, &log), &log), (1, 10));
    }

    #[test]
    fn the_only_batch_goes_when_it_is_old_and_stays_for_its_size() {
        let log = [batch(7, 1, 10, NOW - 101)];
        let by = |ms, bytes| walk(Policy::delete(ms, bytes), facts(7, &log), &log).0;
        assert_eq!(by(100, -1), 8);
        assert_eq!(by(101, -1), 7, "not older than retention.ms");
        assert_eq!(by(-1, 1), 7, "the rest would have less");
        assert_eq!(by(-1, 0), 8, "an empty rest has 0 bytes");
        assert_eq!(by(-1, -1), 7);
        assert_eq!(walk(Policy::KEEP, facts(7, &log), &log), (7, 0));
    }

    #[test]
    fn a_batch_without_a_timestamp_goes_with_the_next_one_that_has_one() {
        let untimed = |base| batch(base, 1, 10, -1);
        let policy = Policy::delete(100, -1);
        let log = [untimed(0), untimed(1)];
        assert_eq!(walk(policy, facts(0, &log), &log), (0, 0));
        let log = [untimed(0), batch(1, 1, 10, NOW), untimed(2)];
        assert_eq!(walk(policy, facts(0, &log), &log), (0, 0));
        let log = [untimed(0), batch(1, 1, 10, 5), untimed(2)];
        assert_eq!(walk(policy, facts(0, &log), &log), (2, 20));
        // By size it needs no timestamp.
        let policy = Policy::delete(100, 15);
        let log = [untimed(0), untimed(1), untimed(2)];
        assert_eq!(walk(policy, facts(0, &log), &log), (1, 10));
    }
}
