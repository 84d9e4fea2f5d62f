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

// The system tells a failed fsync once. Whoever syncs after the other thread was told is told of a success that
// says nothing of what was lost.

#[test]
fn a_change_is_not_durable_when_the_syncer_was_told_of_a_failed_sync_meanwhile() {
    let store = Gated::new();
    let bench = store.bench(ID);
    store.hold(Who::Syncer, At::End);
    store.fail_sync(Who::Syncer);
    let appended = bench.submit(plain(1), Acks::All);
    store.wait_until(Who::Syncer, At::End);
    store.hold(Who::Writer, At::Begin);
    std::thread::scope(|scope| {
        let created = scope.spawn(|| block(bench.log.create(vec![OTHER])));
        store.wait_until(Who::Writer, At::Begin);
        store.hold(Who::Syncer, None);
        // Once this is answered, the store has failed.
        let answer = block(appended).expect("answered").remove(0);
        assert!(answer.is_err(), "{answer:?}");
        store.hold(Who::Writer, None);
        let created = created.join().expect("no panic");
        assert!(created.is_err(), "{created:?}");
    });
    assert!(bench.log.partition(OTHER).is_none());
}

#[test]
fn an_append_is_not_durable_when_the_writer_was_told_of_a_failed_sync_meanwhile() {
    let store = Gated::new();
    let bench = store.bench(ID);
    store.hold(Who::Syncer, At::Begin);
    let appended = bench.submit(plain(1), Acks::All);
    store.wait_until(Who::Syncer, At::Begin);
    store.fail_sync(Who::Writer);
    assert!(block(bench.log.create(vec![OTHER])).is_err());
    let answer = block(appended).expect("answered").remove(0);
    assert!(answer.is_err(), "{answer:?}");
    // Closing waits for the syncer's thread: its sync has succeeded then.
    store.hold(Who::Syncer, None);
    assert!(block(bench.log.close()).is_err());
    let offsets = bench.offsets();
    assert_eq!(offsets.log_end, 1);
    assert_eq!((offsets.fsynced_end, offsets.high_watermark), (0, 0));
    assert_eq!(bench.read(0), Ok(vec![]), "nobody reads what may be lost");
}
