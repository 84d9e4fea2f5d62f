//! A disk with bad sectors, or one that hangs: what cannot be read is told with its place by `ottla check` and the scrub,
//! which read on behind it, and a read that never returns does not keep a failed broker alive.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ottla_integration_tests::broker::{Launch, ottla};
use ottla_integration_tests::cli::json_lines;
use ottla_integration_tests::http::{metrics_when, sample};
use ottla_integration_tests::record_keeping::Ledger;
use ottla_integration_tests::shim::BadDisk;
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir, topics};
use ottla_protocol::batch::BatchBuilder;

const TOPIC: &str = "sectors";
const BATCHES: usize = 100;
/// Data that was safe on disk is missing or damaged.
const EXIT_DATA_LOST: i32 = 3;
/// The exit code of a broker whose storage failed while it served.
const EXIT_STORAGE_LOST: i32 = 4;
/// A failed broker ends within a second; and slack for a machine that does other things.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// A directory with batches in blob files; the first of these files, and the ledger.
fn filled(folder: &TempDir) -> (PathBuf, PathBuf, Ledger) {
    let mut random = fastrand::Rng::with_seed(9);
    let data = folder.path().join("data");
    let mut broker = Broker::start(&data, &[]);
    let mut wire = Wire::connect(&broker);
    let mut ledger = Ledger::create(&mut wire, TOPIC, 1);
    for _ in 0..BATCHES {
        ledger.write(&mut wire, &mut random, 0, 40_000);
    }
    // What is recovered goes to files.
    broker.kill9();
    broker.restart();
    assert_eq!(broker.sigterm().code(), Some(0));
    let entries = std::fs::read_dir(data.join("log")).expect("lists");
    let blobs = entries.map(|entry| entry.expect("entry").path());
    let first = blobs.filter(|path| path.extension().is_some_and(|end| end == "blob"));
    let first = first.min().expect("a blob file");
    (data, first, ledger)
}

fn start(data: &Path, disk: &BadDisk, properties: &[(&str, &str)]) -> Broker {
    let env = disk.env();
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    let launch = Launch {
        properties,
        env: &env,
        ..Launch::default()
    };
    Broker::launch(data, &launch)
}

#[test]
fn a_bad_sector_is_told_with_its_place_and_everything_else_is_read() {
    let folder = TempDir::new("bad-sector");
    let (data, blob, ledger) = filled(&folder);
    let disk = BadDisk::build(folder.path());
    // In the batch at offset 50, which is far from those that a start reads.
    let bytes = std::fs::metadata(&blob).expect("a file").len() as usize;
    let at = bytes / BATCHES * 50 + 20_000;
    disk.bad_sector(&blob, at..at + 512);

    let mut check = ottla()
        .args(["check", "--json", "--data"])
        .args([data.as_os_str()]);
    for (name, value) in disk.env() {
        check = check.env(name, value);
    }
    let output = check.finish();
    let lines = json_lines(&output.stdout);
    assert_eq!(output.status.code(), Some(EXIT_DATA_LOST), "{output:?}");
    let of_file = lines.iter().find(|line| line["file"].is_string());
    assert!(of_file.is_some(), "{lines:?}");
    let of_batch = lines.iter().find(|line| line["topic"] == TOPIC);
    let offset = of_batch.and_then(|line| line["offset"].as_i64());
    assert!(
        offset.is_some_and(|offset| (49..=51).contains(&offset)),
        "{lines:?}"
    );
    let sum = lines.last().expect("a sum");
    assert_eq!(sum["problems"], 2, "{lines:?}");
    assert!(sum["batches"].as_u64() >= Some(99), "read on: {sum}");

    let mut broker = start(&data, &disk, &[("log.scrub.interval.ms", "50")]);
    broker.allow_log("stored data is damaged");
    broker.allow_log("fetch failed");
    let port = broker.metrics_port().expect("a metrics listener");
    metrics_when(port, "the scrub found it and read on to the end", |page| {
        sample(page, "ottla_scrub_damages") == Some(1.0)
            && sample(page, "ottla_scrub_last_pass_timestamp_seconds") > Some(1.0)
    });
    let looked = ledger.look(&mut Wire::connect(&broker));
    assert_eq!((looked.whole, looked.refused), (BATCHES - 1, 1));
    assert!(disk.failed_reads() > 0);
}

#[test]
fn a_read_that_hangs_does_not_keep_a_broker_alive_whose_sync_failed() {
    let folder = TempDir::new("hanging-disk");
    let (data, _, _) = filled(&folder);
    let disk = BadDisk::build(folder.path());
    let mut broker = start(&data, &disk, &[("log.scrub.interval.ms", "20")]);
    broker.allow_log("storage failed, no more writes are accepted");
    let port = broker.metrics_port().expect("a metrics listener");
    let mut wire = Wire::connect(&broker);
    disk.hang_reads();
    metrics_when(port, "the scrub hangs in a read", |_| {
        disk.failed_reads() > 0
    });

    disk.fail_syncs(true);
    let batch = BatchBuilder::new(1_700_000_000_000)
        .record(1_700_000_000_000, None, Some(b"value"), &[])
        .build();
    let answer = topics::produce(&mut wire, TOPIC, 0, batch);
    assert_ne!(answer.error_code, 0, "{answer:?}");
    let ended = broker.process().wait(END_DEADLINE);
    let status = ended.unwrap_or_else(|| panic!("it runs on: {:?}", broker.log()));
    assert_eq!(status.code(), Some(EXIT_STORAGE_LOST));
    broker.kill9();
}
