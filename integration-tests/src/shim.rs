//! A library that makes syncs fail, loaded in front of the system's own into a process under test.
//!
//! While the trigger file exists, `fsync` and `fdatasync` of a write-ahead log return EIO, and each such call adds a byte
//! to the count file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::Run;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_log(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 4 && memcmp(path + length - 4, ".log", 4) == 0;
}

static int fails(int file) {
    if (!is_log(file)) return 0;
    const char *trigger = getenv("OTTLA_SYNCS_FAIL");
    const char *count = getenv("OTTLA_SYNCS_FAILED");
    if (!trigger || !count || access(trigger, F_OK) != 0) return 0;
    int fd = open(count, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
        if (write(fd, "x", 1) < 0) abort();
        close(fd);
    }
    errno = EIO;
    return 1;
}

int fsync(int fd) { return fails(fd) ? -1 : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails(fd) ? -1 : syscall(SYS_fdatasync, fd); }
"#;

/// The built library with its two files.
pub struct FailingSyncs {
    library: PathBuf,
    trigger: PathBuf,
    count: PathBuf,
}

impl FailingSyncs {
    /// Builds it in `folder` with the system's C compiler.
    pub fn build(folder: &Path) -> FailingSyncs {
        let (source, library) = (folder.join("syncs.c"), folder.join("syncs.so"));
        std::fs::write(&source, SOURCE).expect("a file in the test's folder");
        Run::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .timeout(Duration::from_secs(60))
            .succeed();
        FailingSyncs {
            library,
            trigger: folder.join("syncs-fail"),
            count: folder.join("syncs-failed"),
        }
    }

    /// The environment of the process under test.
    pub fn env(&self) -> [(&'static str, String); 3] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("OTTLA_SYNCS_FAIL", self.trigger.display().to_string()),
            ("OTTLA_SYNCS_FAILED", self.count.display().to_string()),
        ]
    }

    /// Every sync of a write-ahead log from now on fails, or none does.
    pub fn fail(&self, fail: bool) {
        let done = if fail {
            std::fs::write(&self.trigger, b"")
        } else {
            std::fs::remove_file(&self.trigger)
        };
        done.expect("a file in the test's folder");
    }

    /// How many syncs failed so far.
    pub fn failed(&self) -> usize {
        std::fs::metadata(&self.count).map_or(0, |count| count.len() as usize)
    }
}
