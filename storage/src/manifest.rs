//! The few numbers of RocksDB's manifest that tell which write-ahead logs an open would replay. Called by `proof.rs`;
//! pure over bytes.
//!
//! A manifest holds version edits, one a record (`wal.rs` has the format of records): pairs of a tag and its value.
//! An edit that has the numbers begins with them (`VersionEdit::EncodeTo`), so that what follows is not read.

use std::path::Path;

/// The manifest named in `CURRENT`.
pub fn parse_current(text: &str) -> Option<u64> {
    text.strip_suffix('\n').and_then(number_of)
}

/// The number in a manifest's name.
pub fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("MANIFEST-")?.parse().ok()
}

/// The name of a manifest.
pub fn name(number: u64) -> String {
    format!("MANIFEST-{number:06}")
}

/// The number in a write-ahead log's name.
pub fn log_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".log")?.parse().ok()
}

const DB_ID: u64 = (1 << 13) + 1;

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn skip_text(bytes: &mut &[u8]) -> Option<()> {
    let length = usize::try_from(varint(bytes)?).ok()?;
    *bytes = bytes.get(length..)?;
    Some(())
}

/// Takes over the first write-ahead log that is still needed, if the edit that begins with `head` names one.
/// With several column families each has its own log number, so that only the least one to keep counts.
pub fn first_log(head: &[u8], one_family: bool, first: &mut u64) {
    let mut rest = head;
    while let Some(tag) = varint(&mut rest) {
        let read = match tag {
            // The database's id, the name of the order of keys.
            DB_ID | 1 => skip_text(&mut rest),
            // Least log number to keep, the column family's log number.
            10 => varint(&mut rest).map(|number| *first = (*first).max(number)),
            2 if one_family => varint(&mut rest).map(|number| *first = (*first).max(number)),
            // Log number, next file, last sequence, previous log, greatest column family.
            2 | 3 | 4 | 9 | 203 => varint(&mut rest).map(|_| ()),
            _ => return,
        };
        if read.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(parse_current("MANIFEST-000012\n"), Some(12));
        for bad in ["MANIFEST-000012", "", "\n", "MANIFEST-x\n", "000012.log\n"] {
            assert_eq!(parse_current(bad), None, "{bad:?}");
        }
        assert_eq!(number_of(&name(1_234_567)), Some(1_234_567));
        assert_eq!(log_number(Path::new("a/000123.log")), Some(123));
        assert_eq!(log_number(Path::new("a/LOG")), None);
        assert_eq!(log_number(Path::new("a/000123.log.cut")), None);
    }

    #[test]
    fn the_greatest_log_number_counts_and_no_bytes_make_it_fail() {
        let edit = [
            0x81, 0x40, 3, b'i', b'd', b'!', // the database's id
            1, 2, b'a', b'b', // comparator
            2, 0x95, 0x01, // log number 149
            9, 0, 3, 20, 10, 17, 4, 0xff, 0x7f, 103, 1, 2, 3,
        ];
        let mut first = 0;
        first_log(&edit, true, &mut first);
        assert_eq!(first, 149);
        first_log(&[2, 7], true, &mut first);
        assert_eq!(first, 149, "numbers only grow");
        for end in 0..edit.len() {
            let mut first = 0;
            first_log(&edit[..end], true, &mut first);
            assert!(first == 0 || first == 149, "{end}: {first}");
        }
        let seed = 11;
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..10_000 {
            let bytes: Vec<u8> = (0..rng.usize(0..64)).map(|_| rng.u8(..)).collect();
            first_log(&bytes, rng.bool(), &mut 0);
        }
        let mut first = 0;
        first_log(&[2, 9, 10, 5], false, &mut first);
        assert_eq!(first, 5);
    }
}
