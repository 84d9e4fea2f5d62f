//! The thread that keeps the `durable` file up to date: a slot at once when something was synced after a pause, then
//! at most every `INTERVAL`, and a last one when it is stopped. Started by whoever opened the engine, stopped after
//! the log is closed.
//!
//! No append waits for it. A slot never says more than what is on disk: the sequence number is one that a sync
//! returned for, logs are listed before the manifest is measured (a log goes only after the manifest that needs it no
//! more is synced), and a manifest that grew is synced here before its size is written down. A slot that cannot be
//! written is an error line and a count; the older one still holds. After a failed sync, of the log or of a manifest,
//! no slot is written any more: a sync that succeeds later may not have what the failed one lost.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{DurableFile, Found, LogMark, MAX_LOGS, ManifestMark, Slot};
use crate::disk::{Disk, failed};
use crate::error::OpenError;
use crate::manifest;
use crate::wal::{self, BLOCK_BYTES, NOTE_BYTES, NoteKey};

/// From a sync to its slot on disk at most 100 ms go by, of which the write itself needs a part.
const INTERVAL: Duration = Duration::from_millis(80);

/// How far the `log` database is synced; the engine tells, the keeper and new writes look.
#[derive(Debug, Default)]
pub struct SyncPoint {
    sequence: AtomicU64,
    proven: AtomicU64,
    failed_slots: AtomicU64,
    /// Signs the notes of new writes; there once the keeper has begun.
    key: OnceLock<NoteKey>,
    state: Mutex<State>,
    moved: Condvar,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the keeper waits for the next sync.
    idle: bool,
    stopping: bool,
    /// A sync failed: one that succeeds later may not have what the failed one lost.
    failed: bool,
}

impl SyncPoint {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything up to this sequence number is on disk.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// Everything up to this sequence number is on disk, and the `durable` file says so.
    pub fn proven(&self) -> u64 {
        self.proven.load(Ordering::Acquire)
    }

    /// What a write of now says of how far was synced; nothing before the keeper has begun.
    pub(crate) fn note(&self) -> Option<[u8; NOTE_BYTES]> {
        Some(self.key.get()?.note(self.sequence()))
    }

    /// Slots that could not be written.
    pub fn failed_slots(&self) -> u64 {
        self.failed_slots.load(Ordering::Relaxed)
    }

    /// A sync returned that began when `sequence` was the last one written.
    pub(crate) fn reached(&self, sequence: u64) {
        let state = self.lock();
        if !state.failed
            && self.sequence.fetch_max(sequence, Ordering::AcqRel) < sequence
            && state.idle
        {
            self.moved.notify_one();
        }
    }

    /// A sync failed: nothing counts from now on.
    pub(crate) fn failed(&self) {
        self.lock().failed = true;
    }
}

/// The thread, and the way to stop it.
#[derive(Debug)]
pub struct Keeper {
    synced: Arc<SyncPoint>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Writes a first slot for what was opened in `dir`, and starts the thread. `random` becomes the key of the
    /// directory's notes where it has none yet.
    ///
    /// # Errors
    /// The file cannot be made or written, or the system gives no thread.
    pub fn start(dir: &Path, synced: Arc<SyncPoint>, random: [u8; 16]) -> Result<Self, OpenError> {
        let fresh = synced.key.get().copied().or(NoteKey::new(random));
        let mut scribe = Scribe::begin(dir, &synced, fresh)?;
        synced.lock().stopping = false;
        let shared = synced.clone();
        let thread = std::thread::Builder::new()
            .name("ottla-durable".to_owned())
            .spawn(move || keep(&mut scribe, &shared))
            .map_err(failed("cannot start a thread for", dir))?;
        Ok(Self {
            synced,
            thread: Some(thread),
        })
    }

    /// Writes a last slot, unless a sync failed, and ends the thread. Also when dropped.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.synced.lock().stopping = true;
        self.synced.moved.notify_all();
        self.synced.stopped.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the durable file panicked");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// Has every write from now on carry a signed note: called before the first one, which a start would take for one that
/// is none of ours otherwise. `random` becomes the key where the directory in `dir` has none yet.
///
/// # Errors
/// The file cannot be made or written.
pub fn sign(dir: &Path, synced: &SyncPoint, random: [u8; 16]) -> Result<(), OpenError> {
    let path = dir.join(super::FILE);
    let found = super::read(dir).map_err(failed("cannot read", &path))?;
    let mut file = DurableFile::open(&Disk, dir)?;
    let known = file.key(None);
    let key = file.key(NoteKey::new(random));
    if known.is_none() {
        let slot = match found {
            Found::Slot(slot) => slot,
            Found::Absent | Found::Blank | Found::Damaged => Slot::default(),
        };
        file.put(slot).map_err(failed("cannot write", &path))?;
    }
    if let Some(key) = key {
        synced.key.get_or_init(|| key);
    }
    Ok(())
}

/// Writes the first slot of a copy, of which nothing but its manifests is known.
pub(crate) fn write_first_slot(dir: &Path) -> Result<(), OpenError> {
    Scribe::begin(dir, &SyncPoint::default(), None).map(drop)
}

fn keep(scribe: &mut Scribe, synced: &SyncPoint) {
    loop {
        let mut state = synced.lock();
        while !state.stopping && synced.sequence() == synced.proven() {
            state.idle = true;
            state = synced
                .moved
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle = false;
        }
        let (stopping, sync_failed) = (state.stopping, state.failed);
        drop(state);
        if sync_failed {
            return;
        }
        if let Err(error) = scribe.write(synced) {
            let before = synced.failed_slots.fetch_add(1, Ordering::Relaxed);
            if before == 0 {
                tracing::error!(%error, "the durable file cannot be written");
            }
        }
        if stopping || scribe.sync_failed {
            return;
        }
        // Not woken by further syncs.
        let state = synced.lock();
        let waited = synced
            .stopped
            .wait_timeout_while(state, INTERVAL, |state| !state.stopping);
        drop(waited);
    }
}

/// Gathers what a slot says and writes it.
#[derive(Debug)]
struct Scribe {
    file: DurableFile,
    dir: PathBuf,
    /// The first sequence number of the logs seen, by number; it never changes.
    firsts: BTreeMap<u64, u64>,
    /// The manifests as they were synced last, of `log` and `meta`.
    marks: [ManifestMark; 2],
    /// How a manifest is synced; tests have others.
    sync: fn(&File) -> io::Result<()>,
    /// A manifest could not be synced.
    sync_failed: bool,
}

impl Scribe {
    /// Opens the file in `dir` and writes a slot.
    fn begin(dir: &Path, synced: &SyncPoint, fresh: Option<NoteKey>) -> Result<Self, OpenError> {
        let mut scribe = Self {
            file: DurableFile::open(&Disk, dir)?,
            dir: dir.to_owned(),
            firsts: BTreeMap::new(),
            marks: [ManifestMark::default(); 2],
            sync: File::sync_data,
            sync_failed: false,
        };
        let key = scribe.file.key(fresh);
        scribe
            .write(synced)
            .map_err(failed("cannot write", &dir.join(super::FILE)))?;
        // Only what is signed with a key that is on disk can be read later.
        if let Some(key) = key {
            synced.key.get_or_init(|| key);
        }
        Ok(scribe)
    }

    fn write(&mut self, synced: &SyncPoint) -> io::Result<()> {
        let sequence = synced.sequence();
        let logs = self.logs(sequence)?;
        let slot = Slot {
            generation: 0,
            key: None,
            sequence,
            logs,
            log_manifest: self.manifest("log", 0)?,
            meta_manifest: self.manifest("meta", 1)?,
        };
        self.file.put(slot)?;
        synced.proven.store(sequence, Ordering::Release);
        Ok(())
    }

    /// The manifest of a database, synced as far as it is told.
    fn manifest(&mut self, database: &str, mark: usize) -> io::Result<ManifestMark> {
        let (file, found) = measure(&self.dir.join(database))?;
        if found != self.marks[mark] {
            let synced = (self.sync)(&file);
            self.sync_failed |= synced.is_err();
            synced?;
            self.marks[mark] = found;
        }
        Ok(found)
    }

    /// The logs that begin at or before `sequence`.
    fn logs(&mut self, sequence: u64) -> io::Result<Vec<LogMark>> {
        let present = log_numbers(&self.dir.join("log"))?;
        let newest = present[present.len().saturating_sub(MAX_LOGS)..].to_vec();
        self.firsts.retain(|number, _| newest.contains(number));
        for number in &newest {
            if !self.firsts.contains_key(number)
                && let Some(first) = first_sequence(&self.dir.join("log"), *number)?
            {
                self.firsts.insert(*number, first);
            }
        }
        let marks = self.firsts.iter().map(|(number, first)| LogMark {
            number: *number,
            first: *first,
        });
        Ok(marks.filter(|mark| mark.first <= sequence).collect())
    }
}

/// The numbers of the write-ahead logs in a database's folder, in order.
pub(crate) fn log_numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        numbers.extend(manifest::log_number(&entry?.path()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The sequence number that a write-ahead log begins with; `None` while it is empty, or when it is gone already.
fn first_sequence(folder: &Path, number: u64) -> io::Result<Option<u64>> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    match File::open(folder.join(format!("{number:06}.log"))) {
        Ok(file) => file.take(BLOCK_BYTES as u64).read_to_end(&mut block)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(wal::first_batch(&block, number).map(|batch| batch.sequence))
}

/// The manifest of a database, and how long it is.
fn measure(folder: &Path) -> io::Result<(File, ManifestMark)> {
    let text = std::fs::read_to_string(folder.join("CURRENT"))?;
    let number = manifest::parse_current(&text)
        .ok_or_else(|| io::Error::other("CURRENT names no manifest"))?;
    let file = File::open(folder.join(manifest::name(number)))?;
    let found = ManifestMark {
        number,
        bytes: file.metadata()?.len(),
    };
    Ok((file, found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::TempDir;
    use crate::durable::read;
    use crate::engine::{Engine, Family, WriteOps};
    use crate::rocks::{RocksEngine, RocksOptions};

    fn slot(dir: &Path) -> Slot {
        match read(dir).expect("reads") {
            Found::Slot(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn after_a_failed_sync_no_later_one_counts() {
        let synced = SyncPoint::default();
        synced.reached(7);
        synced.reached(5);
        assert_eq!(synced.sequence(), 7, "it never goes back");
        synced.failed();
        synced.reached(9);
        assert_eq!(synced.sequence(), 7);
    }

    fn opened(dir: &TempDir) -> RocksEngine {
        RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens")
    }

    fn write(engine: &RocksEngine) {
        let mut ops = WriteOps::new();
        ops.put(Family::Log, b"key".to_vec(), vec![1; 90_000]);
        engine.write(&ops).expect("writes");
    }

    #[test]
    fn after_a_failed_sync_not_even_the_end_writes_a_slot() {
        let dir = TempDir::new("keeper-failed");
        let engine = opened(&dir);
        let keeper = Keeper::start(dir.path(), engine.sync_point(), [7; 16]).expect("starts");
        let before = slot(dir.path());
        engine.sync_point().failed();
        // There would be something to say: a longer manifest.
        write(&engine);
        engine.settle(false);
        keeper.stop();
        assert_eq!(slot(dir.path()), before);
        let keeper = Keeper::start(dir.path(), Arc::default(), [7; 16]).expect("starts");
        keeper.stop();
        assert_ne!(slot(dir.path()).log_manifest, before.log_manifest);
    }

    #[test]
    fn a_manifest_that_could_not_be_synced_is_not_tried_again() {
        let dir = TempDir::new("keeper-manifest");
        let engine = opened(&dir);
        let synced = engine.sync_point();
        let mut scribe = Scribe::begin(dir.path(), &synced, None).expect("begins");
        let before = slot(dir.path());
        scribe.sync = |_| Err(io::Error::other("test"));
        write(&engine);
        engine.settle(false);
        engine.sync().expect("syncs");
        // It comes back by itself: nothing asks it to stop.
        keep(&mut scribe, &synced);
        assert_eq!(slot(dir.path()), before);
        assert_eq!(synced.failed_slots(), 1);
    }

    #[test]
    fn a_slot_says_what_was_synced_and_nothing_that_was_only_written() {
        let dir = TempDir::new("keeper");
        let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens");
        let write = |index: u32| {
            let mut ops = WriteOps::new();
            ops.put(Family::Log, index.to_be_bytes().to_vec(), vec![1; 90_000]);
            engine.write(&ops).expect("writes");
        };
        let start = || Keeper::start(dir.path(), engine.sync_point(), [7; 16]).expect("starts");
        write(1);
        start().stop();
        let before = slot(dir.path());
        assert_eq!(
            (before.sequence, before.logs.as_slice()),
            (0, &[][..]),
            "not synced"
        );
        assert!(before.log_manifest.bytes > 0 && before.meta_manifest.bytes > 0);
        let keeper = start();
        engine.sync().expect("syncs");
        write(2);
        keeper.stop();
        let after = slot(dir.path());
        assert_eq!(after.sequence, 1);
        assert_eq!(engine.sync_point().proven(), 1);
        assert!(after.generation > before.generation);
        assert_eq!(after.logs.len(), 1);
        assert_eq!(after.logs[0].first, 1, "of a record larger than a block");
        // Flushed, the next log begins with what is not synced yet.
        engine.settle(false);
        write(3);
        start().stop();
        let flushed = slot(dir.path());
        assert!(flushed.log_manifest.bytes > after.log_manifest.bytes);
        assert!(flushed.logs.iter().all(|log| log.first <= flushed.sequence));
    }
}
