//! Folders and small files whose names and content survive a power cut. Called by `directory.rs` and `rocks.rs`
//! at start and stop; it never touches a log.
//!
//! `Syncs` is a seam: what is synced, and when, shows in no file afterwards, so that tests look here.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::error::OpenError;

/// Makes files and folders safe from a power cut.
pub(crate) trait Syncs: Debug + Send + Sync {
    /// The content of the file that was opened at `path`.
    fn file(&self, file: &File, path: &Path) -> io::Result<()>;
    /// The names in a folder.
    fn folder(&self, path: &Path) -> io::Result<()>;
}

/// The system's own way.
#[derive(Debug)]
pub(crate) struct Disk;

impl Syncs for Disk {
    fn file(&self, file: &File, _: &Path) -> io::Result<()> {
        file.sync_all()
    }

    fn folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// An error of the system as one of the data directory.
pub(crate) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.display().to_string();
    move |source| OpenError::Io { what, path, source }
}

/// Makes the names in a folder safe from a power cut.
pub(crate) fn sync_folder(syncs: &dyn Syncs, path: &Path) -> Result<(), OpenError> {
    syncs
        .folder(path)
        .map_err(failed("cannot sync folder", path))
}

/// Creates `path` with the folders above it, so that a power cut does not take the name away from its content.
pub(crate) fn create_folders(syncs: &dyn Syncs, path: &Path) -> Result<(), OpenError> {
    let missing: Vec<_> = path
        .ancestors()
        .take_while(|above| !above.exists())
        .collect();
    fs::create_dir_all(path).map_err(failed("cannot create data directory", path))?;
    for made in missing {
        let above = made.parent().filter(|above| *above != Path::new(""));
        sync_folder(syncs, above.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Writes a file so that after a power cut it is there whole or not at all.
pub(crate) fn write_whole(
    syncs: &dyn Syncs,
    folder: &Path,
    name: &str,
    content: &str,
) -> Result<(), OpenError> {
    let temporary = folder.join(format!("{name}.tmp"));
    let write = || {
        let mut file = File::create(&temporary)?;
        io::Write::write_all(&mut file, content.as_bytes())?;
        syncs.file(&file, &temporary)?;
        fs::rename(&temporary, folder.join(name))
    };
    write().map_err(failed("cannot write", &folder.join(name)))?;
    sync_folder(syncs, folder)
}

/// Syncs nothing; remembers what a sync would have made safe, and fails one on demand.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    seen: std::sync::Mutex<Vec<String>>,
    fail_at: Option<usize>,
}

#[cfg(test)]
impl Recorder {
    /// One whose sync number `at`, counted from 0, fails.
    pub(crate) fn failing(at: usize) -> Self {
        Self {
            fail_at: Some(at),
            ..Self::default()
        }
    }

    /// What was seen since the last call, in order: `path = content` of a file, `path: names` of a folder, with
    /// paths below `root`.
    pub(crate) fn take(&self, root: &Path) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().expect("not poisoned"));
        let root = root.display().to_string();
        seen.iter().map(|line| line.replace(&root, "")).collect()
    }

    fn note(&self, line: String) -> io::Result<()> {
        let mut seen = self.seen.lock().expect("not poisoned");
        if self.fail_at == Some(seen.len()) {
            return Err(io::Error::other("test"));
        }
        seen.push(line);
        Ok(())
    }
}

#[cfg(test)]
impl Syncs for Recorder {
    fn file(&self, _: &File, path: &Path) -> io::Result<()> {
        let content = fs::read_to_string(path)?;
        self.note(format!("{} = {content}", path.display()))
    }

    fn folder(&self, path: &Path) -> io::Result<()> {
        let mut names = fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        self.note(format!("{}: {}", path.display(), names.join(" ")))
    }
}
