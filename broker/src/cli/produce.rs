//! `ottla produce`: a record for each line of standard input, or of files.
//!
//! Lines are read on a thread of their own, because standard input blocks; everything else is one task. Records wait
//! for no more than what is there already, so that a typed line leaves at once and a long file in large batches. With
//! `--acks all` the producer is idempotent, and a batch whose answer was lost is sent once more without a double.

mod batches;
mod input;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::failure::{Failure, Result};
use super::output::{Progress, counted, size};
use super::run::Session;
use super::topic::topic_partitions;
use batches::Producer;
use input::{Shape, read_lines};

/// Options of `produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// The topic; it is created if the broker creates topics on first use
    pub topic: String,
    /// Files to read instead of standard input
    #[arg(long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What a line is: the value, or an object as consume --json prints it
    #[arg(long, value_enum, default_value_t = Input::Lines)]
    pub input: Input,
    /// The key stands before this text in each line, the value behind it
    #[arg(short = 'K', long, value_name = "TEXT", conflicts_with = "key")]
    pub key_separator: Option<String>,
    /// The same key for all records
    #[arg(long)]
    pub key: Option<String>,
    /// A header for all records; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<String>,
    /// The partition of all records; otherwise the key decides as in Kafka's own producer, or batches take turns
    #[arg(short = 'p', long)]
    pub partition: Option<i32>,
    /// An empty value is null, which deletes the key from a compacted topic; an empty key is null too
    #[arg(short = 'Z', long)]
    pub empty_is_null: bool,
    /// When the broker answers: once the batch is safe, or once its leader has it
    #[arg(long, value_enum, default_value_t = Acks::All)]
    pub acks: Acks,
}

/// What a line of input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Input {
    /// A value, perhaps with its key.
    Lines,
    /// An object with key, value, headers, partition, timestamp; all optional.
    Json,
}

/// Kafka's `acks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Acks {
    /// All in-sync replicas have it.
    All,
    /// The leader has it.
    #[value(name = "1")]
    Leader,
}

/// Runs it.
pub async fn run(session: &mut Session, args: &ProduceArgs) -> Result<()> {
    let shape = Shape::of(args)?;
    let topic = session.client.topic(&args.topic, true).await?;
    let partitions = topic_partitions(&topic);
    if let Some(partition) = args.partition {
        check_partition(&args.topic, partition, &partitions)?;
    }
    let mut producer = Producer::new(session, &args.topic, partitions, args.acks).await?;
    let mut lines = read_lines(args.files.clone());
    let mut progress = Progress::new();
    let mut number = 0u64;
    let mut failed = None;
    'input: while let Some(first) = lines.recv().await {
        let mut next = Some(first);
        while let Some(line) = next {
            number += 1;
            let message = line.and_then(|line| {
                shape.message(line).map_err(|why| {
                    Failure::usage(format_args!("line {number} of the input: {why}"))
                })
            });
            let added = match message {
                Ok(message) => producer.add(message, session.env.now_ms()),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = added {
                // What was read before it is written all the same.
                failed = Some(failure);
                break 'input;
            }
            next = if producer.is_full() {
                None
            } else {
                lines.try_recv().ok()
            };
        }
        if let Err(failure) = producer.send(&mut session.client).await {
            failed = Some(failure);
            break;
        }
        let (records, bytes) = (producer.records, producer.bytes);
        progress.show(|seconds| {
            let rate = size((bytes as f64 / seconds) as u64);
            format!("{} to {}, {rate}/s", counted(records, "record"), args.topic)
        });
    }
    // What was read before a bad line; after a failed send nothing goes out any more.
    let sent = if producer.has_failed() {
        Ok(())
    } else {
        producer.send(&mut session.client).await
    };
    progress.end();
    let outcome = sent.and(failed.map_or(Ok(()), Err));
    if outcome.is_ok() || producer.has_written() {
        producer.report(session)?;
    }
    outcome
}

fn check_partition(topic: &str, partition: i32, partitions: &[i32]) -> Result<()> {
    if partitions.contains(&partition) {
        return Ok(());
    }
    Err(Failure::refused(format_args!(
        "topic {topic} has no partition {partition}: they go from 0 to {}",
        partitions.len().saturating_sub(1)
    )))
}
