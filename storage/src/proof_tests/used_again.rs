//! Logs whose files were used before: what is left there of earlier lives is no damage, hides none, and whatever a client
//! once sent is never taken for RocksDB's.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::backup::live;
use crate::directory::IDENTITY_FILE;
use crate::durable::keeper::sign;
use crate::wal::masked;

/// A store with small write buffers, whose newest log is an older one's file that is used again.
fn with_a_log_that_is_used_again(dir: &Path, random: &mut fastrand::Rng) -> Store {
    let options = RocksOptions {
        write_buffers_bytes: 1 << 20,
        ..RocksOptions::default()
    };
    let mut store = Store {
        engine: RocksEngine::open(dir, &options).expect("opens"),
        dir: dir.to_owned(),
        written: 0,
    };
    store.prove();
    let places = |dir: &Path| -> Vec<(u64, PathBuf)> {
        let place = |path: &PathBuf| std::fs::metadata(path).expect("there").ino();
        let logs = files(dir, ".log").into_iter();
        logs.map(|path| (place(&path), path)).collect()
    };
    let mut first = Vec::new();
    while store.written < 5_000 {
        for _ in 0..10 {
            store.write(random.usize(..6_000));
        }
        store.sync();
        if store.written == 600 {
            store.engine.settle(false);
            first = places(dir);
        }
        let now = places(dir);
        let (place, newest) = now.last().expect("a log");
        let named_else = |(old, path): &(u64, PathBuf)| old == place && path != newest;
        if !first.iter().any(named_else) {
            continue;
        }
        for _ in 0..12 {
            store.write(random.usize(..6_000));
            store.sync();
        }
        // Some of its own records, and much of the older ones behind them.
        let is_newest = files(dir, ".log").last() == Some(newest);
        if is_newest && std::fs::metadata(newest).expect("there").len() > 200_000 {
            return store;
        }
    }
    panic!("no log was used again");
}

#[test]
fn damage_to_logs_that_are_used_again_loses_nothing_without_a_finding() {
    let first = 900;
    println!("seeds {first}..{}", first + 150);
    let dir = TempDir::new("proof-again");
    let mut rng = fastrand::Rng::with_seed(first);
    let store = with_a_log_that_is_used_again(dir.path(), &mut rng);
    store.prove();
    let whole = store.image("proof-again-whole");
    let proof = examine(whole.path());
    assert_eq!(
        proof.findings,
        [],
        "what is left of earlier ones is no damage"
    );
    assert_eq!(opened(&proof, whole.path()), store.written);
    let (mut found, mut harmless) = (0, 0);
    for seed in first..first + 150 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let image = store.image("proof-again-image");
        let newest = files(image.path(), ".log").pop().expect("a log");
        edit(&newest, |bytes| damage(bytes, &mut rng));
        let proof = examine(image.path());
        if proof.findings.is_empty() {
            harmless += 1;
            assert_eq!(opened(&proof, image.path()), store.written, "seed {seed}");
        } else {
            found += 1;
        }
    }
    println!("{found} found, {harmless} harmless");
    assert!(
        found > 10 && harmless > 10,
        "both its own records and older ones are hit"
    );
}

/// Where a log ends there may be what a client once sent, made to look like the next record.
#[test]
fn what_a_client_sent_once_never_becomes_a_record() {
    let dir = TempDir::new("proof-next");
    let mut store = Store::new(dir.path());
    for _ in 0..5 {
        store.write(500);
        store.sync();
    }
    store.prove();
    let forge = |note: Option<[u8; 16]>| {
        let image = store.image("proof-next-image");
        let log = files(image.path(), ".log").pop().expect("a log");
        let number: u64 = log
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .parse()
            .expect("a number");
        // One put under the next key, with the sequence number that comes next.
        let mut record = writer::batch(6, 1, note, 0);
        record.extend_from_slice(&[1, 4]);
        record.extend_from_slice(&next_key(5));
        record.push(10);
        record.extend_from_slice(&Store::value(5, 10));
        edit(&log, |bytes| writer::append(bytes, &record, Some(number)));
        image
    };
    let key = |byte| NoteKey::new([byte; 16]).expect("not zeros");
    for note in [None, Some(key(8).note(5))] {
        let image = forge(note);
        let proof = examine(image.path());
        assert_eq!(proof.findings, []);
        assert_eq!(opened(&proof, image.path()), 5, "it is none of ours");
    }
    // RocksDB would have taken it, and so it does when it is signed.
    let image = forge(Some(key(7).note(5)));
    assert_eq!(opened(&examine(image.path()), image.path()), 6);
}

fn key() -> NoteKey {
    NoteKey::new([7; 16]).expect("not zeros")
}

/// Twenty synced writes, known to the slot.
fn proven(dir: &Path) -> Store {
    let mut store = Store::new(dir);
    for _ in 0..20 {
        store.write(500);
        store.sync();
    }
    store.prove();
    store
}

fn newest(dir: &Path) -> PathBuf {
    files(dir, ".log").pop().expect("a log")
}

fn number(log: &Path) -> u64 {
    let name = log.file_stem().expect("a name").to_string_lossy();
    name.parse().expect("a number")
}

fn next_log(dir: &Path) -> PathBuf {
    let next = number(&newest(dir)) + 1;
    dir.join("log").join(format!("{next:06}.log"))
}

/// Starts twice, with writes in between; both find everything.
fn starts_twice(dir: &Path, whole: u32) {
    let first = examine(dir);
    assert_eq!(first.findings, []);
    assert_eq!(opened(&first, dir), whole);
    let engine = open(dir);
    sign(dir, &engine.sync_point(), [9; 16]).expect("signs");
    engine.sync().expect("syncs");
    let mut store = Store {
        engine,
        dir: dir.to_owned(),
        written: whole,
    };
    store.prove();
    for _ in 0..10 {
        store.write(100);
        store.sync();
    }
    store.prove();
    let killed = store.image("proof-second");
    let second = examine(killed.path());
    assert_eq!(second.findings, []);
    assert_eq!(opened(&second, killed.path()), whole + 10);
}

/// A write as the store makes it, of the next key.
fn put(sequence: u64, index: u32, note: Option<[u8; 16]>) -> Vec<u8> {
    let mut record = writer::batch(sequence, 1, note, 0);
    record.extend_from_slice(&[1, 4]);
    record.extend_from_slice(&next_key(index));
    record.push(10);
    record.extend_from_slice(&Store::value(index, 10));
    record
}

#[test]
fn a_log_that_has_no_record_of_its_own_yet_is_an_empty_one() {
    let dir = TempDir::new("proof-renamed");
    let store = proven(dir.path());
    let image = store.image("proof-renamed-image");
    std::fs::copy(newest(image.path()), next_log(image.path())).expect("copies");
    starts_twice(image.path(), 20);

    let image = store.image("proof-torn-image");
    let next = next_log(image.path());
    let mut bytes = Vec::new();
    let record = writer::batch(21, 1, Some(key().note(20)), 5_000);
    writer::append(&mut bytes, &record, Some(number(&next)));
    std::fs::write(&next, &bytes[..4_096]).expect("writes");
    starts_twice(image.path(), 20);
}

#[test]
fn what_an_earlier_release_left_torn_is_cut_as_well() {
    let dir = TempDir::new("proof-earlier");
    let store = proven(dir.path());
    let image = store.image("proof-earlier-image");
    let mut bytes = Vec::new();
    writer::append(&mut bytes, &put(21, 20, Some(key().note(20))), None);
    let whole = bytes.len();
    let torn = writer::batch(22, 1, Some(key().note(20)), 900);
    writer::append(&mut bytes, &torn, None);
    std::fs::write(next_log(image.path()), &bytes[..whole + 300]).expect("writes");
    starts_twice(image.path(), 21);
}

/// A fragment with the shorter header, which names no file: all that a client needs is a checksum.
fn short(kind: u8, payload: &[u8]) -> Vec<u8> {
    let checked = [&[kind], payload].concat();
    let checksum = masked(crc32c::crc32c(&checked)).to_le_bytes();
    let length = (payload.len() as u16).to_le_bytes();
    [&checksum[..], &length, &checked].concat()
}

#[test]
fn fragments_that_a_client_sent_once_refuse_no_start() {
    let dir = TempDir::new("proof-short");
    let store = proven(dir.path());
    for (kind, payload) in [
        (3, &b""[..]),
        (4, b""),
        (1, b"x"),
        (2, b"x"),
        (130, b""),
        (10, b""),
    ] {
        let image = store.image("proof-short-image");
        edit(&newest(image.path()), |bytes| {
            for _ in 0..20 {
                bytes.extend_from_slice(&short(kind, payload));
            }
            bytes.extend_from_slice(&short(1, &[5; 40]));
        });
        println!("type {kind}");
        starts_twice(image.path(), 20);
    }
}

#[test]
fn a_hole_at_the_beginning_of_the_only_log_is_usual_where_all_that_was_synced_is_in_tables() {
    let dir = TempDir::new("proof-first-page");
    let mut store = proven(dir.path());
    store.engine.settle(false);
    store.sync();
    store.prove();
    for _ in 0..40 {
        store.write(500);
    }
    let image = store.image("proof-first-page-image");
    edit(&newest(image.path()), |bytes| bytes[..4_096].fill(0));
    starts_twice(image.path(), 20);
    // What was synced since is missed all the same.
    store.sync();
    store.prove();
    let image = store.image("proof-first-page-lost");
    edit(&newest(image.path()), |bytes| bytes[..4_096].fill(0));
    let findings = examine(image.path()).findings;
    assert!(
        matches!(
            findings.as_slice(),
            [Finding::Lost {
                from: 21,
                to: 60,
                ..
            }]
        ),
        "{findings:?}"
    );
}

#[test]
fn a_copy_that_has_no_key_has_no_log_either() {
    let dir = TempDir::new("proof-copied");
    let store = proven(dir.path());
    let plain = TempDir::new("proof-copied-plain");
    store.engine.checkpoint(plain.path()).expect("copies");
    assert!(!files(plain.path(), ".log").is_empty(), "RocksDB's copy");
    std::fs::write(dir.path().join(IDENTITY_FILE), "a name").expect("writes");
    let copy = TempDir::new("proof-copied-target");
    live(&store.engine, dir.path(), copy.path()).expect("copies");
    assert_eq!(files(copy.path(), ".log"), [] as [PathBuf; 0]);
    starts_twice(copy.path(), 20);
}

/// What lies behind a hole counts only if it is ours, also where it fits what is missing.
#[test]
fn a_forged_record_in_a_later_log_hides_no_loss() {
    let dir = TempDir::new("proof-later");
    let store = proven(dir.path());
    let image = store.image("proof-later-image");
    let (log, next) = (newest(image.path()), next_log(image.path()));
    let note = Some(key().note(22));
    let mut bytes = Vec::new();
    // 21 and 22 were synced and are missing: the log after them says so.
    for (sequence, note) in [(23, note), (21, None)] {
        let record = put(sequence, sequence as u32 - 1, note);
        writer::append(&mut bytes, &record, Some(number(&next)));
    }
    std::fs::write(&next, bytes).expect("writes");
    edit(&log, |bytes| bytes.extend_from_slice(&[9; 100]));
    let findings = examine(image.path()).findings;
    assert!(
        matches!(
            findings.as_slice(),
            [Finding::Lost {
                from: 21,
                to: 22,
                ..
            }]
        ),
        "{findings:?}"
    );
}
