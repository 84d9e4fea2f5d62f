//! What the broker calls: partitions by id, append, read, look-ups, deletion, truncation. A thin shell around
//! `partition.rs` (the rules) and `writer.rs` (the order).
//!
//! Invariants: every change of a log goes through the one writer, in the order it was submitted; reads never
//! wait for it and never see anything at or above the limit they ask for.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use ottla_protocol::batch::BatchHeader;
use ottla_protocol::records;
use tokio::sync::{mpsc, oneshot};

use crate::engine::{Engine, Family, Start};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle, PartitionId};
use crate::partition::{Appended, LogConfig, Offsets, PartitionState};
use crate::producers::{self, AbortedTransaction};
use crate::recovery;
use crate::waiters::{self, Acks, PendingAppend, Waiters, lock};
use crate::writer::{self, Command, Shared};

/// Commands that may wait for the writer; each connection bounds its own bytes besides.
const QUEUED_COMMANDS: usize = 1024;

/// How far a read may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLimit {
    /// Everything written: for followers and recovery.
    LogEnd,
    /// What is on all in-sync replicas: `read_uncommitted`.
    HighWatermark,
    /// What no open transaction hides: `read_committed`.
    Stable,
}

impl ReadLimit {
    /// The first offset that is not readable.
    pub fn end(self, offsets: &Offsets) -> i64 {
        match self {
            ReadLimit::LogEnd => offsets.log_end,
            ReadLimit::HighWatermark => offsets.high_watermark,
            ReadLimit::Stable => offsets.last_stable,
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

/// One partition's log on this broker.
#[derive(Debug)]
pub struct Partition {
    id: PartitionId,
    handle: Handle,
    inner: Mutex<Inner>,
}

/// What the partition's lock protects.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) state: PartitionState,
    pub(crate) config: LogConfig,
    pub(crate) waiters: Waiters,
    pub(crate) gone: bool,
}

/// Gets a batch's header, its bytes and the log start; says whether to go on.
type VisitBatch<'a> =
    dyn FnMut(&BatchHeader, &[u8], i64) -> Result<ControlFlow<()>, StorageError> + 'a;

/// One batch to append. `bytes` hold exactly one validated batch, `header` is its header.
#[derive(Debug, Clone)]
pub struct AppendEntry {
    /// Where to.
    pub partition: Arc<Partition>,
    /// The batch as the producer sent it.
    pub bytes: Bytes,
    /// Its header.
    pub header: BatchHeader,
    /// The leader epoch the caller believes in.
    pub leader_epoch: i32,
}

/// The answers of an append, one for each entry in order.
pub type AppendAnswers = oneshot::Receiver<Vec<Result<Appended, StorageError>>>;

/// What a read found.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Whole batches, the first of them holding the offset asked for.
    pub batches: Vec<Bytes>,
    /// Their size.
    pub bytes: usize,
    /// Aborted transactions among them, when the limit was `Stable`.
    pub aborted: Vec<AbortedTransaction>,
}

/// An offset found by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampOffset {
    /// The record's timestamp.
    pub timestamp: i64,
    /// The record's offset.
    pub offset: i64,
    /// The epoch it was written in.
    pub leader_epoch: i32,
}

/// All partition logs of a data directory.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    partitions: Arc<DashMap<PartitionId, Arc<Partition>>>,
    commands: mpsc::Sender<Command>,
    threads: Arc<Mutex<Option<writer::Threads>>>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("partitions", &self.partitions.len())
            .finish_non_exhaustive()
    }
}

impl Partition {
    pub(crate) fn new(id: PartitionId, state: PartitionState) -> Self {
        Self {
            id,
            handle: state.handle,
            inner: Mutex::new(Inner {
                state,
                config: LogConfig::default(),
                waiters: Waiters::default(),
                gone: false,
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Its topic's id and its index.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Its number in the data directory.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// All offsets, as one consistent reading.
    pub fn offsets(&self) -> Offsets {
        self.lock().state.offsets()
    }

    /// Whether it was deleted.
    pub fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// How many producers are remembered.
    pub fn producer_count(&self) -> usize {
        self.lock().state.producers().len()
    }

    /// Takes over a new configuration; holds for appends from now on.
    pub fn set_config(&self, config: LogConfig) {
        self.lock().config = config;
    }

    /// Becomes leader in `leader_epoch` with these in-sync replicas; parked fetches look again.
    pub fn become_leader(&self, leader_epoch: i32, isr: Vec<i32>) {
        let mut inner = self.lock();
        inner.state.become_leader(leader_epoch, isr);
        inner.waiters.wake_fetches();
        // Fewer replicas in sync may be all that an append waited for.
        let offsets = inner.state.offsets();
        let done = inner.waiters.advance(&offsets);
        drop(inner);
        waiters::complete(done);
    }

    /// Checks a request's leader epoch; -1 means that the client does not know one.
    ///
    /// # Errors
    /// Fenced or unknown epoch.
    pub fn check_epoch(&self, given: i32) -> Result<(), StorageError> {
        if given < 0 {
            return Ok(());
        }
        self.lock().state.check_epoch(given)
    }

    /// The greatest epoch at most `epoch` and its end offset; `(-1, -1)` when unknown.
    pub fn epoch_end(&self, epoch: i32) -> (i32, i64) {
        self.lock().state.epoch_end(epoch)
    }

    /// The epoch that `offset` was written in; -1 when unknown.
    pub fn epoch_of(&self, offset: i64) -> i32 {
        self.lock().state.epoch_of(offset)
    }

    /// Forgets producers that wrote nothing since `oldest`; returns how many.
    pub fn expire_producers(&self, oldest: i64) -> usize {
        self.lock().state.expire_producers(oldest)
    }

    #[cfg(test)]
    pub(crate) fn state(&self) -> PartitionState {
        self.lock().state.clone()
    }

    #[cfg(test)]
    pub(crate) fn parked_fetches(&self) -> usize {
        self.lock().waiters.parked_fetches()
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
        Self::open_limited(engine, node_id, producers::DEFAULT_LIMIT, clock, observer)
    }

    /// `open`, where each partition remembers at most `max_producers` producers (`producers.rs`).
    ///
    /// # Errors
    /// As `open`.
    pub fn open_limited(
        engine: Arc<dyn Engine>,
        node_id: i32,
        max_producers: usize,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StorageError> {
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
        if let Some((_, handle)) = bindings.iter().find(|(_, handle)| *handle >= next_handle) {
            return Err(StorageError::Engine(EngineError::Corruption(format!(
                "partition handle {} is in use, but the counter stands at {}",
                handle.0, next_handle.0
            ))));
        }
        // Nothing recovered may be served before it is safe from a power cut.
        engine.sync()?;
        let partitions = DashMap::new();
        for (id, handle) in bindings {
            let state = recovery::recover(engine.as_ref(), handle, node_id, max_producers)?;
            partitions.insert(id, Arc::new(Partition::new(id, state)));
        }
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
        let threads = writer::start(shared.clone(), receiver);
        let log = Self {
            shared,
            partitions,
            commands,
            threads: Arc::new(Mutex::new(Some(threads))),
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
        let (pending, answers) = PendingAppend::new(entries.len());
        self.send(Command::Append {
            entries,
            acks,
            pending,
        })
        .await?;
        Ok(answers)
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

    /// Moves the log start to `offset` (-1: to the high watermark) and deletes what lies before it.
    /// Answers the log start, once that is durable.
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

    /// Reads whole batches from the one that holds `from` on, up to `max_bytes`; the first batch is given
    /// even if it alone is larger and `at_least_one` is set (KIP-74). May block on the disk.
    ///
    /// # Errors
    /// `from` outside of `log start..=limit's end` (an offset between the limit and the log end reads as
    /// empty); the store's.
    pub fn read(
        &self,
        partition: &Partition,
        from: i64,
        max_bytes: usize,
        at_least_one: bool,
        limit: ReadLimit,
    ) -> Result<Read, StorageError> {
        let (offsets, gone) = {
            let inner = partition.lock();
            (inner.state.offsets(), inner.gone)
        };
        if gone {
            return Err(StorageError::NoSuchPartition);
        }
        let out_of_range = |offsets: &Offsets| StorageError::OffsetOutOfRange {
            offset: from,
            log_start: offsets.log_start,
            log_end: offsets.log_end,
        };
        if from < offsets.log_start || from > offsets.log_end {
            return Err(out_of_range(&offsets));
        }
        let end = limit.end(&offsets);
        let mut read = Read::default();
        if from >= end || (max_bytes == 0 && !at_least_one) {
            return Ok(read);
        }
        let (lower, to) = keys::batches(partition.handle, 0);
        let key = keys::batch(partition.handle, from);
        let mut outcome = Ok(());
        let mut next = from;
        self.shared.engine.scan(
            Family::Log,
            Start::Floor {
                key: &key,
                lower: &lower,
            },
            &to,
            &mut |_, value| {
                let header = match recovery::stored_header(partition.handle, value) {
                    Ok(header) => header,
                    Err(error) => {
                        outcome = Err(error);
                        return ControlFlow::Break(());
                    }
                };
                if header.last_offset() < from {
                    return ControlFlow::Continue(());
                }
                if header.base_offset >= end {
                    return ControlFlow::Break(());
                }
                let first = read.batches.is_empty();
                if read.bytes + value.len() > max_bytes && !(first && at_least_one) {
                    return ControlFlow::Break(());
                }
                read.bytes += value.len();
                read.batches.push(Bytes::copy_from_slice(value));
                next = header.next_offset();
                if read.bytes >= max_bytes {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        )?;
        outcome?;
        // A deletion or truncation may have taken the batches while they were read.
        let (now, gone) = {
            let inner = partition.lock();
            (inner.state.offsets(), inner.gone)
        };
        if gone {
            return Err(StorageError::NoSuchPartition);
        }
        if from < now.log_start || from > now.log_end {
            return Err(out_of_range(&now));
        }
        if limit == ReadLimit::Stable && !read.batches.is_empty() {
            read.aborted = partition.lock().state.aborted_in(from, next);
        }
        Ok(read)
    }

    /// The first record before `limit` whose timestamp is at least `timestamp`. May block on the disk.
    ///
    /// # Errors
    /// The store's, or damage.
    pub fn offset_for_timestamp(
        &self,
        partition: &Partition,
        timestamp: i64,
        limit: ReadLimit,
    ) -> Result<Option<TimestampOffset>, StorageError> {
        let (times, _) = keys::times(partition.handle);
        let until = keys::time(partition.handle, timestamp, 0);
        // Up to that batch every timestamp is too small.
        let skip = self
            .shared
            .engine
            .last(Family::Log, &times, &until)?
            .and_then(|(key, _)| keys::parse_time(&key))
            .map_or(0, |(_, base_offset)| base_offset);
        let mut found = None;
        self.scan_batches(partition, skip, limit, &mut |header, value, log_start| {
            if header.max_timestamp < timestamp {
                return Ok(ControlFlow::Continue(()));
            }
            found = first_since(header, value, timestamp, log_start)?;
            Ok(if found.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(found)
    }

    /// The first record before `limit` that has the greatest timestamp (KIP-734). May block on the disk.
    ///
    /// # Errors
    /// The store's, or damage.
    pub fn max_timestamp(
        &self,
        partition: &Partition,
        limit: ReadLimit,
    ) -> Result<Option<TimestampOffset>, StorageError> {
        let offsets = partition.offsets();
        let from = self
            .before_maximum(partition.handle, &offsets, limit)?
            .unwrap_or(offsets.log_start);
        let mut found: Option<TimestampOffset> = None;
        self.scan_batches(partition, from, limit, &mut |header, value, log_start| {
            if found.is_some_and(|found| found.timestamp >= header.max_timestamp) {
                return Ok(ControlFlow::Continue(()));
            }
            // A batch cut by the log start may have lost its greatest one: then any of its others counts.
            let least = found.map_or(i64::MIN, |found| found.timestamp + 1);
            if let Some(first) = greatest_since(header, value, least, log_start)? {
                found = Some(first);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// Base offset of a batch that comes before the greatest timestamp, by the time index; `None` where the
    /// index does not tell, because the maximum may have been deleted or not be readable yet.
    fn before_maximum(
        &self,
        handle: Handle,
        offsets: &Offsets,
        limit: ReadLimit,
    ) -> Result<Option<i64>, StorageError> {
        let (times, to) = keys::times(handle);
        let entry = |to: &[u8]| -> Result<Option<(Vec<u8>, i64)>, StorageError> {
            let last = self.shared.engine.last(Family::Log, &times, to)?;
            Ok(last.and_then(|(key, _)| {
                let (_, base_offset) = keys::parse_time(&key)?;
                Some((key, base_offset))
            }))
        };
        let Some((newest, base_offset)) = entry(&to)? else {
            return Ok(None);
        };
        if base_offset >= limit.end(offsets) {
            return Ok(None);
        }
        // An entry is written some time after the maximum grew, but the one before it held a smaller maximum.
        let before = entry(&newest)?.map(|(_, base_offset)| base_offset);
        Ok(before.filter(|base_offset| *base_offset >= offsets.log_start))
    }

    /// Visits the batches from the one that holds `from` on, up to `limit`.
    fn scan_batches(
        &self,
        partition: &Partition,
        from: i64,
        limit: ReadLimit,
        visit: &mut VisitBatch<'_>,
    ) -> Result<(), StorageError> {
        let offsets = partition.offsets();
        let end = limit.end(&offsets);
        let (lower, to) = keys::batches(partition.handle, 0);
        let key = keys::batch(partition.handle, from.max(offsets.log_start));
        let mut outcome = Ok(());
        self.shared.engine.scan(
            Family::Log,
            Start::Floor {
                key: &key,
                lower: &lower,
            },
            &to,
            &mut |_, value| {
                let step = recovery::stored_header(partition.handle, value).and_then(|header| {
                    if header.base_offset >= end {
                        return Ok(ControlFlow::Break(()));
                    }
                    visit(&header, value, offsets.log_start)
                });
                step.unwrap_or_else(|error| {
                    outcome = Err(error);
                    ControlFlow::Break(())
                })
            },
        )?;
        outcome
    }
}

/// The first record of a batch at or after `log_start` whose timestamp is at least `timestamp`.
fn first_since(
    header: &BatchHeader,
    batch: &[u8],
    timestamp: i64,
    log_start: i64,
) -> Result<Option<TimestampOffset>, StorageError> {
    let mut found = None;
    for_each_time(header, batch, |offset, held| {
        if offset >= log_start && held >= timestamp {
            found = Some((offset, held));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found.map(|found| timestamp_offset(header, found)))
}

/// The first of the records with the greatest timestamp, among those at or after `log_start` that have at
/// least `timestamp`.
fn greatest_since(
    header: &BatchHeader,
    batch: &[u8],
    timestamp: i64,
    log_start: i64,
) -> Result<Option<TimestampOffset>, StorageError> {
    let mut found: Option<(i64, i64)> = None;
    for_each_time(header, batch, |offset, held| {
        let better = found.is_none_or(|(_, best)| held > best);
        if offset >= log_start && held >= timestamp && better {
            found = Some((offset, held));
        }
        ControlFlow::Continue(())
    })?;
    Ok(found.map(|found| timestamp_offset(header, found)))
}

fn timestamp_offset(header: &BatchHeader, (offset, timestamp): (i64, i64)) -> TimestampOffset {
    TimestampOffset {
        timestamp,
        offset,
        leader_epoch: header.partition_leader_epoch,
    }
}

/// Offset and timestamp of every record of a stored batch.
fn for_each_time(
    header: &BatchHeader,
    batch: &[u8],
    mut visit: impl FnMut(i64, i64) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    // A stored batch passed the bound on its way in, which may have been another one then.
    records::for_each_record(batch, usize::MAX, |record| {
        match header.timestamp_of(record.timestamp_delta) {
            Some(timestamp) => visit(
                header.base_offset + i64::from(record.offset_delta),
                timestamp,
            ),
            None => ControlFlow::Continue(()),
        }
    })
    .map_err(|error| StorageError::InvalidBatch(error.to_string()))
}
