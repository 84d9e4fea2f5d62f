//! A strict reader of Prometheus' text format (0.0.4), for pages of `/metrics`.
//!
//! It refuses more than Prometheus does: a family comes once, all of it together, with HELP before TYPE before its
//! samples; no series comes twice; histograms have growing buckets that end with the count. Panics with the line.

use std::collections::{BTreeMap, BTreeSet};

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// A page that was read.
#[derive(Debug, Default)]
pub struct Page {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, BTreeMap<Labels, f64>>,
    with_samples: BTreeSet<String>,
}

impl Page {
    /// Reads a page.
    pub fn parse(text: &str) -> Page {
        let mut page = Page::default();
        let mut helped = String::new();
        let mut family = String::new();
        assert!(text.ends_with('\n'), "a page ends with its last line");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                assert!(is_name(name) && !help.is_empty(), "{line}");
                assert!(!page.types.contains_key(name), "a second head: {line}");
                helped = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert_eq!(name, helped, "no HELP before {line}");
                let known = ["counter", "gauge", "histogram"].contains(&kind);
                assert!(known, "{line}");
                page.types.insert(name.to_owned(), kind.to_owned());
                family = name.to_owned();
            } else {
                page.take(&family, line);
            }
        }
        for family in page.types.keys() {
            assert!(page.with_samples.contains(family), "{family} has no sample");
        }
        page.check_histograms();
        page
    }

    fn take(&mut self, family: &str, line: &str) {
        let end = line.find(['{', ' ']).expect(line);
        let (name, mut rest) = line.split_at(end);
        let mut labels = Labels::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, quoted) = rest.split_once("=\"").expect(line);
                assert!(is_name(label) && !label.contains(':'), "{line}");
                let (value, after) = unquoted(quoted, line);
                assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
                rest = after;
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}').expect(line);
        }
        let value: f64 = rest.strip_prefix(' ').expect(line).parse().expect(line);
        assert!(!value.is_nan(), "{line}");
        let kind = self.types.get(family).expect(line);
        let suffix = name.strip_prefix(family);
        let suffix = suffix.unwrap_or_else(|| panic!("{line} stands in {family}"));
        match (kind.as_str(), suffix) {
            ("histogram", "_bucket") => assert!(labels.contains_key("le"), "{line}"),
            ("histogram", "_sum" | "_count") | ("counter" | "gauge", "") => {}
            _ => panic!("{line} stands in {family}"),
        }
        assert!(kind == "gauge" || value >= 0.0, "{line}");
        let series = self.samples.entry(name.to_owned()).or_default();
        assert!(series.insert(labels, value).is_none(), "twice: {line}");
        self.with_samples.insert(family.to_owned());
    }

    fn check_histograms(&self) {
        for (family, _) in self.types.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
            for (labels, value) in &self.samples[&format!("{family}_bucket")] {
                let mut labels = labels.clone();
                let bound = labels.remove("le").expect("checked when it was read");
                let bound = bound.parse().expect("a bound is a number");
                series.entry(labels).or_default().push((bound, *value));
            }
            let counts = &self.samples[&format!("{family}_count")];
            assert_eq!(series.len(), counts.len(), "{family}");
            for (labels, mut buckets) in series {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(buckets.is_sorted_by_key(|bucket| bucket.1), "{family}");
                let last = buckets.last().copied();
                assert_eq!(last, Some((f64::INFINITY, counts[&labels])), "{family}");
            }
        }
    }

    /// The names of all families that have a sample.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.with_samples.iter().map(String::as_str)
    }

    /// Whether a family has a sample.
    pub fn has(&self, family: &str) -> bool {
        self.with_samples.contains(family)
    }

    /// How many samples carry the name.
    pub fn count(&self, name: &str) -> usize {
        self.samples.get(name).map_or(0, BTreeMap::len)
    }

    /// The value of a series, if there is one.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels
            .iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
        self.samples.get(name)?.get(&labels.collect()).copied()
    }
}

fn is_name(text: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(valid)
}

/// A value up to its closing quote, and what follows.
fn unquoted<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        let (at, c) = chars.next().unwrap_or_else(|| panic!("open quote: {line}"));
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('\\' | '"'))) => value.push(c),
                _ => panic!("unknown escape: {line}"),
            },
            c => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# HELP a Some.\n# TYPE a gauge\n";

    fn refused(text: &str) -> bool {
        std::panic::catch_unwind(|| Page::parse(text)).is_err()
    }

    #[test]
    fn samples_are_read_with_their_labels() {
        let page = Page::parse(&format!(
            "{HEAD}a{{x=\"1\\\"\\n\\\\\",y=\",}}\"}} -2\na 3\n"
        ));
        assert_eq!(
            page.value("a", &[("y", ",}"), ("x", "1\"\n\\")]),
            Some(-2.0)
        );
        assert_eq!((page.value("a", &[]), page.count("a")), (Some(3.0), 2));
        assert!(page.has("a") && !page.has("b"));
    }

    #[test]
    fn what_is_not_the_format_is_refused() {
        for text in [
            "a 1\n",
            "# TYPE a gauge\na 1\n",
            &format!("{HEAD}a 1"),
            HEAD,
            &format!("{HEAD}a 1\n{HEAD}a{{x=\"1\"}} 1\n"),
            &format!("{HEAD}a 1\na 1\n"),
            &format!("{HEAD}b 1\n"),
            &format!("{HEAD}a_total 1\n"),
            &format!("{HEAD}a NaN\n"),
            &format!("{HEAD}a\n"),
            &format!("{HEAD}a 1 \n"),
            &format!("{HEAD}a{{}} 1\n"),
            &format!("{HEAD}a{{x=\"1\",}} 1\n"),
            &format!("{HEAD}a{{x=\"1\",x=\"2\"}} 1\n"),
            &format!("{HEAD}a{{x=\"1}} 1\n"),
            &format!("{HEAD}a{{x=\"\\t\"}} 1\n"),
            &format!("{HEAD}a{{1x=\"\"}} 1\n"),
            "# HELP a Some.\n# TYPE a counter\na -1\n",
            "# HELP a Some.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 2\na_sum 1\na_count 1\n",
        ] {
            assert!(refused(text), "{text}");
        }
    }
}
