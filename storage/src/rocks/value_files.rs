//! Reads what RocksDB tells about its blob files. There is no other way to learn how much garbage each of them holds: the
//! property `rocksdb.sstables` has a line for every file of the current version, and those of blob files look like
//! `blob_file_number: 10 total_blob_count: 3 total_blob_bytes: 60000 ... garbage_blob_count: 1 garbage_blob_bytes: 20000`.
//!
//! Pure; called by `rocks.rs` with the text. It says so when it does not understand a line, and never guesses.

use crate::reclaim::ValueFile;

/// What starts the line of a blob file.
const NUMBER: &str = "blob_file_number:";

/// Header and footer of a blob file, which RocksDB's count of its bytes leaves out (`db/blob/blob_log_format.h`).
const FRAME_BYTES: u64 = 30 + 32;

/// The blob files of a version, oldest first.
///
/// # Errors
/// The line that is not understood.
pub(super) fn parse(sstables: &str) -> Result<Vec<ValueFile>, &str> {
    let lines = sstables.lines().map(str::trim_start);
    let mut files = lines
        .filter(|line| line.starts_with(NUMBER))
        .map(|line| parse_line(line).ok_or(line))
        .collect::<Result<Vec<_>, _>>()?;
    files.sort_unstable_by_key(|file| file.number);
    Ok(files)
}

fn parse_line(line: &str) -> Option<ValueFile> {
    let after = |name: &str| {
        let mut words = line.split_ascii_whitespace();
        words.find(|word| *word == name)?;
        words.next()?.parse::<u64>().ok()
    };
    Some(ValueFile {
        number: after(NUMBER)?,
        bytes: after("total_blob_bytes:")?.checked_add(FRAME_BYTES)?,
        garbage_bytes: after("garbage_blob_bytes:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "blob_file_number: 12 total_blob_count: 3 total_blob_bytes: 938 checksum_method:  \
        checksum_value:  linked_ssts: { 7 9 } garbage_blob_count: 2 garbage_blob_bytes: 600";

    #[test]
    fn blob_files_are_found_among_other_lines_and_put_in_order() {
        let older = LINE.replace("12", "8");
        let text = format!(
            "--- level 0 --- version# 5 ---\n 7:8049[1 .. 3]['00' seq:1, type:1 .. 'ff'] blob_file:12\n\
             --- blob files --- version# 5 ---\n {LINE}\n {older}\n"
        );
        let of = |number| ValueFile {
            number,
            bytes: 1_000,
            garbage_bytes: 600,
        };
        assert_eq!(parse(&text), Ok(vec![of(8), of(12)]));
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn a_line_that_is_not_understood_is_told() {
        for (what, instead) in [
            ("total_blob_bytes: 938", "total_blob_bytes: many"),
            ("garbage_blob_bytes: 600", "garbage_blob_bytes:"),
            ("garbage_blob_bytes", "wasted_blob_bytes"),
            ("938", "18446744073709551615"),
            ("12", "-1"),
        ] {
            let line = LINE.replace(what, instead);
            assert_eq!(parse(&line), Err(line.as_str()));
        }
    }
}
