//! What was safe on disk and is gone: the broker refuses to start with exit code 3 and changes nothing, until the loss
//! is accepted, once; and clients can tell, because every start that may have lost something raises the leader epochs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ottla_integration_tests::broker::Launch;
use ottla_integration_tests::record_keeping::{Ledger, leader_epochs, wait_until_proven};
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir, seed};
use ottla_storage::durable::{self, Found};

const TOPIC: &str = "kept";
const EXIT_DATA_LOST: i32 = 3;
const ACCEPT: Launch<'_> = Launch {
    properties: &[],
    args: &["--accept-loss"],
    env: &[],
};

/// The files of a data directory with what is in them.
fn content(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut content = BTreeMap::new();
    for folder in [data.to_owned(), data.join("log"), data.join("meta")] {
        for entry in std::fs::read_dir(folder).expect("lists") {
            let path = entry.expect("entry").path();
            if path.is_file() {
                let bytes = std::fs::read(&path).expect("reads");
                content.insert(path, bytes);
            }
        }
    }
    content
}

fn newest_log(data: &Path) -> PathBuf {
    let entries = std::fs::read_dir(data.join("log")).expect("lists");
    let paths = entries.map(|entry| entry.expect("entry").path());
    let logs = paths.filter(|path| path.extension().is_some_and(|end| end == "log"));
    logs.max().expect("a write-ahead log")
}

fn slot(data: &Path) -> durable::Slot {
    match durable::read(data).expect("reads") {
        Found::Slot(slot) => slot,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_loss_is_refused_until_it_is_accepted_and_leader_epochs_tell_of_it() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new("loss");
    let data = folder.path().join("data");
    let mut broker = Broker::start(&data, &[]);
    let mut wire = Wire::connect(&broker);
    let mut ledger = Ledger::create(&mut wire, TOPIC, 2);
    for index in 0..40 {
        ledger.write(&mut wire, &mut random, index % 2, 300);
    }
    assert_eq!(leader_epochs(&mut wire, TOPIC), [0, 0]);
    wait_until_proven(&broker);
    broker.kill9();

    // The last two batches go; the slot knew them.
    let log = newest_log(&data);
    let bytes = std::fs::read(&log).expect("reads");
    std::fs::write(&log, &bytes[..bytes.len() - 700]).expect("writes");
    let before = content(&data);
    let refused = |launch: &Launch<'_>| match Broker::start_or_refused(&data, launch) {
        Ok(_) => panic!("it started"),
        Err((code, said)) => {
            assert_eq!(code, Some(EXIT_DATA_LOST), "{said}");
            said
        }
    };
    let said = refused(&Launch::default());
    let name = log
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    for part in [name.as_str(), "--accept-loss", "synced writes"] {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
    assert_eq!(content(&data), before, "something changed");

    // Accepted, it serves what is left, and says what it went on without.
    let Ok(mut broker) = Broker::start_or_refused(&data, &ACCEPT) else {
        panic!("the loss was accepted")
    };
    broker.allow_log("a loss is accepted");
    broker.allow_log("the log has a hole");
    assert!(broker.log().iter().any(|line| line.contains(&name)));
    let mut wire = Wire::connect(&broker);
    assert_eq!(leader_epochs(&mut wire, TOPIC), [1, 1]);
    ledger.forget_last(2);
    assert_eq!(ledger.look(&mut wire).whole, 38);
    ledger.write(&mut wire, &mut random, 0, 300);
    assert_eq!(broker.sigterm().code(), Some(0));
    drop(broker);

    // Once is enough, and a clean stop loses nothing that epochs would have to tell.
    let mut broker = Broker::start(&data, &[]);
    let mut wire = Wire::connect(&broker);
    assert_eq!(leader_epochs(&mut wire, TOPIC), [1, 1]);
    assert_eq!(ledger.look(&mut wire).whole, 39);
    broker.kill9();
    broker.restart();
    let mut wire = Wire::connect(&broker);
    assert_eq!(leader_epochs(&mut wire, TOPIC), [2, 2], "killed");
    assert_eq!(ledger.look(&mut wire).whole, 39);

    // What cannot be accepted is refused all the same: RocksDB would begin from nothing.
    assert_eq!(broker.sigterm().code(), Some(0));
    std::fs::remove_file(data.join("log/CURRENT")).expect("removes");
    let said = refused(&ACCEPT);
    assert!(said.contains("log/CURRENT"), "{said:?}");
    assert!(!said.contains("--accept-loss"), "{said:?}");
}

#[test]
fn the_durable_file_follows_the_syncs_and_a_stop_leaves_it_complete() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new("slots");
    let data = folder.path().join("data");
    let mut broker = Broker::start(&data, &[]);
    let mut wire = Wire::connect(&broker);
    let mut ledger = Ledger::create(&mut wire, TOPIC, 1);
    let mut before = slot(&data);
    for _ in 0..5 {
        ledger.write(&mut wire, &mut random, 0, 100);
        // No more traffic: the slot comes all the same.
        wait_until_proven(&broker);
        let now = slot(&data);
        assert!(now.sequence > before.sequence && now.generation > before.generation);
        assert_eq!(now.logs.len(), 1, "the log that holds it");
        before = now;
    }
    for _ in 0..100 {
        ledger.write(&mut wire, &mut random, 0, 100);
    }
    assert_eq!(broker.sigterm().code(), Some(0));
    let last = slot(&data);
    assert!(
        last.sequence >= before.sequence + 100,
        "all of them at the stop"
    );
}
