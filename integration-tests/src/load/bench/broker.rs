//! The two brokers under comparison, each started fresh with its data in the same folder.
//!
//! Both run with what they come with: Ottla with its defaults, Apache Kafka with the values of its `server.properties`
//! and the JVM options of its start script, as one node that is broker and controller. Only addresses, the data folder
//! and the flush policy are set. Kafka's jars hold no binding for its log, so that it spends nothing on log files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use ottla::env::{Env, kafka_uuid};
use rustix::process::{Pid, Signal, kill_process_group};

use super::disk::wait_until_calm;
use crate::binaries;
use crate::broker::free_port;
use crate::load::admin::first_answer;
use crate::load::failed;
use crate::load::usage::Usage;
use crate::process::{Process, Run};
use crate::repository;

/// A killed Kafka reads gigabytes again before it answers.
const START_DEADLINE: Duration = Duration::from_secs(300);
/// An asked Kafka stops within seconds.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// How often a starting broker is tried.
const ATTEMPT: Duration = Duration::from_millis(2);
/// Syncing by message count is off at this value, Kafka's default.
const NEVER: &str = "9223372036854775807";

/// The broker that runs now, for [`kill_running`]; 0 for none.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// Kills whatever broker runs: it leads a process group of its own, which Ctrl-C does not reach.
pub fn kill_running() {
    if let Some(group) = Pid::from_raw(RUNNING.load(Ordering::SeqCst)) {
        // It may have ended meanwhile.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Product {
    /// This repository's broker.
    Ottla,
    /// The reference.
    Kafka,
}

impl Product {
    /// For tables and progress lines.
    pub fn name(self) -> &'static str {
        match self {
            Product::Ottla => "Ottla",
            Product::Kafka => "Kafka",
        }
    }
}

/// What an acknowledgement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flush {
    /// The batch is synced to disk: `log.flush.interval.messages=1`.
    Fsynced,
    /// The batch is handed to the operating system: that property at Kafka's default.
    Relaxed,
}

impl Flush {
    /// For tables and progress lines.
    pub fn name(self) -> &'static str {
        match self {
            Flush::Fsynced => "fsynced",
            Flush::Relaxed => "relaxed",
        }
    }
}

/// What all starts of one comparison share.
pub struct Kit {
    /// The clock.
    pub env: Env,
    folder: PathBuf,
    jars: PathBuf,
    port: u16,
    controller_port: u16,
}

impl Kit {
    /// Prepares a folder, which is emptied, and formats a data folder for Kafka in it that each start copies.
    pub fn new(env: Env, folder: &Path) -> io::Result<Kit> {
        let jars = repository().join(".deps/kafka/lib");
        if !jars.exists() {
            return Err(failed("Kafka's jars are missing; run: scripts/setup kafka"));
        }
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder)?;
        let kit = Kit {
            env,
            folder: folder.canonicalize()?,
            jars,
            port: free_port(),
            controller_port: free_port(),
        };
        let formatted = kit.formatted();
        let config = kit.folder.join("format.properties");
        std::fs::write(
            &config,
            kit.server_properties(&formatted, Flush::Relaxed, &[]),
        )?;
        let id = kafka_uuid(&env.uuid());
        let format = "kafka.tools.StorageTool format --standalone -t";
        let mut line = kit.java();
        line.extend(format.split(' ').map(str::to_owned));
        line.extend([id, "-c".to_owned(), config.display().to_string()]);
        command(&line).succeed();
        Ok(kit)
    }

    /// Where all data of the comparison lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The version in the name of Kafka's jar.
    pub fn kafka_version(&self) -> io::Result<String> {
        for entry in std::fs::read_dir(&self.jars)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let version = name
                .strip_prefix("kafka_2.13-")
                .and_then(|rest| rest.strip_suffix(".jar"));
            if let Some(version) = version {
                return Ok(version.to_owned());
            }
        }
        Err(failed("no jar is called kafka_2.13-VERSION.jar"))
    }

    /// What `java -version` calls itself.
    pub fn java_version(&self) -> String {
        let output = Run::new("java").args(["-version"]).succeed();
        let version = output.stderr.split('"').nth(1);
        version.unwrap_or("unknown").to_owned()
    }

    fn formatted(&self) -> PathBuf {
        self.folder.join("kafka-formatted")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Java with what `kafka-run-class.sh` and `kafka-server-start.sh` of the distribution pass to it.
    fn java(&self) -> Vec<String> {
        let options = "java -Xmx1G -Xms1G -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
            -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent -XX:MaxInlineLevel=15 \
            -Djava.awt.headless=true -cp";
        let mut line: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        line.push(format!("{}/*", self.jars.display()));
        line
    }

    /// The values of Kafka's own `server.properties`, with other addresses and folder.
    fn server_properties(&self, data: &Path, flush: Flush, more: &[&str]) -> String {
        let (port, controller) = (self.port, self.controller_port);
        let listeners = format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}");
        let mut text = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             listeners={listeners}\n\
             inter.broker.listener.name=PLAINTEXT\n\
             advertised.listeners={listeners}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,\
             SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL\n\
             num.network.threads=3\n\
             num.io.threads=8\n\
             socket.send.buffer.bytes=102400\n\
             socket.receive.buffer.bytes=102400\n\
             socket.request.max.bytes=104857600\n\
             log.dirs={data}\n\
             num.partitions=1\n\
             num.recovery.threads.per.data.dir=2\n\
             offsets.topic.replication.factor=1\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             log.retention.hours=168\n\
             log.segment.bytes=1073741824\n\
             log.retention.check.interval.ms=300000\n",
            data = data.display()
        );
        if flush == Flush::Fsynced {
            text += "log.flush.interval.messages=1\n";
        }
        // The last one of a name counts.
        for property in more {
            text += property;
            text.push('\n');
        }
        text
    }

    fn command(&self, launch: &Launch<'_>) -> io::Result<Run> {
        let mut line = Vec::new();
        if let Some(file) = launch.trace {
            let strace =
                "strace -f --seccomp-bpf -qq -e signal=none -e trace=fsync,fdatasync,msync -o";
            line.extend(strace.split(' ').map(str::to_owned));
            line.push(file.display().to_string());
        }
        match launch.product {
            Product::Ottla => {
                let flush = match launch.flush {
                    Flush::Fsynced => "1",
                    Flush::Relaxed => NEVER,
                };
                line.push(binaries().join("ottla").display().to_string());
                line.push("serve".to_owned());
                let settings = [
                    format!("listeners=PLAINTEXT://127.0.0.1:{}", self.port),
                    "metrics.listener=".to_owned(),
                    format!("log.dirs={}", self.data().display()),
                    format!("log.flush.interval.messages={flush}"),
                ];
                let more = launch.properties.iter().map(|text| (*text).to_owned());
                for setting in settings.into_iter().chain(more) {
                    line.extend(["--set".to_owned(), setting]);
                }
            }
            Product::Kafka => {
                let config = self.folder.join("server.properties");
                let text = self.server_properties(&self.data(), launch.flush, launch.properties);
                std::fs::write(&config, text)?;
                line.extend(self.java());
                line.extend(["kafka.Kafka".to_owned(), config.display().to_string()]);
            }
        }
        Ok(command(&line))
    }
}

/// A program and its arguments.
fn command(line: &[String]) -> Run {
    Run::new(&line[0]).args(&line[1..])
}

/// How to start a broker.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Which one.
    pub product: Product,
    /// When it acknowledges.
    pub flush: Flush,
    /// More properties, `name=value`.
    pub properties: &'a [&'a str],
    /// Runs it under strace, which writes its syncs to this file.
    pub trace: Option<&'a Path>,
}

impl Launch<'_> {
    /// Nothing but the flush policy.
    pub fn new(product: Product, flush: Flush) -> Launch<'static> {
        Launch {
            product,
            flush,
            properties: &[],
            trace: None,
        }
    }
}

/// A running broker. Killed, and its data removed, when dropped.
pub struct Server<'a> {
    kit: &'a Kit,
    launch: Launch<'a>,
    process: Process,
    /// From the start of its process to its first Metadata answer.
    pub first_answer: Duration,
}

impl<'a> Server<'a> {
    /// Starts one without data.
    pub fn start(kit: &'a Kit, launch: Launch<'a>) -> io::Result<Server<'a>> {
        clear(kit)?;
        if launch.product == Product::Kafka {
            copy(&kit.formatted(), &kit.data())?;
        }
        let (process, first_answer) = begin(kit, &launch)?;
        Ok(Server {
            kit,
            launch,
            process,
            first_answer,
        })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.kit.port)
    }

    /// Its data.
    pub fn data(&self) -> PathBuf {
        self.kit.data()
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it has used so far.
    pub fn usage(&self) -> io::Result<Usage> {
        Usage::of(self.process.id())
    }

    /// Ends it with SIGKILL; under strace with SIGTERM, for strace ends with its broker only if it is left alone.
    pub fn kill(&self) {
        self.end();
        RUNNING.store(0, Ordering::SeqCst);
    }

    fn end(&self) {
        if self.launch.trace.is_some() {
            self.process.signal(Signal::TERM);
            if self.process.wait(STOP_DEADLINE).is_some() {
                return;
            }
        }
        self.process.signal(Signal::KILL);
        self.process.wait(START_DEADLINE);
    }

    /// Starts it again over its data; [`Server::first_answer`] is then that of this start.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        (self.process, self.first_answer) = begin(self.kit, &self.launch)?;
        Ok(())
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.kill();
        if let Err(error) = clear(self.kit) {
            eprintln!("load: the data folder is not removed: {error}");
        }
    }
}

fn begin(kit: &Kit, launch: &Launch<'_>) -> io::Result<(Process, Duration)> {
    let run = kit.command(launch)?;
    let address = format!("127.0.0.1:{}", kit.port);
    let begin = kit.env.monotonic();
    let process = run.start();
    RUNNING.store(process.id(), Ordering::SeqCst);
    loop {
        match first_answer(&address) {
            Ok(()) => return Ok((process, kit.env.monotonic() - begin)),
            Err(error) if kit.env.monotonic() - begin > START_DEADLINE => {
                return Err(failed(format!(
                    "{} does not answer: {error}\n{}",
                    launch.product.name(),
                    process.output()
                )));
            }
            Err(_) => {}
        }
        if let Some(status) = process.wait(ATTEMPT) {
            return Err(failed(format!(
                "{} ended with {status}\n{}",
                launch.product.name(),
                process.output()
            )));
        }
    }
}

/// Removes the data and waits until the disk has nothing left to do for whoever was measured before.
fn clear(kit: &Kit) -> io::Result<()> {
    match std::fs::remove_dir_all(kit.data()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    rustix::fs::syncfs(std::fs::File::open(&kit.folder)?)?;
    wait_until_calm(&kit.env, &kit.folder)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
