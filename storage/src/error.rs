//! What can go wrong in storage. One enum per level: the engine's troubles, and what an append or a read
//! answers. What a client hears is decided in the broker's `error.rs`, nowhere here.

use std::io::ErrorKind;

use thiserror::Error;

use crate::proof::Finding;

/// Trouble below the log: the store itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EngineError {
    /// The disk is full, or the quota used up.
    #[error("disk full: {0}")]
    Full(String),
    /// An input or output error; nothing is known of what reached the disk.
    #[error("i/o error: {0}")]
    Io(String),
    /// A checksum or structure did not hold.
    #[error("damaged data: {0}")]
    Corruption(String),
    /// An earlier write or sync failed, so nothing is accepted any more until a restart.
    #[error("storage stopped after an earlier failure: {0}")]
    Failed(String),
}

/// Why an append, a read or a change of a partition's log was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StorageError {
    /// The offset lies outside of the log.
    #[error("offset {offset} is outside of the log, which holds {log_start}..{log_end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: i64,
        /// First offset held.
        log_start: i64,
        /// Offset after the last one held (or servable).
        log_end: i64,
    },
    /// The caller's leader epoch is older than the partition's.
    #[error("leader epoch {given} is fenced, the current one is {current}")]
    FencedLeaderEpoch {
        /// Epoch of the request.
        given: i32,
        /// Epoch of the partition.
        current: i32,
    },
    /// The caller's leader epoch is newer than the partition's.
    #[error("leader epoch {given} is not known yet, the current one is {current}")]
    UnknownLeaderEpoch {
        /// Epoch of the request.
        given: i32,
        /// Epoch of the partition.
        current: i32,
    },
    /// The batch does not follow the producer's last one.
    #[error(
        "producer {producer_id} sent sequence {given} of epoch {epoch}, expected {expected} for the next batch"
    )]
    OutOfOrderSequence {
        /// The producer.
        producer_id: i64,
        /// Its epoch in the batch.
        epoch: i16,
        /// First sequence in the batch.
        given: i32,
        /// The sequence that would follow.
        expected: i32,
    },
    /// The batch's producer epoch is older than the newest seen.
    #[error("producer {producer_id} uses epoch {given}, the newest is {current}")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: i64,
        /// Epoch of the batch.
        given: i16,
        /// Newest epoch seen.
        current: i16,
    },
    /// A transaction marker from a coordinator that has been replaced.
    #[error("transaction coordinator epoch {given} is fenced, the newest is {current}")]
    TransactionCoordinatorFenced {
        /// Epoch in the marker.
        given: i32,
        /// Newest epoch seen.
        current: i32,
    },
    /// A follower's batch that does not continue the log.
    #[error("batch starts at offset {given}, the log ends at {log_end}")]
    NotContinuous {
        /// Base offset of the batch.
        given: i64,
        /// End of the log.
        log_end: i64,
    },
    /// Bytes handed to the log are no record batch.
    #[error("not a record batch: {0}")]
    InvalidBatch(String),
    /// The partition was deleted, or is not on this broker.
    #[error("the partition is not on this broker")]
    NoSuchPartition,
    /// The log was truncated, or cleaned by somebody else, since the change was planned.
    #[error("the log was changed by somebody else meanwhile")]
    Overtaken,
    /// The log is closing.
    #[error("the broker is shutting down")]
    ShuttingDown,
    /// The store failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why a data directory could not be opened. Each is one clear line and exit code 2 (or 3 where data is lost).
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process holds the directory.
    #[error(
        "data directory {dir} is in use by another process; stop it, or choose another one with log.dirs"
    )]
    InUse {
        /// The directory.
        dir: String,
    },
    /// Written by a newer release.
    #[error(
        "data directory {dir} has format version {found}, this release reads up to {supported}; start the release that wrote it"
    )]
    NewerFormat {
        /// The directory.
        dir: String,
        /// Version found.
        found: u32,
        /// Newest version this release reads.
        supported: u32,
    },
    /// `meta.properties` is there but makes no sense.
    #[error("{file}: {reason}; restore it from a copy, or choose another directory with log.dirs")]
    BadIdentity {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The configured node id differs from the directory's.
    #[error(
        "node.id is {configured}, but data directory {dir} belongs to node {found}; set node.id={found} or choose another directory"
    )]
    OtherNode {
        /// The directory.
        dir: String,
        /// Node id in the configuration.
        configured: i32,
        /// Node id in the directory.
        found: i32,
    },
    /// Data that was safe on disk is missing or damaged, and nobody accepted that.
    #[error(
        "data directory {dir} lost what was safe on disk: {}; {}",
        listed(findings),
        way_out(*acceptable)
    )]
    Lost {
        /// The directory.
        dir: String,
        /// What is missing or damaged.
        findings: Vec<Finding>,
        /// Whether the broker could go on without it.
        acceptable: bool,
    },
    /// The operating system refused.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The store refused.
    #[error("cannot open the store in {dir}: {source}{}", hint(source))]
    Engine {
        /// The directory.
        dir: String,
        /// The store's answer.
        source: EngineError,
    },
    /// A partition's log refused.
    #[error("cannot recover the log: {}{}", .0, log_hint(.0))]
    Log(#[from] StorageError),
}

impl OpenError {
    /// Whether a full disk is the reason.
    pub fn is_full(&self) -> bool {
        match self {
            OpenError::Io { source, .. } => matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            ),
            OpenError::Engine { source, .. } => matches!(source, EngineError::Full(_)),
            OpenError::Log(StorageError::Engine(source)) => matches!(source, EngineError::Full(_)),
            OpenError::Log(_)
            | OpenError::Lost { .. }
            | OpenError::InUse { .. }
            | OpenError::NewerFormat { .. }
            | OpenError::BadIdentity { .. }
            | OpenError::OtherNode { .. } => false,
        }
    }
}

fn listed(findings: &[Finding]) -> String {
    let findings: Vec<_> = findings.iter().map(Finding::to_string).collect();
    findings.join("; ")
}

fn hint(error: &EngineError) -> &'static str {
    match error {
        EngineError::Corruption(_) => {
            "; restore a backup (`ottla check` tells what else is damaged)"
        }
        EngineError::Full(_) | EngineError::Io(_) | EngineError::Failed(_) => "",
    }
}

fn log_hint(error: &StorageError) -> &'static str {
    match error {
        StorageError::Engine(EngineError::Corruption(_)) => {
            "; restore a backup (`ottla check` tells what else is damaged), or go on without what that log holds from its first damaged batch on, if that is the damage: start once with --accept-loss"
        }
        StorageError::Engine(error) => hint(error),
        _ => "",
    }
}

fn way_out(acceptable: bool) -> &'static str {
    if acceptable {
        "bring the files back or restore a backup, or go on without what is missing: start once with --accept-loss"
    } else {
        "bring the file back or restore a backup"
    }
}
