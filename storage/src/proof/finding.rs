//! What a proof can find missing or damaged, and how it is said. Made by `proof.rs` only.

use std::fmt;

use crate::durable::ManifestMark;
use crate::manifest;

/// One thing that was safe on disk and is not there, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A database that was there is gone.
    Gone {
        /// Its folder, below the data directory.
        folder: &'static str,
    },
    /// `CURRENT` is missing or makes no sense beside files of a database. Cannot be accepted: RocksDB would make a
    /// new database over them.
    NoCurrent {
        /// The file.
        file: String,
    },
    /// The manifest is an older one, or shorter than it was.
    Manifest {
        /// The file.
        file: String,
        /// Bytes of it that can be read.
        good: u64,
        /// What was safe.
        known: ManifestMark,
    },
    /// A write-ahead log that is still needed is not there.
    MissingLog {
        /// The file.
        file: String,
    },
    /// Writes that were synced are missing.
    Lost {
        /// Where they should be.
        file: String,
        /// The first byte that cannot be read.
        at: u64,
        /// The first sequence number that is missing.
        from: u64,
        /// The last one that is known to have been synced.
        to: u64,
    },
    /// Bits changed before a valid record.
    Damaged {
        /// The file.
        file: String,
        /// The first byte that cannot be read.
        at: u64,
        /// The next valid record is in this file,
        behind_file: String,
        /// at this byte.
        behind: u64,
    },
    /// The `durable` file itself cannot be read, so that nothing can be proven.
    NoProof,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone { folder } => write!(f, "the folder {folder} is gone or empty"),
            Self::NoCurrent { file } => write!(
                f,
                "{file} is missing or damaged (it holds the name of the newest MANIFEST file and a line feed)"
            ),
            Self::Manifest { file, good, known } => write!(
                f,
                "{file} is readable up to byte {good}, but {} was safe up to byte {}",
                manifest::name(known.number),
                known.bytes
            ),
            Self::MissingLog { file } => write!(f, "{file} is missing"),
            Self::Lost { file, at, from, to } => write!(
                f,
                "{file} is readable up to byte {at}: the synced writes {from} to {to} are missing"
            ),
            Self::Damaged {
                file,
                at,
                behind_file,
                behind,
            } => write!(
                f,
                "{file} is damaged at byte {at}, and the log is valid again at byte {behind} of {behind_file}"
            ),
            Self::NoProof => {
                f.write_str("durable is damaged: whether anything is missing cannot be told")
            }
        }
    }
}
