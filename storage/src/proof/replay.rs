//! The way RocksDB's recovery would take through write-ahead logs, followed without RocksDB: how far it leads, and
//! what lies behind its end. Called by `proof.rs`; reads files and changes nothing.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::wal::{BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHead, NoteKey, Scanner, Seen};

/// Where the reading of the write-ahead logs ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) log: u64,
    pub(super) at: u64,
    /// It looks as if it had never been written.
    pub(super) unwritten: bool,
}

/// A valid record behind that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) log: u64,
    pub(super) at: u64,
    /// The most that any of them says was synced.
    pub(super) synced_to: u64,
}

/// What RocksDB would replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Replay {
    /// The sequence number after the last one.
    pub(super) next: Option<u64>,
    pub(super) end: Option<End>,
    pub(super) behind: Option<Behind>,
    /// The last log, and where its last whole record ends.
    pub(super) good: (u64, u64),
    /// Logs that may hold what is left of earlier ones, and where that begins.
    pub(super) leftovers: Vec<(u64, u64)>,
    /// What notes are signed with.
    key: Option<NoteKey>,
}

impl Replay {
    fn record(&mut self, log: u64, at: u64, head: &[u8], named: bool) {
        let Some(batch) = BatchHead::parse(head) else {
            self.end.get_or_insert(End {
                log,
                at,
                unwritten: false,
            });
            return;
        };
        // What a client sent once may lie where this file's own records end, and look like the next one. RocksDB itself
        // begins a log with a batch of nothing where recovery met anything odd; whoever forged one forged nothing.
        let empty = batch.count == 0 && head.len() == BATCH_HEADER_BYTES;
        if named && !empty && self.key.is_some() && batch.synced_to(self.key.as_ref()).is_none() {
            self.end.get_or_insert(End {
                log,
                at,
                unwritten: true,
            });
            return;
        }
        if self.end.is_some_and(|end| end.log != log) && self.next == Some(batch.sequence) {
            // As RocksDB: what could not be read at the end of an earlier log was never anything.
            self.end = None;
            self.behind = None;
        }
        if self.end.is_some() {
            self.found_behind(log, at, Some(head), false);
            return;
        }
        if self.next.is_some_and(|next| next != batch.sequence) {
            self.end = Some(End {
                log,
                at,
                unwritten: true,
            });
            self.found_behind(log, at, Some(head), false);
            return;
        }
        self.next = Some(batch.next());
    }

    /// `within`: of a file that ends within a record, whose last part this seems to be. A record that a write did not
    /// finish is usual, and it holds what a client sent, which may look like anything: only a signed note is believed.
    fn found_behind(&mut self, log: u64, at: u64, head: Option<&[u8]>, within: bool) {
        let batch = head.and_then(BatchHead::parse);
        let note = batch.and_then(|batch| batch.synced_to(self.key.as_ref()));
        if within && note.is_none() {
            return;
        }
        let known = self.next.unwrap_or(0)..batch.map_or(0, |batch| batch.sequence);
        let synced_to = note.filter(|to| known.contains(to)).unwrap_or(0);
        let behind = self.behind.get_or_insert(Behind {
            log,
            at,
            synced_to: 0,
        });
        behind.synced_to = behind.synced_to.max(synced_to);
    }
}

pub(super) fn file_name(number: u64) -> String {
    format!("{number:06}.log")
}

/// Reads a file block by block; its readable bytes and where it stopped.
pub(super) fn scan(
    path: &Path,
    number: u64,
    visit: &mut dyn FnMut(Seen<'_>),
) -> io::Result<Scanner> {
    let mut file = File::open(path)?;
    let mut scanner = Scanner::new(number);
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    loop {
        block.clear();
        file.by_ref()
            .take(BLOCK_BYTES as u64)
            .read_to_end(&mut block)?;
        if !block.is_empty() {
            scanner.block(&block, visit);
        }
        if block.len() < BLOCK_BYTES {
            return Ok(scanner);
        }
    }
}

/// Follows the write-ahead logs in order. `expected` is the sequence number that the first of them begins with, `key`
/// what their notes are signed with.
pub(super) fn replay(
    folder: &Path,
    logs: &[u64],
    expected: Option<u64>,
    key: Option<NoteKey>,
) -> io::Result<Replay> {
    let mut replay = Replay {
        next: expected,
        key,
        ..Replay::default()
    };
    for log in logs.iter().copied() {
        let path = folder.join(file_name(log));
        let scanner = scan(&path, log, &mut |seen| match seen {
            Seen::Record { at, head, named } => replay.record(log, at, head, named),
            Seen::Behind { at, head, within } => replay.found_behind(log, at, head, within),
        })?;
        let named = scanner.named();
        let (mut good, stop) = scanner.finish();
        if let Some(end) = replay.end.filter(|end| end.log == log) {
            good = good.min(end.at);
        }
        replay.good = (log, good);
        // Where a file has no record of its own yet, nothing in it tells that it was used before.
        if (named || key.is_some()) && std::fs::metadata(&path)?.len() > good {
            replay.leftovers.push((log, good));
        }
        if let Some(stop) = stop {
            replay.end.get_or_insert(End {
                log,
                at: stop.at,
                unwritten: stop.unwritten,
            });
        }
    }
    Ok(replay)
}
