//! Works on large requests apart from the threads that serve connections.
//!
//! A request may name 65,536 things, and walking, decoding, looking up, encoding and freeing them takes some tens of
//! milliseconds that nothing interrupts. Meanwhile its thread would serve nobody else, so the router sends every
//! frame from `LARGE_BYTES` on here. There is one thread: floods of large requests wait for each other, not others
//! for them. A produce stays where it is, since its bytes are mostly records, checked apart already; so do small
//! frames, which cannot name much. A parked fetch costs this thread nothing while it waits.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// Frames from this size on are large: below, even elements of three bytes keep a thread for a few milliseconds.
pub const LARGE_BYTES: usize = 16 << 10;

/// The thread, with a runtime of its own.
#[derive(Debug)]
pub struct LargeRequests {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl LargeRequests {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("large-requests")
            .enable_time()
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    /// Runs `work` there; dropping the answer's future drops the work. A panic in it goes on in the caller. `None`:
    /// the broker stops.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let runtime = self.runtime.as_ref()?;
        match AbortOnDropHandle::new(runtime.spawn(work)).await {
            Ok(done) => Some(done),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => None,
            },
        }
    }
}

impl Drop for LargeRequests {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Brokers are dropped on async threads too, which may not wait for others to end.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_runs_on_another_thread_and_its_panic_comes_back() {
        let large = Arc::new(LargeRequests::start().expect("a thread"));
        let here = std::thread::current().id();
        let there = large.run(async { std::thread::current().id() }).await;
        assert_ne!(there, Some(here));
        let panicked = tokio::spawn({
            let large = large.clone();
            async move { large.run(async { panic!("on purpose") }).await }
        });
        let error = panicked.await.expect_err("it panics");
        assert!(error.is_panic());
        assert_eq!(large.run(async { 1 }).await, Some(1), "the thread lives");
    }

    #[tokio::test]
    async fn who_no_longer_waits_ends_the_work() {
        let large = LargeRequests::start().expect("a thread");
        let (held, dropped) = oneshot::channel::<()>();
        let parked = large.run(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        let waited = tokio::time::timeout(Duration::from_millis(10), parked).await;
        assert!(waited.is_err(), "it waits for ever");
        let dropped = tokio::time::timeout(Duration::from_secs(5), dropped).await;
        assert!(dropped.expect("in time").is_err(), "the sender is gone");
    }
}
