//! Damage to the files of a killed broker: afterwards it gives back every acknowledged batch, or refuses to start with
//! exit code 3, or tells the client that reads a damaged batch; it never gives other bytes and never leaves one out.
//!
//! One directory is made, with batches in SST files, in blob files and in write-ahead logs, all of them acknowledged,
//! fsynced and known to the `durable` file; then each round damages a copy. `OTTLA_DAMAGES` says how many rounds (20),
//! `OTTLA_TEST_SEED` repeats them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ottla_integration_tests::broker::Launch;
use ottla_integration_tests::record_keeping::{Ledger, wait_until_proven};
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir, seed};

const TOPIC: &str = "damaged";
const PARTITIONS: i32 = 3;
/// Data that was safe on disk is missing or damaged.
const EXIT_DATA_LOST: i32 = 3;

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    Flip,
    Zeros,
    Truncation,
    Removal,
}

/// What became of a damaged directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Harmless,
    RefusedToStart,
    ToldOnRead,
}

#[test]
fn damage_is_harmless_or_said() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let rounds = std::env::var("OTTLA_DAMAGES").map_or(20, |text| text.parse().expect("a number"));
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new("damages");
    let data = folder.path().join("data");
    let ledger = filled(&data, &mut random);

    let mut outcomes: BTreeMap<(&str, Damage, Outcome), usize> = BTreeMap::new();
    for round in 0..rounds {
        let image = folder.path().join(format!("round-{round}"));
        copy(&data, &image);
        // Every kind of file in turn, so that few rounds meet them all.
        let kinds = ["WAL", "SST", "blob", "MANIFEST", "WAL", "small"];
        let kind = kinds[round % kinds.len()];
        let victims = files(&image, kind);
        let victim = random
            .choice(&victims)
            .expect("a file of each kind")
            .clone();
        let damage = harm(&victim, &mut random);
        println!("round {round}: {damage:?} of {}", victim.display());
        let outcome = outcome(&image, &ledger);
        println!("round {round}: {outcome:?}");
        *outcomes.entry((kind, damage, outcome)).or_default() += 1;
        std::fs::remove_dir_all(&image).expect("the image is ours");
    }
    for ((kind, damage, outcome), count) in &outcomes {
        println!("{kind}: {damage:?}: {outcome:?}: {count}");
    }
    let said: usize = outcomes
        .iter()
        .filter(|((_, _, outcome), _)| *outcome != Outcome::Harmless)
        .map(|(_, count)| count)
        .sum();
    assert!(said > 0, "none of the damage was any");
}

/// A directory of a killed broker, with batches in all kinds of files.
fn filled(data: &Path, random: &mut fastrand::Rng) -> Ledger {
    let mut broker = Broker::start(data, &[]);
    let mut wire = Wire::connect(&broker);
    let mut ledger = Ledger::create(&mut wire, TOPIC, PARTITIONS);
    // What is recovered goes to files of its own; the last batches stay in the write-ahead log.
    for _ in 0..3 {
        for _ in 0..60 {
            let bytes = *random.choice(&[50, 300, 2_000, 40_000]).expect("sizes");
            let partition = random.i32(0..PARTITIONS);
            ledger.write(&mut wire, random, partition, bytes);
        }
        wait_until_proven(&broker);
        broker.kill9();
        broker.restart();
        wire = Wire::connect(&broker);
    }
    for _ in 0..150 {
        let bytes = *random.choice(&[50, 300, 2_000, 40_000]).expect("sizes");
        let partition = random.i32(0..PARTITIONS);
        ledger.write(&mut wire, random, partition, bytes);
    }
    assert_eq!(ledger.look(&mut wire).whole, ledger.len());
    wait_until_proven(&broker);
    broker.kill9();
    drop(broker);
    ledger
}

fn outcome(data: &Path, ledger: &Ledger) -> Outcome {
    let mut broker = match Broker::start_or_refused(data, &Launch::default()) {
        Ok(broker) => broker,
        Err((code, said)) => {
            assert_eq!(code, Some(EXIT_DATA_LOST), "{said}");
            let complaints = said.lines().filter(|line| line.starts_with("ottla: "));
            assert_eq!(complaints.count(), 1, "{said}");
            return Outcome::RefusedToStart;
        }
    };
    // Warnings and errors are what is wanted here; panics are not.
    broker.allow_log(" WARN ");
    broker.allow_log("ERROR ");
    let looked = ledger.look(&mut Wire::connect(&broker));
    broker.kill9();
    assert!(!broker.log().iter().any(|line| line.contains("panicked")));
    if looked.refused == 0 {
        Outcome::Harmless
    } else {
        Outcome::ToldOnRead
    }
}

/// The files of a kind.
fn files(data: &Path, kind: &str) -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).expect("lists");
        let mut files: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
        files.sort();
        files
    };
    let ends = |end: &str| -> Vec<PathBuf> {
        let mut files = list(&data.join("log"));
        files.retain(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            name.ends_with(end) || name.starts_with(end)
        });
        files.retain(|path| std::fs::metadata(path).expect("a file").len() > 0);
        files
    };
    match kind {
        "WAL" => ends(".log"),
        "SST" => ends(".sst"),
        "blob" => ends(".blob"),
        "MANIFEST" => ends("MANIFEST-"),
        _ => {
            let mut files = vec![data.join("durable"), data.join("log/CURRENT")];
            files.extend(list(&data.join("meta")));
            files.retain(|path| std::fs::metadata(path).expect("a file").len() > 0);
            files
        }
    }
}

fn harm(path: &Path, random: &mut fastrand::Rng) -> Damage {
    let mut bytes = std::fs::read(path).expect("reads");
    let at = random.usize(..bytes.len());
    let damage = match random.u8(..10) {
        0..=3 => {
            bytes[at] ^= 1 << random.u8(..8);
            Damage::Flip
        }
        4..=6 => {
            // A page, or what is left of it.
            let begin = at / 4_096 * 4_096;
            let end = (begin + 4_096).min(bytes.len());
            bytes[begin..end].fill(0);
            Damage::Zeros
        }
        7..=8 => {
            bytes.truncate(at);
            Damage::Truncation
        }
        _ => {
            std::fs::remove_file(path).expect("removes");
            return Damage::Removal;
        }
    };
    std::fs::write(path, bytes).expect("writes");
    damage
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes a folder");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        let kind = entry.file_type().expect("type");
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}
