//! The task that looks at the disk: it tells the level, holds the reserve or gives it back, and says when a store
//! that was stopped by a full disk can be started again. It frees nothing itself.
//!
//! Owned by `start.rs`, which lets it look once before the log is opened, because recovery needs room as well.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ottla_storage::error::EngineError;
use ottla_storage::log::Log;
use ottla_storage::reserve::Reserve;
use tokio_util::sync::CancellationToken;

use super::{
    Disk, DiskLimits, Floors, LONGEST_PAUSE, Lasting, Level, REFUSING_PAUSE, SHORTEST_PAUSE, space,
};
use crate::background::survives;
use crate::env::Env;
use crate::metrics::{DiskSpace, Metrics};

/// Looks at one data directory's disk.
#[derive(Debug)]
pub struct Watcher {
    disk: Arc<Disk>,
    dir: PathBuf,
    limits: DiskLimits,
    /// The file system cannot hold room.
    no_reserve: bool,
    /// The disk did not answer the last time.
    silent: bool,
    room: Lasting,
}

impl Watcher {
    /// Nothing is looked at yet.
    pub fn new(disk: Arc<Disk>, dir: &Path, limits: DiskLimits) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            limits,
            no_reserve: false,
            silent: false,
            room: Lasting::default(),
        }
    }

    /// Looks, before the log is opened. The reserve is given back if it has to be, but not taken yet.
    pub fn look_before_start(&mut self) {
        // A process that ended in a trial left it.
        self.end_trial(&Reserve::trial(&self.dir, 0));
        if let Some((space, floors)) = self.ask() {
            let room = self.room_of(&space, &floors, 0);
            self.tell(&space, &floors, room);
        }
    }

    /// A start failed for want of room: gives the reserve back. Answers whether there was one.
    pub fn help_start(&self) -> bool {
        let Some((_, floors)) = self.space() else {
            return false;
        };
        let reserve = self.reserve(&floors);
        let held = reserve.is_held();
        if held {
            tracing::warn!("the start found the disk full: the reserve is given back for it");
            self.give_back(&reserve);
        }
        held
    }

    /// Looks until `stop`; cancels `begin_anew` once the store, stopped by a full disk, can be started again. A look that
    /// panics is counted, and followed by another one.
    pub async fn run(
        mut self,
        log: Log,
        env: Env,
        metrics: Metrics,
        begin_anew: CancellationToken,
        stop: CancellationToken,
    ) {
        loop {
            let (asked, anew, counted) = (log.clone(), begin_anew.clone(), metrics.clone());
            let look = move || {
                let looked = survives("disk", &counted, || self.look(&asked, env, &anew));
                (self, looked.unwrap_or(LONGEST_PAUSE))
            };
            let pause;
            match tokio::task::spawn_blocking(look).await {
                Ok(looked) => (self, pause) = looked,
                // Only with the runtime.
                Err(_) => return,
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = next_look(&self.disk, pause) => {}
            }
        }
    }

    /// One look, and when to look again. Blocks on the disk.
    fn look(&mut self, log: &Log, env: Env, begin_anew: &CancellationToken) -> Duration {
        let Some((space, floors)) = self.ask() else {
            return LONGEST_PAUSE;
        };
        let in_memory = in_memory(log);
        let room = self.room_of(&space, &floors, in_memory);
        let level = self.tell(&space, &floors, room);
        let stopped = matches!(log.failure(), Some(EngineError::Full(_)));
        let needed = floors.start_bytes(in_memory);
        let fits = stopped && space.free_bytes >= needed && self.can_be_had(needed);
        // An attempt without room would take for a moment what others need.
        if level < Level::Full && room > floors.full {
            self.take(&self.reserve(&floors));
        }
        if self.room.lasts(env.monotonic(), fits) {
            begin_anew.cancel();
        }
        let pause = floors.pause(level, room);
        if stopped {
            pause.min(REFUSING_PAUSE)
        } else {
            pause
        }
    }

    /// Whether so much room can really be taken. The numbers of a file system tell nothing of a quota.
    fn can_be_had(&self, bytes: u64) -> bool {
        let trial = Reserve::trial(&self.dir, bytes);
        let taken = trial.take();
        self.end_trial(&trial);
        match taken {
            Ok(()) => true,
            Err(error) => !is_full(&error),
        }
    }

    fn end_trial(&self, trial: &Reserve) {
        if let Err(error) = trial.give_back() {
            tracing::warn!(%error, "room that was tried to be had cannot be given back");
        }
    }

    /// The disk, with a line in the log when it stops to answer.
    fn ask(&mut self) -> Option<(DiskSpace, Floors)> {
        let found = self.space();
        if found.is_none() && !self.silent {
            tracing::warn!(dir = %self.dir.display(), "the system does not tell how full the disk is");
        }
        self.silent = found.is_none();
        found
    }

    fn space(&self) -> Option<(DiskSpace, Floors)> {
        let space = space(&self.dir)
            .ok()
            .filter(|space| space.total_bytes > 0)?;
        let mut floors = self.limits.on(space.total_bytes);
        if self.no_reserve {
            floors.reserve = 0;
        }
        Some((space, floors))
    }

    fn reserve(&self, floors: &Floors) -> Reserve {
        Reserve::new(&self.dir, floors.reserve)
    }

    /// Free space as if the reserve were held and the store had written what it holds in memory.
    fn room_of(&self, space: &DiskSpace, floors: &Floors, in_memory: u64) -> u64 {
        let missing = if self.reserve(floors).is_held() {
            0
        } else {
            floors.reserve
        };
        space.free_bytes.saturating_sub(missing + in_memory)
    }

    /// Tells the level, and gives the reserve back when the disk becomes full.
    fn tell(&self, space: &DiskSpace, floors: &Floors, room: u64) -> Level {
        let before = self.disk.level();
        let level = floors.level(before, room);
        self.disk.found(level, floors.left(room));
        if level == Level::Full {
            self.give_back(&self.reserve(floors));
        }
        if level == before {
            return level;
        }
        let (free, total) = (space.free_bytes, space.total_bytes);
        match level {
            Level::Full => tracing::error!(
                free_bytes = free,
                total_bytes = total,
                "the disk is nearly full, what needs more of it is refused"
            ),
            Level::Low => tracing::warn!(
                free_bytes = free,
                total_bytes = total,
                "little room is left on the disk"
            ),
            Level::Enough => tracing::info!(
                free_bytes = free,
                total_bytes = total,
                "there is enough room on the disk again"
            ),
        }
        level
    }

    fn give_back(&self, reserve: &Reserve) {
        if let Err(error) = reserve.give_back() {
            tracing::warn!(%error, "the reserve of disk space cannot be given back");
        }
    }

    fn take(&mut self, reserve: &Reserve) {
        let Err(error) = reserve.take() else { return };
        // Without room it is tried again; a system that cannot hold room never will.
        if !is_full(&error) {
            self.no_reserve = true;
            tracing::info!(%error, "no disk space can be held in reserve here");
        }
    }
}

/// Waits for the next look: after `pause`, or when the log used up what was left. On a full disk each write does, and
/// everything else is refused anyway: there, never less than the shortest pause.
async fn next_look(disk: &Disk, pause: Duration) {
    let least = match disk.level() {
        Level::Enough | Level::Low => Duration::ZERO,
        Level::Full => SHORTEST_PAUSE,
    };
    tokio::time::sleep(least).await;
    tokio::select! {
        () = disk.used_up.notified() => {}
        () = tokio::time::sleep(pause.saturating_sub(least)) => {}
    }
}

/// Whether there was no room, by the disk or by a quota.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Bytes that the store has yet to move from memory to files.
fn in_memory(log: &Log) -> u64 {
    let properties = log.properties();
    let found = properties
        .iter()
        .find(|(name, _)| *name == "memtable_bytes");
    found.map_or(0, |(_, bytes)| *bytes)
}

#[cfg(test)]
mod tests {
    use ottla_storage::directory::TempDir;

    use super::*;

    fn watcher(dir: &TempDir, refuse_bytes: u64) -> Watcher {
        let limits = DiskLimits {
            alarm_bytes: 0,
            alarm_percent: 0,
            refuse_bytes,
            reserve_bytes: 1 << 20,
        };
        Watcher::new(Arc::new(Disk::default()), dir.path(), limits)
    }

    #[tokio::test]
    async fn looks_on_a_full_disk_keep_a_distance() {
        let env = Env::system();
        let disk = Disk::default();
        let mut looks = 0;
        let began = env.monotonic();
        while looks < 4 {
            disk.found(Level::Full, 0);
            // A commit of an offset, say, after every look.
            disk.written(1_000);
            next_look(&disk, Duration::from_secs(3_600)).await;
            looks += 1;
        }
        let took = env.monotonic().saturating_sub(began);
        assert!(took >= 4 * SHORTEST_PAUSE, "{looks} looks in {took:?}");
    }

    #[test]
    fn room_that_cannot_be_had_is_none_and_a_trial_leaves_nothing() {
        let dir = TempDir::new("disk-trial");
        let watcher = watcher(&dir, 0);
        assert!(watcher.can_be_had(1 << 20));
        let (space, _) = watcher.space().expect("a disk");
        assert!(!watcher.can_be_had(space.total_bytes * 2));
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 0);
        for (errno, full) in [
            (rustix::io::Errno::DQUOT, true),
            (rustix::io::Errno::NOSPC, true),
            (rustix::io::Errno::IO, false),
        ] {
            assert_eq!(is_full(&errno.into()), full, "{errno}");
        }
    }

    #[test]
    fn the_reserve_goes_when_the_disk_is_nearly_full_and_for_a_start() {
        let dir = TempDir::new("disk-watcher");
        let mut small = watcher(&dir, 0);
        let (_, floors) = small.ask().expect("a disk");
        let reserve = small.reserve(&floors);
        small.take(&reserve);
        assert!(reserve.is_held());
        small.look_before_start();
        assert!(reserve.is_held(), "nothing is refused");
        assert!(small.help_start());
        assert!(!reserve.is_held());
        assert!(!small.help_start(), "only once");

        small.take(&reserve);
        let mut full = watcher(&dir, 0);
        let (space, mut floors) = full.ask().expect("a disk");
        floors.full = space.total_bytes;
        let room = full.room_of(&space, &floors, 0);
        assert_eq!(full.tell(&space, &floors, room), Level::Full);
        assert!(!reserve.is_held());
        assert!(full.disk.refusal().is_some());
    }
}
