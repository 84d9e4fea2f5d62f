//! Gives the room of blob files that RocksDB removed back in small steps. Where a file system is mounted with `discard` it
//! tells the disk of what became free before it finishes the sync of anybody, and for a whole file that takes tens of
//! milliseconds.
//!
//! Used by `rocks.rs`, which has files kept open while RocksDB removes some of them; a thread of its own shortens those bit by
//! bit. Never one that still has a name, and one that somebody sends from only afterwards. Elsewhere nothing is kept open.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::blobs::OpenFiles;
use crate::waiters::lock;

/// Kept open at most, the oldest first: they are what is removed most.
const MOST_FILES: usize = 128;

/// Cut off at once, in bytes; more where there is so much that it would take minutes.
const STEP_BYTES: u64 = 256 << 10;
const MOST_STEPS: u64 = 2 << 10;

/// Between two steps, so that others get their syncs in.
const PAUSE: Duration = Duration::from_millis(2);

/// RocksDB removes files a bit later than it says that it is done.
const LOOK: Duration = Duration::from_millis(50);
const MOST_LOOKS: u32 = 40;

/// The numbers of the files that are kept open.
type Numbers = Arc<Mutex<HashSet<u64>>>;

/// A blob file that is kept open.
#[derive(Debug)]
pub(super) struct Kept {
    number: u64,
    file: File,
    all: Numbers,
}

impl Drop for Kept {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.number);
    }
}

/// Knows whether removed files need care, and has a thread for it then.
#[derive(Debug, Default)]
pub(super) struct Removals {
    thread: Option<Sender<Vec<Kept>>>,
    all: Numbers,
}

impl Removals {
    /// For the blob files in `folder`, those that are sent from being known to `open`.
    pub(super) fn new(folder: &Path, open: &Arc<OpenFiles>) -> Self {
        let needed = folder.metadata().is_ok_and(|folder| {
            std::fs::read_to_string("/proc/self/mountinfo")
                .is_ok_and(|mounts| discards(&mounts, folder.dev()))
        });
        if !needed {
            return Self::default();
        }
        let (thread, kept) = mpsc::channel();
        let open = open.clone();
        let spawned = std::thread::Builder::new()
            .name("ottla-removals".to_owned())
            .spawn(move || run(&kept, &open));
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for removed files: they are given back at once");
            return Self::default();
        }
        Self {
            thread: Some(thread),
            all: Numbers::default(),
        }
    }

    pub(super) fn are_needed(&self) -> bool {
        self.thread.is_some()
    }

    /// Opens those of the files that are there and not kept open already, as many as may be.
    pub(super) fn keep(&self, folder: &Path, numbers: impl Iterator<Item = u64>) -> Vec<Kept> {
        let mut kept = Vec::new();
        for number in numbers {
            let mut all = lock(&self.all);
            if all.len() >= MOST_FILES {
                break;
            }
            let path = folder.join(format!("{number:06}.blob"));
            if !all.contains(&number)
                && let Ok(file) = File::options().write(true).open(path)
            {
                all.insert(number);
                kept.push(Kept {
                    number,
                    file,
                    all: self.all.clone(),
                });
            }
        }
        kept
    }

    /// Looks after those that RocksDB removes, and closes the others.
    pub(super) fn release(&self, kept: Vec<Kept>) {
        if let Some(thread) = &self.thread {
            // Without the thread they are closed here.
            let _ = thread.send(kept);
        }
    }
}

/// Whether the file system of the device `dev` is mounted with `discard`, by the lines of `/proc/self/mountinfo`.
fn discards(mounts: &str, dev: u64) -> bool {
    let device = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let of_device = |line: &&str| line.split(' ').nth(2) == Some(&device);
    // Its own options are the last field, those of the mount the sixth.
    mounts.lines().filter(of_device).any(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let options = [fields.last(), fields.get(5)].into_iter().flatten();
        options
            .flat_map(|field| field.split(','))
            .any(|option| option == "discard")
    })
}

/// Until nobody sends any more; what is left then goes at once.
fn run(kept: &Receiver<Vec<Kept>>, open: &OpenFiles) {
    let mut watched: Vec<(Kept, u32)> = Vec::new();
    let mut removed: Vec<Kept> = Vec::new();
    let mut since_look = Duration::ZERO;
    let mut pause = LOOK;
    loop {
        let more = if watched.is_empty() && removed.is_empty() {
            kept.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            kept.recv_timeout(pause)
        };
        match more {
            Ok(files) => watched.extend(files.into_iter().map(|file| (file, 0))),
            Err(RecvTimeoutError::Timeout) => since_look += pause,
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if since_look >= LOOK {
            since_look = Duration::ZERO;
            look(&mut watched, &mut removed);
        }
        pause = if step(&mut removed, open) {
            PAUSE
        } else {
            LOOK
        };
    }
}

/// Moves what was removed from `watched` to `removed`, and forgets what was not for a while.
fn look(watched: &mut Vec<(Kept, u32)>, removed: &mut Vec<Kept>) {
    for (file, looks) in std::mem::take(watched) {
        if file.file.metadata().is_ok_and(|file| file.nlink() == 0) {
            removed.push(file);
        } else if looks < MOST_LOOKS {
            watched.push((file, looks + 1));
        }
    }
}

/// Makes the first removed file that nobody sends from a bit shorter; whether there was one.
fn step(removed: &mut Vec<Kept>, open: &OpenFiles) -> bool {
    let Some(first) = removed.iter().position(|kept| !open.has(kept.number)) else {
        return false;
    };
    let left = |kept: &Kept| kept.file.metadata().map_or(0, |file| file.len());
    let all: u64 = removed.iter().map(left).sum();
    let bytes = STEP_BYTES.max(all / MOST_STEPS);
    if !matches!(shorten(&removed[first].file, bytes), Ok(1..)) {
        removed.remove(first);
    }
    true
}

/// Cuts so many bytes off the end and has the file system give them back now; tells what is left.
fn shorten(file: &File, bytes: u64) -> io::Result<u64> {
    let left = file.metadata()?.len().saturating_sub(bytes);
    file.set_len(left)?;
    file.sync_data()?;
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::TempDir;

    #[test]
    fn the_options_of_the_right_file_system_count() {
        let mounts = "\
22 28 0:21 / /proc rw,nosuid - proc proc rw
28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard,errors=remount-ro
30 28 254:16 / /data rw,relatime - ext4 /dev/vdb rw,nodiscard
31 28 254:32 / /old rw,discard - vfat /dev/vdc rw
";
        let dev = |minor| rustix::fs::makedev(254, minor);
        assert!(discards(mounts, dev(0)));
        assert!(!discards(mounts, dev(16)));
        assert!(discards(mounts, dev(32)));
        assert!(!discards(mounts, dev(48)) && !discards("", dev(0)));
    }

    fn made(dir: &TempDir, number: u64, bytes: u64) -> File {
        let path = dir.path().join(format!("{number:06}.blob"));
        let file = File::create(&path).and_then(|file| file.set_len(bytes));
        file.expect("is made");
        File::open(&path).expect("opens")
    }

    fn remove(dir: &TempDir, number: u64) {
        let path = dir.path().join(format!("{number:06}.blob"));
        std::fs::remove_file(path).expect("is there");
    }

    fn bytes(file: &File) -> u64 {
        file.metadata().expect("is open").len()
    }

    #[test]
    fn only_what_has_no_name_and_is_not_sent_from_any_more_is_shortened() {
        let dir = TempDir::new("removals");
        let open = OpenFiles::default();
        let size = 3 * STEP_BYTES + 1;
        let files = [11, 12, 13];
        let [sent, gone, named] = files.map(|number| made(&dir, number, size));
        let removals = Removals::default();
        let kept = removals.keep(dir.path(), files.into_iter().chain([99]));
        assert_eq!(kept.len(), 3, "99 is not there");
        assert!(removals.keep(dir.path(), files.into_iter()).is_empty());
        let [sending, once] = [11, 12].map(|number| open.opened(dir.path(), number));
        drop(once);
        for number in [11, 12] {
            remove(&dir, number);
        }
        let mut watched: Vec<_> = kept.into_iter().map(|kept| (kept, 0)).collect();
        let mut removed = Vec::new();
        for _ in 0..=MOST_LOOKS {
            assert!(!watched.is_empty());
            look(&mut watched, &mut removed);
        }
        assert!(watched.is_empty(), "what keeps its name is let go of");
        let lefts = [2 * STEP_BYTES + 1, STEP_BYTES + 1, 1, 0];
        for left in lefts {
            assert!(step(&mut removed, &open));
            assert_eq!(bytes(&gone), left);
        }
        assert!(!step(&mut removed, &open));
        assert_eq!([bytes(&named), bytes(&sent)], [size; 2]);
        drop(sending);
        for left in lefts {
            assert!(step(&mut removed, &open));
            assert_eq!(bytes(&sent), left);
        }
        assert!(!step(&mut removed, &open) && lock(&removals.all).is_empty());
    }

    #[test]
    fn very_much_takes_larger_steps() {
        let dir = TempDir::new("removals-large");
        let seen = made(&dir, 1, MOST_STEPS * 2 * STEP_BYTES);
        let mut kept = Removals::default().keep(dir.path(), [1].into_iter());
        remove(&dir, 1);
        assert!(step(&mut kept, &OpenFiles::default()));
        assert_eq!(bytes(&seen), (MOST_STEPS - 1) * 2 * STEP_BYTES);
    }

    #[test]
    fn no_more_are_kept_open_than_may_be() {
        let dir = TempDir::new("removals-many");
        let numbers = 1..=MOST_FILES as u64 + 5;
        for number in numbers.clone() {
            made(&dir, number, 1);
        }
        let removals = Removals::default();
        let kept = removals.keep(dir.path(), numbers.clone());
        assert_eq!(kept.len(), MOST_FILES);
        assert!(removals.keep(dir.path(), numbers.clone()).is_empty());
        drop(kept);
        assert_eq!(removals.keep(dir.path(), numbers).len(), MOST_FILES);
    }
}
