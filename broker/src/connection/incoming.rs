//! The frames of one connection as they arrive, with the room that those take which are not small.
//!
//! Owned by `connection.rs`. A frame has `FRAME_TIMEOUT` from its first byte to its last, counted while somebody waits
//! for its bytes and not while the broker does not read: pauses neither use it up nor begin it anew. A frame that holds
//! room for which others wait for long has to come at a least rate, too. Dropping a call loses nothing that was read.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use ottla_protocol::frame::{FrameCodec, FrameError, FrameLimits, Incoming};
use tokio::io::AsyncRead;
use tokio::time::{Instant, sleep};
use tokio_util::codec::FramedRead;

use super::{Cause, NO_ROOM, ROOM_TIMEOUT, SHUTDOWN};
use crate::room::{self, Held, Requests};

/// From the first byte of a frame to its last.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a frame that holds room is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// `Duration::MAX` would overflow the timer: a day is as good as for ever here.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// What one connection may hold before its first frame is known.
const READ_BUFFER_BYTES: usize = 4 << 10;

/// The frames of a stream.
pub(super) struct Frames<R> {
    stream: FramedRead<R, FrameCodec>,
    /// How much longer the frame on its way may take.
    left: Duration,
    /// How much longer it may wait for its room.
    room_left: Duration,
    /// Room for the frame on its way, or for the last one, until it is taken.
    room: Option<Held>,
    /// Where the frame on its way stood when it got its room.
    granted: Granted,
}

#[derive(Debug, Default, Clone, Copy)]
struct Granted {
    left: Duration,
    buffered: usize,
}

/// Counts the time until it is dropped.
struct Turn<'a> {
    left: &'a mut Duration,
    since: Instant,
}

impl<'a> Turn<'a> {
    fn new(left: &'a mut Duration) -> Self {
        let since = Instant::now();
        Self { left, since }
    }

    fn left(&self) -> Duration {
        self.left.saturating_sub(self.since.elapsed())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.left = self.left();
    }
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(stream: R, limits: FrameLimits) -> Self {
        let codec = FrameCodec::new(limits);
        Self {
            stream: FramedRead::with_capacity(stream, codec, READ_BUFFER_BYTES),
            left: FRAME_TIMEOUT,
            room_left: ROOM_TIMEOUT,
            room: None,
            granted: Granted::default(),
        }
    }

    pub(super) fn stream(&self) -> &R {
        self.stream.get_ref()
    }

    pub(super) fn stream_mut(&mut self) -> &mut R {
        self.stream.get_mut()
    }

    /// The room of the frame that came last.
    pub(super) fn take_room(&mut self) -> Option<Held> {
        self.room.take()
    }

    /// The next frame, or why there will be none; it waits for room where the frame needs some.
    pub(super) async fn next(
        &mut self,
        requests: &Requests,
        idle: Duration,
    ) -> Result<Bytes, Cause> {
        loop {
            let wanted = match self.arrival(idle).await? {
                Incoming::Frame(frame) => return Ok(frame),
                Incoming::Wants(bytes) => bytes,
            };
            let before = self.room_left;
            let turn = Turn::new(&mut self.room_left);
            let room = requests.of(wanted);
            let granted = room.top_up(&mut self.room, wanted, turn.left()).await;
            drop(turn);
            granted.map_err(|_| SHUTDOWN)?.ok_or(NO_ROOM)?;
            self.stream.decoder_mut().grant(wanted);
            // Whoever waited has sent more meanwhile, or will not: no time is given to begin with.
            let waited = before.saturating_sub(self.room_left);
            self.granted = Granted {
                left: self.left + waited.min(room::GRACE),
                buffered: self.stream.read_buffer().len(),
            };
        }
    }

    /// The next frame, for one who cannot begin it yet; `None` once it wants room, which would be held for nothing.
    pub(super) async fn next_without_room(&mut self) -> Result<Option<Bytes>, Cause> {
        Ok(match self.arrival(FOREVER).await? {
            Incoming::Frame(frame) => Some(frame),
            Incoming::Wants(_) => None,
        })
    }

    async fn arrival(&mut self, idle: Duration) -> Result<Incoming, Cause> {
        let arrived = self.poll_arrival(idle.min(FOREVER)).await;
        match &arrived {
            Ok(Incoming::Frame(_)) => {
                self.left = FRAME_TIMEOUT;
                self.room_left = ROOM_TIMEOUT;
            }
            Ok(Incoming::Wants(_)) => {}
            Err(_) => self.room = None,
        }
        arrived
    }

    /// Time counts from the first byte, not from the first sign of one: a fresh socket counts as readable.
    async fn poll_arrival(&mut self, idle: Duration) -> Result<Incoming, Cause> {
        let Self {
            stream,
            left,
            room,
            granted,
            ..
        } = self;
        let look = |left: Duration| if room.is_some() { left.min(LOOK) } else { left };
        let mut left = Some(left);
        let mut begun = None;
        let mut alarm = pin!(sleep(idle));
        poll_fn(|cx| {
            if let Poll::Ready(frame) = stream.poll_next_unpin(cx) {
                return Poll::Ready(match frame {
                    None => Err("closed_by_client"),
                    Some(Ok(incoming)) => Ok(incoming),
                    Some(Err(FrameError::Io(_))) => Err("read_error"),
                    Some(Err(_)) => Err("bad_frame_size"),
                });
            }
            if !stream.read_buffer().is_empty()
                && let Some(left) = left.take()
            {
                let turn = Turn::new(left);
                alarm.set(sleep(look(turn.left())));
                begun = Some(turn);
            }
            loop {
                std::task::ready!(alarm.as_mut().poll(cx));
                let Some(turn) = &begun else {
                    return Poll::Ready(Err("idle"));
                };
                let left = turn.left();
                let wanted = room.as_ref().is_some_and(Held::is_wanted);
                let bytes = stream.read_buffer().len().saturating_sub(granted.buffered);
                let taken = granted.left.saturating_sub(left);
                if left.is_zero() || (wanted && room::is_slow(bytes, taken)) {
                    return Poll::Ready(Err("slow_frame"));
                }
                alarm.set(sleep(look(left)));
            }
        })
        .await
    }
}

#[cfg(test)]
#[path = "incoming_tests.rs"]
mod tests;
