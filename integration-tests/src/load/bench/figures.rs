//! Measured values of all rounds, by what was measured of whom.

use std::collections::BTreeMap;

use super::broker::{Flush, Product};

/// Values with the same name are of the same kind of thing, whoever was measured.
#[derive(Clone, Debug, Default)]
pub struct Figures(BTreeMap<(String, Product, Flush, String), Vec<f64>>);

impl Figures {
    /// Adds the value of one round.
    pub fn add(&mut self, case: &str, product: Product, flush: Flush, figure: &str, value: f64) {
        self.0
            .entry((case.to_owned(), product, flush, figure.to_owned()))
            .or_default()
            .push(value);
    }

    /// The median of all rounds; of two middle ones their mean.
    pub fn median(&self, case: &str, product: Product, flush: Flush, figure: &str) -> Option<f64> {
        let mut values = self.values(case, product, flush, figure)?.to_vec();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        Some(if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        })
    }

    /// The values of all rounds, in order.
    pub fn values(
        &self,
        case: &str,
        product: Product,
        flush: Flush,
        figure: &str,
    ) -> Option<&[f64]> {
        let key = (case.to_owned(), product, flush, figure.to_owned());
        self.0.get(&key).map(Vec::as_slice)
    }

    /// The sum of all rounds.
    pub fn sum(&self, case: &str, product: Product, flush: Flush, figure: &str) -> Option<f64> {
        Some(self.values(case, product, flush, figure)?.iter().sum())
    }

    /// Whether anything was measured of a case.
    pub fn has(&self, case: &str) -> bool {
        self.0.keys().any(|(measured, ..)| measured == case)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        let mut figures = Figures::default();
        let median = |figures: &Figures| figures.median("c", Product::Ottla, Flush::Fsynced, "f");
        assert_eq!(median(&figures), None);
        for (value, expected) in [(3.0, 3.0), (1.0, 2.0), (10.0, 3.0)] {
            figures.add("c", Product::Ottla, Flush::Fsynced, "f", value);
            assert_eq!(median(&figures), Some(expected));
        }
        assert_eq!(
            figures.sum("c", Product::Ottla, Flush::Fsynced, "f"),
            Some(14.0)
        );
        assert_eq!(
            figures.median("c", Product::Kafka, Flush::Fsynced, "f"),
            None
        );
    }
}
