//! The file `durable` in the data directory: what is known to be safe on disk, so that the next start can tell whether
//! it is still there. RocksDB's own recovery drops synced records silently after one changed bit.
//!
//! Here are the file's format and its two slots; `durable/keeper.rs` writes them while a broker runs, and `proof.rs`
//! compares them with what it finds. Nothing here reads a log.
//!
//! ```text
//! file   slot 0 at 0, slot 1 at 4096; each write takes the slot with the older generation, so that a torn write
//!        leaves the other one
//! slot   "OTTLASYN" | version:4 | crc32c:4 of all but this field | generation:8 | sequence:8
//!        | log manifest number:8, bytes:8 | meta manifest number:8, bytes:8
//!        | logs:4 | logs * (number:8, first sequence:8) | at 580: key:16, zeros for none
//!        | the rest zeros, 1024 bytes in all; little-endian
//! ```

pub mod keeper;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::disk::{Syncs, failed, sync_folder};
use crate::error::OpenError;
use crate::wal::NoteKey;

/// The file's name in the data directory.
pub const FILE: &str = "durable";

/// Write-ahead logs that a slot has room for; RocksDB keeps about one for each write buffer.
pub const MAX_LOGS: usize = 32;

const MAGIC: [u8; 8] = *b"OTTLASYN";
const VERSION: u32 = 1;
const SLOT_BYTES: usize = 1024;
/// A page of its own for each slot.
const SLOT_DISTANCE: u64 = 4096;
const FIXED_BYTES: usize = 68;
const CHECKSUM_AT: usize = 12;
/// Behind the logs, where earlier slots have zeros.
const KEY_AT: usize = FIXED_BYTES + MAX_LOGS * 16;

/// How much of a database's manifest was on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ManifestMark {
    /// Its number; 0: none yet.
    pub number: u64,
    /// Its size.
    pub bytes: u64,
}

/// A write-ahead log that was there, with the sequence number it begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMark {
    /// The number in its name.
    pub number: u64,
    /// The first sequence number in it.
    pub first: u64,
}

/// What was safe on disk when it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slot {
    /// Greater than in every slot written before.
    pub generation: u64,
    /// Every change of the `log` database up to this sequence number.
    pub sequence: u64,
    /// The manifest of `log`.
    pub log_manifest: ManifestMark,
    /// The manifest of `meta`.
    pub meta_manifest: ManifestMark,
    /// The write-ahead logs of `log` that held anything up to `sequence`, in order, the newest ones.
    pub logs: Vec<LogMark>,
    /// What the notes in the logs are signed with: the same in every slot of a directory.
    pub key: Option<NoteKey>,
}

impl Slot {
    /// The slot as it lies on disk.
    pub fn encode(&self) -> Vec<u8> {
        let logs = &self.logs[self.logs.len().saturating_sub(MAX_LOGS)..];
        let mut bytes = Vec::with_capacity(SLOT_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for number in [
            self.generation,
            self.sequence,
            self.log_manifest.number,
            self.log_manifest.bytes,
            self.meta_manifest.number,
            self.meta_manifest.bytes,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&(logs.len() as u32).to_le_bytes());
        for log in logs {
            bytes.extend_from_slice(&log.number.to_le_bytes());
            bytes.extend_from_slice(&log.first.to_le_bytes());
        }
        bytes.resize(SLOT_BYTES, 0);
        if let Some(key) = self.key {
            bytes[KEY_AT..KEY_AT + 16].copy_from_slice(&key.bytes());
        }
        let checksum = checksum(&bytes);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a slot; `None` for anything that was not written whole.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..SLOT_BYTES)?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if bytes[..MAGIC.len()] != MAGIC
            || u32_at(MAGIC.len())? != VERSION
            || u32_at(CHECKSUM_AT)? != checksum(bytes)
        {
            return None;
        }
        let mark = |at: usize| {
            Some(ManifestMark {
                number: u64_at(at)?,
                bytes: u64_at(at + 8)?,
            })
        };
        let count = usize::try_from(u32_at(FIXED_BYTES - 4)?).ok()?;
        if count > MAX_LOGS {
            return None;
        }
        let logs = (0..count).map(|index| {
            Some(LogMark {
                number: u64_at(FIXED_BYTES + index * 16)?,
                first: u64_at(FIXED_BYTES + index * 16 + 8)?,
            })
        });
        Some(Self {
            generation: u64_at(16)?,
            sequence: u64_at(24)?,
            log_manifest: mark(32)?,
            meta_manifest: mark(48)?,
            logs: logs.collect::<Option<_>>()?,
            key: NoteKey::new(bytes.get(KEY_AT..KEY_AT + 16)?.try_into().ok()?),
        })
    }
}

fn checksum(slot: &[u8]) -> u32 {
    let checksum = crc32c::crc32c(&slot[..CHECKSUM_AT]);
    crc32c::crc32c_append(checksum, &slot[CHECKSUM_AT + 4..])
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// There is no such file: nothing was written yet, or by a release that kept none.
    Absent,
    /// Zeros only, as it is made before the first slot.
    Blank,
    /// Neither slot can be read.
    Damaged,
    /// The newest slot that can be read.
    Slot(Slot),
}

/// Where the next slot goes.
fn place(generation: u64) -> u64 {
    generation % 2 * SLOT_DISTANCE
}

/// The newest whole slot in the bytes of the file.
pub fn newest(bytes: &[u8]) -> Option<Slot> {
    let slots = [0, SLOT_DISTANCE as usize].map(|at| Slot::decode(bytes.get(at..)?));
    slots
        .into_iter()
        .flatten()
        .max_by_key(|slot| slot.generation)
}

/// Reads the file in `dir`.
///
/// # Errors
/// The system's, but for a file that is not there.
pub fn read(dir: &Path) -> io::Result<Found> {
    match std::fs::read(dir.join(FILE)) {
        Ok(bytes) if bytes.iter().all(|byte| *byte == 0) => Ok(Found::Blank),
        Ok(bytes) => Ok(newest(&bytes).map_or(Found::Damaged, Found::Slot)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Absent),
        Err(error) => Err(error),
    }
}

/// The open file.
#[derive(Debug)]
pub struct DurableFile {
    file: File,
    generation: u64,
    key: Option<NoteKey>,
}

impl DurableFile {
    /// Opens the file in `dir`, or makes it. What it held stays until the first `put`.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open(syncs: &dyn Syncs, dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let found = read(dir).map_err(failed("cannot read", &path))?;
        let open = || {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            let bytes = SLOT_DISTANCE + SLOT_BYTES as u64;
            let length = file.metadata()?.len();
            if length < bytes {
                // Zeros that are written, not a hole: later writes change no length and no place of the file.
                file.write_all_at(&vec![0; (bytes - length) as usize], length)?;
                syncs.file(&file, &path)?;
            }
            Ok(file)
        };
        let file = open().map_err(failed("cannot open", &path))?;
        if found == Found::Absent {
            sync_folder(syncs, dir)?;
        }
        let (generation, key) = match found {
            Found::Slot(slot) => (slot.generation, slot.key),
            Found::Absent | Found::Blank | Found::Damaged => (0, None),
        };
        Ok(Self {
            file,
            generation,
            key,
        })
    }

    /// The key of the directory's notes; from now on `fresh`, where it had none.
    pub(crate) fn key(&mut self, fresh: Option<NoteKey>) -> Option<NoteKey> {
        self.key = self.key.or(fresh);
        self.key
    }

    /// Writes a slot over the older one, and waits until it is on disk. Generation and key are the file's own.
    ///
    /// # Errors
    /// The system's; the other slot is as it was.
    pub fn put(&mut self, mut slot: Slot) -> io::Result<()> {
        slot.generation = self.generation + 1;
        slot.key = self.key;
        self.file
            .write_all_at(&slot.encode(), place(slot.generation))?;
        self.file.sync_data()?;
        self.generation = slot.generation;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::TempDir;
    use crate::disk::Disk;

    fn random(rng: &mut fastrand::Rng) -> Slot {
        let mark = |rng: &mut fastrand::Rng| ManifestMark {
            number: rng.u64(..),
            bytes: rng.u64(..),
        };
        Slot {
            generation: rng.u64(..),
            sequence: rng.u64(..),
            log_manifest: mark(rng),
            meta_manifest: mark(rng),
            logs: (0..rng.usize(0..=MAX_LOGS))
                .map(|_| LogMark {
                    number: rng.u64(..),
                    first: rng.u64(..),
                })
                .collect(),
            key: NoteKey::new(rng.u128(..).to_le_bytes()),
        }
    }

    #[test]
    fn a_slot_comes_back_and_no_changed_bit_or_torn_write_does() {
        let seed = 21;
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..2_000 {
            let slot = random(&mut rng);
            let bytes = slot.encode();
            assert_eq!(bytes.len(), SLOT_BYTES);
            assert_eq!(Slot::decode(&bytes), Some(slot));
            let mut flipped = bytes.clone();
            flipped[rng.usize(..SLOT_BYTES)] ^= 1 << rng.u8(..8);
            assert_eq!(Slot::decode(&flipped), None);
            let other = random(&mut rng).encode();
            let torn = [&bytes[..512], &other[512..]].concat();
            // The second sector may be the same in both: zeros behind few logs; the checksum tells.
            assert_eq!(Slot::decode(&torn).is_some(), torn == bytes);
        }
        let many = Slot {
            logs: (0..100)
                .map(|number| LogMark { number, first: 0 })
                .collect(),
            ..Slot::default()
        };
        let kept = Slot::decode(&many.encode()).expect("whole").logs;
        assert_eq!(kept, many.logs[100 - MAX_LOGS..], "the newest ones");
    }

    #[test]
    fn the_newest_whole_slot_counts_whatever_a_torn_write_does_to_the_other() {
        let dir = TempDir::new("durable");
        assert_eq!(read(dir.path()).expect("reads"), Found::Absent);
        let mut file = DurableFile::open(&Disk, dir.path()).expect("opens");
        assert_eq!(
            read(dir.path()).expect("reads"),
            Found::Blank,
            "no slot yet"
        );
        let seed = 22;
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for sequence in 1..200 {
            let slot = Slot {
                sequence,
                ..random(&mut rng)
            };
            file.put(slot).expect("writes");
            let bytes = std::fs::read(dir.path().join(FILE)).expect("reads");
            let newest_slot = newest(&bytes).expect("a slot");
            assert_eq!(
                (newest_slot.generation, newest_slot.sequence),
                (sequence, sequence)
            );
            let mut torn = bytes.clone();
            let at = place(sequence) as usize + rng.usize(..SLOT_BYTES);
            torn[at] ^= 0x10;
            let left = newest(&torn).map_or(0, |slot| slot.sequence);
            assert_eq!(left, sequence - 1, "the slot before it");
        }
        let mut bytes = std::fs::read(dir.path().join(FILE)).expect("reads");
        for slot in [0, SLOT_DISTANCE as usize] {
            bytes[slot + 20] ^= 1;
        }
        assert_eq!(newest(&bytes), None);
        drop(file);
        let mut file = DurableFile::open(&Disk, dir.path()).expect("opens");
        file.put(Slot::default()).expect("writes");
        let Found::Slot(slot) = read(dir.path()).expect("reads") else {
            panic!("a slot")
        };
        assert_eq!(
            (slot.generation, slot.sequence),
            (200, 0),
            "goes on counting"
        );
    }
}
