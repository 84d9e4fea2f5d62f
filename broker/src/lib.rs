//! Ottla, a Kafka-wire-compatible broker. This file builds the parts, starts them and stops them; `main.rs` and
//! the tests call it. How a request travels stands in ARCHITECTURE.md.

pub mod background;
pub mod cleaner;
pub mod cli;
pub mod config;
pub mod connection;
pub mod control;
pub mod disk;
pub mod driver;
pub mod env;
pub mod error;
pub mod error_counts;
pub mod groups;
pub mod handlers;
pub mod http;
pub mod large;
pub mod metadata_log;
pub mod metrics;
pub mod partitions;
pub mod rate_limit;
pub mod room;
pub mod router;
pub mod scrape;
pub mod scrub;
pub mod server;
pub mod timers;
pub mod topic_config;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ottla_coordinator::metadata::{Command, MetadataError, Reply};
use ottla_protocol::error_code::ErrorCode;
use ottla_storage::directory::{DataDirectory, Identity};
use ottla_storage::durable::keeper::Keeper;
use ottla_storage::error::{EngineError, OpenError, StorageError};
use ottla_storage::log::{Log, LogOptions, Observer};
use ottla_storage::proof::{OnLoss, Proof};
use ottla_storage::rocks::{RocksEngine, RocksOptions};
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, LiveConfig, memory};
use crate::disk::Disk;
use crate::disk::watcher::Watcher as DiskWatcher;
use crate::env::Env;
use crate::groups::Groups;
use crate::handlers::fetch_session::FetchSessions;
use crate::handlers::metadata::AutoCreations;
use crate::handlers::producer_ids::ProducerIds;
use crate::large::LargeRequests;
use crate::metadata_log::MetadataLog;
use crate::metrics::{BrokerState, Metrics};
use crate::partitions::Partitions;
use crate::rate_limit::RateLimit;
use crate::room::{Replies, Requests, Room};
use crate::router::Listener;
use crate::scrape::Scrape;
use crate::scrub::Scrub;
use crate::server::Connections;

/// Batches that are decompressed or compressed at once, over all connections.
const DECOMPRESSIONS: usize = 2;

/// How long connections may take to finish what they began, once asked to stop.
const DRAIN: Duration = Duration::from_millis(1_000);

/// How long answers that tell of a failed store may take to leave, before the process ends.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// Connections that may wait to be accepted. After a restart all clients come at once, and one for whom there is
/// no room tries again only after a second.
const BACKLOG: u32 = 1024;

/// Producers are looked through for expired ones this often (Kafka's `producer.id.expiration.check.interval.ms`).
const PRODUCER_EXPIRY_CHECK: Duration = Duration::from_secs(600);

/// Why a broker does not start, or not stop cleanly. Each prints as one line.
#[derive(Debug, Error)]
pub enum StartError {
    /// A listener's address cannot be had.
    #[error(
        "cannot listen on {address}: {source}; stop what uses the address, or choose another one with {key}"
    )]
    Listen {
        /// The address.
        address: String,
        /// The property that names it.
        key: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The socket for `ottla backup` cannot be made.
    #[error("cannot make the control socket in the data directory: {0}")]
    Control(io::Error),
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The metadata cannot be loaded or written.
    #[error("cannot load the metadata: {0}")]
    Metadata(StorageError),
    /// The log cannot be closed; what it acknowledged before is safe, and the next start tells the rest.
    #[error("cannot close the log: {0}")]
    Close(StorageError),
    /// The broker cannot register itself.
    #[error("cannot register the broker in the metadata log: {}", .0.name())]
    Register(ErrorCode),
}

/// Everything that handlers share.
pub struct Broker {
    /// The configuration it was started with.
    pub config: Arc<Config>,
    /// What of the configuration can change at run time.
    pub dynamic: Arc<LiveConfig>,
    /// Time and chance.
    pub env: Env,
    /// Who it is.
    pub identity: Identity,
    /// The metadata log.
    pub metadata: MetadataLog,
    /// Partitions by topic.
    pub partitions: Arc<Partitions>,
    /// The group coordinator.
    pub groups: Arc<Groups>,
    /// All partition logs.
    pub log: Log,
    /// How full the disk is.
    pub disk: Arc<Disk>,
    /// All metrics.
    pub metrics: Metrics,
    /// Which lines about repeating failures of requests may be logged.
    pub log_lines: RateLimit,
    /// Incremental fetch sessions.
    pub fetch_sessions: FetchSessions,
    /// Topics that Metadata requests are creating.
    pub auto_creations: AutoCreations,
    /// Producer ids to give out.
    pub producer_ids: ProducerIds,
    /// Permits to decompress or compress a batch.
    pub decompressions: Arc<Semaphore>,
    /// Where large requests are worked on.
    pub large: LargeRequests,
    /// Room for requests (`queued.max.request.bytes`).
    pub requests: Requests,
    /// Room for batches in answers.
    pub answers: Room,
    /// Room for other large answers.
    pub replies: Replies,
    /// Room for what batches grow by with the codec of their topic.
    pub recompressed: Room,
    broker_epoch: AtomicI64,
    /// Looks after a coordinator's task.
    supervisor: Supervisor,
}

impl Broker {
    /// Makes the topic of groups, if it is not there, and loads its shards.
    ///
    /// # Errors
    /// The topic cannot be made now.
    pub async fn ready_groups(&self) -> Result<(), ErrorCode> {
        if self.groups.are_loaded() {
            return Ok(());
        }
        if self.metadata.image().topic(groups::TOPIC).is_none() {
            let command = Command::CreateTopic {
                name: groups::TOPIC.to_owned(),
                id: self.env.uuid(),
                partitions: None,
                num_partitions: self.config.offsets_topic_num_partitions,
                replication_factor: 1,
                configs: groups::topic_configs(),
                validate_only: false,
            };
            let not_available = |why: String| {
                tracing::warn!(why, topic = groups::TOPIC, "topic cannot be created");
                ErrorCode::CoordinatorNotAvailable
            };
            match self.metadata.propose(command).await {
                Ok(Reply::TopicCreated { num_partitions, .. }) => {
                    tracing::info!(
                        topic = groups::TOPIC,
                        partitions = num_partitions,
                        "topic created for the first group"
                    );
                }
                // Another client was first.
                Ok(Reply::Failed(MetadataError::TopicAlreadyExists(_))) => {}
                Ok(other) => return Err(not_available(format!("{other:?}"))),
                Err(code) => return Err(not_available(code.name().to_owned())),
            }
        }
        let tasks = self.groups.reconcile(&self.metadata).await;
        self.supervisor.watch(tasks);
        if self.groups.are_loaded() {
            Ok(())
        } else {
            Err(ErrorCode::CoordinatorNotAvailable)
        }
    }

    /// The epoch of this start, from the metadata log.
    pub fn broker_epoch(&self) -> i64 {
        self.broker_epoch.load(Ordering::Relaxed)
    }
}

/// Where the broker stands, for `/readyz`.
#[derive(Debug, Default)]
struct Health {
    state: AtomicU8,
    failure: OnceLock<String>,
    disk: Arc<Disk>,
}

impl Health {
    const RUNNING: u8 = 1;
    const STOPPING: u8 = 2;
}

impl http::HealthSource for Health {
    fn ready(&self) -> Result<(), String> {
        if let Some(failure) = self.failure.get() {
            return Err(format!("storage failed: {failure}"));
        }
        match self.state.load(Ordering::Acquire) {
            Self::RUNNING => match self.disk.refusal() {
                Some(refusal) => Err(refusal.to_owned()),
                None => Ok(()),
            },
            Self::STOPPING => Err("stopping".to_owned()),
            _ => Err("starting".to_owned()),
        }
    }
}

/// Hears of commits and syncs, and of the end of storage.
#[derive(Clone)]
struct Watcher {
    metrics: Metrics,
    health: Arc<Health>,
    disk: Arc<Disk>,
    storage_lost: CancellationToken,
}

impl Observer for Watcher {
    fn group_written(&self, requests: usize, batches: usize, bytes: usize) {
        self.metrics.group_commit(requests, batches, bytes);
        self.disk.written(bytes);
    }

    fn synced(&self, took: Duration) {
        self.metrics.fsync(took);
    }

    fn failed(&self, error: &EngineError) {
        self.metrics.log_directory_offline(true);
        // Only the first failure counts, and the log reports no other.
        let _ = self.health.failure.set(error.to_string());
        match error {
            // Reads go on; once there is room the disk's watcher lets the process begin anew.
            EngineError::Full(_) => {}
            // What reached the disk is not known, and a sync must not be tried again: only a new start tells.
            EngineError::Io(_) | EngineError::Corruption(_) | EngineError::Failed(_) => {
                self.storage_lost.cancel();
            }
        }
    }
}

/// A broker that serves.
pub struct Running {
    /// The broker.
    pub broker: Arc<Broker>,
    /// Name and address of each listener, ports filled in.
    pub listeners: Vec<(Arc<Listener>, SocketAddr)>,
    /// Where `/metrics` is, if it is anywhere.
    pub metrics_address: Option<SocketAddr>,
    /// Cancelled when storage can no longer be trusted, or a coordinator is gone, and the process has to end.
    pub storage_lost: CancellationToken,
    /// Cancelled when the store, stopped by a full disk, can be started again: only a new start tells what is there.
    pub begin_anew: CancellationToken,
    health: Arc<Health>,
    directory: DataDirectory,
    keeper: Keeper,
    scrub: Scrub,
    tasks: TaskTracker,
    stop: CancellationToken,
    machines: Vec<JoinHandle<()>>,
    stop_machines: CancellationToken,
    _scrape: Arc<Scrape>,
}

async fn listen(host: &str, port: u16, key: &'static str) -> Result<TcpListener, StartError> {
    // An empty host means every interface, as in Kafka.
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    bind(host, port).await.map_err(|source| StartError::Listen {
        address: format!("{host}:{port}"),
        key,
        source,
    })
}

/// `TcpListener::bind` with room for `BACKLOG` connections that nobody accepted yet.
async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        let bound = socket.bind(address);
        match bound.and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Starts a broker: ports first, so that nothing on disk changes when one is in use; then the data directory,
/// the log, the metadata, the registration; then it serves. `on_loss` says what to do when the directory lost what
/// was safe in it.
///
/// # Errors
/// See `StartError`.
pub async fn start(config: Config, env: Env, on_loss: OnLoss) -> Result<Running, StartError> {
    let config = Arc::new(config);
    let mut sockets = Vec::new();
    for listener in &config.listeners {
        let socket = listen(&listener.host, listener.port, "listeners").await?;
        let address = socket.local_addr().map_err(|source| StartError::Listen {
            address: listener.host.clone(),
            key: "listeners",
            source,
        })?;
        let advertised = config
            .advertised_listeners
            .iter()
            .find(|advertised| advertised.name == listener.name)
            .unwrap_or(listener);
        let listener = Arc::new(Listener {
            name: listener.name.clone(),
            advertised_host: advertised.host.clone(),
            // Port 0 took a free port, which is the one to tell clients.
            advertised_port: if advertised.port == 0 {
                address.port()
            } else {
                advertised.port
            },
        });
        sockets.push((listener, socket, address));
    }
    let metrics = Metrics::new(config.metrics_detail);
    metrics.broker_state(BrokerState::Starting);
    let disk = Arc::new(Disk::default());
    let health = Arc::new(Health {
        disk: disk.clone(),
        ..Health::default()
    });
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let mut metrics_address = None;
    let mut metrics_socket = None;
    if let Some((host, port)) = &config.metrics_listener {
        let socket = listen(host, *port, "metrics.listener").await?;
        metrics_address = socket.local_addr().ok();
        metrics_socket = Some(socket);
    }

    let directory = open_directory(&config, env)?;
    if let Some(socket) = metrics_socket {
        tasks.spawn(http::serve(
            socket,
            metrics.clone(),
            health.clone(),
            stop.clone(),
        ));
    }
    let identity = directory.identity().clone();
    metrics.broker_state(BrokerState::Recovery);
    let storage_lost = CancellationToken::new();
    let watcher = Watcher {
        metrics: metrics.clone(),
        health: health.clone(),
        disk: disk.clone(),
        storage_lost: storage_lost.clone(),
    };
    let mut disk_watcher = DiskWatcher::new(disk.clone(), directory.path(), config.disk);
    disk_watcher.look_before_start();
    let proof = prove(&directory, on_loss)?;
    let (engine, log, keeper) = match open_log(&config, &directory, env, watcher.clone()) {
        Err(error) if error.is_full() && disk_watcher.help_start() => {
            open_log(&config, &directory, env, watcher)?
        }
        opened => opened?,
    };
    directory.begin()?;
    let partitions = Arc::new(Partitions::default());
    let stop_machines = CancellationToken::new();
    let dynamic = Arc::new(LiveConfig::new(&config));
    let (metadata, machine) = metadata_log::start(
        log.clone(),
        partitions.clone(),
        (config.clone(), dynamic.clone()),
        metrics.clone(),
        identity.node_id,
        env,
        stop_machines.clone(),
    )
    .await
    .map_err(StartError::Metadata)?;

    let shares = memory::shares(config.memory_budget_bytes);
    // Without a number of its own, requests may use their share of the memory budget.
    let request_bytes = config.queued_max_request_bytes.unwrap_or(shares.requests);
    let groups = Arc::new(Groups::new(
        groups::Parts {
            log: log.clone(),
            partitions: partitions.clone(),
            config: config.groups.clone(),
            env,
            directory_id: identity.directory_id,
        },
        stop.clone(),
    ));
    let broker = Arc::new(Broker {
        requests: Requests::new(request_bytes),
        answers: Room::new(shares.answers),
        replies: Replies::new(shares.replies),
        recompressed: Room::new(shares.recompressed),
        fetch_sessions: FetchSessions::new(config.max_incremental_fetch_session_cache_slots),
        config,
        dynamic,
        env,
        identity,
        metadata,
        groups,
        supervisor: Supervisor {
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            lost: storage_lost.clone(),
        },
        partitions,
        log,
        disk,
        metrics,
        log_lines: RateLimit::new(),
        auto_creations: AutoCreations::default(),
        large: LargeRequests::start().map_err(StartError::Thread)?,
        producer_ids: ProducerIds::default(),
        decompressions: Arc::new(Semaphore::new(DECOMPRESSIONS)),
        broker_epoch: AtomicI64::new(-1),
    });
    let lost = !proof.findings.is_empty();
    register(&broker, directory.was_unclean() || lost).await?;
    let loaded = broker.groups.reconcile(&broker.metadata).await;
    broker.supervisor.watch(loaded);
    let supervisor = broker.supervisor.clone();
    tasks.spawn(
        broker
            .groups
            .clone()
            .follow(broker.metadata.clone(), move |started| {
                supervisor.watch(started);
            }),
    );
    let runtime = tokio::runtime::Handle::current();
    let scrub = Scrub::start(scrub::Parts {
        engine: engine.clone(),
        log: broker.log.clone(),
        partitions: broker.partitions.clone(),
        env,
        interval: broker.config.log_scrub_interval,
        busy: Box::new(move || scrape::busy(&runtime)),
    })
    .map_err(StartError::Thread)?;
    let control = control::bind(directory.path()).map_err(StartError::Control)?;
    tasks.spawn(control::serve(
        control,
        engine,
        directory.path().to_owned(),
        stop.clone(),
    ));
    let scrape = Arc::new(Scrape::new(scrape::Parts {
        partitions: broker.partitions.clone(),
        metadata: broker.metadata.clone(),
        log: broker.log.clone(),
        groups: broker.groups.clone(),
        env,
        node_id: broker.identity.node_id,
        log_dir: directory.path().to_owned(),
        disk: broker.disk.clone(),
        runtime: tokio::runtime::Handle::current(),
        scrub: scrub.counts(),
    }));
    broker.metrics.watch_partitions(&scrape);
    broker.metrics.watch_engine(&scrape);
    broker.metrics.watch_groups(&scrape);
    broker.metrics.watch_host(&scrape);

    let connections = Arc::new(Connections::new(broker.dynamic.clone()));
    let mut listeners = Vec::new();
    for (listener, socket, address) in sockets {
        let advertised = format!("{}:{}", listener.advertised_host, listener.advertised_port);
        broker.metrics.broker(broker.identity.node_id, &advertised);
        listeners.push((listener.clone(), address));
        tasks.spawn(server::accept(
            broker.clone(),
            socket,
            listener,
            connections.clone(),
            tasks.clone(),
            stop.clone(),
        ));
    }
    tasks.spawn(expire_producers(broker.clone(), stop.clone()));
    let begin_anew = CancellationToken::new();
    let looks = disk_watcher.run(broker.log.clone(), env, begin_anew.clone(), stop.clone());
    tasks.spawn(looks);
    background::start(&broker, &tasks, &stop);
    if broker.config.log_cleaner_enable {
        tasks.spawn(cleaner::run(broker.clone(), stop.clone()));
    }
    let machine = supervise(machine, broker.metrics.clone(), storage_lost.clone());
    health.state.store(Health::RUNNING, Ordering::Release);
    broker.metrics.broker_state(BrokerState::Running);
    Ok(Running {
        broker,
        listeners,
        metrics_address,
        storage_lost,
        begin_anew,
        health,
        directory,
        keeper,
        scrub,
        tasks,
        stop,
        machines: vec![tokio::spawn(machine)],
        stop_machines,
        _scrape: scrape,
    })
}

fn open_directory(config: &Config, env: Env) -> Result<DataDirectory, OpenError> {
    DataDirectory::open(&config.log_dir, Some(config.node_id), || Identity {
        cluster_id: env::kafka_uuid(&env.uuid()),
        node_id: config.node_id,
        directory_id: env.uuid(),
    })
}

/// Looks whether all is there that was safe on disk, and makes the directory one that opens without a hole.
fn prove(directory: &DataDirectory, on_loss: OnLoss) -> Result<Proof, OpenError> {
    let dir = directory.path();
    let proof = Proof::examine(dir)?;
    if proof.unproven {
        tracing::warn!(dir = %dir.display(), "there is no durable file: whether anything is missing cannot be told");
    }
    proof.judge(dir, on_loss)?;
    for finding in &proof.findings {
        tracing::warn!(%finding, "a loss is accepted");
    }
    proof.prepare(dir)?;
    Ok(proof)
}

fn open_log(
    config: &Config,
    directory: &DataDirectory,
    env: Env,
    watcher: Watcher,
) -> Result<(Arc<RocksEngine>, Log, Keeper), OpenError> {
    let shares = memory::shares(config.memory_budget_bytes);
    let options = RocksOptions {
        write_buffers_bytes: shares.write_buffers,
        ..RocksOptions::default()
    };
    let engine =
        RocksEngine::open(directory.path(), &options).map_err(|source| OpenError::Engine {
            dir: directory.path().display().to_string(),
            source,
        })?;
    let engine = Arc::new(engine);
    let log = Log::open_with(
        engine.clone(),
        directory.identity().node_id,
        LogOptions {
            max_producers: config.max_producers_per_partition,
            tail_bytes: shares.tail,
        },
        Arc::new(env),
        Arc::new(watcher),
    )?;
    let keeper = Keeper::start(directory.path(), engine.sync_point())?;
    Ok((engine, log, keeper))
}

/// Registers this start: raises the broker epoch and, after an unclean stop, the leader epoch of every
/// partition here, before anything is served (KIP-320). So does a loss.
async fn register(broker: &Broker, unclean: bool) -> Result<(), StartError> {
    if unclean {
        tracing::info!("the last stop was not clean: leader epochs are raised");
    }
    let command = Command::RegisterBroker {
        broker_id: broker.identity.node_id,
        incarnation: broker.env.uuid(),
        unclean,
    };
    match broker.metadata.propose(command).await {
        Ok(Reply::BrokerRegistered { epoch }) => {
            broker.broker_epoch.store(epoch, Ordering::Relaxed);
            Ok(())
        }
        Ok(_) => Err(StartError::Register(ErrorCode::UnknownServerError)),
        Err(code) => Err(StartError::Register(code)),
    }
}

/// A machine that panics ends the process: nothing it answers for could be changed any more.
async fn supervise(machine: JoinHandle<()>, metrics: Metrics, lost: CancellationToken) {
    if let Err(error) = machine.await
        && error.is_panic()
    {
        metrics.panicked();
        tracing::error!(%error, "a coordinator's task panicked");
        lost.cancel();
    }
}

/// Looks after the tasks of coordinators that start while the broker runs.
#[derive(Clone)]
struct Supervisor {
    tasks: TaskTracker,
    metrics: Metrics,
    lost: CancellationToken,
}

impl Supervisor {
    fn watch(&self, machines: Vec<JoinHandle<()>>) {
        for machine in machines {
            self.tasks
                .spawn(supervise(machine, self.metrics.clone(), self.lost.clone()));
        }
    }
}

async fn expire_producers(broker: Arc<Broker>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PRODUCER_EXPIRY_CHECK) => {}
        }
        let expiration_ms = broker.dynamic.current().producer_id_expiration_ms;
        let oldest = broker.env.now_ms() - expiration_ms;
        let partitions = broker.log.partitions();
        let expired: usize = partitions
            .iter()
            .map(|partition| partition.expire_producers(oldest))
            .sum();
        tracing::debug!(expired, "looked for expired producers");
    }
}

impl StartError {
    /// Whether data is missing or damaged that was safe on disk.
    pub fn is_data_lost(&self) -> bool {
        let damaged = |error: &StorageError| {
            matches!(
                error,
                StorageError::Engine(EngineError::Corruption(_)) | StorageError::InvalidBatch(_)
            )
        };
        match self {
            Self::Directory(OpenError::Lost { .. })
            | Self::Directory(OpenError::Engine {
                source: EngineError::Corruption(_),
                ..
            }) => true,
            Self::Directory(OpenError::Log(error)) | Self::Metadata(error) => damaged(error),
            _ => false,
        }
    }
}

impl Running {
    /// Stops: no new connections, answers for what was begun, producer snapshots, a last sync, and the mark of a
    /// clean stop.
    ///
    /// # Errors
    /// When the log could not be closed; the next start then counts as unclean.
    pub async fn stop(self) -> Result<(), StartError> {
        self.health.state.store(Health::STOPPING, Ordering::Release);
        self.broker.metrics.broker_state(BrokerState::ShuttingDown);
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(left = self.tasks.len(), "connections did not end in time");
        }
        self.scrub.stop();
        self.stop_machines.cancel();
        for machine in self.machines {
            // How it ended was told by `supervise`.
            let _ = machine.await;
        }
        let closed = self.broker.log.close().await;
        // What was synced is safe whatever else went wrong.
        self.keeper.stop();
        closed.map_err(StartError::Close)?;
        Ok(self.directory.close()?)
    }

    /// Ends without a stop, because storage failed: no new connections, and a moment for the answers that say so.
    /// Nothing is written; what was acknowledged is there at the next start.
    pub async fn abandon(self) {
        self.health.state.store(Health::STOPPING, Ordering::Release);
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(LAST_ANSWERS, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!(left = self.tasks.len(), "connections did not end in time");
        }
    }
}
