//! Builds the parts of a broker, recovers what is on disk, and begins to serve. Called by `main.rs` and the tests, once a
//! process; whatever fails here leaves nothing running.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ottla_coordinator::metadata::{Command, Reply};
use ottla_protocol::error_code::ErrorCode;
use ottla_storage::directory::{DataDirectory, Identity};
use ottla_storage::durable::keeper::{self, Keeper};
use ottla_storage::error::OpenError;
use ottla_storage::log::{Log, LogOptions};
use ottla_storage::proof::{OnLoss, Proof};
use ottla_storage::rocks::{RocksEngine, RocksOptions};
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, LiveConfig, memory};
use crate::disk::Disk;
use crate::disk::watcher::Watcher as DiskWatcher;
use crate::env::{self, Env};
use crate::groups::{self, Groups};
use crate::handlers::fetch_session::FetchSessions;
use crate::handlers::metadata::AutoCreations;
use crate::handlers::producer_ids::ProducerIds;
use crate::health::{Health, Watcher};
use crate::large::LargeRequests;
use crate::metrics::{BrokerState, Metrics};
use crate::network_threads::NetworkThreads;
use crate::partitions::Partitions;
use crate::rate_limit::RateLimit;
use crate::room::{Replies, Requests, Room};
use crate::router::Listener;
use crate::running::Running;
use crate::scrape::{self, Scrape};
use crate::scrub::{self, Scrub};
use crate::server::{self, Connections};
use crate::start_error::StartError;
use crate::supervisor::{Supervisor, supervise};
use crate::{Broker, background, cleaner, control, http, metadata_log};

/// Batches that are decompressed or compressed at once, over all connections.
const DECOMPRESSIONS: usize = 2;

/// Connections that may wait to be accepted. After a restart all clients come at once, and one for whom there is
/// no room tries again only after a second.
const BACKLOG: u32 = 1024;

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
    let health = Arc::new(Health::new(disk.clone()));
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
    prove(&directory, on_loss)?;
    if on_loss == OnLoss::Accept {
        // What is cut off now must be told by the leader epochs, also where this start ends early.
        directory.begin()?;
    }
    let (engine, log, keeper) = match open_log(&config, &directory, env, watcher.clone(), on_loss) {
        Err(error) if error.is_full() && disk_watcher.help_start() => {
            open_log(&config, &directory, env, watcher, on_loss)?
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
    // Also where nothing was found: the log may have been cut.
    let lost = on_loss == OnLoss::Accept;
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
    let threads = broker.config.num_network_threads;
    let network = Arc::new(NetworkThreads::start(threads).map_err(StartError::Thread)?);
    let runtimes: Vec<_> = network.runtimes().cloned().collect();
    let mut all = runtimes.clone();
    all.push(tokio::runtime::Handle::current());
    let scrub = Scrub::start(scrub::Parts {
        engine: engine.clone(),
        log: broker.log.clone(),
        partitions: broker.partitions.clone(),
        env,
        interval: broker.config.log_scrub_interval,
        busy: Box::new(move || (scrape::busy(&all).0, threads)),
    })
    .map_err(StartError::Thread)?;
    match control::bind(directory.path()) {
        Ok(control) => {
            let dir = directory.path().to_owned();
            tasks.spawn(control::serve(control, engine, dir, stop.clone()));
        }
        // Some file systems have no sockets; nothing else needs it.
        Err(error) => {
            tracing::warn!(%error, "there is no control socket in the data directory: `ottla backup` works only after a stop");
        }
    }
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
        network: runtimes,
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
            network.clone(),
            (tasks.clone(), stop.clone()),
        ));
    }
    let begin_anew = CancellationToken::new();
    let looks = disk_watcher.run(
        broker.log.clone(),
        env,
        broker.metrics.clone(),
        begin_anew.clone(),
        stop.clone(),
    );
    tasks.spawn(looks);
    background::start(&broker, &tasks, &stop);
    if broker.config.log_cleaner_enable {
        tasks.spawn(cleaner::run(broker.clone(), stop.clone()));
    }
    let machine = supervise(machine, broker.metrics.clone(), storage_lost.clone());
    health.serves();
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
        _network: network,
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
fn prove(directory: &DataDirectory, on_loss: OnLoss) -> Result<(), OpenError> {
    let dir = directory.path();
    let proof = Proof::examine(dir)?;
    if proof.unproven {
        tracing::warn!(dir = %dir.display(), "there is no durable file: whether anything is missing cannot be told");
    }
    proof.judge(dir, on_loss)?;
    for finding in &proof.findings {
        tracing::warn!(%finding, "a loss is accepted");
    }
    proof.prepare(dir)
}

fn open_log(
    config: &Config,
    directory: &DataDirectory,
    env: Env,
    watcher: Watcher,
    on_loss: OnLoss,
) -> Result<(Arc<RocksEngine>, Log, Keeper), OpenError> {
    let shares = memory::shares(config.memory_budget_bytes);
    let options = RocksOptions {
        write_buffers_bytes: shares.write_buffers,
        key_cache_bytes: shares.key_cache,
        ..RocksOptions::default()
    };
    let engine =
        RocksEngine::open(directory.path(), &options).map_err(|source| OpenError::Engine {
            dir: directory.path().display().to_string(),
            source,
        })?;
    let engine = Arc::new(engine);
    let random = env.uuid().into_bytes();
    keeper::sign(directory.path(), &engine.sync_point(), random)?;
    let log = Log::open_with(
        engine.clone(),
        directory.identity().node_id,
        LogOptions {
            max_producers: config.max_producers_per_partition,
            tail_bytes: shares.tail,
            on_loss,
        },
        Arc::new(env),
        Arc::new(watcher),
    )?;
    let keeper = Keeper::start(directory.path(), engine.sync_point(), random)?;
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
