//! A copy of a data directory that a broker starts from: hard links to files that never change, copies of the few
//! others. Called by the running broker (`live`), or by `ottla backup` over a directory that nobody runs on (`stopped`).
//!
//! Invariants: everything whose write returned before the call is in the copy; `meta` is copied before `log`, so that
//! its views are behind the log and rolled forward; `meta.properties` comes last, so that a copy that was not finished
//! is no data directory. A copy has no mark of a clean stop: whoever starts from it raises the leader epochs, because
//! clients may have seen later offsets (KIP-320).

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use crate::directory::{Held, IDENTITY_FILE};
use crate::disk::{Disk, create_folders, sync_folder, write_whole};
use crate::durable::{self, keeper};
use crate::error::{EngineError, OpenError};
use crate::proof::{OnLoss, Proof};
use crate::rocks::RocksEngine;

/// Why there is no backup. Whatever was made of it stays for a look, and is no data directory.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The target is not a new or empty folder of its own.
    #[error("{target}: {why}")]
    Target {
        /// The folder.
        target: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The data directory cannot be copied as it is.
    #[error(transparent)]
    Source(#[from] OpenError),
    /// The store cannot make a checkpoint.
    #[error("cannot make a checkpoint: {0}")]
    Engine(#[from] EngineError),
    /// The system refused.
    #[error("cannot copy {path}: {source}")]
    Io {
        /// What was to be copied.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backup {
    /// Files in it.
    pub files: u64,
    /// Their size, whether they are shared with the data directory or not.
    pub bytes: u64,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.display().to_string();
    move |source| BackupError::Io { path, source }
}

/// The path that the system means by an absolute one: links are followed as far as there is anything, and behind that
/// nothing steps back.
///
/// # Errors
/// The path is not absolute, steps back where there is nothing, or cannot be followed.
pub fn resolved(target: &Path) -> Result<PathBuf, BackupError> {
    let refused = |why| BackupError::Target {
        target: target.display().to_string(),
        why,
    };
    if !target.is_absolute() {
        return Err(refused("must be an absolute path"));
    }
    for above in target.ancestors() {
        let Ok(mut path) = above.canonicalize() else {
            continue;
        };
        let rest = target.strip_prefix(above).unwrap_or(Path::new(""));
        for part in rest.components() {
            let Component::Normal(name) = part else {
                return Err(refused("goes back from a folder that is not there"));
            };
            path.push(name);
        }
        return Ok(path);
    }
    Err(refused("cannot be followed"))
}

/// Makes the target, which must be an absolute path to nothing, or to an empty folder.
fn prepare(data: &Path, target: &Path) -> Result<(), BackupError> {
    let refused = |why| BackupError::Target {
        target: target.display().to_string(),
        why,
    };
    let data = data.canonicalize().map_err(io_error(data))?;
    if resolved(target)?.starts_with(&data) {
        return Err(refused("lies in the data directory"));
    }
    match fs::read_dir(target) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(refused("is not empty; choose a new folder"));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => return Err(refused("is no folder that can be read")),
    }
    Ok(create_folders(&Disk, target)?)
}

/// Copies the data directory `data`, whose databases are open in `engine`, to `target`. Blocks for as long as
/// flushing what is in memory takes; appends go on meanwhile.
///
/// # Errors
/// The target is not fit, the store cannot, or the system refuses.
pub fn live(engine: &RocksEngine, data: &Path, target: &Path) -> Result<Backup, BackupError> {
    prepare(data, target)?;
    engine.checkpoint(target)?;
    // All that was written before is in tables. What came meanwhile is signed with a key that the copy does not have.
    let log = target.join("log");
    for path in files(&log)? {
        if path.extension().is_some_and(|end| end == "log") {
            fs::remove_file(&path).map_err(io_error(&path))?;
        }
    }
    sync_folder(&Disk, &log)?;
    keeper::write_first_slot(target)?;
    finish(data, target)
}

/// Copies the data directory `data`, on which nobody runs, to `target`.
///
/// # Errors
/// A broker runs on it, it lost what was safe in it, the target is not fit, or the system refuses.
pub fn stopped(data: &Path, target: &Path) -> Result<Backup, BackupError> {
    let _held = Held::hold(data)?;
    Proof::examine(data)?.judge(data, OnLoss::Refuse)?;
    prepare(data, target)?;
    for name in ["meta", "log"] {
        let (from, to) = (data.join(name), target.join(name));
        if !from.exists() {
            continue;
        }
        fs::create_dir(&to).map_err(io_error(&to))?;
        for path in files(&from)? {
            let copy = to.join(path.file_name().unwrap_or_default());
            take(&path, &copy).map_err(io_error(&path))?;
        }
        sync_folder(&Disk, &to)?;
    }
    let slots = data.join(durable::FILE);
    if slots.exists() {
        take(&slots, &target.join(durable::FILE)).map_err(io_error(&slots))?;
    }
    finish(data, target)
}

/// Plain files of a folder but for RocksDB's lock.
fn files(folder: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() && entry.file_name() != "LOCK" {
                files.push(entry.path());
            }
        }
        Ok(files)
    };
    list().map_err(io_error(folder))
}

/// Links a file that never changes, copies any other.
fn take(path: &Path, copy: &Path) -> io::Result<()> {
    let unchanging = path
        .extension()
        .is_some_and(|end| end == "sst" || end == "blob");
    if unchanging && fs::hard_link(path, copy).is_ok() {
        return Ok(());
    }
    // Also where a link cannot be had, as on another file system.
    fs::copy(path, copy)?;
    File::open(copy)?.sync_all()
}

/// Adds what makes it a data directory, and counts.
fn finish(data: &Path, target: &Path) -> Result<Backup, BackupError> {
    let identity = data.join(IDENTITY_FILE);
    let text = fs::read_to_string(&identity).map_err(io_error(&identity))?;
    write_whole(&Disk, target, IDENTITY_FILE, &text)?;
    let mut backup = Backup::default();
    let mut left = vec![target.to_owned()];
    while let Some(folder) = left.pop() {
        let mut count = || -> io::Result<()> {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    left.push(entry.path());
                } else {
                    backup.files += 1;
                    backup.bytes += entry.metadata()?.len();
                }
            }
            Ok(())
        };
        count().map_err(io_error(&folder))?;
    }
    Ok(backup)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::TempDir;

    #[test]
    fn a_target_is_what_the_system_makes_of_it() {
        let dir = TempDir::new("backup-resolved");
        let root = dir.path().canonicalize().expect("a folder");
        for folder in ["data", "beside"] {
            fs::create_dir(root.join(folder)).expect("makes a folder");
        }
        let link = root.join("link");
        std::os::unix::fs::symlink(root.join("data"), &link).expect("links");
        let of = |path: &str| resolved(&root.join(path)).map_err(|error| error.to_string());
        assert_eq!(of("beside/../copy"), Ok(root.join("copy")));
        assert_eq!(of("beside/./a/b"), Ok(root.join("beside/a/b")));
        assert_eq!(of("link/copy"), Ok(root.join("data/copy")));
        assert!(of("no/../copy").is_err_and(|why| why.contains("goes back")));
        assert!(resolved(Path::new("copy")).is_err());
        let refused = prepare(&root.join("data"), &link.join("copy"));
        assert!(
            matches!(&refused, Err(BackupError::Target { why, .. }) if why.contains("lies in")),
            "{refused:?}"
        );
        assert!(!root.join("data/copy").exists());
        prepare(&root.join("data"), &root.join("beside/../copy")).expect("a new folder");
        assert!(root.join("copy").is_dir());
    }
}
