//! The command line: `ottla serve`, the client commands beside it, and the hidden `ottla tables` that keeps the
//! README's tables true.
//!
//! Called by `main` only. Usage errors end the process with exit code 2 inside clap. This file has the definition of
//! the whole and of `serve`; each command has a file with its options and its work. The client commands are clients of
//! any Kafka cluster and never look into a data directory; `check` and `backup` do nothing else. `complain` is how `main` ends in failure.

pub mod backup;
pub mod check;
pub mod client;
pub mod config;
pub mod consume;
pub mod consumer_protocol;
pub mod doctor;
pub mod failure;
pub mod format;
pub mod group;
pub mod member;
pub mod output;
pub mod produce;
pub mod run;
pub mod tables;
pub mod topic;
pub mod when;

use std::fmt::Display;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use run::Common;

/// The exit code for bad usage, bad config and whatever else the operator has to change before a start.
pub const EXIT_USAGE: u8 = 2;

/// The exit code when data is missing or damaged that was safe on disk.
pub const EXIT_DATA_LOST: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; serve: stopped cleanly
  1  the broker refused, what was named does not exist, or doctor found something wrong; serve, check, backup:
     anything else that went wrong
  2  the command line or the configuration has to be changed; serve, check, backup: or a port or directory is in use
     or not fit
  3  no broker could be reached, or none answered in time; serve, check, backup: data that was safe on disk is missing
     or damaged
  4  serve only: storage failed, and a new start can tell what is safe

The commands but serve, check and backup work with any Kafka cluster: --bootstrap HOST:PORT or OTTLA_BOOTSTRAP says
which.";

/// A Kafka-wire-compatible broker in one binary, and clients for any Kafka cluster.
#[derive(Debug, Parser)]
#[command(name = "ottla", version, arg_required_else_help = true, after_help = EXIT_CODES)]
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
    /// Look for damage in a data directory that no broker runs on; changes nothing
    Check(check::CheckArgs),
    /// Copy a data directory, in use or not, to a folder that a broker can start from
    Backup(backup::BackupArgs),
    /// What clients do.
    #[command(flatten)]
    Client(ClientCommand),
    /// Compare the README's generated tables with the code, or rewrite them
    #[command(hide = true)]
    Tables(TablesArgs),
}

/// The commands that talk to a cluster.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// List, create, describe, delete and alter topics
    Topic(topic::TopicArgs),
    /// Write a record for each line of standard input
    Produce(WithCommon<produce::ProduceArgs>),
    /// Print the records of a topic, alone or in a group
    Consume(WithCommon<consume::ConsumeArgs>),
    /// List, describe, reset and delete consumer groups
    Group(group::GroupArgs),
    /// Show, set and unset properties of topics and brokers
    Config(config::ConfigArgs),
    /// Check whether clients can work with a cluster from here
    Doctor(WithCommon<doctor::DoctorArgs>),
}

/// Options of a command and those that all client commands have.
#[derive(Debug, Args)]
pub struct WithCommon<A: Args> {
    /// What all client commands have.
    #[command(flatten)]
    pub common: Common,
    /// The command's own.
    #[command(flatten)]
    pub args: A,
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
    /// Start although data that was safe on disk is missing: go on without it
    #[arg(long)]
    pub accept_loss: bool,
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

pub(crate) fn on_one_line(text: &str) -> String {
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
}
