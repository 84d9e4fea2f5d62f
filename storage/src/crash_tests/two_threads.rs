//! What the writer's thread and the syncer's owe each other, with a gate (`gate.rs`) that stops either of them at the
//! worst moment.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use ottla_protocol::batch::{BatchBuilder, BatchHeader};

use super::gate::{At, Gated, Who};
use crate::compaction::CompactionConfig;
use crate::engine::{Family, Start};
use crate::keys::{self, PartitionId};
use crate::log::{AppendEntry, CleanerLimits, Log, Partition};
use crate::log_tests::{Bench, ID, block, plain};
use crate::partition::LogConfig;
use crate::retention::Policy;
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

/// A bench whose writer syncs by itself, since syncs are known to be short and the syncer has nothing to do. From then on
/// a sync of the syncer does not begin.
fn syncing_writer(store: &Arc<Gated>) -> Bench {
    store.syncs_take(1);
    let bench = store.bench(ID);
    let before = store.begun(Who::Writer);
    // The first sync is the syncer's, which answers some time before it is idle again.
    for _ in 0..1_000_000 {
        bench.appended(plain(1));
        if store.begun(Who::Writer) > before {
            store.hold(Who::Syncer, At::Begin);
            return bench;
        }
    }
    panic!("the writer never syncs");
}

/// The bench's partition and another one.
fn two_partitions(bench: &Bench) -> [Arc<Partition>; 2] {
    let other = block(bench.log.create(vec![OTHER])).expect("creates");
    [bench.partition.clone(), other[0].clone()]
}

/// Appends a batch to each partition with one request.
fn append_to_all(bench: &Bench, partitions: &[Arc<Partition>]) {
    let entries = partitions.iter().map(|partition| {
        let bytes = plain(1);
        AppendEntry {
            partition: partition.clone(),
            header: BatchHeader::parse(&bytes).expect("a batch"),
            bytes: bytes.into(),
            leader_epoch: partition.offsets().leader_epoch,
        }
    });
    let answers = block(bench.log.append(entries.collect(), Acks::All)).expect("open");
    for answer in block(answers).expect("answered") {
        answer.expect("appended");
    }
}

#[test]
fn little_that_is_soon_synced_needs_no_other_thread() {
    let store = Gated::new();
    let bench = syncing_writer(&store);
    let (syncer, writer) = (store.begun(Who::Syncer), store.begun(Who::Writer));
    for _ in 0..100 {
        let end = bench.appended(plain(1)) + 1;
        assert_eq!(bench.offsets().fsynced_end, end);
    }
    assert_eq!(store.begun(Who::Syncer), syncer);
    assert_eq!(store.begun(Who::Writer), writer + 100);
    store.hold(Who::Syncer, None);
}

#[test]
fn syncs_that_take_long_or_nobody_knows_how_long_are_the_syncers() {
    for ms in [0, 2, 50] {
        let store = Gated::new();
        store.syncs_take(ms);
        let bench = store.bench(ID);
        let before = store.begun(Who::Writer);
        for _ in 0..200 {
            bench.appended(plain(1));
        }
        assert_eq!(store.begun(Who::Writer), before, "{ms} ms");
    }
}

#[test]
fn fewer_than_were_answered_together_are_synced_by_the_writer_after_a_while() {
    let store = Gated::new();
    let bench = syncing_writer(&store);
    let both = two_partitions(&bench);
    for _ in 0..100 {
        let begun = store.begun(Who::Writer);
        append_to_all(&bench, &both);
        assert_eq!(store.begun(Who::Writer), begun + 1, "one sync for both");
        // Two are waited for now.
        bench.appended(plain(1));
        assert_eq!(store.begun(Who::Writer), begun + 2);
    }
    store.hold(Who::Syncer, None);
}

#[test]
fn what_waits_for_more_is_handed_over_before_anything_that_may_take_long() {
    let store = Gated::new();
    let bench = syncing_writer(&store);
    let both = two_partitions(&bench);
    store.hold(Who::Syncer, None);
    let before = store.begun(Who::Syncer);
    // Whether the writer waits for more when the command comes is a matter of half a millisecond.
    for _ in 0..100_000 {
        append_to_all(&bench, &both);
        let mut waiting = bench.submit(plain(1), Acks::All);
        block(bench.log.create(vec![OTHER])).expect("is there");
        let mut looks = 0_u64;
        while waiting.try_recv().is_err() {
            std::thread::yield_now();
            looks += 1;
            assert!(looks < 50_000_000, "nobody syncs it");
        }
        if store.begun(Who::Syncer) > before {
            return;
        }
    }
    panic!("the syncer never gets anything");
}

#[test]
fn what_is_much_is_the_syncers_so_that_writing_goes_on() {
    let store = Gated::new();
    let bench = syncing_writer(&store);
    let value = vec![7; 64 << 10];
    let much = BatchBuilder::new(1)
        .record(1, Some(b"much"), Some(&value), &[])
        .build();
    let waiting = bench.submit(much, Acks::All);
    store.wait_until(Who::Syncer, At::Begin);
    let another = bench.submit(plain(1), Acks::All);
    block(bench.log.create(vec![OTHER])).expect("the writer is free");
    store.hold(Who::Syncer, None);
    for answers in [waiting, another] {
        block(answers)
            .expect("answered")
            .remove(0)
            .expect("appended");
    }
}

#[test]
fn a_failed_sync_of_the_writer_fails_what_waits_for_it_and_all_that_follows() {
    let store = Gated::new();
    let bench = syncing_writer(&store);
    let before = bench.offsets();
    store.fail_sync(Who::Writer);
    assert!(bench.append(plain(1)).is_err());
    assert!(bench.append(plain(1)).is_err(), "it is never tried again");
    let offsets = bench.offsets();
    assert_eq!(
        (offsets.fsynced_end, offsets.high_watermark),
        (before.fsynced_end, before.high_watermark)
    );
    store.hold(Who::Syncer, None);
    assert!(block(bench.log.close()).is_err());
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

/// A record of `key` alone.
fn keyed(key: &str, timestamp: i64) -> Bytes {
    BatchBuilder::new(timestamp)
        .record(timestamp, Some(key.as_bytes()), Some(b"v"), &[])
        .build()
}

/// A whole round of the log cleaner.
fn clean(log: &Log, partition: &Arc<Partition>) {
    let config = CompactionConfig {
        min_cleanable_dirty_ratio: 0.0,
        min_compaction_lag_ms: 0,
        max_compaction_lag_ms: i64::MAX,
        delete_retention_ms: 0,
    };
    let limits = CleanerLimits {
        dedupe_buffer_bytes: 1 << 16,
        load_factor: 0.9,
        io_buffer_bytes: 1 << 16,
    };
    let cleanable = log.cleanable(partition, &config, 10_000).expect("looks");
    let begun = log.clean(partition, &cleanable, &config, limits, 10_000);
    let mut round = begun.expect("begins");
    while round.step().expect("cleans").done.is_none() {}
}

#[test]
fn what_retention_read_before_the_cleaner_changed_it_is_not_remembered() {
    let store = Gated::new();
    let bench = store.bench(ID);
    for (key, timestamp) in [("k", 5_000), ("k", 1_000), ("l", 1_000), ("m", 5_000)] {
        bench.appended(keyed(key, timestamp));
    }
    let policy = Policy::delete(1_000, -1);
    let expired = |now_ms| {
        let looked = bench.log.expired(&bench.partition, &policy, now_ms, 0);
        looked.expect("looks").is_some()
    };
    let (log, partition) = (bench.log.clone(), bench.partition.clone());
    store.after_batches(move || clean(&log, &partition));
    assert!(!expired(5_500), "the first batch stays for its timestamp");
    assert_eq!(bench.read(0), Ok(vec![1, 2, 3]), "it went meanwhile");
    assert!(expired(5_500), "the ones after it are old");
}

#[test]
fn what_retention_remembers_is_not_of_the_log_before_a_truncation() {
    let store = Gated::new();
    let bench = store.bench(ID);
    bench.appended(keyed("k", 5_000));
    let policy = Policy::delete(1_000, -1);
    let expired = |now_ms| {
        let looked = bench.log.expired(&bench.partition, &policy, now_ms, 0);
        looked.expect("looks").is_some()
    };
    assert!(!expired(5_500));
    let emptied = bench.log.truncate_fully_and_start_at(&bench.partition, 0);
    block(emptied).expect("begins anew");
    bench.appended(keyed("k", 1_000));
    assert!(expired(5_500));
}

#[test]
fn the_writer_does_not_walk_over_all_that_it_erases() {
    let store = Gated::new();
    let bench = store.bench(ID);
    for timestamp in 0..200 {
        let batch = BatchBuilder::new(timestamp)
            .record(timestamp, None, Some(&[7; 600]), &[])
            .build();
        bench.appended(batch);
    }
    let held = |bench: &Bench| {
        let handle = bench.partition.handle();
        let (from, (_, to)) = (keys::batches(handle, 0).0, keys::partition(handle));
        let mut count = 0;
        let engine = &store.engine;
        let scanned = engine.scan(Family::Log, Start::At(&from), &to, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        });
        scanned.expect("scans");
        count
    };
    assert!(held(&bench) > 200 + 190, "batches and time index entries");
    block(bench.log.delete_prefix(&bench.partition, -1)).expect("deletes");
    let before = store.visited_by_writer();
    block(bench.log.erase_all()).expect("erases");
    let visited = store.visited_by_writer() - before;
    assert!(visited < 20, "{visited} keys");
    assert!(held(&bench) < 10, "all are gone");
}
