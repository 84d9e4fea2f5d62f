//! The one suite that every engine passes. Called by the tests of `memory.rs` and `rocks.rs`; a new engine is
//! added by one more call.
//!
//! `open` opens the same store each time, so that the suite can close and open it again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{
    Engine, Family, HEAD_BYTES, Patience, Start, Unread, Untaken, Walked, WriteOps,
};
use crate::error::EngineError;
use crate::reclaim::ValueFile;

/// No check depends on the time.
const NOW: (Patience, Duration) = (Patience::Disk, Duration::from_secs(1));

type Open<'a> = dyn FnMut() -> Arc<dyn Engine> + 'a;

/// Runs every check, on a store that is empty at the first opening.
pub fn run(open: &mut Open<'_>) {
    writes_are_seen_in_order_and_families_are_apart(open().as_ref());
    ranges_are_half_open(open().as_ref());
    scans_start_at_or_below_a_key(open().as_ref());
    a_walk_ends_with_the_error_of_who_walks(open().as_ref());
    everything_is_there_after_reopening(open);
    equals_an_ordered_map(open);
    reclaiming_changes_nothing_that_can_be_read(open);
}

fn put(engine: &dyn Engine, family: Family, key: &[u8], value: &[u8]) {
    let mut ops = WriteOps::new();
    ops.put(family, key.to_vec(), value.to_vec());
    engine.write(&ops).expect("writes");
}

/// What a scan finds, and a walk too.
fn all(
    engine: &dyn Engine,
    family: Family,
    start: Start<'_>,
    to: &[u8],
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    engine
        .scan(family, start, to, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("scans");
    if family.in_log() {
        let mut walked = Vec::new();
        let mut visit = |key: &[u8], value: &mut dyn Unread| {
            let (size, taken) = (value.size(), value.take()?);
            let head = taken.head().to_vec();
            let value = taken.into_records().into_bytes().expect("reads");
            assert_eq!(value.len(), size);
            assert!(value.starts_with(&head) && head.len() >= size.min(HEAD_BYTES));
            walked.push((key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        };
        engine
            .walk(family, start, to, NOW, &mut visit)
            .expect("walks");
        assert_eq!(walked, found);
    }
    found
}

/// Small ones, which stay with their keys, and larger ones of all kinds.
fn value(rng: &mut fastrand::Rng) -> Vec<u8> {
    let most = [600, 3_000, 3_000, 40_000][rng.usize(0..4)];
    let mut value = vec![0; rng.usize(0..most)];
    rng.fill(&mut value);
    value
}

fn clear(engine: &dyn Engine) {
    for family in Family::ALL {
        let mut ops = WriteOps::new();
        ops.delete_range(family, vec![], vec![0xff; 32]);
        engine.write(&ops).expect("writes");
        assert!(all(engine, family, Start::At(&[]), &[0xff; 32]).is_empty());
    }
}

fn writes_are_seen_in_order_and_families_are_apart(engine: &dyn Engine) {
    for family in Family::ALL {
        assert_eq!(engine.get(family, b"k").expect("gets"), None);
        put(engine, family, b"k", family.name().as_bytes());
    }
    for family in Family::ALL {
        let value = engine.get(family, b"k").expect("gets").expect("is there");
        assert_eq!(value, family.name().as_bytes());
    }
    // Later operations of one write win over earlier ones.
    let mut ops = WriteOps::new();
    ops.put(Family::Log, b"k".to_vec(), &b"first"[..]);
    ops.delete(Family::Log, b"k".to_vec());
    ops.put(Family::Log, b"k".to_vec(), &b"second"[..]);
    ops.put(Family::Log, b"gone".to_vec(), &b"x"[..]);
    ops.delete_range(Family::Log, b"g".to_vec(), b"h".to_vec());
    engine.write(&ops).expect("writes");
    assert_eq!(
        engine.get(Family::Log, b"k").expect("gets").as_deref(),
        Some(&b"second"[..])
    );
    assert_eq!(engine.get(Family::Log, b"gone").expect("gets"), None);
    engine
        .write(&WriteOps::new())
        .expect("an empty write is none");
    clear(engine);
}

fn ranges_are_half_open(engine: &dyn Engine) {
    for key in [b"a", b"b", b"c", b"d"] {
        put(engine, Family::Log, key, key);
    }
    let mut ops = WriteOps::new();
    ops.delete_range(Family::Log, b"b".to_vec(), b"d".to_vec());
    ops.delete_range(Family::Log, b"d".to_vec(), b"a".to_vec());
    engine.write(&ops).expect("writes");
    let keys: Vec<_> = all(engine, Family::Log, Start::At(b"a"), b"z")
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys, [b"a".to_vec(), b"d".to_vec()]);
    assert_eq!(all(engine, Family::Log, Start::At(b"a"), b"d").len(), 1);
    assert_eq!(all(engine, Family::Log, Start::At(b"d"), b"d").len(), 0);
    let last = engine.last(Family::Log, b"a", b"d").expect("reads");
    assert_eq!(last.expect("there is one").0, b"a");
    assert!(
        engine
            .last(Family::Log, b"b", b"d")
            .expect("reads")
            .is_none()
    );
    assert!(
        engine
            .last(Family::Log, b"z", b"a")
            .expect("reads")
            .is_none()
    );
    clear(engine);
}

fn scans_start_at_or_below_a_key(engine: &dyn Engine) {
    for key in [b"a1", b"b1", b"b3", b"b5", b"c1"] {
        put(engine, Family::Log, key, b"");
    }
    let first = |key: &[u8]| {
        let mut found = None;
        engine
            .scan(
                Family::Log,
                Start::Floor { key, lower: b"b" },
                b"c",
                &mut |key, _| {
                    found = Some(key.to_vec());
                    ControlFlow::Break(())
                },
            )
            .expect("scans");
        let mut walked = None;
        let start = Start::Floor { key, lower: b"b" };
        let mut visit = |key: &[u8], _: &mut dyn Unread| {
            walked = Some(key.to_vec());
            Ok(ControlFlow::Break(()))
        };
        let walk = engine.walk(Family::Log, start, b"c", NOW, &mut visit);
        walk.expect("walks");
        assert_eq!(walked, found);
        found
    };
    assert_eq!(first(b"b3").as_deref(), Some(&b"b3"[..]));
    assert_eq!(first(b"b4").as_deref(), Some(&b"b3"[..]));
    assert_eq!(first(b"b9").as_deref(), Some(&b"b5"[..]));
    assert_eq!(
        first(b"b0").as_deref(),
        Some(&b"b1"[..]),
        "nothing at or below"
    );
    clear(engine);
    assert_eq!(first(b"b3"), None, "nothing at all");
}

fn everything_is_there_after_reopening(open: &mut Open<'_>) {
    {
        let engine = open();
        for family in Family::ALL {
            put(engine.as_ref(), family, b"stays", family.name().as_bytes());
        }
        engine.sync().expect("syncs");
        put(engine.as_ref(), Family::Log, b"unsynced", b"x");
        engine.sync().expect("syncs");
    }
    let engine = open();
    for family in Family::ALL {
        let value = engine.get(family, b"stays").expect("gets").expect("stays");
        assert_eq!(value, family.name().as_bytes());
    }
    assert!(
        engine
            .get(Family::Log, b"unsynced")
            .expect("gets")
            .is_some()
    );
    clear(engine.as_ref());
}

fn equals_an_ordered_map(open: &mut Open<'_>) {
    let seed = 20;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for _ in 0..4 {
        let engine = open();
        for _ in 0..300 {
            let mut ops = WriteOps::new();
            for _ in 0..rng.usize(1..6) {
                let mut key = || vec![rng.u8(0..8), rng.u8(0..8)];
                let (one, two) = (key(), key());
                match rng.u8(0..10) {
                    0 => {
                        ops.delete(Family::Log, one.clone());
                        model.remove(&one);
                    }
                    1 => {
                        let (from, to) = if one < two { (one, two) } else { (two, one) };
                        ops.delete_range(Family::Log, from.clone(), to.clone());
                        model.retain(|key, _| *key < from || *key >= to);
                    }
                    _ => {
                        let value = value(&mut rng);
                        ops.put(Family::Log, one.clone(), value.clone());
                        model.insert(one, value);
                    }
                }
            }
            engine.write(&ops).expect("writes");
        }
        let expected: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(
            all(engine.as_ref(), Family::Log, Start::At(&[]), &[0xff]),
            expected
        );
        let last = engine.last(Family::Log, &[], &[0xff]).expect("reads");
        assert_eq!(
            last.map(|(key, value)| (key, value.to_vec())),
            expected.last().cloned()
        );
    }
    clear(open().as_ref());
}

fn a_walk_ends_with_the_error_of_who_walks(engine: &dyn Engine) {
    for key in [b"a", b"b", b"c"] {
        put(engine, Family::Log, key, key);
    }
    let mut seen = 0;
    let walked = engine.walk(Family::Log, Start::At(b"a"), b"z", NOW, &mut |_, _| {
        seen += 1;
        match seen {
            2 => Err(Untaken::Engine(EngineError::Io("enough".to_owned()))),
            _ => Ok(ControlFlow::Continue(())),
        }
    });
    assert_eq!(walked, Err(EngineError::Io("enough".to_owned())));
    assert_eq!(seen, 2);
    // Who does not wait is told that it would have to, or nothing else than who waits.
    let mut now = Vec::new();
    let patience = (Patience::None, NOW.1);
    let walked = engine.walk(
        Family::Log,
        Start::At(b"a"),
        b"z",
        patience,
        &mut |key, _| {
            now.push(key.to_vec());
            Ok(ControlFlow::Continue(()))
        },
    );
    assert!(walked == Ok(Walked::Waits) || (walked == Ok(Walked::Ended) && now.len() == 3));
    clear(engine);
}

fn reclaiming_changes_nothing_that_can_be_read(open: &mut Open<'_>) {
    let seed = 21;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut engine = open();
    for round in 0..12 {
        for _ in 0..100 {
            let key = vec![rng.u8(0..8), rng.u8(0..16)];
            let value = value(&mut rng);
            put(engine.as_ref(), Family::Log, &key, &value);
            model.insert(key, value);
        }
        let (one, two) = (vec![rng.u8(0..8)], vec![rng.u8(0..9)]);
        let (from, to) = if one < two { (one, two) } else { (two, one) };
        let mut ops = WriteOps::new();
        ops.delete_range(Family::Log, from.clone(), to.clone());
        engine.write(&ops).expect("writes");
        model.retain(|key, _| *key < from || *key >= to);
        engine.compact(&from, &to).expect("compacts");
        engine.compact(&to, &from).expect("nothing to compact");
        if round % 3 == 0 {
            let files = engine.value_files().expect("tells");
            let end = rng.choice(&files).map_or(0, |file| file.number);
            engine.collect(end).expect("collects");
        }
        let space = engine.space().expect("tells");
        assert!(space.garbage_bytes <= space.value_bytes);
        let files = engine.value_files().expect("tells");
        let sum = |of: fn(&ValueFile) -> u64| files.iter().map(of).sum::<u64>();
        assert_eq!(sum(|file| file.bytes), space.value_bytes);
        assert_eq!(sum(|file| file.garbage_bytes), space.garbage_bytes);
        assert!(files.is_sorted_by(|one, two| one.number < two.number));
        if round % 4 == 3 {
            drop(engine);
            engine = open();
        }
        let expected: Vec<_> = model.clone().into_iter().collect();
        let held = all(engine.as_ref(), Family::Log, Start::At(&[]), &[0xff]);
        assert_eq!(held, expected, "round {round}");
    }
    clear(engine.as_ref());
    engine.compact(&[], &[0xff; 32]).expect("compacts");
    engine.collect(u64::MAX).expect("collects");
    let space = engine.space().expect("tells");
    assert_eq!(space.value_bytes, 0, "{space:?}");
}
