//! Stored batches on their way out of the broker: in memory, or where they lie in a file, from which they go to a socket
//! without being kept in memory (Kafka's `MemoryRecords` and `FileRecords`). Made by `log/reads.rs`, sent by the broker's
//! connections. They never change, whatever happens to the log meanwhile: what a file holds stays as long as somebody has
//! it open.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use bytes::Bytes;
use ottla_protocol::fetch_response::Segment;
use rustix::io::{Errno, ReadWriteFlags};

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
    pub file: Arc<StoredFile>,
    /// Where the part begins.
    pub position: u64,
    /// Bytes of it.
    pub size: usize,
}

/// A file of the store, open to be read. Whoever handed it out has checked what is to be read of it, and is told when it
/// could not be read all the same.
pub struct StoredFile {
    file: File,
    unreadable: Box<dyn Fn() + Send + Sync>,
}

impl StoredFile {
    /// `unreadable` is called when something of the file could not be read.
    pub fn new(file: File, unreadable: impl Fn() + Send + Sync + 'static) -> Self {
        let unreadable = Box::new(unreadable);
        Self { file, unreadable }
    }
}

impl fmt::Debug for StoredFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl Deref for StoredFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl AsFd for StoredFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Read at once of what is brought to memory.
const BRING_BYTES: usize = 16 << 10;

impl FileRecords {
    /// Whether the store has given the file up: it takes room on the disk only because somebody has it open.
    pub fn is_given_up(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
    }

    /// Tells the store that something of it could not be read: it is checked again before it is handed out once more.
    pub fn doubt(&self) {
        (self.file.unreadable)();
    }

    /// Copies bytes from byte `from` on as far as they can be had without waiting for the disk, and says how many those were:
    /// none or a part when the others are not in memory. All where the file system does not tell.
    ///
    /// # Errors
    /// The disk's, or that the file ends before byte `from`.
    pub fn read_in_memory(&self, from: usize, into: &mut [u8]) -> io::Result<usize> {
        let at = self.position + from as u64;
        let mut slices = [IoSliceMut::new(into)];
        match rustix::io::preadv2(&self.file, &mut slices, at, ReadWriteFlags::NOWAIT) {
            Ok(0) if !into.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => Ok(read),
            Err(Errno::AGAIN) => Ok(0),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.file.read_exact_at(into, at).map(|()| into.len())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Brings bytes `from..to` to memory, and answers the first ones, which may have left it again by then. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn bring(&self, from: usize, to: usize) -> io::Result<Vec<u8>> {
        let read = |bytes: &mut [u8], at: usize| {
            let at = self.position + at as u64;
            self.file.read_exact_at(bytes, at)
        };
        let mut first = vec![0; to.saturating_sub(from).min(BRING_BYTES)];
        read(&mut first, from)?;
        let mut bytes = [0; BRING_BYTES];
        for at in (from + first.len()..to).step_by(BRING_BYTES) {
            let left = (to - at).min(BRING_BYTES);
            read(&mut bytes[..left], at)?;
        }
        Ok(first)
    }

    /// Copies it to memory. May block on the disk. The store is told of what cannot be read.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.size];
        let read = self.file.read_exact_at(&mut bytes, self.position);
        read.inspect_err(|_| self.doubt())?;
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

/// Whether `bytes` could be filled from the file without waiting for the disk; an error where the file system does not tell.
pub(crate) fn read_from_memory(file: &File, bytes: &mut [u8], offset: u64) -> Result<bool, Errno> {
    let wanted = bytes.len();
    let mut slices = [IoSliceMut::new(bytes)];
    match rustix::io::preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
        Ok(read) => Ok(read == wanted),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error),
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
