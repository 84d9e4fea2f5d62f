//! Writes the text exposition format (version 0.0.4) that Prometheus reads.
//!
//! Used by the scrape for everything that is not in a registry: one call for a family's head, one per sample. Knows
//! nothing of Kafka. Writes into one buffer that grows only if it was reserved too small.

use std::fmt::{Display, Write as _};

use super::families::Family;

/// The page being written.
#[derive(Debug, Default)]
pub(super) struct Text {
    out: String,
}

impl Text {
    /// Makes room for so many bytes more.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.out.reserve(bytes);
    }

    /// The two lines that introduce a family. Must come once, before the family's samples.
    pub(super) fn head(&mut self, family: &Family) {
        for (word, text) in [("HELP", family.help), ("TYPE", family.kind.word())] {
            self.out.push_str("# ");
            self.out.push_str(word);
            self.out.push(' ');
            self.out.push_str(family.name);
            self.out.push(' ');
            self.out.push_str(text);
            self.out.push('\n');
        }
    }

    /// One sample; `labels` is empty or a set in braces, made by `labels`.
    pub(super) fn sample(&mut self, family: &Family, labels: &str, value: impl Display) {
        self.out.push_str(family.name);
        self.out.push_str(labels);
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, " {value}");
    }

    /// A family with one sample and no labels.
    pub(super) fn single(&mut self, family: &Family, value: impl Display) {
        self.head(family);
        self.sample(family, "", value);
    }

    /// Appends text that is in the format already.
    pub(super) fn raw(&mut self) -> &mut String {
        &mut self.out
    }

    /// The finished page.
    pub(super) fn into_string(self) -> String {
        self.out
    }
}

/// Label names and values in braces, values escaped.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(64);
    push_labels(&mut out, pairs);
    out
}

/// Appends label names and values in braces, values escaped.
pub(super) fn push_labels(out: &mut String, pairs: &[(&str, &str)]) {
    let mut before = '{';
    for (name, value) in pairs {
        out.push(before);
        before = ',';
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if before == ',' {
        out.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::super::families::Kind;
    use super::*;

    const FAMILY: Family = Family {
        name: "kafka_brokers",
        kind: Kind::Gauge,
        help: "Brokers.",
    };

    #[test]
    fn a_family_has_its_head_and_one_line_per_sample() {
        let mut text = Text::default();
        text.head(&FAMILY);
        text.sample(&FAMILY, &labels(&[("id", "1"), ("address", "a:9")]), -1);
        text.sample(&FAMILY, "", 0.5);
        assert_eq!(
            text.into_string(),
            "# HELP kafka_brokers Brokers.\n# TYPE kafka_brokers gauge\n\
             kafka_brokers{id=\"1\",address=\"a:9\"} -1\nkafka_brokers 0.5\n"
        );
    }

    #[test]
    fn quotes_backslashes_and_line_ends_in_values_are_escaped() {
        assert_eq!(labels(&[]), "");
        assert_eq!(
            labels(&[("topic", "a\"b\\c\nd ü\t")]),
            "{topic=\"a\\\"b\\\\c\\nd ü\t\"}"
        );
    }

    #[test]
    fn values_are_written_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.sample(&FAMILY, "", u64::MAX);
        text.sample(&FAMILY, "", i64::MIN);
        text.sample(&FAMILY, "", 0.000_001_f64);
        text.sample(&FAMILY, "", 3.0_f64);
        assert_eq!(
            text.into_string(),
            "kafka_brokers 18446744073709551615\nkafka_brokers -9223372036854775808\n\
             kafka_brokers 0.000001\nkafka_brokers 3\n"
        );
    }
}
