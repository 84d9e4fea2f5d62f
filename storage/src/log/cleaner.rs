//! The log cleaner: one round over one partition's log, in steps of bounded size. Called by the broker on a thread that
//! may block, which decides when a log is due (`compaction.rs`) and how fast steps follow each other.
//!
//! A round reads through the engine like any reader, off the writer's thread, and hands what changes to the writer
//! step by step; appends, reads and deletions go on meanwhile. It may end at any step, by a stop or a crash: what was
//! done is valid, and the next round does the rest. Invariant: nothing at or above the first uncleanable offset changes.
//! Memory: the offset map, and the largest batch decompressed, once as it was and once as it will be.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use ottla_protocol::batch::{self, BatchHeader, NO_TIMESTAMP};
use tokio::sync::oneshot;

use super::{Log, Partition};
use crate::compaction::{
    self, Cleanable, CompactionConfig, Fate, LastRecord, OffsetMap, Pass, Reach, Transactions,
};
use crate::engine::{Family, Start};
use crate::error::{EngineError, StorageError};
use crate::keys;
use crate::partition::{Chunk, CleaningStep, Edit};
use crate::recovery;
use crate::writer::Command;

/// How much a round may use (`log.cleaner.*`).
#[derive(Debug, Clone, Copy)]
pub struct CleanerLimits {
    /// `log.cleaner.dedupe.buffer.size`: bytes of the offset map.
    pub dedupe_buffer_bytes: usize,
    /// `log.cleaner.io.buffer.load.factor`: how full the map may get, 0 to 1.
    pub load_factor: f64,
    /// `log.cleaner.io.buffer.size`: bytes read in a step, but for one batch that is larger.
    pub io_buffer_bytes: usize,
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes read from the log.
    pub read_bytes: u64,
    /// Bytes written to it.
    pub written_bytes: u64,
    /// The round, once it is over.
    pub done: Option<Round>,
}

/// A round that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// Where it ended: the next first dirty offset.
    pub end: i64,
    /// Records looked at while filtering.
    pub records_read: u64,
    /// Records that stayed.
    pub records_kept: u64,
    /// Whether the offset map was too small for the dirty part, so that another round is needed.
    pub map_was_full: bool,
}

impl Log {
    /// What could be cleaned in a partition's log. Reads no more than a few chunks of its batches. May block on the
    /// disk.
    ///
    /// # Errors
    /// The store's, or damage.
    pub fn cleanable(
        &self,
        partition: &Partition,
        config: &CompactionConfig,
        now_ms: i64,
    ) -> Result<Cleanable, StorageError> {
        let (offsets, reached, size_bytes, open) = {
            let inner = partition.lock();
            if inner.gone {
                return Err(StorageError::NoSuchPartition);
            }
            let state = &inner.state;
            let offsets = state.offsets();
            (offsets, state.cleaned, state.size_bytes, state.open_chunk)
        };
        let first_dirty =
            compaction::first_dirty(reached.first_dirty, offsets.log_start, offsets.log_end);
        let last_stable = offsets.last_stable.max(first_dirty);
        let chunks = self.chunks_from(partition, first_dirty, open)?;
        let first_uncleanable = match compaction::too_young_from(config, now_ms) {
            Some(young_ms) => {
                let found = self.first_since(partition, &chunks, first_dirty, young_ms)?;
                found.map_or(last_stable, |young| young.clamp(first_dirty, last_stable))
            }
            None => last_stable,
        };
        let mut dirty_since_ms = None;
        self.each_batch(
            partition,
            first_dirty,
            first_uncleanable,
            &mut |header, _| {
                if header.last_offset() < first_dirty {
                    return Ok(ControlFlow::Continue(()));
                }
                dirty_since_ms = timestamp(header);
                Ok(ControlFlow::Break(()))
            },
        )?;
        let not_clean = self.bytes_between(partition, &chunks, first_dirty, offsets.log_end)?;
        Ok(Cleanable {
            first_dirty,
            first_uncleanable,
            clean_bytes: size_bytes.saturating_sub(not_clean),
            dirty_bytes: self.bytes_between(partition, &chunks, first_dirty, first_uncleanable)?,
            dirty_since_ms,
        })
    }

    /// Begins a round over what is cleanable. May block on the disk.
    ///
    /// # Errors
    /// The partition is gone.
    pub fn clean(
        &self,
        partition: &Arc<Partition>,
        cleanable: &Cleanable,
        config: &CompactionConfig,
        limits: CleanerLimits,
        now_ms: i64,
    ) -> Result<Cleaning, StorageError> {
        let Cleanable {
            first_dirty,
            first_uncleanable,
            ..
        } = *cleanable;
        // As much room as may be needed is taken before the lock, and the map made after it: readers wait for it.
        let mut producers = Vec::with_capacity(partition.producer_count());
        let (version, first_uncleanable, aborted) = {
            let inner = partition.lock();
            if inner.gone {
                return Err(StorageError::NoSuchPartition);
            }
            let state = &inner.state;
            // The plan may be older than the log's state, but never goes beyond what is stable.
            let first_uncleanable = first_uncleanable.min(state.offsets().last_stable);
            producers.extend(state.producers().iter().map(|(id, producer)| {
                let last = LastRecord {
                    offset: producer.batches.back().map(|newest| newest.last_offset),
                    epoch: producer.epoch,
                };
                (id, last)
            }));
            let aborted = state.aborted_in(first_dirty, first_uncleanable);
            (inner.version(), first_uncleanable, aborted)
        };
        let (generation, edition) = version;
        let records = u64::try_from(first_uncleanable - first_dirty).unwrap_or(0);
        let mapping = Mapping {
            map: OffsetMap::new(limits.dedupe_buffer_bytes, limits.load_factor, records),
            transactions: Transactions::new(aborted),
            next: first_dirty,
        };
        Ok(Cleaning {
            log: self.clone(),
            partition: partition.clone(),
            limits,
            generation,
            edition,
            first_dirty,
            reach: Reach {
                first_uncleanable,
                now_ms,
                delete_retention_ms: config.delete_retention_ms,
            },
            producers: producers.into_iter().collect(),
            phase: Phase::Mapping(mapping),
        })
    }

    /// The chunks that reach beyond `from`, the open one last.
    fn chunks_from(
        &self,
        partition: &Partition,
        from: i64,
        open: Chunk,
    ) -> Result<Vec<Chunk>, StorageError> {
        let handle = partition.handle();
        let (lower, _) = keys::chunks(handle, 0);
        let key = keys::chunk(handle, from);
        let start = Start::Floor {
            key: &key,
            lower: &lower,
        };
        // One that was closed since is still counted as the open one.
        let to = keys::chunk(handle, open.base_offset);
        let mut chunks = Vec::new();
        let engine = &self.shared.engine;
        engine.scan(Family::Log, start, &to, &mut |key, value| {
            let chunk = keys::parse_chunk(key, value);
            chunks.extend(chunk.filter(|chunk| chunk.end_offset > from));
            ControlFlow::Continue(())
        })?;
        chunks.push(open);
        Ok(chunks)
    }

    /// Base offset of the first batch at or above `from` with a timestamp of at least `since_ms`.
    fn first_since(
        &self,
        partition: &Partition,
        chunks: &[Chunk],
        from: i64,
        since_ms: i64,
    ) -> Result<Option<i64>, StorageError> {
        let mut found = None;
        for chunk in chunks {
            if chunk.max_timestamp < since_ms || found.is_some() {
                continue;
            }
            let from = from.max(chunk.base_offset);
            self.each_batch(partition, from, chunk.end_offset, &mut |header, _| {
                if header.last_offset() >= from && header.max_timestamp >= since_ms {
                    found = Some(header.base_offset);
                    return Ok(ControlFlow::Break(()));
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(found)
    }

    /// Bytes of the batches that begin in `from..to`; the one that holds `from` counts as beginning there.
    fn bytes_between(
        &self,
        partition: &Partition,
        chunks: &[Chunk],
        from: i64,
        to: i64,
    ) -> Result<u64, StorageError> {
        let mut bytes = 0;
        for chunk in chunks {
            if from <= chunk.base_offset && chunk.end_offset <= to {
                bytes += chunk.bytes;
                continue;
            }
            let (from, to) = (from.max(chunk.base_offset), to.min(chunk.end_offset));
            self.each_batch(partition, from, to, &mut |header, value| {
                if header.last_offset() >= from {
                    bytes += value.len() as u64;
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(bytes)
    }

    /// Visits the batches from the one that holds `from` (or the one before it) to before `to`.
    fn each_batch(
        &self,
        partition: &Partition,
        from: i64,
        to: i64,
        visit: &mut VisitBatch<'_>,
    ) -> Result<(), StorageError> {
        if from >= to {
            return Ok(());
        }
        let handle = partition.handle();
        let (lower, _) = keys::batches(handle, 0);
        let (key, end) = (keys::batch(handle, from), keys::batch(handle, to));
        let start = Start::Floor {
            key: &key,
            lower: &lower,
        };
        let mut outcome = Ok(());
        let engine = &self.shared.engine;
        engine.scan(Family::Log, start, &end, &mut |_, value| {
            let step = recovery::stored_header(handle, value);
            step.and_then(|header| visit(&header, value))
                .unwrap_or_else(|error| {
                    outcome = Err(error);
                    ControlFlow::Break(())
                })
        })?;
        outcome
    }
}

type VisitBatch<'a> = dyn FnMut(&BatchHeader, &[u8]) -> Result<ControlFlow<()>, StorageError> + 'a;

/// The time of a batch; none if its producer gave none.
fn timestamp(header: &BatchHeader) -> Option<i64> {
    let timestamp = match header.delete_horizon_ms() {
        Some(_) => header.max_timestamp,
        None => header.base_timestamp,
    };
    (timestamp > NO_TIMESTAMP).then_some(timestamp)
}

/// A round on its way. Dropping it ends it.
#[derive(Debug)]
pub struct Cleaning {
    log: Log,
    partition: Arc<Partition>,
    limits: CleanerLimits,
    generation: u64,
    edition: u64,
    first_dirty: i64,
    reach: Reach,
    producers: HashMap<i64, LastRecord>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Mapping(Mapping),
    Filtering(Filtering),
    Done,
}

#[derive(Debug)]
struct Mapping {
    map: OffsetMap,
    transactions: Transactions,
    next: i64,
}

#[derive(Debug)]
struct Filtering {
    pass: Pass,
    /// Where it goes on to read.
    next: i64,
    log_start: i64,
    /// Where the map ends.
    end: i64,
    map_was_full: bool,
}

impl Cleaning {
    /// The partition.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Goes one step on. Blocks on the disk, and on the writer when something changes; not to be called from an async
    /// worker, nor again after an error or the end.
    ///
    /// # Errors
    /// The partition is gone, or was truncated or cleaned by somebody else; damaged batches; the store's.
    pub fn step(&mut self) -> Result<Step, StorageError> {
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Mapping(mapping) => self.map(mapping),
            Phase::Filtering(filtering) => self.filter(filtering),
            Phase::Done => Err(StorageError::Overtaken),
        }
    }

    fn map(&mut self, mut mapping: Mapping) -> Result<Step, StorageError> {
        let (begin, to) = (self.first_dirty, self.reach.first_uncleanable);
        let mut full = false;
        let Mapping {
            map,
            transactions,
            next,
        } = &mut mapping;
        let visited = self.visit(*next, to, &mut |header, bytes| {
            full = !compaction::map_batch(map, transactions, header, bytes, begin)
                .map_err(unreadable)?;
            Ok(if full {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        mapping.next = visited.next;
        self.phase = if full || visited.ended {
            let end = if full { mapping.map.latest() + 1 } else { to };
            self.begin_filtering(mapping.map, end, full)
        } else {
            Phase::Mapping(mapping)
        };
        Ok(Step {
            read_bytes: visited.bytes,
            written_bytes: 0,
            done: None,
        })
    }

    fn begin_filtering(&mut self, mut map: OffsetMap, end: i64, map_was_full: bool) -> Phase {
        // Also where nothing was there to be mapped.
        map.reached(end - 1);
        let (log_start, aborted) = {
            let inner = self.partition.lock();
            let log_start = inner.state.log_start;
            (log_start, inner.state.aborted_in(log_start, end))
        };
        let producers = std::mem::take(&mut self.producers);
        Phase::Filtering(Filtering {
            pass: Pass::new(map, aborted, producers, self.reach),
            next: 0,
            log_start,
            end,
            map_was_full,
        })
    }

    fn filter(&mut self, mut filtering: Filtering) -> Result<Step, StorageError> {
        let mut edits = Vec::new();
        let log_start = filtering.log_start;
        let pass = &mut filtering.pass;
        let visited = self.visit(filtering.next, filtering.end, &mut |header, bytes| {
            if header.last_offset() < log_start {
                pass.pass_over(header, bytes);
                return Ok(ControlFlow::Continue(()));
            }
            let new = match pass.batch(header, bytes).map_err(unreadable)? {
                Fate::Keep => return Ok(ControlFlow::Continue(())),
                Fate::Replace(new) => Some(new),
                Fate::Remove => None,
            };
            edits.push(Edit {
                base_offset: header.base_offset,
                last_offset: header.last_offset(),
                old_bytes: bytes.len(),
                bytes: new,
            });
            Ok(ControlFlow::Continue(()))
        })?;
        filtering.next = visited.next;
        let written_bytes = edits
            .iter()
            .filter_map(|edit| edit.bytes.as_ref())
            .map(|bytes| bytes.len() as u64)
            .sum();
        let forgotten = filtering.pass.take_forgotten();
        let tally = filtering.pass.tally();
        let end = filtering.end;
        if visited.ended || !edits.is_empty() || !forgotten.is_empty() {
            let step = CleaningStep {
                generation: self.generation,
                edition: self.edition,
                until: end,
                edits,
                forgotten,
                deletes_to: tally.deletes_to,
                first_dirty: visited.ended.then_some(end),
            };
            self.edition = self.hand_over(step)?;
        }
        let mut done = None;
        if visited.ended {
            done = Some(Round {
                end,
                records_read: tally.records_read,
                records_kept: tally.records_kept,
                map_was_full: filtering.map_was_full,
            });
        } else {
            self.phase = Phase::Filtering(filtering);
        }
        Ok(Step {
            read_bytes: visited.bytes,
            written_bytes,
            done,
        })
    }

    /// Gives a step to the writer and waits until it is done.
    fn hand_over(&self, step: CleaningStep) -> Result<u64, StorageError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Clean {
            partition: self.partition.clone(),
            step,
            reply,
        };
        let sent = self.log.commands.blocking_send(command);
        sent.map_err(|_| StorageError::ShuttingDown)?;
        let answer = answer.blocking_recv();
        answer.unwrap_or(Err(StorageError::ShuttingDown))
    }

    /// Visits whole batches from the one that holds `from` to before `to`, as many as a step may read.
    fn visit(
        &self,
        from: i64,
        to: i64,
        visit: &mut VisitBatch<'_>,
    ) -> Result<Visited, StorageError> {
        let mut visited = Visited {
            next: from,
            bytes: 0,
            ended: true,
        };
        let budget = self.limits.io_buffer_bytes as u64;
        self.log
            .each_batch(&self.partition, from, to, &mut |header, bytes| {
                if header.last_offset() < from {
                    return Ok(ControlFlow::Continue(()));
                }
                if visited.bytes > 0 && visited.bytes + bytes.len() as u64 > budget {
                    visited.ended = false;
                    return Ok(ControlFlow::Break(()));
                }
                visited.bytes += bytes.len() as u64;
                visited.next = header.next_offset();
                if !batch::crc_matches(bytes) {
                    let offset = header.base_offset;
                    return Err(StorageError::Engine(EngineError::Corruption(format!(
                        "the batch at offset {offset} does not have its checksum"
                    ))));
                }
                visit(header, bytes)
            })?;
        Ok(visited)
    }
}

/// How far a step read.
struct Visited {
    next: i64,
    bytes: u64,
    ended: bool,
}

fn unreadable(error: ottla_protocol::records::RecordsError) -> StorageError {
    StorageError::InvalidBatch(error.to_string())
}

#[cfg(test)]
#[path = "cleaner_tests.rs"]
mod tests;
