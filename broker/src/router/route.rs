//! A row of the API table and how its handler is run: decode, call, count, encode, take room for the answer.
//!
//! `table.rs` makes the rows, `router.rs` runs them. Nothing reaches a decoder that the guard has not walked, and a
//! frame is let go of once it is decoded: its request may wait long.

use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request, VersionRange};
use ottla_protocol::error_code::ErrorCode;
use ottla_protocol::fetch_response::{self, Segment};
use ottla_protocol::{guard, header};

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

/// What is kept of a call for its answer.
struct Asked {
    broker: Arc<Broker>,
    version: i16,
    correlation_id: i32,
}

impl Asked {
    /// Counts a response's errors and encodes it.
    fn told<Q: Request<Response: ErrorCounts>>(&self, response: Q::Response) -> Told {
        let error_code = count_errors(&self.broker, Q::KEY, &response);
        Told::new(
            encode(&response, self.correlation_id, self.version),
            error_code,
        )
    }
}

/// Walks and decodes, and lets go of the frame. The error is the cause to close the connection with.
fn decode<Q: Request>(mut call: Call) -> Result<(Ctx, Q, Asked), &'static str> {
    let version = call.ctx.api_version;
    let trailing = guard::check(Q::KEY, version, &call.body).map_err(|error| error.cause())?;
    if trailing > 0 {
        // Kafka reads past them, so they are only counted.
        call.ctx.broker.metrics.refused("trailing_bytes");
    }
    let request = Q::decode(&mut call.body, version).map_err(|_| "undecodable_request")?;
    // A request may wait long, and the frame may be much larger than what the request itself holds of it.
    drop((call.body, call.room));
    let asked = Asked {
        broker: call.ctx.broker.clone(),
        version,
        correlation_id: call.correlation_id,
    };
    Ok((call.ctx, request, asked))
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
    Reply::Frame(vec![frame.freeze().into()])
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
        Box::new(move |call| {
            Box::pin(async move {
                let (ctx, request, asked) = match decode::<Q>(call) {
                    Ok(decoded) => decoded,
                    Err(cause) => return Ran::close(cause),
                };
                let response = handler(ctx, request).await;
                let told = asked.told::<Q>(response);
                Ran::Now(told.admitted(&asked.broker, 0).await)
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
        Box::new(move |call| {
            Box::pin(async move {
                let (ctx, request, asked) = match decode::<Q>(call) {
                    Ok(decoded) => decoded,
                    Err(cause) => return Ran::close(cause),
                };
                let deferred = handler(ctx, request).await;
                Ran::Later(Box::pin(async move {
                    match deferred.answer.await {
                        DeferredAnswer::Response(response) => {
                            let told = asked.told::<Q>(response);
                            told.admitted(&asked.broker, 0).await
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
        Box::new(move |call| {
            Box::pin(async move {
                let (ctx, request, asked) = match decode::<FetchRequest>(call) {
                    Ok(decoded) => decoded,
                    Err(cause) => return Ran::close(cause),
                };
                let answer = handler(ctx, request).await;
                let error_code = count_errors(&asked.broker, FetchRequest::KEY, &answer.response);
                let encoded = fetch_response::encode(
                    asked.correlation_id,
                    &answer.response,
                    &answer.records,
                    asked.version,
                );
                let reply = match encoded {
                    Ok(pieces) => Reply::Frame(pieces),
                    Err(error) => {
                        tracing::error!(%error, version = asked.version, "fetch response cannot be encoded");
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
                let batch_bytes = answer.records.iter().flatten().map(Segment::size).sum();
                drop((answer.response, answer.records));
                Ran::Now(told.admitted(&asked.broker, batch_bytes).await)
            })
        }),
    )
}
