//! A real broker process for one test.
//!
//! `OTTLA_TEST_BOOTSTRAP=host:port` points tests at a broker that runs already, Apache Kafka for comparison: then
//! nothing is started or stopped, and tests that kill or configure the broker fail with a clear message.
//! `OTTLA_TEST_BROKER=kafka` starts Apache Kafka in place of Ottla, for tests that kill and configure it as well.
//!
//! The end of a [`Broker`] is part of the test: SIGTERM must end it within [`TERM_DEADLINE`] with status 0, and
//! its log must hold no ERROR or WARN line, nor a panic, that the test did not list with [`Broker::allow_log`].

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::load::usage::Usage;
use crate::process::{Process, Run};
use crate::{apache_kafka, binaries};

/// Time from start to the banner that a test allows; far above what is promised, because tests share the machine.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// The promise: SIGTERM drains and ends the broker within this time.
pub const TERM_DEADLINE: Duration = Duration::from_secs(2);
/// What [`Broker::small`] tells the broker to use: its default on a machine of 256 MiB, a quarter of that.
const SMALL_BUDGET: (&str, &str) = ("memory.budget.bytes", "67108864");
/// And what it may have resident at any time.
const SMALL_MACHINE_BYTES: u64 = 256 << 20;
/// Slack on top of the promise for a loaded test machine.
const TERM_SLACK: Duration = Duration::from_secs(3);

/// What a broker is started with, besides its folder.
#[derive(Clone, Copy, Debug, Default)]
pub struct Launch<'a> {
    /// A `--set` for each. They add to, and override, a loopback listener and metrics on free ports, and a retention
    /// that looks once an hour.
    pub properties: &'a [(&'a str, &'a str)],
    /// Further arguments of `ottla serve`.
    pub args: &'a [&'a str],
    /// Environment variables.
    pub env: &'a [(&'a str, &'a str)],
}

/// A running broker, or one of the restarts of it.
pub struct Broker {
    process: Option<Process>,
    host: String,
    port: u16,
    metrics_port: Option<u16>,
    folder: PathBuf,
    properties: Vec<(String, String)>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    small: bool,
    allowed: Vec<String>,
    earlier_log: Vec<String>,
}

impl Broker {
    /// Starts a broker with its data in `folder` and waits for its banner. Properties add to, and override, a
    /// loopback listener on a free port and metrics on a free port.
    pub fn start(folder: &Path, properties: &[(&str, &str)]) -> Broker {
        let launch = Launch {
            properties,
            ..Launch::default()
        };
        Broker::launch(folder, &launch)
    }

    /// The same with the memory of a small machine, which it must not exceed: looked at whenever it is ended.
    pub fn small(folder: &Path, properties: &[(&str, &str)]) -> Broker {
        let properties = [&[SMALL_BUDGET], properties].concat();
        let mut broker = Broker::start(folder, &properties);
        broker.small = !apache_kafka::wanted();
        broker
    }

    /// The same with more than properties.
    pub fn launch(folder: &Path, launch: &Launch<'_>) -> Broker {
        let mut broker = Broker::unstarted(folder, launch);
        if let Ok(bootstrap) = std::env::var("OTTLA_TEST_BOOTSTRAP") {
            let (host, port) = bootstrap
                .rsplit_once(':')
                .expect("OTTLA_TEST_BOOTSTRAP is host:port");
            broker.host = host.to_owned();
            broker.port = port.parse().expect("OTTLA_TEST_BOOTSTRAP ends in a port");
        } else {
            broker.spawn();
        }
        broker
    }

    fn unstarted(folder: &Path, launch: &Launch<'_>) -> Broker {
        let owned = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect()
        };
        Broker {
            process: None,
            host: "127.0.0.1".to_owned(),
            port: 0,
            metrics_port: None,
            folder: folder.to_owned(),
            properties: owned(launch.properties),
            args: launch.args.iter().map(|arg| arg.to_string()).collect(),
            env: owned(launch.env),
            small: false,
            allowed: Vec::new(),
            earlier_log: Vec::new(),
        }
    }

    /// The port clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of `/metrics`, when the banner named one.
    pub fn metrics_port(&self) -> Option<u16> {
        self.metrics_port
    }

    /// `host:port` as clients take it.
    pub fn bootstrap(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The folder with its data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process, to look at its memory or output.
    pub fn process(&self) -> &Process {
        self.process
            .as_ref()
            .expect("this test needs a broker of its own: unset OTTLA_TEST_BOOTSTRAP")
    }

    /// ERROR or WARN lines that hold this text are expected by the test.
    pub fn allow_log(&mut self, text: &str) {
        self.allowed.push(text.to_owned());
    }

    /// The log of this and all earlier runs, without colours.
    pub fn log(&self) -> Vec<String> {
        let mut lines = self.earlier_log.clone();
        lines.extend(self.process.iter().flat_map(|process| process.stderr.all()));
        lines.iter().map(|line| without_colours(line)).collect()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill9(&mut self) {
        self.check_memory();
        let process = self.process();
        process.signal(Signal::KILL);
        process.wait(START_DEADLINE).expect("a killed process ends");
        self.put_aside();
    }

    /// Asks it to stop and returns its status; panics when it takes longer than promised.
    pub fn sigterm(&mut self) -> ExitStatus {
        self.stop_with(Signal::TERM)
    }

    /// The same with Ctrl-C's signal, say.
    pub fn stop_with(&mut self, signal: Signal) -> ExitStatus {
        self.check_memory();
        let process = self.process();
        process.signal(signal);
        let Some(status) = process.wait(TERM_DEADLINE + TERM_SLACK) else {
            panic!(
                "the broker did not end within {TERM_DEADLINE:?} of {signal:?}\n{}",
                process.output()
            );
        };
        self.put_aside();
        status
    }

    fn check_memory(&self) {
        let Some(process) = self.process.as_ref().filter(|_| self.small) else {
            return;
        };
        let usage = Usage::of(process.id()).expect("it runs");
        println!(
            "peak memory of the broker: {} KiB",
            usage.peak_resident >> 10
        );
        assert!(
            usage.peak_resident <= SMALL_MACHINE_BYTES,
            "the broker had {} bytes resident, more than a machine of {SMALL_MACHINE_BYTES} has",
            usage.peak_resident
        );
    }

    /// As [`Broker::start`], unless the broker refuses: then its exit code and what it said on standard error.
    pub fn start_or_refused(
        folder: &Path,
        launch: &Launch<'_>,
    ) -> Result<Broker, (Option<i32>, String)> {
        let mut broker = Broker::unstarted(folder, launch);
        match broker.try_spawn() {
            Ok(()) => Ok(broker),
            Err(process) => {
                let status = process.wait(START_DEADLINE).expect("it served or ended");
                process.stderr.wait_for_end(START_DEADLINE);
                Err((status.code(), process.stderr.all().join("\n")))
            }
        }
    }

    /// Starts it again on the same port, over the same data. Tests whose clients stay connected take that port
    /// from [`free_port`], or a client's own connection may sit on it meanwhile.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "kill or stop the broker first");
        self.spawn();
    }

    fn spawn(&mut self) {
        if let Err(process) = self.try_spawn() {
            panic!(
                "no banner with `listening on PLAINTEXT host:port` within {START_DEADLINE:?}\n{}",
                process.output()
            );
        }
    }

    /// Starts the process; it is handed back when it does not say within the deadline that it serves.
    fn try_spawn(&mut self) -> Result<(), Box<Process>> {
        if apache_kafka::wanted() {
            let (process, port) = apache_kafka::start(&self.folder, self.port, &self.properties);
            (self.process, self.port) = (Some(process), port);
            return Ok(());
        }
        let listener = format!("listeners=PLAINTEXT://127.0.0.1:{}", self.port);
        let folder = format!("log.dirs={}", self.folder.display());
        let mut settings = vec![
            listener,
            folder,
            "metrics.listener=127.0.0.1:0".to_owned(),
            // Records of tests are older than the default retention.
            "log.retention.check.interval.ms=3600000".to_owned(),
        ];
        settings.extend(
            self.properties
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        let args = settings.iter().flat_map(|setting| ["--set", setting]);
        let mut run = ottla().args(["serve"]).args(args).args(&self.args);
        for (name, value) in &self.env {
            run = run.env(name, value);
        }
        let process = run.start();
        // The line that ends the banner but for one.
        let complete = |line: &str| line.starts_with("try: ").then_some(());
        let served = process.stdout.wait_for_line(START_DEADLINE, complete);
        let banner = process.stdout.all();
        let port = banner.iter().find_map(|line| listening_port(line));
        let (Some(()), Some(port)) = (served, port) else {
            return Err(Box::new(process));
        };
        self.port = port;
        self.metrics_port = banner.iter().find_map(|line| metrics_port(line));
        self.process = Some(process);
        Ok(())
    }

    fn put_aside(&mut self) {
        if let Some(process) = self.process.take() {
            process.stderr.wait_for_end(START_DEADLINE);
            self.earlier_log.extend(process.stderr.all());
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(60);
            eprintln!("the broker's last log lines:\n{}", log[tail..].join("\n"));
            return;
        }
        if apache_kafka::wanted() {
            // Its stop is its own business, and takes longer than is promised here.
            self.process = None;
        }
        if self.process.is_some() {
            let status = self.sigterm();
            assert!(
                status.success(),
                "the broker ended with {status}\n{}",
                self.log().join("\n")
            );
        }
        let unexpected: Vec<String> = unexpected_lines(&self.log(), &self.allowed);
        assert!(
            unexpected.is_empty(),
            "the broker logged what the test does not list:\n{}",
            unexpected.join("\n")
        );
    }
}

/// The broker's binary, ready for its arguments.
pub fn ottla() -> Run {
    let binary = binaries().join("ottla");
    assert!(
        binary.exists(),
        "{} is missing; run: cargo build --release -p ottla",
        binary.display()
    );
    Run::new(binary).env("NO_COLOR", "1")
}

/// A port nobody listens on, outside the range that the kernel gives to outgoing connections: a client that tries
/// to reach a stopped broker on a port of that range may connect to itself, and then the broker cannot have it back.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + (std::process::id() % 10_000) as u16;
    for _ in 0..10_000 {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {first} on");
}

fn listening_port(line: &str) -> Option<u16> {
    let (_, address) = line.split_once("listening on PLAINTEXT ")?;
    port_at_end(address.split_whitespace().next()?)
}

fn metrics_port(line: &str) -> Option<u16> {
    let (_, address) = line.split_once("metrics on http://")?;
    port_at_end(address.split('/').next()?)
}

fn port_at_end(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut parts = line.split('\u{1b}');
    plain.extend(parts.next());
    for part in parts {
        plain.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    plain
}

/// Log lines of level ERROR or WARN, and panics, that hold none of the allowed texts.
fn unexpected_lines(log: &[String], allowed: &[String]) -> Vec<String> {
    let bad = |line: &&String| {
        let leveled = line
            .split_whitespace()
            .take(2)
            .any(|word| matches!(word, "ERROR" | "WARN"));
        let json = ["ERROR", "WARN"]
            .iter()
            .any(|level| line.contains(&format!("\"level\":\"{level}\"")));
        leveled || json || line.contains("panicked at")
    };
    log.iter()
        .filter(bad)
        .filter(|line| !allowed.iter().any(|text| line.contains(text)))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_tells_both_ports() {
        assert_eq!(
            listening_port("  listening on PLAINTEXT 127.0.0.1:4711 (advertised)"),
            Some(4711)
        );
        assert_eq!(
            listening_port("listening on PLAINTEXT [::1]:9092"),
            Some(9092)
        );
        assert_eq!(
            metrics_port("metrics on http://127.0.0.1:9404/metrics"),
            Some(9404)
        );
        assert_eq!(listening_port("listening on nothing"), None);
    }

    #[test]
    fn unlisted_errors_warnings_and_panics_are_found_with_and_without_colours() {
        let coloured = "\u{1b}[2m2026-01-01T00:00:00Z\u{1b}[0m \u{1b}[33m WARN\u{1b}[0m ottla: odd";
        let log: Vec<String> = [
            coloured,
            "2026-01-01T00:00:00Z ERROR ottla: disk gone",
            "2026-01-01T00:00:00Z  INFO ottla: WARN is only a word here",
            "thread 'a' (1) panicked at src/x.rs:1:1:",
            r#"{"timestamp":"2026-01-01T00:00:00Z","level":"WARN","message":"odd"}"#,
        ]
        .iter()
        .map(|line| without_colours(line))
        .collect();
        let unexpected = unexpected_lines(&log, &["disk gone".to_owned()]);
        assert_eq!(
            unexpected,
            ["2026-01-01T00:00:00Z  WARN ottla: odd", &log[3], &log[4]]
        );
    }
}
