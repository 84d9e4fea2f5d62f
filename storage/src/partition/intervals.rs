//! How much of a log may follow the newest chunk and the newest producer snapshot: what a start reads again. Asked for
//! where partitions are created and recovered; pure.
//!
//! All partitions together are bounded, not each: with very many of them each notes more often where it stands, so that
//! a start does not read a megabyte or more of every one. Recovery takes any chunk and any snapshot that it finds,
//! whatever the intervals were when they were written.

/// A chunk is closed by the batch that fills it up to here. Small in unit tests, so that a few batches do.
const CHUNK_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 1 << 20 };

/// A producer snapshot is written after this many bytes of log. Small in unit tests, too.
const SNAPSHOT_BYTES: u64 = if cfg!(test) { 2 << 10 } else { 4 << 20 };

/// What all partitions together may leave to be read after their chunks...
const ALL_CHUNKS_BYTES: u64 = 128 << 20;

/// ...and after their snapshots. Those cost more to write, so that there are fewer of them.
const ALL_SNAPSHOTS_BYTES: u64 = 512 << 20;

/// But noting more often than this would cost every append more than it spares a start.
const LEAST_BYTES: u64 = 64 << 10;

/// When one partition closes a chunk and snapshots its producers; in bytes of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Intervals {
    /// A chunk is closed once it has so many.
    pub(crate) chunk_bytes: u64,
    /// A snapshot is written after so many, or more where it would be large.
    pub(crate) snapshot_bytes: usize,
}

impl Intervals {
    /// For one of so many partitions.
    pub(crate) fn of(partitions: usize) -> Self {
        Self {
            chunk_bytes: share(ALL_CHUNKS_BYTES, partitions).min(CHUNK_BYTES),
            snapshot_bytes: share(ALL_SNAPSHOTS_BYTES, partitions).min(SNAPSHOT_BYTES) as usize,
        }
    }
}

/// What one of so many partitions may leave, of what all may.
fn share(all_bytes: u64, partitions: usize) -> u64 {
    (all_bytes / partitions.max(1) as u64).max(LEAST_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_partitions_the_less_of_each_is_left_to_be_read() {
        let kib = |partitions| share(ALL_CHUNKS_BYTES, partitions) >> 10;
        assert_eq!([0, 1, 128, 1_024].map(kib), [131_072, 131_072, 1_024, 128]);
        assert_eq!(kib(1_000_000), 64, "but never very little");
    }

    #[test]
    fn few_partitions_have_the_usual_intervals() {
        let usual = Intervals {
            chunk_bytes: CHUNK_BYTES,
            snapshot_bytes: SNAPSHOT_BYTES as usize,
        };
        assert_eq!([0, 1, 100].map(Intervals::of), [usual; 3]);
    }
}
