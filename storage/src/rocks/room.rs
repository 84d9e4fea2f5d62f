//! How RocksDB gives the room of deleted data back: keys are compacted, which removes files of values that nothing refers to;
//! and the few values left in other files are moved. Part of `RocksEngine`, apart for its length; `reclaim.rs` says when.

use std::sync::atomic::Ordering;

use rocksdb::{BottommostLevelCompaction, CompactOptions};

use super::options::{BLOB_FILE_BYTES, smaller_blob_files};
use super::{RocksEngine, classify, value_files};
use crate::error::EngineError;
use crate::reclaim::ValueFile;

/// A collection that has to move more is not held back, in bytes.
const MUCH_MOVED: u64 = 1 << 30;

/// After so many compactions without a collection files become larger again.
const COMPACTIONS_TO_GROW: u64 = 1024;

impl RocksEngine {
    /// `Engine::compact`.
    pub(super) fn compact_keys(&self, from: &[u8], to: &[u8]) -> Result<(), EngineError> {
        if from < to {
            self.while_removing(|| {
                self.log
                    .compact_range_opt(Some(from), Some(to), &Self::beside());
            });
        }
        if self.compactions.fetch_add(1, Ordering::Relaxed) < COMPACTIONS_TO_GROW {
            return Ok(());
        }
        self.compactions.store(0, Ordering::Relaxed);
        let larger = 2 * self.blob_file_bytes.load(Ordering::Relaxed);
        self.set_blob_file_bytes(larger.min(BLOB_FILE_BYTES))
    }

    /// `Engine::value_files`.
    pub(super) fn list_value_files(&self) -> Result<Vec<ValueFile>, EngineError> {
        let text = self.log.property_value("rocksdb.sstables");
        let text = text.map_err(|error| classify(&error))?.unwrap_or_default();
        value_files::parse(&text)
            .map_err(|line| EngineError::Io(format!("RocksDB tells of a blob file: {line}")))
    }

    /// `Engine::collect`.
    pub(super) fn empty_value_files(&self, end: u64) -> Result<(), EngineError> {
        // The compaction would flush what is in memory, whose files would count.
        self.log.flush().map_err(|error| classify(&error))?;
        let files = self.list_value_files()?;
        let count = files.partition_point(|file| file.number < end);
        if count == 0 {
            return Ok(());
        }
        let moved = files[..count].iter().map(ValueFile::live_bytes);
        if moved.sum::<u64>() > MUCH_MOVED {
            self.pace.hurry(|rate| self.set_rate(rate));
        }
        // RocksDB multiplies by the number of files that there are when it begins, and rounds down: a bit more keeps the
        // product on the right side, and a file or two that come meanwhile do not add one.
        let share = (count as f64 + 0.25) / files.len() as f64;
        self.set_blob_gc(Some(share.min(1.0)))?;
        let mut options = Self::beside();
        // Keys that are settled refer to old files, too.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.while_removing(|| {
            self.log
                .compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
        });
        self.set_blob_gc(None)?;
        self.compactions.store(0, Ordering::Relaxed);
        let store_bytes = self.number("rocksdb.live-blob-file-size")?;
        let bytes = self.blob_file_bytes.load(Ordering::Relaxed);
        self.set_blob_file_bytes(smaller_blob_files(bytes, store_bytes))
    }

    /// A compaction that lets RocksDB's own ones run beside it: they keep writers from being slowed down.
    fn beside() -> CompactOptions {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options
    }

    /// Whether compactions move values out of the share `age_cutoff` of blob files that is the oldest.
    fn set_blob_gc(&self, age_cutoff: Option<f64>) -> Result<(), EngineError> {
        let on = age_cutoff.is_some().to_string();
        let cutoff = age_cutoff.unwrap_or(0.0).to_string();
        let options = [
            ("enable_blob_garbage_collection", on.as_str()),
            ("blob_garbage_collection_age_cutoff", cutoff.as_str()),
        ];
        self.log
            .set_options(&options)
            .map_err(|error| classify(&error))
    }

    /// Does what may have RocksDB remove blob files.
    fn while_removing(&self, work: impl FnOnce()) {
        if !self.removals.are_needed() {
            return work();
        }
        // What cannot be told is removed at once.
        let numbers = self.list_value_files().unwrap_or_default().into_iter();
        let kept = self
            .removals
            .keep(self.log.path(), numbers.map(|file| file.number));
        work();
        self.removals.release(kept);
    }

    fn set_blob_file_bytes(&self, bytes: u64) -> Result<(), EngineError> {
        if self.blob_file_bytes.swap(bytes, Ordering::Relaxed) == bytes {
            return Ok(());
        }
        let bytes = bytes.to_string();
        self.log
            .set_options(&[("blob_file_size", bytes.as_str())])
            .map_err(|error| classify(&error))
    }
}
