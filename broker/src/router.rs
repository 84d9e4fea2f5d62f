//! THE API TABLE. One row a key: range, handler, marks. From the rows come ApiVersions, the version check,
//! the frame guard's call, decoding and encoding, the metric label, the README table and the wire tests.
//!
//! Called by `connection.rs` with one frame at a time. It never touches a socket, and nothing reaches a
//! decoder that the guard has not walked. A new API is one function in `handlers/` and one row here.

use std::future::Future;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, FetchRequest, JoinGroupRequest, ProduceRequest,
    SyncGroupRequest,
};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request, VersionRange};
use ottla_protocol::error_code::ErrorCode;
use ottla_protocol::{fetch_response, guard, header};

use crate::Broker;
use crate::error_counts::ErrorCounts;
use crate::handlers::{
    acls, configs, fetch, group_offsets, groups, log_dirs, metadata, offsets, produce,
    producer_ids, quotas, topics,
};
use crate::large::LARGE_BYTES;
use crate::metrics::{Elapsed, SendTimes};
use crate::room::{Held, NoRoom};

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

/// What goes back to the client.
#[derive(Debug)]
pub enum Reply {
    /// A whole frame, size included, in pieces.
    Frame(Vec<Bytes>),
    /// The same, of a request whose sending is to be timed, and the room to hold meanwhile.
    Timed(Vec<Bytes>, AnswerRoom, Box<Sending>),
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
    broker: Arc<Broker>,
    key: i16,
    arrived: Duration,
    answered: Duration,
    began: Option<Duration>,
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
    pub records: Vec<Vec<Bytes>>,
    /// How long it waited for data.
    pub waited: Duration,
    /// Room for its batches, until they are sent.
    pub room: Option<Held>,
}

/// A request on its way to its handler.
struct Call {
    ctx: Ctx,
    correlation_id: i32,
    body: Bytes,
    /// Of the frame, where it is given back together with the body.
    room: Option<Held>,
}

/// Answers to produces and heartbeats fit.
const USUAL_ANSWER_BYTES: usize = 128;

/// A reply, with what the metrics are told of it.
struct Told {
    reply: Reply,
    /// The answer's first error code; the others are counted already.
    error_code: i16,
    /// Of the handler's time, what it only waited.
    waited: Duration,
    /// What the answer takes until it is sent.
    room: AnswerRoom,
}

impl Told {
    fn new(reply: Reply, error_code: i16) -> Self {
        Self {
            reply,
            error_code,
            waited: Duration::ZERO,
            room: AnswerRoom::default(),
        }
    }

    /// Of an answer that is encoded but for `batch_bytes` of batches: takes room for the rest, where it is much.
    async fn admitted(self, broker: &Broker, batch_bytes: usize) -> Self {
        let Reply::Frame(pieces) = &self.reply else {
            return self;
        };
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
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
enum Ran {
    Now(Told),
    Later(BoxFuture<'static, Told>),
}

impl Ran {
    fn close(cause: &'static str) -> Self {
        Self::Now(Told::new(Reply::Close(cause), 0))
    }
}

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
    request_header_version: fn(i16) -> i16,
    run: Run,
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

fn encode<R: Encodable + HeaderVersion>(response: &R, correlation_id: i32, version: i16) -> Reply {
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

fn route<const MIN: i16, const MAX: i16, Q, H, F>(name: &'static str, handler: H) -> Route
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

fn route_deferred<const MIN: i16, const MAX: i16, Q, H, F>(name: &'static str, handler: H) -> Route
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

fn route_fetch<const MIN: i16, const MAX: i16, H, F>(name: &'static str, handler: H) -> Route
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

impl Route {
    fn advertised_from(mut self, version: i16, note: &'static str) -> Self {
        self.advertised_min = version;
        self.note = note;
        self
    }

    fn noted(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    /// Whether it is the row of `Q`.
    fn is<Q: Request>(&self) -> bool {
        self.key == Q::KEY
    }
}

macro_rules! row {
    ($route:ident, $min:literal ..= $max:literal, $name:literal, $handler:path) => {
        $route::<$min, $max, _, _>($name, $handler)
    };
    ($min:literal ..= $max:literal, $name:literal, $handler:path) => {
        route::<$min, $max, _, _, _>($name, $handler)
    };
}

const NO_AUTHORIZER: &str = "no authorizer exists: SECURITY_DISABLED";

static TABLE: LazyLock<Vec<Route>> = LazyLock::new(|| {
    vec![
        route_deferred::<3, 13, ProduceRequest, _, _>("Produce", produce::produce).advertised_from(
            0,
            "advertised from 0, or older librdkafka switches compression off (KAFKA-18659); 0-2 close the connection",
        ),
        row!(route_fetch, 4..=18, "Fetch", fetch::fetch),
        row!(1..=10, "ListOffsets", offsets::list_offsets),
        row!(0..=13, "Metadata", metadata::metadata),
        row!(2..=9, "OffsetCommit", group_offsets::offset_commit),
        row!(1..=9, "OffsetFetch", group_offsets::offset_fetch),
        row!(0..=6, "FindCoordinator", groups::find_coordinator),
        row!(0..=9, "JoinGroup", groups::join_group),
        row!(0..=4, "Heartbeat", groups::heartbeat),
        row!(0..=5, "LeaveGroup", groups::leave_group),
        row!(0..=5, "SyncGroup", groups::sync_group),
        row!(0..=6, "DescribeGroups", groups::describe_groups),
        row!(0..=5, "ListGroups", groups::list_groups),
        row!(0..=4, "ApiVersions", api_versions).noted("an unknown version is answered in version 0 with error 35"),
        row!(2..=7, "CreateTopics", topics::create_topics),
        row!(1..=6, "DeleteTopics", topics::delete_topics),
        row!(0..=2, "DeleteRecords", offsets::delete_records),
        row!(0..=5, "InitProducerId", producer_ids::init_producer_id)
            .noted("idempotent producers; a transactional id is refused until transactions exist"),
        row!(2..=4, "OffsetForLeaderEpoch", offsets::offset_for_leader_epoch),
        row!(1..=3, "DescribeAcls", acls::describe_acls).noted(NO_AUTHORIZER),
        row!(1..=3, "CreateAcls", acls::create_acls).noted(NO_AUTHORIZER),
        row!(1..=3, "DeleteAcls", acls::delete_acls).noted(NO_AUTHORIZER),
        row!(1..=4, "DescribeConfigs", configs::describe_configs),
        row!(0..=2, "AlterConfigs", configs::alter_configs),
        row!(1..=4, "DescribeLogDirs", log_dirs::describe_log_dirs),
        row!(0..=3, "CreatePartitions", topics::create_partitions),
        row!(0..=2, "DeleteGroups", groups::delete_groups),
        row!(0..=1, "IncrementalAlterConfigs", configs::incremental_alter_configs),
        row!(0..=0, "ListPartitionReassignments", topics::list_partition_reassignments),
        row!(0..=0, "OffsetDelete", group_offsets::offset_delete),
        row!(0..=1, "DescribeClientQuotas", quotas::describe_client_quotas).noted("there are no quotas"),
        row!(0..=2, "DescribeCluster", metadata::describe_cluster),
        row!(0..=1, "ListConfigResources", configs::list_config_resources),
        row!(0..=0, "DescribeTopicPartitions", metadata::describe_topic_partitions),
    ]
});

/// The rows, by key in rising order.
pub fn table() -> &'static [Route] {
    &TABLE
}

/// The row of an API key.
pub fn find(key: i16) -> Option<&'static Route> {
    table().iter().find(|route| route.key == key)
}

/// The table as Markdown, for the README.
pub fn markdown_table() -> String {
    let mut text = String::from("| key | API | versions | note |\n|--|--|--|--|\n");
    for route in table() {
        let (min, max) = (route.versions.start(), route.versions.end());
        let note = if route.note.is_empty() {
            String::new()
        } else {
            format!(" {}", route.note)
        };
        text.push_str(&format!(
            "| {} | {} | {min}-{max} |{note} |\n",
            route.key, route.name
        ));
    }
    text
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
        let reply = unsupported_api_versions(correlation_id);
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

fn advertised() -> Vec<ApiVersion> {
    table()
        .iter()
        .map(|route| {
            ApiVersion::default()
                .with_api_key(route.key)
                .with_min_version(route.advertised_min)
                .with_max_version(*route.versions.end())
        })
        .collect()
}

/// A version of ApiVersions that is not known is answered in version 0 with error 35 and the list, from
/// which the client picks a lower one (KIP-511).
fn unsupported_api_versions(correlation_id: i32) -> Reply {
    let response = ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(advertised());
    encode(&response, correlation_id, 0)
}

/// ApiVersions 0..=4.
///
/// 1 adds the throttle time; 3 is flexible but keeps response header 0 (KIP-511), brings the client's software
/// name and version, which are checked, and finalized features: none is served, so none is named.
async fn api_versions(ctx: Ctx, request: ApiVersionsRequest) -> ApiVersionsResponse {
    let named = ctx.api_version < 3
        || (is_software_name(&request.client_software_name)
            && is_software_name(&request.client_software_version));
    if !named {
        return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
    }
    ApiVersionsResponse::default().with_api_keys(advertised())
}

/// Letters and digits, with dots and dashes inside (Kafka's `ApiVersionsRequest.isValid`).
fn is_software_name(name: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(word)
        && bytes.last().is_some_and(word)
        && bytes
            .iter()
            .all(|byte| word(byte) || *byte == b'.' || *byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_each_key_has_one() {
        assert!(table().is_sorted_by_key(|route| route.key));
        let mut keys: Vec<_> = table().iter().map(|route| route.key).collect();
        keys.dedup();
        assert_eq!(keys.len(), table().len());
    }

    /// Without one of these some stock client, console tool or dashboard does not work at all.
    #[test]
    fn what_stock_clients_cannot_do_without_is_served() {
        let keys = [
            0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 22, 23, 32, 35, 37, 42, 44,
            46, 60, 75,
        ];
        for key in keys {
            assert!(find(key).is_some(), "key {key}");
        }
    }

    #[test]
    fn software_names() {
        for good in ["a", "librdkafka", "apache-kafka-java", "2.0.2", "v1.0-2"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "a b!", "-a", "a.", "ä"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }

    #[test]
    fn client_ids_are_capped_and_always_text() {
        assert_eq!(&*client_text(None), "");
        assert_eq!(&*client_text(Some(b"ab\xff")), "ab\u{fffd}");
        assert!(client_text(Some(&[b'x'; 32_767])).len() == 1024);
    }
}
