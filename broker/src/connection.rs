//! One connection's life: read frames, run them in order, answer in order. Started by `server.rs`.
//!
//! Order (as clients rely on): only a produce overlaps a produce; any other request begins when all earlier
//! ones are answered; nothing begins behind a parked fetch. Reading stops at `MAX_IN_FLIGHT` requests or
//! `MAX_IN_FLIGHT_BYTES` of them, so a connection holds a bounded number of bytes. Every wait has an end: a
//! frame must be complete `FRAME_TIMEOUT` after its first byte, an answer must make progress within
//! `WRITE_TIMEOUT`, and an idle connection ends after `connections.max.idle.ms`.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use ottla_protocol::frame::{FrameCodec, FrameError, FrameLimits, Incoming, SIZE_LEN};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use crate::room::{Held, Requests};
use crate::router::{self, Answer, Order, Origin, Reply};

/// Requests of one connection that may wait for their answers.
const MAX_IN_FLIGHT: usize = 64;

/// Bytes of requests of one connection that may wait for their answers; one request may exceed it.
const MAX_IN_FLIGHT_BYTES: usize = 16 << 20;

/// From the first byte of a frame to its last.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time that an answer may make no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a parked fetch with a frame behind it, which stops the reading, looks whether its client is there.
const GONE_CHECK: Duration = Duration::from_secs(5);

/// How long a client may go on sending, unheard, after the last answer of a broker that stops.
const PARTING: Duration = Duration::from_millis(100);

/// What one connection may hold before its first frame is known.
const READ_BUFFER_BYTES: usize = 4 << 10;

/// Pieces handed to the system in one call.
const PIECES: usize = 64;

/// Why a connection ended; a metric label.
type Cause = &'static str;

/// The broker stops.
const SHUTDOWN: Cause = "shutdown";

type Frames = FramedRead<OwnedReadHalf, FrameCodec>;

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

/// Serves a connection to its end and says why it ended.
pub async fn serve(
    stream: TcpStream,
    origin: Origin,
    limits: FrameLimits,
    idle: Duration,
    stop: CancellationToken,
) -> Cause {
    let (read, write) = stream.into_split();
    let frames = FramedRead::with_capacity(read, FrameCodec::new(limits), READ_BUFFER_BYTES);
    let mut connection = Connection {
        frames,
        write,
        origin,
        idle,
        stop,
        in_flight: InFlight::default(),
        next: None,
        frame_room: None,
    };
    let cause = match connection.run().await {
        Ok(never) => match never {},
        Err(cause) => cause,
    };
    if cause == SHUTDOWN {
        connection.part().await;
    }
    cause
}

struct Connection {
    frames: Frames,
    write: OwnedWriteHalf,
    origin: Origin,
    idle: Duration,
    stop: CancellationToken,
    in_flight: InFlight,
    /// A frame that came while another request ran alone, and when it was there.
    next: Option<(Result<Bytes, Cause>, Duration)>,
    /// Room for the frame that is being read, and then for its request.
    frame_room: Option<Held>,
}

impl Connection {
    async fn run(&mut self) -> Result<std::convert::Infallible, Cause> {
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
                    return Err(cause);
                }
            };
            let order = router::order(&frame);
            if order != Order::Overlaps {
                self.answer_all().await?;
            }
            let bytes = frame.len();
            let broker = self.origin.broker.clone();
            let mut room = self.frame_room.take();
            let whole = SIZE_LEN + bytes;
            let more = broker.requests.of(whole).top_up(&mut room, whole);
            self.in_flight.beside(more).await.map_err(|_| SHUTDOWN)?;
            // What may park for long has no bytes worth holding room for, or they are bounded elsewhere.
            let room = room.filter(|_| !matches!(order, Order::Parks | Order::Waits));
            let answer = self.start(frame, arrived, order).await?;
            match answer {
                Answer::Now(Reply::Close(cause)) => {
                    // What came before is answered, and nothing begins behind it.
                    drop(room);
                    self.answer_all().await?;
                    return Err(cause);
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
        let mut unread = [0; READ_BUFFER_BYTES];
        let ends =
            async { while matches!(self.frames.get_mut().read(&mut unread).await, Ok(1..)) {} };
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
            tokio::select! {
                biased;
                Some(reply) = self.in_flight.next(), if waiting => {
                    self.write_replies(reply).await?;
                }
                frame = read_frame(
                    &mut self.frames,
                    (&self.origin.broker.requests, &mut self.frame_room),
                    self.idle,
                    &self.stop,
                ), if !full => {
                    return Ok(frame);
                }
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
        frame: Bytes,
        arrived: Duration,
        order: Order,
    ) -> Result<Answer, Cause> {
        let run = router::handle(self.origin.clone(), frame, arrived);
        if order == Order::Overlaps {
            return Ok(self.in_flight.beside(run).await);
        }
        tokio::pin!(run);
        let may_take_long = matches!(order, Order::Parks | Order::Waits);
        loop {
            tokio::select! {
                biased;
                answer = &mut run => return Ok(answer),
                () = self.stop.cancelled(), if order == Order::Parks => return Err(SHUTDOWN),
                next = next_or_gone(
                    &mut self.frames,
                    (&self.origin.broker.requests, &mut self.frame_room),
                    self.next.is_none(),
                    &self.stop,
                ), if may_take_long || self.next.is_none() => {
                    if may_take_long && matches!(next, Err("closed_by_client" | "read_error")) {
                        return Err("closed_by_client");
                    }
                    self.next = Some((next, self.now()));
                }
            }
        }
    }

    /// Writes a reply, together with those behind it that are there already: one sync answers many requests at once.
    async fn write_replies(&mut self, first: Reply) -> Result<(), Cause> {
        let mut pieces = Vec::new();
        let mut sendings = Vec::new();
        let mut end = Ok(());
        let mut next = Some(first);
        while let Some(reply) = next.take() {
            match reply {
                Reply::Nothing => {}
                Reply::Close(cause) => {
                    end = Err(cause);
                    break;
                }
                Reply::Frame(more) => pieces.extend(more),
                Reply::Timed(more, mut sending) => {
                    sending.begin();
                    sendings.push(sending);
                    pieces.extend(more);
                }
            }
            if pieces.len() < PIECES {
                next = self.in_flight.next().now_or_never().flatten();
            }
        }
        if !pieces.is_empty() {
            let write = write_pieces(&mut self.write, pieces);
            self.in_flight.beside(write).await?;
        }
        drop(sendings);
        end
    }
}

/// The next frame or, when there is no place for one, only the news that the client went away.
async fn next_or_gone(
    frames: &mut Frames,
    room: (&Requests, &mut Option<Held>),
    read: bool,
    stop: &CancellationToken,
) -> Result<Bytes, Cause> {
    if read {
        return read_frame(frames, room, Duration::MAX, stop).await;
    }
    loop {
        // The end of the stream shows behind bytes that are not read, but only to one who asks again.
        sleep(GONE_CHECK).await;
        let ready = frames.get_ref().ready(Interest::READABLE).now_or_never();
        if let Some(Ok(ready)) = ready
            && ready.is_read_closed()
        {
            return Err("closed_by_client");
        }
    }
}

/// The next frame, or why there will be none. What it takes is added to `held`. Dropping it loses nothing that was read.
async fn read_frame(
    frames: &mut Frames,
    (requests, held): (&Requests, &mut Option<Held>),
    idle: Duration,
    stop: &CancellationToken,
) -> Result<Bytes, Cause> {
    // `Duration::MAX` would overflow the timer: a day is as good as for ever here.
    let idle = idle.min(Duration::from_secs(24 * 3600));
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(SHUTDOWN),
        frame = async {
            loop {
                let bytes = match next_within(frames, idle).await? {
                    Incoming::Frame(frame) => return Ok(frame),
                    Incoming::Wants(bytes) => bytes,
                };
                let room = requests.of(bytes);
                match timeout(FRAME_TIMEOUT, room.top_up(held, bytes)).await {
                    Ok(granted) => granted.map_err(|_| SHUTDOWN)?,
                    Err(_) => return Err("no_room"),
                }
                frames.decoder_mut().grant(bytes);
            }
        } => frame,
    }
}

/// `FRAME_TIMEOUT` counts from the first byte, not from the first sign of one: a fresh socket counts as readable.
async fn next_within(frames: &mut Frames, idle: Duration) -> Result<Incoming, Cause> {
    let mut begun = !frames.read_buffer().is_empty();
    let mut end = pin!(sleep(if begun { FRAME_TIMEOUT } else { idle }));
    poll_fn(|cx| {
        if let Poll::Ready(frame) = frames.poll_next_unpin(cx) {
            return Poll::Ready(match frame {
                None => Err("closed_by_client"),
                Some(Ok(incoming)) => Ok(incoming),
                Some(Err(FrameError::Io(_))) => Err("read_error"),
                Some(Err(_)) => Err("bad_frame_size"),
            });
        }
        if !begun && !frames.read_buffer().is_empty() {
            begun = true;
            end.set(sleep(FRAME_TIMEOUT));
        }
        let late = if begun { "slow_frame" } else { "idle" };
        end.as_mut().poll(cx).map(|()| Err(late))
    })
    .await
}

/// Writes all pieces, with as few system calls and copies as there can be.
async fn write_pieces(
    write: &mut (impl AsyncWrite + Unpin),
    pieces: Vec<Bytes>,
) -> Result<(), Cause> {
    let mut first = 0;
    let mut offset = 0;
    while first < pieces.len() {
        if offset == pieces[first].len() {
            first += 1;
            offset = 0;
            continue;
        }
        let slices: Vec<IoSlice<'_>> = pieces[first..]
            .iter()
            .take(PIECES)
            .enumerate()
            .map(|(index, piece)| IoSlice::new(if index == 0 { &piece[offset..] } else { piece }))
            .collect();
        let mut written = match timeout(WRITE_TIMEOUT, write.write_vectored(&slices)).await {
            Err(_) => return Err("slow_reader"),
            Ok(Err(_) | Ok(0)) => return Err("write_error"),
            Ok(Ok(written)) => written,
        };
        while written > 0 {
            let left = pieces[first].len() - offset;
            if written < left {
                offset += written;
                break;
            }
            written -= left;
            first += 1;
            offset = 0;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Room;

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

    #[tokio::test]
    async fn pieces_are_written_whole_whatever_the_socket_takes() {
        let seed = 5;
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let pieces: Vec<Bytes> = (0..rng.usize(0..200))
                .map(|_| {
                    let length = rng.usize(0..300);
                    (0..length).map(|_| rng.u8(..)).collect::<Vec<_>>().into()
                })
                .collect();
            let expected = pieces.concat();
            let (mut ours, theirs) = tokio::io::duplex(rng.usize(1..500));
            let reader = tokio::spawn(async move {
                let mut theirs = theirs;
                let mut all = Vec::new();
                tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut all)
                    .await
                    .expect("reads");
                all
            });
            write_pieces(&mut ours, pieces).await.expect("writes");
            ours.shutdown().await.expect("ends");
            drop(ours);
            assert_eq!(reader.await.expect("joins"), expected);
        }
    }
}
