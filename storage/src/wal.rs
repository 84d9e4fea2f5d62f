//! Reads the files that RocksDB logs to: write-ahead logs (`NNNNNN.log`) and manifests, which share one format.
//! Called by `proof.rs`, `durable/` and `manifest.rs`; pure over bytes, and RocksDB's own reader stays the one that recovers.
//!
//! RocksDB's recovery stops at the first record that it cannot read and says nothing of what lies behind, or steps
//! over a region of zeros. This reader stops at the first doubt, and then goes on to look whether anything valid
//! lies behind. The format (RocksDB `db/log_format.h`, `db/write_batch.cc`), numbers little-endian:
//!
//! ```text
//! file      blocks of 32 KiB; a header never spans two, the rest of a block is zeros then
//! fragment  masked CRC-32C of all after the length:4 | length:2 | type:1 | payload
//!           types 1..4: full, first, middle, last; 5..8: the same in files that are used again, with the file's
//!           number:4 after the type, so that fragments of its earlier life are told apart
//! record    the payloads of a full fragment, or of a first to a last one; in a write-ahead log a write batch:
//!           sequence:8 | operations:4 | operations
//! ```
//!
//! Every write of the `log` database begins with a note (`PutLogData`) of how far was synced when it was made:
//! `0x03 | 0x10 | sequence:8 | tag:8`. A record behind a hole so proves what was safe before the hole was there. Where
//! lengths cannot be trusted, what a client sent may look like a fragment; the tag, SipHash-2-4 of the sequence number
//! under a key of the data directory that no client knows, tells a note from that.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// Files are written in blocks of this size.
pub const BLOCK_BYTES: usize = 32 << 10;

/// This much of a record's beginning is handed out: enough for a write batch's header and a manifest's numbers.
pub const HEAD_BYTES: usize = 256;

const HEADER_BYTES: usize = 7;
const RECYCLABLE_HEADER_BYTES: usize = 11;
const SECTOR_BYTES: usize = 512;
/// A write batch of nothing has so many bytes.
pub(crate) const BATCH_HEADER_BYTES: usize = 12;
const LOG_DATA: u8 = 0x03;
pub(crate) const NOTE_BYTES: usize = 16;
const MASK_DELTA: u32 = 0xa282_ead8;
/// The polynomial of CRC-32C, lowest power last.
const CRC32C_REVERSED: u32 = 0x82f6_3b78;

/// Why a reader stopped before the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The file ends within a record.
    Cut,
    /// Zeros where a record should begin.
    Zeros,
    /// A fragment of the file's earlier life, before it was used again.
    Old,
    /// A checksum does not hold.
    Checksum,
    /// A length goes past the end of its block.
    Length,
    /// A type that no fragment has.
    Type,
    /// A fragment that does not belong to the one before it.
    Order,
}

/// Where a reader stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Where the record begins that cannot be read; everything before is whole.
    pub at: u64,
    /// Why it cannot be read.
    pub reason: Reason,
    /// Whether it looks as if it had never reached the disk, as after a power cut: a sector of it holds zeros only, or,
    /// in a file that may have been used before, what is there is not one changed bit away from a fragment.
    /// Where nothing valid lies behind it says nothing.
    pub unwritten: bool,
}

/// What a reader comes upon, in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A whole record in its place.
    Record {
        /// Where it begins.
        at: u64,
        /// Its first `HEAD_BYTES` at most.
        head: &'a [u8],
        /// It names its file, which may hold what is left of an earlier one.
        named: bool,
    },
    /// A valid fragment behind the point where the reader stopped.
    Behind {
        /// Where it begins.
        at: u64,
        /// The beginning of its record, if it has it.
        head: Option<&'a [u8]>,
        /// The file ends within the record at which the reader stopped: only where that record's length changed is
        /// this something else than a part of it. Or the file was used before: then this may be anything, too.
        within: bool,
    },
}

/// The beginning of a write batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHead {
    /// Sequence number of its first operation.
    pub sequence: u64,
    /// Its operations, each with the next sequence number.
    pub count: u32,
    /// What it begins with, if that may be a note.
    note: Option<[u8; NOTE_BYTES]>,
}

impl BatchHead {
    /// Reads it from the head of a record.
    pub fn parse(head: &[u8]) -> Option<Self> {
        if head.len() < BATCH_HEADER_BYTES {
            return None;
        }
        let note = match head.get(BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + 2 + NOTE_BYTES) {
            Some([LOG_DATA, length, note @ ..]) if usize::from(*length) == NOTE_BYTES => {
                note.try_into().ok()
            }
            _ => None,
        };
        Some(Self {
            sequence: u64_at(head, 0)?,
            count: u32_at(head, 8)?,
            note,
        })
    }

    /// What was known to be synced when it was written, if it says so and `key` signed it.
    pub fn synced_to(&self, key: Option<&NoteKey>) -> Option<u64> {
        let note = self.note?;
        let synced_to = u64_at(&note, 0)?;
        (key?.note(synced_to) == note).then_some(synced_to)
    }

    /// The sequence number of the batch after it.
    pub fn next(&self) -> u64 {
        self.sequence.saturating_add(u64::from(self.count))
    }
}

/// What the notes of a data directory are signed with: random, and known to nobody else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NoteKey([u8; 16]);

impl std::fmt::Debug for NoteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NoteKey")
    }
}

impl NoteKey {
    /// A key of these bytes; zeros are none.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// Its bytes, for the `durable` file.
    pub(crate) fn bytes(&self) -> [u8; 16] {
        self.0
    }

    /// The note that a write batch begins with: `synced_to` is on disk.
    pub fn note(&self, synced_to: u64) -> [u8; NOTE_BYTES] {
        let mut tag = SipHasher24::new_with_key(&self.0);
        tag.write(&synced_to.to_le_bytes());
        let mut note = [0; NOTE_BYTES];
        note[..8].copy_from_slice(&synced_to.to_le_bytes());
        note[8..].copy_from_slice(&tag.finish().to_le_bytes());
        note
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// RocksDB stores checksums masked, so that a checksum over bytes that hold checksums stays a good one.
pub(crate) fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(MASK_DELTA)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    First,
    Middle,
    Last,
    /// Of no interest here, and nothing that RocksDB would stop at.
    Other,
}

#[derive(Debug, Clone, Copy)]
struct Fragment<'a> {
    kind: Kind,
    payload: &'a [u8],
    bytes: usize,
    /// It names its file.
    named: bool,
}

/// The fragment at `at` in a block of file `number`; `named`: of one whose fragments name it.
fn fragment(block: &[u8], at: usize, number: u64, named: bool) -> Result<Fragment<'_>, Reason> {
    let rest = block.get(at..).unwrap_or_default();
    if rest.len() < HEADER_BYTES {
        return Err(Reason::Cut);
    }
    let length = usize::from(u16::from_le_bytes([rest[4], rest[5]]));
    let (kind, header) = match rest[6] {
        0 if length == 0 => return Err(Reason::Zeros),
        // Nothing else there is RocksDB's: it may be what a client sent once, and needs no guessing of the number.
        1..=4 | 10 | 11 | 130 | 131 if named => return Err(Reason::Type),
        1 => (Kind::Full, HEADER_BYTES),
        2 => (Kind::First, HEADER_BYTES),
        3 => (Kind::Middle, HEADER_BYTES),
        4 => (Kind::Last, HEADER_BYTES),
        5 => (Kind::Full, RECYCLABLE_HEADER_BYTES),
        6 => (Kind::First, RECYCLABLE_HEADER_BYTES),
        7 => (Kind::Middle, RECYCLABLE_HEADER_BYTES),
        8 => (Kind::Last, RECYCLABLE_HEADER_BYTES),
        // Sizes of timestamps, what the file before ended with.
        10 | 130 => (Kind::Other, HEADER_BYTES),
        11 | 131 => (Kind::Other, RECYCLABLE_HEADER_BYTES),
        _ => return Err(Reason::Type),
    };
    let bytes = header + length;
    let Some(whole) = rest.get(..bytes) else {
        // Only the last block of a file is short.
        return Err(if block.len() < BLOCK_BYTES {
            Reason::Cut
        } else {
            Reason::Length
        });
    };
    // The file's number is kept in 32 bits.
    if header == RECYCLABLE_HEADER_BYTES && u32_at(whole, HEADER_BYTES) != Some(number as u32) {
        return Err(Reason::Old);
    }
    if u32_at(whole, 0) != Some(masked(crc32c::crc32c(&whole[6..]))) {
        return Err(Reason::Checksum);
    }
    Ok(Fragment {
        kind,
        payload: &whole[header..],
        bytes,
        named: header == RECYCLABLE_HEADER_BYTES,
    })
}

/// Whether one changed bit is all that keeps what is at `at` in a block of file `number` from being a fragment: what
/// nobody has written yet does not look so, whatever the file held before.
fn one_bit_changed(block: &[u8], at: usize, number: u64, named: bool) -> bool {
    let mut tried = block.to_vec();
    let header = at..block.len().min(at + RECYCLABLE_HEADER_BYTES);
    for bit in header.start * 8..header.end * 8 {
        tried[bit / 8] ^= 1 << (bit % 8);
        if fragment(&tried, at, number, named).is_ok() {
            return true;
        }
        tried[bit / 8] ^= 1 << (bit % 8);
    }
    // From here on only a checksum may be what does not hold.
    if fragment(block, at, number, named).err() != Some(Reason::Checksum) {
        return false;
    }
    let length = usize::from(u16::from_le_bytes([block[at + 4], block[at + 5]]));
    let header = match block[at + 6] {
        5..=8 | 11 | 131 => RECYCLABLE_HEADER_BYTES,
        _ => HEADER_BYTES,
    };
    let Some(whole) = block.get(at..at + header + length) else {
        return false;
    };
    let stored = u32_at(whole, 0).unwrap_or(0);
    // A checksum is linear: the difference depends on the place of the changed bit only, counted from the end.
    let difference = stored.wrapping_sub(MASK_DELTA).rotate_left(15) ^ crc32c::crc32c(&whole[6..]);
    let mut of_bits: [u32; 8] = std::array::from_fn(|bit| past_zeros(1 << bit, 8));
    for _ in header..whole.len() {
        if of_bits.contains(&difference) {
            return true;
        }
        of_bits = of_bits.map(|bits| past_zeros(bits, 8));
    }
    false
}

/// The state of a CRC-32C after so many zero bits.
fn past_zeros(mut state: u32, bits: u32) -> u32 {
    for _ in 0..bits {
        state = (state >> 1) ^ if state & 1 == 1 { CRC32C_REVERSED } else { 0 };
    }
    state
}

/// Whether the damage at `at` looks as if a sector of it had never been written: zeros up to the sector's end, or a
/// whole sector of zeros. Blocks begin at multiples of a sector's size.
fn unwritten(block: &[u8], at: usize, reason: Reason) -> bool {
    let extent = match reason {
        Reason::Old => return true,
        Reason::Order => return false,
        Reason::Checksum => {
            let length = usize::from(u16::from_le_bytes([block[at + 4], block[at + 5]]));
            // The longer of the two headers: which of them it has, its type says, and that may have changed.
            at + RECYCLABLE_HEADER_BYTES + length
        }
        Reason::Zeros | Reason::Length | Reason::Type | Reason::Cut => block.len(),
    };
    let extent = extent.min(block.len());
    let mut from = at;
    while from < extent {
        let sector_end = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(block.len());
        if block[from..sector_end].iter().all(|byte| *byte == 0) {
            return true;
        }
        from = sector_end;
    }
    false
}

/// Reads one file, block by block.
#[derive(Debug)]
pub struct Scanner {
    number: u64,
    /// Where the next block begins.
    offset: u64,
    /// Where the record begins whose last fragment did not come yet.
    open: Option<u64>,
    head: Vec<u8>,
    good: u64,
    stop: Option<Stop>,
    /// Whether its fragments name the file.
    named: bool,
    /// Whether the fragment at which the reader stopped has one changed bit.
    one_bit_changed: bool,
}

impl Scanner {
    /// A reader of the file with this number.
    pub fn new(number: u64) -> Self {
        Self {
            number,
            offset: 0,
            open: None,
            head: Vec::with_capacity(HEAD_BYTES),
            good: 0,
            stop: None,
            named: false,
            one_bit_changed: false,
        }
    }

    /// Takes the next block: `BLOCK_BYTES`, fewer only at the end of the file.
    pub fn block(&mut self, block: &[u8], visit: &mut dyn FnMut(Seen<'_>)) {
        debug_assert!(block.len() <= BLOCK_BYTES, "a block at a time");
        let mut at = 0;
        while self.stop.is_none() && at < block.len() {
            // What is left of a full block holds no header.
            if block.len() == BLOCK_BYTES && block.len() - at < HEADER_BYTES {
                break;
            }
            match fragment(block, at, self.number, self.named) {
                Ok(fragment) => {
                    if self.take(&fragment, self.offset + at as u64, visit) {
                        at += fragment.bytes;
                    }
                }
                // The rest of a block is zeros where a longer header did not fit.
                Err(Reason::Zeros)
                    if block.len() == BLOCK_BYTES && block.len() - at < RECYCLABLE_HEADER_BYTES =>
                {
                    break;
                }
                Err(reason) => {
                    // A file that has no record of its own yet, as it was renamed.
                    self.named |= self.good == 0 && reason == Reason::Old;
                    self.one_bit_changed = block.len() - at >= HEADER_BYTES
                        && one_bit_changed(block, at, self.number, self.named);
                    let unwritten = unwritten(block, at, reason);
                    self.stop_at(self.offset + at as u64, reason, unwritten);
                }
            }
        }
        if self.stop.is_some() {
            self.search(block, at, visit);
        }
        self.offset += block.len() as u64;
    }

    /// Ends the reading: where the last whole record ended, and where it stopped unless it came to the end.
    pub fn finish(mut self) -> (u64, Option<Stop>) {
        if self.open.is_some() && self.stop.is_none() {
            self.stop_at(self.offset, Reason::Cut, true);
        }
        let named = self.named;
        let stop = self.stop.map(|mut stop| {
            // What was there before looks like anything.
            stop.unwritten |= named && stop.reason != Reason::Order && !self.one_bit_changed;
            stop
        });
        (self.good, stop)
    }

    /// Whether the file is one that may be used again: its fragments name it.
    pub fn named(&self) -> bool {
        self.named
    }

    fn stop_at(&mut self, at: u64, reason: Reason, unwritten: bool) {
        self.stop = Some(Stop {
            at: self.open.take().unwrap_or(at),
            reason,
            unwritten,
        });
    }

    /// Takes a valid fragment; false if it stopped there.
    fn take(&mut self, fragment: &Fragment<'_>, at: u64, visit: &mut dyn FnMut(Seen<'_>)) -> bool {
        let begins = matches!(fragment.kind, Kind::Full | Kind::First);
        if fragment.kind != Kind::Other && begins == self.open.is_some() {
            self.stop_at(at, Reason::Order, false);
            return false;
        }
        if begins {
            self.head.clear();
            self.open = Some(at);
        }
        self.named |= fragment.named;
        let room = HEAD_BYTES - self.head.len();
        self.head
            .extend_from_slice(&fragment.payload[..fragment.payload.len().min(room)]);
        if matches!(fragment.kind, Kind::Full | Kind::Last)
            && let Some(at) = self.open.take()
        {
            visit(Seen::Record {
                at,
                head: &self.head,
                named: self.named,
            });
        }
        if self.open.is_none() {
            self.good = at + fragment.bytes as u64;
        }
        true
    }

    /// Looks for valid fragments behind the damage, from `at` on at every byte until one is found: lengths cannot
    /// be trusted there.
    fn search(&mut self, block: &[u8], from: usize, visit: &mut dyn FnMut(Seen<'_>)) {
        let mut at = from;
        while at + HEADER_BYTES <= block.len() {
            match fragment(block, at, self.number, self.named) {
                Ok(found) if !found.payload.is_empty() => {
                    let offset = self.offset + at as u64;
                    // The fragment that did not fit into its place is no later one.
                    if let Some(stop) = self.stop
                        && offset > stop.at
                    {
                        self.named |= self.good == 0 && found.named;
                        let begins = matches!(found.kind, Kind::Full | Kind::First);
                        let head = &found.payload[..found.payload.len().min(HEAD_BYTES)];
                        visit(Seen::Behind {
                            at: offset,
                            head: begins.then_some(head),
                            within: stop.reason == Reason::Cut || self.named,
                        });
                    }
                    at += found.bytes;
                }
                _ => at += 1,
            }
        }
    }
}

/// The beginning of the first write batch of file `number`, of which `block` is the first block; `None` while there
/// is none.
pub fn first_batch(block: &[u8], number: u64) -> Option<BatchHead> {
    let mut at = 0;
    loop {
        let found = fragment(block, at, number, false).ok()?;
        match found.kind {
            Kind::Full | Kind::First => return BatchHead::parse(found.payload),
            Kind::Other => at += found.bytes,
            Kind::Middle | Kind::Last => return None,
        }
    }
}

/// Writes files as RocksDB does, for tests.
#[cfg(test)]
pub(crate) mod writer {
    use super::*;

    /// Appends `record` to a file.
    pub(crate) fn append(file: &mut Vec<u8>, record: &[u8], recycled: Option<u64>) {
        let header = if recycled.is_some() {
            RECYCLABLE_HEADER_BYTES
        } else {
            HEADER_BYTES
        };
        let mut rest = record;
        let mut first = true;
        loop {
            let left = BLOCK_BYTES - file.len() % BLOCK_BYTES;
            if left < header {
                file.resize(file.len() + left, 0);
                continue;
            }
            let taken = rest.len().min(left - header);
            let last = taken == rest.len();
            let kind: u8 = match (first, last) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            let mut checked = vec![kind + if recycled.is_some() { 4 } else { 0 }];
            if let Some(number) = recycled {
                checked.extend_from_slice(&(number as u32).to_le_bytes());
            }
            checked.extend_from_slice(&rest[..taken]);
            file.extend_from_slice(&masked(crc32c::crc32c(&checked)).to_le_bytes());
            file.extend_from_slice(&(taken as u16).to_le_bytes());
            file.extend_from_slice(&checked);
            rest = &rest[taken..];
            first = false;
            if last {
                return;
            }
        }
    }

    /// A write batch of `count` operations of which only the note is looked at.
    pub(crate) fn batch(
        sequence: u64,
        count: u32,
        note: Option<[u8; NOTE_BYTES]>,
        bytes: usize,
    ) -> Vec<u8> {
        let mut batch = sequence.to_le_bytes().to_vec();
        batch.extend_from_slice(&count.to_le_bytes());
        if let Some(note) = note {
            batch.extend_from_slice(&[LOG_DATA, NOTE_BYTES as u8]);
            batch.extend_from_slice(&note);
        }
        // A value as a client might send it, without runs of zeros.
        batch.extend((0..bytes).map(|index| (index % 251) as u8 + 1));
        batch
    }
}
