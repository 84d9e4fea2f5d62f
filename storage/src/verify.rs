//! Reads what a log holds and says what is wrong with it: for the background scrub of a running broker, and for
//! `ottla check`. Reads only; RocksDB's checksums are verified by the reading itself, the batches' own here.
//!
//! A damaged block or value, or one on a bad sector, ends a scan, and which keys it held is not known. So the first readable key behind it is
//! searched by halves, and the batches between are told as one problem.

use std::fmt;
use std::ops::ControlFlow;

use ottla_protocol::batch::{self, BatchHeader};

use crate::engine::{Engine, Family, Start};
use crate::error::EngineError;
use crate::keys::{self, Handle, PartitionId};

/// Something wrong in the log of one partition, or in the store around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Batches that the store cannot read.
    Unreadable {
        /// No batch from this offset on can be read,
        from: i64,
        /// until the one that begins here; `None`: up to the end.
        until: Option<i64>,
        /// The store's answer.
        why: String,
    },
    /// A batch that is not as it was written.
    Batch {
        /// The base offset in its key.
        offset: i64,
        /// What does not hold.
        why: String,
    },
    /// A key, or the value of one, that nothing here would write.
    Derived {
        /// Of what it is.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Problem {
    /// Where the batch is that it is about.
    pub fn offset(&self) -> Option<i64> {
        match self {
            Self::Unreadable { from, .. } => Some(*from),
            Self::Batch { offset, .. } => Some(*offset),
            Self::Derived { .. } => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable {
                from,
                until: Some(until),
                why,
            } => write!(
                f,
                "offsets from {from} to before {until} cannot be read: {why}"
            ),
            Self::Unreadable { from, why, .. } => {
                write!(f, "offsets from {from} on cannot be read: {why}")
            }
            Self::Batch { offset, why } => write!(f, "the batch at offset {offset}: {why}"),
            Self::Derived { what, why } => write!(f, "{what}: {why}"),
        }
    }
}

/// Where a walk goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// At the batch that begins here, or after.
    pub from: i64,
    /// No batch may begin before this: one that was read reaches so far.
    pub floor: i64,
}

/// How far a walk over the batches of a partition came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    /// Batches read.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where to go on; `None` at the end of the log.
    pub next: Option<Place>,
}

/// Checks one batch under the key of `offset`; the offset after it.
fn check_batch(offset: i64, value: &[u8]) -> Result<i64, String> {
    let header = BatchHeader::parse(value).map_err(|error| error.to_string())?;
    if header.total_len() != value.len() {
        return Err(format!(
            "its length is {}, but {} bytes are stored",
            header.total_len(),
            value.len()
        ));
    }
    if header.base_offset != offset {
        return Err(format!("its base offset is {}", header.base_offset));
    }
    if !batch::crc_matches(value) {
        return Err("its CRC-32C does not match".to_owned());
    }
    Ok(header.next_offset())
}

/// Why something cannot be read. An i/o error counts as damage: nothing is written here, so it is one of a read.
fn unreadable(error: EngineError) -> Result<String, EngineError> {
    match error {
        EngineError::Corruption(why) | EngineError::Io(why) => Ok(why),
        error @ (EngineError::Full(_) | EngineError::Failed(_)) => Err(error),
    }
}

/// Walks the batches of a partition from `place` on, until about `max_bytes` were read. A log may be cut and written
/// anew between two walks: then the second one must not have the floor of the first.
///
/// # Errors
/// Of the store that are no damage.
pub fn batches(
    engine: &dyn Engine,
    handle: Handle,
    mut place: Place,
    max_bytes: u64,
    report: &mut dyn FnMut(Problem),
) -> Result<Walked, EngineError> {
    let mut walked = Walked::default();
    loop {
        let (lower, to) = keys::batches(handle, place.from);
        let scanned = engine.scan(Family::Log, Start::At(&lower), &to, &mut |key, value| {
            let Some(offset) = keys::parse_batch(key) else {
                let why = "a key of another layout".to_owned();
                report(Problem::Derived { what: "batch", why });
                return ControlFlow::Continue(());
            };
            walked.batches += 1;
            walked.bytes += value.len() as u64;
            let reached = place.floor;
            let checked = check_batch(offset, value).and_then(|end| {
                if offset < reached {
                    return Err(format!(
                        "the batch before it goes to offset {}",
                        reached - 1
                    ));
                }
                Ok(end)
            });
            place.from = offset.saturating_add(1);
            match checked {
                Ok(end) => place.floor = end,
                Err(why) => {
                    report(Problem::Batch { offset, why });
                    place.floor = reached.max(place.from);
                }
            }
            if walked.bytes >= max_bytes {
                walked.next = Some(place);
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match scanned {
            Ok(()) => return Ok(walked),
            Err(error) => {
                let why = unreadable(error)?;
                let from = place.from.max(place.floor);
                let until = readable_from(engine, handle, from)?;
                report(Problem::Unreadable { from, until, why });
                let Some(until) = until else {
                    return Ok(walked);
                };
                place = Place {
                    from: until,
                    floor: until,
                };
            }
        }
    }
}

/// The base offset of the first batch that can be read after `damaged`, which cannot.
fn readable_from(
    engine: &dyn Engine,
    handle: Handle,
    damaged: i64,
) -> Result<Option<i64>, EngineError> {
    let first_at = |offset: i64| -> Result<Result<Option<i64>, ()>, EngineError> {
        let (lower, to) = keys::batches(handle, offset);
        let mut found = None;
        let scanned = engine.scan(Family::Log, Start::At(&lower), &to, &mut |key, _| {
            found = keys::parse_batch(key);
            ControlFlow::Break(())
        });
        match scanned {
            Ok(()) => Ok(Ok(found)),
            Err(error) => unreadable(error).map(|_| Err(())),
        }
    };
    // From `low` on nothing can be read; from `high` on it can.
    let (mut low, mut step) = (damaged, 1_i64);
    let (mut high, mut found) = loop {
        let Some(at) = damaged.checked_add(step) else {
            return Ok(None);
        };
        match first_at(at)? {
            Ok(found) => break (at, found),
            Err(()) => low = at,
        }
        step = match step.checked_mul(2) {
            Some(step) => step,
            None => return Ok(None),
        };
    };
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match first_at(middle)? {
            Ok(first) => (high, found) = (middle, first),
            Err(()) => low = middle,
        }
    }
    Ok(found)
}

/// Checks everything of a partition but its batches: every key and every value has its layout. Ends early once
/// `stopping` says so.
///
/// # Errors
/// Of the store that are no damage.
pub fn derived(
    engine: &dyn Engine,
    handle: Handle,
    stopping: &dyn Fn() -> bool,
    report: &mut dyn FnMut(Problem),
) -> Result<(), EngineError> {
    let (from, to) = keys::partition(handle);
    let (batches, after) = keys::batches(handle, 0);
    for (from, to) in [(from, batches), (after, to)] {
        let scanned = engine.scan(Family::Log, Start::At(&from), &to, &mut |key, value| {
            if !keys::is_derived(key, value) {
                report(Problem::Derived {
                    what: keys::kind_name(key),
                    why: format!(
                        "a key of {} and a value of {} bytes",
                        key.len(),
                        value.len()
                    ),
                });
            }
            if stopping() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if let Err(error) = scanned {
            let why = unreadable(error)?;
            let what = "derived keys";
            report(Problem::Derived { what, why });
        }
    }
    Ok(())
}

/// Every partition that the log knows, with its handle; and whether the counter of handles is as it should be.
///
/// # Errors
/// The store's; damage as well, because nothing can be said without them.
pub fn bindings(
    engine: &dyn Engine,
    report: &mut dyn FnMut(Problem),
) -> Result<Vec<(PartitionId, Handle)>, EngineError> {
    let mut bindings = Vec::new();
    let (from, to) = keys::bindings();
    engine.scan(Family::Log, Start::At(&from), &to, &mut |key, value| {
        match (keys::parse_binding(key), keys::parse_handle(value)) {
            (Some(id), Some(handle)) => bindings.push((id, handle)),
            _ => report(Problem::Derived {
                what: "binding",
                why: format!(
                    "a key of {} and a value of {} bytes",
                    key.len(),
                    value.len()
                ),
            }),
        }
        ControlFlow::Continue(())
    })?;
    let counter = engine.get(Family::Log, &keys::next_handle())?;
    let counter = counter.as_deref().and_then(keys::parse_handle);
    let greatest = bindings.iter().map(|(_, handle)| *handle).max();
    if greatest.is_some_and(|greatest| counter.is_none_or(|counter| counter <= greatest)) {
        report(Problem::Derived {
            what: "next handle",
            why: "a handle would be given away twice".to_owned(),
        });
    }
    Ok(bindings)
}

#[cfg(test)]
mod tests {
    use ottla_protocol::batch::BatchBuilder;

    use super::*;
    use crate::directory::TempDir;
    use crate::engine::WriteOps;
    use crate::memory::MemoryEngine;
    use crate::rocks::{RocksEngine, RocksOptions};

    fn put(engine: &MemoryEngine, key: Vec<u8>, value: Vec<u8>) {
        let mut ops = WriteOps::new();
        ops.put(Family::Log, key, value);
        engine.write(&ops).expect("writes");
    }

    fn stored(offset: i64, records: i64) -> Vec<u8> {
        let mut builder = BatchBuilder::new(7);
        for _ in 0..records {
            builder = builder.record(7, None, Some(&[b'x'; 100]), &[]);
        }
        let mut bytes = builder.build().to_vec();
        batch::stamp(&mut bytes, offset, 0);
        bytes
    }

    fn problems(engine: &MemoryEngine, handle: Handle) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut next = Some(Place::default());
        while let Some(place) = next {
            next = batches(engine, handle, place, 300, &mut |problem| {
                problems.push(problem)
            })
            .expect("reads")
            .next;
        }
        derived(engine, handle, &|| false, &mut |problem| {
            problems.push(problem)
        })
        .expect("reads");
        problems
    }

    #[test]
    fn what_was_written_is_in_order_and_what_was_changed_is_told_with_its_offset() {
        let engine = MemoryEngine::new();
        let handle = Handle(7);
        // Gaps are what compaction leaves.
        for (offset, records) in [(0, 2), (2, 1), (10, 3), (20, 1)] {
            put(
                &engine,
                keys::batch(handle, offset),
                stored(offset, records),
            );
        }
        put(&engine, keys::start(handle), keys::start_value(0, 0));
        put(
            &engine,
            keys::epoch(handle, 3),
            keys::epoch_value(0).to_vec(),
        );
        put(&engine, keys::time(handle, 7, 0), Vec::new());
        assert_eq!(problems(&engine, handle), []);
        assert_eq!(problems(&engine, Handle(8)), [], "another one");

        let mut changed = stored(2, 1);
        *changed.last_mut().expect("bytes") ^= 1;
        put(&engine, keys::batch(handle, 2), changed);
        let found = problems(&engine, handle);
        assert!(
            matches!(&found[..], [Problem::Batch { offset: 2, why }] if why.contains("CRC")),
            "{found:?}"
        );
        put(&engine, keys::batch(handle, 2), stored(2, 1));
        put(&engine, keys::batch(handle, 11), stored(11, 1));
        let found = problems(&engine, handle);
        assert!(
            matches!(&found[..], [Problem::Batch { offset: 11, why }] if why.contains("12")),
            "{found:?}"
        );
        put(&engine, keys::batch(handle, 11), stored(2, 1));
        assert_eq!(
            problems(&engine, handle).len(),
            1,
            "the offset of another key"
        );
        put(&engine, keys::batch(handle, 11), b"short".to_vec());
        assert_eq!(problems(&engine, handle).len(), 1);
        put(&engine, keys::epoch(handle, 3), b"1".to_vec());
        assert_eq!(problems(&engine, handle).len(), 2);
    }

    #[test]
    fn what_cannot_be_read_is_told_from_its_first_offset_to_the_next_readable_one() {
        let dir = TempDir::new("verify-rocks");
        let handle = Handle(7);
        let open = || RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens");
        let engine = open();
        for offset in 0..300 {
            let mut builder = BatchBuilder::new(7);
            builder = builder.record(7, None, Some(&[offset as u8; 3_000]), &[]);
            let mut bytes = builder.build().to_vec();
            batch::stamp(&mut bytes, offset, 0);
            let mut ops = WriteOps::new();
            ops.put(Family::Log, keys::batch(handle, offset), bytes);
            engine.write(&ops).expect("writes");
        }
        engine.settle(false);
        drop(engine);
        let entries = std::fs::read_dir(dir.path().join("log")).expect("lists");
        let blob = entries
            .map(|entry| entry.expect("entry").path())
            .find(|path| path.extension().is_some_and(|end| end == "blob"))
            .expect("large values are in a blob file");
        let mut bytes = std::fs::read(&blob).expect("reads");
        // Values lie in the order of their keys.
        for offset in [100, 101, 250] {
            let at = bytes.len() * offset / 300 + 1_500;
            bytes[at] ^= 1;
        }
        std::fs::write(&blob, bytes).expect("writes");
        let engine = open();
        let mut problems = Vec::new();
        let walked = batches(
            &engine,
            handle,
            Place::default(),
            u64::MAX,
            &mut |problem| {
                problems.push(problem);
            },
        );
        let ranges: Vec<_> = problems
            .iter()
            .map(|problem| match problem {
                Problem::Unreadable { from, until, .. } => (*from, *until),
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(ranges, [(100, Some(102)), (250, Some(251))]);
        assert_eq!(walked.expect("reads").batches, 297);
    }

    #[test]
    fn a_bad_sector_is_told_with_its_place_and_what_lies_behind_it_is_read() {
        let engine = MemoryEngine::new();
        let handle = Handle(7);
        for offset in 0..10 {
            put(&engine, keys::batch(handle, offset), stored(offset, 1));
        }
        put(&engine, keys::epoch(handle, 3), keys::epoch_value(0).into());
        let sector = EngineError::Io("Input/output error".to_owned());
        for offset in [3, 4] {
            let key = keys::batch(handle, offset);
            engine.fail_reads_of(Family::Log, &key, sector.clone());
        }
        // Behind it.
        let mut changed = stored(8, 1);
        *changed.last_mut().expect("bytes") ^= 1;
        put(&engine, keys::batch(handle, 8), changed);
        engine.fail_reads_of(Family::Log, &keys::epoch(handle, 3), sector);
        let found = problems(&engine, handle);
        assert!(
            matches!(
                &found[..],
                [
                    Problem::Unreadable { from: 3, until: Some(5), why },
                    Problem::Batch { offset: 8, .. },
                    Problem::Derived { .. },
                ] if why.contains("Input/output")
            ),
            "{found:?}"
        );
    }

    #[test]
    fn a_look_at_what_is_beside_the_batches_ends_when_it_is_told_to() {
        let engine = MemoryEngine::new();
        let handle = Handle(7);
        for epoch in 0..100 {
            put(&engine, keys::epoch(handle, epoch), b"1".to_vec());
        }
        let problems = std::cell::Cell::new(0);
        let mut report = |_| problems.set(problems.get() + 1);
        let stopping = || problems.get() == 10;
        derived(&engine, handle, &stopping, &mut report).expect("reads");
        assert_eq!(problems.get(), 10);
    }

    #[test]
    fn a_handle_that_could_be_given_away_twice_is_told() {
        let engine = MemoryEngine::new();
        put(
            &engine,
            keys::binding(PartitionId::METADATA),
            keys::handle_value(Handle(1)),
        );
        for (counter, said) in [(2, 0), (1, 1)] {
            put(
                &engine,
                keys::next_handle(),
                keys::handle_value(Handle(counter)),
            );
            let mut problems = 0;
            let found = bindings(&engine, &mut |_| problems += 1).expect("reads");
            assert_eq!(found, [(PartitionId::METADATA, Handle(1))]);
            assert_eq!(problems, said);
        }
    }
}
