//! The table in the head of `producers.rs`, transactions and expiry, batch by batch.

use super::*;

fn batch(producer_id: i64, epoch: i16, sequence: i32, count: i32, offset: i64) -> BatchHeader {
    BatchHeader {
        base_offset: offset,
        batch_length: 100,
        partition_leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: count - 1,
        base_timestamp: 0,
        max_timestamp: offset,
        producer_id,
        producer_epoch: epoch,
        base_sequence: sequence,
        record_count: count,
    }
}

#[test]
fn an_unknown_producer_may_begin_anywhere() {
    let producers = Producers::default();
    assert_eq!(producers.check(&batch(1, 0, 77, 3, 0)), Ok(Sequenced::New));
}

#[test]
fn the_next_batch_follows_and_a_gap_is_refused() {
    let mut producers = Producers::default();
    producers.apply(&batch(1, 0, 0, 3, 10));
    assert_eq!(producers.check(&batch(1, 0, 3, 1, 0)), Ok(Sequenced::New));
    assert!(matches!(
        producers.check(&batch(1, 0, 5, 1, 0)),
        Err(StorageError::OutOfOrderSequence { expected: 3, .. })
    ));
}

#[test]
fn a_retry_among_the_last_five_is_a_duplicate_with_its_old_offset() {
    let mut producers = Producers::default();
    for index in 0..7 {
        producers.apply(&batch(1, 0, index * 2, 2, i64::from(index) * 10));
    }
    for index in 2..7 {
        let Ok(Sequenced::Duplicate(kept)) = producers.check(&batch(1, 0, index * 2, 2, 0)) else {
            panic!("{index}");
        };
        assert_eq!(kept.first_offset(), i64::from(index) * 10);
    }
    assert!(producers.check(&batch(1, 0, 2, 2, 0)).is_err(), "too old");
    assert!(
        producers.check(&batch(1, 0, 12, 1, 0)).is_err(),
        "same first sequence, other length"
    );
}

#[test]
fn epochs_fence() {
    let mut producers = Producers::default();
    producers.apply(&batch(1, 4, 0, 1, 0));
    assert!(matches!(
        producers.check(&batch(1, 3, 1, 1, 0)),
        Err(StorageError::InvalidProducerEpoch { current: 4, .. })
    ));
    assert!(producers.check(&batch(1, 5, 1, 1, 0)).is_err());
    assert_eq!(producers.check(&batch(1, 5, 0, 1, 0)), Ok(Sequenced::New));
    producers.apply(&batch(1, 5, 0, 1, 1));
    assert!(producers.check(&batch(1, 4, 1, 1, 0)).is_err());
    assert!(matches!(
        producers.check(&batch(9, -5, 0, 1, 0)),
        Err(StorageError::InvalidProducerEpoch { .. })
    ));
}

#[test]
fn sequences_wrap() {
    let mut producers = Producers::default();
    producers.apply(&batch(1, 0, i32::MAX - 1, 4, 0));
    let last = *producers
        .get(1)
        .expect("known")
        .batches
        .back()
        .expect("one");
    assert_eq!(last.first_sequence(), i32::MAX - 1);
    assert_eq!(last.last_sequence, 1);
    assert_eq!(producers.check(&batch(1, 0, 2, 1, 0)), Ok(Sequenced::New));
    producers.apply(&batch(2, 0, i32::MAX, 1, 9));
    assert_eq!(producers.check(&batch(2, 0, 0, 1, 0)), Ok(Sequenced::New));
}

#[test]
fn open_transactions_bound_the_stable_offset_and_aborts_are_listed() {
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;
    let mut producers = Producers::default();
    let open = |id, offset| BatchHeader {
        attributes: TRANSACTIONAL,
        ..batch(id, 0, 0, 2, offset)
    };
    let marker = |id, offset| BatchHeader {
        attributes: TRANSACTIONAL | CONTROL,
        ..batch(id, 0, -1, 1, offset)
    };
    producers.apply(&open(1, 5));
    producers.apply(&open(2, 7));
    assert_eq!(producers.first_open_offset(), Some(5));
    let aborted = producers
        .apply_marker(&marker(1, 9), false, 0)
        .expect("aborted");
    assert_eq!((aborted.first_offset, aborted.last_offset), (5, 9));
    assert_eq!(aborted.last_stable_offset, 7);
    assert_eq!(producers.first_open_offset(), Some(7));
    assert_eq!(producers.apply_marker(&marker(2, 10), true, 3), None);
    assert_eq!(producers.first_open_offset(), None);
    let mut unstable = |high_watermark| {
        producers.committed(high_watermark);
        producers.first_unstable_offset()
    };
    assert_eq!(unstable(9), Some(5));
    assert_eq!(unstable(10), Some(7));
    assert_eq!(unstable(11), None);
    assert_eq!(producers.aborted_in(0, 5), []);
    assert_eq!(producers.aborted_in(0, 6), [aborted]);
    assert_eq!(producers.aborted_in(9, 100), [aborted]);
    assert_eq!(producers.aborted_in(10, 100), []);
    assert!(producers.check_marker(&marker(2, 11), 2).is_err());
    assert!(producers.check_marker(&marker(2, 11), 3).is_ok());
    producers.forget_before(10);
    assert_eq!(producers.aborted_in(0, 100), []);
}

#[test]
fn the_search_for_aborts_ends_where_all_is_stable_and_misses_none() {
    for seed in 0..500 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut producers = Producers::default();
        let mut aborted = Vec::new();
        for offset in 0..60 {
            let header = BatchHeader {
                attributes: 0x10,
                ..batch(rng.i64(0..6), 0, 0, 1, offset)
            };
            if rng.bool() {
                producers.apply(&header);
            } else {
                let commit = rng.u8(0..4) == 0;
                aborted.extend(producers.apply_marker(&header, commit, 0));
            }
        }
        for from in 0..60 {
            for to in from..=60 {
                let overlaps =
                    |held: &&AbortedTransaction| held.last_offset >= from && held.first_offset < to;
                let expected: Vec<_> = aborted.iter().filter(overlaps).copied().collect();
                assert_eq!(producers.aborted_in(from, to), expected, "seed {seed}");
            }
        }
        // One that no log has shows how far the search goes.
        let beyond = AbortedTransaction {
            producer_id: 9,
            first_offset: 0,
            last_offset: 100,
            last_stable_offset: 101,
        };
        producers.restore_aborted(beyond);
        for to in 1..60 {
            let ends = aborted.iter().any(|held| held.last_stable_offset >= to);
            let met = producers.aborted_in(0, to).contains(&beyond);
            assert_eq!(met, !ends, "seed {seed}, to {to}");
        }
    }
}

#[test]
fn quiet_producers_expire_unless_they_hold_a_transaction() {
    let mut producers = Producers::default();
    producers.apply(&batch(1, 0, 0, 1, 50));
    producers.apply(&batch(2, 0, 0, 1, 150));
    let open = BatchHeader {
        attributes: 0x10,
        ..batch(3, 0, 0, 1, 50)
    };
    producers.apply(&open);
    assert_eq!(producers.expire(100), 1);
    assert!(producers.get(1).is_none());
    assert_eq!(producers.len(), 2);
}
