//! Damage in the way of retention, of erasing and of DeleteRecords: it stops no other log, and what is deleted is not
//! read at all.

use std::sync::Arc;

use bytes::Bytes;
use ottla_protocol::batch::BatchBuilder;

use super::{Place, START_MS};
use crate::engine::{Engine, Family, WriteOps};
use crate::keys;
use crate::log_tests::block;
use crate::memory::MemoryEngine;
use crate::retention::Policy;

/// The key of a partition's first closed chunk.
fn first_chunk(place: &Place, index: usize) -> Vec<u8> {
    let (from, to) = keys::chunks(place.partitions[index].handle(), 0);
    let start = crate::engine::Start::At(&from);
    let mut first = None;
    let scanned = place.engine.scan(Family::Log, start, &to, &mut |key, _| {
        first = Some(key.to_vec());
        std::ops::ControlFlow::Break(())
    });
    scanned.expect("scans");
    first.expect("a chunk was closed")
}

fn sequenced(sequence: i32) -> Bytes {
    BatchBuilder::new(START_MS)
        .producer(7, 0, sequence)
        .record(START_MS, None, Some(&[b'x'; 300]), &[])
        .build()
}

#[test]
fn a_log_that_cannot_be_read_takes_no_producer_snapshot_from_the_others() {
    let engine = Arc::new(MemoryEngine::new());
    let place = Place::on(engine.clone(), START_MS, 3);
    for sequence in 0..6 {
        place.append_batch(0, sequenced(sequence));
        place.append(1, START_MS, 300);
        place.append(2, START_MS, 300);
    }
    let policy = Policy::delete(1_000, -1);
    place.wait(2_000);
    let expired = place.expired(policy);
    assert_eq!(expired.len(), 3);
    engine.damage(Family::Log, &first_chunk(&place, 1));
    let moved = block(place.log.advance_starts(expired));
    assert!(moved.is_err(), "it is told");
    let starts = [0, 1, 2].map(|index| place.start(index));
    assert_eq!(starts, [6, 0, 6], "the others move all the same");
    engine.mend();
    place.retain(policy);
    assert_eq!(place.start(1), 6, "and it does once it can be read");
    place.wait(60_000);
    place.erase();
    let place = place.crashed();
    let again = place.append_batch(0, sequenced(5));
    assert_eq!((again.duplicate, again.base_offset), (true, 5));
    assert_eq!(place.append_batch(0, sequenced(6)).base_offset, 6);
}

#[test]
fn a_deleted_batch_that_cannot_be_read_keeps_no_log_from_being_erased_and_no_broker_from_its_start()
{
    let engine = Arc::new(MemoryEngine::new());
    let place = Place::on(engine.clone(), START_MS, 3);
    for index in 0..3 {
        for _ in 0..4 {
            place.append(index, START_MS, 300);
        }
    }
    place.append(1, START_MS + 5_000, 300);
    place.wait(2_000);
    place.retain(Policy::delete(1_000, -1));
    let starts = [0, 1, 2].map(|index| place.start(index));
    assert_eq!(starts, [4, 4, 4]);
    for index in 0..2 {
        engine.damage(Family::Log, &place.batch_key(index, 0));
        engine.damage(Family::Log, &place.batch_key(index, 3));
    }
    let place = place.crashed();
    let ends = |place: &Place| {
        [0, 1, 2].map(|index| {
            let offsets = place.partitions[index].offsets();
            let bytes = place.partitions[index].size_bytes();
            (offsets.log_start, offsets.log_end, bytes)
        })
    };
    let held = place.sizes(1)[0] as u64;
    let expected = [(4, 4, 0), (4, 5, held), (4, 4, 0)];
    assert_eq!(ends(&place), expected);
    place.wait(60_000);
    place.erase();
    let stored = [0, 1, 2].map(|index| place.first_stored(index));
    assert_eq!(stored, [None, Some(4), None]);
    assert_eq!(ends(&place.crashed()), expected);
}

#[test]
fn a_log_that_cannot_be_looked_into_keeps_no_other_from_being_erased() {
    let engine = Arc::new(MemoryEngine::new());
    let place = Place::on(engine.clone(), START_MS, 100);
    for index in 0..100 {
        for _ in 0..8 {
            place.append(index, START_MS, 300);
        }
        let deleted = place.log.delete_prefix(&place.partitions[index], 5);
        block(deleted).expect("deletes");
    }
    place.wait(60_000);
    // The chunk that its log start lies in.
    engine.damage(Family::Log, &keys::chunk(place.partitions[3].handle(), 3));
    assert!(place.try_erase().is_err(), "it is told");
    for index in 0..100 {
        let first = if index == 3 { 0 } else { 5 };
        assert_eq!(place.first_stored(index), Some(first));
    }
    engine.mend();
    place.erase();
    assert_eq!(place.first_stored(3), Some(5));
}

#[test]
fn records_are_deleted_past_a_batch_that_cannot_be_read() {
    let engine = Arc::new(MemoryEngine::new());
    let place = Place::on(engine.clone(), START_MS, 2);
    let records = |count| {
        let mut builder = BatchBuilder::new(START_MS);
        for _ in 0..count {
            builder = builder.record(START_MS, None, Some(&[b'x'; 300]), &[]);
        }
        builder.build()
    };
    for index in 0..2 {
        for _ in 0..5 {
            place.append_batch(index, records(2));
        }
        engine.damage(Family::Log, &place.batch_key(index, 2));
    }
    let delete = |index: usize, offset| {
        let deleted = place.log.delete_prefix(&place.partitions[index], offset);
        block(deleted)
    };
    assert!(delete(0, 3).is_err(), "where the damage is nobody knows");
    assert_eq!(delete(0, 4), Ok(4));
    assert_eq!(place.sizes(0).len(), 3);
    assert_eq!(delete(0, 7), Ok(7), "into a batch that can be read");
    engine.damage(Family::Log, &place.batch_key(1, 8));
    assert_eq!(delete(1, -1), Ok(10));
    let place = place.crashed();
    assert_eq!((place.start(0), place.start(1)), (7, 10));
    assert_eq!(place.sizes(0).len(), 2, "the batch that holds it, and one");
    let held = place.sizes(0).iter().sum::<usize>() as u64;
    assert_eq!(place.partitions[0].size_bytes(), held);
}

#[test]
fn a_log_start_of_before_its_first_batch_was_noted_is_looked_up() {
    let engine = Arc::new(MemoryEngine::new());
    let place = Place::on(engine.clone(), START_MS, 2);
    let two = BatchBuilder::new(START_MS)
        .record(START_MS, None, Some(b"a"), &[])
        .record(START_MS, None, Some(b"b"), &[])
        .build();
    for (index, offset) in [(0, 3), (1, 4)] {
        for _ in 0..3 {
            place.append_batch(index, two.clone());
        }
        let deleted = place.log.delete_prefix(&place.partitions[index], offset);
        block(deleted).expect("deletes");
        let key = keys::start(place.partitions[index].handle());
        let value = engine.get(Family::Log, &key).expect("gets");
        let mut ops = WriteOps::new();
        ops.put(Family::Log, key, value.expect("noted").slice(..16));
        engine.write(&ops).expect("writes");
    }
    let place = place.crashed();
    for (index, start, batches) in [(0, 3, 2), (1, 4, 1)] {
        assert_eq!(place.start(index), start);
        let sizes = place.sizes(index);
        assert_eq!(sizes.len(), batches);
        let bytes = sizes.iter().sum::<usize>() as u64;
        assert_eq!(place.partitions[index].size_bytes(), bytes);
    }
    place.wait(60_000);
    place.erase();
    let stored = [0, 1].map(|index| place.first_stored(index));
    assert_eq!(stored, [Some(2), Some(4)]);
}
