//! Stored batches on their way out of the broker: in memory, or where they lie in a file, from which they go to a socket
//! without being read here (Kafka's `MemoryRecords` and `FileRecords`). Made by `log/reads.rs`, sent by the broker's
//! connections. They never change, whatever happens to the log meanwhile: what a file holds stays as long as somebody has
//! it open.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use ottla_protocol::fetch_response::Segment;

/// Bytes of one or more whole batches.
#[derive(Debug, Clone)]
pub enum Records {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File(FileRecords),
}

/// A part of a file.
#[derive(Debug, Clone)]
pub struct FileRecords {
    /// The file, open to be read.
    pub file: Arc<File>,
    /// Where the part begins.
    pub position: u64,
    /// Bytes of it.
    pub size: usize,
}

impl FileRecords {
    /// Copies it to memory. May block on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.size];
        self.file.read_exact_at(&mut bytes, self.position)?;
        Ok(bytes.into())
    }
}

impl Records {
    /// What it takes in memory.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Records::Memory(bytes) => bytes.len(),
            Records::File(_) => 0,
        }
    }

    /// Its bytes, copied to memory where they are not. May block on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn into_bytes(self) -> io::Result<Bytes> {
        match self {
            Records::Memory(bytes) => Ok(bytes),
            Records::File(file) => file.read(),
        }
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        Records::Memory(bytes)
    }
}

impl Segment for Records {
    fn size(&self) -> usize {
        match self {
            Records::Memory(bytes) => bytes.len(),
            Records::File(file) => file.size,
        }
    }
}
