//! The parts of `doctor` that look at machines: the metrics page with what the broker says of its process, and the
//! limits of this machine when the broker is on it.
//!
//! A metrics page is read without a client library: one GET, bounded in time and bytes. Nothing here fails a run:
//! the broker works without all of it.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout as within;

use super::Report;
use crate::cli::client::Address;
use crate::cli::output::size;

const PAGE_MAX: u64 = 64 * 1024 * 1024;
/// A broker keeps files and connections; below this it runs into the limit under load.
const FILES_ENOUGH: u64 = 10_000;
/// What a machine should have left for page cache and load.
const MEMORY_ENOUGH: u64 = 256 << 20;
/// Clocks further apart make timestamps and time look-ups odd.
const CLOCK_SLACK_MS: i64 = 5_000;

/// The metrics page: is it there, and what it says of the broker's process and clock.
pub(super) async fn metrics(
    report: &mut Report,
    address: &Address,
    now_ms: i64,
    timeout: Duration,
) {
    let check = "metrics";
    let way_out = "set metrics.listener (HOST:PORT) of the broker, or say where it is with --metrics HOST:PORT";
    let page = match within(timeout, get(address)).await {
        Ok(Ok(page)) => page,
        Ok(Err(error)) => {
            return report.warn(
                check,
                format_args!("http://{address}/metrics cannot be read: {error}"),
                way_out,
            );
        }
        Err(_) => {
            return report.warn(
                check,
                format_args!("http://{address}/metrics does not answer in time"),
                way_out,
            );
        }
    };
    let Some((head, body)) = page.split_once("\r\n\r\n") else {
        return report.warn(
            check,
            format_args!("{address} does not answer in HTTP"),
            way_out,
        );
    };
    let status = head.split(' ').nth(1).unwrap_or("");
    if status != "200" {
        return report.warn(
            check,
            format_args!("http://{address}/metrics answers with status {status}"),
            way_out,
        );
    }
    let series = body
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .count();
    report.ok(
        check,
        format_args!("http://{address}/metrics has {series} series"),
    );

    let sample = |name: &str| -> Option<f64> {
        let value = body
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse().ok()
    };
    if let (Some(open), Some(max)) = (sample("process_open_fds"), sample("process_max_fds")) {
        files(report, "broker's open files", open as u64, max as u64);
    }
    if let Some(resident) = sample("process_resident_memory_bytes") {
        report.ok(
            "broker's memory",
            format_args!("{} resident", size(resident as u64)),
        );
    }
    let date = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim())
    });
    if let Some(there_ms) = date.and_then(http_date_ms) {
        let apart = (there_ms - now_ms).abs();
        if apart <= CLOCK_SLACK_MS {
            report.ok("clock", "the broker's and this machine's agree");
        } else {
            report.warn(
                "clock",
                format_args!(
                    "the broker's and this machine's are {} s apart",
                    apart / 1_000
                ),
                "run a time service (chrony, systemd-timesyncd) on both",
            );
        }
    }
}

fn files(report: &mut Report, check: &'static str, open: u64, max: u64) {
    let found = format!("{open} of at most {max}");
    if max < FILES_ENOUGH || open > max / 10 * 8 {
        report.warn(
            check,
            found,
            "raise the limit: LimitNOFILE=100000 in its systemd unit, or ulimit -n before the start",
        );
    } else {
        report.ok(check, found);
    }
}

/// Limits of this machine, where the broker runs too.
pub(super) fn limits(report: &mut Report, now_ms: i64) {
    // The hard limit: the broker raises its own to it.
    let max = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if max < FILES_ENOUGH {
        report.warn(
            "open files here",
            format_args!("a process may have {max}"),
            "raise the limit: ulimit -Hn, or nofile in /etc/security/limits.conf",
        );
    } else {
        let shown = if max == u64::MAX {
            "any number".to_owned()
        } else {
            max.to_string()
        };
        report.ok(
            "open files here",
            format_args!("a process may have {shown}"),
        );
    }
    if let Some(available) = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available(&text))
    {
        let found = format!("{} available", size(available));
        if available < MEMORY_ENOUGH {
            report.warn(
                "memory here",
                found,
                "stop what else runs here, or lower memory.budget.bytes of the broker",
            );
        } else {
            report.ok("memory here", found);
        }
    }
    // Before 2025: a clock that was never set.
    if now_ms < 1_735_689_600_000 {
        report.warn(
            "clock here",
            "it is set to years ago",
            "set it, and run a time service (chrony, systemd-timesyncd)",
        );
    }
}

/// `MemAvailable` of proc_meminfo(5).
fn available(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

async fn get(address: &Address) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = Vec::new();
    stream.take(PAGE_MAX).read_to_end(&mut page).await?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// `Sat, 21 Nov 2026 06:36:45 GMT`, as HTTP has it.
fn http_date_ms(text: &str) -> Option<i64> {
    let fields: Vec<&str> = text.split(' ').collect();
    let [_, day, month, year, time, "GMT"] = fields[..] else {
        return None;
    };
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    crate::cli::when::parse_time(&format!("{year}-{month:02}-{day}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_memory_are_read_as_written() {
        assert_eq!(
            http_date_ms("Tue, 14 Nov 2023 22:13:20 GMT"),
            Some(1_700_000_000_000)
        );
        assert_eq!(http_date_ms("yesterday"), None);
        assert_eq!(
            available("MemFree: 1 kB\nMemAvailable:    2048 kB\n"),
            Some(2048 * 1024)
        );
        assert_eq!(available("MemFree: 1 kB\n"), None);
    }
}
