//! Quantiles of durations, exact: all values are kept.

use std::time::Duration;

/// Durations in whole microseconds; above an hour they count as an hour and eleven minutes.
#[derive(Clone, Debug, Default)]
pub struct Quantiles {
    microseconds: Vec<u32>,
    sorted: bool,
}

impl Quantiles {
    /// Adds a value.
    pub fn add(&mut self, value: Duration) {
        self.microseconds
            .push(u32::try_from(value.as_micros()).unwrap_or(u32::MAX));
        self.sorted = false;
    }

    /// Adds all values of another.
    pub fn merge(&mut self, other: &Quantiles) {
        self.microseconds.extend_from_slice(&other.microseconds);
        self.sorted = false;
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.microseconds.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.microseconds.is_empty()
    }

    /// The least value that a share of all values does not exceed, in milliseconds; 0 without values.
    pub fn ms(&mut self, share: f64) -> f64 {
        if self.microseconds.is_empty() {
            return 0.0;
        }
        if !self.sorted {
            self.microseconds.sort_unstable();
            self.sorted = true;
        }
        let rank = (share * self.microseconds.len() as f64).ceil() as usize;
        let index = rank.clamp(1, self.microseconds.len()) - 1;
        f64::from(self.microseconds[index]) / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_added() {
        let mut quantiles = Quantiles::default();
        assert_eq!(quantiles.ms(0.5), 0.0);
        for ms in (1..=1_000).rev() {
            quantiles.add(Duration::from_millis(ms));
        }
        assert_eq!(quantiles.ms(0.5), 500.0);
        assert_eq!(quantiles.ms(0.99), 990.0);
        assert_eq!(quantiles.ms(0.999), 999.0);
        assert_eq!(quantiles.ms(1.0), 1_000.0);
        assert_eq!(quantiles.ms(0.0), 1.0);
    }
}
