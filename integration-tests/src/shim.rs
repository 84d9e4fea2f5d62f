//! A library that makes a disk look bad, loaded in front of the system's own into a process under test.
//!
//! While a trigger file exists, `fsync` and `fdatasync` of a write-ahead log return EIO, and each such call adds a byte
//! to the count file. While another one exists, a read of a blob file that touches the bytes it names (`FROM TO`, within
//! the file `FILE`, or any when that is `*`) returns EIO, or with `hang` never returns, and is counted as well.

use std::ops::Range;
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

static int ends(int fd, const char *end) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1), wanted = strlen(end);
    return length > wanted && memcmp(path + length - wanted, end, wanted) == 0;
}

static void note(const char *count) {
    int fd = open(count, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
        if (write(fd, "x", 1) < 0) abort();
        close(fd);
    }
}

static int fails(int file) {
    const char *trigger = getenv("OTTLA_SYNCS_FAIL");
    const char *count = getenv("OTTLA_SYNCS_FAILED");
    if (!trigger || !count || access(trigger, F_OK) != 0 || !ends(file, ".log")) return 0;
    note(count);
    errno = EIO;
    return 1;
}

static int is_bad(int file, size_t bytes, off_t at) {
    const char *trigger = getenv("OTTLA_READS_FAIL");
    const char *count = getenv("OTTLA_READS_FAILED");
    if (!trigger || !count || access(trigger, F_OK) != 0 || !ends(file, ".blob")) return 0;
    int fd = syscall(SYS_openat, AT_FDCWD, trigger, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    char text[4096], how[16], name[1024];
    ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
    close(fd);
    text[length > 0 ? length : 0] = 0;
    long from, to;
    if (sscanf(text, "%15s %1023s %ld %ld", how, name, &from, &to) != 4) return 0;
    if (strcmp(name, "*") != 0 && !ends(file, name)) return 0;
    if (at >= to || at + (off_t) bytes <= from) return 0;
    note(count);
    while (strcmp(how, "hang") == 0) pause();
    errno = EIO;
    return 1;
}

ssize_t pread64(int fd, void *to, size_t bytes, off64_t at) {
    return is_bad(fd, bytes, at) ? -1 : syscall(SYS_pread64, fd, to, bytes, at);
}
ssize_t pread(int fd, void *to, size_t bytes, off_t at) { return pread64(fd, to, bytes, at); }
ssize_t read(int fd, void *to, size_t bytes) {
    off_t at = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    return at >= 0 && is_bad(fd, bytes, at) ? -1 : syscall(SYS_read, fd, to, bytes);
}
int fsync(int fd) { return fails(fd) ? -1 : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails(fd) ? -1 : syscall(SYS_fdatasync, fd); }
"#;

/// The built library with its two files.
pub struct BadDisk {
    library: PathBuf,
    syncs: Fault,
    reads: Fault,
}

/// What calls in the process look at, and where they are counted.
struct Fault {
    trigger: PathBuf,
    count: PathBuf,
}

impl Fault {
    fn new(folder: &Path, name: &str) -> Fault {
        Fault {
            trigger: folder.join(format!("{name}-fail")),
            count: folder.join(format!("{name}-failed")),
        }
    }

    fn begin(&self, text: &str) {
        // At once as a whole: calls look at it while it is made.
        let made = self.trigger.with_extension("new");
        std::fs::write(&made, text)
            .and_then(|()| std::fs::rename(&made, &self.trigger))
            .expect("a file in the test's folder");
    }

    fn count(&self) -> usize {
        std::fs::metadata(&self.count).map_or(0, |count| count.len() as usize)
    }
}

impl BadDisk {
    /// Builds it in `folder` with the system's C compiler.
    pub fn build(folder: &Path) -> BadDisk {
        let (source, library) = (folder.join("disk.c"), folder.join("disk.so"));
        std::fs::write(&source, SOURCE).expect("a file in the test's folder");
        Run::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .timeout(Duration::from_secs(60))
            .succeed();
        BadDisk {
            library,
            syncs: Fault::new(folder, "syncs"),
            reads: Fault::new(folder, "reads"),
        }
    }

    /// The environment of the process under test.
    pub fn env(&self) -> [(&'static str, String); 5] {
        let text = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD", text(&self.library)),
            ("OTTLA_SYNCS_FAIL", text(&self.syncs.trigger)),
            ("OTTLA_SYNCS_FAILED", text(&self.syncs.count)),
            ("OTTLA_READS_FAIL", text(&self.reads.trigger)),
            ("OTTLA_READS_FAILED", text(&self.reads.count)),
        ]
    }

    /// Every sync of a write-ahead log from now on fails, or none does.
    pub fn fail_syncs(&self, fail: bool) {
        if fail {
            self.syncs.begin("");
        } else {
            std::fs::remove_file(&self.syncs.trigger).expect("a file in the test's folder");
        }
    }

    /// These bytes of this blob file cannot be read from now on.
    pub fn bad_sector(&self, file: &Path, bytes: Range<usize>) {
        let name = file.file_name().expect("a file").to_string_lossy();
        let Range { start, end } = bytes;
        self.reads.begin(&format!("fail {name} {start} {end}"));
    }

    /// Every read of a blob file from now on hangs.
    pub fn hang_reads(&self) {
        self.reads.begin(&format!("hang * 0 {}", i64::MAX));
    }

    /// How many syncs failed so far.
    pub fn failed_syncs(&self) -> usize {
        self.syncs.count()
    }

    /// How many reads failed or hang.
    pub fn failed_reads(&self) -> usize {
        self.reads.count()
    }
}
