//! The way of one request, from its frame to its answer: the row is found (`router/table.rs`), the version checked, the
//! header parsed, the row run (`router/route.rs`), and what came of it counted (`router/answer.rs`).
//!
//! Called by `connection.rs` with one frame at a time. It never touches a socket, and nothing reaches a
//! decoder that the guard has not walked.

mod answer;
mod route;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::FutureExt;
use kafka_protocol::messages::{
    ApiVersionsRequest, FetchRequest, JoinGroupRequest, ProduceRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::Request;
use ottla_protocol::error_code::ErrorCode;
use ottla_protocol::header;

pub use self::answer::{Answer, AnswerRoom, Deferred, DeferredAnswer, FetchAnswer, Reply, Sending};
pub use self::route::Route;
pub use self::table::{find, markdown_table, table};

use self::answer::{Ran, Told};
use self::route::Call;
use crate::Broker;
use crate::handlers::api_versions;
use crate::large::LARGE_BYTES;
use crate::metrics::Elapsed;
use crate::room::Held;

/// A client's address as this broker advertises itself to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The listener's name.
    pub name: String,
    /// The host clients are told.
    pub advertised_host: String,
    /// The port clients are told.
    pub advertised_port: u16,
}

/// Everything a handler knows of the request besides its body. Holds no socket, so that a request can be
/// forwarded to another broker one day.
#[derive(Clone)]
pub struct Ctx {
    /// The broker.
    pub broker: Arc<Broker>,
    /// The request's version.
    pub api_version: i16,
    /// The client's id as text, at most 1 KiB; empty when it gave none.
    pub client_id: Arc<str>,
    /// The listener it came through.
    pub listener: Arc<Listener>,
    /// Where it came from.
    pub peer: SocketAddr,
}

/// What a connection knows of where its requests come from.
#[derive(Clone)]
pub struct Origin {
    /// The broker.
    pub broker: Arc<Broker>,
    /// The listener.
    pub listener: Arc<Listener>,
    /// The peer.
    pub peer: SocketAddr,
}

/// How a frame may run beside others of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A produce: may begin while earlier produces wait for the disk.
    Overlaps,
    /// A fetch: may wait long, and is dropped when the client goes away.
    Parks,
    /// A request that waits for members of its group: as `Alone`, and its bytes are its group's concern.
    Waits,
    /// Anything else: begins when all earlier ones are answered.
    Alone,
}

/// How the frame's request may run; decided from its first bytes.
pub fn order(frame: &[u8]) -> Order {
    match header::peek(frame) {
        Ok((ProduceRequest::KEY, _, _)) => Order::Overlaps,
        Ok((FetchRequest::KEY, _, _)) => Order::Parks,
        Ok((JoinGroupRequest::KEY | SyncGroupRequest::KEY, _, _)) => Order::Waits,
        _ => Order::Alone,
    }
}

/// Runs the request of one frame, which was read whole at `arrived`. Its room, if it is given here, is given back once
/// the frame is decoded.
pub async fn handle(
    origin: Origin,
    (frame, room): (Bytes, Option<Held>),
    arrived: Duration,
) -> Answer {
    let Ok((key, version, correlation_id)) = header::peek(&frame) else {
        return Answer::Now(Reply::Close("short_header"));
    };
    let Some(route) = find(key) else {
        return Answer::Now(Reply::Close("unknown_api"));
    };
    let request_bytes = frame.len();
    if !route.versions.contains(&version) {
        if !route.is::<ApiVersionsRequest>() {
            return Answer::Now(Reply::Close("unsupported_version"));
        }
        let broker = origin.broker;
        let began = broker.env.monotonic();
        let reply = route::encode(&api_versions::unsupported(), correlation_id, 0);
        let told = Told::new(reply, ErrorCode::UnsupportedVersion.code());
        let run = RunTimes::new(&broker, arrived, began);
        return Answer::Now(record(broker, route.key, version, request_bytes, run, told));
    }
    let parsed = header::parse(&frame, (route.request_header_version)(version));
    let Ok((request_header, body)) = parsed else {
        return Answer::Now(Reply::Close("bad_header"));
    };
    drop(frame);
    let client_id = client_text(request_header.client_id.as_deref());
    // It lies in the frame, which must not outlive its last reader.
    drop(request_header);
    let broker = origin.broker.clone();
    tracing::debug!(api = route.name, version, client = %client_id, peer = %origin.peer, "request");
    let began = broker.env.monotonic();
    let ctx = Ctx {
        broker: origin.broker,
        api_version: version,
        client_id,
        listener: origin.listener,
        peer: origin.peer,
    };
    let running = (route.run)(Call {
        ctx,
        correlation_id,
        body,
        room,
    });
    let ran = if request_bytes >= LARGE_BYTES && !route.is::<ProduceRequest>() {
        let ran = broker.large.run(running).await;
        ran.unwrap_or_else(|| Ran::close("shutdown"))
    } else {
        running.await
    };
    let run = RunTimes::new(&broker, arrived, began);
    let key = route.key;
    match ran {
        Ran::Now(told) => Answer::Now(record(broker, key, version, request_bytes, run, told)),
        Ran::Later(later) => {
            let record = move |told| record(broker, key, version, request_bytes, run, told);
            Answer::Later(later.map(record).boxed())
        }
    }
}

/// When a request arrived, when its handler began and when it returned, maybe before the answer was there.
#[derive(Clone, Copy)]
struct RunTimes {
    arrived: Duration,
    began: Duration,
    handled: Duration,
}

impl RunTimes {
    /// The handler has just returned.
    fn new(broker: &Broker, arrived: Duration, began: Duration) -> Self {
        Self {
            arrived,
            began,
            handled: broker.env.monotonic(),
        }
    }
}

/// Counts an answered request. One that ends its connection is counted by its cause instead.
fn record(
    broker: Arc<Broker>,
    key: i16,
    version: i16,
    request_bytes: usize,
    run: RunTimes,
    told: Told,
) -> Reply {
    if matches!(told.reply, Reply::Close(_)) {
        return told.reply;
    }
    let answered = broker.env.monotonic();
    let local = run.handled.saturating_sub(run.began);
    let local = local.saturating_sub(told.waited);
    let elapsed = Elapsed {
        queue: run.began.saturating_sub(run.arrived),
        local,
        remote: answered.saturating_sub(run.began).saturating_sub(local),
    };
    let api = broker.metrics.api(key);
    api.answered(version, told.error_code, request_bytes, &elapsed);
    let sending = Sending {
        broker,
        key,
        arrived: run.arrived,
        answered,
        began: None,
    };
    match told.reply {
        Reply::Frame(pieces) => Reply::Timed(pieces, told.room, Box::new(sending)),
        // There is nothing to send, and dropping it says so.
        other => other,
    }
}

/// The client id for logs and metrics: lossy text of at most 1 KiB.
fn client_text(raw: Option<&[u8]>) -> Arc<str> {
    let raw = raw.unwrap_or_default();
    let shown = &raw[..raw.len().min(1024)];
    String::from_utf8_lossy(shown).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_are_capped_and_always_text() {
        assert_eq!(&*client_text(None), "");
        assert_eq!(&*client_text(Some(b"ab\xff")), "ab\u{fffd}");
        assert!(client_text(Some(&[b'x'; 32_767])).len() == 1024);
    }
}
