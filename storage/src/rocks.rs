//! The engine of a running broker: two RocksDB databases, `log` with all truth in one column family, and
//! `meta` with the views. Opened by `log.rs`'s callers, used through `Engine` only.
//!
//! It never retries a failed write or sync, never turns the WAL off, and it alone reads RocksDB's error text.
//! Its options are in `rocks/options.rs`, and how room is given back in `rocks/room.rs`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    ColumnFamilyDescriptor, DB, DBRawIterator, ErrorKind, FlushOptions, Options, ReadOptions,
    WriteBatch, WriteOptions,
};

use crate::disk::{Disk, Syncs};
use crate::durable::keeper::SyncPoint;
use crate::engine::{
    Engine, Family, Op, Patience, Start, Taken, Unread, Untaken, Visit, VisitUnread, Walked,
    WriteOps,
};
use crate::error::EngineError;
use crate::reclaim::{Space, ValueFile};

mod blobs;
mod native;
mod options;
mod pace;
mod removal;
mod room;
mod value_files;

use self::blobs::{Blobs, OpenFiles, Place, Reader};
use self::native::{Places, Value, background_rate, set_background_rate};
pub use self::options::RocksOptions;
use self::options::{BLOB_FILE_BYTES, MANY_KEY_FILES, direct_io_works, log_options, meta_options};
use self::pace::Pace;
use self::removal::Removals;

/// A scan offers the processor to others each time it has read so much. An append passes through several threads, each of
/// which would wait for it until the scan is over.
const OFFER_BYTES: usize = 64 << 10;

/// RocksDB behind the `Engine` trait.
pub struct RocksEngine {
    log: DB,
    meta: DB,
    synced: Arc<SyncPoint>,
    /// Size of new blob files.
    blob_file_bytes: AtomicU64,
    /// Compactions since the last collection.
    compactions: AtomicU64,
    /// What readers know of blob files.
    blobs: Blobs,
    pace: Pace,
    removals: Removals,
}

impl std::fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksEngine")
            .field("path", &self.log.path())
            .finish_non_exhaustive()
    }
}

fn classify(error: &rocksdb::Error) -> EngineError {
    classify_text(error.as_ref(), error.kind())
}

/// RocksDB hands errors as text, with the operating system's words for ENOSPC and EDQUOT; "NoSpace" is its own.
fn classify_text(text: &str, kind: ErrorKind) -> EngineError {
    let full = ["No space left", "NoSpace", "Disk quota exceeded"];
    if full.iter().any(|words| text.contains(words)) {
        return EngineError::Full(text.to_owned());
    }
    // Said of a file whose last write failed; that write's own error tells why.
    if text.contains("Writer has previous error") {
        return EngineError::Failed(text.to_owned());
    }
    match kind {
        // A file that RocksDB counts on is never removed by anything that runs here.
        _ if text.contains("No such file") => EngineError::Corruption(text.to_owned()),
        ErrorKind::Corruption => EngineError::Corruption(text.to_owned()),
        _ => EngineError::Io(text.to_owned()),
    }
}

/// What RocksDB says of an iterator that ended too early.
fn classify_status(text: &str) -> EngineError {
    let kind = if text.starts_with("Corruption") {
        ErrorKind::Corruption
    } else {
        ErrorKind::IOError
    };
    classify_text(text, kind)
}

/// Why an iterator stands at no key: a damaged block ends it early, too, and only its status tells.
fn ended(places: &Places<'_>) -> Result<Walked, EngineError> {
    if places.waits() {
        return Ok(Walked::Waits);
    }
    places
        .error()
        .map_or(Ok(Walked::Ended), |text| Err(classify_status(&text)))
}

/// A value that a walk came upon.
struct Stored<'a, 'e> {
    key: &'a [u8],
    value: Value<'a>,
    reader: &'a mut Reader<'e>,
}

impl Unread for Stored<'_, '_> {
    fn size(&self) -> usize {
        match self.value {
            Value::Inline(value) => value.len(),
            Value::Blob { size, .. } => usize::try_from(size).unwrap_or(usize::MAX),
        }
    }

    fn take(&mut self) -> Result<Taken, Untaken> {
        match self.value {
            Value::Inline(_) if self.reader.patience == Patience::None => Err(Untaken::Waits),
            Value::Inline(value) => Ok(Taken::in_memory(Bytes::copy_from_slice(value))),
            Value::Blob { file, offset, size } => self.reader.take(&Place {
                key: self.key,
                file,
                offset,
                size,
            }),
        }
    }
}

/// The number of the WAL file that is written now: the greatest of all.
fn newest_wal(dir: &Path) -> std::io::Result<u64> {
    let mut newest = 0;
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
        newest = newest.max(number.and_then(|number| number.parse().ok()).unwrap_or(0));
    }
    Ok(newest)
}

fn open_meta(dir: &Path) -> Result<DB, EngineError> {
    let options = meta_options();
    let families = Family::ALL.iter().filter(|family| !family.in_log());
    let families = std::iter::once("default")
        .chain(families.map(|family| family.name()))
        .map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
    DB::open_cf_descriptors(&options, dir.join("meta"), families).map_err(|error| classify(&error))
}

impl RocksEngine {
    /// Opens or creates `dir/log` and `dir/meta`.
    ///
    /// # Errors
    /// What RocksDB says, classified; a directory that cannot be made is `Io`.
    pub fn open(dir: &Path, options: &RocksOptions) -> Result<Self, EngineError> {
        Self::open_with(dir, options, &Disk)
    }

    fn open_with(
        dir: &Path,
        options: &RocksOptions,
        syncs: &dyn Syncs,
    ) -> Result<Self, EngineError> {
        for name in ["log", "meta"] {
            let path = dir.join(name);
            std::fs::create_dir_all(&path)
                .map_err(|error| EngineError::Io(format!("{}: {error}", path.display())))?;
        }
        // RocksDB syncs what is inside of its folders, not their names.
        syncs
            .folder(dir)
            .map_err(|error| EngineError::Io(format!("{}: {error}", dir.display())))?;
        let direct_io = direct_io_works(dir);
        let log_options = log_options(options, direct_io);
        let only = ColumnFamilyDescriptor::new(Family::Log.name(), log_options.clone());
        let log = DB::open_cf_descriptors(&log_options, dir.join("log"), [only])
            .map_err(|error| classify(&error))?;
        let meta = match open_meta(dir) {
            // Views only: they are made again from the log.
            Err(EngineError::Corruption(why)) => {
                tracing::warn!(why, "views are damaged and made again from the log");
                std::fs::remove_dir_all(dir.join("meta"))
                    .and_then(|()| std::fs::create_dir(dir.join("meta")))
                    .and_then(|()| syncs.folder(dir))
                    .map_err(|error| EngineError::Io(format!("{}: {error}", dir.display())))?;
                open_meta(dir)?
            }
            opened => opened?,
        };
        set_background_rate(&log, pace::CALM_RATE);
        let open = Arc::new(OpenFiles::default());
        Ok(Self {
            removals: Removals::new(log.path(), &open),
            log,
            meta,
            synced: Arc::default(),
            blob_file_bytes: AtomicU64::new(BLOB_FILE_BYTES),
            compactions: AtomicU64::new(0),
            blobs: Blobs::of(open),
            pace: Pace::default(),
        })
    }

    /// Opens what is in `dir` to be read only, and changes nothing there. RocksDB's own log goes to `scratch`.
    ///
    /// # Errors
    /// What RocksDB says, classified.
    pub fn open_read_only(
        dir: &Path,
        scratch: &Path,
        options: &RocksOptions,
    ) -> Result<Self, EngineError> {
        let open = |name: &str, mut options: Options, families: &[&str]| {
            options.create_if_missing(false);
            options.set_db_log_dir(scratch);
            DB::open_cf_for_read_only(&options, dir.join(name), families, false)
                .map_err(|error| classify(&error))
        };
        let families: Vec<_> = Family::ALL
            .iter()
            .filter(|family| !family.in_log())
            .map(|family| family.name())
            .chain(["default"])
            .collect();
        Ok(Self {
            log: open("log", log_options(options, false), &[Family::Log.name()])?,
            meta: open("meta", meta_options(), &families)?,
            synced: Arc::default(),
            blob_file_bytes: AtomicU64::new(BLOB_FILE_BYTES),
            compactions: AtomicU64::new(0),
            blobs: Blobs::default(),
            pace: Pace::default(),
            removals: Removals::default(),
        })
    }

    /// Copies both databases to folders of `target`, `meta` first: links to files that never change, copies of
    /// others. What is in memory is flushed before.
    ///
    /// # Errors
    /// What RocksDB says, classified.
    pub fn checkpoint(&self, target: &Path) -> Result<(), EngineError> {
        for (db, name) in [(&self.meta, "meta"), (&self.log, "log")] {
            Checkpoint::new(db)
                .and_then(|checkpoint| checkpoint.create_checkpoint(target.join(name)))
                .map_err(|error| classify(&error))?;
        }
        Ok(())
    }

    /// How far the log is synced, for the keeper of the `durable` file.
    pub fn sync_point(&self) -> Arc<SyncPoint> {
        self.synced.clone()
    }

    /// Moves what is in memory to files, and merges the files.
    #[cfg(test)]
    pub(crate) fn settle(&self, compact: bool) {
        self.log.flush().expect("flushes");
        if compact {
            self.log.compact_range(None::<&[u8]>, None::<&[u8]>);
        }
    }

    /// Whether flushes or compactions are behind. What cannot be told is taken for that.
    fn is_behind(&self, buffers: u64) -> bool {
        let waiting = self.number("rocksdb.num-immutable-mem-table").ok();
        let newest = self.log.property_value("rocksdb.num-files-at-level0");
        let newest = newest.ok().flatten().and_then(|text| text.parse().ok());
        waiting.is_none_or(|waiting| waiting >= buffers)
            || newest.is_none_or(|newest: u64| newest >= MANY_KEY_FILES)
    }

    fn set_rate(&self, bytes_per_second: i64) {
        set_background_rate(&self.log, bytes_per_second);
    }

    fn number(&self, property: &str) -> Result<u64, EngineError> {
        let value = self.log.property_int_value(property);
        Ok(value.map_err(|error| classify(&error))?.unwrap_or(0))
    }

    fn family(&self, family: Family) -> &rocksdb::ColumnFamily {
        let db = if family.in_log() {
            &self.log
        } else {
            &self.meta
        };
        db.cf_handle(family.name())
            .expect("every family is created at open")
    }

    fn iterator(&self, family: Family, lower: &[u8], upper: &[u8]) -> DBRawIterator<'_> {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(lower);
        read.set_iterate_upper_bound(upper);
        // A scan of the log must not push the index of everything else out of the cache.
        read.fill_cache(false);
        read.set_verify_checksums(true);
        let db = if family.in_log() {
            &self.log
        } else {
            &self.meta
        };
        db.raw_iterator_cf_opt(self.family(family), read)
    }
}

impl Engine for RocksEngine {
    fn write(&self, ops: &WriteOps) -> Result<(), EngineError> {
        let in_log = ops.ops().first().is_none_or(|op| op.family().in_log());
        assert!(
            ops.ops().iter().all(|op| op.family().in_log() == in_log),
            "a write belongs to one database"
        );
        // Key, value and a few bytes of header and lengths for each operation.
        let mut batch = WriteBatch::with_capacity_bytes(ops.bytes() + 32 + ops.ops().len() * 16);
        if in_log && let Some(note) = self.synced.note() {
            // Goes to the write-ahead log only: should there be a hole before it one day, it tells what was safe.
            batch.put_log_data(note);
        }
        for op in ops.ops() {
            match op {
                Op::Put { family, key, value } if family.in_log() => batch.put(key, value),
                Op::Put { family, key, value } => batch.put_cf(self.family(*family), key, value),
                Op::Delete { family, key } if family.in_log() => batch.delete(key),
                Op::Delete { family, key } => batch.delete_cf(self.family(*family), key),
                Op::DeleteRange { family, from, to } if family.in_log() => {
                    batch.delete_range(from.as_slice(), to.as_slice());
                }
                Op::DeleteRange { family, from, to } => {
                    batch.delete_range_cf(self.family(*family), from.as_slice(), to.as_slice());
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(false);
        let db = if in_log { &self.log } else { &self.meta };
        db.write_opt(batch, &options)
            .map_err(|error| classify(&error))?;
        if in_log {
            let behind = || self.is_behind(pace::WAITING);
            self.pace
                .wrote(ops.bytes(), behind, |rate| self.set_rate(rate));
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        let written = self.log.latest_sequence_number();
        self.log.flush_wal(true).map_err(|error| {
            self.synced.failed();
            classify(&error)
        })?;
        self.synced.reached(written);
        Ok(())
    }

    fn journal(&self) -> Result<u64, EngineError> {
        newest_wal(self.log.path())
            .map_err(|error| EngineError::Io(format!("{}: {error}", self.log.path().display())))
    }

    fn is_flushed(&self, journal: u64) -> bool {
        // What a WAL holds is in synced files once RocksDB would no longer read it at a start.
        let needed = self
            .log
            .property_int_value(rocksdb::properties::MIN_LOG_NUMBER_TO_KEEP);
        needed.ok().flatten().is_some_and(|needed| needed > journal)
    }

    fn begin_flush(&self) {
        // Then what is written goes to files soon, and RocksDB would make this thread wait.
        if self.is_behind(pace::WAITING) {
            return;
        }
        self.pace.hurry(|rate| self.set_rate(rate));
        let mut options = FlushOptions::default();
        options.set_wait(false);
        if let Err(error) = self.log.flush_opt(&options) {
            tracing::debug!(%error, "no flush: what is written is synced instead");
        }
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let db = if family.in_log() {
            &self.log
        } else {
            &self.meta
        };
        db.get_cf(self.family(family), key)
            .map(|value| value.map(Bytes::from))
            .map_err(|error| classify(&error))
    }

    fn scan(
        &self,
        family: Family,
        start: Start<'_>,
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), EngineError> {
        let mut iterator = match start {
            Start::At(key) => {
                if key >= to {
                    return Ok(());
                }
                let mut iterator = self.iterator(family, key, to);
                iterator.seek(key);
                iterator
            }
            Start::Floor { key, lower } => {
                if lower >= to {
                    return Ok(());
                }
                let mut iterator = self.iterator(family, lower, to);
                iterator.seek_for_prev(key);
                if !iterator.valid() {
                    iterator.status().map_err(|error| classify(&error))?;
                    iterator.seek(key);
                }
                iterator
            }
        };
        let mut read = 0;
        while let (Some(key), Some(value)) = (iterator.key(), iterator.value()) {
            if let ControlFlow::Break(()) = visit(key, value) {
                return Ok(());
            }
            read += value.len();
            if read >= OFFER_BYTES {
                read = 0;
                std::thread::yield_now();
            }
            iterator.next();
        }
        // A damaged block or blob ends the iteration early, and only the status tells.
        iterator.status().map_err(|error| classify(&error))
    }

    fn walk(
        &self,
        family: Family,
        start: Start<'_>,
        to: &[u8],
        (patience, now): (Patience, Duration),
        visit: &mut VisitUnread<'_>,
    ) -> Result<Walked, EngineError> {
        assert!(family.in_log(), "views have small values only");
        let mut places = match start {
            Start::At(key) => {
                if key >= to {
                    return Ok(Walked::Ended);
                }
                let mut places = Places::new(&self.log, key, to, patience);
                places.seek(key);
                places
            }
            Start::Floor { key, lower } => {
                if lower >= to {
                    return Ok(Walked::Ended);
                }
                let mut places = Places::new(&self.log, lower, to, patience);
                places.seek_for_prev(key);
                if places.get().is_none() {
                    if let ended @ (Ok(Walked::Waits) | Err(_)) = ended(&places) {
                        return ended;
                    }
                    places.seek(key);
                }
                places
            }
        };
        let mut reader = Reader::new(self.log.path(), &self.blobs, (patience, now));
        while let Some((key, value)) = places.get() {
            let mut stored = Stored {
                key,
                value,
                reader: &mut reader,
            };
            match visit(key, &mut stored) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(Walked::Ended),
                Err(untaken) => return untaken.into(),
            }
            if reader.read_bytes >= OFFER_BYTES {
                reader.read_bytes = 0;
                std::thread::yield_now();
            }
            places.next();
        }
        ended(&places)
    }

    fn last(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
    ) -> Result<Option<(Vec<u8>, Bytes)>, EngineError> {
        if from >= to {
            return Ok(None);
        }
        let mut iterator = self.iterator(family, from, to);
        iterator.seek_to_last();
        let found = match (iterator.key(), iterator.value()) {
            (Some(key), Some(value)) => Some((key.to_vec(), Bytes::copy_from_slice(value))),
            _ => None,
        };
        iterator.status().map_err(|error| classify(&error))?;
        Ok(found)
    }

    fn compact(&self, from: &[u8], to: &[u8]) -> Result<(), EngineError> {
        self.compact_keys(from, to)
    }

    fn value_files(&self) -> Result<Vec<ValueFile>, EngineError> {
        self.list_value_files()
    }

    fn collect(&self, end: u64) -> Result<(), EngineError> {
        self.empty_value_files(end)
    }

    fn space(&self) -> Result<Space, EngineError> {
        Ok(Space {
            key_bytes: self.number("rocksdb.live-sst-files-size")?,
            value_bytes: self.number("rocksdb.live-blob-file-size")?,
            garbage_bytes: self.number("rocksdb.live-blob-file-garbage-size")?,
        })
    }

    fn properties(&self) -> Vec<(&'static str, u64)> {
        const PROPERTIES: [(&str, &str); 8] = [
            ("memtable_bytes", "rocksdb.cur-size-all-mem-tables"),
            ("immutable_memtables", "rocksdb.num-immutable-mem-table"),
            ("running_flushes", "rocksdb.num-running-flushes"),
            ("running_compactions", "rocksdb.num-running-compactions"),
            ("delayed_write_rate", "rocksdb.actual-delayed-write-rate"),
            ("write_stopped", "rocksdb.is-write-stopped"),
            ("background_errors", "rocksdb.background-errors"),
            ("blob_bytes", "rocksdb.total-blob-file-size"),
        ];
        let of_rocks = PROPERTIES.iter().filter_map(|(name, property)| {
            let value = self.log.property_int_value(*property).ok().flatten()?;
            Some((*name, value))
        });
        let of_proof = [
            ("synced_sequence", self.synced.sequence()),
            ("proven_sequence", self.synced.proven()),
            ("failed_slots", self.synced.failed_slots()),
        ];
        let rate = ("background_rate", background_rate(&self.log));
        of_rocks.chain(of_proof).chain([rate]).collect()
    }
}

#[cfg(test)]
mod tests;
