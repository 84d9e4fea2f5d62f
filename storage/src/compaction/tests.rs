//! When a log is due, and a round's filter held against a plain model: lists of records, and what Kafka's rules say of
//! them in the simplest words.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use bytes::Bytes;
use ottla_protocol::batch::{self, BatchBuilder, BatchHeader, crc_matches};
use ottla_protocol::records::for_each_record;

use super::pass::Tally;
use super::*;
use crate::producers::AbortedTransaction;

const CONFIG: CompactionConfig = CompactionConfig {
    min_cleanable_dirty_ratio: 0.5,
    min_compaction_lag_ms: 0,
    max_compaction_lag_ms: i64::MAX,
    delete_retention_ms: 100,
};

fn cleanable(clean_bytes: u64, dirty_bytes: u64) -> Cleanable {
    Cleanable {
        first_dirty: 0,
        first_uncleanable: 10,
        clean_bytes,
        dirty_bytes,
        dirty_since_ms: Some(1_000),
    }
}

#[test]
fn a_log_is_due_when_more_than_its_ratio_is_dirty() {
    assert!(!cleanable(50, 50).is_due(&CONFIG, 2_000));
    assert!(cleanable(49, 51).is_due(&CONFIG, 2_000));
    assert!(!cleanable(0, 0).is_due(&CONFIG, 2_000), "an empty log");
    let eager = CompactionConfig {
        min_cleanable_dirty_ratio: 0.0,
        ..CONFIG
    };
    assert!(cleanable(1 << 40, 1).is_due(&eager, 2_000));
    assert!(!cleanable(1 << 40, 0).is_due(&eager, 2_000));
}

#[test]
fn a_log_is_due_when_its_first_dirty_record_is_too_old() {
    let config = CompactionConfig {
        max_compaction_lag_ms: 500,
        ..CONFIG
    };
    assert!(!cleanable(99, 1).is_due(&config, 1_500));
    assert!(cleanable(99, 1).is_due(&config, 1_501));
    assert!(!cleanable(99, 0).is_due(&config, 9_000), "nothing is dirty");
    let timeless = Cleanable {
        dirty_since_ms: None,
        ..cleanable(99, 1)
    };
    assert!(!timeless.is_due(&config, 9_000));
}

#[test]
fn the_dirtiest_of_those_that_are_due_comes_first() {
    let candidates = [
        ("clean", cleanable(60, 40), CONFIG),
        ("dirty", cleanable(10, 90), CONFIG),
        ("less", cleanable(20, 80), CONFIG),
    ];
    let found = dirtiest(candidates, 2_000).map(|(log, _)| log);
    assert_eq!(found, Some("dirty"));
    assert_eq!(dirtiest([candidates[0]], 2_000), None);
}

#[test]
fn a_reached_offset_outside_of_the_log_counts_as_none() {
    assert_eq!(first_dirty(7, 5, 10), 7);
    assert_eq!(first_dirty(4, 5, 10), 5, "the log begins later");
    assert_eq!(first_dirty(11, 5, 10), 5, "the log ends before");
    assert_eq!(first_dirty(10, 5, 10), 10, "all of it is clean");
}

#[test]
fn only_a_lag_makes_records_too_young() {
    assert_eq!(too_young_from(&CONFIG, 1_000), None);
    let lagging = CompactionConfig {
        min_compaction_lag_ms: 300,
        ..CONFIG
    };
    // Kafka's `findFirstUncleanableSegment`: younger than, not as young as.
    assert_eq!(too_young_from(&lagging, 1_000), Some(701));
}

/// Offset, key and value.
type Record = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

/// A batch in the log, as the model has it.
#[derive(Debug, Clone)]
struct Plain {
    header: BatchHeader,
    bytes: Bytes,
    records: Vec<Record>,
    /// Commit or abort.
    marker: Option<bool>,
}

impl Plain {
    fn of(bytes: Bytes) -> Self {
        let header = BatchHeader::parse(&bytes).expect("a batch");
        assert!(crc_matches(&bytes));
        let mut records = Vec::new();
        for_each_record(&bytes, usize::MAX, |record| {
            let offset = header.base_offset + i64::from(record.offset_delta);
            let owned = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
            records.push((offset, owned(record.key), owned(record.value)));
            ControlFlow::Continue(())
        })
        .expect("reads");
        let marker = header.is_control().then(|| {
            let key = records.first().and_then(|(_, key, _)| key.as_deref());
            key.map(|key| key[3] == 1)
        });
        Self {
            marker: marker.flatten(),
            header,
            bytes,
            records,
        }
    }
}

/// A log with transactions, tombstones and a producer's numbers, made at random.
struct Story {
    rng: fastrand::Rng,
    log: Vec<Plain>,
    end: i64,
    /// Open transactions by producer.
    open: BTreeMap<i64, i64>,
    aborted: Vec<AbortedTransaction>,
    sequences: BTreeMap<i64, i32>,
}

impl Story {
    fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            log: Vec::new(),
            end: 0,
            open: BTreeMap::new(),
            aborted: Vec::new(),
            sequences: BTreeMap::new(),
        }
    }

    fn push(&mut self, builder: BatchBuilder) {
        let mut bytes = builder.build().to_vec();
        batch::stamp(&mut bytes, self.end, 3);
        let plain = Plain::of(bytes.into());
        self.end = plain.header.next_offset();
        self.log.push(plain);
    }

    fn grow(&mut self, batches: usize) {
        for _ in 0..batches {
            // Plain, idempotent or transactional.
            let producer = self.rng.i64(-1..6);
            let transactional = producer >= 3;
            if transactional && self.open.contains_key(&producer) && self.rng.bool() {
                self.end_transaction(producer);
                continue;
            }
            if transactional {
                self.open.entry(producer).or_insert(self.end);
            }
            let count = self.rng.usize(1..5);
            let mut builder = BatchBuilder::new(1_000);
            if producer >= 0 {
                let sequence = self.sequences.entry(producer).or_default();
                builder = builder.producer(producer, 0, *sequence);
                *sequence += count as i32;
            }
            builder = builder.transactional(transactional);
            for _ in 0..count {
                let key = [b'a' + self.rng.u8(0..7)];
                let key = (self.rng.u8(0..40) > 0).then_some(&key[..]);
                let value = self.rng.u8(..).to_be_bytes();
                let value = (self.rng.u8(0..4) > 0).then_some(&value[..]);
                builder = builder.record(self.rng.i64(0..2_000), key, value, &[]);
            }
            self.push(builder);
        }
    }

    fn end_transaction(&mut self, producer: i64) {
        let first_offset = self.open.remove(&producer).expect("it is open");
        let commit = self.rng.bool();
        if !commit {
            self.aborted.push(AbortedTransaction {
                producer_id: producer,
                first_offset,
                last_offset: self.end,
                last_stable_offset: self.end,
            });
        }
        let key = [0, 0, 0, u8::from(commit)];
        let builder = BatchBuilder::new(1_000)
            .producer(producer, 0, -1)
            .transactional(true)
            .control(true)
            .record(1_000, Some(&key), Some(&[0; 6]), &[]);
        self.push(builder);
    }

    fn last_stable(&self) -> i64 {
        self.open.values().copied().min().unwrap_or(self.end)
    }

    /// Offset and epoch of each producer's newest batch.
    fn last_records(&self) -> HashMap<i64, LastRecord> {
        let mut found = HashMap::new();
        for held in &self.log {
            if held.header.producer_id < 0 {
                continue;
            }
            let last = found.entry(held.header.producer_id).or_insert(LastRecord {
                offset: None,
                epoch: 0,
            });
            if !held.header.is_control() {
                last.offset = Some(held.header.last_offset());
            }
        }
        found
    }

    /// The transaction that a batch of data belongs to, by the offset of its marker; and whether that aborts.
    fn transaction(&self, held: &Plain) -> Option<(i64, bool)> {
        let header = &held.header;
        if !header.is_transactional() || header.is_control() {
            return None;
        }
        self.log
            .iter()
            .filter(|other| other.header.producer_id == header.producer_id)
            .find(|other| {
                other.header.is_control() && other.header.base_offset > header.base_offset
            })
            .map(|other| {
                let end = other.header.base_offset;
                (end, self.aborted.iter().any(|held| held.last_offset == end))
            })
    }
}

/// Runs a round by the code under test: what the log is then, where it ended, and what was forgotten.
fn run(
    story: &Story,
    map_bytes: usize,
    begin: i64,
    reach: Reach,
) -> (Vec<Plain>, i64, Vec<AbortedTransaction>, Tally) {
    let mut map = OffsetMap::new(map_bytes, 0.9, u64::MAX);
    let aborted = story.aborted.iter().copied();
    let later = aborted.filter(|held| held.last_offset >= begin).collect();
    let mut transactions = Transactions::new(later);
    let mut full = false;
    let dirty = story.log.iter().filter(|held| {
        held.header.last_offset() >= begin && held.header.base_offset < reach.first_uncleanable
    });
    for held in dirty {
        if !map_batch(
            &mut map,
            &mut transactions,
            &held.header,
            &held.bytes,
            begin,
        )
        .expect("maps")
        {
            full = true;
            break;
        }
    }
    let end = if full {
        map.latest() + 1
    } else {
        reach.first_uncleanable
    };
    map.reached(end - 1);
    let mut pass = Pass::new(map, story.aborted.clone(), story.last_records(), reach);
    let mut left = Vec::new();
    for held in &story.log {
        if held.header.base_offset >= end {
            left.push(held.clone());
            continue;
        }
        match pass.batch(&held.header, &held.bytes).expect("filters") {
            Fate::Keep => left.push(held.clone()),
            Fate::Replace(bytes) => {
                assert_ne!(bytes, held.bytes, "a replacement that changes nothing");
                left.push(Plain::of(bytes));
            }
            Fate::Remove => {}
        }
    }
    let tally = pass.tally();
    (left, end, pass.take_forgotten(), tally)
}

/// What the rules say, record by record, of a log of which `begin..end` was mapped.
fn survivors(story: &Story, begin: i64, end: i64, reach: &Reach) -> Vec<(i64, Option<Vec<u8>>)> {
    let aborted = |held: &Plain| story.transaction(held).is_some_and(|(_, aborted)| aborted);
    let mut newest: BTreeMap<&[u8], i64> = BTreeMap::new();
    for held in &story.log {
        if held.header.is_control() || aborted(held) {
            continue;
        }
        for (offset, key, _) in &held.records {
            if let Some(key) = key
                && (begin..end).contains(offset)
            {
                newest.insert(key, *offset);
            }
        }
    }
    let mut found = Vec::new();
    for held in &story.log {
        let due = held
            .header
            .delete_horizon_ms()
            .is_some_and(|at_ms| at_ms <= reach.now_ms);
        for (offset, key, value) in &held.records {
            let stays = if held.header.base_offset >= end {
                true
            } else if held.header.is_control() {
                let own = held.header.producer_id;
                let data_left = story.log.iter().any(|other| {
                    other.header.producer_id == own
                        && story.transaction(other).map(|(end, _)| end)
                            == Some(held.header.base_offset)
                });
                data_left || !due
            } else if aborted(held) {
                false
            } else if *offset >= end {
                true
            } else {
                match key {
                    None => false,
                    Some(key) => {
                        let newest = newest.get(key.as_slice()).copied().unwrap_or(-1);
                        *offset >= newest && (value.is_some() || !due)
                    }
                }
            };
            if stays {
                found.push((*offset, value.clone()));
            }
        }
    }
    found
}

#[test]
fn any_log_keeps_what_the_rules_say_round_after_round() {
    for seed in 0..3_000 {
        let mut story = Story::new(seed);
        let batches = story.rng.usize(1..25);
        story.grow(batches);
        let mut begin = 0;
        let mut now_ms = 10_000;
        for round in 0..4 {
            let what = format!("seed {seed} round {round}");
            let reach = Reach {
                first_uncleanable: story.last_stable(),
                now_ms,
                delete_retention_ms: CONFIG.delete_retention_ms,
            };
            let map_bytes = [24 * 3, 24 * 6, 1 << 20][story.rng.usize(0..3)];
            let (left, end, forgotten, tally) = run(&story, map_bytes, begin, reach);
            assert!(end > begin || end == reach.first_uncleanable, "{what}");
            let expected = survivors(&story, begin, end, &reach);
            let found: Vec<_> = left
                .iter()
                .flat_map(|held| &held.records)
                .map(|(offset, _, value)| (*offset, value.clone()))
                .collect();
            assert_eq!(found, expected, "{what}");
            check_places(&story, &left, end, &reach, &what);
            check_horizons(&story, &left, end, &reach, &what);
            check_forgotten(&story, &left, end, &forgotten, &what);
            let below: u64 = left
                .iter()
                .filter(|held| held.header.base_offset < end)
                .map(|held| held.records.len() as u64)
                .sum();
            assert_eq!(tally.records_kept, below, "{what}");
            story.aborted.retain(|held| !forgotten.contains(held));
            story.log = left;
            begin = end;
            let more = story.rng.usize(0..6);
            story.grow(more);
            now_ms += story.rng.i64(0..150);
        }
    }
}

/// Batches stay at their places, and those that are needed without records are there.
fn check_places(story: &Story, left: &[Plain], end: i64, reach: &Reach, what: &str) {
    let place = |held: &Plain| {
        let header = &held.header;
        (
            (header.base_offset, header.last_offset()),
            (
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
            ),
            header.partition_leader_epoch,
        )
    };
    let mut before = story.log.iter();
    for held in left {
        let found = before.find(|old| old.header.base_offset == held.header.base_offset);
        assert_eq!(found.map(place), Some(place(held)), "{what}: in order");
    }
    let ends = |log: &[Plain]| log.last().map(|held| held.header.next_offset());
    assert_eq!(
        ends(left),
        ends(&story.log),
        "{what}: the log ends where it did"
    );
    let is_there = |offset: i64| {
        left.iter()
            .any(|held| held.header.last_offset() == offset && !held.header.is_control())
    };
    for (producer, last) in story.last_records() {
        if let Some(offset) = last.offset {
            assert!(is_there(offset), "{what}: the last batch of {producer}");
        }
    }
    let newest = story.last_records();
    for held in left.iter().filter(|held| held.header.base_offset < end) {
        if held.records.is_empty() {
            let header = &held.header;
            let last = newest.get(&header.producer_id);
            let needed = last.is_some_and(|last| match last.offset {
                Some(offset) => offset == header.last_offset(),
                None => header.is_control(),
            });
            assert!(
                needed || header.next_offset() == reach.first_uncleanable,
                "{what}: nobody needs the empty batch at {}",
                header.base_offset
            );
        }
    }
}

/// Tombstones below the end have a delete horizon, set once.
fn check_horizons(story: &Story, left: &[Plain], end: i64, reach: &Reach, what: &str) {
    let horizon_before: BTreeMap<i64, Option<i64>> = story
        .log
        .iter()
        .map(|held| (held.header.base_offset, held.header.delete_horizon_ms()))
        .collect();
    for held in left.iter().filter(|held| held.header.base_offset < end) {
        if held.records.is_empty() {
            continue;
        }
        let horizon = held.header.delete_horizon_ms();
        match horizon_before[&held.header.base_offset] {
            Some(set) => assert_eq!(horizon, Some(set), "{what}: set once"),
            None => {
                let tombstone = held.records.iter().any(|(_, _, value)| value.is_none());
                let new = Some(reach.now_ms + reach.delete_retention_ms);
                if tombstone {
                    assert_eq!(horizon, new, "{what}");
                } else if !held.header.is_control() {
                    assert_eq!(horizon, None, "{what}");
                }
            }
        }
    }
}

/// Whoever reads is told of every aborted transaction whose data is there, and of none whose marker is not.
fn check_forgotten(
    story: &Story,
    left: &[Plain],
    end: i64,
    forgotten: &[AbortedTransaction],
    what: &str,
) {
    for known in &story.aborted {
        let data = left.iter().any(|held| {
            let header = &held.header;
            header.producer_id == known.producer_id
                && (known.first_offset..known.last_offset).contains(&header.base_offset)
        });
        let marker = left
            .iter()
            .any(|held| held.header.base_offset == known.last_offset && held.marker == Some(false));
        if forgotten.contains(known) {
            assert!(!data, "{what}: data of {known:?}");
        } else if known.last_offset < end {
            assert!(marker, "{what}: the marker of {known:?}");
        }
    }
}
