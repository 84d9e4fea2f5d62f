//! Runs a pure machine of `ottla-coordinator` over its partition log: hands it commands and timers, replays
//! and appends its records, and releases replies once the records are below the high watermark.
//!
//! One task owns one machine; nobody else touches it. Invariants: records are replayed in the order they are
//! appended; a reply never overtakes the records of an earlier one; after a failed append the machine is
//! dropped and loaded again from its log, since it may have replayed what was lost.

use std::collections::HashMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use ottla_coordinator::machine::{Machine, Outcome, ReplyId, TimerChange};
use ottla_protocol::batch::{self, BatchBuilder, BatchHeader};
use ottla_protocol::error_code::ErrorCode;
use ottla_protocol::records;
use ottla_storage::error::StorageError;
use ottla_storage::log::{AppendEntry, Log, Partition, ReadLimit};
use ottla_storage::waiters::Acks;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::env::Env;
use crate::error::storage_error;
use crate::timers::Timers;

/// Commands that may wait for a machine.
const QUEUED_COMMANDS: usize = 1024;

/// Bytes read at once while a machine is loaded.
const LOAD_BYTES: usize = 1 << 20;

/// A timer far away is looked at again after this long.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// A machine together with its records' bytes and its place in the broker.
pub trait Shard: Send + 'static {
    /// The machine.
    type Machine: Machine<Command: Send, Reply: Send, Record: Send, Timer: Send, Effect: Send>
        + Send;

    /// A machine that has seen no record.
    fn empty(&self) -> Self::Machine;

    /// A record's key and value in the log.
    fn encode(record: &<Self::Machine as Machine>::Record) -> (Option<Vec<u8>>, Option<Vec<u8>>);

    /// A record from its key and value; none if it is of a kind to pass over.
    ///
    /// # Errors
    /// What is wrong with the bytes, if the machine cannot go on without them.
    fn decode(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Option<<Self::Machine as Machine>::Record>, String>;

    /// Hands over what a view has kept of records below `end`, and answers where in the log to go on.
    ///
    /// # Errors
    /// The view cannot be read.
    fn restore(
        &mut self,
        _end: i64,
        _each: &mut dyn FnMut(<Self::Machine as Machine>::Record),
    ) -> Result<i64, StorageError> {
        Ok(0)
    }

    /// A record that was read from the log at the start, before the first command; `next` is the offset after
    /// its batch.
    ///
    /// # Errors
    /// Whatever keeps the shard from being loaded.
    fn replayed(
        &mut self,
        record: <Self::Machine as Machine>::Record,
        next: i64,
    ) -> Result<(), StorageError>;

    /// All of the log was replayed; comes once, before the first command.
    fn loaded(&mut self) {}

    /// Records and effects whose records are now below the high watermark, in log order; runs before the
    /// replies that depend on them are released. `next` is the offset after them.
    fn committed(
        &mut self,
        records: Vec<<Self::Machine as Machine>::Record>,
        effects: Vec<<Self::Machine as Machine>::Effect>,
        next: i64,
    ) -> impl Future<Output = Result<(), StorageError>> + Send;

    /// The machine has stopped, and everything it has committed was told.
    fn stopped(&mut self) {}
}

type CommandOf<S> = <<S as Shard>::Machine as Machine>::Command;
type ReplyOf<S> = <<S as Shard>::Machine as Machine>::Reply;
type RecordOf<S> = <<S as Shard>::Machine as Machine>::Record;

struct Asked<S: Shard> {
    command: CommandOf<S>,
    reply: oneshot::Sender<Result<ReplyOf<S>, ErrorCode>>,
}

/// Where commands for a machine go.
pub struct Handle<S: Shard> {
    asked: mpsc::Sender<Asked<S>>,
}

impl<S: Shard> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self {
            asked: self.asked.clone(),
        }
    }
}

impl<S: Shard> Handle<S> {
    /// Asks the machine; answered once its records are durable.
    ///
    /// # Errors
    /// Storage trouble, or the broker shuts down.
    pub async fn ask(&self, command: CommandOf<S>) -> Result<ReplyOf<S>, ErrorCode> {
        let (reply, answer) = oneshot::channel();
        let sent = self.asked.send(Asked { command, reply }).await;
        if sent.is_err() {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        answer
            .await
            .unwrap_or(Err(ErrorCode::CoordinatorNotAvailable))
    }
}

/// Where a machine's log is.
#[derive(Clone)]
pub struct ShardLog {
    /// The storage.
    pub log: Log,
    /// The partition.
    pub partition: Arc<Partition>,
}

impl ShardLog {
    /// Reads every record from `from` to the high watermark, in order, each with the offset after its batch.
    /// Blocks on the disk.
    fn load<S: Shard>(
        &self,
        from: i64,
        mut each: impl FnMut(RecordOf<S>, i64) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut next = self.partition.offsets().log_start.max(from);
        loop {
            let read = self.log.read(
                &self.partition,
                next,
                LOAD_BYTES,
                true,
                ReadLimit::HighWatermark,
            )?;
            if read.batches.is_empty() {
                return Ok(());
            }
            for bytes in &read.batches {
                let bad = |what: String| StorageError::InvalidBatch(what);
                let header = BatchHeader::parse(bytes).map_err(|error| bad(error.to_string()))?;
                next = header.next_offset();
                if header.is_control() {
                    continue;
                }
                if !batch::crc_matches(bytes) {
                    return Err(bad(format!(
                        "batch at offset {} does not match its CRC",
                        header.base_offset
                    )));
                }
                let mut outcome = Ok(());
                records::for_each_record(bytes, LOAD_BYTES.max(bytes.len()), |record| {
                    outcome = match S::decode(record.key, record.value) {
                        Ok(Some(record)) => each(record, next),
                        Ok(None) => Ok(()),
                        Err(error) => Err(bad(error)),
                    };
                    if outcome.is_ok() {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                })
                .map_err(|error| bad(error.to_string()))?;
                outcome?;
            }
        }
    }
}

struct Committing<S: Shard> {
    outcome: Outcome<S::Machine>,
    /// The offset after the records; none when there were none.
    result: Result<Option<i64>, StorageError>,
}

struct Driver<S: Shard> {
    shard: S,
    machine: S::Machine,
    log: ShardLog,
    env: Env,
    waiting: HashMap<ReplyId, oneshot::Sender<Result<ReplyOf<S>, ErrorCode>>>,
    next_reply: u64,
    timers: Timers<<S::Machine as Machine>::Timer>,
    committing: FuturesOrdered<BoxFuture<'static, Committing<S>>>,
}

/// Loads the machine, hands what its log told to `replayed`, and starts the task that runs it until `stop`.
/// Returns when the machine is ready.
///
/// # Errors
/// The log cannot be read, or holds what the machine does not know.
pub async fn start<S: Shard>(
    mut shard: S,
    log: ShardLog,
    env: Env,
    stop: CancellationToken,
) -> Result<(Handle<S>, tokio::task::JoinHandle<()>), StorageError> {
    let machine = load(&mut shard, &log, |shard, record, next| {
        shard.replayed(record, next)
    })?;
    shard.loaded();
    let (asked, receiver) = mpsc::channel(QUEUED_COMMANDS);
    let driver = Driver {
        shard,
        machine,
        log,
        env,
        waiting: HashMap::new(),
        next_reply: 0,
        timers: Timers::new(),
        committing: FuturesOrdered::new(),
    };
    let task = tokio::spawn(driver.run(receiver, stop));
    Ok((Handle { asked }, task))
}

/// A machine that has seen everything below the high watermark: first from the view, then from the log.
fn load<S: Shard>(
    shard: &mut S,
    log: &ShardLog,
    mut replayed: impl FnMut(&mut S, RecordOf<S>, i64) -> Result<(), StorageError>,
) -> Result<S::Machine, StorageError> {
    let mut machine = shard.empty();
    let end = log.partition.offsets().high_watermark;
    let from = shard.restore(end, &mut |record| machine.replay(&record))?;
    log.load::<S>(from, |record, next| {
        machine.replay(&record);
        replayed(shard, record, next)
    })?;
    Ok(machine)
}

impl<S: Shard> Driver<S> {
    async fn run(mut self, mut asked: mpsc::Receiver<Asked<S>>, stop: CancellationToken) {
        self.begin().await;
        self.serve(&mut asked, &stop).await;
        self.shard.stopped();
    }

    async fn serve(&mut self, asked: &mut mpsc::Receiver<Asked<S>>, stop: &CancellationToken) {
        loop {
            let due = self.timers.next();
            let until = due.map_or(Duration::MAX, |at| at.saturating_sub(self.env.monotonic()));
            tokio::select! {
                biased;
                Some(committing) = self.committing.next(), if !self.committing.is_empty() => {
                    self.commit(committing).await;
                }
                () = stop.cancelled(), if self.committing.is_empty() => return,
                next = asked.recv() => {
                    let Some(next) = next else { return };
                    if let Some(error) = self.log.log.failure() {
                        // Nothing can be written: what the machine knows stays what its log holds.
                        let _ = next.reply.send(Err(storage_error(&error.into())));
                        continue;
                    }
                    self.next_reply += 1;
                    let id = ReplyId(self.next_reply);
                    self.waiting.insert(id, next.reply);
                    let outcome = self.machine.handle(self.env.now_ms(), id, next.command);
                    self.take(outcome).await;
                }
                () = tokio::time::sleep(until.min(LONGEST_SLEEP)), if due.is_some() => self.expire().await,
            }
        }
    }

    async fn expire(&mut self) {
        let now = self.env.monotonic();
        while let Some(timer) = self.timers.pop(now) {
            let outcome = self.machine.expire(self.env.now_ms(), timer);
            self.take(outcome).await;
        }
    }

    /// Replays the records of an outcome, sends them on their way to the log, and queues what depends on them.
    async fn take(&mut self, mut outcome: Outcome<S::Machine>) {
        let (now, now_ms) = (self.env.monotonic(), self.env.now_ms());
        for change in std::mem::take(&mut outcome.timers) {
            match change {
                TimerChange::Arm { timer, at } => {
                    let wait = u64::try_from(at.saturating_sub(now_ms)).unwrap_or(0);
                    self.timers.arm(timer, now + Duration::from_millis(wait));
                }
                TimerChange::Cancel(timer) => self.timers.cancel(&timer),
            }
        }
        for record in &outcome.records {
            self.machine.replay(record);
        }
        if outcome.records.is_empty() {
            // Nothing to write, but nothing may overtake what is on its way either.
            let result = Ok(None);
            self.committing
                .push_back(Box::pin(async move { Committing { outcome, result } }));
            return;
        }
        let log = self.log.log.clone();
        let appended = match self.entry(&outcome.records) {
            Ok(entry) => log.append(vec![entry], Acks::All).await,
            Err(error) => Err(error),
        };
        self.committing.push_back(Box::pin(async move {
            let result = match appended {
                Err(error) => Err(error),
                Ok(answers) => match answers.await {
                    Err(_) => Err(StorageError::ShuttingDown),
                    Ok(answers) => answers
                        .into_iter()
                        .map(|answer| answer.map(|appended| appended.end_offset))
                        .collect::<Result<Vec<_>, _>>()
                        .map(|ends| ends.last().copied()),
                },
            };
            Committing { outcome, result }
        }));
    }

    /// All records of an outcome as one batch, so that they are written together or not at all.
    fn entry(&self, records: &[RecordOf<S>]) -> Result<AppendEntry, StorageError> {
        let now = self.env.now_ms();
        let mut builder = BatchBuilder::new(now);
        for record in records {
            let (key, value) = S::encode(record);
            builder = builder.record(now, key.as_deref(), value.as_deref(), &[]);
        }
        let bytes: Bytes = builder.build();
        let header = BatchHeader::parse(&bytes)
            .map_err(|error| StorageError::InvalidBatch(error.to_string()))?;
        Ok(AppendEntry {
            partition: self.log.partition.clone(),
            bytes: bytes.into(),
            header,
            leader_epoch: self.log.partition.offsets().leader_epoch,
        })
    }

    async fn commit(&mut self, committing: Committing<S>) {
        let Committing { outcome, result } = committing;
        let result = match result {
            Ok(Some(next)) => {
                let (records, effects) = (outcome.records, outcome.effects);
                self.shard.committed(records, effects, next).await
            }
            Ok(None) => {
                debug_assert!(outcome.effects.is_empty(), "an effect without a record");
                Ok(())
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => {
                for (id, reply) in outcome.replies {
                    self.release(id, Ok(reply));
                }
            }
            Err(error) => {
                let code = storage_error(&error);
                tracing::error!(%error, "a coordinator's records could not be stored");
                for (id, _) in outcome.replies {
                    self.release(id, Err(code));
                }
                self.reload(code).await;
            }
        }
    }

    fn release(&mut self, id: ReplyId, reply: Result<ReplyOf<S>, ErrorCode>) {
        if let Some(waiting) = self.waiting.remove(&id) {
            // The connection that asked may be gone.
            let _ = waiting.send(reply);
        }
    }

    /// The log is replayed: the machine arms its first timers.
    async fn begin(&mut self) {
        let outcome = self.machine.start(self.env.now_ms());
        self.take(outcome).await;
    }

    /// The machine may have replayed records that were lost: begin again from what the log holds.
    /// Requests that were parked in it are answered with `code`: the new machine does not know them.
    async fn reload(&mut self, code: ErrorCode) {
        for (_, waiting) in self.waiting.drain() {
            // The connection that asked may be gone.
            let _ = waiting.send(Err(code));
        }
        // What the log tells again is known to the shard.
        match load(&mut self.shard, &self.log, |_, _, _| Ok(())) {
            Ok(machine) => {
                self.machine = machine;
                self.timers = Timers::new();
                self.begin().await;
            }
            Err(error) => tracing::error!(%error, "a coordinator could not be loaded again"),
        }
    }
}
