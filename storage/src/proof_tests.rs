//! The proof against real RocksDB directories: crash images are taken while the store is open, damaged, looked at,
//! prepared and opened again. Whatever was done to them, either every synced write is there, or there is a finding;
//! and never is there a hole.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::directory::TempDir;
use crate::durable::keeper::Keeper;
use crate::engine::{Engine, Family, Start, WriteOps};
use crate::proof::{Finding, Proof};
use crate::rocks::{RocksEngine, RocksOptions};
use crate::wal::{NoteKey, writer};

mod used_again;

fn open(dir: &Path) -> RocksEngine {
    RocksEngine::open(dir, &RocksOptions::default()).expect("opens")
}

/// A store with a number of writes, each under the next key.
struct Store {
    engine: RocksEngine,
    dir: PathBuf,
    written: u32,
}

impl Store {
    fn new(dir: &Path) -> Self {
        let store = Self {
            engine: open(dir),
            dir: dir.to_owned(),
            written: 0,
        };
        // As the broker does; notes are signed from then on.
        store.prove();
        store
    }

    fn value(index: u32, bytes: usize) -> Vec<u8> {
        let pattern = |at: usize| ((at + index as usize * 7) % 255) as u8 + 1;
        (0..bytes).map(pattern).collect()
    }

    fn write(&mut self, bytes: usize) {
        let mut ops = WriteOps::new();
        let key = self.written.to_be_bytes().to_vec();
        ops.put(Family::Log, key, Self::value(self.written, bytes));
        self.engine.write(&ops).expect("writes");
        self.written += 1;
    }

    fn sync(&self) {
        self.engine.sync().expect("syncs");
    }

    /// A slot that says what is synced by now.
    fn prove(&self) {
        Keeper::start(&self.dir, self.engine.sync_point(), [7; 16])
            .expect("writes a slot")
            .stop();
    }

    /// The directory as a kill leaves it.
    fn image(&self, name: &str) -> TempDir {
        let image = TempDir::new(name);
        copy(&self.dir, image.path());
        image
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes a folder");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

/// The files of the `log` database whose names end so, in order.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("log")).expect("lists");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("entry").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().ends_with(end))
        })
        .collect();
    files.sort();
    files
}

fn manifest(dir: &Path) -> PathBuf {
    let current = std::fs::read_to_string(dir.join("log/CURRENT")).expect("reads");
    dir.join("log").join(current.trim())
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("reads");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("writes");
}

fn examine(dir: &Path) -> Proof {
    Proof::examine(dir).expect("looks")
}

/// Prepares, opens and reads: the keys, which have no hole, each with a value that was written.
fn opened(proof: &Proof, dir: &Path) -> u32 {
    proof.prepare(dir).expect("prepares");
    let again = examine(dir);
    assert!(
        again
            .findings
            .iter()
            .all(|finding| !matches!(finding, Finding::Damaged { .. })),
        "{again:?}"
    );
    let engine = open(dir);
    let mut next = 0;
    engine
        .scan(
            Family::Log,
            Start::At(&[0; 4]),
            &[0xff; 4],
            &mut |key, value| {
                assert_eq!(key, next_key(next), "a hole in {}", dir.display());
                assert_eq!(value, Store::value(next, value.len()));
                next += 1;
                ControlFlow::Continue(())
            },
        )
        .expect("scans");
    next
}

fn next_key(next: u32) -> [u8; 4] {
    next.to_be_bytes()
}

#[test]
fn a_directory_that_was_killed_or_closed_is_as_good_as_its_slot_says() {
    let dir = TempDir::new("proof-whole");
    let fresh = TempDir::new("proof-fresh");
    let proof = examine(fresh.path());
    assert_eq!(
        (proof.findings.as_slice(), proof.unproven),
        (&[][..], false)
    );

    // A first start that was cut short.
    std::fs::create_dir(fresh.path().join("log")).expect("makes a folder");
    std::fs::write(fresh.path().join("log/MANIFEST-000001"), "").expect("writes");
    assert_eq!(examine(fresh.path()).findings, []);

    let mut store = Store::new(dir.path());
    for round in 0..6 {
        for _ in 0..20 {
            store.write(3_000);
        }
        store.sync();
        if round == 3 {
            store.engine.settle(true);
        }
        store.prove();
        // Not synced yet, but written.
        store.write(10);
        let image = store.image("proof-killed");
        let proof = examine(image.path());
        assert_eq!(proof.findings, [], "round {round}");
        assert!(!proof.drop_views && !proof.unproven);
        assert_eq!(opened(&proof, image.path()), store.written);
        let proof = examine(image.path());
        assert_eq!(proof.findings, [], "opened and closed without a slot");
    }
    std::fs::remove_file(dir.path().join("durable")).expect("removes");
    assert!(examine(dir.path()).unproven);
}

#[test]
fn the_last_records_of_a_log_are_missed_when_a_slot_or_a_note_knew_them() {
    let dir = TempDir::new("proof-cut");
    let mut store = Store::new(dir.path());
    for _ in 0..50 {
        store.write(500);
        store.sync();
    }
    let early = store.image("proof-early");
    store.prove();
    let image = store.image("proof-late");
    for (dir, missed) in [(&early, false), (&image, true)] {
        let log = files(dir.path(), ".log").pop().expect("a log");
        edit(&log, |bytes| bytes.truncate(bytes.len() - 700));
        let proof = examine(dir.path());
        let lost = matches!(
            proof.findings.as_slice(),
            [Finding::Lost {
                from: 49,
                to: 50,
                ..
            }]
        );
        assert_eq!(lost, missed, "{:?}", proof.findings);
    }
    // Once accepted, the broker writes a slot of what it has, and starts like any other from then on.
    let proof = examine(image.path());
    assert!(proof.can_be_accepted());
    assert_eq!(opened(&proof, image.path()), 48);
    let store = Store::new(image.path());
    store.prove();
    drop(store);
    assert_eq!(examine(image.path()).findings, []);

    // Zeros look unwritten, but the notes behind them know better, whatever the slot says.
    let image = early;
    let log = files(image.path(), ".log").pop().expect("a log");
    edit(&log, |bytes| bytes[4_096..8_192].fill(0));
    let proof = examine(image.path());
    let [Finding::Lost { from, to, .. }] = proof.findings[..] else {
        panic!("{:?}", proof.findings)
    };
    assert!(from < 10 && to > 40, "{from} to {to}");
    assert_eq!(opened(&proof, image.path()), from as u32 - 1);
    assert_eq!(files(image.path(), ".cut").len(), 1, "kept beside");
}

#[test]
fn a_hole_that_nobody_knew_to_be_synced_is_cut_off_without_a_word() {
    let dir = TempDir::new("proof-hole");
    let mut store = Store::new(dir.path());
    for _ in 0..4 {
        store.write(500);
    }
    store.sync();
    store.prove();
    for _ in 0..400 {
        store.write(500);
    }
    // A block that never reached the disk, with a record's beginning at its end: RocksDB would go on behind it.
    for (from, to) in [(65_024, 65_536), (40_960, 45_056), (32_768, 65_536)] {
        let image = store.image("proof-hole-image");
        let log = files(image.path(), ".log").pop().expect("a log");
        edit(&log, |bytes| bytes[from..to].fill(0));
        let proof = examine(image.path());
        assert_eq!(proof.findings, []);
        let left = opened(&proof, image.path());
        assert!((4..404).contains(&left), "{left} left");
        assert!(files(image.path(), ".cut").is_empty());
        // Bits that changed are no power cut.
        let image = store.image("proof-flip-image");
        let log = files(image.path(), ".log").pop().expect("a log");
        edit(&log, |bytes| bytes[from + 300] ^= 1);
        let proof = examine(image.path());
        assert!(
            matches!(proof.findings.as_slice(), [Finding::Damaged { .. }]),
            "{:?}",
            proof.findings
        );
    }
}

#[test]
fn gone_files_are_missed() {
    let dir = TempDir::new("proof-gone");
    let mut store = Store::new(dir.path());
    for _ in 0..10 {
        store.write(5_000);
    }
    store.sync();
    store.prove();
    store.engine.settle(false);
    for _ in 0..10 {
        store.write(5_000);
    }
    store.sync();
    let behind = store.image("proof-manifest-behind");
    store.prove();
    let findings = |damage: &dyn Fn(&Path)| {
        let image = store.image("proof-gone-image");
        damage(image.path());
        examine(image.path())
    };
    let log = |dir: &Path| files(dir, ".log").pop().expect("a log");

    let proof = findings(&|dir| std::fs::remove_file(log(dir)).expect("removes"));
    assert!(
        matches!(
            &proof.findings[..],
            [Finding::MissingLog { .. }, Finding::Lost { .. }]
        ),
        "{:?}",
        proof.findings
    );
    let proof = findings(&|dir| std::fs::remove_file(dir.join("log/CURRENT")).expect("removes"));
    assert!(matches!(&proof.findings[..], [Finding::NoCurrent { .. }]));
    assert!(
        !proof.can_be_accepted(),
        "RocksDB would make a new database"
    );
    for text in [
        "",
        "MANIFEST-000001",
        "MANIFEST-999999\n",
        "\u{1}ANIFEST-000001\n",
    ] {
        let proof = findings(&|dir| std::fs::write(dir.join("log/CURRENT"), text).expect("writes"));
        assert!(
            matches!(&proof.findings[..], [Finding::NoCurrent { .. }]),
            "{text:?}"
        );
    }
    let proof = findings(&|dir| std::fs::remove_dir_all(dir.join("log")).expect("removes"));
    assert_eq!(proof.findings, [Finding::Gone { folder: "log" }]);
    // RocksDB takes a manifest that ends early for an older one, and removes the files that it does not name.
    let cut = |dir: &Path| edit(&manifest(dir), |bytes| bytes.truncate(bytes.len() - 20));
    let proof = findings(&cut);
    assert!(
        matches!(proof.findings[0], Finding::Manifest { .. }),
        "{:?}",
        proof.findings
    );
    let proof = findings(&|dir| edit(&manifest(dir), |bytes| bytes[40] ^= 1));
    assert!(
        matches!(proof.findings[0], Finding::Manifest { .. }),
        "{:?}",
        proof.findings
    );
    // A slot from before the flush still knows the log that the older manifest needs; RocksDB keeps it to use it again.
    cut(behind.path());
    assert_eq!(examine(behind.path()).findings, []);
    let oldest = files(behind.path(), ".log").swap_remove(0);
    std::fs::remove_file(oldest).expect("removes");
    let proof = examine(behind.path());
    assert!(
        matches!(proof.findings[0], Finding::MissingLog { .. }),
        "{:?}",
        proof.findings
    );
    // Both slots damaged.
    let proof = findings(&|dir| {
        edit(&dir.join("durable"), |bytes| {
            bytes[100] ^= 1;
            bytes[4_196] ^= 1;
        });
    });
    assert_eq!(proof.findings, [Finding::NoProof]);
    // Nor does the broker leave zeros there once anything was written.
    let proof = findings(&|dir| edit(&dir.join("durable"), |bytes| bytes.fill(0)));
    assert_eq!(proof.findings, [Finding::NoProof]);
    let fresh = TempDir::new("proof-blank");
    drop(open(fresh.path()));
    std::fs::write(fresh.path().join("durable"), [0; 5_120]).expect("writes");
    assert_eq!(
        examine(fresh.path()).findings,
        [],
        "a first start cut short"
    );
}

/// What a client may send: records of a write-ahead log, with everything but the key, as close together as they get.
fn forged(bytes: usize) -> Vec<u8> {
    let mut forged = Vec::new();
    let key = NoteKey::new([8; 16]).expect("not zeros");
    while forged.len() < bytes {
        // Far ahead of all that is there, and without a byte that is zero behind it.
        let record = writer::batch(u64::MAX, 1, Some(key.note(u64::MAX - 1)), 40);
        writer::append(&mut forged, &record, None);
    }
    forged
}

#[test]
fn what_a_client_sends_never_passes_for_what_was_synced() {
    let dir = TempDir::new("proof-forged");
    let mut store = Store::new(dir.path());
    for _ in 0..3 {
        store.write(500);
        store.sync();
    }
    store.prove();
    let log = |dir: &Path| files(dir, ".log").pop().expect("a log");
    let whole = std::fs::read(log(dir.path())).expect("reads").len();
    let mut ops = WriteOps::new();
    ops.put(Family::Log, next_key(3).to_vec(), forged(1_500));
    store.engine.write(&ops).expect("writes");
    let image = store.image("proof-forged-image");
    let bytes = std::fs::read(log(image.path())).expect("reads");
    assert!(bytes.len() > whole + 1_500);
    // Killed in the middle of writing it: usual, and nothing is missing.
    for cut in whole..bytes.len() {
        std::fs::write(log(image.path()), &bytes[..cut]).expect("writes");
        assert_eq!(examine(image.path()).findings, [], "cut at {cut}");
    }
    std::fs::write(log(image.path()), &bytes[..whole + 1_000]).expect("writes");
    assert_eq!(opened(&examine(image.path()), image.path()), 3);

    // A length that changed is found by what lies behind it and is signed.
    let image = store.image("proof-length-image");
    edit(&log(image.path()), |bytes| bytes[5] |= 0x40);
    let proof = examine(image.path());
    assert!(
        matches!(proof.findings.as_slice(), [Finding::Lost { to: 3, .. }]),
        "{:?}",
        proof.findings
    );
}

#[test]
fn views_in_doubt_are_dropped_and_others_stay() {
    let dir = TempDir::new("proof-views");
    let mut store = Store::new(dir.path());
    store.write(10);
    store.sync();
    for index in 0..300_u32 {
        let mut ops = WriteOps::new();
        ops.put(
            Family::Offsets,
            index.to_be_bytes().to_vec(),
            Store::value(index, 500),
        );
        store.engine.write(&ops).expect("writes");
    }
    store.prove();
    let log = |dir: &Path| {
        let mut logs: Vec<_> = std::fs::read_dir(dir.join("meta"))
            .expect("lists")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .collect();
        logs.sort();
        logs.pop().expect("a log")
    };
    let whole = store.image("proof-views-whole");
    assert!(!examine(whole.path()).drop_views);
    let short = store.image("proof-views-short");
    edit(&log(short.path()), |bytes| bytes.truncate(bytes.len() / 2));
    assert!(
        !examine(short.path()).drop_views,
        "behind is rolled forward"
    );
    let hole = store.image("proof-views-hole");
    edit(&log(hole.path()), |bytes| bytes[40_960..45_056].fill(0));
    let proof = examine(hole.path());
    assert!(proof.drop_views && proof.findings.is_empty());
    assert_eq!(opened(&proof, hole.path()), 1);
    let engine = open(hole.path());
    assert_eq!(engine.get(Family::Offsets, &[0; 4]).expect("reads"), None);
    let gone = store.image("proof-views-gone");
    std::fs::remove_file(gone.path().join("meta/CURRENT")).expect("removes");
    assert!(examine(gone.path()).drop_views);
}

#[test]
fn random_damage_to_logs_and_manifests_loses_nothing_without_a_finding() {
    let first = 40;
    println!("seeds {first}..{}", first + 120);
    let dir = TempDir::new("proof-random");
    let mut rng = fastrand::Rng::with_seed(first);
    let mut store = Store::new(dir.path());
    for index in 0..120 {
        store.write(rng.usize(..6_000));
        store.sync();
        if index == 50 {
            store.engine.settle(false);
        }
    }
    store.prove();
    let (mut found, mut harmless) = (0, 0);
    for seed in first..first + 120 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let image = store.image("proof-random-image");
        let mut victims = files(image.path(), ".log");
        victims.push(manifest(image.path()));
        let victim = rng.choice(&victims).expect("not empty").clone();
        edit(&victim, |bytes| damage(bytes, &mut rng));
        let proof = examine(image.path());
        if proof.findings.is_empty() {
            harmless += 1;
            assert_eq!(
                opened(&proof, image.path()),
                120,
                "seed {seed}: {}",
                victim.display()
            );
        } else {
            found += 1;
        }
    }
    println!("{found} found, {harmless} harmless");
    assert!(found > 60, "the damage is damage");
}

fn damage(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.usize(..bytes.len());
    match rng.u8(..3) {
        0 => bytes[at] ^= 1 << rng.u8(..8),
        1 => {
            let end = (at + 4_096).min(bytes.len());
            bytes[at..end].fill(0);
        }
        _ => bytes.truncate(at),
    }
}
