//! The data directory around the two databases: its lock, its identity and the clean-shutdown marker.
//! Opened by the broker before either database; it never reads or writes a log.
//!
//! Invariants: `meta.properties` is written whole (temporary file, sync, rename, sync of the folder) before
//! either database exists; the marker is removed at start and written last at stop, so that its absence
//! means an unclean stop; nothing is changed in a directory that is refused.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use uuid::Uuid;

use crate::disk::{Disk, Syncs, create_folders, failed, sync_folder, write_whole};
use crate::error::OpenError;

/// The data format that this release writes; it reads every version up to it.
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const IDENTITY_FILE: &str = "meta.properties";
const LOCK_FILE: &str = ".lock";
const CLEAN_SHUTDOWN_FILE: &str = ".kafka_cleanshutdown";

/// Who this broker is; made at the first start and kept for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id: a UUID in Kafka's 22-character base64 form.
    pub cluster_id: String,
    /// This node's id.
    pub node_id: i32,
    /// This directory's id.
    pub directory_id: Uuid,
}

/// A locked data directory. The lock ends with this value, or with the process.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: Identity,
    unclean: bool,
    syncs: Arc<dyn Syncs>,
    _lock: File,
}

fn parse_identity(path: &Path, text: &str) -> Result<(u32, Identity), OpenError> {
    let bad = |reason: String| OpenError::BadIdentity {
        file: path.display().to_string(),
        reason,
    };
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    let field = |name: &str| {
        fields
            .get(name)
            .copied()
            .ok_or_else(|| bad(format!("{name} is missing")))
    };
    let number = |name: &str| -> Result<i64, OpenError> {
        let value = field(name)?;
        value
            .parse()
            .map_err(|_| bad(format!("{name}={value} is no number")))
    };
    let version = u32::try_from(number("format.version")?)
        .map_err(|_| bad("format.version is negative".to_owned()))?;
    let node_id =
        i32::try_from(number("node.id")?).map_err(|_| bad("node.id is too large".to_owned()))?;
    let directory = field("directory.id")?;
    let directory_id = Uuid::parse_str(directory)
        .map_err(|_| bad(format!("directory.id={directory} is no UUID")))?;
    let identity = Identity {
        cluster_id: field("cluster.id")?.to_owned(),
        node_id,
        directory_id,
    };
    Ok((version, identity))
}

/// Looks who lives in `path`; nobody, when it is new. Changes nothing.
fn look(path: &Path, node_id: Option<i32>) -> Result<Option<Identity>, OpenError> {
    let identity_path = path.join(IDENTITY_FILE);
    let (version, identity) = match fs::read_to_string(&identity_path) {
        Ok(text) => parse_identity(&identity_path, &text)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if path.join("log").exists() {
                return Err(OpenError::BadIdentity {
                    file: identity_path.display().to_string(),
                    reason: "the file is missing beside a log".to_owned(),
                });
            }
            return Ok(None);
        }
        Err(error) => return Err(failed("cannot read", &identity_path)(error)),
    };
    if version > FORMAT_VERSION {
        return Err(OpenError::NewerFormat {
            dir: path.display().to_string(),
            found: version,
            supported: FORMAT_VERSION,
        });
    }
    if let Some(configured) = node_id.filter(|node| *node != identity.node_id) {
        return Err(OpenError::OtherNode {
            dir: path.display().to_string(),
            configured,
            found: identity.node_id,
        });
    }
    Ok(Some(identity))
}

/// Keeps brokers out of a directory that is only looked at or copied.
#[derive(Debug)]
pub struct Held {
    identity: Identity,
    _lock: Option<File>,
}

impl Held {
    /// Takes the lock of the data directory at `path` and changes nothing in it.
    ///
    /// # Errors
    /// A broker runs on it, or it is no data directory that this release reads.
    pub fn hold(path: &Path) -> Result<Self, OpenError> {
        let lock_path = path.join(LOCK_FILE);
        let lock = match File::open(&lock_path) {
            Ok(lock) => Some(lock),
            // Nobody ever ran here, as with a fresh backup.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(failed("cannot open", &lock_path)(error)),
        };
        if let Some(lock) = &lock
            && rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_err()
        {
            return Err(OpenError::InUse {
                dir: path.display().to_string(),
            });
        }
        let identity = look(path, None)?.ok_or_else(|| OpenError::BadIdentity {
            file: path.join(IDENTITY_FILE).display().to_string(),
            reason: "there is no such file, so this is no data directory".to_owned(),
        })?;
        Ok(Self {
            identity,
            _lock: lock,
        })
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl DataDirectory {
    /// Opens `path`, creating it with the identity that `fresh` makes when it is new.
    ///
    /// # Errors
    /// In use, of a newer format, of another node, damaged, or not writable; nothing is changed then.
    pub fn open(
        path: &Path,
        node_id: Option<i32>,
        fresh: impl FnOnce() -> Identity,
    ) -> Result<Self, OpenError> {
        Self::take(path, look(path, node_id)?, fresh, Arc::new(Disk))
    }

    /// Locks `path`, in which `found` lived when it was looked at, and makes it the home of `fresh` if it is new.
    fn take(
        path: &Path,
        found: Option<Identity>,
        fresh: impl FnOnce() -> Identity,
        syncs: Arc<dyn Syncs>,
    ) -> Result<Self, OpenError> {
        create_folders(syncs.as_ref(), path)?;
        let lock_path = path.join(LOCK_FILE);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("cannot open", &lock_path))?;
        let in_use = || OpenError::InUse {
            dir: path.display().to_string(),
        };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(in_use());
        }
        let is_new = found.is_none();
        if is_new && path.join(IDENTITY_FILE).exists() {
            // Another process made it between the look and the lock; its identity must stay.
            return Err(in_use());
        }
        let clean = path.join(CLEAN_SHUTDOWN_FILE).exists();
        let identity = match found {
            Some(identity) => identity,
            None => {
                let identity = fresh();
                let content = format!(
                    "# Written once at the first start. Do not edit.\nformat.version={FORMAT_VERSION}\n\
                     cluster.id={}\nnode.id={}\ndirectory.id={}\n",
                    identity.cluster_id, identity.node_id, identity.directory_id
                );
                write_whole(syncs.as_ref(), path, IDENTITY_FILE, &content)?;
                identity
            }
        };
        Ok(Self {
            path: path.to_owned(),
            identity,
            unclean: !clean && !is_new,
            syncs,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who this broker is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the last run ended without closing the log: killed, crashed or power cut.
    pub fn was_unclean(&self) -> bool {
        self.unclean
    }

    /// Takes the mark of a clean stop away: from here on the log is written to. Called once both databases are
    /// open, so that a start that they refuse changes nothing.
    ///
    /// # Errors
    /// When the mark cannot be removed: a crash would go unnoticed then.
    pub fn begin(&self) -> Result<(), OpenError> {
        let marker = self.path.join(CLEAN_SHUTDOWN_FILE);
        match fs::remove_file(&marker) {
            Ok(()) => sync_folder(self.syncs.as_ref(), &self.path),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("cannot remove", &marker)(error)),
        }
    }

    /// Marks a clean stop; the last thing a broker writes.
    ///
    /// # Errors
    /// When the marker cannot be written: the next start then counts as unclean, which is safe.
    pub fn close(self) -> Result<(), OpenError> {
        write_whole(self.syncs.as_ref(), &self.path, CLEAN_SHUTDOWN_FILE, "")
    }
}

/// A folder for one test, removed at its end.
#[derive(Debug)]
#[doc(hidden)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A fresh empty folder whose name holds `name` and the process id.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn new(name: &str) -> Self {
        Self::within(&std::env::temp_dir(), name)
    }

    /// The same, in the folder of the running program, which is on a disk more often: the system's temporary folder may lie in
    /// memory.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn on_disk(name: &str) -> Self {
        let program = std::env::current_exe().expect("the program has a path");
        Self::within(program.parent().expect("it is in a folder"), name)
    }

    fn within(folder: &Path, name: &str) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("ottla-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary folder is writable");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Recorder;

    fn fresh() -> Identity {
        Identity {
            cluster_id: "AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
            node_id: 1,
            directory_id: Uuid::from_u128(7),
        }
    }

    fn snapshot(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(path)
            .expect("lists")
            .map(|entry| entry.expect("entry").path())
            .map(|path| (path.clone(), fs::read(&path).unwrap_or_default()))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn identity_stays_and_only_a_closed_directory_is_clean() {
        let dir = TempDir::new("identity");
        let path = dir.path().join("data");
        let opened = DataDirectory::open(&path, Some(1), fresh).expect("opens");
        assert!(!opened.was_unclean(), "a new directory has nothing to lose");
        opened.begin().expect("begins");
        drop(opened);
        let opened = DataDirectory::open(&path, None, || panic!("made once")).expect("opens");
        assert!(opened.was_unclean());
        assert_eq!(*opened.identity(), fresh());
        opened.close().expect("closes");
        let opened = DataDirectory::open(&path, None, fresh).expect("opens");
        assert!(!opened.was_unclean());
        drop(opened);
        let opened = DataDirectory::open(&path, None, fresh).expect("opens");
        assert!(
            !opened.was_unclean(),
            "the databases were never opened in between"
        );
        opened.begin().expect("begins");
        drop(opened);
        let opened = DataDirectory::open(&path, None, fresh).expect("opens");
        assert!(opened.was_unclean());
    }

    #[test]
    fn of_two_first_starts_at_once_one_identity_stays() {
        let other = || Identity {
            cluster_id: "BBBBBBBBBBBBBBBBBBBBBB".to_owned(),
            node_id: 1,
            directory_id: Uuid::from_u128(8),
        };
        let dir = TempDir::new("two-starts");
        let path = dir.path().join("data");
        // Both find nobody; then one does everything before the other goes on.
        let found = look(&path, Some(1)).expect("looks");
        assert_eq!(found, None);
        let first = DataDirectory::open(&path, Some(1), fresh).expect("opens");
        let late = |found| DataDirectory::take(&path, found, other, Arc::new(Disk));
        let refused = late(found.clone()).expect_err("the first one runs");
        assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
        first.close().expect("closes");
        let before = snapshot(&path);
        let refused = late(found).expect_err("the first one ran");
        assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
        assert_eq!(snapshot(&path), before);
        let opened = DataDirectory::open(&path, Some(1), other).expect("opens");
        assert_eq!(*opened.identity(), fresh());
    }

    fn open_with(path: &Path, syncs: &Arc<Recorder>) -> Result<DataDirectory, OpenError> {
        DataDirectory::take(path, look(path, None)?, fresh, syncs.clone())
    }

    #[test]
    fn names_are_safe_from_a_power_cut_once_their_content_is() {
        let dir = TempDir::new("synced");
        let path = dir.path().join("a/b");
        let syncs = Arc::new(Recorder::default());
        let opened = open_with(&path, &syncs).expect("opens");
        let identity = fs::read_to_string(path.join(IDENTITY_FILE)).expect("reads");
        assert!(identity.ends_with("directory.id=00000000-0000-0000-0000-000000000007\n"));
        assert_eq!(
            syncs.take(dir.path()),
            [
                "/a: b".to_owned(),
                ": a".to_owned(),
                format!("/a/b/meta.properties.tmp = {identity}"),
                "/a/b: .lock meta.properties".to_owned(),
            ]
        );
        opened.begin().expect("begins");
        opened.close().expect("closes");
        assert_eq!(
            syncs.take(dir.path()),
            [
                "/a/b/.kafka_cleanshutdown.tmp = ",
                "/a/b: .kafka_cleanshutdown .lock meta.properties",
            ]
        );
        let opened = open_with(&path, &syncs).expect("opens");
        assert!(syncs.take(dir.path()).is_empty(), "nothing new");
        opened.begin().expect("begins");
        assert_eq!(syncs.take(dir.path()), ["/a/b: .lock meta.properties"]);
    }

    #[test]
    fn a_start_that_cannot_sync_is_refused() {
        for at in 0..4 {
            let dir = TempDir::new("not-synced");
            let path = dir.path().join("a/b");
            let refused = open_with(&path, &Arc::new(Recorder::failing(at)));
            assert!(refused.is_err(), "sync {at} failed");
            assert_eq!(path.join(IDENTITY_FILE).exists(), at == 3, "sync {at}");
            DataDirectory::open(&path, None, fresh).expect("opens when the disk is well again");
        }
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = TempDir::new("in-use");
        let held = DataDirectory::open(dir.path(), None, fresh).expect("opens");
        let before = snapshot(dir.path());
        let refused = DataDirectory::open(dir.path(), None, fresh).expect_err("in use");
        assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
        assert_eq!(snapshot(dir.path()), before);
        drop(held);
        DataDirectory::open(dir.path(), None, fresh).expect("opens");
    }

    #[test]
    fn a_newer_format_another_node_and_damage_are_refused_and_nothing_changes() {
        let cases = [
            (
                "format.version=2\ncluster.id=x\nnode.id=1\ndirectory.id=00000000-0000-0000-0000-000000000007\n",
                "format version 2",
            ),
            (
                "format.version=1\ncluster.id=x\nnode.id=3\ndirectory.id=00000000-0000-0000-0000-000000000007\n",
                "node.id=3",
            ),
            ("format.version=one\n", "no number"),
            ("", "is missing"),
        ];
        for (content, said) in cases {
            let dir = TempDir::new("refused");
            fs::write(dir.path().join(IDENTITY_FILE), content).expect("writes");
            fs::write(dir.path().join(CLEAN_SHUTDOWN_FILE), "").expect("writes");
            let before = snapshot(dir.path());
            let refused = DataDirectory::open(dir.path(), Some(1), fresh).expect_err(content);
            assert!(refused.to_string().contains(said), "{refused}");
            assert!(!refused.to_string().contains('\n'), "one line");
            assert_eq!(snapshot(dir.path()), before);
        }
        let dir = TempDir::new("no-identity");
        fs::create_dir(dir.path().join("log")).expect("makes");
        assert!(DataDirectory::open(dir.path(), None, fresh).is_err());
    }
}
