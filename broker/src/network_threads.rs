//! The threads that serve connections with records (Kafka's network threads, `num.network.threads`): each has a runtime of its
//! own and its own connections, from their first produce or fetch on. What a connection waits for, its socket above all, wakes
//! the very thread that goes on with it. Threads that share their tasks wake each other for every request instead, and one
//! that sends megabytes is disturbed by its reader all the while (docs/STORAGE.md).
//!
//! Started by `start.rs`; `server.rs` hands connections over. Nothing else runs here, and no connection moves again.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The threads. They end, with what runs there, when this is dropped.
#[derive(Debug)]
pub struct NetworkThreads {
    threads: Vec<Thread>,
    /// Where to look first for the next connection.
    next: Mutex<usize>,
    _ends: DropGuard,
}

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// Threads that wait for the disk, of all of them together.
const BLOCKING: usize = 512;

/// Place for one connection on a thread, until it is dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl NetworkThreads {
    /// Starts so many.
    ///
    /// # Errors
    /// The system has no threads, or no descriptors for them to wait with.
    pub fn start(count: usize) -> io::Result<Self> {
        let end = CancellationToken::new();
        let ends = end.clone().drop_guard();
        let threads = (0..count)
            .map(|number| {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .max_blocking_threads((BLOCKING / count).max(1))
                    .build()?;
                let handle = runtime.handle().clone();
                let end = end.clone();
                std::thread::Builder::new()
                    .name(format!("network-{number}"))
                    .spawn(move || {
                        runtime.block_on(end.cancelled());
                        // Who still waits for the disk there is not waited for.
                        runtime.shutdown_background();
                    })?;
                Ok(Thread {
                    runtime: handle,
                    connections: Arc::default(),
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            threads,
            next: Mutex::default(),
            _ends: ends,
        })
    }

    /// Has the thread with the fewest connections serve one more, which keeps its place, as a task of `tasks`.
    pub fn serve<C: Future<Output = ()> + Send + 'static>(
        &self,
        tasks: &TaskTracker,
        connection: impl FnOnce(Place) -> C,
    ) {
        let thread = self.least();
        let place = Place(thread.connections.clone());
        tasks.spawn_on(connection(place), &thread.runtime);
    }

    /// The thread that gets the next connection, which is counted already. In turn where several have as few.
    fn least(&self) -> &Thread {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.threads.len();
        let in_turn = (0..count).map(|number| (*next + number) % count);
        let least = in_turn.min_by_key(|at| self.threads[*at].connections.load(Ordering::Relaxed));
        let least = least.expect("there is a thread at least");
        *next = least + 1;
        let thread = &self.threads[least];
        thread.connections.fetch_add(1, Ordering::Relaxed);
        thread
    }

    /// Their runtimes, to ask how busy they are.
    pub fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.threads.iter().map(|thread| &thread.runtime)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[tokio::test]
    async fn connections_are_dealt_out_evenly_and_each_stays_where_it_is() {
        let network = NetworkThreads::start(3).expect("threads");
        let tasks = TaskTracker::new();
        let (tell, mut told) = mpsc::unbounded_channel();
        let begin = |number: usize| {
            let (end, ended) = oneshot::channel::<()>();
            let tell = tell.clone();
            network.serve(&tasks, |place| async move {
                let _place = place;
                let here = || std::thread::current().name().map(str::to_owned);
                let before = here();
                tell.send((number, before.clone())).expect("heard");
                ended.await.expect("told to end");
                assert_eq!(here(), before);
                tell.send((number, None)).expect("heard");
            });
            end
        };
        let mut ends: HashMap<usize, _> = (0..9).map(|number| (number, begin(number))).collect();
        let mut at: HashMap<usize, String> = HashMap::new();
        let mut on: HashMap<String, Vec<usize>> = HashMap::new();
        for _ in 0..9 {
            let (number, thread) = told.recv().await.expect("begins");
            let thread = thread.expect("has a name");
            at.insert(number, thread.clone());
            on.entry(thread).or_default().push(number);
        }
        let counts: Vec<_> = on.values().map(Vec::len).collect();
        assert_eq!(counts, [3, 3, 3]);
        // Whoever ends makes place: the next two go where the two were.
        let one = at[&0].clone();
        let of_one: Vec<_> = on[&one].iter().take(2).copied().collect();
        for number in &of_one {
            ends.remove(number).expect("runs").send(()).expect("waits");
            assert_eq!(told.recv().await, Some((*number, None)));
        }
        let counted = |thread: &Thread| thread.connections.load(Ordering::Relaxed);
        while network.threads.iter().map(counted).sum::<usize>() > 7 {
            tokio::task::yield_now().await;
        }
        for number in [10, 11] {
            ends.insert(number, begin(number));
            assert_eq!(told.recv().await, Some((number, Some(one.clone()))));
        }
        for (_, end) in ends.drain() {
            end.send(()).expect("waits");
        }
        tasks.close();
        tasks.wait().await;
        assert_eq!(network.runtimes().count(), 3);
    }

    #[tokio::test]
    async fn what_runs_there_ends_with_the_threads() {
        let network = NetworkThreads::start(1).expect("a thread");
        let tasks = TaskTracker::new();
        let (held, dropped) = oneshot::channel::<()>();
        network.serve(&tasks, |_| async move {
            let _held = held;
            std::future::pending().await
        });
        drop(network);
        assert!(dropped.await.is_err(), "the sender is gone");
    }
}
