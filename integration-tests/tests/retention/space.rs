//! The room of what is deleted: by age, by size, by a request, and with a whole topic.

use bytes::Bytes;
use ottla_integration_tests::{Broker, TempDir, seed};

use super::{Client, EARLIEST, LATEST, NO_RESERVE, SPACE_DEADLINE, on_disk, record};

const BATCH_BYTES: usize = 256 << 10;
/// Of each topic, 64 MiB.
const BATCHES: u64 = 256;
/// The sum of what stays, and a write buffer.
const LEFT_BYTES: u64 = 64 << 20;

const DELETED: [&str; 4] = ["by-age", "by-size", "by-request", "whole"];

#[test]
fn what_is_deleted_in_any_way_leaves_the_disk_within_two_minutes() {
    println!("OTTLA_TEST_SEED={}", seed());
    let folder = TempDir::new("retention-space");
    let mut broker = Broker::start(
        folder.path(),
        &[("log.retention.check.interval.ms", "10000"), NO_RESERVE],
    );
    let mut client = Client::of(&broker);
    client.create("kept", &[("retention.ms", "-1")]);
    client.create("by-age", &[("retention.ms", "2000")]);
    client.create("by-size", &[("retention.bytes", "2000000")]);
    client.create("by-request", &[]);
    client.create("whole", &[]);
    let mut kept: Vec<(i64, Bytes)> = Vec::new();
    for index in 0..BATCHES {
        let now = client.env.now_ms();
        for topic in DELETED {
            client.produce(topic, record(now, index, BATCH_BYTES));
        }
        // One in a hundred stays, among all that goes.
        let small = record(now, index, BATCH_BYTES / 25);
        let offset = client.produce("kept", small.clone());
        kept.push((offset, small));
    }
    client.delete_topic("whole");
    client.delete_records("by-request", BATCHES as i64);
    assert_eq!(client.offset("by-request", EARLIEST), BATCHES as i64);
    let full = on_disk(folder.path());
    println!("{} MiB on disk", full >> 20);
    // The last of "by-age" may still be young when the room of the others is free.
    let took = client.wait_until("kept", "the room is free", SPACE_DEADLINE, |client| {
        on_disk(folder.path()) < LEFT_BYTES && client.offset("by-age", EARLIEST) == BATCHES as i64
    });
    println!("{} MiB after {took:?}", on_disk(folder.path()) >> 20);
    check(&mut client, &kept);
    broker.kill9();
    broker.restart();
    check(&mut Client::of(&broker), &kept);
}

fn check(client: &mut Client, kept: &[(i64, Bytes)]) {
    let end = BATCHES as i64;
    for topic in ["by-age", "by-request"] {
        assert_eq!(
            (client.offset(topic, EARLIEST), client.offset(topic, LATEST)),
            (end, end)
        );
    }
    let left = client.offset("by-size", EARLIEST);
    let left = client.read_from("by-size", left);
    let bytes: usize = left.iter().map(|(_, batch)| batch.len()).sum();
    let first = left[0].1.len();
    assert!(
        bytes >= 2_000_000 && bytes - first < 2_000_000,
        "{bytes} left"
    );
    let held = client.read_from("kept", 0);
    assert_eq!(held.len(), kept.len());
    for ((offset, batch), (expected, sent)) in held.iter().zip(kept) {
        // All but base offset and leader epoch, which the broker stamps.
        assert_eq!((offset, &batch[16..]), (expected, &sent[16..]));
    }
}
