//! The way RocksDB's recovery would take through write-ahead logs, followed without RocksDB: how far it leads, and
//! what lies behind its end. Called by `proof.rs`; reads files and changes nothing.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::wal::{BLOCK_BYTES, BatchHead, Scanner, Seen};

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
}

impl Replay {
    fn record(&mut self, log: u64, at: u64, head: &[u8]) {
        let Some(batch) = BatchHead::parse(head) else {
            self.end.get_or_insert(End {
                log,
                at,
                unwritten: false,
            });
            return;
        };
        if self.end.is_some_and(|end| end.log != log) && self.next == Some(batch.sequence) {
            // As RocksDB: what could not be read at the end of an earlier log was never anything.
            self.end = None;
            self.behind = None;
        }
        if self.end.is_some() {
            self.found_behind(log, at, Some(head));
            return;
        }
        if self.next.is_some_and(|next| next != batch.sequence) {
            self.end = Some(End {
                log,
                at,
                unwritten: true,
            });
            self.found_behind(log, at, Some(head));
            return;
        }
        self.next = Some(batch.next());
    }

    fn found_behind(&mut self, log: u64, at: u64, head: Option<&[u8]>) {
        let next = self.next.unwrap_or(0);
        // What a client sent could look like a record, where lengths cannot be trusted: a note has to make sense.
        let synced_to = head
            .and_then(BatchHead::parse)
            .and_then(|batch| {
                batch
                    .synced_to
                    .filter(|to| (next..batch.sequence).contains(to))
            })
            .unwrap_or(0);
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

/// Follows the write-ahead logs in order. `expected` is the sequence number that the first of them begins with.
pub(super) fn replay(folder: &Path, logs: &[u64], expected: Option<u64>) -> io::Result<Replay> {
    let mut replay = Replay {
        next: expected,
        ..Replay::default()
    };
    for log in logs.iter().copied() {
        let path = folder.join(file_name(log));
        let scanner = scan(&path, log, &mut |seen| match seen {
            Seen::Record { at, head } => replay.record(log, at, head),
            Seen::Behind { at, head } => replay.found_behind(log, at, head),
        })?;
        let (good, stop) = scanner.finish();
        replay.good = (log, good);
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
