//! `ottla backup`, `ottla check` and the scrub: a copy made under load serves everything that was acknowledged before it
//! began; what is damaged is found by both readers, with topic, partition and offset.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ottla_integration_tests::broker::ottla;
use ottla_integration_tests::cli::json_lines;
use ottla_integration_tests::http::{get, metrics_when, sample};
use ottla_integration_tests::record_keeping::{Ledger, leader_epochs};
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, Run, TempDir, seed};
use serde_json::Value;

const TOPIC: &str = "copied";
/// Data that was safe on disk is missing or damaged.
const EXIT_DATA_LOST: i32 = 3;

fn backup(data: &Path, target: &Path) -> Run {
    ottla()
        .args(["backup".as_ref(), target.as_os_str()])
        .args(["--data".as_ref(), data.as_os_str()])
}

fn check(data: &Path) -> Run {
    ottla().args(["check".as_ref(), "--data".as_ref(), data.as_os_str()])
}

/// The lines of `ottla check --json` and its exit code.
fn checked(data: &Path) -> (Vec<Value>, Option<i32>) {
    let output = check(data).args(["--json"]).finish();
    (json_lines(&output.stdout), output.status.code())
}

#[test]
fn a_copy_made_under_load_serves_what_was_acknowledged_before_it_began() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new("backup");
    // A path longer than the name of a socket may be.
    let data = folder.path().join("d".repeat(120));
    let broker = Broker::start(&data, &[]);
    let mut wire = Wire::connect(&broker);
    let mut ledger = Ledger::create(&mut wire, TOPIC, 2);
    let mut copies = Vec::new();
    for round in 0..3 {
        for index in 0..50 {
            let bytes = 1 << random.u32(5..15);
            ledger.write(&mut wire, &mut random, index % 2, bytes);
        }
        let before = ledger.clone();
        let copy = folder.path().join(format!("copy-{round}"));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let mut wire = Wire::connect(&broker);
                let mut random = fastrand::Rng::with_seed(seed ^ round);
                let mut written = 0;
                while !done.load(Ordering::Relaxed) || written == 0 {
                    ledger.write(&mut wire, &mut random, 0, 20_000);
                    written += 1;
                }
                written
            });
            let output = backup(&data, &copy).succeed();
            done.store(true, Ordering::Relaxed);
            let written = load.join().expect("the load ran");
            println!("{written} batches meanwhile; {}", output.stdout.trim_end());
        });
        copies.push((copy, before));
    }
    assert_eq!(ledger.look(&mut wire).whole, ledger.len());
    for (copy, before) in &copies {
        let (lines, code) = checked(copy);
        assert_eq!(code, Some(0), "{lines:?}");
        let mut restored = Broker::start(copy, &[]);
        let mut wire = Wire::connect(&restored);
        let looked = before.look(&mut wire);
        assert_eq!((looked.whole, looked.refused), (before.len(), 0));
        assert_eq!(
            leader_epochs(&mut wire, TOPIC),
            [1, 1],
            "offsets may be missing"
        );
        assert_eq!(restored.sigterm().code(), Some(0));
    }
    // The original never noticed.
    assert_eq!(ledger.look(&mut wire).whole, ledger.len());
}

#[test]
fn a_directory_at_rest_is_copied_as_it_is_and_bad_targets_are_refused() {
    let mut random = fastrand::Rng::with_seed(5);
    let folder = TempDir::new("backup-rest");
    let data = folder.path().join("data");
    let mut broker = Broker::start(&data, &[]);
    let mut wire = Wire::connect(&broker);
    let mut ledger = Ledger::create(&mut wire, TOPIC, 1);
    for _ in 0..30 {
        ledger.write(&mut wire, &mut random, 0, 3_000);
    }
    let socket = data.join("control.sock");
    let mode = std::fs::metadata(&socket)
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "for its owner only");
    let refused = |target: &Path, said: &str| {
        let output = backup(&data, target).finish();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stderr.contains(said), "{output:?}");
    };
    broker.allow_log("a backup failed");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&data, &link).expect("links");
    // The same answers from a broker and without one.
    for running in [true, false] {
        if !running {
            broker.kill9();
        }
        refused(&data.join("inside"), "lies in the data directory");
        refused(&link.join("inside"), "lies in the data directory");
        refused(folder.path(), "is not empty");
        assert!(!data.join("inside").exists());
    }
    let copy = folder.path().join("copy");
    // Written as people write paths.
    let aside = data.parent().expect("a folder").join("data/../copy");
    backup(&data, &aside).succeed();
    let restored = Broker::start(&copy, &[]);
    assert_eq!(ledger.look(&mut Wire::connect(&restored)).whole, 30);
    drop(restored);
    assert!(socket.exists(), "left by the kill");
    broker.restart();
    assert_eq!(ledger.look(&mut Wire::connect(&broker)).whole, 30);
    backup(&data, &data.join("../another")).succeed();
    assert_eq!(broker.sigterm().code(), Some(0));
    assert!(!socket.exists());
    let output = backup(&folder.path().join("nothing"), &folder.path().join("x")).finish();
    assert!(output.stderr.contains("no data directory"), "{output:?}");
}

#[test]
fn a_broker_serves_where_no_control_socket_can_be_made() {
    let folder = TempDir::new("no-control-socket");
    let data = folder.path().join("data");
    // In the way of the socket, as a file system without sockets is.
    std::fs::create_dir_all(data.join("control.sock.new")).expect("a folder");
    let mut broker = Broker::start(&data, &[]);
    broker.allow_log("there is no control socket");
    let mut ledger = Ledger::create(&mut Wire::connect(&broker), TOPIC, 1);
    let mut random = fastrand::Rng::with_seed(5);
    ledger.write(&mut Wire::connect(&broker), &mut random, 0, 100);
    let output = backup(&data, &folder.path().join("copy")).finish();
    assert!(
        output.stderr.contains("control socket does not answer"),
        "{output:?}"
    );
    assert_eq!(broker.sigterm().code(), Some(0));
}

/// A directory with batches in blob files, and the offset of one of them that is damaged.
fn damaged(folder: &TempDir) -> (PathBuf, Ledger) {
    let mut random = fastrand::Rng::with_seed(9);
    let data = folder.path().join("data");
    let mut broker = Broker::start(&data, &[]);
    let mut wire = Wire::connect(&broker);
    let mut ledger = Ledger::create(&mut wire, TOPIC, 1);
    for _ in 0..100 {
        ledger.write(&mut wire, &mut random, 0, 40_000);
    }
    // What is recovered goes to files.
    broker.kill9();
    broker.restart();
    assert_eq!(broker.sigterm().code(), Some(0));
    drop(broker);
    let (lines, code) = checked(&data);
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(lines[0]["batches"].as_u64() >= Some(100), "{lines:?}");
    let entries = std::fs::read_dir(data.join("log")).expect("lists");
    let mut blobs: Vec<_> = entries
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "blob"))
        .collect();
    blobs.sort();
    let blob = blobs.first().expect("a blob file");
    let mut bytes = std::fs::read(blob).expect("reads");
    // In the middle of the batch at offset 50, which is far from those that a start reads.
    let at = bytes.len() / 100 * 50 + 20_000;
    bytes[at] ^= 4;
    std::fs::write(blob, bytes).expect("writes");
    (data, ledger)
}

#[test]
fn damage_is_found_by_the_check_with_its_place() {
    let folder = TempDir::new("check");
    let (data, _) = damaged(&folder);
    let (lines, code) = checked(&data);
    assert_eq!(code, Some(EXIT_DATA_LOST), "{lines:?}");
    let of_file = lines.iter().find(|line| line["file"].is_string());
    assert!(of_file.is_some(), "{lines:?}");
    let of_batch = lines
        .iter()
        .find(|line| line["topic"] == TOPIC)
        .expect("the batch");
    assert_eq!(of_batch["partition"], 0);
    let offset = of_batch["offset"].as_i64().expect("an offset");
    assert!((49..=51).contains(&offset), "{of_batch}");
    assert_eq!(lines.last().expect("a sum")["problems"], 2);
    let output = check(&data).finish();
    assert!(
        output
            .stdout
            .contains(&format!("damaged: {TOPIC}-0: offsets from {offset}"))
    );
    assert!(output.stderr.contains("100 % of "), "progress: {output:?}");
    // Only a directory that nobody runs on can be looked at.
    let other = folder.path().join("other");
    let broker = Broker::start(&other, &[]);
    let output = check(&other).finish();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr.contains("in use"), "{output:?}");
    drop(broker);
}

#[test]
fn damage_is_found_by_the_scrub_and_everything_else_is_served() {
    let folder = TempDir::new("scrub");
    let (data, ledger) = damaged(&folder);
    let mut broker = Broker::start(&data, &[("log.scrub.interval.ms", "50")]);
    broker.allow_log("stored data is damaged");
    broker.allow_log("fetch failed");
    let port = broker.metrics_port().expect("a metrics listener");
    let page = metrics_when(port, "the scrub found it", |page| {
        sample(page, "ottla_scrub_damages") == Some(1.0)
            && sample(page, "ottla_scrub_last_pass_timestamp_seconds") > Some(1.0)
    });
    assert!(sample(&page, "ottla_scrub_bytes_total") > Some(3_000_000.0));
    let found = broker
        .process()
        .stderr
        .wait_for_line(std::time::Duration::from_secs(20), |line| {
            line.contains("stored data is damaged")
                .then(|| line.to_owned())
        });
    let line = found.expect("an error line");
    assert!(
        line.contains("copied-0") && line.contains("offsets from"),
        "{line}"
    );
    assert_eq!(get(port, "/readyz").0, 200, "everything else is served");
    let looked = ledger.look(&mut Wire::connect(&broker));
    assert_eq!((looked.whole, looked.refused), (99, 1));
}
