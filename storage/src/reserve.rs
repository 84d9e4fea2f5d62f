//! A file that holds room on the disk, to be given back when there is no other: a store needs some to make some.
//! The broker decides when it is taken and when it is given back; nothing is ever read from it or written to it.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// The file's name in the data directory.
pub const RESERVE_FILE: &str = "disk-reserve";

const TRIAL_FILE: &str = "disk-trial";

/// The reserve of one data directory.
#[derive(Debug, Clone)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// A reserve of so many bytes in `dir`, wherever it stands now.
    pub fn new(dir: &Path, bytes: u64) -> Self {
        Self {
            path: dir.join(RESERVE_FILE),
            bytes,
        }
    }

    /// A try for room that is given back at once: a file of its own beside the reserve, which also shows whether there
    /// is one to be had, and what a quota leaves.
    pub fn trial(dir: &Path, bytes: u64) -> Self {
        Self {
            path: dir.join(TRIAL_FILE),
            bytes: bytes.max(1),
        }
    }

    /// Its size, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it holds its room. A file of another size, or a copy with holes, does not.
    pub fn is_held(&self) -> bool {
        let held = fs::metadata(&self.path);
        held.is_ok_and(|held| held.len() == self.bytes && held.blocks() * 512 >= self.bytes)
    }

    /// Takes the room, unless it holds it.
    ///
    /// # Errors
    /// The system's: no room, or (`Unsupported`) a file system that cannot hold room for a file. Nothing is held then.
    pub fn take(&self) -> io::Result<()> {
        if self.is_held() {
            return Ok(());
        }
        self.give_back()?;
        if self.bytes == 0 {
            return Ok(());
        }
        let file = File::create_new(&self.path)?;
        let taken = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes);
        if let Err(error) = taken {
            drop(file);
            self.give_back()?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Gives the room back; there may be none.
    ///
    /// # Errors
    /// The system's.
    pub fn give_back(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::TempDir;

    #[test]
    fn room_is_held_until_it_is_given_back() {
        let dir = TempDir::new("reserve");
        let reserve = Reserve::new(dir.path(), 1 << 20);
        assert!(!reserve.is_held());
        reserve.give_back().expect("nothing to give");
        reserve.take().expect("room");
        reserve.take().expect("held already");
        assert!(reserve.is_held());
        let other = Reserve::new(dir.path(), 2 << 20);
        assert!(!other.is_held(), "another size");
        other.take().expect("made anew");
        assert!(other.is_held());
        other.give_back().expect("ours");
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
    }

    #[test]
    fn a_copy_with_holes_holds_nothing_and_is_replaced() {
        let dir = TempDir::new("reserve-holes");
        let reserve = Reserve::new(dir.path(), 1 << 20);
        let copy = File::create(dir.path().join(RESERVE_FILE)).expect("creates");
        copy.set_len(1 << 20).expect("a hole");
        assert!(!reserve.is_held());
        reserve.take().expect("room");
        assert!(reserve.is_held());
    }

    #[test]
    fn what_the_disk_cannot_give_leaves_no_file() {
        let dir = TempDir::new("reserve-too-much");
        let reserve = Reserve::new(dir.path(), 1 << 50);
        assert!(reserve.take().is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
    }
}
