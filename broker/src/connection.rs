//! One connection's life: read frames, run them in order, answer in order. Started by `server.rs`, which moves it to a
//! network thread once there is something to produce or fetch.
//!
//! Order (as clients rely on): only a produce overlaps a produce; any other request begins when all earlier
//! ones are answered; nothing begins behind a parked fetch. Reading stops at `MAX_IN_FLIGHT` requests or
//! `MAX_IN_FLIGHT_BYTES` of them, so a connection holds a bounded number of bytes, and what it holds of the room that
//! all connections share it holds only while it moves on: frames that wait behind a running request get none.
//! Every wait has an end: `connection/incoming.rs` and `outgoing.rs` say which, and an idle connection ends after
//! `connections.max.idle.ms`.

mod incoming;
mod outgoing;

use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use ottla_protocol::frame::{self, FrameLimits, SIZE_LEN};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::incoming::Frames;
use self::outgoing::{GivingWay, Outgoing, PIECES};
use crate::room::Held;
use crate::router::{self, Answer, AnswerRoom, Order, Origin, Reply};

/// Requests of one connection that may wait for their answers.
const MAX_IN_FLIGHT: usize = 64;

/// Bytes of requests of one connection that may wait for their answers; one request may exceed it.
const MAX_IN_FLIGHT_BYTES: usize = 16 << 20;

/// How often a request that runs with a frame behind it, which stops the reading, looks whether its client is there.
const GONE_CHECK: Duration = Duration::from_secs(5);

/// Longest wait of a request for its room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may go on sending, unheard, after the last answer of a broker that stops.
const PARTING: Duration = Duration::from_millis(100);

/// What is read at once of what nobody hears.
const UNHEARD_BYTES: usize = 4 << 10;

/// Why a connection ended; a metric label.
type Cause = &'static str;

/// The broker stops.
const SHUTDOWN: Cause = "shutdown";

/// There was no room for a request in time.
const NO_ROOM: Cause = "no_room";

/// Requests that run beside each other, in their order.
#[derive(Default)]
struct InFlight {
    bytes: usize,
    replies: FuturesOrdered<BoxFuture<'static, (usize, Reply)>>,
    /// Replies that were there while the connection waited for something else; they come before `replies`.
    ready: VecDeque<(usize, Reply)>,
}

impl InFlight {
    fn len(&self) -> usize {
        self.ready.len() + self.replies.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The request's room is given back once its reply is there, not once the reply is written.
    fn push(&mut self, bytes: usize, room: Option<Held>, reply: BoxFuture<'static, Reply>) {
        self.bytes += bytes;
        let reply = reply.map(move |reply| {
            drop(room);
            (bytes, reply)
        });
        self.replies.push_back(reply.boxed());
    }

    /// The next reply in order; `None` when nothing is in flight.
    async fn next(&mut self) -> Option<Reply> {
        let (bytes, reply) = match self.ready.pop_front() {
            Some(ready) => ready,
            None => self.replies.next().await?,
        };
        self.bytes -= bytes;
        Some(reply)
    }

    /// Waits for `other` while requests in flight end and give back their room. Who waits for room, or for a client
    /// that does not read, would otherwise hold room that all connections wait for.
    async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        loop {
            tokio::select! {
                biased;
                done = &mut other => return done,
                Some(ready) = self.replies.next(), if !self.replies.is_empty() => {
                    self.ready.push_back(ready);
                }
            }
        }
    }
}

/// Why a connection is not served any further.
enum Leaves {
    Ends(Cause),
    /// It is to be served elsewhere.
    Moves,
}

impl From<Cause> for Leaves {
    fn from(cause: Cause) -> Self {
        Leaves::Ends(cause)
    }
}

/// A client's connection.
pub struct Connection {
    frames: Frames<OwnedReadHalf>,
    write: OwnedWriteHalf,
    giving_way: GivingWay,
    origin: Origin,
    idle: Duration,
    stop: CancellationToken,
    in_flight: InFlight,
    /// A frame that came while another request ran alone, and when it was there.
    next: Option<(Result<Bytes, Cause>, Duration)>,
}

impl Connection {
    /// One that nothing was read from yet.
    pub fn new(
        stream: TcpStream,
        origin: Origin,
        limits: FrameLimits,
        idle: Duration,
        stop: CancellationToken,
    ) -> Self {
        let (read, write) = stream.into_split();
        Self {
            frames: Frames::new(read, limits),
            write,
            giving_way: GivingWay::to(origin.broker.log.appends().clone()),
            origin,
            idle,
            stop,
            in_flight: InFlight::default(),
            next: None,
        }
    }

    /// Serves it to its end and says why it ended. `None`: there is the first produce or fetch, all before it is answered,
    /// and `until_records` was said.
    pub async fn serve(&mut self, until_records: bool) -> Option<Cause> {
        let cause = match self.run(until_records).await {
            Ok(never) => match never {},
            Err(Leaves::Ends(cause)) => cause,
            Err(Leaves::Moves) => return None,
        };
        if cause == SHUTDOWN {
            self.part().await;
        }
        Some(cause)
    }

    /// Has the runtime of the calling task wait for the socket from now on.
    ///
    /// # Errors
    /// The system has no descriptor for it. The runtime that did so before goes on then.
    pub fn settle(&mut self) -> std::io::Result<()> {
        let socket = self.write.as_ref().as_fd().try_clone_to_owned()?;
        let (read, write) = TcpStream::from_std(socket.into())?.into_split();
        *self.frames.stream_mut() = read;
        // Otherwise nothing could be written any more.
        std::mem::replace(&mut self.write, write).forget();
        Ok(())
    }

    async fn run(&mut self, until_records: bool) -> Result<std::convert::Infallible, Leaves> {
        loop {
            let (frame, arrived) = match self.next.take() {
                Some(next) => next,
                None => {
                    let frame = self.next_frame().await?;
                    (frame, self.now())
                }
            };
            // A frame that cannot be read ends the connection, but what came before it is answered.
            let frame = match frame {
                Ok(frame) => frame,
                Err(cause) => {
                    self.answer_all().await?;
                    return Err(cause.into());
                }
            };
            let order = router::order(&frame);
            if until_records && matches!(order, Order::Overlaps | Order::Parks) {
                self.answer_all().await?;
                self.next = Some((Ok(frame), arrived));
                return Err(Leaves::Moves);
            }
            if order != Order::Overlaps {
                self.answer_all().await?;
            }
            let bytes = frame.len();
            let mut room = self.frames.take_room();
            let whole = SIZE_LEN + bytes;
            if needs_room(order, whole) {
                let broker = self.origin.broker.clone();
                let shared = broker.requests.of(whole);
                let more = shared.top_up(&mut room, whole, ROOM_TIMEOUT);
                let more = self.in_flight.beside(more).await;
                if more.map_err(|_| SHUTDOWN)?.is_none() {
                    self.answer_all().await?;
                    return Err(NO_ROOM.into());
                }
            }
            // What may park for long gives its room back once its bytes are gone.
            let (frame_room, room) = match order {
                Order::Parks | Order::Waits => (room, None),
                Order::Overlaps | Order::Alone => (None, room),
            };
            let answer = self.start((frame, frame_room), arrived, order).await?;
            match answer {
                Answer::Now(Reply::Close(cause)) => {
                    // What came before is answered, and nothing begins behind it.
                    drop(room);
                    self.answer_all().await?;
                    return Err(cause.into());
                }
                Answer::Now(reply) if self.in_flight.is_empty() => {
                    drop(room);
                    self.write_replies(reply).await?;
                }
                Answer::Now(reply) => {
                    self.in_flight
                        .push(bytes, room, Box::pin(async move { reply }));
                }
                Answer::Later(reply) => self.in_flight.push(bytes, room, reply),
            }
        }
    }

    /// Says that no more answers come and lets the client read the last ones. A socket that is closed with requests
    /// unread is reset, and a client that is still sending would learn of that before it reads what it was told.
    async fn part(&mut self) {
        if self.write.shutdown().await.is_err() {
            return;
        }
        let mut unread = [0; UNHEARD_BYTES];
        let ends =
            async { while matches!(self.frames.stream_mut().read(&mut unread).await, Ok(1..)) {} };
        // Whoever does not part by then has had its time.
        let _ = timeout(PARTING, ends).await;
    }

    fn now(&self) -> Duration {
        self.origin.broker.env.monotonic()
    }

    /// Waits for the next frame while answers go out.
    async fn next_frame(&mut self) -> Result<Result<Bytes, Cause>, Cause> {
        loop {
            let full = self.in_flight.len() >= MAX_IN_FLIGHT
                || self.in_flight.bytes >= MAX_IN_FLIGHT_BYTES;
            let waiting = !self.in_flight.is_empty();
            let requests = &self.origin.broker.requests;
            tokio::select! {
                biased;
                Some(reply) = self.in_flight.next(), if waiting => {
                    self.write_replies(reply).await?;
                }
                () = self.stop.cancelled(), if !full => return Ok(Err(SHUTDOWN)),
                frame = self.frames.next(requests, self.idle), if !full => return Ok(frame),
            }
        }
    }

    async fn answer_all(&mut self) -> Result<(), Cause> {
        while let Some(reply) = self.in_flight.next().await {
            self.write_replies(reply).await?;
        }
        Ok(())
    }

    /// Runs a request. Meanwhile at most one more frame is read, which also notices a client that went away: a fetch
    /// or a member that it left waiting is dropped then, and its connection with it.
    async fn start(
        &mut self,
        (frame, room): (Bytes, Option<Held>),
        arrived: Duration,
        order: Order,
    ) -> Result<Answer, Cause> {
        let run = router::handle(self.origin.clone(), (frame, room), arrived);
        if order == Order::Overlaps {
            return Ok(self.in_flight.beside(run).await);
        }
        tokio::pin!(run);
        let may_take_long = matches!(order, Order::Parks | Order::Waits);
        let mut reads = self.next.is_none();
        loop {
            tokio::select! {
                biased;
                answer = &mut run => return Ok(answer),
                () = self.stop.cancelled(), if order == Order::Parks => return Err(SHUTDOWN),
                next = next_or_gone(&mut self.frames, reads), if may_take_long || reads => {
                    if may_take_long && matches!(next, Err("closed_by_client" | "read_error")) {
                        return Err("closed_by_client");
                    }
                    reads = false;
                    if let Some(next) = next.transpose() {
                        self.next = Some((next, self.now()));
                    }
                }
            }
        }
    }

    /// Writes a reply, together with those behind it that are there already: one sync answers many requests at once.
    async fn write_replies(&mut self, first: Reply) -> Result<(), Cause> {
        let mut outgoing = Outgoing::default();
        let mut end = Ok(());
        let mut next = Some(first);
        while let Some(reply) = next.take() {
            match reply {
                Reply::Nothing => {}
                Reply::Close(cause) => {
                    end = Err(cause);
                    break;
                }
                Reply::Frame(pieces) => outgoing.push(pieces, AnswerRoom::default(), None),
                Reply::Timed(pieces, room, mut sending) => {
                    sending.begin();
                    outgoing.push(pieces, room, Some(sending));
                }
            }
            if outgoing.pieces() < PIECES {
                next = self.in_flight.next().now_or_never().flatten();
            }
        }
        if outgoing.pieces() > 0 {
            let write = outgoing.write(&mut self.write, &mut self.giving_way);
            self.in_flight.beside(write).await?;
        }
        end
    }
}

/// Whether the request of a frame of so many bytes, its size included, waits for room. A small frame is here already, and
/// of all but produces a connection has one at a time: heartbeats and fetches wait for no produce.
fn needs_room(order: Order, whole: usize) -> bool {
    order == Order::Overlaps || whole > frame::FREE
}

/// The next frame or, when there is no place for one, only the news that the client went away; `None` when the frame
/// has to wait for its turn.
async fn next_or_gone(
    frames: &mut Frames<OwnedReadHalf>,
    read: bool,
) -> Result<Option<Bytes>, Cause> {
    if read {
        return frames.next_without_room().await;
    }
    loop {
        // The end of the stream shows behind bytes that are not read, but only to one who asks again.
        sleep(GONE_CHECK).await;
        let ready = frames.stream().ready(Interest::READABLE).now_or_never();
        if let Some(Ok(ready)) = ready
            && ready.is_read_closed()
        {
            return Err("closed_by_client");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Room;

    #[test]
    fn small_requests_wait_for_no_room_unless_there_may_be_many() {
        for order in [Order::Alone, Order::Parks, Order::Waits] {
            assert!(!needs_room(order, frame::FREE), "{order:?}");
            assert!(needs_room(order, frame::FREE + 1), "{order:?}");
        }
        assert!(needs_room(Order::Overlaps, 20));
    }

    #[tokio::test]
    async fn who_waits_for_room_gives_back_its_own_and_keeps_the_order() {
        let all = Room::new(3 << 10);
        let mut in_flight = InFlight::default();
        for cause in ["first", "second", "third"] {
            let room = all.take(1 << 10).await.expect("room");
            let reply = async move {
                tokio::task::yield_now().await;
                Reply::Close(cause)
            };
            in_flight.push(5, Some(room), reply.boxed());
        }
        let waited = in_flight.beside(all.take(3 << 10));
        let room = timeout(Duration::from_secs(5), waited).await;
        drop(room.expect("no one else has any").expect("open"));
        assert_eq!((in_flight.len(), in_flight.bytes), (3, 15));
        in_flight.push(5, None, async { Reply::Close("fourth") }.boxed());
        for cause in ["first", "second", "third", "fourth"] {
            let reply = in_flight.next().await;
            assert!(
                matches!(reply, Some(Reply::Close(found)) if found == cause),
                "{reply:?} is not {cause}"
            );
        }
        assert!(in_flight.is_empty() && in_flight.bytes == 0);
    }
}
