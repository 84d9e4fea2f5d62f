//! A disk whose power can be cut: an ext4 file system in a file, mounted in a mount namespace of its own.
//!
//! The cut is ext4's own shutdown without a flush of its journal: from then on nothing reaches the file, and what
//! was not synced by then is not in it, as after a power cut. The next mount replays the journal.
//!
//! Needs root, loop devices, e2fsprogs and python3; a machine without them fails the test with what was said there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::namespace::{Mount, canonical};
use crate::process::{Process, Run};

/// Making, mounting or unmounting a small file system takes no longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// `EXT4_IOC_SHUTDOWN` is `_IOR('X', 125, __u32)`; 2 is `EXT4_GOING_FLAGS_NOLOGFLUSH`. (fs/ext4/ext4.h)
/// It waits for the word, so that the cut comes when it is asked for and not when an interpreter has started.
const SHUT_DOWN: &str = "\
import fcntl, os, struct, sys
disk, trigger = sys.argv[1:]
disk = os.open(disk, os.O_RDONLY)
os.mkfifo(trigger)
print('armed', flush=True)
open(trigger).read()
fcntl.ioctl(disk, 2 << 30 | 4 << 16 | ord('X') << 8 | 125, struct.pack('I', 2))
os.unlink(trigger)
";

/// The device lingers for a moment after its file system is gone, and would be mounted again as it was.
const MOUNT: &str = "\
for _ in $(seq 1000); do
    if [ -z \"$(losetup -j \"$IMAGE\")\" ]; then break; fi
    sleep 0.02
done
mount -o loop \"$IMAGE\" \"$FOLDER\"
";

/// A mounted disk; unmounted when dropped.
pub struct LoopDisk {
    mount: Mount,
    image: PathBuf,
}

impl LoopDisk {
    /// A disk of so many MiB, with its files in an existing, empty folder.
    pub fn new(folder: &Path, mebibytes: u32) -> LoopDisk {
        let folder = canonical(folder);
        let (image, mounted) = (folder.join("image"), folder.join("mount"));
        std::fs::create_dir(&mounted).expect("an empty folder");
        let script = format!(
            "truncate -s {mebibytes}M \"$IMAGE\"; mkfs.ext4 -q -F \"$IMAGE\"
{MOUNT}echo mounted; exec tail -f /dev/null"
        );
        let holder = Run::new("unshare")
            .args(["--mount", "bash", "-euc", &script])
            .env("IMAGE", &image);
        let what = "an ext4 image as root through a loop device";
        LoopDisk {
            mount: Mount::new(&mounted, holder, DEADLINE, what),
            image,
        }
    }

    /// The disk as processes outside of the namespace reach it; the same after every cut.
    pub fn path(&self) -> PathBuf {
        self.mount.path()
    }

    /// Makes ready for a cut.
    pub fn arm(&self) -> Cut {
        let trigger = self.image.with_file_name("cut");
        let process = Run::new("python3")
            .args(["-c", SHUT_DOWN])
            .args([self.path(), trigger.clone()])
            .start();
        let armed = process
            .stdout
            .wait_for_line(DEADLINE, |line| (line == "armed").then_some(()));
        assert!(armed.is_some(), "{}", process.output());
        Cut { process, trigger }
    }

    /// Mounts it again. Nobody may have a file of it open.
    pub fn restore_power(&self) {
        let script = format!("umount \"$FOLDER\"\n{MOUNT}");
        self.mount
            .inside(&["bash", "-euc", &script])
            .env("IMAGE", &self.image)
            .timeout(DEADLINE)
            .succeed();
    }
}

/// A cut that waits to be made.
pub struct Cut {
    process: Process,
    trigger: PathBuf,
}

impl Cut {
    /// Cuts the power: when this returns, every access fails.
    pub fn now(self) {
        std::fs::write(&self.trigger, b"now").expect("somebody reads");
        let status = self.process.wait(DEADLINE);
        assert!(
            status.is_some_and(|status| status.success()),
            "{}",
            self.process.output()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use super::*;
    use crate::TempDir;

    #[test]
    fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
        let folder = TempDir::new("loop-disk");
        let disk = LoopDisk::new(folder.path(), 64);
        let path = |name: &str| disk.path().join(name);
        let mut synced = File::create(path("synced")).expect("creates");
        synced.write_all(b"kept").expect("writes");
        synced.sync_all().expect("syncs");
        File::open(disk.path())
            .and_then(|names| names.sync_all())
            .expect("syncs the name");
        fs::write(path("written"), b"lost").expect("writes");
        drop(synced);
        disk.arm().now();
        assert!(fs::write(path("late"), b"refused").is_err());
        disk.restore_power();
        assert_eq!(fs::read(path("synced")).expect("reads"), b"kept");
        assert!(fs::read(path("written")).unwrap_or_default().is_empty());
        assert!(!path("late").exists());
    }
}
