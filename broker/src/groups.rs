//! The group coordinator's place in the broker: one shard, with its machine and its task, for every partition of
//! `__consumer_offsets` that this broker leads. Handlers ask it by group id; it decides nothing about groups.
//!
//! The topic is made when the first client looks for a coordinator, as in Kafka. Invariants: a group always
//! belongs to the same shard, since the number of partitions is fixed with the topic; a shard whose log cannot be
//! read answers nothing, while the others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use ottla_coordinator::group::{Command, GroupConfig, GroupMachine, GroupSummary, Reply};
use ottla_coordinator::group_record::{GroupRecord, GroupRecordError};
use ottla_coordinator::machine::Machine;
use ottla_coordinator::metadata::Image;
use ottla_protocol::error_code::ErrorCode;
use ottla_storage::engine::Family;
use ottla_storage::error::StorageError;
use ottla_storage::keyed::{Change, View};
use ottla_storage::log::Log;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::driver::{self, Handle, Shard, ShardLog};
use crate::env::Env;
use crate::error::coordinator_error;
use crate::metadata_log::MetadataLog;
use crate::partitions::Partitions;

/// The topic of groups and committed offsets.
pub const TOPIC: &str = "__consumer_offsets";

/// Where its records are kept for a quick load.
const FAMILIES: &[Family] = &[Family::Offsets, Family::Groups];

/// Changed keys that wait before they are written to the view; what a stop takes is read from the log again.
const PENDING_KEYS: usize = if cfg!(test) { 8 } else { 1024 };
const PENDING_BYTES: usize = 256 << 10;

/// What the topic is made with, as Kafka's `KafkaApis` makes it.
pub fn topic_configs() -> BTreeMap<String, String> {
    let configs = [
        ("cleanup.policy", "compact"),
        ("compression.type", "producer"),
        ("segment.bytes", "104857600"),
    ];
    configs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// What shards are made of.
pub struct Parts {
    /// All partition logs.
    pub log: Log,
    /// Partitions by topic.
    pub partitions: Arc<Partitions>,
    /// Limits and times of groups; `max_groups` is of all shards together.
    pub config: GroupConfig,
    /// Time and chance.
    pub env: Env,
    /// The data directory's id.
    pub directory_id: Uuid,
}

/// All shards of this broker.
pub struct Groups {
    parts: Parts,
    current: RwLock<Option<Arc<Shards>>>,
    /// Held while shards are started or stopped.
    changing: tokio::sync::Mutex<()>,
    stop: CancellationToken,
}

struct Shards {
    topic_id: Uuid,
    /// By partition; none where the partition could not be loaded.
    handles: Vec<Option<Handle<GroupShard>>>,
    views: Vec<View>,
    stop: CancellationToken,
}

impl Groups {
    /// A coordinator without shards. Its shards end with `stop`, and requests that wait in them are answered then.
    pub fn new(parts: Parts, stop: CancellationToken) -> Self {
        Self {
            parts,
            current: RwLock::new(None),
            changing: tokio::sync::Mutex::new(()),
            stop,
        }
    }

    fn current(&self) -> Option<Arc<Shards>> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn replace(&self, shards: Option<Arc<Shards>>) -> Option<Arc<Shards>> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, shards)
    }

    /// Whether the shards stand ready.
    pub fn are_loaded(&self) -> bool {
        self.current().is_some()
    }

    /// Asks the shard of a group.
    ///
    /// # Errors
    /// There is no such shard (yet), its records cannot be stored, or the broker shuts down. A refusal by the
    /// group is a `Reply`.
    pub async fn ask(&self, group: &str, command: Command) -> Result<Reply, ErrorCode> {
        let shards = self.current().ok_or(ErrorCode::NotCoordinator)?;
        let index = partition_of(group, shards.handles.len());
        let shard = shards.handles[index]
            .as_ref()
            .ok_or(ErrorCode::CoordinatorNotAvailable)?;
        shard.ask(command).await.map_err(coordinator_error)
    }

    /// Asks every shard; in the order of the partitions.
    pub async fn ask_all(&self, command: impl Fn() -> Command) -> Vec<Result<Reply, ErrorCode>> {
        let Some(shards) = self.current() else {
            return Vec::new();
        };
        let asked = shards.handles.iter().map(|shard| {
            let command = command();
            async move {
                match shard {
                    Some(shard) => shard.ask(command).await.map_err(coordinator_error),
                    None => Err(ErrorCode::CoordinatorNotAvailable),
                }
            }
        });
        futures_util::future::join_all(asked).await
    }

    /// Every shard's groups for metrics, in the order of the partitions; `None` for a shard that does not answer
    /// `within` that time.
    pub async fn summaries(
        &self,
        offsets: bool,
        within: Duration,
    ) -> Vec<Option<Vec<GroupSummary>>> {
        let Some(shards) = self.current() else {
            return Vec::new();
        };
        let deadline = tokio::time::Instant::now() + within;
        let asked = shards.handles.iter().map(|shard| async move {
            let Some(shard) = shard else {
                return Some(Vec::new());
            };
            let answer = shard.ask(Command::Summary { offsets });
            match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(Reply::Summary(groups))) => Some(groups),
                _ => None,
            }
        });
        futures_util::future::join_all(asked).await
    }

    /// Brings the shards in line with the newest image: loads them when the topic is there, ends them when it is
    /// gone. Answers the tasks of new shards, which the caller looks after.
    pub async fn reconcile(&self, metadata: &MetadataLog) -> Vec<JoinHandle<()>> {
        let _changing = self.changing.lock().await;
        let image = metadata.image();
        let topic = image.topic(TOPIC);
        let current = self.current();
        if current.as_ref().map(|shards| shards.topic_id) == topic.map(|topic| topic.id) {
            return Vec::new();
        }
        if let Some(old) = self.replace(None) {
            old.stop.cancel();
            for view in &old.views {
                if let Err(error) = view.clear() {
                    tracing::error!(%error, "a view of a deleted topic is left behind");
                }
            }
        }
        let Some(local) = topic.and_then(|topic| self.parts.partitions.by_id(&topic.id)) else {
            return Vec::new();
        };
        let began = self.parts.env.monotonic();
        let stop = self.stop.child_token();
        let mut shards = Shards {
            topic_id: local.id,
            handles: Vec::new(),
            views: Vec::new(),
            stop: stop.clone(),
        };
        let mut tasks = Vec::new();
        let count = local.partitions.len();
        for (index, partition) in local.partitions.iter().enumerate() {
            let parts = &self.parts;
            let view = parts.log.view(partition, parts.directory_id, FAMILIES);
            shards.views.push(view.clone());
            let config = GroupConfig {
                max_groups: parts.config.max_groups.div_ceil(count),
                ..parts.config.clone()
            };
            let log = ShardLog {
                log: parts.log.clone(),
                partition: partition.clone(),
            };
            let shard = GroupShard::new(config, view);
            match driver::start(shard, log, parts.env, stop.clone()).await {
                Ok((handle, task)) => {
                    shards.handles.push(Some(handle));
                    tasks.push(task);
                }
                Err(error) => {
                    tracing::error!(%error, topic = TOPIC, partition = index, "groups cannot be loaded");
                    shards.handles.push(None);
                }
            }
        }
        let took = self.parts.env.monotonic().saturating_sub(began);
        tracing::info!(shards = count, took = ?took, "groups loaded");
        self.replace(Some(Arc::new(shards)));
        tasks
    }

    /// Follows the committed images until `stop`: offsets of deleted topics go, and shards of a deleted
    /// `__consumer_offsets` end. New shards' tasks are handed to `started`.
    pub async fn follow(
        self: Arc<Self>,
        metadata: MetadataLog,
        started: impl Fn(Vec<JoinHandle<()>>),
    ) {
        let mut images = metadata.committed();
        // Deletions that a stop kept from being heard of.
        let mut known = topics(&metadata.image());
        let names: BTreeSet<String> = known.values().map(ToString::to_string).collect();
        self.tell_all(|| Command::TopicsKept {
            topics: names.clone(),
        })
        .await;
        loop {
            let image = tokio::select! {
                () = self.stop.cancelled() => return,
                image = images.recv() => match image {
                    Ok(image) => image,
                    Err(RecvError::Lagged(_)) => metadata.image(),
                    Err(RecvError::Closed) => return,
                },
            };
            started(self.reconcile(&metadata).await);
            let now = topics(&image);
            let gone: Vec<String> = known
                .iter()
                .filter(|(id, _)| !now.contains_key(*id))
                .map(|(_, name)| name.to_string())
                .collect();
            known = now;
            if !gone.is_empty() {
                self.tell_all(|| Command::TopicsDeleted {
                    topics: gone.clone(),
                })
                .await;
            }
        }
    }

    async fn tell_all(&self, command: impl Fn() -> Command) {
        for outcome in self.ask_all(command).await {
            if let Err(code) = outcome {
                tracing::debug!(code = code.name(), "a shard did not hear of deleted topics");
            }
        }
    }
}

fn topics(image: &Image) -> BTreeMap<Uuid, Arc<str>> {
    let topics = image.topics.values();
    topics.map(|topic| (topic.id, topic.name.clone())).collect()
}

/// The partition of `__consumer_offsets` that a group belongs to: Java's hash of the text, without its sign
/// (Kafka's `GroupCoordinatorService.partitionFor`).
pub fn partition_of(group: &str, partitions: usize) -> usize {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    (hash & i32::MAX) as usize % partitions.max(1)
}

/// One shard's machine with its records and its view.
pub struct GroupShard {
    config: GroupConfig,
    view: View,
    pending: BTreeMap<(Family, Vec<u8>), Option<Bytes>>,
    pending_bytes: usize,
    /// The last write of the view failed.
    failing: bool,
    /// Everything below it is in the view or in `pending`.
    next: i64,
}

impl GroupShard {
    fn new(config: GroupConfig, view: View) -> Self {
        Self {
            config,
            view,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            failing: false,
            next: 0,
        }
    }

    fn keep(&mut self, record: &GroupRecord, next: i64) {
        let family = match record {
            GroupRecord::OffsetCommit { .. } => Family::Offsets,
            GroupRecord::GroupMetadata { .. } => Family::Groups,
        };
        let (key, value) = record.encode();
        self.pending_bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.pending.insert((family, key), value.map(Bytes::from));
        self.next = next;
    }

    fn write_if_many(&mut self) {
        if self.pending.len() >= PENDING_KEYS || self.pending_bytes >= PENDING_BYTES {
            self.write();
        }
    }

    fn write(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let changes = self.pending.iter().map(|((family, key), value)| Change {
            family: *family,
            key: key.clone(),
            value: value.clone(),
        });
        let written = self.view.apply(changes, self.next);
        let first_failure = !std::mem::replace(&mut self.failing, written.is_err());
        match written {
            Ok(()) => {
                self.pending.clear();
                self.pending_bytes = 0;
            }
            // The changes are kept: a view that missed them must not say that it is further. The log has them too.
            Err(error) if first_failure => {
                tracing::error!(%error, "a view of groups cannot be written");
            }
            Err(_) => {}
        }
    }
}

impl Shard for GroupShard {
    type Machine = GroupMachine;

    fn empty(&self) -> GroupMachine {
        GroupMachine::new(self.config.clone())
    }

    fn encode(record: &GroupRecord) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let (key, value) = record.encode();
        (Some(key), value)
    }

    /// A record of a kind that is not known, or damaged in itself, is passed over as in Kafka: one bad record
    /// must not take all groups of its shard away.
    fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Option<GroupRecord>, String> {
        match GroupRecord::decode(key, value) {
            Ok(record) => Ok(Some(record)),
            Err(GroupRecordError::UnknownKeyType(kind)) => {
                tracing::debug!(kind, "a record of {TOPIC} of another kind is passed over");
                Ok(None)
            }
            Err(error) => {
                tracing::error!(%error, "a damaged record of {TOPIC} is passed over");
                Ok(None)
            }
        }
    }

    fn restore(
        &mut self,
        end: i64,
        each: &mut dyn FnMut(GroupRecord),
    ) -> Result<i64, StorageError> {
        self.view.load(end, &mut |key, value| {
            if let Ok(Some(record)) = Self::decode(Some(key), Some(value)) {
                each(record);
            }
        })
    }

    fn replayed(&mut self, record: GroupRecord, next: i64) -> Result<(), StorageError> {
        if next != self.next {
            // Only between batches: the view tells of whole ones.
            self.write_if_many();
        }
        self.keep(&record, next);
        Ok(())
    }

    async fn committed(
        &mut self,
        records: Vec<GroupRecord>,
        _effects: Vec<<GroupMachine as Machine>::Effect>,
        next: i64,
    ) -> Result<(), StorageError> {
        for record in &records {
            self.keep(record, next);
        }
        self.write_if_many();
        Ok(())
    }

    fn stopped(&mut self) {
        self.write();
    }
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod shard_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_fall_on_the_partitions_that_kafka_gives_them() {
        // As `Utils.abs(groupId.hashCode()) % 50` says.
        for (group, partition) in [("", 0), ("a", 47), ("ab", 5)] {
            assert_eq!(partition_of(group, 50), partition, "{group}");
        }
        // "polygenelubricants".hashCode() is the least int, which has no positive counterpart.
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        // Beyond the basic plane Java counts two units.
        assert_eq!(
            partition_of("\u{1F600}", 1 << 31),
            (0xD83Dusize * 31 + 0xDE00) & 0x7fff_ffff
        );
    }
}
