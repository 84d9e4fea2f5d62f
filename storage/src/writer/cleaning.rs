//! A step of the log cleaner, made by the writer between two groups of appends: it alone knows that no batch is on its
//! way and that the log is still the one that the step was made for. Called by `writer.rs`; what a step does is
//! planned in `partition/cleaning.rs`.
//!
//! A step is not synced: until it is, a power cut brings the batches back as they were, which loses nothing and is
//! cleaned again. Only the last step of a round is, since it says that the round need not be done again.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Writer;
use super::syncer::Shared;
use crate::engine::{Family, Start};
use crate::error::StorageError;
use crate::keys::{self, Handle};
use crate::log::Partition;
use crate::partition::{Chunk, CleaningStep, Edit, Recount, recount};
use crate::waiters::lock;

impl Writer {
    /// Answers the log's edition after the step, for the next one.
    pub(super) fn clean(
        &mut self,
        partition: &Arc<Partition>,
        mut step: CleaningStep,
    ) -> Result<u64, StorageError> {
        self.shared.check()?;
        let open = {
            let inner = partition.lock();
            if inner.gone {
                return Err(StorageError::NoSuchPartition);
            }
            inner.state.check_cleaning(&step)?;
            // What was deleted meanwhile must not come back.
            let log_start = inner.state.log_start;
            step.edits.retain(|edit| edit.last_offset >= log_start);
            inner.state.open_chunk
        };
        let closed = chunks_of(&self.shared, partition.handle(), &step.edits)?;
        let recount = recount(&step.edits, closed, open);
        let ops = partition.lock().state.plan_cleaning(&step, &recount);
        if step.first_dirty.is_some() {
            self.shared.write_durably(&ops)?;
        } else {
            self.shared.write(&ops)?;
        }
        let mut inner = partition.lock();
        inner.state.cleaned(&step, &recount);
        let edition = inner.state.edition;
        if !step.edits.is_empty() {
            // They are no longer what they were: whoever keeps something of them lets go of it here.
            inner.front = None;
            inner.tail.clear();
        }
        drop(inner);
        self.replaced(partition.handle(), &step.edits, &recount);
        Ok(edition)
    }

    /// Notes what room the store can give back.
    fn replaced(&self, handle: Handle, edits: &[Edit], recount: &Recount) {
        let (Some(first), Some(last)) = (edits.first(), edits.last()) else {
            return;
        };
        let range = (
            keys::batch(handle, first.base_offset),
            keys::batch(handle, last.base_offset.saturating_add(1)),
        );
        let now = self.shared.clock.monotonic();
        lock(&self.shared.unreclaimed).add(range, recount.garbage, now);
    }
}

/// The closed chunks that the edits lie in.
fn chunks_of(shared: &Shared, handle: Handle, edits: &[Edit]) -> Result<Vec<Chunk>, StorageError> {
    let (Some(first), Some(last)) = (edits.first(), edits.last()) else {
        return Ok(Vec::new());
    };
    let mut chunks = Vec::new();
    let key = keys::chunk(handle, first.base_offset);
    let start = Start::Floor {
        key: &key,
        lower: &keys::chunks(handle, 0).0,
    };
    let to = keys::chunk(handle, last.base_offset + 1);
    shared
        .engine
        .scan(Family::Log, start, &to, &mut |key, value| {
            chunks.extend(keys::parse_chunk(key, value));
            ControlFlow::Continue(())
        })?;
    let touched = |chunk: &Chunk| {
        edits
            .iter()
            .any(|edit| (chunk.base_offset..chunk.end_offset).contains(&edit.base_offset))
    };
    chunks.retain(touched);
    Ok(chunks)
}
