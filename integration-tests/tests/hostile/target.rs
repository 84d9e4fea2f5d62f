//! The broker under attack, raw connections to it, and what can be seen of it from outside: memory, counters, log.
//!
//! Nothing here sleeps: every wait is a blocking read or write with a deadline, or repeated scrapes until a condition
//! holds, with a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use ottla::env::Env;
use ottla_integration_tests::{Broker, TempDir};

use crate::wire;

/// How long anything may take before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A broker of its own for one test.
pub struct Target {
    // Before the folder, so that it stops before its data goes.
    pub broker: Broker,
    env: Env,
    probe: Client,
    _folder: TempDir,
}

impl Target {
    pub fn start(name: &str, properties: &[(&str, &str)]) -> Self {
        let folder = TempDir::new(name);
        let broker = Broker::start(&folder.path().join("data"), properties);
        let probe = Client::connect(&broker);
        Self {
            broker,
            env: Env::system(),
            probe,
            _folder: folder,
        }
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.broker)
    }

    /// So many connections, each of which has sent these bytes.
    pub fn connect_sending(&self, count: usize, bytes: &[u8]) -> Vec<Client> {
        let connect = |_| {
            let mut client = self.connect();
            assert!(client.send(bytes));
            client
        };
        (0..count).map(connect).collect()
    }

    /// Time since the broker was started.
    pub fn now(&self) -> Duration {
        self.env.monotonic()
    }

    /// Wall clock, for timestamps of records.
    pub fn now_ms(&self) -> i64 {
        self.env.now_ms()
    }

    /// Sends one request on a connection of its own and returns its answer.
    pub fn ask(&self, request: &[u8]) -> Vec<u8> {
        let mut client = self.connect();
        client.send(request);
        client.expect_answer()
    }

    /// Asks ApiVersions on a connection that is always there; how long the answer took.
    pub fn probe(&mut self) -> Duration {
        let began = self.env.monotonic();
        self.probe.send(&wire::api_versions());
        self.probe.expect_answer();
        self.env.monotonic() - began
    }

    /// Several probes, in rising order.
    pub fn probes<const N: usize>(&mut self) -> [Duration; N] {
        let mut times = [(); N].map(|()| self.probe());
        times.sort_unstable();
        times
    }

    /// Resident bytes now. Linux counts per CPU and adds up roughly for `statm`; this is the exact sum.
    pub fn resident(&self) -> u64 {
        kilobytes(&self.proc("smaps_rollup"), "Rss:")
    }

    /// Starts to watch for the largest number of resident bytes.
    pub fn watch_memory(&self) -> MemoryWatch {
        let path = format!("/proc/{}/clear_refs", self.broker.process().id());
        std::fs::write(&path, "5").unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
        MemoryWatch {
            before: self.resident().max(self.peak()),
        }
    }

    fn peak(&self) -> u64 {
        kilobytes(&self.proc("status"), "VmHWM:")
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        // Fields are counted from after the name in brackets, which may hold anything.
        let fields = stat.rsplit_once(')').expect("stat names the process").1;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().expect("a number"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// Bytes that it has read so far, from files, sockets or whatever, in memory or not.
    pub fn read_bytes(&self) -> u64 {
        let io = self.proc("io");
        let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        read.expect("a line").parse().expect("a number")
    }

    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.broker.process().id());
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("the broker is gone? cannot read {path}: {error}"))
    }

    /// The page of `/metrics`.
    pub fn metrics(&self) -> String {
        let port = self.broker.metrics_port().expect("the banner names it");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("metrics are served");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("metrics take a request");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("metrics answer");
        page
    }

    /// The sum of all samples of a metric whose labels hold `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        self.metrics()
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
            })
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// The one sample of a metric without labels.
    pub fn value(&self, name: &str) -> f64 {
        let page = self.metrics();
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("no {name} on the page"));
        value.parse().expect("a number")
    }

    /// Input refused so far, for all causes.
    pub fn refused(&self) -> u64 {
        self.metric("ottla_refused_total", "") as u64
    }

    /// Open connections, the probe's included.
    pub fn connections(&self) -> u64 {
        self.metric("kafka_server_socket_server_metrics_connection_count", "") as u64
    }

    /// Looks again and again until `condition` holds.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = self.now() + PATIENCE;
        while !condition(self) {
            assert!(self.now() < deadline, "not within {PATIENCE:?}: {what}");
        }
    }

    /// What holds at the end of every test here.
    pub fn check_health(&mut self) {
        assert_eq!(self.metric("ottla_panics_total", ""), 0.0, "panics");
        self.probe();
    }
}

/// Memory seen by the kernel since it was asked to watch.
pub struct MemoryWatch {
    before: u64,
}

impl MemoryWatch {
    /// The largest growth since the watch began.
    pub fn growth(&self, target: &Target) -> u64 {
        target.peak().saturating_sub(self.before)
    }
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.trim().strip_suffix("kB"));
    let value = value.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.trim().parse::<u64>().expect("a number") * 1024
}

/// What came back on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A whole frame, without its size.
    Frame(Vec<u8>),
    /// The connection was closed, politely or not.
    Closed,
    /// Nothing until the deadline.
    Silence,
}

/// A raw connection.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn connect(broker: &Broker) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", broker.port())).expect("the broker accepts");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Self { stream }
    }

    /// Sends all; false when the broker closed the connection meanwhile.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        match self.stream.write_all(bytes) {
            Ok(()) => true,
            Err(error) => match error.kind() {
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => false,
                _ => panic!("cannot send: {error}"),
            },
        }
    }

    /// The next frame, the end of the connection, or silence.
    pub fn answer(&mut self, timeout: Duration) -> Answer {
        self.stream
            .set_read_timeout(Some(timeout))
            .expect("a timeout");
        let mut size = [0; 4];
        if let Err(answer) = self.fill(&mut size) {
            return answer;
        }
        let size = usize::try_from(i32::from_be_bytes(size)).expect("the size of an answer");
        let mut frame = vec![0; size];
        match self.fill(&mut frame) {
            Ok(()) => Answer::Frame(frame),
            Err(_) => panic!("an answer of {size} bytes was cut short"),
        }
    }

    /// The next frame.
    pub fn expect_answer(&mut self) -> Vec<u8> {
        match self.answer(PATIENCE) {
            Answer::Frame(frame) => frame,
            other => panic!("{other:?} instead of an answer"),
        }
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), Answer> {
        self.stream
            .read_exact(into)
            .map_err(|error| match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Answer::Silence,
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                    Answer::Closed
                }
                _ => panic!("cannot receive: {error}"),
            })
    }

    /// Ends the connection without waiting for anything.
    pub fn hang_up(self) {
        // The broker may have closed it already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
