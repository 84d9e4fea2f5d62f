//! Reading a log: whole batches from an offset on, and records by their time. Called by whoever holds a `Log`;
//! it never waits for the writer and never sees anything at or above the limit it is given.

use std::ops::ControlFlow;

use bytes::Bytes;
use ottla_protocol::batch::BatchHeader;
use ottla_protocol::records;

use super::{Log, Partition};
use crate::engine::{Family, Patience, Start, Walked};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle};
use crate::partition::Offsets;
use crate::producers::AbortedTransaction;
use crate::records::Records;
use crate::recovery;

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

/// How much a read may give, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// All batches together.
    pub bytes: usize,
    /// The first batch alone, where that is more: it is given all the same (KIP-74).
    pub first: usize,
}

impl Most {
    pub(crate) fn takes(self, taken: usize, batch: usize) -> bool {
        taken + batch <= self.bytes || (taken == 0 && batch <= self.first)
    }

    fn is_nothing(self) -> bool {
        self.bytes == 0 && self.first == 0
    }
}

/// What a read found: batches in memory, or as `Records`, wherever they are.
#[derive(Debug, Clone)]
pub struct Read<B = Bytes> {
    /// Whole batches, the first of them holding the offset asked for.
    pub batches: Vec<B>,
    /// Their size.
    pub bytes: usize,
    /// Size of the readable batch that comes next, where it was left out because it is too large.
    pub left_out: usize,
    /// Aborted transactions among them, when the limit was `Stable`.
    pub aborted: Vec<AbortedTransaction>,
}

impl<B> Default for Read<B> {
    fn default() -> Self {
        Self {
            batches: Vec::new(),
            bytes: 0,
            left_out: 0,
            aborted: Vec::new(),
        }
    }
}

impl Read<Records> {
    /// The same with all batches in memory. May block on the disk.
    fn in_memory(self) -> Result<Read, StorageError> {
        let batches = self.batches.into_iter().map(Records::into_bytes);
        let batches = batches.collect::<Result<_, _>>();
        Ok(Read {
            batches: batches.map_err(|error| EngineError::Io(error.to_string()))?,
            bytes: self.bytes,
            left_out: self.left_out,
            aborted: self.aborted,
        })
    }
}

/// What memory has of a read.
#[derive(Debug)]
enum Held {
    /// All of it.
    Here(Read<Records>),
    /// Nothing: the store has it, below `end`.
    Stored {
        /// The first offset that is not readable.
        end: i64,
    },
}

fn out_of_range(offset: i64, offsets: &Offsets) -> StorageError {
    StorageError::OffsetOutOfRange {
        offset,
        log_start: offsets.log_start,
        log_end: offsets.log_end,
    }
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

/// Gets a batch's header, its bytes and the log start; says whether to go on.
type VisitBatch<'a> =
    dyn FnMut(&BatchHeader, &[u8], i64) -> Result<ControlFlow<()>, StorageError> + 'a;

impl Log {
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
        let most = Most {
            bytes: max_bytes,
            first: if at_least_one { usize::MAX } else { 0 },
        };
        self.read_most(partition, from, most, limit)?.in_memory()
    }

    /// `read`, with a limit for the first batch, too: a larger one is left out, and its size is told. Batches in files
    /// stay there.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_most(
        &self,
        partition: &Partition,
        from: i64,
        most: Most,
        limit: ReadLimit,
    ) -> Result<Read<Records>, StorageError> {
        loop {
            let end = match self.read_held(partition, from, most, limit)? {
                Held::Here(read) => return Ok(read),
                Held::Stored { end } => end,
            };
            let readable = (limit, end);
            if let Some(read) = self.read_stored(partition, from, most, readable, Patience::Disk)? {
                return Ok(read);
            }
        }
    }

    /// `read_most`, if nothing has to be waited for: from the newest batches, which are in memory, or of those in files where
    /// the store can tell at once where they lie. Blocks on the disk only where the system does not tell that it will. `None`:
    /// only `read_most` can tell.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_now(
        &self,
        partition: &Partition,
        from: i64,
        most: Most,
        limit: ReadLimit,
    ) -> Result<Option<Read<Records>>, StorageError> {
        match self.read_held(partition, from, most, limit)? {
            Held::Here(read) => Ok(Some(read)),
            Held::Stored { end } => {
                self.read_stored(partition, from, most, (limit, end), Patience::None)
            }
        }
    }

    /// `read_now` without any look at the store: from the newest batches alone.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_newest(
        &self,
        partition: &Partition,
        from: i64,
        most: Most,
        limit: ReadLimit,
    ) -> Result<Option<Read<Records>>, StorageError> {
        match self.read_held(partition, from, most, limit)? {
            Held::Here(read) => Ok(Some(read)),
            Held::Stored { .. } => Ok(None),
        }
    }

    fn read_held(
        &self,
        partition: &Partition,
        from: i64,
        most: Most,
        limit: ReadLimit,
    ) -> Result<Held, StorageError> {
        let inner = partition.lock();
        if inner.gone {
            return Err(StorageError::NoSuchPartition);
        }
        let offsets = inner.state.offsets();
        if from < offsets.log_start || from > offsets.log_end {
            return Err(out_of_range(from, &offsets));
        }
        let end = limit.end(&offsets);
        if from >= end || most.is_nothing() {
            return Ok(Held::Here(Read::default()));
        }
        let Some(found) = inner.tail.read(from, end, most) else {
            return Ok(Held::Stored { end });
        };
        let aborted = if limit == ReadLimit::Stable && !found.batches.is_empty() {
            inner.state.aborted_in(from, found.next_offset)
        } else {
            Vec::new()
        };
        Ok(Held::Here(Read {
            batches: found.batches.into_iter().map(Records::from).collect(),
            bytes: found.bytes,
            left_out: found.left_out,
            aborted,
        }))
    }

    /// `None`: it would wait, or what it read has to be read again.
    fn read_stored(
        &self,
        partition: &Partition,
        from: i64,
        most: Most,
        (limit, end): (ReadLimit, i64),
        patience: Patience,
    ) -> Result<Option<Read<Records>>, StorageError> {
        let mut read = Read::default();
        let (lower, to) = keys::batches(partition.handle(), 0);
        let key = keys::batch(partition.handle(), from);
        let mut outcome = Ok(());
        let mut next = from;
        let forgets = partition.lock().state.forgets;
        let scanned = self.shared.engine.walk(
            Family::Log,
            Start::Floor {
                key: &key,
                lower: &lower,
            },
            &to,
            (patience, self.shared.clock.monotonic()),
            &mut |key, value| {
                // A batch that is not given is not read either.
                if keys::parse_batch(key).is_some_and(|base_offset| base_offset >= end) {
                    return Ok(ControlFlow::Break(()));
                }
                if !most.takes(read.bytes, value.size()) && !read.batches.is_empty() {
                    read.left_out = value.size();
                    return Ok(ControlFlow::Break(()));
                }
                let taken = value.take()?;
                let header = match recovery::stored_header(partition.handle(), taken.head()) {
                    Ok(header) => header,
                    Err(error) => {
                        outcome = Err(error);
                        return Ok(ControlFlow::Break(()));
                    }
                };
                if header.last_offset() < from {
                    return Ok(ControlFlow::Continue(()));
                }
                if header.base_offset >= end {
                    return Ok(ControlFlow::Break(()));
                }
                if !most.takes(read.bytes, value.size()) {
                    read.left_out = value.size();
                    return Ok(ControlFlow::Break(()));
                }
                read.bytes += value.size();
                read.batches.push(taken.into_records());
                next = header.next_offset();
                Ok(if read.bytes >= most.bytes {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            },
        );
        if scanned == Ok(Walked::Waits) {
            return match patience {
                Patience::None => Ok(None),
                Patience::Disk => Err(EngineError::Io("the store did not wait".to_owned()).into()),
            };
        }
        // What lies before the damage is served; whoever goes on behind it hears of it.
        if read.batches.is_empty() {
            scanned?;
            outcome?;
        }
        // A deletion or truncation may have taken the batches while they were read.
        let (now, gone) = {
            let inner = partition.lock();
            (inner.state.offsets(), inner.gone)
        };
        if gone {
            return Err(StorageError::NoSuchPartition);
        }
        if from < now.log_start || from > now.log_end {
            return Err(out_of_range(from, &now));
        }
        if limit == ReadLimit::Stable && !read.batches.is_empty() {
            let inner = partition.lock();
            if inner.state.forgets != forgets {
                // The cleaner forgot an aborted transaction whose data may be among what was read before.
                return Ok(None);
            }
            read.aborted = inner.state.aborted_in(from, next);
        }
        Ok(Some(read))
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
        let (times, _) = keys::times(partition.handle());
        let until = keys::time(partition.handle(), timestamp, 0);
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
        if let Some((from, before)) = self.before_maximum(partition.handle(), &offsets, limit)? {
            let found = self.greatest_from(partition, from, limit)?;
            // Unless the log cleaner took what made the maximum grow.
            if found.is_some_and(|found| found.timestamp > before) {
                return Ok(found);
            }
        }
        self.greatest_from(partition, offsets.log_start, limit)
    }

    /// The first record with the greatest timestamp among those from the batch that holds `from` on.
    fn greatest_from(
        &self,
        partition: &Partition,
        from: i64,
        limit: ReadLimit,
    ) -> Result<Option<TimestampOffset>, StorageError> {
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

    /// Base offset of a batch that comes before the greatest timestamp, and the greatest one up to and with that batch,
    /// by the time index; `None` where the index does not tell, because the maximum may have been deleted or not be
    /// readable yet.
    fn before_maximum(
        &self,
        handle: Handle,
        offsets: &Offsets,
        limit: ReadLimit,
    ) -> Result<Option<(i64, i64)>, StorageError> {
        let (times, to) = keys::times(handle);
        let last_before = |to: &[u8]| -> Result<Option<Vec<u8>>, StorageError> {
            let last = self.shared.engine.last(Family::Log, &times, to)?;
            Ok(last.map(|(key, _)| key))
        };
        let Some(newest) = last_before(&to)? else {
            return Ok(None);
        };
        let readable = |(_, base_offset): (i64, i64)| base_offset < limit.end(offsets);
        if !keys::parse_time(&newest).is_some_and(readable) {
            return Ok(None);
        }
        // An entry is written some time after the maximum grew, but the one before it held a smaller maximum.
        let before = last_before(&newest)?.and_then(|key| keys::parse_time(&key));
        Ok(before
            .filter(|(_, base_offset)| *base_offset >= offsets.log_start)
            .map(|(running_max, base_offset)| (base_offset, running_max)))
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
        let (lower, to) = keys::batches(partition.handle(), 0);
        let key = keys::batch(partition.handle(), from.max(offsets.log_start));
        let mut outcome = Ok(());
        self.shared.engine.scan(
            Family::Log,
            Start::Floor {
                key: &key,
                lower: &lower,
            },
            &to,
            &mut |_, value| {
                let step = recovery::stored_header(partition.handle(), value).and_then(|header| {
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

#[cfg(test)]
#[path = "reads_tests.rs"]
mod tests;
