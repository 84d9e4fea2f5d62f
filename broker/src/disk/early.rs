//! How tasks that free space wait for their next turn: retention, reclaiming and the log cleaner have a period each, and
//! do not wait for its end while the disk has little room. Nothing is decided here about what they do then.

use std::time::Duration;

use tokio::sync::watch;

use super::{Disk, Level};

/// From one turn to the next while there is little room.
const EARLY: Duration = Duration::from_secs(1);

/// The waits of one task.
#[derive(Debug)]
pub struct Early {
    levels: watch::Receiver<Level>,
}

impl Early {
    /// For a task that starts now.
    pub fn new(disk: &Disk) -> Self {
        Self {
            levels: disk.levels(),
        }
    }

    /// Waits for `period`, or for a second while there is little room if that is shorter; ends at once when the disk
    /// becomes fuller by a level.
    pub async fn rest(&mut self, period: Duration) {
        let mut level = *self.levels.borrow_and_update();
        let whole = tokio::time::sleep(wait(Level::Enough, period));
        let early = tokio::time::sleep(wait(Level::Low, period));
        tokio::pin!(whole, early);
        loop {
            tokio::select! {
                () = &mut whole => return,
                () = &mut early, if level > Level::Enough => return,
                Ok(()) = self.levels.changed() => {
                    let now = *self.levels.borrow_and_update();
                    if now > level {
                        return;
                    }
                    level = now;
                }
            }
        }
    }
}

fn wait(level: Level, period: Duration) -> Duration {
    match level {
        Level::Enough => period,
        Level::Low | Level::Full => period.min(EARLY),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn with_little_room_a_turn_comes_after_a_second_at_most() {
        assert_eq!(wait(Level::Enough, HOUR), HOUR);
        for level in [Level::Low, Level::Full] {
            assert_eq!(wait(level, HOUR), EARLY);
            assert_eq!(wait(level, EARLY / 2), EARLY / 2);
        }
    }

    #[tokio::test]
    async fn a_wait_ends_when_room_becomes_little_and_is_short_while_it_is() {
        let disk = Arc::new(Disk::default());
        let mut early = Early::new(&disk);
        let (waits, mut waiting) = tokio::sync::mpsc::channel(1);
        let task = tokio::spawn(async move {
            for _ in 0..3 {
                waits.send(()).await.expect("the test listens");
                early.rest(HOUR).await;
            }
        });
        waiting.recv().await.expect("it waits");
        disk.found(Level::Low, 1);
        waiting.recv().await.expect("it waits again");
        disk.found(Level::Full, 1);
        waiting.recv().await.expect("it waits again");
        // Nothing changes any more, and an hour is not waited for.
        let ended = tokio::time::timeout(DEADLINE, task).await;
        ended.expect("in time").expect("no panic");
    }
}
