//! Crashes, deletions and truncations at the worst moment, one test for each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use bytes::Bytes;
use ottla_protocol::batch::BatchBuilder;
use tokio::sync::oneshot::error::TryRecvError;

use super::model::marker;
use super::transactional;
use crate::engine::{Engine, Family, WriteOps};
use crate::keys;
use crate::log::{Log, NoObserver, ReadLimit};
use crate::log_tests::{Bench, ID, TestClock, block, plain, sequenced, timed};
use crate::retention::Policy;
use crate::waiters::{Acks, Watch};

fn big(producer_id: i64, sequence: i32) -> Bytes {
    BatchBuilder::new(1_000)
        .producer(producer_id, 0, sequence)
        .record(1_000, None, Some(&[7; 1_500]), &[])
        .build()
}

#[test]
fn an_idempotent_producer_goes_on_after_its_batches_were_deleted_and_the_broker_killed() {
    for records in 1..12 {
        let bench = Bench::new();
        for sequence in 0..records {
            bench.appended(sequenced(7, 0, sequence, 1));
        }
        block(bench.log.delete_prefix(&bench.partition, -1)).expect("deletes");
        let bench = bench.killed();
        assert!(
            bench.append(sequenced(7, 0, records + 1, 1)).is_err(),
            "a gap"
        );
        assert_eq!(
            bench
                .append(sequenced(7, 0, records, 1))
                .map(|a| a.base_offset),
            Ok(i64::from(records))
        );
        let again = bench
            .append(sequenced(7, 0, records, 1))
            .expect("a duplicate");
        assert!(again.duplicate);
    }
}

#[test]
fn a_truncation_below_every_snapshot_remembers_producers_and_open_transactions() {
    let bench = Bench::new();
    for sequence in 0..20 {
        bench.appended(big(1, sequence));
        if sequence == 2 {
            bench.appended(transactional(2, 0, 0));
        }
    }
    let oldest = bench.partition.state().snapshots[0];
    assert!(oldest > 5, "the first snapshots are gone: {oldest}");
    block(bench.log.truncate_to(&bench.partition, 5)).expect("truncates");
    let check = |bench: &Bench| {
        assert_eq!(bench.offsets().log_end, 5);
        assert_eq!(bench.offsets().last_stable, 3, "the transaction is open");
        let state = bench.partition.state();
        let last = state.producers.get(1).and_then(|held| held.batches.back());
        assert_eq!(last.map(|last| last.last_sequence), Some(3));
    };
    check(&bench);
    let bench = bench.power_cut();
    check(&bench);
    assert!(bench.append(big(1, 5)).is_err(), "a gap");
    assert!(bench.append(big(1, 3)).expect("a duplicate").duplicate);
    assert_eq!(bench.appended(big(1, 4)), 5);
}

#[test]
fn a_producer_snapshot_that_is_not_whole_is_damage_and_not_taken_for_none() {
    let snapshot_keys = |bench: &Bench| -> Vec<Vec<u8>> {
        let (from, to) = keys::producers(bench.partition.handle(), 0);
        let all = bench.engine.dump(Family::Log).into_iter();
        let keys = all.map(|(key, _)| key);
        keys.filter(|key| from <= *key && *key < to).collect()
    };
    let whole = || {
        let bench = Bench::new();
        for producer_id in 0..3 {
            bench.appended(sequenced(producer_id, 0, 0, 1));
        }
        block(bench.log.close()).expect("closes");
        bench
    };
    let count = snapshot_keys(&whole()).len();
    assert_eq!(count, 2 + 4, "one with a producer, one with all three");
    for lost in 0..count {
        let bench = whole();
        let mut ops = WriteOps::new();
        ops.delete(Family::Log, snapshot_keys(&bench).swap_remove(lost));
        bench.engine.write(&ops).expect("writes");
        let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
        let opened = Log::open(bench.engine, 1, clock, Arc::new(NoObserver));
        let told = opened.expect_err("it is damaged").to_string();
        assert!(told.contains("a producer snapshot"), "{told}");
    }
}

#[test]
fn deleted_records_that_had_expired_before_do_not_come_back_once_that_is_answered() {
    let bench = Bench::new();
    for _ in 0..4 {
        bench.appended(timed(&[10]));
    }
    let policy = Policy::delete(100, -1);
    let look = bench.log.expired(&bench.partition, &policy, 1_000, 0);
    let expired = look.expect("looks").expect("all is old");
    block(bench.log.advance_starts(vec![expired])).expect("advances");
    assert_eq!(bench.offsets().log_start, 4);
    let syncs = bench.engine.syncs();
    let deleted = || block(bench.log.delete_prefix(&bench.partition, 3));
    assert_eq!(deleted(), Ok(4));
    assert_eq!(deleted(), Ok(4));
    assert_eq!(bench.engine.syncs(), syncs + 1, "once is enough");
    let bench = bench.power_cut();
    assert_eq!(bench.offsets().log_start, 4);
}

#[test]
fn recovery_reads_little_when_the_last_producer_expired_long_ago() {
    let bench = Bench::new();
    bench.appended(sequenced(1, 0, 0, 1));
    assert_eq!(bench.partition.expire_producers(i64::MAX), 1);
    for _ in 0..40 {
        bench.appended(timed(&[1; 20]));
    }
    let state = bench.partition.state();
    assert!(state.snapshots[0] > 10, "{:?}", state.snapshots);
    let bench = bench.killed();
    assert!(bench.partition.state().producers.is_empty());
}

#[test]
fn a_marker_that_is_not_committed_opens_nothing_to_readers_of_committed_data() {
    for commit in [true, false] {
        let bench = Bench::new();
        bench.appended(transactional(1, 0, 0));
        bench.appended(plain(1));
        assert_eq!(bench.offsets().last_stable, 0);
        bench.engine.hold_syncs(true);
        let ended = bench.submit(marker(1, 0, commit, 0), Acks::All);
        let after = bench.submit(plain(1), Acks::All);
        block(bench.log.create(vec![ID])).expect("both are written");
        assert_eq!(bench.offsets().high_watermark, 2);
        assert_eq!(
            bench.offsets().last_stable,
            0,
            "a power cut would open the transaction again"
        );
        bench.engine.hold_syncs(false);
        for answers in [ended, after] {
            assert!(block(answers).expect("answered")[0].is_ok());
        }
        assert_eq!(bench.offsets().last_stable, 4);
    }
}

#[test]
fn a_batch_cut_by_the_log_start_still_counts_for_timestamps_after_a_restart() {
    let bench = Bench::new();
    bench.appended(timed(&[100]));
    bench.appended(timed(&[400, 500, 450]));
    block(bench.log.delete_prefix(&bench.partition, 2)).expect("deletes");
    let bench = bench.killed();
    for _ in 0..10 {
        bench.appended(timed(&[200; 20]));
    }
    let limit = ReadLimit::HighWatermark;
    let found = bench.log.offset_for_timestamp(&bench.partition, 460, limit);
    assert_eq!(found.expect("looks up").map(|found| found.offset), Some(2));
    let found = bench.log.max_timestamp(&bench.partition, limit);
    assert_eq!(found.expect("looks up").map(|found| found.offset), Some(2));
}

#[test]
fn a_smaller_isr_answers_those_who_waited_for_the_replica_that_left() {
    let bench = Bench::new();
    bench.partition.become_leader(1, vec![1, 2]);
    let mut waiting = bench.submit(plain(1), Acks::All);
    block(bench.submit(plain(1), Acks::Leader)).expect("answered")[0]
        .as_ref()
        .expect("committed");
    assert_eq!(waiting.try_recv().err(), Some(TryRecvError::Empty));
    bench.partition.become_leader(1, vec![1]);
    let answered = waiting.try_recv().expect("answered at once");
    assert!(answered[0].is_ok());
}

#[test]
fn the_high_watermark_never_passes_what_this_broker_committed() {
    let bench = Bench::new();
    bench.partition.become_leader(1, vec![2]);
    bench.partition.lock().state.follower_at(2, 1_000);
    assert_eq!(bench.offsets().high_watermark, 0);
    bench.appended(plain(2));
    assert_eq!(bench.offsets().high_watermark, 2);
}

#[test]
fn a_truncation_does_not_commit_what_a_follower_lacks() {
    let bench = Bench::new();
    bench.partition.become_leader(1, vec![1, 2]);
    for _ in 0..5 {
        block(bench.submit(plain(1), Acks::Leader)).expect("answered")[0]
            .as_ref()
            .expect("written");
    }
    bench.partition.lock().state.follower_at(2, 2);
    let offsets = block(bench.log.truncate_to(&bench.partition, 4)).expect("truncates");
    assert_eq!((offsets.high_watermark, offsets.log_end), (2, 4));
    bench.partition.lock().state.follower_at(2, 4);
    assert_eq!(bench.offsets().high_watermark, 4);
    let offsets = block(bench.log.truncate_to(&bench.partition, 1)).expect("truncates");
    assert_eq!((offsets.high_watermark, offsets.log_end), (1, 1));
    block(bench.submit(plain(3), Acks::Leader)).expect("answered")[0]
        .as_ref()
        .expect("written");
    assert_eq!(
        bench.offsets().high_watermark,
        1,
        "the follower's old end is of another log"
    );
}

#[test]
fn epochs_are_answered_alike_before_and_after_a_crash() {
    let bench = Bench::new();
    for epoch in [0, 2, 5] {
        bench.partition.become_leader(epoch, vec![1]);
        bench.appended(plain(3));
    }
    block(bench.log.delete_prefix(&bench.partition, 4)).expect("deletes");
    let ends = |bench: &Bench| -> BTreeMap<i32, (i32, i64)> {
        (-1..8)
            .map(|epoch| (epoch, bench.partition.epoch_end(epoch)))
            .collect()
    };
    let live = ends(&bench);
    assert_eq!(live[&0], (0, 4), "gone: where the first known one starts");
    assert_eq!(live[&3], (2, 6));
    let bench = bench.power_cut();
    assert_eq!(ends(&bench), live);
    block(bench.log.delete_prefix(&bench.partition, -1)).expect("deletes");
    let live = ends(&bench);
    assert_eq!((live[&5], live[&6]), ((5, 9), (-1, -1)));
    let bench = bench.power_cut();
    assert_eq!(ends(&bench), live);
    assert_eq!(bench.partition.epoch_of(9), 5);
}

#[test]
fn a_follower_has_what_its_leader_has() {
    for seed in 0..300 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let leader = Bench::new();
        let mut sequences = [0_i32; 4];
        for epoch in 0..rng.i32(1..30) {
            if rng.u8(0..4) == 0 {
                leader.partition.become_leader(epoch, vec![1]);
            }
            let who = rng.usize(0..4);
            let bytes = match rng.u8(0..4) {
                0 => plain(rng.usize(1..4)),
                1 => marker(who as i64, 0, rng.bool(), epoch),
                _ => {
                    sequences[who] += 1;
                    transactional(who as i64, 0, sequences[who] - 1)
                }
            };
            leader.appended(bytes);
        }
        let follower = Bench::new();
        while follower.offsets().log_end < leader.offsets().log_end {
            let (from, max) = (follower.offsets().log_end, rng.usize(1..1_000));
            let read = leader
                .log
                .read(&leader.partition, from, max, true, ReadLimit::LogEnd);
            let bytes = Bytes::from(read.expect("reads").batches.concat());
            let taken = follower.log.append_as_follower(&follower.partition, bytes);
            block(taken).expect("continues");
        }
        let (led, follows) = (leader.partition.state(), follower.partition.state());
        assert_eq!(follows.producers, led.producers);
        assert_eq!(
            (&follows.epochs, follows.log_end),
            (&led.epochs, led.log_end)
        );
        let newest = led.epochs.last_key_value().map_or(0, |(epoch, _)| *epoch);
        for epoch in -1..=newest {
            assert_eq!(
                follower.partition.epoch_end(epoch),
                leader.partition.epoch_end(epoch),
                "epoch {epoch}"
            );
        }
        let recovered = follower.killed().partition.state();
        assert_eq!(recovered.producers, led.producers);
    }
}

#[test]
fn a_watch_misses_nothing_while_the_log_moves() {
    const BATCHES: i64 = 3_000;
    let bench = Bench::new();
    let (log, partition) = (bench.log.clone(), bench.partition.clone());
    let reader = std::thread::spawn(move || {
        let mut wakes = 0;
        loop {
            // As a fetch does it: watch, read, wait.
            let end = partition.offsets().high_watermark;
            let mut watch = Watch::new();
            watch.add(&partition, ReadLimit::HighWatermark, end);
            let read = log.read(&partition, end, 1, true, ReadLimit::HighWatermark);
            if partition.is_gone() {
                return wakes;
            }
            if read.is_ok_and(|read| read.batches.is_empty()) {
                block(watch.fired());
                wakes += 1;
            }
        }
    });
    for _ in 0..BATCHES {
        bench.appended(plain(1));
    }
    // Nothing but the deletion wakes a reader at the end of the log.
    block(bench.log.delete(vec![ID])).expect("deletes");
    assert!(reader.join().expect("no panic") > 0);
    assert_eq!(bench.partition.parked_fetches(), 0);
}
