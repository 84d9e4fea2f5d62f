//! The front of a log: its start moves up, for DeleteRecords and for retention, and later what lies before it is erased.
//! Called by `writer.rs` between two groups, so that no plan is in flight. `truncate` uses its look-ups.
//!
//! Invariant: what is erased is what lies before the log start of the moment, and that log start was written before. Not
//! always synced, but the store keeps the order of its writes: no power cut takes the log start and leaves the erasing.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Writer;
use crate::engine::{Family, Start, WriteOps};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle};
use crate::log::{Partition, Unerased};
use crate::partition::{Chunk, Cut};
use crate::recovery;
use crate::waiters::lock;

/// Where retention puts a log start, and what it saw when it looked.
#[derive(Debug, Clone)]
pub(crate) struct Advance {
    pub(crate) partition: Arc<Partition>,
    pub(crate) generation: u64,
    pub(crate) edition: u64,
    pub(crate) from: i64,
    pub(crate) to: i64,
    /// Bytes of the batches between both.
    pub(crate) bytes: u64,
}

/// A log whose deleted front is to be erased, and what was looked up for that beforehand: it may be much.
#[derive(Debug, Clone)]
pub(crate) struct Erase {
    pub(crate) partition: Arc<Partition>,
    pub(crate) generation: u64,
    /// The time index entries before this key are of batches that are deleted, in a log of this generation.
    pub(crate) times_to: Vec<u8>,
}

impl Writer {
    pub(super) fn delete_prefix(
        &mut self,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> Result<i64, StorageError> {
        let (offset, first_kept, log_end) = {
            let inner = partition.lock();
            if inner.gone {
                return Err(StorageError::NoSuchPartition);
            }
            let state = &inner.state;
            let offset = if offset == -1 {
                state.high_watermark
            } else {
                offset
            };
            state.check_delete_prefix(offset)?;
            if offset <= state.log_start {
                let log_start = state.log_start;
                drop(inner);
                return self.sync_starts().map(|()| log_start);
            }
            (offset, state.first_kept, state.log_end)
        };
        let first_kept = if offset == log_end {
            offset
        } else {
            let engine = self.shared.engine.as_ref();
            recovery::batch_holding(engine, partition.handle(), first_kept, offset)?
        };
        let cut = self.cut(partition, first_kept, None)?;
        let ops = partition.lock().state.plan_delete_prefix(offset, &cut);
        self.shared.write_durably(&ops)?;
        self.starts_unsynced = false;
        Ok(self.deleted_prefix(partition, offset, &cut))
    }

    /// Makes the log starts durable that retention moved: what is answered must not come back.
    fn sync_starts(&mut self) -> Result<(), StorageError> {
        if self.starts_unsynced {
            self.shared.sync()?;
            self.starts_unsynced = false;
        }
        Ok(())
    }

    /// Moves log starts to where retention puts them, with one write; those whose log start moved meanwhile are left
    /// alone. Answers the bytes that were deleted. Not synced: after a power cut what had expired has expired again.
    ///
    /// # Errors
    /// The last one of a partition that could not be looked into: it stays as it is, and the others have moved.
    pub(super) fn advance_starts(&mut self, advances: &[Advance]) -> Result<u64, StorageError> {
        // All look-ups come first: from the first plan on nothing may fail but the write, since what is planned counts
        // as written.
        let mut failure = None;
        let mut moved = Vec::with_capacity(advances.len());
        for advance in advances {
            let still = {
                let inner = advance.partition.lock();
                !inner.gone
                    && inner.state.log_start == advance.from
                    && inner.state.generation == advance.generation
                    && inner.state.edition == advance.edition
                    && inner.state.high_watermark >= advance.to
            };
            if !still {
                continue;
            }
            match self.cut(&advance.partition, advance.to, Some(advance.bytes)) {
                Ok(cut) => moved.push((advance, cut)),
                Err(error) => failure = Some(error),
            }
        }
        let mut ops = WriteOps::new();
        for (advance, cut) in &moved {
            let mut inner = advance.partition.lock();
            ops.append(inner.state.plan_delete_prefix(advance.to, cut));
        }
        self.starts_unsynced |= !ops.is_empty();
        self.shared.write(&ops)?;
        let mut bytes = 0;
        for (advance, cut) in moved {
            self.deleted_prefix(&advance.partition, advance.to, &cut);
            bytes += cut.deleted_bytes;
        }
        failure.map_or(Ok(bytes), Err)
    }

    /// The move of a log start is written.
    fn deleted_prefix(&self, partition: &Partition, offset: i64, cut: &Cut) -> i64 {
        let mut inner = partition.lock();
        inner.state.deleted_prefix(offset, cut);
        inner.unerased.bytes += cut.deleted_bytes;
        let now = self.shared.clock.monotonic();
        inner.unerased.since.get_or_insert(now);
        inner.state.log_start
    }

    /// Removes what lies before these log starts. Not synced: what a power cut brings back is removed again after the
    /// start.
    ///
    /// # Errors
    /// The last one of a partition that could not be looked into; the others are done all the same.
    pub(super) fn erase(&mut self, erases: &[Erase]) -> Result<(), StorageError> {
        self.shared.check()?;
        let mut failure = None;
        let mut ops = WriteOps::new();
        let mut erased = Vec::with_capacity(erases.len());
        for erase in erases {
            match self.erasure(erase) {
                Ok(Some((own, bytes))) => {
                    ops.append(own);
                    erased.push((&erase.partition, bytes));
                }
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        self.shared.write(&ops)?;
        let now = self.shared.clock.monotonic();
        let mut ranges = Vec::with_capacity(erased.len());
        for (partition, bytes) in erased {
            let handle = partition.handle();
            let mut inner = partition.lock();
            inner.unerased = Unerased::default();
            let to = keys::batch(handle, inner.state.log_start);
            ranges.push(((keys::batch(handle, 0), to), bytes));
        }
        let mut unreclaimed = lock(&self.shared.unreclaimed);
        for (range, bytes) in ranges {
            unreclaimed.add(range, bytes, now);
        }
        failure.map_or(Ok(()), Err)
    }

    /// What erases all that lies before a log start, and how many bytes of batches that are; `None` if it is gone. No
    /// batch is read: one of those that go may be damaged.
    fn erasure(&self, erase: &Erase) -> Result<Option<(WriteOps, u64)>, StorageError> {
        let Erase {
            partition,
            generation,
            times_to,
        } = erase;
        let handle = partition.handle();
        let (log_start, first_kept, bytes, times_to) = {
            let inner = partition.lock();
            if inner.gone {
                return Ok(None);
            }
            let state = &inner.state;
            // A log that began anew may have such entries for batches that it holds; erasing fewer is always right.
            let times_to = if state.generation == *generation {
                times_to.clone()
            } else {
                keys::times(handle).0
            };
            let bytes = inner.unerased.bytes;
            (state.log_start, state.first_kept, bytes, times_to)
        };
        let chunk = self
            .chunks_between(handle, log_start, log_start)?
            .first()
            .map_or(first_kept, |chunk| chunk.base_offset);
        let ranges = partition
            .lock()
            .state
            .erasable(chunk.min(first_kept), times_to);
        let mut ops = WriteOps::new();
        for (from, to) in ranges {
            if self.holds_any(&from, &to)? {
                ops.delete_range(Family::Log, from, to);
            }
        }
        Ok(Some((ops, bytes)))
    }

    /// Whether there is any key in `from..to`, readable or not.
    fn holds_any(&self, from: &[u8], to: &[u8]) -> Result<bool, StorageError> {
        let mut any = false;
        let engine = &self.shared.engine;
        let scanned = engine.scan(Family::Log, Start::At(from), to, &mut |_, _| {
            any = true;
            ControlFlow::Break(())
        });
        match scanned {
            Ok(()) => Ok(any),
            Err(EngineError::Corruption(_)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// What a deletion of everything before the batch at `first_kept` means for the chunks. Whoever read the batches
    /// knows how many bytes they have; else those of the one chunk that the cut goes through are read.
    fn cut(
        &self,
        partition: &Partition,
        first_kept: i64,
        known_bytes: Option<u64>,
    ) -> Result<Cut, StorageError> {
        let (open, log_start) = {
            let inner = partition.lock();
            (inner.state.open_chunk, inner.state.log_start)
        };
        let handle = partition.handle();
        let mut cut = Cut {
            first_kept,
            deleted_bytes: 0,
            rest: None,
            open,
        };
        let mut through = None;
        for chunk in self.chunks_between(handle, log_start, first_kept)? {
            if chunk.base_offset >= first_kept {
                break;
            }
            if chunk.end_offset > first_kept {
                through = Some(chunk);
            } else {
                cut.deleted_bytes += chunk.bytes;
            }
        }
        let rest = |chunk: Chunk, before: u64| match known_bytes {
            // It may have held the greatest timestamp of the chunk, which then is taken for younger than it is.
            Some(known) => Ok(Chunk {
                bytes: chunk.bytes.saturating_sub(known.saturating_sub(before)),
                ..chunk
            }),
            None => self.rest_of(handle, chunk, first_kept),
        };
        if let Some(chunk) = through {
            let rest = rest(chunk, cut.deleted_bytes)?;
            cut.deleted_bytes += chunk.bytes.saturating_sub(rest.bytes);
            cut.rest = Some(Chunk {
                base_offset: chunk.base_offset,
                ..rest
            });
        } else if open.base_offset < first_kept {
            cut.open = if first_kept >= open.end_offset {
                Chunk::empty_at(first_kept)
            } else {
                rest(open, cut.deleted_bytes)?
            };
            cut.deleted_bytes += open.bytes.saturating_sub(cut.open.bytes);
        }
        Ok(cut)
    }

    /// The closed chunks with batches from `from` on that begin at `to` at the latest.
    pub(super) fn chunks_between(
        &self,
        handle: Handle,
        from: i64,
        to: i64,
    ) -> Result<Vec<Chunk>, StorageError> {
        let (lower, key) = (keys::chunks(handle, 0).0, keys::chunk(handle, from));
        let start = Start::Floor {
            key: &key,
            lower: &lower,
        };
        let end = keys::chunk(handle, to.saturating_add(1));
        let mut chunks = Vec::new();
        self.shared
            .engine
            .scan(Family::Log, start, &end, &mut |key, value| {
                let chunk = keys::parse_chunk(key, value);
                chunks.extend(chunk.filter(|chunk| chunk.end_offset > from));
                ControlFlow::Continue(())
            })?;
        Ok(chunks)
    }

    /// What is left of `chunk` from the batch at `first_kept` on.
    fn rest_of(
        &self,
        handle: Handle,
        chunk: Chunk,
        first_kept: i64,
    ) -> Result<Chunk, StorageError> {
        let mut rest = Chunk::empty_at(first_kept);
        if first_kept >= chunk.end_offset {
            return Ok(rest);
        }
        let (from, to) = (
            keys::batch(handle, first_kept),
            keys::batch(handle, chunk.end_offset),
        );
        let mut outcome = Ok(());
        self.shared
            .engine
            .scan(Family::Log, Start::At(&from), &to, &mut |_, value| {
                match recovery::stored_header(handle, value) {
                    Ok(header) => rest.add(&header, value.len()),
                    Err(error) => outcome = Err(error),
                }
                if outcome.is_ok() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        outcome.map(|()| rest)
    }
}
