//! Group commit. One thread owns the order: it plans appends of all partitions as they come, writes them in
//! that order, and hands what must be durable to a second thread that syncs. So writing and syncing overlap,
//! and one sync serves all partitions and connections that wrote before it began. Where there is little to sync, syncs are
//! short, and nothing else is to be done, it syncs itself: waking a thread costs half as much as such a sync.
//!
//! Here are the commands and the appends of leaders; the thread that syncs has `writer/syncer.rs`, rare changes have
//! `writer/changes.rs` and `writer/front.rs`. Started by `log.rs`; nothing else changes a log. Invariants:
//! * plans reach the engine in the order they were made, so that a later plan may build on an earlier one;
//! * a sync is credited only with what had been written before it began;
//! * after a failed write or sync everything waiting fails, nothing more is accepted, nothing is retried.

mod changes;
mod cleaning;
mod commands;
mod front;
mod syncer;
mod threads;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::changes::{create_now, stored_next_handle};
use self::commands::Commands;
pub(crate) use self::front::{Advance, Erase};
pub(crate) use self::syncer::Shared;
use self::syncer::Synced;
pub(crate) use self::threads::{Threads, start};
use crate::engine::WriteOps;
use crate::error::{EngineError, StorageError};
use crate::keys::PartitionId;
use crate::log::{AppendEntry, Partition};
use crate::partition::{CleaningStep, Offsets};
use crate::tail::Arrivals;
use crate::waiters::{Acks, AppendWaiter, PendingAppend, complete};

/// Appends below this size share one write; larger ones have their own.
const SHARED_WRITE_BYTES: usize = 16 << 10;

/// Commands taken into one group at the most.
const GROUP_COMMANDS: usize = 256;

/// What was only written is synced in the background at least this often.
const BACKGROUND_SYNC_MS: i64 = 1_000;

type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

/// What the writer is asked to do, in order.
#[derive(Debug)]
pub(crate) enum Command {
    Append {
        entries: Vec<AppendEntry>,
        acks: Acks,
        pending: Arc<PendingAppend>,
    },
    AppendFollower {
        partition: Arc<Partition>,
        batches: Bytes,
        reply: Reply<Offsets>,
    },
    DeletePrefix {
        partition: Arc<Partition>,
        offset: i64,
        reply: Reply<i64>,
    },
    AdvanceStarts {
        advances: Vec<Advance>,
        reply: Reply<u64>,
    },
    Erase {
        erases: Vec<Erase>,
        reply: Reply<()>,
    },
    Truncate {
        partition: Arc<Partition>,
        offset: i64,
        reply: Reply<Offsets>,
    },
    TruncateFully {
        partition: Arc<Partition>,
        offset: i64,
        reply: Reply<Offsets>,
    },
    Clean {
        partition: Arc<Partition>,
        step: CleaningStep,
        reply: Reply<u64>,
    },
    Create {
        ids: Vec<PartitionId>,
        reply: Reply<Vec<Arc<Partition>>>,
    },
    Delete {
        ids: Vec<PartitionId>,
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

/// Appends that are planned but not written yet.
#[derive(Default)]
struct Group {
    ops: WriteOps,
    touched: Vec<Touched>,
    requests: usize,
    batches: usize,
}

struct Touched {
    partition: Arc<Partition>,
    generation: u64,
    end: i64,
    needs_sync: bool,
    flush_ms: i64,
    /// Base offset of the batch, its bytes as they are stored, and what these keep allocated.
    stored: Option<(i64, Bytes, usize)>,
}

struct Writer {
    shared: Arc<Shared>,
    group: Group,
    /// Whether a log start was moved since the writer's last sync.
    starts_unsynced: bool,
    arrivals: Arrivals,
    /// So long it waits for more before it syncs what is written.
    held_until: Option<Duration>,
}

impl Writer {
    fn new(shared: Arc<Shared>, tail_bytes: usize) -> Self {
        Self {
            shared,
            group: Group::default(),
            starts_unsynced: false,
            arrivals: Arrivals::new(tail_bytes),
            held_until: None,
        }
    }

    fn run(mut self, commands: mpsc::Receiver<Command>) {
        let mut commands = Commands::new(commands);
        while let Some(first) = self.next_command(&mut commands) {
            let mut next = Some(first);
            let mut taken = 0;
            while let Some(command) = next.take() {
                taken += 1;
                if let Command::Close { reply } = command {
                    self.write_group();
                    let closed = self.close();
                    commands.close();
                    self.shared.close_queue();
                    // Whoever asked may have gone; the log is closed all the same.
                    let _ = reply.send(closed);
                    return;
                }
                self.perform(command);
                if taken < GROUP_COMMANDS {
                    next = commands.try_next();
                }
            }
            self.write_last(commands.is_empty());
        }
    }

    /// The next command, `None` once there are none any more. What is held back for more is synced in time.
    fn next_command(&mut self, commands: &mut Commands) -> Option<Command> {
        while let Some(until) = self.held_until {
            let wait = until.saturating_sub(self.shared.clock.monotonic());
            if !wait.is_zero()
                && let Some(command) = commands.next_within(wait)
            {
                return Some(command);
            }
            self.held_until = None;
            let synced = self.shared.sync_held();
            self.hold(synced);
        }
        commands.next()
    }

    /// Waits for more as long as is worth it after a sync.
    fn hold(&mut self, synced: Option<Synced>) {
        if let Some(synced) = synced {
            let now = self.shared.clock.monotonic();
            self.held_until = synced.patience.map(|patience| now + patience);
        }
    }

    fn perform(&mut self, command: Command) {
        if let Command::Append {
            entries,
            acks,
            pending,
        } = command
        {
            self.group.requests += 1;
            for (index, entry) in entries.into_iter().enumerate() {
                self.append(entry, acks, &pending, index);
            }
            return;
        }
        // Everything else sees a log without plans in flight, and may take long.
        self.write_group();
        if self.held_until.take().is_some() {
            self.shared.hand_over();
        }
        // A reply nobody waits for any more is no failure, here and below.
        match command {
            Command::Append { .. } | Command::Close { .. } => {}
            Command::AppendFollower {
                partition,
                batches,
                reply,
            } => {
                let _ = reply.send(self.append_follower(&partition, &batches));
            }
            Command::DeletePrefix {
                partition,
                offset,
                reply,
            } => {
                let _ = reply.send(self.delete_prefix(&partition, offset));
            }
            Command::AdvanceStarts { advances, reply } => {
                let _ = reply.send(self.advance_starts(&advances));
            }
            Command::Erase { erases, reply } => {
                let _ = reply.send(self.erase(&erases));
            }
            Command::Truncate {
                partition,
                offset,
                reply,
            } => {
                let _ = reply.send(self.truncate(&partition, offset));
            }
            Command::TruncateFully {
                partition,
                offset,
                reply,
            } => {
                let _ = reply.send(self.truncate_fully(&partition, offset));
            }
            Command::Clean {
                partition,
                step,
                reply,
            } => {
                let _ = reply.send(self.clean(&partition, step));
            }
            Command::Create { ids, reply } => {
                let _ = reply.send(create_now(&self.shared, &ids));
            }
            Command::Delete { ids, reply } => {
                let _ = reply.send(self.delete(&ids));
            }
        }
    }

    fn append(
        &mut self,
        entry: AppendEntry,
        acks: Acks,
        pending: &Arc<PendingAppend>,
        index: usize,
    ) {
        if let Err(error) = self.shared.check() {
            pending.complete(index, Err(error));
            return;
        }
        let mut inner = entry.partition.lock();
        if inner.gone {
            drop(inner);
            pending.complete(index, Err(StorageError::NoSuchPartition));
            return;
        }
        let config = inner.config;
        let planned = inner.state.plan_append(
            entry.bytes,
            &entry.header,
            entry.leader_epoch,
            &config,
            self.shared.clock.now_ms(),
        );
        let planned = match planned {
            Ok(planned) => planned,
            Err(error) => {
                drop(inner);
                pending.complete(index, Err(error));
                return;
            }
        };
        inner.waiters.park_append(AppendWaiter {
            acks,
            appended: planned.appended,
            pending: pending.clone(),
            index,
        });
        let touched = Touched {
            partition: entry.partition.clone(),
            generation: inner.state.generation,
            end: if planned.appended.duplicate {
                0
            } else {
                planned.appended.end_offset
            },
            needs_sync: planned.needs_sync,
            flush_ms: config.flush_ms,
            stored: planned
                .stored
                .map(|(stored, allocated)| (planned.appended.base_offset, stored, allocated)),
        };
        drop(inner);
        let alone = planned.ops.bytes() >= SHARED_WRITE_BYTES;
        if alone && !self.group.ops.is_empty() {
            self.write_group();
        }
        self.group.batches += usize::from(!planned.appended.duplicate);
        self.group.ops.append(planned.ops);
        self.group.touched.push(touched);
        if alone {
            self.write_group();
        }
    }

    /// Writes what is planned, commits what needs no sync, and hands the rest to the syncer.
    fn write_group(&mut self) {
        self.write_last(false);
    }

    /// The same; if nothing else is to be done, the writer may sync itself.
    fn write_last(&mut self, idle: bool) {
        let group = std::mem::take(&mut self.group);
        if group.touched.is_empty() {
            return;
        }
        if !group.ops.is_empty() {
            let written = self.shared.check().and_then(|()| {
                self.shared
                    .engine
                    .write(&group.ops)
                    .map_err(StorageError::from)
            });
            if let Err(error) = written {
                let cause = match error {
                    StorageError::Engine(cause) => cause,
                    other => EngineError::Failed(other.to_string()),
                };
                self.shared.fail(&cause);
                return;
            }
            self.shared
                .observer
                .group_written(group.requests, group.batches, group.ops.bytes());
        }
        let mut flush_ms = BACKGROUND_SYNC_MS;
        let mut group = group;
        for touched in &mut group.touched {
            flush_ms = flush_ms.min(touched.flush_ms.max(0));
            let mut inner = touched.partition.lock();
            if touched.end > 0 {
                inner.state.written(touched.end);
            }
            if let Some((base, stored, allocated)) = touched.stored.take() {
                let (partition, range) = (&touched.partition, (base, touched.end));
                self.arrivals
                    .push(partition, &mut inner.tail, range, (stored, allocated));
            }
            let offsets = inner.state.offsets();
            let done = inner.waiters.advance(&offsets);
            drop(inner);
            complete(done);
        }
        self.arrivals.make_room();
        let bytes = group.ops.bytes();
        let synced = self.shared.queue_sync(group.touched, bytes, flush_ms, idle);
        self.hold(synced);
        if self.shared.failure().is_some_and(|error| {
            // The syncer failed meanwhile and may have missed those who were parked since.
            self.shared.fail(&error);
            true
        }) {
            tracing::debug!("a group was written after storage had failed");
        }
    }
}
