//! The load generator of `make bench`, for a comparison of Ottla with Apache Kafka, or alone against any broker.
//!
//! `load bench` starts both brokers itself and measures them in turn; see `scripts/bench`. The other subcommands put one
//! kind of load on a broker that runs already, to look at it with a profiler. They create a topic each time.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ottla::env::{Env, kafka_uuid};
use ottla_integration_tests::load::admin::{connection_rate, ready_topic, size_of_topics};
use ottla_integration_tests::load::bench;
use ottla_integration_tests::load::bench::beside::{fill, fill_to_be_cleaned};
use ottla_integration_tests::load::consume::{Span, consume};
use ottla_integration_tests::load::latency::{Pace, end_to_end};
use ottla_integration_tests::load::produce::{Load, Running};
use ottla_integration_tests::load::usage::Usage;
use ottla_integration_tests::load::{Quantiles, Shape, Target};

#[derive(Parser)]
#[command(about = "Puts load on a broker and says how it went")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare Ottla with Apache Kafka; settings come from OTTLA_BENCH_* variables.
    Bench,
    /// Produce with acks=all.
    Produce {
        #[command(flatten)]
        at: At,
        /// Bytes of a batch; 0: one record each.
        #[arg(long, default_value_t = 65_536)]
        batch_bytes: usize,
        /// Bytes of each value.
        #[arg(long, default_value_t = 1_024)]
        value_bytes: usize,
        /// Connections.
        #[arg(long, default_value_t = 2)]
        connections: usize,
        /// Requests in flight on each.
        #[arg(long, default_value_t = 5)]
        in_flight: usize,
        /// Afterwards read everything and compare.
        #[arg(long)]
        read_back: bool,
        /// Afterwards consume it over and over for as long.
        #[arg(long)]
        consume: bool,
    },
    /// Read a topic that is there, over and over.
    Consume {
        #[command(flatten)]
        at: At,
        /// Its name.
        #[arg(long)]
        topic: String,
        /// Connections.
        #[arg(long, default_value_t = 2)]
        connections: i32,
        /// Only so many of each partition's newest offsets; 0: all of them.
        #[arg(long, default_value_t = 0)]
        last: i64,
    },
    /// Send single records at a steady pace to a waiting consumer.
    Latency {
        #[command(flatten)]
        at: At,
        /// Records per second.
        #[arg(long, default_value_t = 1_000)]
        per_second: u32,
    },
    /// The same quietly, then while a gigabyte each of an expiring and of a compacted topic is cleaned away. The broker
    /// should look often, as in the benchmark: log.retention.check.interval.ms=10000, log.cleaner.backoff.ms=1000.
    Cleaning {
        #[command(flatten)]
        at: At,
        /// Seconds measured quietly.
        #[arg(long, default_value_t = 8.0)]
        quiet_seconds: f64,
    },
    /// Connect, ask for API versions, close.
    Connections {
        #[command(flatten)]
        at: At,
    },
}

#[derive(clap::Args)]
struct At {
    /// Where the broker is, host:port.
    address: String,
    /// Measured seconds; half as many before that to warm up.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 6)]
    partitions: i32,
    /// The broker's process, to show its CPU time.
    #[arg(long)]
    pid: Option<i32>,
}

impl At {
    fn target(&self, env: &Env) -> Target {
        Target {
            address: self.address.clone(),
            topic: format!("load-{}", kafka_uuid(&env.uuid())),
            partitions: self.partitions,
        }
    }

    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn broker_cpu(&self) -> io::Result<f64> {
        self.pid
            .map_or(Ok(f64::NAN), |pid| Ok(Usage::of(pid)?.cpu_seconds))
    }
}

fn main() -> ExitCode {
    let env = Env::system();
    let result = match Cli::parse().command {
        Command::Bench => bench::main(env),
        Command::Produce {
            at,
            batch_bytes,
            value_bytes,
            connections,
            in_flight,
            read_back,
            consume,
        } => {
            let load = Load {
                connections,
                in_flight,
                shape: Shape {
                    batch_bytes,
                    value_bytes,
                    keys: 0,
                },
                distinct: (4 << 20) / batch_bytes.max(value_bytes).max(32 << 10),
                seed: 1,
            };
            produce(env, &at, &load, read_back, consume)
        }
        Command::Consume {
            at,
            topic,
            connections,
            last,
        } => {
            let target = Target {
                topic,
                ..at.target(&env)
            };
            let span = if last > 0 {
                Span::Last(last)
            } else {
                Span::All
            };
            read(env, &at, &target, connections, span)
        }
        Command::Latency { at, per_second } => latency(env, &at, per_second),
        Command::Cleaning { at, quiet_seconds } => cleaning(env, &at, quiet_seconds),
        Command::Connections { at } => connection_rate(env, &at.address, 4, at.length())
            .map(|rate| println!("{rate:.0} connections/s")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn produce(env: Env, at: &At, load: &Load, read_back: bool, then_consume: bool) -> io::Result<()> {
    let target = at.target(&env);
    ready_topic(&env, &target)?;
    let mut running = Running::start(env, &target, load)?;
    running.warm_up(at.length() / 2)?;
    let (own, broker) = (Usage::own_cpu_seconds()?, at.broker_cpu()?);
    running.measure(at.length(), u64::MAX)?;
    let (own, broker) = (Usage::own_cpu_seconds()? - own, at.broker_cpu()? - broker);
    let mut produced = running.drain()?;
    let gigabytes = produced.bytes as f64 / 1e9;
    println!(
        "{:.1} MB/s, {:.0} requests/s, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, worst {:.1} ms",
        gigabytes * 1e3 / produced.seconds,
        produced.requests as f64 / produced.seconds,
        produced.latency.ms(0.5),
        produced.latency.ms(0.99),
        produced.latency.ms(0.999),
        produced.latency.ms(1.0),
    );
    println!(
        "CPU seconds per GB: load {:.2}, broker {:.2}",
        own / gigabytes,
        broker / gigabytes
    );
    println!("topic {}", target.topic);
    if then_consume {
        read(env, at, &target, 2, Span::All)?;
    }
    if read_back {
        let found = produced.acknowledged.compare(&target)?;
        println!("{found:?}");
        if found.missing > 0 {
            return Err(io::Error::other("acknowledged batches are missing"));
        }
    }
    Ok(())
}

fn read(env: Env, at: &At, target: &Target, connections: i32, span: Span) -> io::Result<()> {
    let (own, broker) = (Usage::own_cpu_seconds()?, at.broker_cpu()?);
    let consumed = consume(env, target, connections, span, at.length())?;
    let (own, broker) = (Usage::own_cpu_seconds()? - own, at.broker_cpu()? - broker);
    let gigabytes = consumed.bytes as f64 / 1e9;
    println!(
        "consumed {:.1} MB/s; CPU seconds per GB: load {:.2}, broker {:.2}",
        gigabytes * 1e3 / consumed.seconds,
        own / gigabytes,
        broker / gigabytes
    );
    Ok(())
}

fn cleaning(env: Env, at: &At, quiet_seconds: f64) -> io::Result<()> {
    let paced = |name: &str, seconds: f64| -> io::Result<Quantiles> {
        let target = Target {
            topic: name.to_owned(),
            ..at.target(&env)
        };
        ready_topic(&env, &target)?;
        let broker = at.broker_cpu()?;
        let length = Duration::from_secs_f64(seconds);
        let mut latency = end_to_end(env, &target, &Pace::beside(length, 1))?;
        println!(
            "{name}: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, worst {:.1} ms; broker's CPU seconds {:.2}",
            latency.ms(0.5),
            latency.ms(0.99),
            latency.ms(0.999),
            latency.ms(1.0),
            at.broker_cpu()? - broker
        );
        Ok(latency)
    };
    let backlog = at.target(&env);
    ready_topic(&env, &backlog)?;
    fill(env, &backlog, 0, 1)?;
    let mut quiet = paced("quiet", quiet_seconds)?;
    let topics = fill_to_be_cleaned(env, &backlog, 1)?;
    let size = || size_of_topics(&at.address, &topics);
    let before = size()?;
    let mut beside = paced("cleaning", at.seconds)?;
    println!(
        "{:.2} times; {:.3} of {:.3} GB left",
        beside.ms(0.99) / quiet.ms(0.99),
        size()? as f64 / 1e9,
        before as f64 / 1e9
    );
    Ok(())
}

fn latency(env: Env, at: &At, per_second: u32) -> io::Result<()> {
    let target = at.target(&env);
    ready_topic(&env, &target)?;
    let pace = Pace {
        per_second,
        value_bytes: 1_024,
        in_flight: 5,
        warm_up: at.length() / 2,
        length: at.length(),
        seed: 1,
    };
    let (own, broker) = (Usage::own_cpu_seconds()?, at.broker_cpu()?);
    let mut latency = end_to_end(env, &target, &pace)?;
    let (own, broker) = (Usage::own_cpu_seconds()? - own, at.broker_cpu()? - broker);
    println!(
        "{} records: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms; CPU seconds: load {own:.2}, broker {broker:.2}",
        latency.len(),
        latency.ms(0.5),
        latency.ms(0.99),
        latency.ms(0.999)
    );
    Ok(())
}
