//! What is measured: each case against one broker that was started for it.
//!
//! A case prints one line of progress and adds its figures; nothing is judged here. The names of figures are spelled
//! here and in `report.rs`.

use std::io;
use std::time::Duration;

use super::broker::{Flush, Kit, Launch, Product, Server};
use super::disk::forget_cached;
use super::figures::Figures;
use super::settings::Settings;
use super::standstill::Standstill;
use crate::load::admin::{
    connection_rate, create_topic, ready_topic, wait_for_leaders, write_once,
};
use crate::load::consume::{Span, consume};
use crate::load::latency::{Pace, end_to_end};
use crate::load::produce::{Load, Produced, Running};
use crate::load::usage::Usage;
use crate::load::{Shape, Target, failed};

pub(super) const PARTITIONS: i32 = 6;
const MANY_PARTITIONS: i32 = 1_000;
/// The log that is consumed.
const CONSUMED_BYTES: u64 = 2_000_000_000;
/// Offsets of each partition that count as its tail: 6 MB of 1 KiB records.
const TAIL: i64 = 6_000;
/// How long at most the disk completed nothing of what it had, while a produce load was measured.
pub(super) const DISK_STOOD_STILL: &str = "disk stood still ms";
/// How long a started broker rests before its idle memory is looked at.
const REST: Duration = Duration::from_secs(3);

/// One kind of produce load.
#[derive(Clone, Copy, Debug)]
pub struct Producing {
    /// As a filter and in the figures.
    pub case: &'static str,
    /// In the tables.
    pub title: &'static str,
    /// Whether MB/s or requests/s is what it is about.
    pub by_requests: bool,
    partitions: i32,
    in_flight: usize,
    shape: Shape,
    distinct: usize,
}

/// All produce loads.
pub const PRODUCING: [Producing; 4] = [
    Producing {
        case: "produce-1m",
        title: "1 MiB batches",
        by_requests: false,
        partitions: PARTITIONS,
        in_flight: 5,
        shape: Shape {
            batch_bytes: 1 << 20,
            value_bytes: 1 << 10,
            keys: 0,
        },
        distinct: 2,
    },
    Producing {
        case: "produce-64k",
        title: "64 KiB batches",
        by_requests: false,
        partitions: PARTITIONS,
        in_flight: 5,
        shape: Shape {
            batch_bytes: 64 << 10,
            value_bytes: 1 << 10,
            keys: 0,
        },
        distinct: 16,
    },
    Producing {
        case: "produce-1k",
        title: "single records of 1 KiB, 16 in flight",
        by_requests: true,
        partitions: PARTITIONS,
        in_flight: 16,
        shape: Shape {
            batch_bytes: 0,
            value_bytes: 1 << 10,
            keys: 0,
        },
        distinct: 100,
    },
    Producing {
        case: "produce-4k",
        title: "4 KiB batches of 100-byte records, 64 partitions",
        by_requests: false,
        partitions: 64,
        in_flight: 5,
        shape: Shape {
            batch_bytes: 4 << 10,
            value_bytes: 100,
            keys: 0,
        },
        distinct: 8,
    },
];

impl Producing {
    pub(super) fn load(&self, seed: u64) -> Load {
        Load {
            connections: 2,
            in_flight: self.in_flight,
            shape: self.shape,
            distinct: self.distinct,
            seed,
        }
    }
}

/// Everything a case needs.
pub struct Stage<'a> {
    /// How brokers are started.
    pub kit: &'a Kit,
    /// What was chosen.
    pub settings: &'a Settings,
    /// Where results go.
    pub figures: Figures,
    /// Which round this is, from 0.
    pub round: u32,
    /// Acknowledged batches that were not read back, of all runs.
    pub missing: u64,
}

impl Stage<'_> {
    pub(super) fn target(&self, server: &Server<'_>, topic: &str, partitions: i32) -> Target {
        Target {
            address: server.address(),
            topic: topic.to_owned(),
            partitions,
        }
    }

    pub(super) fn ready(&self, server: &Server<'_>, partitions: i32) -> io::Result<Target> {
        let target = self.target(server, "bench", partitions);
        ready_topic(&self.kit.env, &target)?;
        Ok(target)
    }

    pub(super) fn seed(&self) -> u64 {
        1 + u64::from(self.round) * 1_000
    }

    /// Producing, fsynced also with a kill under load and everything read back.
    pub fn produce(
        &mut self,
        producing: &Producing,
        product: Product,
        flush: Flush,
    ) -> io::Result<()> {
        let mut server = Server::start(self.kit, Launch::new(product, flush))?;
        let target = self.ready(&server, producing.partitions)?;
        let mut running = Running::start(self.kit.env, &target, &producing.load(self.seed()))?;
        running.warm_up(self.settings.warm_up)?;
        let disk = Standstill::watch(self.kit.env, &server.data())?;
        let (own, broker) = (Usage::own_cpu_seconds()?, server.usage()?);
        running.measure(self.settings.length, self.settings.most_bytes)?;
        let (own_after, broker_after) = (Usage::own_cpu_seconds()?, server.usage()?);
        let still = disk.map(Standstill::finish).transpose()?;
        let mut produced = match flush {
            Flush::Relaxed => running.drain()?,
            Flush::Fsynced => running.break_off(|| server.kill())?,
        };
        if produced.requests == 0 {
            return Err(failed(format!("{} acknowledged nothing", product.name())));
        }
        let gigabytes = produced.bytes as f64 / 1e9;
        let seconds = produced.seconds;
        let mut rows = vec![
            ("MB/s", gigabytes * 1e3 / seconds),
            ("requests/s", produced.requests as f64 / seconds),
            ("p50 ms", produced.latency.ms(0.5)),
            ("p99 ms", produced.latency.ms(0.99)),
            ("p99.9 ms", produced.latency.ms(0.999)),
            ("worst ms", produced.latency.ms(1.0)),
            (
                "CPU s/GB",
                (broker_after.cpu_seconds - broker.cpu_seconds) / gigabytes,
            ),
            ("load CPU s/GB", (own_after - own) / gigabytes),
            (
                "written/received",
                broker_after.written.saturating_sub(broker.written) as f64 / produced.bytes as f64,
            ),
            ("peak RSS MB", broker_after.peak_resident as f64 / 1e6),
        ];
        rows.extend(still.map(|still| (DISK_STOOD_STILL, still.as_secs_f64() * 1e3)));
        self.add(producing.case, product, flush, &rows);
        let mut line = line(&rows);
        if flush == Flush::Fsynced {
            line += &self.read_back(producing, product, &mut server, &target, &mut produced)?;
        }
        self.say(producing.case, product, Some(flush), &line);
        Ok(())
    }

    fn read_back(
        &mut self,
        producing: &Producing,
        product: Product,
        server: &mut Server<'_>,
        target: &Target,
        produced: &mut Produced,
    ) -> io::Result<String> {
        server.restart()?;
        wait_for_leaders(&self.kit.env, target)?;
        let found = std::mem::take(&mut produced.acknowledged).compare(target)?;
        self.missing += found.missing;
        let rows = [
            ("start after kill s", server.first_answer.as_secs_f64()),
            ("acknowledged", found.acknowledged as f64),
            ("missing", found.missing as f64),
            ("read back GB", found.bytes as f64 / 1e9),
        ];
        self.add(producing.case, product, Flush::Fsynced, &rows);
        Ok(format!(
            "; killed, answers after {:.2} s, {} of {} acknowledged batches read back",
            server.first_answer.as_secs_f64(),
            found.acknowledged - found.missing,
            found.acknowledged
        ))
    }

    /// Records at a steady pace to a waiting consumer.
    pub fn latency(&mut self, product: Product, flush: Flush) -> io::Result<()> {
        let server = Server::start(self.kit, Launch::new(product, flush))?;
        let target = self.ready(&server, PARTITIONS)?;
        let pace = Pace {
            per_second: 1_000,
            value_bytes: 1 << 10,
            in_flight: 5,
            warm_up: self.settings.warm_up,
            length: self.settings.length,
            seed: self.seed(),
        };
        let mut latency = end_to_end(self.kit.env, &target, &pace)?;
        let rows = [
            ("p50 ms", latency.ms(0.5)),
            ("p99 ms", latency.ms(0.99)),
            ("p99.9 ms", latency.ms(0.999)),
            ("worst ms", latency.ms(1.0)),
        ];
        self.add("latency", product, flush, &rows);
        self.say("latency", product, Some(flush), &line(&rows));
        Ok(())
    }

    /// Reading a log of 2 GB: from the disk, again and again, and its newest megabytes only.
    pub fn consume(&mut self, product: Product) -> io::Result<()> {
        let flush = Flush::Relaxed;
        let server = Server::start(self.kit, Launch::new(product, flush))?;
        let target = self.ready(&server, PARTITIONS)?;
        let mut filling = Running::start(self.kit.env, &target, &PRODUCING[1].load(self.seed()))?;
        filling.measure(Duration::from_secs(300), CONSUMED_BYTES)?;
        filling.drain()?;
        let length = self.settings.length;
        let once = Duration::MAX;
        // Code that was never run is not measured.
        consume(self.kit.env, &target, 2, Span::Once, once)?;
        forget_cached(&server.data())?;
        for (case, span, length) in [
            ("consume-cold", Span::Once, once),
            ("consume-warm", Span::All, length),
            ("consume-tail", Span::Last(TAIL), length),
        ] {
            let (own, broker) = (Usage::own_cpu_seconds()?, server.usage()?);
            let consumed = consume(self.kit.env, &target, 2, span, length)?;
            let gigabytes = consumed.bytes as f64 / 1e9;
            let rows = [
                ("MB/s", gigabytes * 1e3 / consumed.seconds),
                (
                    "CPU s/GB",
                    (server.usage()?.cpu_seconds - broker.cpu_seconds) / gigabytes,
                ),
                (
                    "load CPU s/GB",
                    (Usage::own_cpu_seconds()? - own) / gigabytes,
                ),
            ];
            self.add(case, product, flush, &rows);
            self.say(case, product, None, &line(&rows));
        }
        Ok(())
    }

    /// Start without data, start over that data, idle memory.
    pub fn start(&mut self, product: Product) -> io::Result<()> {
        let mut server = Server::start(self.kit, Launch::new(product, Flush::Fsynced))?;
        let fresh = server.first_answer.as_secs_f64();
        if let Some(status) = server.process().wait(REST) {
            return Err(failed(format!("{} ended with {status}", product.name())));
        }
        let idle = server.usage()?.resident as f64 / 1e6;
        server.restart()?;
        let rows = [
            ("first answer s", fresh),
            (
                "first answer after kill s",
                server.first_answer.as_secs_f64(),
            ),
            ("idle RSS MB", idle),
        ];
        self.add("start", product, Flush::Fsynced, &rows);
        self.say("start", product, None, &line(&rows));
        Ok(())
    }

    /// Connect, ApiVersions, close.
    pub fn connections(&mut self, product: Product) -> io::Result<()> {
        let launch = Launch {
            properties: &["max.connection.creation.rate=2147483647"],
            ..Launch::new(product, Flush::Fsynced)
        };
        let server = Server::start(self.kit, launch)?;
        let env = self.kit.env;
        connection_rate(env, &server.address(), 4, self.settings.warm_up)?;
        let rate = connection_rate(env, &server.address(), 4, self.settings.length)?;
        let rows = [("connections/s", rate)];
        self.add("connections", product, Flush::Fsynced, &rows);
        self.say("connections", product, None, &line(&rows));
        Ok(())
    }

    /// One topic of 1,000 partitions, in a broker that has made a topic before.
    pub fn partitions(&mut self, product: Product) -> io::Result<()> {
        let server = Server::start(self.kit, Launch::new(product, Flush::Fsynced))?;
        self.ready(&server, PARTITIONS)?;
        let env = self.kit.env;
        let target = self.target(&server, "many", MANY_PARTITIONS);
        let begin = env.monotonic();
        create_topic(&target)?;
        let answered = env.monotonic() - begin;
        write_once(&env, &target)?;
        let written = env.monotonic() - begin;
        let rows = [
            ("created s", answered.as_secs_f64()),
            ("written once s", written.as_secs_f64()),
            ("RSS MB", server.usage()?.resident as f64 / 1e6),
        ];
        self.add("partitions", product, Flush::Fsynced, &rows);
        self.say("partitions", product, None, &line(&rows));
        Ok(())
    }

    /// Syncs per request, in a short run of its own under strace, which slows both down.
    pub fn syncs(&mut self, producing: &Producing, product: Product) -> io::Result<()> {
        let file = self.kit.folder().join("syncs");
        let launch = Launch {
            trace: Some(&file),
            ..Launch::new(product, Flush::Fsynced)
        };
        let server = Server::start(self.kit, launch)?;
        let target = self.ready(&server, producing.partitions)?;
        let mut running = Running::start(self.kit.env, &target, &producing.load(self.seed()))?;
        running.warm_up(Duration::from_secs(1))?;
        let before = count_syncs(&file)?;
        running.measure(Duration::from_secs(2), self.settings.most_bytes)?;
        let after = count_syncs(&file)?;
        let produced = running.drain()?;
        let rows = [(
            "syncs per 1,000 requests",
            (after - before) as f64 * 1e3 / produced.requests as f64,
        )];
        self.add(producing.case, product, Flush::Fsynced, &rows);
        self.say(
            &format!("syncs of {}", producing.case),
            product,
            None,
            &line(&rows),
        );
        Ok(())
    }

    pub(super) fn add(&mut self, case: &str, product: Product, flush: Flush, rows: &[(&str, f64)]) {
        for (figure, value) in rows {
            self.figures.add(case, product, flush, figure, *value);
        }
    }

    pub(super) fn say(&self, case: &str, product: Product, flush: Option<Flush>, line: &str) {
        let flush = flush.map_or(String::new(), |flush| format!(" {}", flush.name()));
        println!(
            "round {}: {case} {}{flush}: {line}",
            self.round + 1,
            product.name()
        );
    }
}

pub(super) fn line(rows: &[(&str, f64)]) -> String {
    let shown: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("{name} {}", super::report::number(*value)))
        .collect();
    shown.join(", ")
}

/// Calls begun so far; one that goes on in another line of the trace is not counted twice.
fn count_syncs(trace: &std::path::Path) -> io::Result<usize> {
    let text = std::fs::read_to_string(trace)?;
    let begun = |line: &&str| {
        ["fsync(", "fdatasync(", "msync("]
            .iter()
            .any(|call| line.contains(call))
    };
    Ok(text.lines().filter(begun).count())
}
