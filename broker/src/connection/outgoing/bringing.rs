//! Has threads apart read what left the memory before it was sent, for one connection's answers. Used by `outgoing.rs`, which
//! looks in between whether the client is slow: the reading goes on meanwhile, and its time is not the client's.

use std::io;
use std::time::Duration;

use ottla_storage::records::FileRecords;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Over all connections so many threads read; a disk that hangs takes no more.
static THREADS: Semaphore = Semaphore::const_new(16);

#[derive(Debug)]
pub(super) struct Bringing {
    threads: &'static Semaphore,
    /// What is read now, if anything, and since when it is waited for.
    task: Option<(AbortOnDropHandle<io::Result<Vec<u8>>>, Instant)>,
    waited: Duration,
}

impl Default for Bringing {
    fn default() -> Self {
        Self {
            threads: &THREADS,
            task: None,
            waited: Duration::ZERO,
        }
    }
}

impl Bringing {
    /// Whether something is being read.
    pub(super) fn is_under_way(&self) -> bool {
        self.task.is_some()
    }

    /// How long the disk, and threads for it, were waited for.
    pub(super) fn time(&self) -> Duration {
        let now = self.task.as_ref().map(|(_, since)| since.elapsed());
        self.waited + now.unwrap_or_default()
    }

    /// Reads bytes `from..to`, or goes on waiting for what is read already. Answers the first few thousand of them.
    ///
    /// # Errors
    /// The disk's.
    pub(super) async fn bring(
        &mut self,
        file: &FileRecords,
        from: usize,
        to: usize,
    ) -> io::Result<Vec<u8>> {
        let threads = self.threads;
        let (task, since) = self.task.get_or_insert_with(|| {
            let file = file.clone();
            let task = tokio::spawn(async move {
                let permit = threads.acquire().await.map_err(io::Error::other)?;
                let read = tokio::task::spawn_blocking(move || {
                    let read = file.bring(from, to);
                    drop(permit);
                    read
                });
                read.await.map_err(io::Error::other)?
            });
            (AbortOnDropHandle::new(task), Instant::now())
        });
        let read = task.await;
        self.waited += since.elapsed();
        self.task = None;
        read.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use ottla_storage::directory::TempDir;
    use ottla_storage::records::StoredFile;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_thread_keeps_its_place_and_the_time_is_not_the_clients() {
        let dir = TempDir::new("bringing");
        let path = dir.path().join("stored");
        std::fs::write(&path, [7; 1_000]).expect("writes");
        let file = File::open(&path).expect("opens");
        let records = FileRecords {
            file: Arc::new(StoredFile::new(file, || {})),
            position: 0,
            size: 1_000,
        };
        let threads: &'static Semaphore = Box::leak(Box::new(Semaphore::new(0)));
        let mut bringing = Bringing {
            threads,
            ..Bringing::default()
        };
        assert_eq!(bringing.time(), Duration::ZERO);
        for _ in 0..3 {
            let waits = timeout(
                Duration::from_millis(20),
                bringing.bring(&records, 0, 1_000),
            );
            assert!(waits.await.is_err(), "there is no thread");
        }
        assert!(bringing.is_under_way() && bringing.time() >= Duration::from_millis(60));
        threads.add_permits(1);
        let brought = bringing.bring(&records, 0, 1_000).await;
        assert_eq!(brought.expect("reads"), vec![7; 1_000]);
        assert!(!bringing.is_under_way() && bringing.time() >= Duration::from_millis(60));
        assert_eq!(threads.available_permits(), 1);
        // Beyond the end: the file was cut.
        let cut = bringing.bring(&records, 500, 1_001).await;
        assert_eq!(
            cut.map_err(|error| error.kind()),
            Err(io::ErrorKind::UnexpectedEof)
        );
        assert_eq!(threads.available_permits(), 1);
    }
}
