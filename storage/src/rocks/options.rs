//! RocksDB's options, each with its reason; what was tried is in docs/STORAGE.md. Used by `rocks.rs` alone; opens nothing
//! but a probe for direct i/o.

use std::path::Path;

use rocksdb::{BlockBasedOptions, Cache, DBRecoveryMode, Options};
use rustix::fs::{Mode, OFlags};

/// One write buffer of the `log` database. Its size hardly matters; the number sheds bursts and bounds recovery.
pub(super) const WRITE_BUFFER_BYTES: usize = 32 << 20;

/// Write-ahead logs that are kept to be used again; more become free at once only where flushes were behind. Each is written
/// by the system every half a minute where nobody syncs it.
pub(super) const RECYCLED_LOGS: usize = 3;

/// So many of the newest files of keys are compacted together.
const KEY_FILES_TO_COMPACT: i32 = 8;

/// So many of them are more than compactions should leave; at 20 RocksDB slows writes down.
pub(super) const MANY_KEY_FILES: u64 = 12;

/// What the newest files of keys are merged into, in bytes: all of it is rewritten each time, so that it is kept small. What is
/// more goes on to larger levels, of which only a part is rewritten.
const FIRST_LEVEL_BYTES: u64 = 8 << 20;

/// A file of keys below the newest ones, in bytes.
const KEY_FILE_BYTES: u64 = 1 << 20;

/// Values from this size on go to blob files, so that compaction and retention touch keys only.
const MIN_BLOB_BYTES: u64 = 1024;

/// Most that a blob file takes as long as values die together: a flush fills one, of a write buffer that is full or at least
/// half so.
pub(super) const BLOB_FILE_BYTES: u64 = 256 << 20;

/// Least size where a few values stay in files of many that died. A flush writes values in the order of their keys: in
/// small files one topic's lie mostly together, so that fewer have to be moved. Smaller files cost a tenth to a fifth of
/// the write rate.
const LEAST_BLOB_FILE_BYTES: u64 = 8 << 20;

/// The least size grows with the store, so that there are never many more files than this.
const BLOB_FILES: u64 = 4096;

/// As good as no limit, in bytes a second. What one period hands out at this rate may be used up at a lower one.
pub(super) const UNLIMITED_RATE: i64 = 1 << 33;

/// What flushes and compactions may write is handed out so often, in microseconds.
const RATE_PERIOD_US: i64 = 4_000;

/// How the engine uses the machine.
#[derive(Debug, Clone)]
pub struct RocksOptions {
    /// Bytes for all write buffers of the log.
    pub write_buffers_bytes: usize,
    /// Bytes for keys that were read lately, for reads that do not wait: 6 MiB are those of 8 GB in batches of 64 KiB.
    pub key_cache_bytes: usize,
    /// Threads for flushes and compactions; RocksDB gives a quarter of them to flushes. One flush alone waits for the disk
    /// and for the processor in turn, and writes wait for it.
    pub background_jobs: i32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            write_buffers_bytes: 192 << 20,
            key_cache_bytes: 6 << 20,
            background_jobs: 12,
        }
    }
}

/// The size of new blob files once values had to be moved out of those of `bytes`, in a store of `store_bytes`.
pub(super) fn smaller_blob_files(bytes: u64, store_bytes: u64) -> u64 {
    let least = (store_bytes / BLOB_FILES).next_power_of_two();
    let half = bytes.min(WRITE_BUFFER_BYTES as u64) / 2;
    half.max(least)
        .clamp(LEAST_BLOB_FILE_BYTES, BLOB_FILE_BYTES)
}

/// Whether files in `dir` can be opened past the page cache; not so on some tmpfs.
pub(super) fn direct_io_works(dir: &Path) -> bool {
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

pub(super) fn log_options(options: &RocksOptions, direct_io: bool) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    // Recovery stops at the first damage instead of refusing a torn tail, which is normal after a crash.
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // Batches arrive compressed when the producer wants it.
    db.set_compression_type(rocksdb::DBCompressionType::None);
    // Flushed data must not push consumers' data out of the page cache, nor be written twice.
    db.set_use_direct_io_for_flush_and_compaction(direct_io);
    // A file that has its blocks already is synced without a change of the file system's own data. What it held before is
    // told from its new records, and cut off before RocksDB could meet it (`proof.rs`).
    db.set_recycle_log_file_num(RECYCLED_LOGS);
    // Big values apart from keys: compaction rewrites keys only. Garbage is collected by retention, never by itself.
    db.set_enable_blob_files(true);
    db.set_min_blob_size(MIN_BLOB_BYTES);
    db.set_blob_file_size(BLOB_FILE_BYTES);
    db.set_enable_blob_gc(false);
    // Sequential catch-up reads want the kernel's read-ahead.
    db.set_advise_random_on_open(false);
    // At least four, so that one fills while others are flushed.
    let size = WRITE_BUFFER_BYTES.min(options.write_buffers_bytes / 4);
    db.set_write_buffer_size(size);
    db.set_max_write_buffer_number((options.write_buffers_bytes / size).clamp(4, 24) as i32);
    db.set_max_background_jobs(options.background_jobs);
    // Flushes and compactions write evenly (`pace.rs`); opening is not held up. RocksDB takes the same rate for writes that it
    // slows down, which are not slowed down then: it makes them wait at the end of its buffers. And what it writes through the
    // page cache, where there is no direct i/o, it hands to the disk by the megabyte.
    db.set_ratelimiter(UNLIMITED_RATE, RATE_PERIOD_US, 10);
    // One writer thread: no concurrent memtable inserts to arrange.
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);
    db.set_wal_bytes_per_sync(0);
    db.set_manual_wal_flush(false);
    // Files of keys are small, and the newest of them span all partitions: what they are merged into is rewritten each time.
    db.set_level_zero_file_num_compaction_trigger(KEY_FILES_TO_COMPACT);
    db.set_max_bytes_for_level_base(FIRST_LEVEL_BYTES);
    db.set_max_bytes_for_level_multiplier(20.0);
    db.set_target_file_size_base(KEY_FILE_BYTES);
    db.set_keep_log_file_num(4);
    db.set_max_open_files(512);
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(options.key_cache_bytes));
    db.set_block_based_table_factory(&tables);
    db
}

pub(super) fn meta_options() -> Options {
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
