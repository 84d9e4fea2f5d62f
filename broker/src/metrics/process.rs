//! Disk traffic of this process as Linux counts it.
//!
//! Read at every scrape, for the two `linux_disk` names. Where there is no `/proc` there is no answer.

/// Bytes that really went to and from disks, not to the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DiskBytes {
    pub(super) read: u64,
    pub(super) written: u64,
}

/// The traffic so far; `None` if the system does not tell.
pub(super) fn disk_bytes() -> Option<DiskBytes> {
    parse(&std::fs::read_to_string("/proc/self/io").ok()?)
}

/// Reads the format of proc_pid_io(5).
fn parse(text: &str) -> Option<DiskBytes> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.trim().parse().ok()
    };
    Some(DiskBytes {
        read: value("read_bytes")?,
        written: value("write_bytes")?,
    })
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
        assert_eq!(parse(IO), Some(expected));
    }

    #[test]
    fn a_file_without_them_is_no_answer() {
        for text in [
            "",
            "rchar: 1\n",
            "read_bytes: 1\n",
            "read_bytes: x\nwrite_bytes: 1\n",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
