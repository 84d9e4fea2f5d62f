//! The engine over real files: what it promises beyond `conformance.rs`, and how RocksDB's errors are told apart.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::options::{RECYCLED_LOGS, smaller_blob_files};
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
fn write_ahead_logs_are_used_again() {
    let dir = TempDir::new("rocks-again");
    let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens");
    let places = || -> std::collections::BTreeSet<u64> {
        let entries = std::fs::read_dir(engine.log.path()).expect("lists");
        let logs = entries.map(|entry| entry.expect("lists"));
        let logs = logs.filter(|log| log.path().extension() == Some("log".as_ref()));
        logs.map(|log| log.metadata().expect("there").ino())
            .collect()
    };
    let mut seen = places();
    let mut newest = newest_wal(engine.log.path()).expect("lists");
    let mut again = 0;
    for index in 0..10_u32 {
        let mut ops = WriteOps::new();
        ops.put(Family::Log, index.to_be_bytes().to_vec(), vec![1; 2_000]);
        engine.write(&ops).expect("writes");
        engine.log.flush().expect("flushes");
        let next = newest_wal(engine.log.path()).expect("lists");
        assert!(next > newest, "a flush begins a new one");
        newest = next;
        let now = places();
        again += usize::from(now.is_subset(&seen));
        seen.extend(now);
    }
    assert!(again >= 5, "{again} of 10");
    assert!(seen.len() <= RECYCLED_LOGS + 3, "{} files", seen.len());
}

#[test]
fn blob_files_become_smaller_but_never_too_many() {
    let smaller = |mib: u64, store_gib: u64| smaller_blob_files(mib << 20, store_gib << 30) >> 20;
    assert_eq!([256, 32, 16, 8].map(|mib| smaller(mib, 1)), [16, 16, 8, 8]);
    assert_eq!([33, 100, 2_000].map(|gib| smaller(8, gib)), [16, 32, 256]);
}

#[test]
fn a_few_values_that_stay_do_not_pin_the_files_they_are_in() {
    let dir = TempDir::new("rocks-pinned");
    let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens");
    // One value in a hundred stays, wherever it lies.
    let stays = |index: u32| index % 100 == 7;
    let key = |index: u32| [&[u8::from(!stays(index))], &index.to_be_bytes()[..]].concat();
    for index in 0..3_000_u32 {
        let mut ops = WriteOps::new();
        ops.put(Family::Log, key(index), vec![index as u8; 20_000]);
        engine.write(&ops).expect("writes");
        if index % 500 == 499 {
            engine.log.flush().expect("flushes");
        }
    }
    let mut ops = WriteOps::new();
    ops.delete_range(Family::Log, vec![1], vec![2]);
    engine.write(&ops).expect("writes");
    engine.compact(&[1], &[2]).expect("compacts");
    let before = engine.space().expect("tells");
    assert!(before.garbage_bytes > 0, "{before:?}");
    engine.collect(u64::MAX).expect("collects");
    let after = engine.space().expect("tells");
    assert!(after.garbage_bytes < 1 << 10, "{after:?}");
    assert!((600_000..700_000).contains(&after.value_bytes), "{after:?}");
    let files = std::fs::read_dir(engine.log.path()).expect("lists");
    let files = files.map(|entry| entry.expect("lists"));
    let blobs = files.filter(|entry| entry.path().extension() == Some("blob".as_ref()));
    let sizes = blobs.map(|entry| entry.metadata().expect("is there").len());
    let bytes: u64 = sizes.sum();
    assert!(bytes < 1_000_000, "{bytes} bytes on disk");
    for index in (0..3_000).filter(|index| stays(*index)) {
        let value = engine.get(Family::Log, &key(index)).expect("gets");
        assert_eq!(value.expect("stays"), vec![index as u8; 20_000]);
    }
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
fn an_exhausted_quota_is_a_full_disk() {
    let texts = [
        "IO error: No space left on device: While appending to file: /d/log/000004.log",
        "IO error: Disk quota exceeded: While appending to file: /d/log/000004.log",
    ];
    for text in texts {
        let error = classify_text(text, ErrorKind::IOError);
        assert_eq!(error, EngineError::Full(text.to_owned()));
    }
    // Of the words above, those that the system has.
    let quota = std::io::Error::from(rustix::io::Errno::DQUOT);
    assert!(quota.to_string().starts_with("Disk quota exceeded"));
    let sector = "IO error: Input/output error: While pread";
    let error = classify_text(sector, ErrorKind::IOError);
    assert_eq!(error, EngineError::Io(sector.to_owned()));
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
    let mut seen = 0_u32;
    let scanned = engine.scan(Family::Log, Start::At(&[0; 4]), &[0xff; 4], &mut |_, _| {
        seen += 1;
        ControlFlow::Continue(())
    });
    assert!(
        matches!(scanned, Err(EngineError::Corruption(_))),
        "{scanned:?} after {seen} of 200"
    );

    // Only who comes to it meets it: what lies right behind it does not depend on it.
    let damaged = seen.to_be_bytes();
    assert!(engine.get(Family::Log, &damaged).is_err());
    let behind = [damaged.as_slice(), &[0]].concat();
    let next = (seen + 1).to_be_bytes();
    assert_eq!(engine.last(Family::Log, &behind, &next), Ok(None));
    let mut left = 0;
    let scanned = engine.scan(Family::Log, Start::At(&behind), &[0xff; 4], &mut |_, _| {
        left += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((scanned, left), (Ok(()), 199 - seen));
}

#[test]
fn what_begins_to_be_flushed_becomes_durable_without_a_sync() {
    let dir = TempDir::new("rocks-begin-flush");
    let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens");
    let mut ops = WriteOps::new();
    ops.put(Family::Log, vec![1], Bytes::from_static(b"value"));
    engine.write(&ops).expect("writes");
    let journal = engine.journal().expect("is told");
    assert!(!engine.is_flushed(journal));
    engine.begin_flush();
    assert!(
        engine.journal().expect("is told") > journal,
        "a new write buffer"
    );
    // Nothing was written since, so that this only waits for what is under way.
    engine.log.flush().expect("flushes");
    assert!(engine.is_flushed(journal));
}

#[test]
fn background_writes_are_held_back_until_somebody_waits_for_a_flush() {
    let dir = TempDir::new("rocks-pace");
    let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens");
    let rate = || {
        let mut properties = engine.properties().into_iter();
        properties.find(|(name, _)| *name == "background_rate")
    };
    let write = |bytes: usize| {
        let mut ops = WriteOps::new();
        ops.put(Family::Log, vec![1], vec![7; bytes]);
        engine.write(&ops).expect("writes");
    };
    let calm = Some(("background_rate", pace::CALM_RATE as u64));
    assert_eq!(rate(), calm);
    write(1 << 10);
    assert_eq!(rate(), calm);
    engine.begin_flush();
    assert_eq!(
        rate(),
        Some(("background_rate", options::UNLIMITED_RATE as u64))
    );
    for _ in 1..pace::HURRY_BYTES / (8 << 20) {
        write(8 << 20);
    }
    // Nothing is behind at the next look.
    engine.settle(true);
    write(8 << 20);
    assert_eq!(rate(), calm);
}
