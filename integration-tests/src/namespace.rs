//! Commands in Linux namespaces of their own, for tests that need default ports, or a file system made for them.
//!
//! Works as root and, where the kernel lets users make namespaces, for others; elsewhere the test fails with what
//! `unshare` says. Nothing outside is changed, and all ends with the process that began it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Process, Run};

/// Making a small file system takes no longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// A bash script with a network of its own, where every port is free, and with process ids of its own, so that a
/// `pkill` in it finds nothing else. It stops at the first command that fails.
pub fn bash_apart(script: &str) -> Run {
    unshare()
        .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["bash", "-euc", &format!("ip link set lo up\n{script}")])
}

/// A file system that one waiting process holds mounted in a mount namespace of its own; it ends with this value.
pub struct Mount {
    holder: Process,
    folder: PathBuf,
}

impl Mount {
    /// Starts the process that mounts on an existing folder, whose path it has as `FOLDER`, says `mounted` in a line, and
    /// waits. `what` it mounts, and as whom, stands in the message when it cannot.
    pub fn new(folder: &Path, holder: Run, deadline: Duration, what: &str) -> Mount {
        let holder = holder.env("FOLDER", folder).start();
        let mounted = holder
            .stdout
            .wait_for_line(deadline, |line| (line == "mounted").then_some(()));
        assert!(
            mounted.is_some(),
            "this test mounts {what}, and cannot:\n{}",
            holder.output()
        );
        Mount {
            holder,
            folder: folder.to_owned(),
        }
    }

    /// The folder as processes outside of the namespace reach it; the same whatever is mounted there.
    pub fn path(&self) -> PathBuf {
        let inside = self
            .folder
            .strip_prefix("/")
            .expect("canonical paths are absolute");
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    /// A command in the namespace, with the folder's path there as `FOLDER`.
    pub fn inside(&self, command: &[&str]) -> Run {
        Run::new("nsenter")
            .args(["--mount", "--target", &self.holder.id().to_string()])
            .args(command.to_vec())
            .env("FOLDER", &self.folder)
    }
}

/// The path of a folder from the root, without links.
pub fn canonical(folder: &Path) -> PathBuf {
    folder
        .canonicalize()
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

/// A file system in memory, seen under a path that ends with this value.
pub struct SmallDisk(Mount);

impl SmallDisk {
    /// A disk of so many MiB, and 2,000 files, over an existing, empty folder, in a mount namespace that one waiting process holds.
    pub fn new(folder: &Path, mebibytes: u32) -> SmallDisk {
        let script = format!(
            "mount -t tmpfs -o size={mebibytes}m,nr_inodes=2000 tmpfs \"$FOLDER\" && echo mounted && exec tail -f /dev/null"
        );
        let holder = unshare().args(["--mount", "bash", "-c", &script]);
        let what = "a small file system, as root or in a user namespace";
        SmallDisk(Mount::new(&canonical(folder), holder, DEADLINE, what))
    }

    /// The disk as processes outside of the namespace reach it.
    pub fn path(&self) -> PathBuf {
        self.0.path()
    }
}

/// Whoever is not root becomes it in a user namespace, to make the other ones.
fn unshare() -> Run {
    let run = Run::new("unshare");
    if rustix::process::geteuid().is_root() {
        run
    } else {
        run.args(["--user", "--map-root-user"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TempDir;

    #[test]
    fn a_script_apart_has_a_loopback_of_its_own_and_sees_no_other_process() {
        let script = "ip -brief address show lo; pgrep -c . || true; exit 7";
        let output = bash_apart(script).finish();
        let lines = output.lines();
        assert!(lines[0].contains("127.0.0.1/8"), "{output:?}");
        // The script's bash and pgrep's own pipe, no more.
        assert!(
            lines[1].parse::<u32>().is_ok_and(|count| count <= 2),
            "{output:?}"
        );
        assert_eq!(output.status.code(), Some(7));
    }

    #[test]
    fn a_small_disk_is_small_and_leaves_nothing() {
        let folder = TempDir::new("small-disk");
        let disk = SmallDisk::new(folder.path(), 1);
        let file = disk.path().join("file");
        let error = std::fs::write(&file, vec![1; 2 << 20]).expect_err("2 MiB on a disk of 1");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        std::fs::write(&file, b"fits").expect("room after the file was cut");
        assert!(
            !folder.path().join("file").exists(),
            "seen in the namespace only"
        );
    }
}
