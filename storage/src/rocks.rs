//! The engine of a running broker: two RocksDB databases, `log` with all truth in one column family, and
//! `meta` with the views. Opened by `log.rs`'s callers, used through `Engine` only.
//!
//! It never retries a failed write or sync, never turns the WAL off, and it alone reads RocksDB's error text.
//! Each option below stands with its reason; what each is worth is in the storage part of ARCHITECTURE.md.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    ColumnFamilyDescriptor, DB, DBRawIterator, DBRecoveryMode, ErrorKind, Options, ReadOptions,
    WriteBatch, WriteOptions,
};
use rustix::fs::{Mode, OFlags};

use crate::disk::{Disk, Syncs};
use crate::durable::keeper::SyncPoint;
use crate::engine::{Engine, Family, Op, Start, Visit, WriteOps};
use crate::error::EngineError;
use crate::wal;

/// One write buffer of the `log` database. Its size hardly matters; the number sheds bursts and bounds recovery.
const WRITE_BUFFER_BYTES: usize = 64 << 20;

/// Values from this size on go to blob files, so that compaction and retention touch keys only.
const MIN_BLOB_BYTES: u64 = 1024;

/// How the engine uses the machine.
#[derive(Debug, Clone)]
pub struct RocksOptions {
    /// Bytes for memtables and block cache together.
    pub memory_budget_bytes: usize,
    /// Threads for flushes and compactions.
    pub background_jobs: i32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            memory_budget_bytes: 384 << 20,
            background_jobs: 3,
        }
    }
}

/// RocksDB behind the `Engine` trait.
pub struct RocksEngine {
    log: DB,
    meta: DB,
    synced: Arc<SyncPoint>,
}

impl std::fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksEngine")
            .field("path", &self.log.path())
            .finish_non_exhaustive()
    }
}

fn classify(error: &rocksdb::Error) -> EngineError {
    let text = error.as_ref();
    // RocksDB hands the error as text; "No space left" is the operating system's word for ENOSPC and
    // "NoSpace" RocksDB's own subcode.
    if text.contains("No space left") || text.contains("NoSpace") {
        return EngineError::Full(text.to_owned());
    }
    match error.kind() {
        // A file that RocksDB counts on is never removed by anything that runs here.
        _ if text.contains("No such file") => EngineError::Corruption(text.to_owned()),
        ErrorKind::Corruption => EngineError::Corruption(text.to_owned()),
        _ => EngineError::Io(text.to_owned()),
    }
}

/// Whether files in `dir` can be opened past the page cache; not so on some tmpfs.
fn direct_io_works(dir: &Path) -> bool {
    let probe = dir.join("direct-io-probe");
    let opened = rustix::fs::open(
        &probe,
        OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    );
    let works = opened.is_ok();
    drop(opened);
    if let Err(error) = std::fs::remove_file(&probe)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(file = %probe.display(), %error, "cannot remove the direct i/o probe");
    }
    works
}

fn log_options(options: &RocksOptions, direct_io: bool) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    // Recovery stops at the first damage instead of refusing a torn tail, which is normal after a crash.
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // Batches arrive compressed when the producer wants it.
    db.set_compression_type(rocksdb::DBCompressionType::None);
    // Flushed data must not push consumers' data out of the page cache, nor be written twice.
    db.set_use_direct_io_for_flush_and_compaction(direct_io);
    // Recycled WAL files are not proven against holes and stale records yet.
    db.set_recycle_log_file_num(0);
    // Big values apart from keys: compaction rewrites keys only. Garbage is collected by retention, never by itself.
    db.set_enable_blob_files(true);
    db.set_min_blob_size(MIN_BLOB_BYTES);
    db.set_blob_file_size(256 << 20);
    db.set_enable_blob_gc(false);
    // Sequential catch-up reads want the kernel's read-ahead.
    db.set_advise_random_on_open(false);
    db.set_write_buffer_size(WRITE_BUFFER_BYTES);
    let buffers = (options.memory_budget_bytes / 2 / WRITE_BUFFER_BYTES).clamp(2, 12);
    db.set_max_write_buffer_number(buffers as i32);
    db.set_max_background_jobs(options.background_jobs);
    // One writer thread: no concurrent memtable inserts to arrange.
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);
    db.set_wal_bytes_per_sync(0);
    db.set_manual_wal_flush(false);
    db.set_keep_log_file_num(4);
    db.set_max_open_files(512);
    db
}

fn meta_options() -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_compression_type(rocksdb::DBCompressionType::None);
    db.set_write_buffer_size(4 << 20);
    db.set_max_write_buffer_number(2);
    db.set_max_background_jobs(1);
    db.set_keep_log_file_num(4);
    db.set_max_open_files(64);
    db
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
        Ok(Self {
            log,
            meta,
            synced: Arc::default(),
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
        if in_log {
            // Goes to the write-ahead log only: should there be a hole before it one day, it tells what was safe.
            batch.put_log_data(wal::synced_note(self.synced.sequence()));
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
            .map_err(|error| classify(&error))
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
        while let (Some(key), Some(value)) = (iterator.key(), iterator.value()) {
            if let ControlFlow::Break(()) = visit(key, value) {
                return Ok(());
            }
            iterator.next();
        }
        // A damaged block or blob ends the iteration early, and only the status tells.
        iterator.status().map_err(|error| classify(&error))
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
        of_rocks.chain(of_proof).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conformance;
    use crate::directory::TempDir;
    use crate::disk::Recorder;

    #[test]
    fn conforms() {
        let dir = TempDir::new("rocks-conforms");
        conformance::run(&mut || {
            Arc::new(RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens"))
        });
    }

    #[test]
    fn the_names_of_both_databases_are_safe_before_anything_is_in_them() {
        let dir = TempDir::new("rocks-names");
        let recorder = Recorder::default();
        let options = RocksOptions::default();
        let engine = RocksEngine::open_with(dir.path(), &options, &recorder).expect("opens");
        assert_eq!(recorder.take(dir.path()), [": log meta"]);
        drop(engine);
        let dir = TempDir::new("rocks-no-names");
        let failing = Recorder::failing(0);
        assert!(RocksEngine::open_with(dir.path(), &options, &failing).is_err());
        let held = std::fs::read_dir(dir.path().join("log")).expect("lists");
        assert_eq!(held.count(), 0);
    }

    #[test]
    fn errors_are_told_apart() {
        let dir = TempDir::new("rocks-errors");
        let file = dir.path().join("log");
        std::fs::write(&file, b"not a directory").expect("writes");
        assert!(matches!(
            RocksEngine::open(dir.path(), &RocksOptions::default()),
            Err(EngineError::Io(_))
        ));
    }

    #[test]
    fn a_flipped_bit_is_an_error_and_never_a_shorter_scan() {
        let dir = TempDir::new("rocks-flip");
        {
            let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens");
            for index in 0..200_u32 {
                let mut ops = WriteOps::new();
                ops.put(
                    Family::Log,
                    index.to_be_bytes().to_vec(),
                    vec![index as u8; 2_000],
                );
                engine.write(&ops).expect("writes");
            }
            engine.log.flush().expect("flushes");
        }
        let blob = std::fs::read_dir(dir.path().join("log"))
            .expect("lists")
            .map(|entry| entry.expect("entry").path())
            .find(|path| path.extension().is_some_and(|end| end == "blob"))
            .expect("values of 2,000 bytes are in a blob file");
        let mut bytes = std::fs::read(&blob).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(&blob, bytes).expect("writes");

        let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens");
        let mut seen = 0;
        let scanned = engine.scan(Family::Log, Start::At(&[0; 4]), &[0xff; 4], &mut |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        });
        assert!(
            matches!(scanned, Err(EngineError::Corruption(_))),
            "{scanned:?} after {seen} of 200"
        );
    }
}
