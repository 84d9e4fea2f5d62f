//! Whether the disk stood still while a broker was measured: how long at most none of the requests that it had was
//! completed. So a broker's worst answer can be told from its disk's. It reads the kernel's counters and never does i/o.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ottla::env::Env;

use crate::load::failed;

/// How often the counters are looked at: shorter standstills are not seen.
const PERIOD: Duration = Duration::from_millis(2);

/// Fields of `/sys/dev/block/*/stat` that count completed reads, writes, discards and flushes.
const COMPLETED: [usize; 4] = [0, 4, 11, 15];
/// The one that counts requests on their way.
const IN_FLIGHT: usize = 8;

/// A look at the counters every few milliseconds, until it is finished.
pub struct Standstill {
    stop: Sender<()>,
    watching: JoinHandle<io::Result<Duration>>,
}

impl Standstill {
    /// Watches the disk of `folder`; `None` where its file system is not on one block device.
    pub fn watch(env: Env, folder: &Path) -> io::Result<Option<Self>> {
        let device = fs::metadata(folder)?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let counters = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        if !counters.exists() {
            return Ok(None);
        }
        let (stop, stopped) = channel();
        let watching = std::thread::Builder::new()
            .name("standstill".to_owned())
            .spawn(move || watch_until(&env, &counters, &stopped))?;
        Ok(Some(Self { stop, watching }))
    }

    /// The longest standstill since it began.
    pub fn finish(self) -> io::Result<Duration> {
        drop(self.stop);
        self.watching
            .join()
            .map_err(|_| failed("the watch over the disk panicked".to_owned()))?
    }
}

fn watch_until(env: &Env, counters: &Path, stopped: &Receiver<()>) -> io::Result<Duration> {
    let mut seen = Seen::default();
    loop {
        let text = fs::read_to_string(counters)?;
        let (completed, in_flight) = parse(&text)
            .ok_or_else(|| failed(format!("{}: not counters: {text}", counters.display())))?;
        seen.look(env.monotonic(), completed, in_flight);
        if stopped.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout) {
            return Ok(seen.longest);
        }
    }
}

/// Completed requests and those on their way.
fn parse(text: &str) -> Option<(u64, u64)> {
    let fields: Option<Vec<u64>> = text.split_whitespace().map(|f| f.parse().ok()).collect();
    let fields = fields?;
    // Older kernels count neither discards nor flushes.
    let completed = COMPLETED.iter().filter_map(|index| fields.get(*index));
    Some((completed.sum(), *fields.get(IN_FLIGHT)?))
}

#[derive(Default)]
struct Seen {
    /// So many were completed when something was last, or nothing was on its way, and when that was.
    moved: Option<(u64, Duration)>,
    longest: Duration,
}

impl Seen {
    fn look(&mut self, now: Duration, completed: u64, in_flight: u64) {
        match self.moved {
            Some((before, since)) if before == completed && in_flight > 0 => {
                self.longest = self.longest.max(now - since);
            }
            _ => self.moved = Some((completed, now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn counters_are_read_as_the_kernel_writes_them() {
        let text = " 103 1 2 3 4005 4 5 6 7 8 9 20 0 0 0 600 11\n";
        assert_eq!(parse(text), Some((103 + 4005 + 20 + 600, 7)));
        let old = "103 1 2 3 4005 4 5 6 7 8 9";
        assert_eq!(parse(old), Some((4108, 7)));
        assert_eq!(parse("103 1 2"), None);
        assert_eq!(parse("some text"), None);
    }

    #[test]
    fn a_disk_stands_still_while_it_completes_nothing_of_what_it_has() {
        let mut seen = Seen::default();
        seen.look(MS(990), 0, 1);
        assert_eq!(seen.longest, Duration::ZERO, "nobody looked before");
        seen.look(MS(1_000), 5, 0);
        seen.look(MS(1_010), 5, 0);
        assert_eq!(seen.longest, Duration::ZERO, "it has nothing to do");
        seen.look(MS(1_012), 5, 2);
        seen.look(MS(1_040), 5, 1);
        assert_eq!(seen.longest, MS(30));
        seen.look(MS(1_050), 6, 1);
        seen.look(MS(1_060), 6, 1);
        assert_eq!(seen.longest, MS(30), "it moved meanwhile");
        seen.look(MS(1_090), 6, 3);
        assert_eq!(seen.longest, MS(40));
    }
}
