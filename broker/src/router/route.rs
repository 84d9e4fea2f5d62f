//! A row of the API table and how its handler is run: decode, call, count, encode, take room for the answer.
//!
//! `table.rs` makes the rows, `router.rs` runs them. Nothing reaches a decoder that the guard has not walked, and a
//! frame is let go of once it is decoded: its request may wait long.

use std::future::Future;
use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request, VersionRange};
use ottla_protocol::error_code::ErrorCode;
use ottla_protocol::{fetch_response, guard, header};

use super::Ctx;
use super::answer::{AnswerRoom, Deferred, DeferredAnswer, FetchAnswer, Ran, Reply, Told};
use crate::Broker;
use crate::error_counts::ErrorCounts;
use crate::room::Held;

/// A request on its way to its handler.
pub(super) struct Call {
    pub(super) ctx: Ctx,
    pub(super) correlation_id: i32,
    pub(super) body: Bytes,
    /// Of the frame, where it is given back together with the body.
    pub(super) room: Option<Held>,
}

/// Answers to produces and heartbeats fit.
const USUAL_ANSWER_BYTES: usize = 128;

type Run = Box<dyn Fn(Call) -> BoxFuture<'static, Ran> + Send + Sync>;

/// A row of the table.
pub struct Route {
    /// The API key.
    pub key: i16,
    /// Its name in Kafka's words.
    pub name: &'static str,
    /// Versions handled.
    pub versions: RangeInclusive<i16>,
    /// The lowest version advertised, where that differs from the lowest handled.
    pub advertised_min: i16,
    /// Why it differs, and what else is special.
    pub note: &'static str,
    pub(super) request_header_version: fn(i16) -> i16,
    pub(super) run: Run,
}

impl Route {
    pub(super) fn advertised_from(mut self, version: i16, note: &'static str) -> Self {
        self.advertised_min = version;
        self.note = note;
        self
    }

    pub(super) fn noted(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    /// Whether it is the row of `Q`.
    pub(super) fn is<Q: Request>(&self) -> bool {
        self.key == Q::KEY
    }
}

/// Fails the build when a row's range is not the codec's: clients choose the newest version that both sides know.
struct AsWide<Q, const MIN: i16, const MAX: i16>(std::marker::PhantomData<Q>);

impl<Q: Request, const MIN: i16, const MAX: i16> AsWide<Q, MIN, MAX> {
    const HOLDS: () = {
        let VersionRange { min, max } = Q::VERSIONS;
        assert!(
            min == MIN && max == MAX,
            "a row's versions are not the codec's range"
        );
    };
}

fn base<Q: Request, const MIN: i16, const MAX: i16>(name: &'static str, run: Run) -> Route {
    let () = AsWide::<Q, MIN, MAX>::HOLDS;
    Route {
        key: Q::KEY,
        name,
        versions: MIN..=MAX,
        advertised_min: MIN,
        note: "",
        request_header_version: Q::header_version,
        run,
    }
}

fn decode<Q: Request>(call: &mut Call) -> Result<Q, &'static str> {
    let version = call.ctx.api_version;
    let trailing = guard::check(Q::KEY, version, &call.body).map_err(|error| error.cause())?;
    if trailing > 0 {
        // Kafka reads past them, so they are only counted.
        call.ctx.broker.metrics.refused("trailing_bytes");
    }
    Q::decode(&mut call.body, version).map_err(|_| "undecodable_request")
}

pub(super) fn encode<R: Encodable + HeaderVersion>(
    response: &R,
    correlation_id: i32,
    version: i16,
) -> Reply {
    let mut frame = BytesMut::with_capacity(USUAL_ANSWER_BYTES);
    frame.extend_from_slice(&[0; 4]);
    header::put_response_header(&mut frame, correlation_id, R::header_version(version));
    if let Err(error) = response.encode(&mut frame, version) {
        tracing::error!(%error, version, response = std::any::type_name::<R>(), "response cannot be encoded");
        return Reply::Close("unencodable_response");
    }
    finish(frame)
}

/// Counts all error codes of a response but the first, which is given back.
fn count_errors(broker: &Broker, key: i16, response: &impl ErrorCounts) -> i16 {
    let mut first = None;
    response.error_codes(&mut |code| match first {
        None => first = Some(code),
        Some(_) => broker.metrics.api(key).error(code, 1),
    });
    first.unwrap_or(ErrorCode::None.code())
}

fn finish(mut frame: BytesMut) -> Reply {
    let Ok(size) = i32::try_from(frame.len() - 4) else {
        return Reply::Close("response_too_large");
    };
    frame[..4].copy_from_slice(&size.to_be_bytes());
    Reply::Frame(vec![frame.freeze()])
}

pub(super) fn route<const MIN: i16, const MAX: i16, Q, H, F>(
    name: &'static str,
    handler: H,
) -> Route
where
    Q: Request + Send + 'static,
    Q::Response: ErrorCounts + Send,
    H: Fn(Ctx, Q) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Q::Response> + Send + 'static,
{
    base::<Q, MIN, MAX>(
        name,
        Box::new(move |mut call| {
            Box::pin(async move {
                let request = match decode::<Q>(&mut call) {
                    Ok(request) => request,
                    Err(cause) => return Ran::close(cause),
                };
                let version = call.ctx.api_version;
                // A request may wait long, and what it needs of the frame it holds itself.
                drop((call.body, call.room));
                let broker = call.ctx.broker.clone();
                let response = handler(call.ctx, request).await;
                let error_code = count_errors(&broker, Q::KEY, &response);
                let reply = encode(&response, call.correlation_id, version);
                drop(response);
                Ran::Now(Told::new(reply, error_code).admitted(&broker, 0).await)
            })
        }),
    )
}

pub(super) fn route_deferred<const MIN: i16, const MAX: i16, Q, H, F>(
    name: &'static str,
    handler: H,
) -> Route
where
    Q: Request + Send + 'static,
    Q::Response: ErrorCounts + Send + 'static,
    H: Fn(Ctx, Q) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Deferred<Q::Response>> + Send + 'static,
{
    base::<Q, MIN, MAX>(
        name,
        Box::new(move |mut call| {
            Box::pin(async move {
                let request = match decode::<Q>(&mut call) {
                    Ok(request) => request,
                    Err(cause) => return Ran::close(cause),
                };
                let version = call.ctx.api_version;
                let correlation_id = call.correlation_id;
                // The frame is no longer needed whole; what the request kept of it stays alive by itself.
                drop((call.body, call.room));
                let broker = call.ctx.broker.clone();
                let deferred = handler(call.ctx, request).await;
                Ran::Later(Box::pin(async move {
                    match deferred.answer.await {
                        DeferredAnswer::Response(response) => {
                            let error_code = count_errors(&broker, Q::KEY, &response);
                            let reply = encode(&response, correlation_id, version);
                            drop(response);
                            Told::new(reply, error_code).admitted(&broker, 0).await
                        }
                        DeferredAnswer::Nothing => Told::new(Reply::Nothing, 0),
                        DeferredAnswer::Close(cause) => Told::new(Reply::Close(cause), 0),
                    }
                }))
            })
        }),
    )
}

pub(super) fn route_fetch<const MIN: i16, const MAX: i16, H, F>(
    name: &'static str,
    handler: H,
) -> Route
where
    H: Fn(Ctx, FetchRequest) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = FetchAnswer> + Send + 'static,
{
    base::<FetchRequest, MIN, MAX>(
        name,
        Box::new(move |mut call| {
            Box::pin(async move {
                let request = match decode::<FetchRequest>(&mut call) {
                    Ok(request) => request,
                    Err(cause) => return Ran::close(cause),
                };
                let version = call.ctx.api_version;
                let correlation_id = call.correlation_id;
                // A fetch may wait long, and the frame may be much larger than what the request kept of it.
                drop((call.body, call.room));
                let broker = call.ctx.broker.clone();
                let answer = handler(call.ctx, request).await;
                let error_code = count_errors(&broker, FetchRequest::KEY, &answer.response);
                let encoded = fetch_response::encode(
                    correlation_id,
                    &answer.response,
                    &answer.records,
                    version,
                );
                let reply = match encoded {
                    Ok(pieces) => Reply::Frame(pieces),
                    Err(error) => {
                        tracing::error!(%error, version, "fetch response cannot be encoded");
                        Reply::Close("unencodable_response")
                    }
                };
                let told = Told {
                    waited: answer.waited,
                    room: AnswerRoom {
                        batches: answer.room,
                        frame: None,
                    },
                    ..Told::new(reply, error_code)
                };
                let batch_bytes = answer.records.iter().flatten().map(Bytes::len).sum();
                drop((answer.response, answer.records));
                Ran::Now(told.admitted(&broker, batch_bytes).await)
            })
        }),
    )
}
