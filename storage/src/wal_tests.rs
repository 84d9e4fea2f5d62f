//! The reader of RocksDB's log format against files written here, over thousands of seeds: whatever is cut, zeroed or
//! flipped, what it hands out is a prefix of what was written, and what lies behind the damage is found.

use crate::wal::writer::{append, batch};
use crate::wal::*;

/// A file with its records: where each begins and its bytes.
struct Written {
    file: Vec<u8>,
    records: Vec<(u64, Vec<u8>)>,
    number: u64,
}

fn key() -> NoteKey {
    NoteKey::new([7; 16]).expect("not zeros")
}

fn write(rng: &mut fastrand::Rng) -> Written {
    let number = rng.u64(1..1_000);
    let recycled = (rng.u8(..4) == 0).then_some(number);
    let mut written = Written {
        file: Vec::new(),
        records: Vec::new(),
        number,
    };
    let mut sequence = rng.u64(1..1 << 40);
    for _ in 0..rng.usize(1..60) {
        let largest = *rng.choice(&[40, 2_000, 90_000]).expect("not empty");
        let bytes = rng.usize(..largest);
        let count = rng.u32(1..9);
        let note = rng.bool().then(|| key().note(sequence - 1));
        let record = batch(sequence, count, note, bytes);
        // Where the block has no room for a header the record begins in the next one.
        let header = if recycled.is_some() { 11 } else { 7 };
        let left = BLOCK_BYTES - written.file.len() % BLOCK_BYTES;
        let at = written.file.len() + if left < header { left } else { 0 };
        append(&mut written.file, &record, recycled);
        written.records.push((at as u64, record));
        sequence += u64::from(count);
    }
    written
}

#[derive(Default)]
struct Read {
    records: Vec<(u64, Vec<u8>)>,
    behind: Vec<(u64, Option<Vec<u8>>)>,
    good: u64,
    stop: Option<Stop>,
}

fn read(file: &[u8], number: u64) -> Read {
    let mut read = Read::default();
    let mut scanner = Scanner::new(number);
    for block in file.chunks(BLOCK_BYTES) {
        scanner.block(block, &mut |seen| match seen {
            Seen::Record { at, head, .. } => read.records.push((at, head.to_vec())),
            Seen::Behind { at, head, .. } => read.behind.push((at, head.map(<[u8]>::to_vec))),
        });
    }
    (read.good, read.stop) = scanner.finish();
    read
}

/// A header at the very end of a block holds nothing: the record is found in the next one.
fn begins_empty(at: u64) -> bool {
    [7, 11].contains(&(BLOCK_BYTES as u64 - at % BLOCK_BYTES as u64))
}

fn heads(records: &[(u64, Vec<u8>)]) -> Vec<(u64, Vec<u8>)> {
    let head = |record: &[u8]| record[..record.len().min(HEAD_BYTES)].to_vec();
    records
        .iter()
        .map(|(at, record)| (*at, head(record)))
        .collect()
}

fn seeds(name: &str, seeds: u64, run: impl Fn(&mut fastrand::Rng)) {
    println!("{name}: seeds 0..{seeds}");
    for seed in 0..seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&mut rng))).is_err() {
            panic!("{name}: seed {seed}");
        }
    }
}

#[test]
fn a_whole_file_is_read_to_its_end() {
    seeds("whole", 2_000, |rng| {
        let written = write(rng);
        let read = read(&written.file, written.number);
        assert_eq!(read.records, heads(&written.records));
        assert_eq!(read.stop, None);
        assert_eq!(read.behind, []);
        assert_eq!(read.good, written.file.len() as u64);
        let (_, first) = &written.records[0];
        let block = &written.file[..written.file.len().min(BLOCK_BYTES)];
        assert_eq!(first_batch(block, written.number), BatchHead::parse(first));
    });
}

#[test]
fn a_file_that_was_cut_off_gives_the_records_before_the_cut() {
    seeds("cut", 3_000, |rng| {
        let written = write(rng);
        let cut = rng.usize(..written.file.len());
        let read = read(&written.file[..cut], written.number);
        let ends = written.records.iter().skip(1).map(|(at, _)| *at);
        let whole = ends.take_while(|end| *end <= cut as u64).count();
        assert!(read.records.len() == whole || read.records.len() == whole + 1);
        assert_eq!(read.records, heads(&written.records[..read.records.len()]));
        assert_eq!(read.behind, [], "nothing lies behind the end");
        if let Some(stop) = read.stop {
            assert!(stop.at <= cut as u64 && stop.at >= read.good);
            assert!(
                matches!(stop.reason, Reason::Cut | Reason::Zeros),
                "{stop:?}"
            );
        }
    });
}

#[test]
fn no_changed_bit_gets_through_and_what_lies_behind_it_is_found() {
    seeds("flip", 3_000, |rng| {
        let written = write(rng);
        let mut file = written.file.clone();
        let at = rng.usize(..file.len());
        file[at] ^= 1 << rng.u8(..8);
        let read = read(&file, written.number);
        let good = heads(&written.records);
        // Only the zeros at the end of a block mean nothing.
        let Some(stop) = read.stop else {
            assert_eq!(read.records, good);
            return;
        };
        assert_eq!(read.records, good[..read.records.len()]);
        assert!(stop.at <= at as u64);
        let later: Vec<_> = written
            .records
            .iter()
            .skip(read.records.len() + 1)
            .collect();
        for (at, record) in later {
            if begins_empty(*at) {
                continue;
            }
            let found = read.behind.iter().find(|(found, _)| found == at);
            let (_, head) = found.unwrap_or_else(|| panic!("the record at {at} is whole"));
            // A first fragment may be too small for the batch's header.
            if let Some(head) = head.as_deref().and_then(BatchHead::parse) {
                assert_eq!(
                    head.sequence,
                    u64::from_le_bytes(record[..8].try_into().expect("8"))
                );
            }
        }
        // Values here hold no zeros; a header may.
        if matches!(stop.reason, Reason::Checksum) {
            assert!(!stop.unwritten, "{stop:?}");
        }
    });
}

#[test]
fn sectors_of_zeros_look_unwritten_and_what_lies_behind_them_is_found() {
    seeds("zeros", 3_000, |rng| {
        let written = write(rng);
        let mut file = written.file.clone();
        let sector = 512 << rng.u8(..4);
        let from = rng.usize(..file.len()) / sector * sector;
        let to = (from + sector).min(file.len());
        file[from..to].fill(0);
        if file == written.file {
            return;
        }
        let read = read(&file, written.number);
        let good = heads(&written.records);
        assert_eq!(read.records, good[..read.records.len()]);
        let stop = read.stop.expect("zeros are no record");
        assert!(stop.unwritten, "{stop:?}");
        let behind = written.records.iter();
        let behind = behind.filter(|(at, _)| *at >= to as u64 && !begins_empty(*at));
        for (at, _) in behind {
            assert!(read.behind.iter().any(|(found, _)| found == at), "{at}");
        }
    });
}

#[test]
fn a_file_that_is_used_again_ends_where_its_earlier_life_begins() {
    seeds("recycled", 1_000, |rng| {
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let numbers = (7, 9);
        let mut sequence = 1;
        while old.len() < 100_000 {
            append(
                &mut old,
                &batch(sequence, 1, None, rng.usize(..3_000)),
                Some(numbers.0),
            );
        }
        let mut records = 0;
        for _ in 0..rng.usize(1..20) {
            append(
                &mut new,
                &batch(sequence, 1, None, rng.usize(..3_000)),
                Some(numbers.1),
            );
            sequence += 1;
            records += 1;
        }
        let end = new.len();
        new.extend_from_slice(&old[end..]);
        let read = read(&new, numbers.1);
        assert_eq!(read.records.len(), records);
        assert_eq!(read.good, end as u64);
        assert!(read.stop.is_some());
        assert_eq!(read.behind, [], "of this life");
    });
}

/// A page that never reached the disk holds what the file held before; a bit that changed is told from that.
#[test]
fn in_a_file_that_is_used_again_holes_look_unwritten_and_changed_bits_do_not() {
    seeds("recycled holes", 600, |rng| {
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let (mut sequence, mut starts) = (1, Vec::new());
        while old.len() < 150_000 {
            append(
                &mut old,
                &batch(sequence, 1, None, rng.usize(..9_000)),
                Some(7),
            );
        }
        while new.len() < 100_000 {
            starts.push(new.len());
            append(
                &mut new,
                &batch(sequence, 1, None, rng.usize(..9_000)),
                Some(9),
            );
            sequence += 1;
        }
        let end = new.len();
        new.extend_from_slice(&old[end..]);
        let page = rng.usize(..20) * 4_096;
        let mut hole = new.clone();
        hole[page..page + 4_096].copy_from_slice(&old[page..page + 4_096]);
        let read_hole = read(&hole, 9);
        let stop = read_hole.stop.expect("a hole");
        assert!(stop.unwritten, "{stop:?}");
        assert!(stop.at <= page as u64 + 4_096);
        assert!(read_hole.behind.iter().any(|(at, _)| *at as usize > page));

        let at = rng.usize(..end);
        let mut flipped = new.clone();
        flipped[at] ^= 1 << rng.u8(..8);
        let read_flipped = read(&flipped, 9);
        let stop = read_flipped.stop.expect("it ends somewhere");
        if read_flipped.records.len() < starts.len() {
            assert!(stop.at <= at as u64);
            assert!(!stop.unwritten, "{stop:?} of a bit at {at}");
        }
    });
}

#[test]
fn no_bytes_make_it_fail() {
    seeds("noise", 2_000, |rng| {
        let bytes: Vec<u8> = (0..rng.usize(..70_000))
            .map(|_| if rng.bool() { rng.u8(..12) } else { rng.u8(..) })
            .collect();
        let read = read(&bytes, rng.u64(..));
        assert!(read.good <= bytes.len() as u64);
        let _ = first_batch(&bytes[..bytes.len().min(BLOCK_BYTES)], 1);
    });
}
