//! What commands print: aligned tables for people, one JSON object a line for programs, progress on a terminal.
//!
//! Results go to standard output and nothing else does; progress and remarks go to standard error, progress only if
//! that is a terminal. Cells are printed on one line whatever a broker put into them.

use std::fmt::Display;
use std::io::{BufWriter, IsTerminal, Stdout, Write};

use serde_json::Value;

use super::failure::{Failure, Result};
use super::on_one_line;

/// Standard output, buffered; whoever writes says when it is to be seen.
pub struct Out {
    writer: BufWriter<Stdout>,
    json: bool,
}

impl Out {
    /// For people, or for programs.
    pub fn new(json: bool) -> Self {
        Self {
            writer: BufWriter::with_capacity(64 * 1024, std::io::stdout()),
            json,
        }
    }

    /// Whether a program reads it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// One object on a line of its own.
    pub fn object(&mut self, value: &Value) -> Result<()> {
        self.line(value)
    }

    /// A line of text.
    pub fn line(&mut self, text: impl Display) -> Result<()> {
        writeln!(self.writer, "{text}").map_err(|error| Failure::output(&error))
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer
            .write_all(bytes)
            .map_err(|error| Failure::output(&error))
    }

    /// Shows what was written so far.
    pub fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(|error| Failure::output(&error))
    }

    /// A row each as an object for programs, or all as a table for people.
    pub fn rows(&mut self, table: &Table, objects: &[Value]) -> Result<()> {
        if self.json {
            for object in objects {
                self.object(object)?;
            }
            return Ok(());
        }
        self.bytes(table.to_text().as_bytes())
    }
}

/// Rows under a header.
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one.
    pub fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Appends a row with as many cells as the header has.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.header.len(), "a cell under each heading");
        self.rows
            .push(cells.iter().map(|cell| on_one_line(cell)).collect());
    }

    /// Columns two spaces apart, numbers to the right, nothing behind the last character of a line.
    pub fn to_text(&self) -> String {
        let columns = self.header.len();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(self.header[column].len())
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let is_number = |cell: &str| cell == "-" || cell.parse::<f64>().is_ok();
        let numeric: Vec<bool> = (0..columns)
            .map(|column| {
                !self.rows.is_empty() && self.rows.iter().all(|row| is_number(&row[column]))
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (column, cell) in cells.enumerate() {
                if column > 0 {
                    line.push_str("  ");
                }
                let room = widths[column];
                if numeric[column] {
                    line.push_str(&format!("{cell:>room$}"));
                } else {
                    line.push_str(&format!("{cell:<room$}"));
                }
            }
            format!("{}\n", line.trim_end())
        };
        let mut text = line(&mut self.header.iter().copied());
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
        }
        text
    }
}

/// A remark beside the results.
pub fn remark(text: impl Display) {
    eprintln!("ottla: {}", on_one_line(&text.to_string()));
}

/// A line on the terminal that is overwritten as work goes on; nothing where standard error is no terminal.
pub struct Progress {
    shown: bool,
    terminal: bool,
    next_ms: u128,
    began: tokio::time::Instant,
}

impl Progress {
    const EVERY_MS: u128 = 500;

    /// Begins now.
    pub fn new() -> Self {
        Self {
            shown: false,
            terminal: std::io::stderr().is_terminal(),
            next_ms: Self::EVERY_MS,
            began: tokio::time::Instant::now(),
        }
    }

    /// Seconds so far.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Shows the text, at most twice a second.
    pub fn show(&mut self, text: impl FnOnce(f64) -> String) {
        if !self.terminal || self.began.elapsed().as_millis() < self.next_ms {
            return;
        }
        eprint!("\r\u{1b}[K{}", text(self.seconds()));
        self.shown = true;
        self.next_ms = self.began.elapsed().as_millis() + Self::EVERY_MS;
    }

    /// Wipes the line.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\u{1b}[K");
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// How much of a known number of bytes is done: a bar on a terminal, elsewhere a line for each tenth. On standard error.
pub struct Bar {
    progress: Progress,
    total: u64,
    done: u64,
    told: u64,
}

impl Bar {
    const WIDTH: u64 = 30;

    /// Begins now, with nothing done.
    pub fn new(total: u64) -> Self {
        Self {
            progress: Progress::new(),
            total: total.max(1),
            done: 0,
            told: 0,
        }
    }

    /// So many bytes more are done.
    pub fn passed(&mut self, bytes: u64) {
        self.done += bytes;
        let (done, total) = (self.done.min(self.total), self.total);
        if self.progress.terminal {
            self.progress.show(|seconds| bar(done, total, seconds));
            return;
        }
        let tenths = done * 10 / total;
        if tenths > self.told {
            self.told = tenths;
            remark(format_args!("{} % of {}", tenths * 10, size(total)));
        }
    }

    /// All is done, or there is no more to do; wipes the bar.
    pub fn end(&mut self) {
        self.passed(self.total);
        self.progress.end();
    }
}

fn bar(done: u64, total: u64, seconds: f64) -> String {
    let filled = (done as u128 * u128::from(Bar::WIDTH) / u128::from(total.max(1))) as usize;
    let rate = done as f64 / seconds.max(0.001);
    format!(
        "[{}{}] {:>3} %  {} of {}, {}/s",
        "#".repeat(filled),
        "-".repeat(Bar::WIDTH as usize - filled),
        u128::from(done) * 100 / u128::from(total.max(1)),
        size(done),
        size(total),
        size(rate as u64)
    )
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `1 record`, `2 records`.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let mut table = Table::new(&["TOPIC", "LAG", "HOST"]);
        table.row(["a".to_owned(), "10".to_owned(), "x\ny".to_owned()]);
        table.row(["longer".to_owned(), "-".to_owned(), String::new()]);
        assert_eq!(
            table.to_text(),
            "TOPIC   LAG  HOST\na        10  x\\ny\nlonger    -\n"
        );
    }

    #[test]
    fn a_bar_fills_from_nothing_to_all() {
        let begun = bar(0, 2048, 1.0);
        assert!(begun.starts_with("[------------------------------]   0 %  0 B of 2.0 KiB"));
        let half = bar(1024, 2048, 2.0);
        assert!(half.starts_with("[###############---------------]  50 %"));
        assert!(half.ends_with("1.0 KiB of 2.0 KiB, 512 B/s"), "{half}");
        assert!(bar(2048, 2048, 1.0).starts_with("[##############################] 100 %"));
    }

    #[test]
    fn sizes_and_counts_are_for_people() {
        assert_eq!(
            [0, 1023, 1024, 1 << 30].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.0 GiB"]
        );
        assert_eq!(counted(1, "record"), "1 record");
        assert_eq!(counted(0, "record"), "0 records");
    }
}
