//! The metadata log of this broker: the one way to change topics, configurations and ids, and the place where
//! the committed image is published. On one node the metadata machine runs here over the local metadata
//! partition; with a cluster another implementation of the same three calls takes its place.
//!
//! Invariant: the published image holds committed records only, and every partition in it has its log by the
//! time the image is seen.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use ottla_coordinator::machine::Machine;
use ottla_coordinator::metadata::{Command, Image, MetadataMachine, Reply, topic_name};
use ottla_coordinator::record::{ConfigResource, MetadataRecord};
use ottla_protocol::error_code::ErrorCode;
use ottla_storage::error::StorageError;
use ottla_storage::keys::PartitionId;
use ottla_storage::log::Log;
use ottla_storage::partition::LogConfig;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{Config, DynamicConfig, LiveConfig};
use crate::driver::{self, Handle, Shard, ShardLog};
use crate::env::Env;
use crate::metrics::Metrics;
use crate::partitions::{LocalTopic, Partitions};
use crate::topic_config::{MessageTimestampType, TopicConfig};

/// Committed images that a slow listener may lag behind before it has to take the newest one.
const STREAM_IMAGES: usize = 64;

/// `propose`, `image` (the snapshot) and `committed` (the stream).
#[derive(Clone)]
pub struct MetadataLog {
    handle: Handle<MetadataShard>,
    image: Arc<RwLock<Arc<Image>>>,
    committed: broadcast::Sender<Arc<Image>>,
}

impl MetadataLog {
    /// The committed image.
    pub fn image(&self) -> Arc<Image> {
        self.image
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Asks for a change; answered once it is durable and applied.
    ///
    /// # Errors
    /// Storage trouble, or the broker shuts down. A refusal is a `Reply::Failed`.
    pub async fn propose(&self, command: Command) -> Result<Reply, ErrorCode> {
        self.handle.ask(command).await
    }

    /// Every committed image from now on.
    pub fn committed(&self) -> broadcast::Receiver<Arc<Image>> {
        self.committed.subscribe()
    }
}

/// The metadata machine's place in the broker.
pub struct MetadataShard {
    committed_image: Image,
    published: Arc<RwLock<Arc<Image>>>,
    stream: broadcast::Sender<Arc<Image>>,
    log: Log,
    partitions: Arc<Partitions>,
    config: Arc<Config>,
    live: Arc<LiveConfig>,
    metrics: Metrics,
    node_id: i32,
    open: bool,
}

/// Loads the metadata partition and starts its machine. Partitions are registered by `MetadataShard` as
/// records commit; those of the loaded image when the first command commits, which is the broker's
/// registration.
///
/// # Errors
/// The metadata partition cannot be read.
pub async fn start(
    log: Log,
    partitions: Arc<Partitions>,
    (config, live): (Arc<Config>, Arc<LiveConfig>),
    metrics: Metrics,
    node_id: i32,
    env: Env,
    stop: CancellationToken,
) -> Result<(MetadataLog, JoinHandle<()>), StorageError> {
    let partition = log
        .partition(PartitionId::METADATA)
        .ok_or(StorageError::NoSuchPartition)?;
    let image = Arc::new(RwLock::new(Arc::new(Image::default())));
    let (committed, _) = broadcast::channel(STREAM_IMAGES);
    let shard = MetadataShard {
        committed_image: Image::default(),
        published: image.clone(),
        stream: committed.clone(),
        log: log.clone(),
        partitions,
        config,
        live,
        metrics,
        node_id,
        open: false,
    };
    let (handle, task) = driver::start(shard, ShardLog { log, partition }, env, stop).await?;
    let metadata = MetadataLog {
        handle,
        image,
        committed,
    };
    Ok((metadata, task))
}

impl Shard for MetadataShard {
    type Machine = MetadataMachine;

    fn empty(&self) -> MetadataMachine {
        MetadataMachine::new(Image::default())
    }

    fn encode(record: &MetadataRecord) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        (None, Some(record.encode()))
    }

    fn decode(_: Option<&[u8]>, value: Option<&[u8]>) -> Result<Option<MetadataRecord>, String> {
        let value = value.ok_or("a metadata record has no value")?;
        let record = MetadataRecord::decode(value);
        record
            .map(Some)
            .map_err(|error| format!("metadata record: {error}"))
    }

    fn replayed(&mut self, record: MetadataRecord, _next: i64) -> Result<(), StorageError> {
        self.apply(&record)
    }

    fn loaded(&mut self) {
        self.reconfigure();
    }

    async fn committed(
        &mut self,
        records: Vec<MetadataRecord>,
        _effects: Vec<<MetadataMachine as Machine>::Effect>,
        _next: i64,
    ) -> Result<(), StorageError> {
        let mut touched = BTreeSet::new();
        let mut all = false;
        let mut broker_configs = false;
        for record in &records {
            match record {
                MetadataRecord::Topic { topic_id, .. }
                | MetadataRecord::Partition { topic_id, .. }
                | MetadataRecord::PartitionChange { topic_id, .. }
                | MetadataRecord::RemoveTopic { topic_id } => {
                    touched.insert(*topic_id);
                }
                MetadataRecord::Config {
                    resource: ConfigResource::Topic(name),
                    ..
                } => touched.extend(self.committed_image.names.get(name.as_str())),
                MetadataRecord::RegisterBroker { .. } => all = true,
                MetadataRecord::Config {
                    resource: ConfigResource::Broker(_),
                    ..
                } => broker_configs = true,
                MetadataRecord::Config { .. }
                | MetadataRecord::ProducerIds { .. }
                | MetadataRecord::FeatureLevel { .. } => {}
            }
            self.apply(record)?;
            if let MetadataRecord::Config {
                resource: ConfigResource::Topic(name),
                ..
            } = record
            {
                touched.extend(self.committed_image.names.get(name.as_str()));
            }
        }
        if broker_configs {
            // Before the image is published, so that who sees the change in it finds it in force.
            self.reconfigure();
            self.refresh_topics();
        }
        if all && !self.open {
            self.open().await?;
        } else if self.open {
            if all {
                touched.extend(self.committed_image.topics.keys());
            }
            self.register(touched).await?;
        }
        Ok(())
    }
}

impl MetadataShard {
    fn apply(&mut self, record: &MetadataRecord) -> Result<(), StorageError> {
        self.committed_image
            .apply(record)
            .map_err(|error| StorageError::InvalidBatch(error.to_string()))
    }

    /// Puts in force what the image says of this broker and of all brokers.
    fn reconfigure(&mut self) {
        let dynamic = DynamicConfig::of_image(&self.config, &self.committed_image);
        self.live.replace(Arc::new(dynamic));
    }

    /// The defaults of topics are others now: every topic's config is resolved anew.
    fn refresh_topics(&self) {
        let live = self.live.current();
        for topic in self.partitions.all() {
            let overrides = self.committed_image.topic_configs(&topic.name);
            let config = TopicConfig::resolve(&overrides, &live);
            if config == *topic.config {
                continue;
            }
            for log in &topic.partitions {
                log.set_config(log_config(&topic.name, &config));
            }
            self.partitions.put(LocalTopic {
                id: topic.id,
                name: topic.name.clone(),
                partitions: topic.partitions.clone(),
                config: Arc::new(config),
            });
        }
    }

    /// The broker is registered: everything in the image gets its log, everything else goes.
    async fn open(&mut self) -> Result<(), StorageError> {
        self.open = true;
        let stray: Vec<_> = self
            .log
            .partitions()
            .into_iter()
            .map(|partition| partition.id())
            .filter(|id| *id != PartitionId::METADATA && !self.is_local(id))
            .collect();
        if !stray.is_empty() {
            // A deletion that a stop interrupted.
            tracing::info!(
                partitions = stray.len(),
                "deleting partitions of deleted topics"
            );
            self.log.delete(stray).await?;
        }
        let all = self.committed_image.topics.keys().copied().collect();
        self.register(all).await
    }

    fn is_local(&self, id: &PartitionId) -> bool {
        let topic = self.committed_image.topics.get(&id.topic_id);
        topic.is_some_and(|topic| {
            usize::try_from(id.partition).is_ok_and(|index| index < topic.partitions.len())
        })
    }

    /// Brings the partition logs of `touched` topics in line with the image, then publishes it.
    async fn register(&mut self, touched: BTreeSet<Uuid>) -> Result<(), StorageError> {
        let mut wanted = Vec::new();
        let mut removed = Vec::new();
        for id in &touched {
            match self.committed_image.topics.get(id) {
                Some(topic) => {
                    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
                    wanted.extend((0..count).map(|partition| PartitionId {
                        topic_id: *id,
                        partition,
                    }));
                }
                None => removed.push(*id),
            }
        }
        let mut created = if wanted.is_empty() {
            Vec::new()
        } else {
            self.log.create(wanted).await?
        }
        .into_iter();
        let live = self.live.current();
        for id in &touched {
            let Some(topic) = self.committed_image.topics.get(id).cloned() else {
                continue;
            };
            let overrides = self.committed_image.topic_configs(&topic.name);
            let config = Arc::new(TopicConfig::resolve(&overrides, &live));
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (state, log) in topic.partitions.iter().zip(created.by_ref()) {
                log.set_config(log_config(&topic.name, &config));
                if state.leader == self.node_id {
                    log.become_leader(state.leader_epoch, state.isr.clone());
                }
                partitions.push(log);
            }
            self.partitions.put(LocalTopic {
                id: *id,
                name: topic.name.clone(),
                partitions,
                config,
            });
        }
        let mut doomed = Vec::new();
        for id in removed {
            let Some(topic) = self.partitions.remove(&id) else {
                continue;
            };
            self.metrics.remove_topic(&topic.name);
            doomed.extend(topic.partitions.iter().map(|partition| partition.id()));
        }
        self.publish();
        if !doomed.is_empty() {
            self.log.delete(doomed).await?;
        }
        debug_assert!(self.partitions.stray(&self.committed_image).is_empty());
        Ok(())
    }

    fn publish(&self) {
        let image = Arc::new(self.committed_image.clone());
        *self
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner) = image.clone();
        // Nobody has to listen.
        let _ = self.stream.send(image);
    }
}

fn log_config(topic: &str, config: &TopicConfig) -> LogConfig {
    LogConfig {
        // What a coordinator answers must survive a power cut, whatever the topic's configuration says.
        flush_messages: if topic_name::is_internal(topic) {
            1
        } else {
            config.flush_messages
        },
        flush_ms: config.flush_ms,
        log_append_time: config.message_timestamp_type == MessageTimestampType::LogAppendTime,
    }
}
