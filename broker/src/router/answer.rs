//! What a request is answered, from what a handler gives back to what the socket writes, with what the metrics are told
//! of it on the way.
//!
//! Made by `route.rs`, completed by `router.rs`, sent by `connection.rs`. Nothing here encodes or sends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ottla_protocol::fetch_response::Segment;
use ottla_storage::records::Records;

use crate::Broker;
use crate::metrics::SendTimes;
use crate::room::{Held, NoRoom};

/// What goes back to the client.
#[derive(Debug)]
pub enum Reply {
    /// A whole frame, size included, in pieces.
    Frame(Vec<Records>),
    /// The same, of a request whose sending is to be timed, and the room to hold meanwhile.
    Timed(Vec<Records>, AnswerRoom, Box<Sending>),
    /// Nothing: the client asked for no answer.
    Nothing,
    /// The connection is closed; the cause is a metric label.
    Close(&'static str),
}

/// Room for an answer until it is sent.
#[derive(Debug, Default)]
pub struct AnswerRoom {
    /// For batches, which are let go of one by one.
    pub batches: Option<Held>,
    /// For what was encoded in one piece.
    pub frame: Option<Held>,
}

/// An answer on its way to the socket; when it is dropped, sent or not, its times are recorded.
pub struct Sending {
    pub(super) broker: Arc<Broker>,
    pub(super) key: i16,
    pub(super) arrived: Duration,
    pub(super) answered: Duration,
    pub(super) began: Option<Duration>,
}

impl Sending {
    /// The answers before it are written: its own turn begins.
    pub fn begin(&mut self) {
        self.began = Some(self.broker.env.monotonic());
    }
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let now = self.broker.env.monotonic();
        let began = self.began.unwrap_or(now);
        self.broker.metrics.api(self.key).sent(&SendTimes {
            response_queue: began.saturating_sub(self.answered),
            response_send: now.saturating_sub(began),
            total: now.saturating_sub(self.arrived),
        });
    }
}

/// A handler's outcome: most have the reply at hand, a produce has it once its batches are safe.
pub enum Answer {
    /// The reply.
    Now(Reply),
    /// The request has its place in the order; the reply comes later.
    Later(BoxFuture<'static, Reply>),
}

/// What `produce` gives back: its order is fixed, its answer waits for the disk.
pub struct Deferred<R> {
    /// The answer.
    pub answer: BoxFuture<'static, DeferredAnswer<R>>,
}

/// How a deferred request ends.
pub enum DeferredAnswer<R> {
    /// With a response.
    Response(R),
    /// Without one: the client asked for none.
    Nothing,
    /// With a closed connection; the cause is a metric label.
    Close(&'static str),
}

/// A fetch's response with the batches apart, so that they are never copied into it.
pub struct FetchAnswer {
    /// The response; `records` is `None` everywhere.
    pub response: kafka_protocol::messages::FetchResponse,
    /// The batches of each partition, in the response's order.
    pub records: Vec<Vec<Records>>,
    /// How long it waited for data.
    pub waited: Duration,
    /// Room for its batches, until they are sent.
    pub room: Option<Held>,
}

/// A reply, with what the metrics are told of it.
pub(super) struct Told {
    pub(super) reply: Reply,
    /// The answer's first error code; the others are counted already.
    pub(super) error_code: i16,
    /// Of the handler's time, what it only waited.
    pub(super) waited: Duration,
    /// What the answer takes until it is sent.
    pub(super) room: AnswerRoom,
}

impl Told {
    pub(super) fn new(reply: Reply, error_code: i16) -> Self {
        Self {
            reply,
            error_code,
            waited: Duration::ZERO,
            room: AnswerRoom::default(),
        }
    }

    /// Of an answer that is encoded but for `batch_bytes` of batches: takes room for the rest, where it is much.
    pub(super) async fn admitted(self, broker: &Broker, batch_bytes: usize) -> Self {
        let Reply::Frame(pieces) = &self.reply else {
            return self;
        };
        let bytes: usize = pieces.iter().map(Segment::size).sum();
        match broker.replies.admit(bytes - batch_bytes).await {
            Ok(frame) => {
                let room = AnswerRoom { frame, ..self.room };
                Self { room, ..self }
            }
            Err(NoRoom) => Self::new(Reply::Close("no_room"), 0),
        }
    }
}

/// `Answer`, with what the metrics are told.
pub(super) enum Ran {
    Now(Told),
    Later(BoxFuture<'static, Told>),
}

impl Ran {
    pub(super) fn close(cause: &'static str) -> Self {
        Self::Now(Told::new(Reply::Close(cause), 0))
    }
}
