//! A histogram that answers "how long do the slowest hundredth take" without a lock.
//!
//! Used for the quantile names of Kafka's request metrics. Pure: no clock, no allocation after `new`. Values fall into
//! buckets of a fixed logarithmic scale, 16 to an octave, so an answer is off by at most 1/32 of the true value (exact
//! below 32). Whoever owns the histogram calls `fade` once a minute: each call halves the weight of what was seen
//! before, much as the decaying sample behind Kafka's own quantiles forgets after some minutes.
//!
//! Invariants: a fresh value weighs `FRESH`; the count of values never fades.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Log2 of the buckets per octave.
const PRECISION_BITS: u32 = 4;
/// Buckets per octave.
const PER_OCTAVE: usize = 1 << PRECISION_BITS;
/// Values from 2^36 up share the last bucket: 19 hours in microseconds, 64 GiB in bytes.
const TOP_BITS: u32 = 36;
const BUCKETS: usize = (TOP_BITS - PRECISION_BITS + 1) as usize * PER_OCTAVE;
/// The weight of a value that has not faded yet: the eleventh halving forgets it.
const FRESH: u64 = 1 << 10;

/// A fading log-scale histogram of integers.
pub(crate) struct FadingHistogram {
    weights: Box<[AtomicU64]>,
    count: AtomicU64,
}

impl FadingHistogram {
    /// An empty histogram; 4 KiB.
    pub(crate) fn new() -> Self {
        Self {
            weights: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
        }
    }

    /// Takes note of one value.
    pub(crate) fn record(&self, value: u64) {
        self.weights[bucket_of(value)].fetch_add(FRESH, Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    /// How many values were ever recorded.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Halves the weight of everything recorded so far.
    pub(crate) fn fade(&self) {
        for weight in &self.weights {
            if weight.load(Relaxed) > 0 {
                // A loop in `fetch_update` keeps what is recorded meanwhile; the closure always answers `Some`.
                let _ = weight.fetch_update(Relaxed, Relaxed, |weight| Some(weight / 2));
            }
        }
    }

    /// The values below which that many thousandths of the weight lie (nearest rank); zeros if nothing is left.
    pub(crate) fn quantiles<const N: usize>(&self, permille: [u64; N]) -> [f64; N] {
        let weights: Vec<u64> = self.weights.iter().map(|w| w.load(Relaxed)).collect();
        let total: u64 = weights.iter().sum();
        permille.map(|permille| {
            if total == 0 {
                return 0.0;
            }
            let rank = (u128::from(total) * u128::from(permille)).div_ceil(1_000);
            let mut seen = 0u128;
            let bucket = weights.iter().position(|&weight| {
                seen += u128::from(weight);
                weight > 0 && seen >= rank
            });
            middle_of(bucket.unwrap_or(BUCKETS - 1))
        })
    }
}

/// The bucket a value falls into: one per value below 32, then 16 per octave.
fn bucket_of(value: u64) -> usize {
    let octave = u64::BITS - (value >> PRECISION_BITS).leading_zeros();
    if octave == 0 {
        return value as usize;
    }
    // The highest bit names the octave, the four bits below it the bucket inside.
    let within = (value >> (octave - 1)) as usize & (PER_OCTAVE - 1);
    (octave as usize * PER_OCTAVE + within).min(BUCKETS - 1)
}

/// The middle of a bucket's values.
fn middle_of(bucket: usize) -> f64 {
    if bucket < PER_OCTAVE {
        return bucket as f64;
    }
    let shift = (bucket / PER_OCTAVE - 1) as u32;
    let first = ((PER_OCTAVE + bucket % PER_OCTAVE) as u64) << shift;
    let last = first + (1u64 << shift) - 1;
    (first + last) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERMILLE: [u64; 8] = [0, 500, 750, 950, 980, 990, 999, 1_000];

    /// The exact answer, by sorting.
    fn nearest_rank(sorted: &[u64], permille: u64) -> u64 {
        let rank = (sorted.len() as u64 * permille).div_ceil(1_000).max(1);
        sorted[rank as usize - 1]
    }

    fn assert_close(estimate: f64, exact: u64, context: &str) {
        let allowed = if exact < 32 { 0.0 } else { exact as f64 / 32.0 };
        let off = (estimate - exact as f64).abs();
        assert!(
            off <= allowed,
            "{context}: {estimate} for {exact}, allowed {allowed}"
        );
    }

    #[test]
    fn every_value_lies_in_the_bucket_that_stands_for_it() {
        for value in (0..100_000u64).chain((17..TOP_BITS).flat_map(|bit| {
            let edge = 1u64 << bit;
            [edge - 1, edge, edge + 1]
        })) {
            assert_close(middle_of(bucket_of(value)), value, "bucket middle");
        }
    }

    #[test]
    fn buckets_grow_with_values_and_leave_no_gap() {
        let mut last = 0;
        for value in 0..1_000_000 {
            let bucket = bucket_of(value);
            assert!(bucket == last || bucket == last + 1, "value {value}");
            last = bucket;
        }
    }

    #[test]
    fn values_beyond_the_scale_fall_into_the_last_bucket() {
        assert_eq!(bucket_of((1 << TOP_BITS) - 1), BUCKETS - 1);
        assert_eq!(bucket_of(1 << TOP_BITS), BUCKETS - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_empty_histogram_answers_zero() {
        let histogram = FadingHistogram::new();
        assert_eq!(histogram.quantiles(PERMILLE), [0.0; 8]);
        assert_eq!(histogram.count(), 0);
    }

    #[test]
    fn quantiles_stay_within_their_bound_for_any_mix_of_values() {
        for seed in 0..4_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let widest = rng.u32(1..TOP_BITS);
            let mut values: Vec<u64> = (0..rng.usize(1..400))
                .map(|_| {
                    let bits = rng.u32(0..=widest);
                    rng.u64(0..1u64 << bits)
                })
                .collect();
            let histogram = FadingHistogram::new();
            values.iter().for_each(|&value| histogram.record(value));
            values.sort_unstable();
            assert_eq!(histogram.count(), values.len() as u64, "seed {seed}");
            for (permille, estimate) in PERMILLE.into_iter().zip(histogram.quantiles(PERMILLE)) {
                let exact = nearest_rank(&values, permille);
                assert_close(
                    estimate,
                    exact,
                    &format!("seed {seed}, {permille} permille"),
                );
            }
        }
    }

    #[test]
    fn quantiles_never_fall_as_the_share_grows() {
        for seed in 0..1_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let histogram = FadingHistogram::new();
            for _ in 0..rng.usize(1..200) {
                let bits = rng.u32(0..64);
                histogram.record(rng.u64(..) >> bits);
                if rng.u8(0..20) == 0 {
                    histogram.fade();
                }
            }
            let answers = histogram.quantiles(PERMILLE);
            assert!(answers.is_sorted(), "seed {seed}: {answers:?}");
        }
    }

    #[test]
    fn what_came_lately_outweighs_what_was_long_ago() {
        let histogram = FadingHistogram::new();
        (0..1_000).for_each(|_| histogram.record(1_000_000));
        for _ in 0..4 {
            histogram.fade();
        }
        (0..1_000).for_each(|_| histogram.record(10));
        let [median, p99] = histogram.quantiles([500, 990]);
        assert_eq!(median, 10.0);
        assert_close(
            p99,
            1_000_000,
            "a sixteenth of a thousand is still over a hundredth",
        );
        for _ in 0..4 {
            histogram.fade();
            (0..1_000).for_each(|_| histogram.record(10));
        }
        assert_eq!(histogram.quantiles([990]), [10.0]);
        assert_eq!(histogram.count(), 6_000);
    }

    #[test]
    fn after_eleven_quiet_rounds_nothing_is_left_of_one_value() {
        let histogram = FadingHistogram::new();
        histogram.record(77);
        for _ in 0..10 {
            assert_close(histogram.quantiles([999])[0], 77, "not yet");
            histogram.fade();
        }
        histogram.fade();
        assert_eq!(histogram.quantiles([999]), [0.0]);
    }

    #[test]
    fn threads_that_record_together_lose_nothing() {
        let histogram = FadingHistogram::new();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let histogram = &histogram;
                scope.spawn(move || {
                    (0..10_000).for_each(|n| histogram.record(thread * 10_000 + n));
                });
            }
        });
        assert_eq!(histogram.count(), 40_000);
        assert_close(
            histogram.quantiles([500])[0],
            20_000,
            "median of four threads",
        );
    }
}
