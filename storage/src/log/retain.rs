//! Retention, erasing and reclaiming for a running log: what is read and asked for so that `retention.rs` and
//! `reclaim.rs` can decide, and the order of the three steps.
//!
//! Called by the broker's background tasks, off the async workers where it may block. Invariants:
//! * a log start moves before anything that lies before it is erased;
//! * what is erased is always what lies before the log start of the moment, so that a log which began anew loses nothing;
//! * erasing waits for 16 MiB of a partition or for a minute, and reclaiming (`reclaim.rs`) for more still, so that many
//!   idle partitions cost few marks of deletion.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::{Log, Partition};
use crate::engine::{Family, Start};
use crate::error::StorageError;
use crate::keys::{self, Handle};
use crate::partition::Chunk;
use crate::reclaim::next_collection;
use crate::recovery;
use crate::retention::{Facts, Policy, Verdict, Walk};
use crate::waiters::lock;
use crate::writer::{Advance, Command, Erase};

/// A partition's deleted batches are erased when there are this many bytes of them...
const ERASE_BYTES: u64 = 16 << 20;

/// ...or when the first of them has waited this long.
const ERASE_AFTER: Duration = Duration::from_secs(60);

/// Partitions that the writer works on in one go, so that appends do not wait for long.
const LOT: usize = 64;

/// A log whose front has expired.
#[derive(Debug, Clone)]
pub struct Expired(Advance);

/// A log whose deleted front can be erased.
#[derive(Debug, Clone)]
pub struct Erasable(Erase);

/// What comes after chunks that go as a whole.
enum Chunks {
    /// One that has to be looked into.
    Inside(Chunk),
    /// One that stays.
    Stopped,
    /// No closed one.
    Ended,
}

impl Log {
    /// Looks how far `policy` moves the log start of a partition at `now_ms`; `None`: not at all. A chunk that expires as
    /// a whole within `patience_ms` is waited for. May block on the disk.
    ///
    /// # Errors
    /// The store's, or damage.
    pub fn expired(
        &self,
        partition: &Arc<Partition>,
        policy: &Policy,
        now_ms: i64,
        patience_ms: i64,
    ) -> Result<Option<Expired>, StorageError> {
        let (facts, open, version, front) = {
            let inner = partition.lock();
            if inner.gone {
                return Ok(None);
            }
            let facts = Facts {
                now_ms,
                log_start: inner.state.log_start,
                high_watermark: inner.state.high_watermark,
                size_bytes: inner.state.size_bytes,
                patience_ms,
            };
            (facts, inner.state.open_chunk, inner.version(), inner.front)
        };
        if !Walk::can_take(policy, &facts) {
            return Ok(None);
        }
        let too_large = policy
            .retention_bytes
            .is_some_and(|kept| facts.size_bytes > kept);
        let front = front.filter(|(log_start, _)| *log_start == facts.log_start);
        if let Some((_, max_timestamp)) = front
            && !too_large
            && !policy.has_expired(max_timestamp, now_ms)
        {
            return Ok(None);
        }
        let mut walk = Walk::new(*policy, facts);
        let front = self.walk(partition.handle(), &facts, open, &mut walk)?;
        if let Some(max_timestamp) = front {
            let mut inner = partition.lock();
            // Who changed the batch meanwhile had this forgotten: it must not come back.
            if inner.version() == version {
                inner.front = Some((facts.log_start, max_timestamp));
            }
        }
        let (generation, edition) = version;
        Ok((walk.log_start() > facts.log_start).then(|| {
            Expired(Advance {
                partition: partition.clone(),
                generation,
                edition,
                from: facts.log_start,
                to: walk.log_start(),
                bytes: walk.bytes(),
            })
        }))
    }

    /// Walks over the chunks of a log, and into those that have to be looked into. Tells the greatest timestamp of the
    /// first batch, if it stays and has one.
    fn walk(
        &self,
        handle: Handle,
        facts: &Facts,
        open: Chunk,
        walk: &mut Walk,
    ) -> Result<Option<i64>, StorageError> {
        let mut at = facts.log_start;
        loop {
            let inside = match self.walk_chunks(handle, at, walk)? {
                Chunks::Inside(chunk) => chunk,
                Chunks::Stopped => return Ok(None),
                // It grows, and nobody knows when it will be closed: it is not waited for.
                Chunks::Ended if open.bytes > 0 && open.end_offset > at => open,
                Chunks::Ended => return Ok(None),
            };
            let first = inside.base_offset.max(at);
            if let Some(stays) = self.walk_batches(handle, first, inside.end_offset, walk)? {
                let is_front = stays.base_offset <= facts.log_start || first == facts.log_start;
                let stays = (walk.log_start() == facts.log_start && is_front).then_some(stays);
                let timestamp = stays.map(|front| front.max_timestamp);
                return Ok(timestamp.filter(|timestamp| *timestamp >= 0));
            }
            at = inside.end_offset;
        }
    }

    /// Walks over the closed chunks from the one that holds `at` on.
    fn walk_chunks(
        &self,
        handle: Handle,
        at: i64,
        walk: &mut Walk,
    ) -> Result<Chunks, StorageError> {
        let (lower, to) = keys::chunks(handle, 0);
        let key = keys::chunk(handle, at);
        let start = Start::Floor {
            key: &key,
            lower: &lower,
        };
        let mut found = Ok(Chunks::Ended);
        self.shared
            .engine
            .scan(Family::Log, start, &to, &mut |key, value| {
                let Some(chunk) = keys::parse_chunk(key, value) else {
                    found = Err(recovery::damaged(handle, "a chunk"));
                    return ControlFlow::Break(());
                };
                if chunk.end_offset <= at {
                    return ControlFlow::Continue(());
                }
                found = Ok(match walk.chunk(&chunk) {
                    Verdict::Take => return ControlFlow::Continue(()),
                    Verdict::LookInside => Chunks::Inside(chunk),
                    Verdict::Stop => Chunks::Stopped,
                });
                ControlFlow::Break(())
            })?;
        found
    }

    /// Walks over the batches from the one that holds `first` to before `end`. Tells the first one that stays.
    fn walk_batches(
        &self,
        handle: Handle,
        first: i64,
        end: i64,
        walk: &mut Walk,
    ) -> Result<Option<Chunk>, StorageError> {
        let (lower, _) = keys::batches(handle, 0);
        let key = keys::batch(handle, first);
        let start = Start::Floor {
            key: &key,
            lower: &lower,
        };
        let to = keys::batch(handle, end);
        let mut found = Ok(None);
        self.shared
            .engine
            .scan(Family::Log, start, &to, &mut |_, value| {
                let header = match recovery::stored_header(handle, value) {
                    Ok(header) => header,
                    Err(error) => {
                        found = Err(error);
                        return ControlFlow::Break(());
                    }
                };
                if header.next_offset() <= first {
                    return ControlFlow::Continue(());
                }
                let mut batch = Chunk::empty_at(header.base_offset);
                batch.add(&header, value.len());
                if walk.batch(&batch) == Verdict::Take {
                    return ControlFlow::Continue(());
                }
                found = Ok(Some(batch));
                ControlFlow::Break(())
            })?;
        found
    }

    /// Moves the log starts of what expired; answers how many bytes were deleted.
    ///
    /// # Errors
    /// The store's. One that cannot be read keeps no other from being moved; the last failure is told.
    pub async fn advance_starts(&self, expired: Vec<Expired>) -> Result<u64, StorageError> {
        let (mut deleted, mut failure) = (0, None);
        let mut advances = expired.into_iter().map(|Expired(advance)| advance);
        loop {
            let advances: Vec<_> = advances.by_ref().take(LOT).collect();
            if advances.is_empty() {
                return failure.map_or(Ok(deleted), Err);
            }
            let asked = self.ask(|reply| Command::AdvanceStarts { advances, reply });
            match asked.await {
                Ok(bytes) => deleted += bytes,
                Err(error) => failure = Some(error),
            }
        }
    }

    /// Every log whose deleted front it is time to erase. May block on the disk, for long where much was deleted. A log
    /// that cannot be looked into is erased as far as may be; the last failure is told beside.
    pub fn erasable(&self) -> (Vec<Erasable>, Option<StorageError>) {
        let now = self.shared.clock.monotonic();
        let mut due = self.partitions();
        due.retain(|partition| {
            let unerased = partition.lock().unerased;
            let waited = |since| now.saturating_sub(since) >= ERASE_AFTER;
            unerased.bytes >= ERASE_BYTES || unerased.since.is_some_and(waited)
        });
        self.fronts(due)
    }

    fn fronts(&self, mut partitions: Vec<Arc<Partition>>) -> (Vec<Erasable>, Option<StorageError>) {
        // Neighbours are erased together, and reclaimed together.
        partitions.sort_unstable_by_key(|partition| partition.handle());
        let mut failure = None;
        let looked = partitions.into_iter().map(|partition| {
            let (generation, first_kept) = {
                let inner = partition.lock();
                (inner.state.generation, inner.state.first_kept)
            };
            let handle = partition.handle();
            let engine = self.shared.engine.as_ref();
            let times = recovery::times_before(engine, handle, first_kept);
            let times_to = times.unwrap_or_else(|error| {
                failure = Some(error);
                keys::times(handle).0
            });
            Erasable(Erase {
                partition,
                generation,
                times_to,
            })
        });
        (looked.collect(), failure)
    }

    /// Erases what lies before the log starts of these.
    ///
    /// # Errors
    /// The store's. One that cannot be read keeps no other from being erased; the last failure is told.
    pub async fn erase(&self, due: Vec<Erasable>) -> Result<(), StorageError> {
        let mut failure = None;
        for lot in due.chunks(LOT) {
            let erases = lot.iter().map(|Erasable(erase)| erase.clone()).collect();
            let asked = self.ask(|reply| Command::Erase { erases, reply });
            if let Err(error) = asked.await {
                failure = Some(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Erases whatever lies before a log start, at once.
    #[cfg(test)]
    pub(crate) async fn erase_all(&self) -> Result<(), StorageError> {
        let (all, failure) = self.fronts(self.partitions());
        let erased = self.erase(all).await;
        failure.map_or(erased, Err)
    }

    /// Gives the room of erased data back to the disk, as far as it is time (`reclaim.rs`). Blocks, possibly for seconds;
    /// `stopping` is asked between steps.
    ///
    /// # Errors
    /// The store's. Nothing is lost by one, and the next call goes on.
    pub fn reclaim_due(&self, stopping: &dyn Fn() -> bool) -> Result<(), StorageError> {
        let engine = self.shared.engine.as_ref();
        let _reclaiming = lock(&self.shared.reclaiming);
        let now = self.shared.clock.monotonic();
        let space = engine.space()?;
        let due = lock(&self.shared.unreclaimed).take_due(now, &space);
        let ranges = due.unwrap_or_default();
        for (from, to) in &ranges {
            if stopping() {
                return Ok(());
            }
            engine.compact(from, to)?;
        }
        // Once over all there is, and no further: what cannot be collected now has to wait.
        let (mut done, mut newest) = (0, None);
        loop {
            let before = engine.space()?;
            if !before.has_garbage() || stopping() {
                return Ok(());
            }
            let files = engine.value_files()?;
            let newest = *newest.get_or_insert(files.last().map_or(0, |file| file.number));
            let Some(end) = next_collection(before.key_bytes, &files)
                .filter(|end| (done + 1..=newest + 1).contains(end))
            else {
                return Ok(());
            };
            engine.collect(end)?;
            let after = engine.space()?;
            tracing::debug!(?before, ?after, end, "moved values out of old files");
            done = end;
        }
    }
}
