//! How much memory the broker may use when nobody said: a share of what machine or container has.
//!
//! Called once, by the loader. Reads `/proc` and the control group's limit and nothing else; where
//! neither can be read, the budget is the smallest one that works.

use std::fs;

/// Below this there is no room for one write buffer and a request beside it.
pub const LEAST_BUDGET_BYTES: u64 = 16 << 20;
const MOST_BUDGET_BYTES: u64 = 384 << 20;

/// More than two batches of the usual limit are never compressed at a time.
const MOST_RECOMPRESSED_BYTES: usize = 8 << 20;

/// The default of `memory.budget.bytes` on this machine.
pub fn default_budget_bytes() -> u64 {
    budget_of(available_bytes())
}

/// Who may use how much of the budget, in bytes. Code, stacks and tables come on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// RocksDB's write buffers: what was appended and is not in a file yet.
    pub write_buffers: usize,
    /// Keys that were read lately.
    pub key_cache: usize,
    /// The newest batches, for consumers at the tail.
    pub tail: usize,
    /// Requests, from the first large piece of their frame until they are worked on.
    pub requests: usize,
    /// Answers with batches, until they are sent.
    pub answers: usize,
    /// Other answers that are large, until they are sent.
    pub replies: usize,
    /// The newest offsets of keys while a log is compacted.
    pub dedupe_buffer: usize,
    /// What batches grow by, over all requests, when they get the codec of their topic. A batch that may grow by more
    /// takes all of it: `max.message.bytes` is then the bound.
    pub recompressed: usize,
}

/// Divides a budget: half of it sheds bursts of producers, an eighth serves consumers at the tail, the rest is for what
/// comes and goes.
pub fn shares(budget_bytes: usize) -> Shares {
    let part = budget_bytes / 32;
    let key_cache = part / 2;
    Shares {
        write_buffers: 16 * part,
        key_cache,
        tail: 4 * part,
        requests: 5 * part - key_cache,
        answers: 3 * part,
        replies: part,
        dedupe_buffer: 2 * part,
        recompressed: part.min(MOST_RECOMPRESSED_BYTES),
    }
}

/// A quarter of the memory, at most 384 MiB: more gains little, since the page cache serves the rest.
fn budget_of(memory_bytes: Option<u64>) -> u64 {
    memory_bytes.map_or(LEAST_BUDGET_BYTES, |bytes| {
        (bytes / 4).clamp(LEAST_BUDGET_BYTES, MOST_BUDGET_BYTES)
    })
}

/// The smaller of the machine's memory and the container's limit (control groups v2, then v1).
fn available_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_of_meminfo(&text));
    let container = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .iter()
    .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    machine.into_iter().chain(container).min()
}

fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_a_quarter_of_the_memory_within_limits() {
        assert_eq!(budget_of(Some(1 << 30)), 256 << 20);
        assert_eq!(budget_of(Some(256 << 20)), 64 << 20);
        assert_eq!(budget_of(Some(64 << 30)), MOST_BUDGET_BYTES);
        assert_eq!(budget_of(Some(1 << 20)), LEAST_BUDGET_BYTES);
        assert_eq!(budget_of(None), LEAST_BUDGET_BYTES);
    }

    #[test]
    fn shares_are_no_more_than_the_budget() {
        for budget in [LEAST_BUDGET_BYTES, 64 << 20, 256 << 20, MOST_BUDGET_BYTES] {
            let Shares {
                write_buffers,
                key_cache,
                tail,
                requests,
                answers,
                replies,
                dedupe_buffer,
                recompressed,
            } = shares(budget as usize);
            let spent = write_buffers + key_cache + tail + requests + answers + replies;
            let spent = spent + dedupe_buffer + recompressed;
            assert!(spent <= budget as usize, "{spent} of {budget}");
            assert!(requests >= 2 << 20, "room for a batch of the usual limit");
            assert!(answers >= 5 << 18, "room for a batch of the usual limit");
        }
    }

    #[test]
    fn meminfo_is_read_in_kibibytes() {
        assert_eq!(
            total_of_meminfo("MemTotal:       16 kB\nMemFree: 1 kB\n"),
            Some(16_384)
        );
        assert_eq!(total_of_meminfo("MemFree: 1 kB\n"), None);
        assert_eq!(total_of_meminfo("MemTotal: many\n"), None);
    }
}
