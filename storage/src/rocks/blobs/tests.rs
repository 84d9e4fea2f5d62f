//! Values read where they lie: what is checked, what is handed out in which way, and that no change goes by.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::*;
use crate::directory::TempDir;
use crate::engine::{Engine, Family, Start, Unread, Walked, WriteOps};
use crate::records::Records;
use crate::rocks::{RocksEngine, RocksOptions};

fn open(dir: &TempDir) -> RocksEngine {
    RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens")
}

/// An engine with these values in one blob file, under the keys 0, 1, ...
fn filled(dir: &TempDir, values: &[Vec<u8>]) -> RocksEngine {
    let engine = open(dir);
    for (index, value) in values.iter().enumerate() {
        let mut ops = WriteOps::new();
        let key = (index as u32).to_be_bytes().to_vec();
        ops.put(Family::Log, key, value.clone());
        engine.write(&ops).expect("writes");
    }
    engine.settle(false);
    engine
}

fn random(rng: &mut fastrand::Rng, size: usize) -> Vec<u8> {
    let mut value = vec![0; size];
    rng.fill(&mut value);
    value
}

/// All values, or what stopped the walk, and how many came before.
fn walk(engine: &RocksEngine) -> (Vec<Records>, Result<(), EngineError>) {
    walk_at(engine, Duration::ZERO)
}

fn walk_at(engine: &RocksEngine, now: Duration) -> (Vec<Records>, Result<(), EngineError>) {
    let (found, walked) = walk_with(engine, (Patience::Disk, now));
    (
        found,
        walked.map(|walked| assert_eq!(walked, Walked::Ended)),
    )
}

/// The same without waiting.
fn walk_now(engine: &RocksEngine, now: Duration) -> (usize, Result<Walked, EngineError>) {
    let (found, walked) = walk_with(engine, (Patience::None, now));
    assert_eq!(in_files(&found), found.len(), "nothing is copied");
    (found.len(), walked)
}

fn walk_with(
    engine: &RocksEngine,
    now: (Patience, Duration),
) -> (Vec<Records>, Result<Walked, EngineError>) {
    let mut found = Vec::new();
    let mut visit = |_: &[u8], value: &mut dyn Unread| {
        found.push(value.take()?.into_records());
        Ok(ControlFlow::Continue(()))
    };
    let walked = engine.walk(Family::Log, Start::At(&[0; 4]), &[0xff; 4], now, &mut visit);
    (found, walked)
}

fn in_files(found: &[Records]) -> usize {
    let in_file = |records: &&Records| matches!(records, Records::File(_));
    found.iter().filter(in_file).count()
}

fn blob_file(dir: &TempDir) -> PathBuf {
    let entries = std::fs::read_dir(dir.path().join("log")).expect("lists");
    let mut paths = entries.map(|entry| entry.expect("entry").path());
    let blob = paths.find(|path| path.extension().is_some_and(|end| end == "blob"));
    blob.expect("a blob file")
}

#[test]
fn large_values_stay_in_their_file_and_small_ones_are_read_into_memory() {
    let seed = 41;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = TempDir::new("blobs-sizes");
    let edge = FILE_VALUE_BYTES as usize;
    let mut values: Vec<_> = [1, 500, edge - 1, edge, edge + 1, 65_000, 66_000, 3 << 20]
        .map(|size| random(&mut rng, size))
        .into();
    for _ in 0..300 {
        let size = rng.usize(1_024..40_000);
        values.push(random(&mut rng, size));
    }
    let engine = filled(&dir, &values);
    let large = values.iter().filter(|value| value.len() >= edge).count();
    for round in 0..2 {
        let (found, walked) = walk(&engine);
        assert_eq!(walked, Ok(()));
        assert_eq!(in_files(&found), large, "round {round}");
        let found: Vec<_> = found
            .into_iter()
            .map(|records| records.into_bytes().expect("reads").to_vec())
            .collect();
        assert!(found == values, "round {round}");
    }
}

#[test]
fn damage_is_told_within_a_minute_and_then_each_time() {
    let dir = TempDir::new("blobs-again");
    let values = vec![vec![7; 100_000]; 5];
    let engine = filled(&dir, &values);
    let began = Duration::from_secs(1_000);
    let (found, walked) = walk_at(&engine, began);
    assert_eq!((in_files(&found), walked), (5, Ok(())));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(blob_file(&dir))
        .expect("opens");
    let damage = |at, byte| file.write_all_at(&[byte], at).expect("writes");
    // In the middle of the third value.
    let at = 30 + 2 * 100_036 + 50_000;
    damage(at, 8);
    let (_, walked) = walk_at(&engine, began + BELIEVED - Duration::from_millis(1));
    assert_eq!(walked, Ok(()), "it was found whole a moment ago");
    for round in 0..3 {
        let (found, walked) = walk_at(&engine, began + 2 * BELIEVED);
        let damaged = matches!(walked, Err(EngineError::Corruption(_)));
        assert!(damaged && found.len() == 2, "round {round}: {walked:?}");
    }
    // What could not be read when it was sent is believed no longer.
    damage(at, 7);
    let later = began + 3 * BELIEVED;
    let (found, walked) = walk_at(&engine, later);
    assert_eq!(walked, Ok(()));
    damage(at, 8);
    assert_eq!(walk_at(&engine, later).1, Ok(()));
    let Some(Records::File(records)) = found.first() else {
        panic!("it lies in a file");
    };
    records.doubt();
    let (found, walked) = walk_at(&engine, later);
    let damaged = matches!(walked, Err(EngineError::Corruption(_)));
    assert!(damaged && found.len() == 2, "{walked:?}");
    // What is in front of the value is looked at each time.
    damage(at, 7);
    assert_eq!(walk_at(&engine, later).1, Ok(()));
    damage(30 + 100_036 + 33, 1);
    let (found, walked) = walk_at(&engine, later);
    let damaged = matches!(walked, Err(EngineError::Corruption(_)));
    assert!(damaged && found.len() == 1, "{walked:?}");
}

#[test]
fn what_cannot_be_copied_to_memory_is_checked_again() {
    let dir = TempDir::new("blobs-copied");
    let engine = filled(&dir, &[vec![1; 50_000], vec![2; 50_000]]);
    let (found, walked) = walk(&engine);
    assert_eq!((in_files(&found), walked), (2, Ok(())));
    let blob = std::fs::OpenOptions::new()
        .write(true)
        .open(blob_file(&dir))
        .expect("opens");
    blob.set_len(80_000).expect("cuts");
    // What is in front of the second value is there still.
    assert_eq!(walk(&engine).1, Ok(()));
    let [first, second] = found.try_into().expect("two");
    assert_eq!(first.into_bytes().expect("reads"), vec![1; 50_000]);
    assert_eq!(walk(&engine).1, Ok(()));
    let error = second.into_bytes().map_err(|error| error.kind());
    assert_eq!(error, Err(std::io::ErrorKind::UnexpectedEof));
    let (found, walked) = walk(&engine);
    let damaged = matches!(walked, Err(EngineError::Corruption(_)));
    assert!(damaged && found.len() == 1, "{walked:?}");
}

#[test]
fn what_was_checked_is_believed_for_half_a_minute_to_a_minute() {
    let seed = 43;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..2_000 {
        let mut checked = Checked::default();
        let mut model: HashMap<(u64, u64), Duration> = HashMap::new();
        let mut now = Duration::from_secs(rng.u64(0..100));
        for _ in 0..60 {
            now += Duration::from_secs(rng.u64(0..20));
            let value = (rng.u64(0..3), rng.u64(0..200) * PAGE_BYTES);
            let found = checked.has(value.0, value.1, now);
            let age = model.get(&value).map(|since| now - *since);
            assert!(
                !found || age.is_some_and(|age| age < 2 * BELIEVED),
                "{age:?}"
            );
            assert!(found || age.is_none_or(|age| age >= BELIEVED), "{age:?}");
            if !found {
                checked.add(value.0, value.1 + rng.u64(0..PAGE_BYTES), now);
                model.insert(value, now);
            }
        }
    }
    // Memory is bounded.
    let mut pages = Pages::default();
    let last = (CHECKED_WORDS as u64 - 1) * 64 * PAGE_BYTES;
    pages.add(1, last);
    pages.add(2, 0);
    assert!(pages.has(1, last) && !pages.has(2, 0));
    pages.forget(1);
    pages.add(2, 0);
    assert!(!pages.has(1, last) && pages.has(2, 0));
}

#[test]
fn no_change_of_a_record_goes_by() {
    let seed = 42;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = TempDir::new("blobs-damage");
    let values = vec![
        random(&mut rng, 2_000),
        random(&mut rng, 200_000),
        random(&mut rng, 3_000),
        random(&mut rng, 20_000),
    ];
    drop(filled(&dir, &values));
    let path = blob_file(&dir);
    let whole = std::fs::read(&path).expect("reads");
    let sizes = values.iter().map(|value| 32 + 4 + value.len());
    let ends: Vec<_> = sizes
        .scan(30, |end, size| {
            *end += size;
            Some(*end)
        })
        .collect();
    for round in 0..60 {
        let record = round % values.len();
        let begin = if record == 0 { 30 } else { ends[record - 1] };
        // Every other change is in the record's header or its key.
        let end = if round % 2 == 0 {
            begin + 36
        } else {
            ends[record]
        };
        let at = rng.usize(begin..end);
        let mut changed = whole.clone();
        changed[at] ^= 1 << rng.u8(..8);
        std::fs::write(&path, &changed).expect("writes");
        let (found, walked) = walk(&open(&dir));
        // RocksDB does not use the eight bytes of a record's expiry, but their checksum tells.
        assert!(
            matches!(walked, Err(EngineError::Corruption(_))),
            "byte {at} of record {record}: {walked:?}"
        );
        assert_eq!(found.len(), record, "byte {at} of record {record}");
    }
    std::fs::write(&path, &whole[..ends[2] + 100]).expect("writes");
    let (found, walked) = walk(&open(&dir));
    let cut = matches!(walked, Err(EngineError::Corruption(_)));
    assert!(cut && found.len() == 3, "{walked:?} after {}", found.len());
    std::fs::remove_file(&path).expect("removes");
    let (found, walked) = walk(&open(&dir));
    let missing = matches!(walked, Err(EngineError::Corruption(_)));
    assert!(missing && found.is_empty(), "{walked:?}");
}

#[test]
fn what_is_sent_from_a_file_stays_when_the_store_gives_it_up() {
    let dir = TempDir::new("blobs-gone");
    let engine = filled(&dir, &vec![vec![9; 50_000]; 4]);
    let (found, walked) = walk(&engine);
    assert_eq!(walked, Ok(()));
    let path = blob_file(&dir);
    let mut ops = WriteOps::new();
    ops.delete_range(Family::Log, vec![0; 4], vec![0xff; 4]);
    engine.write(&ops).expect("writes");
    engine.compact(&[0; 4], &[0xff; 4]).expect("compacts");
    engine.collect(u64::MAX).expect("collects");
    assert!(!path.exists());
    assert_eq!(in_files(&found), 4);
    for records in found {
        assert_eq!(records.into_bytes().expect("reads"), vec![9; 50_000]);
    }
}

impl OpenFiles {
    /// A file without values, as if some of it were to be sent.
    pub(in crate::rocks) fn opened(&self, folder: &Path, number: u64) -> Arc<StoredFile> {
        let place = Place {
            key: &[],
            file: number,
            offset: 0,
            size: 0,
        };
        let opened = self.open(folder, &place, &Arc::default(), Patience::Disk);
        opened.expect("opens").0
    }
}

#[test]
fn no_more_files_stay_open_than_may() {
    let dir = TempDir::new("blobs-open");
    let open = OpenFiles::default();
    let place = |file| Place {
        key: &[],
        file,
        offset: 0,
        size: 0,
    };
    let all = OPEN_FILES as u64 + 1;
    for number in 0..=all {
        let path = dir.path().join(format!("{number:06}.blob"));
        std::fs::write(path, b"").expect("writes");
    }
    let checked = Arc::default();
    let open_one = |number| {
        let opened = open.open(dir.path(), &place(number), &checked, Patience::Disk);
        opened.expect("opens")
    };
    let mut held: Vec<_> = (0..OPEN_FILES as u64).map(open_one).collect();
    assert!(held.iter().all(|(_, shared)| *shared));
    let (same, shared) = open_one(5);
    assert!(shared && Arc::ptr_eq(&same, &held[5].0));
    assert!(!open_one(all).1);
    // Nobody sends from it any more.
    held.pop();
    assert!(open_one(all).1);
    let missing = |patience| {
        let missing = open.open(dir.path(), &place(all + 1), &checked, patience);
        missing.map(|_| ())
    };
    let damaged = missing(Patience::Disk);
    assert!(
        matches!(damaged, Err(Untaken::Engine(EngineError::Corruption(_)))),
        "{damaged:?}"
    );
    assert_eq!(missing(Patience::None), Err(Untaken::Waits));
}

#[test]
fn who_does_not_wait_is_given_what_was_found_whole_lately_and_stays_in_its_file() {
    let dir = TempDir::on_disk("blobs-now");
    let engine = filled(&dir, &vec![vec![7; 100_000]; 5]);
    let began = Duration::from_secs(1_000);
    let waits = |found| (found, Ok(Walked::Waits));
    assert_eq!(walk_now(&engine, began), waits(0), "keys were never read");
    assert_eq!(walk_at(&engine, began).1, Ok(()));
    assert_eq!(walk_now(&engine, began), (5, Ok(Walked::Ended)));
    let later = began + 2 * BELIEVED;
    assert_eq!(walk_now(&engine, later), waits(0), "checked too long ago");
    assert_eq!(walk_at(&engine, later).1, Ok(()));
    assert_eq!(walk_now(&engine, later), (5, Ok(Walked::Ended)));
    // What left the memory is not waited for. A look has the system bring it, so that each one needs a new start.
    let blob = File::open(blob_file(&dir)).expect("opens");
    blob.sync_all().expect("syncs");
    let cold = (0..10).any(|_| {
        rustix::fs::fadvise(&blob, 0, None, Advice::DontNeed).expect("forgets");
        walk_now(&engine, later) == waits(0)
    });
    let tells = read_from_memory(&blob, &mut [0], 0).is_ok();
    assert!(cold || !tells, "it would have waited");
    assert_eq!(walk_at(&engine, later).1, Ok(()));
    assert_eq!(walk_now(&engine, later), (5, Ok(Walked::Ended)));
    // A change in front of a value is damage for this one, too.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(blob_file(&dir))
        .expect("opens");
    let at = 30 + 2 * 100_036 + 33;
    file.write_all_at(&[1], at).expect("writes");
    let (found, walked) = walk_now(&engine, later);
    let damaged = matches!(walked, Err(EngineError::Corruption(_)));
    assert!(damaged && found == 2, "{found}, {walked:?}");
    file.write_all_at(&[0], at).expect("writes");
    assert_eq!(walk_now(&engine, later), (5, Ok(Walked::Ended)));
    // What is small, or not in a file yet, would have to be copied.
    let put = |key: u32, size| {
        let mut ops = WriteOps::new();
        ops.put(Family::Log, key.to_be_bytes().to_vec(), vec![1; size]);
        engine.write(&ops).expect("writes");
    };
    put(6, 100_000);
    assert_eq!(walk_now(&engine, later), waits(5));
    engine.settle(false);
    put(3, FILE_VALUE_BYTES as usize - 1);
    engine.settle(false);
    assert_eq!(walk_at(&engine, later).1, Ok(()));
    assert_eq!(walk_now(&engine, later), waits(3));
}

#[test]
fn who_does_not_wait_is_given_a_few_hundred_values_at_once() {
    let dir = TempDir::new("blobs-many-now");
    let values = vec![vec![3; FILE_VALUE_BYTES as usize]; MOST_AT_ONCE + 1];
    let engine = filled(&dir, &values);
    let now = Duration::from_secs(1);
    assert_eq!(walk_at(&engine, now).1, Ok(()));
    let most = (MOST_AT_ONCE, Ok(Walked::Waits));
    let found = walk_now(&engine, now);
    // Where the file system does not tell what is in memory, there is none.
    assert!(
        found == most || found == (0, Ok(Walked::Waits)),
        "{found:?}"
    );
}
