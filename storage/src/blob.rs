//! How a blob file of RocksDB (`NNNNNN.blob`) is laid out, and a look at all of one: reads it from end to end and checks every
//! checksum in it, those of values that no key leads to any more included. That is called by `ottla check`, and pure over
//! whatever is read; the header of one record is read by `rocks/blobs.rs` too.
//!
//! ```text
//! file    header:30 (magic:4 | version:4 | ...) | records | footer:32 (magic:4 | records:8 | ...:16 | masked CRC-32C:4)
//! record  key length:8 | value length:8 | ...:8 | masked CRC-32C of these:4 | masked CRC-32C of key and value:4 | key | value
//! ```
//!
//! Numbers are little-endian (RocksDB `db/blob/blob_log_format.h`). A file without a footer was being written when the
//! broker ended; no key leads there.

use std::io::{self, Read};

use crate::wal::masked;

const MAGIC: u32 = 2_395_959;
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 30;
pub(crate) const RECORD_HEADER_BYTES: u64 = 32;
const FOOTER_BYTES: u64 = 32;
const BUFFER_BYTES: usize = 256 << 10;

/// What a blob file turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blobs {
    /// Every checksum holds.
    Whole {
        /// Values in it.
        records: u64,
    },
    /// It ends without a footer, and what is there holds.
    Unfinished,
    /// Something does not hold.
    Damaged {
        /// Where the record begins.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

/// What stands before key and value of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
    /// Masked CRC-32C of key and value.
    checksum: u32,
}

impl RecordHeader {
    /// `None` when its checksum does not match.
    pub(crate) fn parse(header: &[u8; RECORD_HEADER_BYTES as usize]) -> Option<Self> {
        (u32_at(header, 24) == masked(crc32c::crc32c(&header[..24]))).then(|| Self {
            key_bytes: u64_at(header, 0),
            value_bytes: u64_at(header, 8),
            checksum: u32_at(header, 28),
        })
    }

    /// Whether `crc32c` is that of key and value.
    pub(crate) fn holds(&self, crc32c: u32) -> bool {
        self.checksum == masked(crc32c)
    }
}

/// Reads all of a blob file of `length` bytes; `passed` hears of bytes as they go by.
///
/// # Errors
/// The reader's.
pub fn verify(file: &mut impl Read, length: u64, passed: &mut dyn FnMut(u64)) -> io::Result<Blobs> {
    let damaged = |at, why| Ok(Blobs::Damaged { at, why });
    if length < HEADER_BYTES {
        return Ok(Blobs::Unfinished);
    }
    let mut header = [0; HEADER_BYTES as usize];
    file.read_exact(&mut header)?;
    if u32_at(&header, 0) != MAGIC || u32_at(&header, 4) != VERSION {
        return damaged(0, "it does not begin as a blob file");
    }
    let mut at = HEADER_BYTES;
    let mut records = 0;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let left = length - at;
        if left < RECORD_HEADER_BYTES {
            return Ok(Blobs::Unfinished);
        }
        let mut header = [0; RECORD_HEADER_BYTES as usize];
        file.read_exact(&mut header)?;
        if left == FOOTER_BYTES && u32_at(&header, 0) == MAGIC {
            passed(length - at);
            if u32_at(&header, 28) != masked(crc32c::crc32c(&header[..28])) {
                return damaged(at, "the checksum of the footer does not match");
            }
            if u64_at(&header, 4) != records {
                return damaged(at, "the footer counts other records");
            }
            return Ok(Blobs::Whole { records });
        }
        let Some(header) = RecordHeader::parse(&header) else {
            return damaged(at, "the checksum of a header does not match");
        };
        let body = header.key_bytes.saturating_add(header.value_bytes);
        if body > left - RECORD_HEADER_BYTES {
            return Ok(Blobs::Unfinished);
        }
        let mut checksum = 0;
        let mut rest = body;
        while rest > 0 {
            let take = usize::try_from(rest).map_or(BUFFER_BYTES, |rest| rest.min(BUFFER_BYTES));
            file.read_exact(&mut buffer[..take])?;
            checksum = crc32c::crc32c_append(checksum, &buffer[..take]);
            rest -= take as u64;
            passed(take as u64);
        }
        if !header.holds(checksum) {
            return damaged(at, "the checksum of a value does not match");
        }
        records += 1;
        passed(RECORD_HEADER_BYTES);
        at += RECORD_HEADER_BYTES + body;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::TempDir;
    use crate::engine::{Engine, Family, WriteOps};
    use crate::rocks::{RocksEngine, RocksOptions};

    fn look(bytes: &[u8]) -> Blobs {
        verify(&mut &bytes[..], bytes.len() as u64, &mut |_| ()).expect("reads memory")
    }

    #[test]
    fn files_of_rocksdb_are_whole_and_no_change_goes_by() {
        let dir = TempDir::new("blobs");
        let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens");
        for index in 0..100_u32 {
            let mut ops = WriteOps::new();
            let value = vec![index as u8; 2_000 + index as usize * 11];
            ops.put(Family::Log, index.to_be_bytes().to_vec(), value);
            engine.write(&ops).expect("writes");
        }
        engine.settle(false);
        let entries = std::fs::read_dir(dir.path().join("log")).expect("lists");
        let path = entries
            .map(|entry| entry.expect("entry").path())
            .find(|path| path.extension().is_some_and(|end| end == "blob"))
            .expect("a blob file");
        let bytes = std::fs::read(path).expect("reads");
        assert_eq!(look(&bytes), Blobs::Whole { records: 100 });
        let seed = 31;
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..500 {
            let at = rng.usize(..bytes.len());
            let mut changed = bytes.clone();
            changed[at] ^= 1 << rng.u8(..8);
            // Nothing checks the rest of the file's header, and RocksDB does not use it.
            let unused = (8..30).contains(&at);
            let found = look(&changed);
            assert_eq!(
                matches!(found, Blobs::Damaged { .. } | Blobs::Unfinished),
                !unused,
                "{at}: {found:?}"
            );
            assert_ne!(look(&bytes[..at]), Blobs::Whole { records: 100 });
        }
    }
}
