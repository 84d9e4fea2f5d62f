//! Keys order as their numbers do and stay in their partition; values come back as they went.

use uuid::Uuid;

use super::*;
use crate::compaction::Cleaned;
use crate::partition::Chunk;
use crate::producers::{BatchMetadata, ProducerState};

#[test]
fn keys_order_as_their_numbers_do() {
    let handles = [1, 2, 255, 256, 70_000].map(Handle);
    let offsets = [0, 1, 255, 256, 1 << 40, i64::MAX];
    let mut last = Vec::new();
    for handle in handles {
        for offset in offsets {
            let key = batch(handle, offset);
            assert!(key > last, "{handle:?} {offset}");
            assert_eq!(parse_batch(&key), Some(offset));
            last = key;
        }
    }
    let mut last = Vec::new();
    for timestamp in [i64::MIN, -5, -1, 0, 1, 1_700_000_000_000, i64::MAX] {
        for offset in offsets {
            let key = time(Handle(7), timestamp, offset);
            assert!(key > last, "{timestamp} {offset}");
            assert_eq!(parse_time(&key), Some((timestamp, offset)));
            last = key;
        }
    }
}

#[test]
fn kinds_do_not_overlap_and_stay_inside_their_partition() {
    let handle = Handle(9);
    let (from, to) = partition(handle);
    let groups = [
        vec![start(handle)],
        vec![batch(handle, 0), batch(handle, i64::MAX)],
        vec![time(handle, i64::MIN, 0), time(handle, i64::MAX, i64::MAX)],
        vec![producer(handle, 0, 0), producer_end(handle, i64::MAX)],
        vec![aborted(handle, 0, 0), aborted(handle, i64::MAX, i64::MAX)],
        vec![epoch(handle, 0), epoch(handle, i32::MAX)],
        vec![chunk(handle, 0), chunk(handle, i64::MAX)],
        vec![cleaned(handle)],
    ];
    let flat: Vec<_> = groups.concat();
    assert!(flat.is_sorted());
    assert!(flat.iter().all(|key| *key >= from && *key < to));
    let (from, to) = batches(handle, 0);
    assert!(groups[1].iter().all(|key| *key >= from && *key < to));
    assert!(groups[2].iter().all(|key| *key >= to));
    let (from, to) = producers(handle, 0);
    assert!(groups[3].iter().all(|key| *key >= from && *key < to));
    let (from, to) = aborteds(handle, 0);
    assert!(groups[4].iter().all(|key| *key >= from && *key < to));
    let (from, to) = epochs(handle, 0);
    assert!(groups[5].iter().all(|key| *key >= from && *key < to));
    let (from, to) = chunks(handle, 0);
    assert!(groups[6].iter().all(|key| *key >= from && *key < to));
}

#[test]
fn bindings_come_after_the_counter_and_before_every_partition() {
    let id = PartitionId {
        topic_id: Uuid::from_u128(u128::MAX),
        partition: i32::MAX,
    };
    let (from, to) = bindings();
    assert!(next_handle() < from);
    assert!(binding(id) >= from && binding(id) < to);
    assert!(binding(PartitionId::METADATA) >= from);
    assert!(partition(Handle::METADATA).0 >= to);
    assert_eq!(parse_binding(&binding(id)), Some(id));
    assert_eq!(parse_handle(&handle_value(Handle(77))), Some(Handle(77)));
}

#[test]
fn values_come_back_as_they_went() {
    let seed = 1;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..2_000 {
        let mut state = ProducerState {
            epoch: rng.i16(0..),
            coordinator_epoch: rng.i32(-1..),
            last_timestamp: rng.i64(..),
            open_transaction: rng.bool().then(|| rng.i64(0..)),
            batches: Default::default(),
        };
        for _ in 0..rng.usize(0..=5) {
            state.batches.push_back(BatchMetadata {
                last_sequence: rng.i32(0..),
                last_offset: rng.i64(0..),
                offset_delta: rng.i32(0..),
                timestamp: rng.i64(..),
            });
        }
        let mut value = producer_value(&state);
        assert_eq!(parse_producer_value(&value).as_ref(), Some(&state));
        value.pop();
        assert_eq!(parse_producer_value(&value), None);
    }
    let start = LogStart {
        offset: 9,
        local_offset: 9,
        first_kept: Some(5),
    };
    assert_eq!(parse_start(&start_value(9, 5)), Some(start));
    let before = LogStart {
        first_kept: None,
        ..start
    };
    assert_eq!(parse_start(&start_value(9, 5)[..16]), Some(before));
    assert_eq!(parse_start(&start_value(9, 5)[..20]), None);
    let key = aborted(Handle(3), 10, 4);
    assert_eq!(
        parse_aborted(&key, &aborted_value(2, 8)),
        Some((10, 4, 2, 8))
    );
    assert_eq!(
        parse_epoch(&epoch(Handle(3), 6), &epoch_value(12)),
        Some((6, 12))
    );
    assert_eq!(
        parse_producer(&producer(Handle(3), 11, 42)),
        Some((11, Some(42)))
    );
    assert_eq!(
        parse_producer(&producer_end(Handle(3), 11)),
        Some((11, None))
    );
    let held = Chunk {
        base_offset: 7,
        end_offset: 9,
        bytes: 1 << 40,
        max_timestamp: -3,
    };
    let parsed =
        |held: &Chunk| parse_chunk(&chunk(Handle(3), held.base_offset), &chunk_value(held));
    assert_eq!(parsed(&held), Some(held));
    let end_offset = held.base_offset;
    assert_eq!(parsed(&Chunk { end_offset, ..held }), None);
    let reached = Cleaned {
        first_dirty: 1 << 40,
        deletes_to: 7,
    };
    assert_eq!(parse_cleaned(&cleaned_value(&reached)), Some(reached));
    assert_eq!(parse_cleaned(&[0; 15]), None);
}
