//! This process as Linux sees it: disk traffic, CPU time, memory, file descriptors.
//!
//! Read at every scrape, for the two `linux_disk` names and the `process_` names. Where there is no `/proc` there is
//! no answer.

/// Ticks of a second in `/proc/self/stat`: `USER_HZ`, which is 100 wherever this broker runs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Bytes that really went to and from disks, not to the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DiskBytes {
    pub(super) read: u64,
    pub(super) written: u64,
}

/// The traffic so far; `None` if the system does not tell.
pub(super) fn disk_bytes() -> Option<DiskBytes> {
    parse_io(&std::fs::read_to_string("/proc/self/io").ok()?)
}

/// What the process uses; what the system does not tell is `None`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) start_seconds: Option<f64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
}

/// What the process uses now.
pub(super) fn usage() -> Usage {
    let read = |path| std::fs::read_to_string(path).ok();
    let times = read("/proc/self/stat").and_then(|stat| parse_stat(&stat));
    let booted = read("/proc/stat").and_then(|stat| parse_boot(&stat));
    let status = read("/proc/self/status").unwrap_or_default();
    Usage {
        cpu_seconds: times.map(|times| times.cpu),
        start_seconds: times
            .zip(booted)
            .map(|(times, booted)| booted + times.start),
        virtual_bytes: parse_kib(&status, "VmSize:"),
        resident_bytes: parse_kib(&status, "VmRSS:"),
        open_fds: open_fds(),
        max_fds: read("/proc/self/limits").and_then(|limits| parse_max_fds(&limits)),
    }
}

fn open_fds() -> Option<u64> {
    let folder = "/proc/self/fd";
    // Since Linux 6.2 the folder's size is the count, which saves a walk through it.
    match std::fs::metadata(folder).ok()?.len() {
        0 => Some(std::fs::read_dir(folder).ok()?.count() as u64),
        count => Some(count),
    }
}

/// Reads the format of proc_pid_io(5).
fn parse_io(text: &str) -> Option<DiskBytes> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.trim().parse().ok()
    };
    Some(DiskBytes {
        read: value("read_bytes")?,
        written: value("write_bytes")?,
    })
}

/// Seconds of CPU, and seconds from boot to start.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Times {
    cpu: f64,
    start: f64,
}

/// Reads the format of proc_pid_stat(5). The command's name may hold anything, blanks and brackets too.
fn parse_stat(text: &str) -> Option<Times> {
    let (_, fields) = text.rsplit_once(')')?;
    let ticks = |field: usize| {
        // The first one after the name is field 3 of the manual page.
        let value = fields.split_whitespace().nth(field - 3)?;
        Some(value.parse::<u64>().ok()? as f64 / TICKS_PER_SECOND)
    };
    Some(Times {
        cpu: ticks(14)? + ticks(15)?,
        start: ticks(22)?,
    })
}

/// When the system started, from `/proc/stat`.
fn parse_boot(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

/// A size of `/proc/self/status`, which is in KiB, in bytes.
fn parse_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The soft limit of `/proc/self/limits`; none if there is no limit.
fn parse_max_fds(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IO: &str = "rchar: 323934931\nwchar: 323929600\nsyscr: 632687\nsyscw: 632675\n\
                      read_bytes: 4096\nwrite_bytes: 323932160\ncancelled_write_bytes: 7\n";

    #[test]
    fn the_two_disk_lines_are_read() {
        let expected = DiskBytes {
            read: 4_096,
            written: 323_932_160,
        };
        assert_eq!(parse_io(IO), Some(expected));
    }

    #[test]
    fn a_file_without_them_is_no_answer() {
        for text in [
            "",
            "rchar: 1\n",
            "read_bytes: 1\n",
            "read_bytes: x\nwrite_bytes: 1\n",
        ] {
            assert_eq!(parse_io(text), None, "{text:?}");
        }
    }

    #[test]
    fn times_are_read_behind_any_name() {
        let rest = "S 1 2 3 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 12345 1 2";
        let expected = Times {
            cpu: 3.0,
            start: 123.45,
        };
        for name in ["ottla", "a b) (c", ") S 9"] {
            let text = format!("77 ({name}) {rest}");
            assert_eq!(parse_stat(&text), Some(expected), "{text}");
        }
        assert_eq!(parse_stat("77 (ottla) S 1"), None);
        assert_eq!(parse_boot("cpu 1 2\nbtime 1700000000\n"), Some(1.7e9));
    }

    #[test]
    fn sizes_and_limits_are_read() {
        let status = "VmPeak:\t 9 kB\nVmSize:\t   2048 kB\nVmRSS:\t1 kB\n";
        assert_eq!(parse_kib(status, "VmSize:"), Some(2 << 20));
        assert_eq!(parse_kib(status, "VmRSS:"), Some(1 << 10));
        assert_eq!(parse_kib(status, "VmSwap:"), None);
        let limits = "Max processes 1 2 processes\nMax open files            1024   4096  files\n";
        assert_eq!(parse_max_fds(limits), Some(1_024));
        assert_eq!(
            parse_max_fds("Max open files unlimited unlimited files"),
            None
        );
    }
}
