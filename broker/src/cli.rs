//! The command line: `ottla serve`, and the hidden `ottla tables` that keeps the README's tables true.
//!
//! Called by `main` only. Usage errors end the process with exit code 2 inside clap. It starts nothing
//! itself, but for `tables`, which reads and writes the one file it is given. `complain` is how `main` ends in
//! failure.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::config::table as broker_config;
use crate::{router, topic_config};

/// The exit code for bad usage, bad config and whatever else the operator has to change before a start.
pub const EXIT_USAGE: u8 = 2;

/// A Kafka-wire-compatible broker in one binary.
#[derive(Debug, Parser)]
#[command(name = "ottla", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve Kafka clients until told to stop; without options on 127.0.0.1:9092, data in ./ottla-data
    Serve(ServeArgs),
    /// Compare the README's generated tables with the code, or rewrite them
    #[command(hide = true)]
    Tables(TablesArgs),
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Kafka's server.properties
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one property, over the file and over KAFKA_* variables; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Options of `tables`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["write", "check"])))]
pub struct TablesArgs {
    /// Rewrite the tables between the markers of this file
    #[arg(long, value_name = "README")]
    pub write: Option<PathBuf>,
    /// Fail if a table between the markers of this file is not the code's
    #[arg(long, value_name = "README")]
    pub check: Option<PathBuf>,
}

/// Says on standard error why the process ends: always one line, whatever a path or a value in it holds.
pub fn complain(why: &dyn Display) {
    eprintln!("ottla: {}", on_one_line(&why.to_string()));
}

fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// The environment as text. What is no text is meant for somebody else, unless its name says Kafka.
///
/// # Errors
/// One line about a `KAFKA_` variable whose value is no text.
pub fn environment() -> Result<Vec<(String, String)>, String> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            Err(_) if name.starts_with("KAFKA_") => {
                return Err(format!(
                    "environment variable {name}: must be text in UTF-8, or unset"
                ));
            }
            Err(_) => {}
        }
    }
    Ok(variables)
}

/// Runs `ottla tables`. The error is one line for the operator.
pub fn tables(args: &TablesArgs) -> Result<(), String> {
    let tables = [
        ("api-table", router::markdown_table()),
        ("broker-config-table", broker_config::markdown_table()),
        ("topic-config-table", topic_config::markdown_table()),
        ("metrics-table", crate::metrics::markdown_table()),
    ];
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    if let Some(path) = &args.write {
        let text = fill(&read(path)?, &tables)
            .map_err(|problem| format!("{}: {problem}", path.display()))?;
        std::fs::write(path, text)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if let Some(path) = &args.check {
        let text = read(path)?;
        let filled =
            fill(&text, &tables).map_err(|problem| format!("{}: {problem}", path.display()))?;
        if filled != text {
            let path = path.display();
            return Err(format!(
                "{path}: generated tables are out of date; run ottla tables --write {path}"
            ));
        }
    }
    Ok(())
}

const END: &str = "<!-- end -->";

/// The text with what stands between `<!-- generated: NAME -->` and `<!-- end -->` replaced by each table.
fn fill(text: &str, tables: &[(&str, String)]) -> Result<String, String> {
    let mut filled = text.to_owned();
    for (name, table) in tables {
        let marker = format!("<!-- generated: {name} -->");
        let (before, rest) = filled
            .split_once(&marker)
            .ok_or_else(|| format!("has no line {marker}"))?;
        if rest.contains(&marker) {
            return Err(format!("has {marker} twice"));
        }
        let (stale, after) = rest
            .split_once(END)
            .ok_or_else(|| format!("has no {END} after {marker}"))?;
        if stale.contains("<!-- generated:") {
            return Err(format!("has no {END} of its own after {marker}"));
        }
        filled = format!("{before}{marker}\n{table}{END}{after}");
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"ottla").chain(arguments))
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_needs_nothing_and_takes_settings() {
        let Command::Serve(args) = parsed(&["serve"]).unwrap().command else {
            panic!("not serve")
        };
        assert_eq!(
            (args.config, args.sets.len(), args.log_format),
            (None, 0, LogFormat::Text)
        );
        let arguments = [
            "serve",
            "--config",
            "f",
            "--set",
            "a=b=c",
            "--set",
            "d=",
            "--log-format",
            "json",
        ];
        let Command::Serve(args) = parsed(&arguments).unwrap().command else {
            panic!("not serve")
        };
        assert_eq!(args.config, Some(PathBuf::from("f")));
        assert_eq!(args.sets, ["a=b=c", "d="]);
        assert_eq!(args.log_format, LogFormat::Json);
    }

    #[test]
    fn a_complaint_is_one_line() {
        assert_eq!(on_one_line("a\nb\tc\u{1b}[1m é"), "a\\nb\\tc\\u{1b}[1m é");
    }

    #[test]
    fn usage_errors_have_exit_code_2() {
        for wrong in [
            &["start"][..],
            &["serve", "--port", "1"],
            &["serve", "--set"],
            &["serve", "--log-format", "xml"],
            &["tables"],
            &[],
        ] {
            assert_eq!(
                parsed(wrong).expect_err("refused").exit_code(),
                i32::from(EXIT_USAGE),
                "{wrong:?}"
            );
        }
        assert_eq!(parsed(&["--help"]).expect_err("help").exit_code(), 0);
    }

    #[test]
    fn tables_replace_only_what_stands_between_their_markers() {
        let readme = "# Title\n<!-- generated: a -->\nold\n<!-- end -->\nmiddle\n<!-- generated: b --><!-- end -->\nend\n";
        let tables = [("a", "| a |\n".to_owned()), ("b", "| b |\n".to_owned())];
        let filled = fill(readme, &tables).unwrap();
        let expected = "# Title\n<!-- generated: a -->\n| a |\n<!-- end -->\nmiddle\n<!-- generated: b -->\n| b |\n<!-- end -->\nend\n";
        assert_eq!(filled, expected);
        assert_eq!(fill(&filled, &tables).unwrap(), filled);
    }

    #[test]
    fn missing_or_crossed_markers_are_errors() {
        let tables = [("a", String::new())];
        for readme in [
            "",
            "<!-- generated: a -->",
            "<!-- generated: a --> <!-- generated: b --> <!-- end -->",
            "<!-- generated: a --><!-- end --><!-- generated: a --><!-- end -->",
        ] {
            assert!(fill(readme, &tables).is_err(), "{readme}");
        }
    }
}
