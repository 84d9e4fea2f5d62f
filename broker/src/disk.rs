//! Room on the disk of the data directory: how much is little, what follows from it, and who is told. The rules are
//! pure and stand here; `disk/watcher.rs` looks at the disk and acts.
//!
//! | level | while free space is below | what follows |
//! |---|---|---|
//! | enough | | the reserve is held |
//! | low | the alarm's floor, or its share of the disk | a warning and a metric; retention, reclaiming and the log cleaner hear of it through [`Disk::levels`] and run early (`disk/early.rs`) |
//! | full | the floor of refusal | requests that need room (Produce, CreateTopics, CreatePartitions, automatic creation, InitProducerId) answer KAFKA_STORAGE_ERROR; `/readyz` says so; the reserve is given back, for what goes on: reads, deletions, commits of offsets, ends of transactions, and the store's own work |
//!
//! Free space is counted as if the reserve were held, so that giving it back does not end the level it was given
//! back for, and as if the store had moved to files what it holds in memory, which it will; a level ends only an eighth above the floor where it began. Between two looks the log's own writes are
//! counted: when they have used up half of what was left above the floor of refusal, the next look is at once, and when they
//! have used up all of it, requests are refused until then; on a full disk, looks are 50 ms apart. A disk on which no file can be made any more has no free
//! space.

pub mod early;
pub mod watcher;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::metrics::DiskSpace;

/// On a small disk no floor is more than such a part of it, whatever is configured; the alarm's percentage is a part
/// anyway. From 8 GiB on the defaults hold as they are.
const ALARM_PART: u64 = 8;
const REFUSAL_PART: u64 = 16;
const RESERVE_PART: u64 = 32;

/// A level ends at its floor and this part of it.
const MARGIN_PART: u64 = 8;

/// More than any disk takes, in bytes per millisecond: how soon the disk has to be looked at again.
const FASTEST: u64 = 2 << 20;
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// While something is refused: room may come at any time.
const REFUSING_PAUSE: Duration = Duration::from_millis(250);

/// A disk with fewer free inodes has no room: flushing what is in memory makes files, and so does a start.
const LEAST_FILES: u64 = 64;

/// The store takes writes again only after a new start, which is begun when there was room for so long.
const ROOM_LASTS: Duration = Duration::from_secs(5);

/// How full the disk is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing to do.
    #[default]
    Enough,
    /// Space should be freed.
    Low,
    /// What needs more space is refused.
    Full,
}

/// The configured floors: `disk.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// `disk.alarm.free.bytes`
    pub alarm_bytes: u64,
    /// `disk.alarm.free.percent`
    pub alarm_percent: u64,
    /// `disk.refuse.free.bytes`
    pub refuse_bytes: u64,
    /// `disk.reserve.bytes`
    pub reserve_bytes: u64,
}

/// The floors on one disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Floors {
    low: u64,
    full: u64,
    reserve: u64,
}

impl DiskLimits {
    fn on(&self, total_bytes: u64) -> Floors {
        let full = self.refuse_bytes.min(total_bytes / REFUSAL_PART);
        let low = self.alarm_bytes.min(total_bytes / ALARM_PART);
        let share = total_bytes / 100 * self.alarm_percent;
        Floors {
            low: low.max(share).max(full),
            full,
            reserve: self.reserve_bytes.min(total_bytes / RESERVE_PART),
        }
    }
}

impl Floors {
    /// The level that follows `now` with so much room.
    fn level(&self, now: Level, room: u64) -> Level {
        let below = |floor: u64, inside: bool| {
            let margin = if inside { floor / MARGIN_PART } else { 0 };
            room < floor + margin
        };
        if below(self.full, now == Level::Full) {
            Level::Full
        } else if below(self.low, now >= Level::Low) {
            Level::Low
        } else {
            Level::Enough
        }
    }

    /// Bytes that may be written before requests have to be refused.
    fn left(&self, room: u64) -> u64 {
        if self.full == 0 {
            // Refusal is switched off.
            return u64::MAX;
        }
        // Each byte goes to the write-ahead log now and to a file later.
        room.saturating_sub(self.full) / 2
    }

    /// When to look again: before the fastest writer could have used up what is left above refusal.
    fn pause(&self, level: Level, room: u64) -> Duration {
        if level == Level::Full {
            return REFUSING_PAUSE;
        }
        Duration::from_millis(room.saturating_sub(self.full) / FASTEST)
            .clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }

    /// The room that a store which was stopped by a full disk needs to start again: it writes what it holds in memory to
    /// files first, values apart from keys.
    fn start_bytes(&self, memory_bytes: u64) -> u64 {
        self.full / 4 + 2 * memory_bytes
    }
}

/// Tells when something was so for long enough.
#[derive(Debug, Default)]
struct Lasting {
    since: Option<Duration>,
}

impl Lasting {
    fn lasts(&mut self, now: Duration, holds: bool) -> bool {
        if !holds {
            self.since = None;
            return false;
        }
        now.saturating_sub(*self.since.get_or_insert(now)) >= ROOM_LASTS
    }
}

/// What everybody may ask about the disk.
#[derive(Debug)]
pub struct Disk {
    level: watch::Sender<Level>,
    /// Bytes that the log may write before the disk has to be looked at.
    left: AtomicI64,
    /// Half of what was left at the last look: time for the next one, so that it comes before anything is refused.
    half: AtomicI64,
    used_up: Notify,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            level: watch::Sender::default(),
            left: AtomicI64::new(i64::MAX),
            half: AtomicI64::new(0),
            used_up: Notify::new(),
        }
    }
}

impl Disk {
    /// The log has written so many bytes. Called after every write.
    pub fn written(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = self.left.fetch_sub(bytes, Ordering::Relaxed);
        let passes = |mark: i64| before > mark && before.saturating_sub(bytes) <= mark;
        if passes(self.half.load(Ordering::Relaxed)) || passes(0) {
            self.used_up.notify_one();
        }
    }

    /// Takes over what a look has found.
    fn found(&self, level: Level, left: u64) {
        let left = i64::try_from(left).unwrap_or(i64::MAX).max(1);
        self.half.store(left / 2, Ordering::Relaxed);
        self.left.store(left, Ordering::Relaxed);
        self.level.send_if_modified(|held| {
            let modified = *held != level;
            *held = level;
            modified
        });
    }

    /// How full it is.
    pub fn level(&self) -> Level {
        *self.level.borrow()
    }

    /// The level and its changes, for tasks that free space: at [`Level::Low`] they do not wait for their time.
    pub fn levels(&self) -> watch::Receiver<Level> {
        self.level.subscribe()
    }

    /// Why a request that needs room is refused, if it is.
    pub fn refusal(&self) -> Option<&'static str> {
        let full = self.left.load(Ordering::Relaxed) <= 0 || self.level() == Level::Full;
        full.then_some("The disk of the broker is nearly full: what needs more of it is refused until there is room.")
    }
}

/// The disk that holds `dir`.
///
/// # Errors
/// The system's.
pub fn space(dir: &Path) -> io::Result<DiskSpace> {
    let stat = rustix::fs::statvfs(dir)?;
    // File systems that make inodes as they are needed tell none.
    let free_files = (stat.f_files > 0).then_some(stat.f_favail);
    Ok(DiskSpace {
        free_bytes: usable(stat.f_bavail.saturating_mul(stat.f_frsize), free_files),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Of free bytes those that can be had with so many free inodes, where they are counted.
fn usable(free_bytes: u64, free_files: Option<u64>) -> u64 {
    match free_files {
        Some(files) if files < LEAST_FILES => 0,
        _ => free_bytes,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const DEFAULTS: DiskLimits = DiskLimits {
        alarm_bytes: GIB,
        alarm_percent: 5,
        refuse_bytes: 512 * MIB,
        reserve_bytes: 256 * MIB,
    };

    #[test]
    fn floors_are_those_configured_on_usual_disks_and_shares_of_small_ones() {
        let floors = |total| DEFAULTS.on(total);
        let usual = Floors {
            low: GIB,
            full: 512 * MIB,
            reserve: 256 * MIB,
        };
        assert_eq!(floors(8 * GIB), usual);
        assert_eq!(floors(20 * GIB).low, GIB);
        assert_eq!(floors(40 * GIB).low, 40 * GIB / 100 * 5);
        assert_eq!(floors(1_000 * GIB).low, 1_000 * GIB / 100 * 5);
        assert_eq!(floors(1_000 * GIB).full, 512 * MIB);
        let small = Floors {
            low: 8 * MIB,
            full: 4 * MIB,
            reserve: 2 * MIB,
        };
        assert_eq!(floors(64 * MIB), small);
        let off = DiskLimits {
            alarm_bytes: 0,
            alarm_percent: 0,
            refuse_bytes: 0,
            reserve_bytes: 0,
        };
        assert_eq!(off.on(GIB).level(Level::Enough, 0), Level::Enough);
        let odd = DiskLimits {
            alarm_bytes: 0,
            alarm_percent: 0,
            ..DEFAULTS
        };
        assert_eq!(odd.on(GIB).low, 64 * MIB, "never below the one of refusal");
    }

    #[test]
    fn a_level_ends_above_where_it_began() {
        let floors = DEFAULTS.on(100 * GIB);
        let low = floors.low;
        let mut level = Level::Enough;
        let steps = [
            (low, Level::Enough),
            (low - 1, Level::Low),
            (low + low / 8 - 1, Level::Low),
            (low + low / 8, Level::Enough),
            (512 * MIB - 1, Level::Full),
            (512 * MIB, Level::Full),
            (576 * MIB - 1, Level::Full),
            (576 * MIB, Level::Low),
            (0, Level::Full),
            (low, Level::Low),
            (2 * low, Level::Enough),
        ];
        for (room, expected) in steps {
            level = floors.level(level, room);
            assert_eq!(level, expected, "with {room} bytes");
        }
    }

    #[test]
    fn the_disk_is_looked_at_before_the_fastest_writer_can_fill_it() {
        let floors = DEFAULTS.on(100 * GIB);
        for room in [512 * MIB, 700 * MIB, 2 * GIB, 50 * GIB] {
            let pause = floors.pause(Level::Enough, room);
            let written = pause.as_millis() as u64 * FASTEST;
            let shortest = SHORTEST_PAUSE.as_millis() as u64 * FASTEST;
            assert!(written <= (room - floors.full).max(shortest), "{pause:?}");
        }
        assert_eq!(floors.pause(Level::Enough, 50 * GIB), LONGEST_PAUSE);
        assert_eq!(floors.pause(Level::Full, 0), REFUSING_PAUSE);
    }

    #[test]
    fn a_new_start_waits_until_there_was_room_for_some_seconds() {
        let seconds = Duration::from_secs;
        let mut room = Lasting::default();
        for (now, holds, lasts) in [
            (10, true, false),
            (14, true, false),
            (15, false, false),
            (16, true, false),
            (20, true, false),
            (21, true, true),
        ] {
            assert_eq!(room.lasts(seconds(now), holds), lasts, "at {now}");
        }
        let floors = DEFAULTS.on(100 * GIB);
        assert_eq!(floors.start_bytes(MIB), 130 * MIB);
    }

    #[test]
    fn whoever_asks_hears_why_it_is_refused() {
        let disk = Disk::default();
        let mut levels = disk.levels();
        assert!(disk.refusal().is_none());
        disk.found(Level::Full, 0);
        assert!(disk.refusal().is_some());
        assert!(levels.has_changed().expect("the sender lives"));
        assert_eq!(*levels.borrow_and_update(), Level::Full);
    }

    #[test]
    fn what_the_log_writes_between_two_looks_counts() {
        let disk = Disk::default();
        disk.written(1 << 40);
        assert!(disk.refusal().is_none(), "nobody has looked yet");
        let floors = DEFAULTS.on(100 * GIB);
        disk.found(Level::Low, floors.left(518 * MIB));
        for _ in 0..2 {
            disk.written(MIB as usize);
            assert!(disk.refusal().is_none());
        }
        disk.written(MIB as usize);
        assert!(disk.refusal().is_some());
        disk.found(Level::Low, floors.left(512 * MIB));
        assert!(disk.refusal().is_none(), "the level decides");
        let off = Floors { full: 0, ..floors };
        assert_eq!(off.left(0), u64::MAX);
    }

    #[test]
    fn the_disk_is_looked_at_again_before_anything_is_refused() {
        let disk = Disk::default();
        disk.found(Level::Low, 100);
        let told = || disk.used_up.notified().now_or_never().is_some();
        disk.written(49);
        assert!(!told());
        disk.written(1);
        assert!(told() && disk.refusal().is_none());
        disk.written(49);
        assert!(!told(), "once");
        disk.written(1);
        assert!(told() && disk.refusal().is_some(), "and at the end");
    }

    #[test]
    fn a_disk_without_inodes_has_no_room() {
        assert_eq!(usable(GIB, None), GIB, "they are not counted");
        assert_eq!(usable(GIB, Some(LEAST_FILES)), GIB);
        assert_eq!(usable(GIB, Some(LEAST_FILES - 1)), 0);
    }

    #[test]
    fn the_disk_of_a_folder_has_a_size() {
        let found = space(&std::env::temp_dir()).expect("a disk");
        assert!(found.free_bytes <= found.total_bytes);
        assert!(space(Path::new("/no/such/folder")).is_err());
    }
}
