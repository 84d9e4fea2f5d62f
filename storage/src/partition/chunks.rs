//! Chunks: an index of the log in pieces of a megabyte or less (`intervals.rs`), each with its size and its greatest
//! timestamp. They tell how much a log holds and where what is old or too much ends, without reading it, and bound what
//! recovery reads.
//!
//! Called by `partition.rs` when a batch is taken into the state and by the writer's cuts. A chunk is written with the
//! batch that closes it, and covers whole batches only. What comes after the last one is the open chunk: it lives in
//! memory, and recovery makes it anew from the batches. The closed chunks and the open one together cover exactly the
//! batches that are held.

use ottla_protocol::batch::BatchHeader;

use super::PartitionState;
use crate::engine::{Family, WriteOps};
use crate::keys;

/// Batches that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Base offset of the first one, or of one before it that is deleted.
    pub base_offset: i64,
    /// Offset after the last record; an empty chunk ends where it begins.
    pub end_offset: i64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Greatest timestamp among them; `i64::MIN` when empty.
    pub max_timestamp: i64,
}

impl Chunk {
    /// A chunk without batches.
    pub fn empty_at(offset: i64) -> Self {
        Self {
            base_offset: offset,
            end_offset: offset,
            bytes: 0,
            max_timestamp: i64::MIN,
        }
    }

    /// Adds the batch that comes next.
    pub fn add(&mut self, header: &BatchHeader, bytes: usize) {
        if self.bytes == 0 {
            self.base_offset = header.base_offset;
        }
        self.end_offset = header.next_offset();
        self.bytes += bytes as u64;
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }
}

/// What the deletion of a log's front means for its chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Base offset of the first batch that is kept; the new log start when there is none.
    pub(crate) first_kept: i64,
    /// Bytes of the batches before it.
    pub(crate) deleted_bytes: u64,
    /// What is left of the chunk that the cut goes through, if it is a closed one. It keeps its place: its base offset
    /// may lie below the first batch that is kept.
    pub(crate) rest: Option<Chunk>,
    /// The open chunk after it.
    pub(crate) open: Chunk,
}

impl PartitionState {
    pub(super) fn take_chunk(&mut self, header: &BatchHeader, bytes: usize, ops: &mut WriteOps) {
        self.size_bytes += bytes as u64;
        self.open_chunk.add(header, bytes);
        if self.open_chunk.bytes >= self.intervals.chunk_bytes {
            let closed = self.open_chunk;
            let key = keys::chunk(self.handle, closed.base_offset);
            ops.put(Family::Log, key, keys::chunk_value(&closed));
            self.open_chunk = Chunk::empty_at(closed.end_offset);
        }
    }
}
