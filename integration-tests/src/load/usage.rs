//! What a process has used so far, as Linux tells it under `/proc`.

use std::io;

use super::failed;

/// One look at a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all its threads, those that ended included; in steps of a clock tick (10 ms).
    pub cpu_seconds: f64,
    /// Bytes it made Linux write to disks, less those it took back: page cache counts when it is dirtied, and is taken
    /// back when its file is removed before it was written; direct writes count when they are made.
    pub written: u64,
    /// Resident memory now.
    pub resident: u64,
    /// The most resident memory it had.
    pub peak_resident: u64,
}

impl Usage {
    /// Of a running process of the same user.
    pub fn of(process: i32) -> io::Result<Usage> {
        let (status, io) = (read(process, "status")?, read(process, "io")?);
        Ok(Usage {
            cpu_seconds: cpu_seconds(&read(process, "stat")?)?,
            written: number(&io, "write_bytes:")?
                .saturating_sub(number(&io, "cancelled_write_bytes:")?),
            resident: number(&status, "VmRSS:")? * 1024,
            peak_resident: number(&status, "VmHWM:")? * 1024,
        })
    }

    /// The CPU time of this process itself.
    pub fn own_cpu_seconds() -> io::Result<f64> {
        cpu_seconds(&std::fs::read_to_string("/proc/self/stat")?)
    }
}

fn read(process: i32, file: &str) -> io::Result<String> {
    let path = format!("/proc/{process}/{file}");
    std::fs::read_to_string(&path).map_err(|error| failed(format!("{path}: {error}")))
}

fn cpu_seconds(stat: &str) -> io::Result<f64> {
    // The second field is the name in brackets, which may hold anything; utime and stime are fields 14 and 15.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>())
        .sum::<Result<u64, _>>()
        .map_err(|error| failed(format!("{stat:?}: {error}")))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn number(text: &str, name: &str) -> io::Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| failed(format!("no {name} in {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) b ( c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 1 2 3";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu_seconds(stat).unwrap(), 200.0 / ticks);
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let usage = Usage::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(usage.peak_resident >= usage.resident && usage.resident > 0);
        assert!(Usage::own_cpu_seconds().unwrap() >= usage.cpu_seconds);
    }
}
