//! The tables of a comparison, as Markdown.
//!
//! Every ratio is Ottla's median over Kafka's. A dash stands for what was not measured.

use super::broker::{Flush, Product};
use super::cases::{DISK_STOOD_STILL, PRODUCING};
use super::figures::Figures;
use crate::load::failed;

const BEGIN: &str = "<!-- generated: bench -->";
const END: &str = "<!-- end -->";

/// What is known besides the figures.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Versions, lengths and rounds, a sentence each.
    pub conditions: Vec<String>,
    /// What the disk did by itself, name and value.
    pub disk: Vec<(String, String)>,
}

/// All tables.
pub fn markdown(figures: &Figures, facts: &Facts) -> String {
    let mut text = String::new();
    for condition in &facts.conditions {
        text += &format!("- {condition}\n");
    }
    if !facts.disk.is_empty() {
        text += "\n### The disk by itself\n\n| | |\n|---|---:|\n";
        for (name, value) in &facts.disk {
            text += &format!("| {name} | {value} |\n");
        }
    }
    for producing in PRODUCING.iter().filter(|each| figures.has(each.case)) {
        text += &format!("\n### Produce: {}\n\n", producing.title);
        let first = if producing.by_requests {
            [("requests/s", true), ("MB/s", true)]
        } else {
            [("MB/s", true), ("requests/s", true)]
        };
        let rest = [
            ("p50 ms", false),
            ("p99 ms", false),
            ("p99.9 ms", false),
            ("worst ms", false),
            (DISK_STOOD_STILL, false),
            ("CPU s/GB", false),
            ("load CPU s/GB", false),
            ("written/received", false),
            ("peak RSS MB", false),
            ("syncs per 1,000 requests", false),
        ];
        let rows: Vec<_> = first.into_iter().chain(rest).collect();
        text += &both_flushes(figures, producing.case, &rows);
    }
    if figures.has("latency") {
        text += "\n### End to end at 1,000 records/s\n\n";
        let rows = ["p50 ms", "p99 ms", "p99.9 ms", "worst ms"].map(|name| (name, false));
        text += &both_flushes(figures, "latency", &rows);
    }
    text += &beside(figures);
    text += &others(figures);
    text += &read_back(figures);
    text
}

/// Fsynced and relaxed side by side. The last ratio is Ottla's promise: synced, against Kafka without.
fn both_flushes(figures: &Figures, case: &str, rows: &[(&str, bool)]) -> String {
    use Flush::{Fsynced, Relaxed};
    use Product::{Kafka, Ottla};
    let mut text = "| | better | Ottla fsynced | Kafka fsynced | ratio | Ottla relaxed | Kafka relaxed | ratio \
                    | Ottla fsynced / Kafka relaxed |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for (figure, more_is_better) in rows {
        let value = |product, flush| figures.median(case, product, flush, figure);
        let (ottla, kafka) = (value(Ottla, Fsynced), value(Kafka, Fsynced));
        let (ottla_relaxed, kafka_relaxed) = (value(Ottla, Relaxed), value(Kafka, Relaxed));
        if [ottla, kafka, ottla_relaxed, kafka_relaxed]
            .iter()
            .all(Option::is_none)
        {
            continue;
        }
        text += &format!(
            "| {figure} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            better(*more_is_better),
            shown(ottla),
            shown(kafka),
            ratio(ottla, kafka),
            shown(ottla_relaxed),
            shown(kafka_relaxed),
            ratio(ottla_relaxed, kafka_relaxed),
            ratio(ottla, kafka_relaxed),
        );
    }
    text
}

fn beside(figures: &Figures) -> String {
    let mut text = String::new();
    for (case, title) in [
        ("beside quiet", "nothing else"),
        (
            "beside catching up",
            "a consumer that catches up from the disk",
        ),
        ("beside cleaning", "retention and compaction"),
    ] {
        for product in [Product::Ottla, Product::Kafka] {
            let value = |case, figure| figures.median(case, product, Flush::Fsynced, figure);
            let Some(p99) = value(case, "p99 ms") else {
                continue;
            };
            text += &format!(
                "| {title} | {} | {} | {} | {} | {} |\n",
                product.name(),
                shown(value(case, "p50 ms")),
                number(p99),
                shown(value(case, "p99.9 ms")),
                ratio(Some(p99), value("beside quiet", "p99 ms")),
            );
        }
    }
    if text.is_empty() {
        return text;
    }
    format!(
        "\n### End to end at 1,000 records/s, fsynced, beside other work\n\n\
         | beside | | p50 ms | p99 ms | p99.9 ms | p99 / quiet p99 |\n|---|---|---:|---:|---:|---:|\n{text}"
    )
}

fn others(figures: &Figures) -> String {
    use Flush::{Fsynced, Relaxed};
    let rows = [
        (
            "Consume cold, from the disk: MB/s",
            "consume-cold",
            Relaxed,
            "MB/s",
            true,
        ),
        (
            "Consume cold: broker's CPU s/GB",
            "consume-cold",
            Relaxed,
            "CPU s/GB",
            false,
        ),
        (
            "Consume warm, 2 GB over and over: MB/s",
            "consume-warm",
            Relaxed,
            "MB/s",
            true,
        ),
        (
            "Consume warm: broker's CPU s/GB",
            "consume-warm",
            Relaxed,
            "CPU s/GB",
            false,
        ),
        (
            "Consume the tail, the newest 36 MB: MB/s",
            "consume-tail",
            Relaxed,
            "MB/s",
            true,
        ),
        (
            "Consume the tail: broker's CPU s/GB",
            "consume-tail",
            Relaxed,
            "CPU s/GB",
            false,
        ),
        (
            "First start to first answer: s",
            "start",
            Fsynced,
            "first answer s",
            false,
        ),
        (
            "Start after a kill to first answer: s",
            "start",
            Fsynced,
            "first answer after kill s",
            false,
        ),
        (
            "Resident memory when idle: MB",
            "start",
            Fsynced,
            "idle RSS MB",
            false,
        ),
        (
            "Connect, ApiVersions, close: connections/s",
            "connections",
            Fsynced,
            "connections/s",
            true,
        ),
        (
            "1,000 new partitions, CreateTopics answered: s",
            "partitions",
            Fsynced,
            "created s",
            false,
        ),
        (
            "1,000 new partitions, each written once: s",
            "partitions",
            Fsynced,
            "written once s",
            false,
        ),
        (
            "Resident memory then: MB",
            "partitions",
            Fsynced,
            "RSS MB",
            false,
        ),
    ];
    let mut text = String::new();
    for (title, case, flush, figure, more_is_better) in rows {
        let value = |product| figures.median(case, product, flush, figure);
        let (ottla, kafka) = (value(Product::Ottla), value(Product::Kafka));
        if ottla.is_some() || kafka.is_some() {
            text += &format!(
                "| {title} | {} | {} | {} | {} |\n",
                better(more_is_better),
                shown(ottla),
                shown(kafka),
                ratio(ottla, kafka)
            );
        }
    }
    if text.is_empty() {
        return text;
    }
    format!(
        "\n### Consume, start, connections, partitions\n\n\
         | | better | Ottla | Kafka | ratio |\n|---|---|---:|---:|---:|\n{text}"
    )
}

fn read_back(figures: &Figures) -> String {
    let mut text = String::new();
    for producing in PRODUCING {
        for product in [Product::Ottla, Product::Kafka] {
            let sum = |figure| figures.sum(producing.case, product, Flush::Fsynced, figure);
            let Some(acknowledged) = sum("acknowledged") else {
                continue;
            };
            let started = figures.median(
                producing.case,
                product,
                Flush::Fsynced,
                "start after kill s",
            );
            text += &format!(
                "| {} | {} | {} | {acknowledged} | {} | {} |\n",
                producing.title,
                product.name(),
                shown(sum("read back GB")),
                sum("missing").unwrap_or(0.0),
                shown(started)
            );
        }
    }
    if text.is_empty() {
        return text;
    }
    format!(
        "\n### Read back after kill -9 under load, fsynced\n\n\
         | | | GB in the log | batches acknowledged | missing | s from start to first answer |\n\
         |---|---|---:|---:|---:|---:|\n{text}"
    )
}

fn better(more: bool) -> &'static str {
    if more { "more" } else { "less" }
}

fn shown(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), number)
}

fn ratio(ottla: Option<f64>, kafka: Option<f64>) -> String {
    match (ottla, kafka) {
        (Some(ottla), Some(kafka)) if kafka > 0.0 => format!("**{}**", number(ottla / kafka)),
        _ => "–".to_owned(),
    }
}

/// A number with about three digits that say something.
pub fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => thousands(value.round() as i64),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn thousands(value: i64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A document with the part between its markers exchanged; everything else stays.
pub fn put_between_markers(document: &str, tables: &str) -> std::io::Result<String> {
    let missing = || failed(format!("the document has no {BEGIN} ... {END}"));
    let (before, rest) = document.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!(
        "{before}{BEGIN}\n\n{}\n\n{END}{after}",
        tables.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_about_three_digits() {
        let shown = [0.0123, 0.5, 12.34, 123.4, 1234.0, 1_234_567.0].map(number);
        assert_eq!(
            shown,
            ["0.012", "0.50", "12.3", "123", "1,234", "1,234,567"]
        );
    }

    #[test]
    fn only_what_stands_between_the_markers_is_exchanged() {
        let document = format!("# A\n{BEGIN}\nold\n{END}\n## Causes\nby hand\n");
        let once = put_between_markers(&document, "new\n").unwrap();
        assert_eq!(
            once,
            format!("# A\n{BEGIN}\n\nnew\n\n{END}\n## Causes\nby hand\n")
        );
        assert_eq!(put_between_markers(&once, "new").unwrap(), once);
        assert!(put_between_markers("# A\n", "new").is_err());
    }

    #[test]
    fn a_table_has_ratios_of_ottla_to_kafka_and_dashes_for_the_rest() {
        let mut figures = Figures::default();
        figures.add("produce-1m", Product::Ottla, Flush::Fsynced, "MB/s", 300.0);
        figures.add("produce-1m", Product::Kafka, Flush::Relaxed, "MB/s", 200.0);
        let text = markdown(&figures, &Facts::default());
        let row = "| MB/s | more | 300 | – | – | – | 200 | – | **1.50** |";
        assert!(text.contains(row), "{text}");
        assert!(
            !text.contains("64 KiB") && !text.contains("requests/s"),
            "{text}"
        );
    }
}
