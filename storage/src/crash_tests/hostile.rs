//! Bytes, orders and stores that nobody well-meaning would send or leave behind.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use ottla_protocol::batch;

use super::model::marker;
use super::{stamped, transactional};
use crate::engine::{Engine, Family, WriteOps};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle, PartitionId};
use crate::log::{Log, NoObserver, ReadLimit};
use crate::log_tests::{Bench, ID, TestClock, block, plain, sequenced, timed};
use crate::partition::{LogConfig, PartitionState};

#[test]
fn the_first_sequence_after_a_lone_marker_is_0() {
    // Kafka's `ProducerAppendInfo.checkSequence`: an entry without batches continues at -1. Anything else would
    // let a second batch overtake a first one that is being retried.
    let bench = Bench::new();
    bench.appended(transactional(1, 0, 0));
    bench.appended(marker(1, 1, true, 0));
    assert!(matches!(
        bench.append(transactional(1, 1, 1)),
        Err(StorageError::OutOfOrderSequence { expected: 0, .. })
    ));
    bench.appended(transactional(1, 1, 0));
}

#[test]
fn an_older_coordinator_is_refused_when_it_writes_but_never_when_it_is_read_back() {
    let bench = Bench::new();
    bench.appended(transactional(1, 0, 0));
    bench.appended(marker(1, 0, true, 5));
    assert!(matches!(
        bench.append(marker(1, 0, true, 4)),
        Err(StorageError::TransactionCoordinatorFenced { .. })
    ));
    bench.partition.expire_producers(i64::MAX);
    bench.appended(marker(1, 0, true, 3));
    bench.appended(transactional(1, 0, 0));
    let live = bench.partition.state();
    let bench = bench.killed();
    let held = |state: &PartitionState| {
        let held = state.producers.get(1).expect("known");
        (held.coordinator_epoch, held.open_transaction)
    };
    assert_eq!(held(&bench.partition.state()), held(&live));
}

#[test]
fn an_expired_producer_that_comes_back_with_an_older_epoch_goes_on_after_a_kill() {
    let bench = Bench::new();
    bench.appended(sequenced(1, 5, 0, 1));
    bench.partition.expire_producers(i64::MAX);
    bench.appended(sequenced(1, 3, 0, 1));
    let bench = bench.killed();
    bench.appended(sequenced(1, 3, 1, 1));
}

#[test]
fn nothing_is_written_under_the_handle_of_a_deleted_partition() {
    let bench = Bench::new();
    let old = bench.partition.clone();
    bench.appended(plain(1));
    block(bench.log.delete(vec![ID])).expect("deletes");
    let before = bench.engine.dump(Family::Log);
    assert_eq!(
        block(bench.log.truncate_fully_and_start_at(&old, 5)),
        Err(StorageError::NoSuchPartition)
    );
    assert_eq!(
        block(bench.log.truncate_to(&old, 0)),
        Err(StorageError::NoSuchPartition)
    );
    assert_eq!(bench.engine.dump(Family::Log), before);
}

#[test]
fn the_metadata_partition_cannot_be_deleted() {
    let bench = Bench::new();
    block(bench.log.delete(vec![PartitionId::METADATA, ID])).expect("deletes");
    assert!(bench.log.partition(ID).is_none());
    let bench = bench.killed();
    let metadata = bench.log.partition(PartitionId::METADATA).expect("stays");
    assert_eq!(metadata.handle(), Handle::METADATA);
}

#[test]
fn offsets_do_not_wrap_and_a_hostile_leader_is_refused() {
    let bench = Bench::new();
    let end = i64::MAX - 3;
    let start_at = |offset| {
        block(
            bench
                .log
                .truncate_fully_and_start_at(&bench.partition, offset),
        )
    };
    assert!(matches!(
        start_at(-1),
        Err(StorageError::OffsetOutOfRange { .. })
    ));
    start_at(end).expect("begins there");
    assert!(matches!(
        bench.append(plain(4)),
        Err(StorageError::InvalidBatch(_))
    ));
    assert_eq!(bench.appended(plain(2)), end);
    let follow = |bytes| block(bench.log.append_as_follower(&bench.partition, bytes));
    assert!(matches!(
        follow(stamped(&plain(2), end + 2, 0)),
        Err(StorageError::InvalidBatch(_))
    ));
    let mut negative = stamped(&plain(1), end + 2, 0).to_vec();
    negative[23..27].copy_from_slice(&(-5_i32).to_be_bytes());
    assert!(matches!(
        follow(negative.into()),
        Err(StorageError::InvalidBatch(_))
    ));
    assert!(bench.log.failure().is_none(), "nothing panicked");
    assert_eq!(bench.read(end), Ok(vec![end]));
}

#[test]
fn a_follower_takes_a_marker_of_an_older_coordinator() {
    let bench = Bench::new();
    let mut offset = 0;
    for bytes in [
        transactional(1, 0, 0),
        marker(1, 0, true, 7),
        marker(1, 0, true, 6),
    ] {
        let taken = bench
            .log
            .append_as_follower(&bench.partition, stamped(&bytes, offset, 0));
        offset = block(taken).expect("the leader decided already").log_end;
    }
}

#[test]
fn headers_with_extreme_timestamps_do_no_harm() {
    let bench = Bench::new();
    let extremes = [i64::MIN, -1, 0, i64::MAX];
    for round in 0..12_usize {
        let mut bytes = timed(&[extremes[round % 4]; 12]).to_vec();
        batch::stamp_max_timestamp(&mut bytes, extremes[round % 4]);
        bench.appended(bytes.into());
    }
    let limit = ReadLimit::HighWatermark;
    for bench in [bench.killed()] {
        for timestamp in extremes {
            let found = bench
                .log
                .offset_for_timestamp(&bench.partition, timestamp, limit);
            let first = extremes.iter().position(|held| *held >= timestamp);
            let expected = first.map(|index| index as i64 * 12);
            assert_eq!(
                found.expect("looks up").map(|found| found.offset),
                expected,
                "{timestamp}"
            );
        }
        let found = bench.log.max_timestamp(&bench.partition, limit);
        let found = found.expect("looks up").expect("there is one");
        assert_eq!((found.timestamp, found.offset), (i64::MAX, 36));
    }
}

#[test]
fn a_duplicate_keeps_the_append_time_and_the_offset_it_was_first_answered_with() {
    let bench = Bench::new();
    bench.partition.set_config(LogConfig {
        log_append_time: true,
        ..LogConfig::default()
    });
    let first = bench.append(sequenced(1, 0, 0, 2)).expect("appended");
    block(bench.log.delete_prefix(&bench.partition, 2)).expect("deletes");
    let bench = bench.power_cut();
    bench.partition.set_config(LogConfig {
        log_append_time: true,
        ..LogConfig::default()
    });
    let again = bench.append(sequenced(1, 0, 0, 2)).expect("a duplicate");
    assert!(again.duplicate);
    assert_eq!(
        (again.base_offset, again.log_append_time, again.log_start),
        (first.base_offset, first.log_append_time, 2)
    );
}

#[test]
fn a_store_that_would_give_a_handle_away_twice_is_refused() {
    for lost in [keys::next_handle(), keys::binding(PartitionId::METADATA)] {
        let bench = Bench::new();
        let mut ops = WriteOps::new();
        ops.delete(Family::Log, lost);
        bench.engine.write(&ops).expect("writes");
        let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
        let opened = Log::open(bench.engine.clone(), 1, clock, Arc::new(NoObserver));
        assert!(
            matches!(
                opened,
                Err(StorageError::Engine(EngineError::Corruption(_)))
            ),
            "{opened:?}"
        );
    }
}
