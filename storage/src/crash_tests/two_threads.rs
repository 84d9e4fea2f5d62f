//! What the writer's thread and the syncer's owe each other, with a gate (`gate.rs`) that stops either of them at the
//! worst moment.

use super::gate::{At, Gated, Who};
use crate::keys::PartitionId;
use crate::log_tests::{Bench, ID, block, plain};
use crate::partition::LogConfig;
use crate::waiters::Acks;

const OTHER: PartitionId = PartitionId { partition: 1, ..ID };

#[test]
fn a_truncation_that_cannot_be_read_back_stops_the_log() {
    let store = Gated::new();
    let bench = store.bench(ID);
    for _ in 0..4 {
        bench.appended(plain(1));
    }
    store.fail_get();
    assert!(block(bench.log.truncate_to(&bench.partition, 2)).is_err());
    assert!(
        bench.append(plain(1)).is_err(),
        "what is known of the log no longer fits what is stored"
    );
    drop(bench);
    let bench = store.bench(ID);
    assert_eq!(bench.appended(plain(1)), 2);
    assert_eq!(bench.read(0), Ok(vec![0, 1, 2]));
}

#[test]
fn a_sync_that_a_truncation_overtakes_is_not_credited_to_what_was_written_since() {
    let store = Gated::new();
    let bench = store.bench(ID);
    let relaxed = |flush_ms| {
        bench.partition.set_config(LogConfig {
            flush_messages: i64::MAX,
            flush_ms,
            log_append_time: false,
        });
    };
    relaxed(i64::MAX);
    for _ in 0..3 {
        bench.appended(plain(1));
    }
    store.hold(Who::Syncer, At::End);
    relaxed(0);
    bench.appended(plain(1));
    store.wait_until(Who::Syncer, At::End);
    block(bench.log.truncate_to(&bench.partition, 1)).expect("truncates");
    relaxed(i64::MAX);
    for _ in 0..3 {
        bench.appended(plain(1));
    }
    // The next sync waits for its turn, so that the one before it has been credited.
    store.hold(Who::Syncer, At::Begin);
    let durable = Bench {
        partition: block(bench.log.create(vec![OTHER])).expect("creates")[0].clone(),
        log: bench.log.clone(),
        engine: bench.engine.clone(),
    };
    let waiting = durable.submit(plain(1), Acks::All);
    store.wait_until(Who::Syncer, At::Begin);
    let offsets = bench.offsets();
    assert_eq!((offsets.log_end, offsets.fsynced_end), (4, 1));
    store.hold(Who::Syncer, None);
    assert!(block(waiting).expect("answered")[0].is_ok());
}
