//! The newest offset of every key of a log's dirty part, in a table of a fixed size (Kafka's `SkimpyOffsetMap`).
//! Filled by a cleaning round in log order, then asked for every record that might go; it keeps no key.
//!
//! A key is its 128-bit hash: SipHash twice, each with a secret of its own (those of the standard library's maps), so
//! that nobody can make two keys meet, and by chance they never do. Kafka uses MD5, of which colliding keys can be
//! made. Invariants: at most `capacity` keys; memory is `24 * slots` bytes whatever the keys are; nothing is removed.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::ControlFlow;

use ottla_protocol::batch::BatchHeader;
use ottla_protocol::records::{RecordsError, for_each_record};

use super::Transactions;
use crate::partition::marker;

/// Words of an entry: the two hashes, and the offset plus one, so that zeroes are no entry.
const ENTRY_WORDS: usize = 3;

/// Bytes of an entry.
const ENTRY_BYTES: usize = ENTRY_WORDS * size_of::<u64>();

/// The newest offset of every key that was put.
#[derive(Debug)]
pub(crate) struct OffsetMap {
    words: Vec<u64>,
    slots: u64,
    capacity: u64,
    keys: u64,
    latest: i64,
    secrets: [RandomState; 2],
}

impl OffsetMap {
    /// A map of at most `bytes`, filled to at most `load_factor` (0 to 1), with no more room than `records` keys need.
    /// One key at least has room.
    pub(crate) fn new(bytes: usize, load_factor: f64, records: u64) -> Self {
        let affordable = (bytes / ENTRY_BYTES).max(2) as u64;
        let load_factor = load_factor.clamp(0.01, 0.99);
        let needed = ((records as f64 / load_factor).ceil() as u64).saturating_add(1);
        let slots = affordable.min(needed.max(2));
        // One slot at least stays free, so that a search ends.
        let capacity = ((slots as f64 * load_factor) as u64).clamp(1, slots - 1);
        Self {
            words: vec![0; slots as usize * ENTRY_WORDS],
            slots,
            capacity,
            keys: 0,
            latest: -1,
            secrets: [RandomState::new(), RandomState::new()],
        }
    }

    /// Takes over a record, which is newer than all before. False if there is no room, also for a key that is known
    /// (as in Kafka): mapping ends there.
    pub(crate) fn put(&mut self, key: &[u8], offset: i64) -> bool {
        if self.keys >= self.capacity {
            return false;
        }
        let hash = self.hash(key);
        let at = self.place(hash);
        if self.words[at + 2] == 0 {
            self.keys += 1;
        }
        self.words[at..at + ENTRY_WORDS].copy_from_slice(&[hash[0], hash[1], offset as u64 + 1]);
        self.latest = offset;
        true
    }

    /// Everything up to `offset` is in the map, be it without a key or of no account.
    pub(crate) fn reached(&mut self, offset: i64) {
        self.latest = self.latest.max(offset);
    }

    /// The last offset that the map knows of; -1 when it is empty.
    pub(crate) fn latest(&self) -> i64 {
        self.latest
    }

    /// The newest offset of a key.
    pub(crate) fn newest(&self, key: &[u8]) -> Option<i64> {
        let at = self.place(self.hash(key));
        match self.words[at + 2] {
            0 => None,
            found => Some(found as i64 - 1),
        }
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        self.secrets.each_ref().map(|secret| {
            let mut hasher = secret.build_hasher();
            hasher.write(key);
            hasher.finish()
        })
    }

    /// Where the words of an entry are, or would be.
    fn place(&self, hash: [u64; 2]) -> usize {
        let mut slot = hash[0] % self.slots;
        loop {
            let at = slot as usize * ENTRY_WORDS;
            if self.words[at + 2] == 0 || self.words[at..at + 2] == hash {
                return at;
            }
            slot = (slot + 1) % self.slots;
        }
    }
}

/// Maps the keys of a batch from `begin` on; of none that was aborted, and of no marker. False when there is no more
/// room: mapping ends at `map.latest()`, perhaps inside of the batch. (Kafka's `Cleaner.buildOffsetMapForSegment`.)
///
/// # Errors
/// Records that cannot be read.
pub(crate) fn map_batch(
    map: &mut OffsetMap,
    transactions: &mut Transactions,
    header: &BatchHeader,
    bytes: &[u8],
    begin: i64,
) -> Result<bool, RecordsError> {
    let counts = if header.is_control() {
        let commits = marker(header, bytes).map(|(commits, _)| commits);
        transactions.ended(header, commits);
        false
    } else {
        !transactions.is_aborted(header)
    };
    let mut fits = true;
    if counts {
        // It passed the bound for decompressed bytes on its way in, which may have been another one then.
        for_each_record(bytes, usize::MAX, |record| {
            let offset = header.base_offset + i64::from(record.offset_delta);
            if let Some(key) = record.key
                && offset >= begin
            {
                fits = map.put(key, offset);
            }
            if fits {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
    }
    if fits {
        map.reached(header.last_offset());
    }
    Ok(fits)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_newest_offset_of_every_key_is_found_as_in_a_plain_map() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let bytes = rng.usize(0..4_000);
            let mut map = OffsetMap::new(bytes, rng.f64(), 5_000);
            let mut plain: HashMap<Vec<u8>, i64> = HashMap::new();
            let kinds = rng.usize(1..300);
            for offset in 0..500 {
                let key = rng.usize(0..kinds).to_string().into_bytes();
                if !map.put(&key, offset) {
                    break;
                }
                plain.insert(key, offset);
                assert_eq!(map.latest(), offset, "seed {seed}");
            }
            assert!(!plain.is_empty(), "seed {seed}: one key always has room");
            for kind in 0..kinds {
                let key = kind.to_string().into_bytes();
                assert_eq!(map.newest(&key), plain.get(&key).copied(), "seed {seed}");
            }
            assert!(
                map.words.len() * 8 <= bytes.max(2 * ENTRY_BYTES),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn it_takes_what_its_bytes_and_load_factor_allow_and_no_more_than_needed() {
        let full = |bytes, load_factor, records| {
            let mut map = OffsetMap::new(bytes, load_factor, records);
            (0_i64..)
                .take_while(|offset| map.put(&offset.to_be_bytes(), *offset))
                .count()
        };
        assert_eq!(full(24 * 100, 0.9, u64::MAX), 90);
        assert_eq!(full(24 * 100, 0.5, u64::MAX), 50);
        assert!(full(1 << 30, 0.9, 10) >= 10);
        assert!(OffsetMap::new(1 << 30, 0.9, 10).words.len() <= 14 * ENTRY_WORDS);
    }

    #[test]
    fn a_full_map_ends_the_mapping_also_for_known_keys() {
        let mut map = OffsetMap::new(2 * ENTRY_BYTES, 0.9, u64::MAX);
        assert!(map.put(b"a", 0));
        assert!(!map.put(b"a", 1));
        assert_eq!((map.newest(b"a"), map.latest()), (Some(0), 0));
    }
}
