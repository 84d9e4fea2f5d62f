//! Requests that name as many things as a request may: well-formed, served, and nobody else waits for them.

use crate::batch::Batch;
use crate::crowds::nine_in_ten;
use crate::table::{DEADLINE, PROBE, in_time};
use crate::target::{Client, Target};
use crate::wire::{
    self, DELETE_RECORDS, Fetch, LIST_OFFSETS, METADATA, OFFSET_FOR_LEADER_EPOCH, Produce, Wire,
    header,
};

/// Below the 65,536 elements of a request.
const NAMED: i32 = 65_000;
/// Below the 20,000 topics and partitions of a Produce.
const PRODUCED: i32 = 19_000;
/// What DescribeConfigs is asked of each resource.
const DESCRIBE_CONFIGS: i16 = 32;

/// A row: what it names, and its bytes.
fn rows(target: &Target, topic: &str) -> Vec<(&'static str, Vec<u8>)> {
    let partitions = |wire: Wire, each: &dyn Fn(Wire, i32) -> Wire| {
        let wire = wire.i32(1).string(topic).i32(NAMED);
        (0..NAMED).fold(wire, each)
    };
    let metadata = |creates: i8| {
        let wire = header(METADATA, 4).i32(NAMED);
        // Not to be created: names that no topic may have.
        let names = (0..NAMED).map(|number| format!("no/{number}"));
        names
            .fold(wire, |wire, name| wire.string(&name))
            .i8(creates)
            .framed()
    };
    let list_offsets = partitions(header(LIST_OFFSETS, 1).i32(-1), &|wire, index| {
        wire.i32(index).i64(-1)
    });
    let epochs = partitions(header(OFFSET_FOR_LEADER_EPOCH, 2), &|wire, index| {
        wire.i32(index).i32(-1).i32(0)
    });
    let deleted = partitions(header(DELETE_RECORDS, 0), &|wire, index| {
        wire.i32(index + 1).i64(0)
    });
    let configs = (0..NAMED / 2).fold(
        header(DESCRIBE_CONFIGS, 1).i32(NAMED / 2),
        // One key of the broker's each.
        |wire, _| wire.i8(4).string("").i32(1).string("log.dir"),
    );
    let fetch = Fetch {
        partitions: (0..NAMED).map(|index| (index, 0)).collect(),
        ..Fetch::of(topic, 0)
    };
    let batch = Batch::good(target.now_ms()).build();
    let produce = Produce {
        partitions: (1..=PRODUCED)
            .map(|index| (index, Some(&batch[..])))
            .collect(),
        ..Produce::of(topic, &batch)
    };
    let refused = Produce {
        partitions: (1..=PRODUCED).map(|index| (index, None)).collect(),
        ..Produce::of(topic, &batch)
    };
    vec![
        ("Metadata of names", metadata(0)),
        ("Metadata of names that may be created", metadata(1)),
        ("ListOffsets of partitions", list_offsets.framed()),
        ("OffsetForLeaderEpoch of partitions", epochs.framed()),
        ("DeleteRecords of partitions", deleted.i32(1_000).framed()),
        ("DescribeConfigs of resources", configs.i8(0).framed()),
        ("Fetch of partitions", fetch.framed()),
        ("Produce to partitions", produce.framed()),
        ("Produce of nothing to partitions", refused.framed()),
    ]
}

/// How often each row is sent.
const RUNS: usize = 20;
/// Connections that ask right behind it, since only those are kept waiting whose thread is busy.
const OTHERS: usize = 8;

/// Each row is answered in time, and so is everybody who asks something while it is worked on.
pub fn nobody_waits(target: &mut Target, topic: &str) {
    let mut others: Vec<Client> = (0..OTHERS).map(|_| target.connect()).collect();
    for (what, request) in rows(target, topic) {
        in_time(what, || {
            let (mut answers, mut probes) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                let mut client = target.connect();
                client.send(&request);
                let sent = target.now();
                for other in &mut others {
                    other.send(&wire::api_versions());
                }
                for other in &mut others {
                    other.expect_answer();
                }
                // The slowest of them.
                probes.push(target.now() - sent);
                client.expect_answer();
                answers.push(target.now() - sent);
            }
            answers.sort_unstable();
            let (fastest, median) = (answers[0], answers[RUNS / 2]);
            let late = nine_in_ten(&mut probes);
            let told = format!(
                "{what}, {} KiB: answered in {fastest:?}, mostly in {median:?}; the slowest of {OTHERS} probes in {:?}, mostly in {:?}, nine times in ten in {late:?}",
                request.len() >> 10,
                probes[0],
                probes[RUNS / 2],
            );
            println!("{told}");
            if fastest > DEADLINE || late > PROBE {
                return Err(told);
            }
            Ok(())
        });
    }
}
