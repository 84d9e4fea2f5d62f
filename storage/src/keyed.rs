//! A view of one partition of an internal topic: the newest record of every key, kept in families of `meta`, so
//! that a coordinator is loaded without reading the whole log. Owned by whoever runs the coordinator.
//!
//! A view is never the truth and never synced. Each family carries the offset up to which it was applied; at load
//! one that is of another data directory or ahead of the log is emptied, and whoever loads reads the log from the
//! least applied offset on. Applying records again, in log order, changes nothing in the end. So is one that has not
//! seen a tombstone which the log cleaner has removed since: it would keep the key for ever.
//!
//! ```text
//! applied  handle:4 | 0x00              -> version:1 | directory_id:16 | next_offset:8
//! record   handle:4 | 0x01 | record key -> record value
//! ```

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::engine::{Engine, Family, Start, WriteOps};
use crate::error::StorageError;
use crate::keys::{self, Handle};

const APPLIED: u8 = 0x00;
const RECORD: u8 = 0x01;
const END: u8 = 0x02;

/// Version of the applied value's layout.
const VERSION: u8 = 0;

/// The view of one partition.
#[derive(Clone)]
pub struct View {
    engine: Arc<dyn Engine>,
    handle: Handle,
    directory_id: Uuid,
    families: &'static [Family],
}

/// What became of a key: its newest value, or none when it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where the key belongs.
    pub family: Family,
    /// The record's key.
    pub key: Vec<u8>,
    /// The record's value.
    pub value: Option<Bytes>,
}

impl View {
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        handle: Handle,
        directory_id: Uuid,
        families: &'static [Family],
    ) -> Self {
        Self {
            engine,
            handle,
            directory_id,
            families,
        }
    }

    /// Visits every record of the view and answers the offset from which the log has to be read. `end` is the end
    /// of what may be in it: a family that says more describes another log, and is emptied. Blocks on the disk.
    ///
    /// # Errors
    /// The store's.
    pub fn load(&self, end: i64, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<i64, StorageError> {
        let known = self.deletes_to()?..=end;
        let mut from = i64::MAX;
        for family in self.families {
            let applied = self
                .applied(*family)?
                .filter(|applied| known.contains(applied));
            let Some(applied) = applied else {
                self.empty(&[*family])?;
                from = 0;
                continue;
            };
            from = from.min(applied);
            let lower = self.key(RECORD, &[]);
            let to = self.key(END, &[]);
            self.engine
                .scan(*family, Start::At(&lower), &to, &mut |key, value| {
                    each(&key[lower.len()..], value);
                    ControlFlow::Continue(())
                })?;
        }
        Ok(from)
    }

    /// Takes over changes, and with them that everything below `next_offset` is in the view. Not synced: what a
    /// power cut takes is read from the log again.
    ///
    /// # Errors
    /// The store's.
    pub fn apply(
        &self,
        changes: impl IntoIterator<Item = Change>,
        next_offset: i64,
    ) -> Result<(), StorageError> {
        let mut ops = WriteOps::new();
        for Change { family, key, value } in changes {
            debug_assert!(self.families.contains(&family), "a family of another view");
            let key = self.key(RECORD, &key);
            match value {
                Some(value) => ops.put(family, key, value),
                None => ops.delete(family, key),
            }
        }
        let mut applied = vec![VERSION];
        applied.extend_from_slice(self.directory_id.as_bytes());
        applied.extend_from_slice(&next_offset.to_be_bytes());
        for family in self.families {
            ops.put(*family, self.key(APPLIED, &[]), applied.clone());
        }
        Ok(self.engine.write(&ops)?)
    }

    /// Empties the view: its partition is deleted.
    ///
    /// # Errors
    /// The store's.
    pub fn clear(&self) -> Result<(), StorageError> {
        self.empty(self.families)
    }

    fn empty(&self, families: &[Family]) -> Result<(), StorageError> {
        let mut ops = WriteOps::new();
        for family in families {
            ops.delete_range(*family, self.key(APPLIED, &[]), self.key(END, &[]));
        }
        Ok(self.engine.write(&ops)?)
    }

    fn applied(&self, family: Family) -> Result<Option<i64>, StorageError> {
        let value = self.engine.get(family, &self.key(APPLIED, &[]))?;
        Ok(value.and_then(|value| {
            let (version, rest) = value.split_first()?;
            let (directory, offset) = rest.split_at_checked(16)?;
            let known = *version == VERSION && directory == self.directory_id.as_bytes();
            known.then(|| offset.try_into().ok().map(i64::from_be_bytes))?
        }))
    }

    /// Up to where tombstones may be gone from the log.
    fn deletes_to(&self) -> Result<i64, StorageError> {
        let value = self.engine.get(Family::Log, &keys::cleaned(self.handle))?;
        let cleaned = value.and_then(|value| keys::parse_cleaned(&value));
        Ok(cleaned.unwrap_or_default().deletes_to)
    }

    fn key(&self, kind: u8, record_key: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(5 + record_key.len());
        key.extend_from_slice(&self.handle.0.to_be_bytes());
        key.push(kind);
        key.extend_from_slice(record_key);
        key
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compaction::Cleaned;
    use crate::memory::MemoryEngine;

    const FAMILIES: &[Family] = &[Family::Offsets, Family::Groups];
    const HERE: Uuid = Uuid::from_u128(7);

    fn view(engine: &Arc<MemoryEngine>, handle: u32, directory: Uuid) -> View {
        View::new(engine.clone(), Handle(handle), directory, FAMILIES)
    }

    fn change(family: Family, key: &str, value: Option<&str>) -> Change {
        Change {
            family,
            key: key.into(),
            value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        }
    }

    fn loaded(view: &View, end: i64) -> (i64, BTreeMap<String, String>) {
        let mut found = BTreeMap::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let from = view.load(end, &mut |key, value| {
            found.insert(text(key), text(value));
        });
        (from.expect("reads"), found)
    }

    fn entries(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn the_newest_value_of_every_key_comes_back_with_the_offset_to_go_on_from() {
        let engine = Arc::new(MemoryEngine::new());
        let (one, other) = (view(&engine, 2, HERE), view(&engine, 3, HERE));
        assert_eq!(loaded(&one, 100), (0, BTreeMap::new()), "nothing yet");
        let first = [
            change(Family::Offsets, "a", Some("1")),
            change(Family::Groups, "g", Some("x")),
        ];
        one.apply(first, 10).expect("writes");
        other
            .apply([change(Family::Offsets, "a", Some("9"))], 4)
            .expect("writes");
        let second = [
            change(Family::Offsets, "b", Some("2")),
            change(Family::Groups, "g", None),
        ];
        one.apply(second, 12).expect("writes");
        assert_eq!(
            loaded(&one, 12),
            (12, entries(&[("a", "1"), ("b", "2")])),
            "up to the end of the log"
        );
        assert_eq!(loaded(&other, 4), (4, entries(&[("a", "9")])));
        one.clear().expect("clears");
        assert_eq!(loaded(&one, 12), (0, BTreeMap::new()));
        assert_eq!(loaded(&other, 4), (4, entries(&[("a", "9")])), "untouched");
    }

    #[test]
    fn a_view_ahead_of_its_log_or_of_another_directory_is_dropped() {
        let engine = Arc::new(MemoryEngine::new());
        let put = || [change(Family::Offsets, "a", Some("1"))];
        view(&engine, 2, HERE).apply(put(), 10).expect("writes");
        assert_eq!(loaded(&view(&engine, 2, HERE), 9), (0, BTreeMap::new()));
        view(&engine, 2, HERE).apply(put(), 10).expect("writes");
        let there = view(&engine, 2, Uuid::from_u128(8));
        assert_eq!(loaded(&there, 10), (0, BTreeMap::new()));
        assert!(engine.dump(Family::Offsets).is_empty(), "nothing is left");
    }

    #[test]
    fn a_view_that_missed_a_tombstone_which_is_gone_is_dropped() {
        let engine = Arc::new(MemoryEngine::new());
        let view = view(&engine, 2, HERE);
        let put = || [change(Family::Offsets, "a", Some("1"))];
        let cleaned = |deletes_to| {
            let reached = Cleaned {
                first_dirty: 90,
                deletes_to,
            };
            let mut ops = WriteOps::new();
            let (key, value) = (keys::cleaned(Handle(2)), keys::cleaned_value(&reached));
            ops.put(Family::Log, key, value);
            engine.write(&ops).expect("writes");
        };
        view.apply(put(), 10).expect("writes");
        cleaned(10);
        assert_eq!(loaded(&view, 100), (10, entries(&[("a", "1")])));
        cleaned(11);
        assert_eq!(loaded(&view, 100), (0, BTreeMap::new()));
    }

    #[test]
    fn families_that_came_to_different_ends_are_read_on_from_the_lesser_one() {
        let engine = Arc::new(MemoryEngine::new());
        let view = view(&engine, 2, HERE);
        view.apply([change(Family::Groups, "g", Some("old"))], 5)
            .expect("writes");
        let kept = engine.dump(Family::Groups);
        view.apply([change(Family::Offsets, "a", Some("1"))], 10)
            .expect("writes");
        // As after a power cut that took what one family had in memory.
        let mut ops = WriteOps::new();
        for (key, value) in kept {
            ops.put(Family::Groups, key, value);
        }
        engine.write(&ops).expect("writes");
        assert_eq!(loaded(&view, 10).0, 5);
    }

    #[test]
    fn an_applied_offset_of_unknown_layout_counts_as_none() {
        let engine = Arc::new(MemoryEngine::new());
        let view = view(&engine, 2, HERE);
        for value in [&b""[..], b"\x01", &[0; 24], &[9; 25]] {
            let mut ops = WriteOps::new();
            ops.put(Family::Offsets, view.key(APPLIED, &[]), value.to_vec());
            engine.write(&ops).expect("writes");
            assert_eq!(loaded(&view, 10).0, 0, "{value:?}");
        }
    }
}
