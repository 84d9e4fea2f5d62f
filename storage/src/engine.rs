//! The narrow seam between partition logs and the key-value store below them.
//!
//! Called by the rest of this crate only. An engine orders keys, applies a set of operations atomically
//! and can make everything written so far durable; it knows nothing of topics, offsets or batches.
//!
//! Invariants every engine keeps (`conformance.rs` is the one suite that says so):
//! * after `write` returned, every later read sees the operations, and they survive a kill of the process;
//! * after `sync` returned, everything whose `write` returned before `sync` began survives a power cut;
//! * a failed `write` or `sync` is never retried by the engine, and the caller must not go on writing.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;

use crate::error::EngineError;
use crate::reclaim::{Space, ValueFile};
use crate::records::{FileRecords, Records};

/// A family of keys. `Log` is a database of its own and holds all truth; the others are views of it
/// in a second database, rebuilt from the log whenever they are in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Partition logs, bindings and all that is derived with them (`keys.rs`).
    Log,
    /// View of the metadata partition.
    Topics,
    /// View of committed offsets.
    Offsets,
    /// View of consumer groups.
    Groups,
    /// View of transactions.
    Transactions,
}

impl Family {
    /// All families, `Log` first.
    pub const ALL: [Family; 5] = [
        Family::Log,
        Family::Topics,
        Family::Offsets,
        Family::Groups,
        Family::Transactions,
    ];

    /// The name of the column family on disk. Frozen: part of the data format.
    pub fn name(self) -> &'static str {
        match self {
            Family::Log => "default",
            Family::Topics => "topics",
            Family::Offsets => "offsets",
            Family::Groups => "groups",
            Family::Transactions => "txn",
        }
    }

    /// Whether the family lives in the `log` database (else in `meta`).
    pub fn in_log(self) -> bool {
        self == Family::Log
    }
}

/// One operation of a write.
#[derive(Debug, Clone)]
pub enum Op {
    /// Sets `key` to `value`.
    Put {
        /// Where the key lives.
        family: Family,
        /// The whole key.
        key: Vec<u8>,
        /// The whole value.
        value: Bytes,
    },
    /// Removes `key`, present or not.
    Delete {
        /// Where the key lives.
        family: Family,
        /// The whole key.
        key: Vec<u8>,
    },
    /// Removes every key in `from..to`.
    DeleteRange {
        /// Where the keys live.
        family: Family,
        /// First key removed.
        from: Vec<u8>,
        /// First key kept.
        to: Vec<u8>,
    },
}

impl Op {
    /// The family the operation touches.
    pub fn family(&self) -> Family {
        match self {
            Op::Put { family, .. } | Op::Delete { family, .. } | Op::DeleteRange { family, .. } => {
                *family
            }
        }
    }
}

/// Operations that are applied together or not at all, in order. All of them belong to one database:
/// either only `Family::Log` or only the others.
#[derive(Debug, Clone, Default)]
pub struct WriteOps {
    ops: Vec<Op>,
    bytes: usize,
}

impl WriteOps {
    /// An empty set of operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a put.
    pub fn put(&mut self, family: Family, key: Vec<u8>, value: impl Into<Bytes>) {
        let value = value.into();
        self.bytes += key.len() + value.len();
        self.ops.push(Op::Put { family, key, value });
    }

    /// Adds a delete.
    pub fn delete(&mut self, family: Family, key: Vec<u8>) {
        self.bytes += key.len();
        self.ops.push(Op::Delete { family, key });
    }

    /// Adds the removal of all keys in `from..to`; nothing when the range is empty.
    pub fn delete_range(&mut self, family: Family, from: Vec<u8>, to: Vec<u8>) {
        if from < to {
            self.bytes += from.len() + to.len();
            self.ops.push(Op::DeleteRange { family, from, to });
        }
    }

    /// Moves all of `other` behind what is here.
    pub fn append(&mut self, mut other: WriteOps) {
        self.bytes += other.bytes;
        self.ops.append(&mut other.ops);
    }

    /// The operations in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Sum of key and value lengths, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Where a scan begins.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// At the first key that is equal or greater.
    At(&'a [u8]),
    /// At the greatest key that is at most `key`, if that is at least `lower`; else at the first key after `key`.
    Floor {
        /// The key looked for.
        key: &'a [u8],
        /// No key below this one is visited.
        lower: &'a [u8],
    },
}

/// What a scan hands every key and value to; the slices live only for the call.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What is told of the beginning of a value that stays in its file, in bytes.
pub const HEAD_BYTES: usize = 61;

/// A value as `walk` hands it out: whole, and checked.
#[derive(Debug, Clone)]
pub struct Taken {
    records: Records,
    /// The first bytes of a value in a file.
    head: [u8; HEAD_BYTES],
}

impl Taken {
    /// A value in memory.
    pub fn in_memory(value: Bytes) -> Self {
        Self {
            records: Records::Memory(value),
            head: [0; HEAD_BYTES],
        }
    }

    /// A value in a file, which begins with `head`.
    pub fn in_file(head: [u8; HEAD_BYTES], records: FileRecords) -> Self {
        Self {
            records: Records::File(records),
            head,
        }
    }

    /// The first bytes, `HEAD_BYTES` or more of them where there are so many.
    pub fn head(&self) -> &[u8] {
        match &self.records {
            Records::Memory(bytes) => bytes,
            Records::File(_) => &self.head,
        }
    }

    /// The value.
    pub fn into_records(self) -> Records {
        self.records
    }
}

/// A value that a walk came upon, not read yet.
pub trait Unread {
    /// Its length in bytes.
    fn size(&self) -> usize;

    /// Reads it, or only checks it where it lies.
    ///
    /// # Errors
    /// The disk's, or damage; that it would have to be waited for, where nobody waits.
    fn take(&mut self) -> Result<Taken, Untaken>;
}

/// Why a value was not handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untaken {
    /// It would have to be waited for, or be copied to memory, and the walk is `Patience::None`.
    Waits,
    /// The store's error.
    Engine(EngineError),
}

impl From<EngineError> for Untaken {
    fn from(error: EngineError) -> Self {
        Untaken::Engine(error)
    }
}

/// How a walk ends where its visitor was not given a value.
impl From<Untaken> for Result<Walked, EngineError> {
    fn from(untaken: Untaken) -> Self {
        match untaken {
            Untaken::Waits => Ok(Walked::Waits),
            Untaken::Engine(error) => Err(error),
        }
    }
}

/// Whether whoever walks may be kept waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// For the disk.
    Disk,
    /// For nothing, nor for work that takes its time: only values are handed out that stay in their files and were found
    /// whole lately, by keys that are in memory. An engine may always stop.
    None,
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walked {
    /// At its end, or where the visitor broke it off.
    Ended,
    /// Where it would have had to wait.
    Waits,
}

/// What a walk hands every key to.
pub type VisitUnread<'a> =
    dyn FnMut(&[u8], &mut dyn Unread) -> Result<ControlFlow<()>, Untaken> + 'a;

/// A value that is in memory already.
struct Here<'a>(&'a [u8]);

impl Unread for Here<'_> {
    fn size(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self) -> Result<Taken, Untaken> {
        Ok(Taken::in_memory(Bytes::copy_from_slice(self.0)))
    }
}

/// An ordered, atomic, crash-safe key-value store. See the file's head for what it guarantees.
pub trait Engine: Send + Sync + 'static {
    /// Applies the operations atomically. Safe from a kill of the process when it returns, not from a power cut.
    fn write(&self, ops: &WriteOps) -> Result<(), EngineError>;

    /// Makes every write of `Family::Log` that returned before this call began safe from a power cut.
    /// Views need no sync: they are rebuilt from the log.
    fn sync(&self) -> Result<(), EngineError>;

    /// A number for what is written now: it grows, and all that was written before is told durable by `is_flushed`.
    ///
    /// # Errors
    /// It cannot be had; then only a sync makes anything durable.
    fn journal(&self) -> Result<u64, EngineError>;

    /// Whether everything that was written before `journal()` told this number became safe from a power cut
    /// without a sync, because it went to files of its own. `false` when in doubt.
    fn is_flushed(&self, journal: u64) -> bool;

    /// Has what is written go to files of its own soon, if it is not about to anyway. Does not wait for it.
    fn begin_flush(&self);

    /// The value of one key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Visits keys in ascending order from `start` to before `to`, until the visitor breaks.
    /// An error of the store is an `Err`, never a shorter scan.
    fn scan(
        &self,
        family: Family,
        start: Start<'_>,
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), EngineError>;

    /// As `scan`, for values that are sent on rather than looked at: an engine that has them in files reads those only that the visitor
    /// takes, and large ones not at all but to check them, which it need not do again within a minute; `_now` is the time on a
    /// clock that never goes back. The visitor's own error ends it, too.
    fn walk(
        &self,
        family: Family,
        start: Start<'_>,
        to: &[u8],
        (patience, _now): (Patience, Duration),
        visit: &mut VisitUnread<'_>,
    ) -> Result<Walked, EngineError> {
        if patience == Patience::None {
            return Ok(Walked::Waits);
        }
        let mut outcome = Ok(Walked::Ended);
        self.scan(family, start, to, &mut |key, value| {
            visit(key, &mut Here(value)).unwrap_or_else(|untaken| {
                outcome = untaken.into();
                ControlFlow::Break(())
            })
        })?;
        outcome
    }

    /// The greatest key in `from..to` with its value.
    fn last(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
    ) -> Result<Option<(Vec<u8>, Bytes)>, EngineError>;

    /// Drops the keys of `Family::Log` in `from..to` that were deleted before this call, and the room they take; that of
    /// their values becomes free, or garbage where a file holds other values too. Changes nothing that can be read.
    /// Blocks while it works.
    fn compact(&self, from: &[u8], to: &[u8]) -> Result<(), EngineError>;

    /// The files that hold values of `Family::Log`, oldest first. What is in memory is in none.
    fn value_files(&self) -> Result<Vec<ValueFile>, EngineError>;

    /// Moves what is still referred to out of the files of values whose numbers are below `end`, so that these files can
    /// go; now and then out of a few that follow. Changes nothing that can be read. Blocks while it works.
    fn collect(&self, end: u64) -> Result<(), EngineError>;

    /// What `Family::Log` takes on the disk, as `reclaim.rs` wants to know it.
    fn space(&self) -> Result<Space, EngineError>;

    /// Gauges for `/metrics`: short names and values, in the engine's own vocabulary.
    fn properties(&self) -> Vec<(&'static str, u64)>;
}
