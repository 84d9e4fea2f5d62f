//! How many bytes a partition's log holds, for DescribeLogDirs.
//!
//! RocksDB's own answer for a range of keys leaves out what is in memory and in blob files, which is nearly
//! everything, so the batches themselves are measured: a short log to the byte, a long one by some batches
//! spread evenly over it. What was measured once is kept, so that asking again reads only what has come since.
//!
//! Called off the async workers, since it reads from disk. It changes nothing.

use std::sync::{Mutex, PoisonError};

use dashmap::DashMap;
use ottla_protocol::batch::BatchHeader;
use ottla_storage::error::StorageError;
use ottla_storage::keys::PartitionId;
use ottla_storage::log::{Log, Partition, ReadLimit};

/// Bytes from the begin of what is measured that are counted one by one.
const COUNTED_BYTES: usize = 256 << 10;

/// Batches that stand for the rest.
const SAMPLES: i64 = 16;

/// A log's size as it was measured last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Measured {
    log_start: i64,
    log_end: i64,
    bytes: u64,
}

/// The sizes of all logs that somebody asked for.
#[derive(Debug, Default)]
pub struct LogSizes {
    known: DashMap<PartitionId, Measured>,
    /// Two that ask at once would only read the same batches twice.
    measuring: Mutex<()>,
}

impl LogSizes {
    /// Tells the size in bytes of each of these logs; those that are gone by now are left out.
    ///
    /// # Errors
    /// The store's, or damage.
    pub fn of<'a>(
        &self,
        log: &Log,
        partitions: impl Iterator<Item = &'a Partition>,
        mut tell: impl FnMut(PartitionId, u64),
    ) -> Result<(), StorageError> {
        let _one = self
            .measuring
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.known.retain(|id, _| log.partition(*id).is_some());
        for partition in partitions {
            match self.one(log, partition) {
                Ok(bytes) => tell(partition.id(), bytes),
                Err(StorageError::NoSuchPartition) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn one(&self, log: &Log, partition: &Partition) -> Result<u64, StorageError> {
        let before = self.known.get(&partition.id()).map(|known| *known);
        let measured = match measured(log, partition, before) {
            // Records were deleted while it was measured.
            Err(StorageError::OffsetOutOfRange { .. }) => measured(log, partition, None)?,
            measured => measured?,
        };
        self.known.insert(partition.id(), measured);
        Ok(measured.bytes)
    }
}

fn measured(
    log: &Log,
    partition: &Partition,
    before: Option<Measured>,
) -> Result<Measured, StorageError> {
    let offsets = partition.offsets();
    let (log_start, log_end) = (offsets.log_start, offsets.log_end);
    // A log that lost records at either end is another one.
    let grown = before.filter(|known| known.log_start == log_start && known.log_end <= log_end);
    let (from, held) = grown.map_or((log_start, 0), |known| (known.log_end, known.bytes));
    let bytes = held + bytes_between(log, partition, from, log_end)?;
    Ok(Measured {
        log_start,
        log_end,
        bytes,
    })
}

/// Bytes of the batches with offsets in `from..to`.
fn bytes_between(
    log: &Log,
    partition: &Partition,
    from: i64,
    to: i64,
) -> Result<u64, StorageError> {
    let read = |at, most| log.read(partition, at, most, true, ReadLimit::LogEnd);
    let header = |bytes: &[u8]| {
        BatchHeader::parse(bytes).map_err(|error| StorageError::InvalidBatch(error.to_string()))
    };
    if from >= to {
        return Ok(0);
    }
    let counted = read(from, COUNTED_BYTES)?;
    let Some(last) = counted.batches.last() else {
        return Ok(0); // only a gap that compaction left
    };
    let rest = header(last)?.next_offset();
    let left = to - rest;
    if left <= 0 {
        return Ok(counted.bytes as u64);
    }
    // A batch is met as often as it has offsets, so that bytes an offset of the batches met are those of all.
    let mut bytes_an_offset = 0.0;
    for sample in 0..SAMPLES {
        let at =
            rest + (i128::from(left) * i128::from(2 * sample + 1) / i128::from(2 * SAMPLES)) as i64;
        if let Some(batch) = read(at, 1)?.batches.first() {
            let header = header(batch)?;
            let offsets = header.next_offset() - header.base_offset;
            bytes_an_offset += batch.len() as f64 / offsets.max(1) as f64;
        }
    }
    let sampled = bytes_an_offset / SAMPLES as f64 * left as f64;
    Ok(counted.bytes as u64 + sampled as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ottla_protocol::batch::BatchBuilder;
    use ottla_storage::log::{AppendEntry, Observer};
    use ottla_storage::memory::MemoryEngine;
    use ottla_storage::waiters::Acks;
    use uuid::Uuid;

    use super::*;
    use crate::env::Env;

    struct Nobody;
    impl Observer for Nobody {
        fn group_written(&self, _: usize, _: usize, _: usize) {}
        fn synced(&self, _: std::time::Duration) {}
        fn failed(&self, _: &ottla_storage::error::EngineError) {}
    }

    async fn log() -> (Log, Arc<Partition>) {
        let engine = Arc::new(MemoryEngine::default());
        let log = Log::open(engine, 1, Arc::new(Env::system()), Arc::new(Nobody)).expect("opens");
        let id = PartitionId {
            topic_id: Uuid::from_u128(7),
            partition: 0,
        };
        let partition = log.create(vec![id]).await.expect("creates").remove(0);
        (log, partition)
    }

    /// Appends batches of two records with values of these sizes and returns how many bytes they have.
    async fn append(
        log: &Log,
        partition: &Arc<Partition>,
        sizes: impl Iterator<Item = usize>,
    ) -> u64 {
        let mut bytes = 0;
        for size in sizes {
            let value = vec![b'x'; size];
            let batch = BatchBuilder::new(1)
                .record(1, None, Some(&value), &[])
                .record(1, None, Some(&value), &[])
                .build();
            bytes += batch.len() as u64;
            let entry = AppendEntry {
                partition: partition.clone(),
                header: BatchHeader::parse(&batch).expect("a batch"),
                bytes: batch.into(),
                leader_epoch: 0,
            };
            let answers = log.append(vec![entry], Acks::All).await.expect("appends");
            answers
                .await
                .expect("an answer")
                .remove(0)
                .expect("appended");
        }
        bytes
    }

    fn size(sizes: &LogSizes, log: &Log, partition: &Partition) -> Option<u64> {
        let mut told = None;
        let each = |_, bytes| told = Some(bytes);
        sizes
            .of(log, std::iter::once(partition), each)
            .expect("measures");
        told
    }

    #[tokio::test]
    async fn short_logs_are_counted_to_the_byte_and_again_when_they_grow_or_shrink() {
        let (log, partition) = log().await;
        let sizes = LogSizes::default();
        assert_eq!(size(&sizes, &log, &partition), Some(0));
        let first = append(&log, &partition, (0..50).map(|at| at * 10)).await;
        assert_eq!(size(&sizes, &log, &partition), Some(first));
        let second = append(&log, &partition, (0..50).map(|at| at * 20)).await;
        assert_eq!(size(&sizes, &log, &partition), Some(first + second));
        log.delete_prefix(&partition, 100).await.expect("deletes");
        assert_eq!(size(&sizes, &log, &partition), Some(second));
        log.delete(vec![partition.id()]).await.expect("deletes");
        assert_eq!(size(&sizes, &log, &partition), None);
        assert!(sizes.known.is_empty());
    }

    #[tokio::test]
    async fn long_logs_are_estimated() {
        let (log, partition) = log().await;
        // Small batches, then large ones, as when a topic's use changes.
        let sizes = (0..1_500).map(|at| if at < 1_000 { 100 } else { 2_000 + at });
        let bytes = append(&log, &partition, sizes).await;
        let told = size(&LogSizes::default(), &log, &partition).expect("a size");
        assert!(told.abs_diff(bytes) < bytes / 10, "{told} of {bytes}");
    }
}
