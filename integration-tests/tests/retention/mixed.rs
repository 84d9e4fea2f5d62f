//! A few records kept for ever among many that expire: the disk holds little more than what is live, and little is
//! rewritten for it. `OTTLA_RETENTION_MIB` makes the run longer (default 1,500 MiB produced).

use ottla_integration_tests::load::usage::Usage;
use ottla_integration_tests::{Broker, TempDir, seed};

use super::{Client, EARLIEST, NO_RESERVE, on_disk, record};

/// So large that the WAL's last page, which every sync writes again, does not count for much.
const BATCH_BYTES: usize = 256 << 10;
/// One batch in so many is kept for ever.
const KEPT_SHARE: u64 = 100;
/// What the expiring topic keeps: a third of the shortest run.
const RETAINED_BYTES: u64 = 500 << 20;
/// What is on its way besides: two write buffers with their WAL, and blob files.
const CONSTANT_BYTES: u64 = 160 << 20;
/// The promise: the disk as share of what is live, and the bytes rewritten as share of those received.
const MOST_ROOM: f64 = 1.5;
const MOST_REWRITTEN: f64 = 0.1;

#[test]
fn one_percent_kept_for_ever_costs_little_room_and_little_rewriting() {
    println!("OTTLA_TEST_SEED={}", seed());
    let produced_mib = std::env::var("OTTLA_RETENTION_MIB").map_or(1_500, |text| {
        text.parse().expect("OTTLA_RETENTION_MIB is a number")
    });
    let batches = (produced_mib << 20) / BATCH_BYTES as u64;
    let folder = TempDir::new("retention-mixed");
    let broker = Broker::start(
        folder.path(),
        &[
            ("log.retention.check.interval.ms", "2000"),
            // Write buffers of 128 MiB together, whose WAL counts.
            ("memory.budget.bytes", "268435456"),
            NO_RESERVE,
        ],
    );
    let mut client = Client::of(&broker);
    let retained = RETAINED_BYTES.to_string();
    client.create("kept", &[("retention.ms", "-1")]);
    client.create("expiring", &[("retention.bytes", retained.as_str())]);
    let (mut most, mut worst) = (0.0_f64, String::new());
    let mut kept = 0;
    for index in 0..batches {
        let now = client.env.now_ms();
        if index % KEPT_SHARE == 0 {
            client.produce("kept", record(now, index, BATCH_BYTES));
            kept += 1;
        } else {
            client.produce("expiring", record(now, index, BATCH_BYTES));
        }
        if index % 64 == 63 {
            let expiring = index - kept - client.offset("expiring", EARLIEST) as u64;
            let live = (expiring + kept) * BATCH_BYTES as u64;
            let disk = on_disk(folder.path());
            let share = disk.saturating_sub(CONSTANT_BYTES) as f64 / live as f64;
            if share > most {
                most = share;
                worst = format!("{} MiB for {} MiB live", disk >> 20, live >> 20);
            }
        }
    }
    let received = batches * BATCH_BYTES as u64;
    let written = Usage::of(broker.process().id()).expect("it runs").written;
    // Each byte goes to the WAL and to its place.
    let rewritten = written as f64 / received as f64 - 2.0;
    println!(
        "at most {most:.2} of what is live ({worst}), beside {} MiB",
        CONSTANT_BYTES >> 20
    );
    println!(
        "{:.3} bytes written per byte received",
        written as f64 / received as f64
    );
    assert!(most <= MOST_ROOM, "{most}: {worst}");
    assert!(rewritten <= MOST_REWRITTEN, "{rewritten}");
    let held = client.read_from("kept", 0);
    assert_eq!(held.len() as u64, kept);
}
