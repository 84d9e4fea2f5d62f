//! What the broker calls: partitions by id, append, read, look-ups, deletion, truncation. A thin shell around
//! `partition.rs` (the rules) and `writer.rs` (the order).
//!
//! Invariants: every change of a log goes through the one writer, in the order it was submitted; reads never
//! wait for it and never see anything at or above the limit they ask for.

mod cleaner;
mod reads;
mod replica;
mod retain;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dashmap::DashMap;
use ottla_protocol::batch::BatchHeader;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

pub use self::cleaner::{CleanerLimits, Cleaning, Round, Step};
pub use self::reads::{Most, Read, ReadLimit, TimestampOffset};
pub use self::replica::Partition;
pub(crate) use self::replica::Unerased;
pub use self::retain::{Erasable, Expired};
use crate::engine::{Engine, Family, Start};
use crate::error::{EngineError, StorageError};
use crate::keyed::View;
use crate::keys::{self, Handle, PartitionId};
use crate::partition::{Appended, Offsets, PartitionState};
use crate::producers;
use crate::proof::OnLoss;
use crate::recovery;
use crate::salvage;
use crate::waiters::{Acks, PendingAppend, lock};
use crate::writer::{self, Command, Shared};

/// Commands that may wait for the writer; each connection bounds its own bytes besides.
const QUEUED_COMMANDS: usize = 1024;

/// How much a log may hold in memory.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Producers that each partition remembers (`producers.rs`).
    pub max_producers: usize,
    /// Bytes of the newest batches of all partitions that stay in memory for consumers at the tail (`tail.rs`); 0: none.
    pub tail_bytes: usize,
    /// What to do where a log cannot be read to its end: refuse to open, or cut it before the damage.
    pub on_loss: OnLoss,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            max_producers: producers::DEFAULT_LIMIT,
            // So small in unit tests that reads come from memory and from the store.
            tail_bytes: if cfg!(test) { 2 << 10 } else { 16 << 20 },
            on_loss: OnLoss::Refuse,
        }
    }
}

/// What time it is, for the log: the broker's `env.rs` or a test's hand.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock, milliseconds since 1970.
    fn now_ms(&self) -> i64;
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// Who is told of commits and syncs, for metrics.
pub trait Observer: Send + Sync + 'static {
    /// One group of appends was written: requests, batches, bytes.
    fn group_written(&self, requests: usize, batches: usize, bytes: usize);
    /// One sync returned after this long.
    fn synced(&self, took: Duration);
    /// The store failed; nothing more is accepted.
    fn failed(&self, error: &EngineError);
}

/// An observer that does not look.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn group_written(&self, _: usize, _: usize, _: usize) {}
    fn synced(&self, _: Duration) {}
    fn failed(&self, _: &EngineError) {}
}

/// One batch to append. `bytes` hold exactly one validated batch, `header` is its header.
#[derive(Debug, Clone)]
pub struct AppendEntry {
    /// Where to.
    pub partition: Arc<Partition>,
    /// The batch as the producer sent it. Nobody else has these bytes: they are stamped in place and stored.
    pub bytes: BytesMut,
    /// Its header.
    pub header: BatchHeader,
    /// The leader epoch the caller believes in.
    pub leader_epoch: i32,
}

/// The answers of an append, one for each entry in order.
pub type AppendAnswers = oneshot::Receiver<Vec<Result<Appended, StorageError>>>;

/// All partition logs of a data directory.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    partitions: Arc<DashMap<PartitionId, Arc<Partition>>>,
    commands: mpsc::Sender<Command>,
    threads: Arc<Mutex<Option<writer::Threads>>>,
    appends: Appends,
}

/// Counts the appends that a log was asked for since it was opened, for whoever gives way to them.
#[derive(Debug, Clone, Default)]
pub struct Appends(Arc<AtomicU64>);

impl Appends {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many there were.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("partitions", &self.partitions.len())
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log on `engine`: recovers every partition, makes what was recovered durable, and starts the
    /// writer and the syncer. The metadata partition exists afterwards.
    ///
    /// # Errors
    /// The store's, or damage in what it holds.
    pub fn open(
        engine: Arc<dyn Engine>,
        node_id: i32,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StorageError> {
        Self::open_with(engine, node_id, LogOptions::default(), clock, observer)
    }

    /// `open`, with other than the usual options.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(
        engine: Arc<dyn Engine>,
        node_id: i32,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StorageError> {
        let LogOptions {
            max_producers,
            tail_bytes,
            on_loss: _,
        } = options;
        let mut bindings = Vec::new();
        let (from, to) = keys::bindings();
        let mut bad = false;
        engine.scan(
            Family::Log,
            Start::At(&from),
            &to,
            &mut |key, value| match (keys::parse_binding(key), keys::parse_handle(value)) {
                (Some(id), Some(handle)) => {
                    bindings.push((id, handle));
                    ControlFlow::Continue(())
                }
                _ => {
                    bad = true;
                    ControlFlow::Break(())
                }
            },
        )?;
        if bad {
            return Err(StorageError::Engine(EngineError::Corruption(
                "a partition binding has an unknown layout".to_owned(),
            )));
        }
        // A handle that is given away twice would mix two partitions.
        let next_handle = writer::stored_next_handle(engine.as_ref())?;
        let corrupt = |what: String| StorageError::Engine(EngineError::Corruption(what));
        let mut ids = BTreeMap::new();
        for (id, handle) in bindings {
            if handle >= next_handle {
                return Err(corrupt(format!(
                    "partition handle {} is in use, but the counter stands at {}",
                    handle.0, next_handle.0
                )));
            }
            if ids.insert(handle, id).is_some() {
                return Err(corrupt(format!(
                    "partition handle {} is bound twice",
                    handle.0
                )));
            }
        }
        // Nothing recovered may be served before it is safe from a power cut.
        engine.sync()?;
        let handles: Vec<Handle> = ids.keys().copied().collect();
        let partitions = DashMap::new();
        let take = |state: PartitionState| {
            let id = ids[&state.handle];
            partitions.insert(id, Arc::new(Partition::new(id, state)));
        };
        let recover = |handle: Handle| {
            salvage::recover(engine.as_ref(), (ids[&handle], handle), node_id, &options)
        };
        recovery::recover_all(&handles, &recover, &take)?;
        let partitions = Arc::new(partitions);
        let (commands, receiver) = mpsc::channel(QUEUED_COMMANDS);
        let shared = Arc::new(Shared::new(
            engine,
            node_id,
            max_producers,
            clock,
            observer,
            partitions.clone(),
        ));
        shared.reclaim_deleted(&handles, next_handle);
        let threads = writer::start(shared.clone(), receiver, tail_bytes);
        let log = Self {
            shared,
            partitions,
            commands,
            threads: Arc::new(Mutex::new(Some(threads))),
            appends: Appends::default(),
        };
        if log.partition(PartitionId::METADATA).is_none() {
            writer::create_now(&log.shared, &[PartitionId::METADATA])?;
        }
        Ok(log)
    }

    /// A partition that is on this broker.
    pub fn partition(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.partitions.get(&id).map(|entry| entry.value().clone())
    }

    /// All partitions, in no order, the metadata partition included.
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions
            .iter()
            .map(|entry| entry.value().clone())
            .collect()
    }

    /// Why nothing more is accepted, if so.
    pub fn failure(&self) -> Option<EngineError> {
        self.shared.failure()
    }

    /// The view of a partition of an internal topic, in these families of `meta`.
    pub fn view(
        &self,
        partition: &Partition,
        directory_id: Uuid,
        families: &'static [Family],
    ) -> View {
        let engine = self.shared.engine.clone();
        View::new(engine, partition.handle(), directory_id, families)
    }

    /// Gauges of the store.
    pub fn properties(&self) -> Vec<(&'static str, u64)> {
        self.shared.engine.properties()
    }

    async fn send(&self, command: Command) -> Result<(), StorageError> {
        self.commands
            .send(command)
            .await
            .map_err(|_| StorageError::ShuttingDown)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StorageError>>) -> Command,
    ) -> Result<T, StorageError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.unwrap_or(Err(StorageError::ShuttingDown))
    }

    /// Creates partitions that are not there yet, durably, and returns all of `ids` in order.
    ///
    /// # Errors
    /// The store's.
    pub async fn create(&self, ids: Vec<PartitionId>) -> Result<Vec<Arc<Partition>>, StorageError> {
        self.ask(|reply| Command::Create { ids, reply }).await
    }

    /// Deletes partitions with everything they hold. Appends and reads of them fail from now on.
    ///
    /// # Errors
    /// The store's; the caller deletes again after a restart.
    pub async fn delete(&self, ids: Vec<PartitionId>) -> Result<(), StorageError> {
        self.ask(|reply| Command::Delete { ids, reply }).await
    }

    /// Submits an append as leader. When this returns, the append's place in the order is taken; the receiver
    /// gets its answers once each entry is committed as `acks` asks, or has failed.
    ///
    /// # Errors
    /// Only that the log is closing.
    pub async fn append(
        &self,
        entries: Vec<AppendEntry>,
        acks: Acks,
    ) -> Result<AppendAnswers, StorageError> {
        self.appends.add();
        let (pending, answers) = PendingAppend::new(entries.len());
        self.send(Command::Append {
            entries,
            acks,
            pending,
        })
        .await?;
        Ok(answers)
    }

    /// What `append` was asked for.
    pub fn appends(&self) -> &Appends {
        &self.appends
    }

    /// Appends batches that the leader stamped, as its follower.
    ///
    /// # Errors
    /// A gap, an older epoch, or the store's.
    pub async fn append_as_follower(
        &self,
        partition: &Arc<Partition>,
        batches: Bytes,
    ) -> Result<Offsets, StorageError> {
        let partition = partition.clone();
        self.ask(|reply| Command::AppendFollower {
            partition,
            batches,
            reply,
        })
        .await
    }

    /// Moves the log start to `offset` (-1: to the high watermark), which deletes what lies before it. Answers the log
    /// start, once that is durable, also where retention had moved it so far.
    ///
    /// # Errors
    /// An offset beyond the high watermark; the store's.
    pub async fn delete_prefix(
        &self,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> Result<i64, StorageError> {
        let partition = partition.clone();
        self.ask(|reply| Command::DeletePrefix {
            partition,
            offset,
            reply,
        })
        .await
    }

    /// Cuts the log at `offset`: every batch that holds or follows it goes, with what derives from it.
    ///
    /// # Errors
    /// The store's.
    pub async fn truncate_to(
        &self,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> Result<Offsets, StorageError> {
        let partition = partition.clone();
        self.ask(|reply| Command::Truncate {
            partition,
            offset,
            reply,
        })
        .await
    }

    /// Empties the log and lets it begin at `offset`.
    ///
    /// # Errors
    /// The store's.
    pub async fn truncate_fully_and_start_at(
        &self,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> Result<Offsets, StorageError> {
        let partition = partition.clone();
        self.ask(|reply| Command::TruncateFully {
            partition,
            offset,
            reply,
        })
        .await
    }

    /// Writes producer snapshots, syncs, and stops the threads. Nothing is accepted afterwards.
    ///
    /// # Errors
    /// The store's; the next start then finds an unclean log.
    pub async fn close(&self) -> Result<(), StorageError> {
        let closed = self.ask(|reply| Command::Close { reply }).await;
        let threads = lock(&self.threads).take();
        if let Some(threads) = threads {
            threads.join();
        }
        closed
    }
}
