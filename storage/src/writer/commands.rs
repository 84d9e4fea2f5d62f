//! How the writer's thread takes its commands: it waits for the next one, or for a while only. It performs none.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Command;

/// Commands of the writer, for the thread that made this.
pub(super) struct Commands {
    receiver: mpsc::Receiver<Command>,
    waker: Waker,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Commands {
    pub(super) fn new(receiver: mpsc::Receiver<Command>) -> Self {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        Self { receiver, waker }
    }

    /// The next one, however long it takes; `None` once there are none any more.
    pub(super) fn next(&mut self) -> Option<Command> {
        self.receiver.blocking_recv()
    }

    /// The next one if it comes within `wait`; it may give up sooner.
    pub(super) fn next_within(&mut self, wait: Duration) -> Option<Command> {
        self.poll().or_else(|| {
            std::thread::park_timeout(wait);
            self.poll()
        })
    }

    /// The next one if it is there; otherwise this thread is unparked when it comes.
    fn poll(&mut self) -> Option<Command> {
        let mut context = Context::from_waker(&self.waker);
        match self.receiver.poll_recv(&mut context) {
            Poll::Ready(command) => command,
            Poll::Pending => None,
        }
    }

    /// The next one if it is there.
    pub(super) fn try_next(&mut self) -> Option<Command> {
        self.receiver.try_recv().ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// No more are taken; those that are there may be.
    pub(super) fn close(&mut self) {
        self.receiver.close();
    }
}
