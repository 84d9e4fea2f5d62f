//! Fetch: read what is there, wait if it is not enough, read again once it may be.
//!
//! Versions 4..=18. 5 adds the log start offset, 7 sessions (KIP-227), 9 the leader epoch, 11 the rack and a
//! preferred replica (always none: there is one), 12 is flexible and brings the last fetched epoch (KIP-595),
//! 13 names topics by id, 15 moves the replica id into a tagged field, 16 adds node endpoints (none), 17 and 18
//! concern followers.
//!
//! Size rules (KIP-74): whole batches only; the first batch of the first partition that has one is given even if
//! it is larger than every limit; negative sizes mean no data. Reading, and the room for it, is `fetch/read.rs`; what a
//! fetch waits for, `fetch/missing.rs`.

mod missing;
mod read;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{EpochEndOffset, FetchableTopicResponse};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_protocol::error_code::ErrorCode;
use ottla_storage::log::{Partition, ReadLimit};
use ottla_storage::waiters::Watch;

use self::missing::{Missing, states};
use self::read::{Outcome, read_all, refused};
use super::fetch_session::{Asked, Plan, TopicKey, Wanted};
use crate::error::storage_error;
use crate::metrics::TopicMetrics;
use crate::partitions::LocalTopic;
use crate::router::{Ctx, FetchAnswer};

/// One partition of one fetch, looked up.
struct Target {
    wanted: Wanted,
    found: Result<(Arc<LocalTopic>, Arc<Partition>), ErrorCode>,
}

/// Handles Fetch.
pub async fn fetch(ctx: Ctx, request: FetchRequest) -> FetchAnswer {
    let limit = match request.isolation_level {
        0 => ReadLimit::HighWatermark,
        1 => ReadLimit::Stable,
        _ => return refuse_all(&ctx, &request, ErrorCode::InvalidRequest),
    };
    let from_replica = if ctx.api_version >= 15 {
        request.replica_state.replica_id.0 >= 0
    } else {
        request.replica_id.0 >= 0
    };
    let max_bytes = usize::try_from(request.max_bytes)
        .ok()
        .map(|max_bytes| max_bytes.min(ctx.broker.config.fetch_max_bytes));
    let min_bytes = usize::try_from(request.min_bytes)
        .unwrap_or(0)
        .min(max_bytes.unwrap_or(0));
    // Kafka closes a connection that waits longer than it may idle; an answer without data costs the client less.
    let longest_wait = ctx.broker.config.connections_max_idle_ms;
    let max_wait = u64::try_from(request.max_wait_ms).unwrap_or(0);
    let max_wait = Duration::from_millis(max_wait.min(longest_wait.unwrap_or(u64::MAX)));
    let asked = understand(&ctx, request);
    let env = ctx.broker.env;
    let planned = ctx
        .broker
        .fetch_sessions
        .plan(asked, env.monotonic().as_millis(), || env.random_u64());
    let plan = match planned {
        Ok(plan) => plan,
        Err(code) => return failed(code),
    };
    let deadline = env.monotonic() + max_wait;
    let mut waited = Duration::ZERO;
    let readings = loop {
        let targets = look_up(&ctx, &plan.partitions, from_replica);
        let ready = targets.is_empty() || targets.iter().any(|target| target.found.is_err());
        // Watched before they are read, so that nothing can slip in between.
        let mut watch = watch_all(&targets, limit);
        // Any news is enough for most fetches: only others have to know how much there is.
        let before = (min_bytes > 1).then(|| states(&targets, limit));
        let left = deadline.saturating_sub(env.monotonic());
        let (targets, readings) =
            read_all(&ctx, targets, limit, (min_bytes, max_bytes), left).await;
        let outcomes = &readings.outcomes;
        let bytes: usize = outcomes.iter().map(|outcome| outcome.bytes).sum();
        let news = outcomes.iter().any(Outcome::is_news);
        let now = env.monotonic();
        let enough = bytes >= min_bytes || (readings.limited && bytes > 0);
        if ready || news || enough || (now >= deadline && !readings.look) {
            break readings;
        }
        let mut missing = before.map(|before| Missing::new(&targets, before, outcomes, min_bytes));
        // Nothing is kept while it waits: once there may be enough, or the time is over, all is read anew.
        drop(readings);
        loop {
            let left = deadline.saturating_sub(env.monotonic());
            if tokio::time::timeout(left, watch.fired()).await.is_err() {
                break;
            }
            watch = watch_all(&targets, limit);
            if missing
                .as_mut()
                .is_none_or(|missing| missing.may_be_there(&states(&targets, limit)))
            {
                break;
            }
        }
        waited += env.monotonic().saturating_sub(now);
    };
    FetchAnswer {
        waited,
        room: readings.room,
        ..answer(&ctx, &plan, readings.outcomes)
    }
}

/// A watch over all partitions that were found, for anything beyond what is readable now.
fn watch_all(targets: &[Target], limit: ReadLimit) -> Watch {
    let mut watch = Watch::new();
    for target in targets {
        if let Ok((_, partition)) = &target.found {
            let beyond = limit.end(&partition.offsets()).max(target.wanted.offset);
            watch.add(partition, limit, beyond);
        }
    }
    watch
}

fn failed(code: ErrorCode) -> FetchAnswer {
    FetchAnswer {
        response: FetchResponse::default().with_error_code(code.code()),
        records: Vec::new(),
        waited: Duration::ZERO,
        room: None,
    }
}

/// An error of the whole request, which clients before version 13 look for at each partition (Kafka's
/// `FetchRequest.getErrorResponse`).
fn refuse_all(ctx: &Ctx, request: &FetchRequest, code: ErrorCode) -> FetchAnswer {
    let mut answer = failed(code);
    if ctx.api_version >= 13 {
        return answer;
    }
    for topic in &request.topics {
        let indexes = topic.partitions.iter().map(|asked| asked.partition);
        let refused: Vec<_> = indexes.map(|index| refused(index, code).data).collect();
        answer
            .records
            .extend(std::iter::repeat_n(Vec::new(), refused.len()));
        let topic = FetchableTopicResponse::default()
            .with_topic(topic.topic.clone())
            .with_partitions(refused);
        answer.response.responses.push(topic);
    }
    answer
}

fn understand(ctx: &Ctx, request: FetchRequest) -> Asked {
    let by_id = ctx.api_version >= 13;
    let key = |name: StrBytes, id| {
        if by_id {
            TopicKey::Id(id)
        } else {
            // A copy: the name lies in the request's frame, which a session would keep for as long as it lives.
            TopicKey::Name(StrBytes::from_string(name.to_string()))
        }
    };
    let mut partitions = Vec::new();
    for topic in request.topics {
        let key = key(topic.topic.0, topic.topic_id);
        for partition in topic.partitions {
            partitions.push(wanted(key.clone(), &partition));
        }
    }
    let partitions = once_each(partitions);
    let forgotten = request
        .forgotten_topics_data
        .into_iter()
        .flat_map(|topic| {
            let key = key(topic.topic.0, topic.topic_id);
            topic
                .partitions
                .into_iter()
                .map(move |partition| (key.clone(), partition))
        })
        .collect();
    let (id, epoch) = if ctx.api_version >= 7 {
        (request.session_id, request.session_epoch)
    } else {
        (0, -1)
    };
    Asked {
        id,
        epoch,
        by_id,
        partitions,
        forgotten,
    }
}

/// A partition that is named again counts once, with what was said last (Kafka's `FetchRequest.fetchData`).
fn once_each(partitions: Vec<Wanted>) -> Vec<Wanted> {
    let mut topics: HashMap<TopicKey, usize> = HashMap::new();
    let mut places = HashMap::with_capacity(partitions.len());
    let mut once: Vec<Wanted> = Vec::with_capacity(partitions.len());
    let mut last: Option<(TopicKey, usize)> = None;
    for wanted in partitions {
        // A number for the topic: its name is looked for once, not for each of its partitions.
        let topic = match &last {
            Some((key, number)) if *key == wanted.topic => *number,
            _ => {
                let next = topics.len();
                let number = *topics.entry(wanted.topic.clone()).or_insert(next);
                last = Some((wanted.topic.clone(), number));
                number
            }
        };
        match places.entry((topic, wanted.partition)) {
            Entry::Occupied(place) => once[*place.get()] = wanted,
            Entry::Vacant(place) => {
                place.insert(once.len());
                once.push(wanted);
            }
        }
    }
    once
}

fn wanted(topic: TopicKey, partition: &FetchPartition) -> Wanted {
    Wanted {
        topic,
        partition: partition.partition,
        offset: partition.fetch_offset,
        max_bytes: partition.partition_max_bytes,
        current_leader_epoch: partition.current_leader_epoch,
        last_fetched_epoch: partition.last_fetched_epoch,
        told_high_watermark: None,
        told_log_start: -1,
    }
}

/// Topics by key, where many partitions of one topic follow each other: each topic is looked up once in a row.
struct Topics<'a, T> {
    look_up: &'a dyn Fn(&TopicKey) -> Option<T>,
    last: Option<(TopicKey, Option<T>)>,
}

impl<'a, T> Topics<'a, T> {
    fn new(look_up: &'a dyn Fn(&TopicKey) -> Option<T>) -> Self {
        Self {
            look_up,
            last: None,
        }
    }

    fn find(&mut self, key: &TopicKey) -> Option<&T> {
        if self.last.as_ref().is_none_or(|(last, _)| last != key) {
            self.last = Some((key.clone(), (self.look_up)(key)));
        }
        self.last.as_ref()?.1.as_ref()
    }
}

fn local_topic(ctx: &Ctx, key: &TopicKey) -> Option<Arc<LocalTopic>> {
    match key {
        TopicKey::Name(name) => ctx.broker.partitions.by_name(name),
        TopicKey::Id(id) => ctx.broker.partitions.by_id(id),
    }
}

fn look_up(ctx: &Ctx, partitions: &[Wanted], from_replica: bool) -> Vec<Target> {
    let by_key = |key: &TopicKey| local_topic(ctx, key);
    let mut topics = Topics::new(&by_key);
    partitions
        .iter()
        .map(|wanted| {
            let unknown = match &wanted.topic {
                TopicKey::Name(_) => ErrorCode::UnknownTopicOrPartition,
                TopicKey::Id(_) => ErrorCode::UnknownTopicId,
            };
            let local = topics.find(&wanted.topic).cloned();
            let found = local.ok_or(unknown).and_then(|local| {
                let partition = local.partition(wanted.partition).cloned();
                let partition = partition.ok_or(ErrorCode::UnknownTopicOrPartition)?;
                if from_replica {
                    // No other broker has a replica here until there is a cluster.
                    return Err(ErrorCode::NotLeaderOrFollower);
                }
                partition
                    .check_epoch(wanted.current_leader_epoch)
                    .map_err(|error| storage_error(&error))?;
                Ok((local, partition))
            });
            Target {
                wanted: wanted.clone(),
                found,
            }
        })
        .collect()
}

/// Puts the answer together; an incremental one leaves out partitions without news.
fn answer(ctx: &Ctx, plan: &Plan, outcomes: Vec<Outcome>) -> FetchAnswer {
    let mut topics: Vec<FetchableTopicResponse> = Vec::new();
    let mut last: Option<&TopicKey> = None;
    let mut records = Vec::new();
    let mut told = Vec::new();
    let counted = |key: &TopicKey| {
        let local = local_topic(ctx, key)?;
        Some((ctx.broker.metrics.topic(&local.name), local))
    };
    let mut counted = Topics::new(&counted);
    for (wanted, mut outcome) in plan.partitions.iter().zip(outcomes) {
        outcome.data.partition_index = wanted.partition;
        if let Some((metrics, local)) = counted.find(&wanted.topic) {
            count(ctx, metrics, local, wanted, &outcome);
        }
        let data = &outcome.data;
        let news = outcome.bytes > 0
            || data.error_code != 0
            || data.diverging_epoch.epoch >= 0
            || wanted.told_high_watermark != Some(data.high_watermark)
            || wanted.told_log_start != data.log_start_offset;
        if plan.incremental && !news {
            continue;
        }
        // An error tells a high watermark of -1, so that its end is news.
        if plan.session_id != 0 {
            told.push((
                wanted.topic.clone(),
                wanted.partition,
                data.high_watermark,
                data.log_start_offset,
                outcome.bytes > 0,
            ));
        }
        if last != Some(&wanted.topic) {
            last = Some(&wanted.topic);
            let mut topic = FetchableTopicResponse::default();
            match &wanted.topic {
                TopicKey::Name(name) => topic.topic = name.clone().into(),
                TopicKey::Id(id) => topic.topic_id = *id,
            }
            topics.push(topic);
        }
        let mut data = outcome.data;
        if ctx.api_version < 5 {
            data.log_start_offset = -1;
        }
        if ctx.api_version < 12 {
            data.diverging_epoch = EpochEndOffset::default();
        }
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(data);
            records.push(outcome.records);
        }
    }
    ctx.broker.fetch_sessions.told(plan.session_id, &told);
    FetchAnswer {
        response: FetchResponse::default()
            .with_session_id(plan.session_id)
            .with_responses(topics),
        records,
        waited: Duration::ZERO,
        room: None,
    }
}

fn count(
    ctx: &Ctx,
    metrics: &TopicMetrics,
    local: &LocalTopic,
    wanted: &Wanted,
    outcome: &Outcome,
) {
    metrics.fetch_request();
    if let Some(error) = &outcome.failure {
        metrics.fetch_failed();
        let log = &ctx.broker.log_lines;
        if let Some(more) = log.admit("fetch_failed", ctx.broker.env.now_ms()) {
            let (topic, partition) = (&*local.name, wanted.partition);
            tracing::error!(%error, topic, partition, more, "fetch failed");
        }
    } else if outcome.bytes > 0 {
        metrics.fetched(outcome.bytes as u64);
    }
}
