//! What each API does: one file per group of APIs that share a vocabulary. A handler gets a `Ctx` and a decoded
//! request and gives a response; it never touches a socket, a clock of its own, or RocksDB.

pub mod acls;
pub mod api_versions;
pub mod configs;
pub mod fetch;
pub mod fetch_session;
pub mod group_offsets;
pub mod groups;
pub mod log_dirs;
pub mod metadata;
pub mod offsets;
pub mod produce;
pub mod producer_ids;
pub mod quotas;
mod refusal;
pub mod topics;

use ottla_protocol::error_code::ErrorCode;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio::task::block_in_place;

/// Works that run in place at a time. Each takes a thread, and the system's limit for those must not be met: tasks would wait.
static PLACES: Semaphore = Semaphore::const_new(16);

/// Runs `work`, which may wait for the disk, on this very thread, and hands what else the thread had to do to another one: two
/// hand-overs to and from a thread apart take longer than what is read from memory. `apart` where too many do so already.
///
/// # Errors
/// As `apart`.
async fn in_place<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ErrorCode> {
    let has_others = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
    if has_others && let Ok(place) = PLACES.try_acquire() {
        let done = block_in_place(work);
        drop(place);
        return Ok(done);
    }
    apart(work).await
}

/// Runs `work` off the async workers. A panic in it goes on in the caller, so that it ends the connection and is
/// counted like any other.
///
/// # Errors
/// The broker stops.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ErrorCode> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => ErrorCode::NotLeaderOrFollower,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_works_in_place_keeps_nobody_waiting_however_many_they_are() {
        let (works, begins): (Vec<_>, Vec<_>) = (0..40)
            .map(|number| {
                let (begin, began) = mpsc::channel::<()>();
                let work = move || began.recv().map(|()| number);
                (tokio::spawn(in_place(work)), begin)
            })
            .unzip();
        // It goes on only if the one worker has a thread while all of them wait.
        let (last, done) = oneshot::channel();
        tokio::spawn(async move { last.send(()) });
        done.await.expect("another task had its turn");
        for begin in begins {
            begin.send(()).expect("it waits");
        }
        for (number, work) in works.into_iter().enumerate() {
            assert_eq!(work.await.expect("ends"), Ok(Ok(number)));
        }
    }

    #[tokio::test]
    async fn where_there_is_one_thread_alone_work_goes_apart() {
        let here = std::thread::current().id();
        let there = in_place(|| std::thread::current().id()).await;
        assert!(there.is_ok_and(|there| there != here));
    }

    #[tokio::test]
    #[should_panic(expected = "on purpose")]
    async fn a_panic_apart_is_a_panic_here() {
        let panicked: Result<(), _> = apart(|| panic!("on purpose")).await;
        unreachable!("{panicked:?}");
    }
}
