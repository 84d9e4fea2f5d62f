//! Ottla, a Kafka-wire-compatible broker. Here is what all handlers share; `start.rs` builds the parts, `running.rs`
//! ends them; `main.rs` and the tests call both. How a request travels stands in ARCHITECTURE.md.

pub mod background;
pub mod cleaner;
pub mod cli;
pub mod config;
pub mod connection;
pub mod control;
pub mod disk;
pub mod driver;
pub mod env;
pub mod error;
pub mod error_counts;
pub mod groups;
pub mod handlers;
mod health;
pub mod http;
pub mod large;
pub mod metadata_log;
pub mod metrics;
pub mod network_threads;
pub mod partitions;
pub mod rate_limit;
pub mod room;
pub mod router;
pub mod running;
pub mod scrape;
pub mod scrub;
pub mod server;
pub mod start;
pub mod start_error;
mod supervisor;
pub mod timers;
pub mod topic_config;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ottla_coordinator::metadata::{Command, MetadataError, Reply};
use ottla_protocol::error_code::ErrorCode;
use ottla_storage::directory::Identity;
use ottla_storage::log::Log;
use tokio::sync::Semaphore;

use crate::config::{Config, LiveConfig};
use crate::disk::Disk;
use crate::env::Env;
use crate::groups::Groups;
use crate::handlers::fetch_session::FetchSessions;
use crate::handlers::metadata::AutoCreations;
use crate::handlers::producer_ids::ProducerIds;
use crate::large::LargeRequests;
use crate::metadata_log::MetadataLog;
use crate::metrics::Metrics;
use crate::partitions::Partitions;
use crate::rate_limit::RateLimit;
use crate::room::{Replies, Requests, Room};
use crate::supervisor::Supervisor;

pub use crate::running::Running;
pub use crate::start::start;
pub use crate::start_error::StartError;

/// Everything that handlers share.
pub struct Broker {
    /// The configuration it was started with.
    pub config: Arc<Config>,
    /// What of the configuration can change at run time.
    pub dynamic: Arc<LiveConfig>,
    /// Time and chance.
    pub env: Env,
    /// Who it is.
    pub identity: Identity,
    /// The metadata log.
    pub metadata: MetadataLog,
    /// Partitions by topic.
    pub partitions: Arc<Partitions>,
    /// The group coordinator.
    pub groups: Arc<Groups>,
    /// All partition logs.
    pub log: Log,
    /// How full the disk is.
    pub disk: Arc<Disk>,
    /// All metrics.
    pub metrics: Metrics,
    /// Which lines about repeating failures of requests may be logged.
    pub log_lines: RateLimit,
    /// Incremental fetch sessions.
    pub fetch_sessions: FetchSessions,
    /// Topics that Metadata requests are creating.
    pub auto_creations: AutoCreations,
    /// Producer ids to give out.
    pub producer_ids: ProducerIds,
    /// Permits to decompress or compress a batch.
    pub decompressions: Arc<Semaphore>,
    /// Where large requests are worked on.
    pub large: LargeRequests,
    /// Room for requests (`queued.max.request.bytes`).
    pub requests: Requests,
    /// Room for batches in answers.
    pub answers: Room,
    /// Room for other large answers.
    pub replies: Replies,
    /// Room for what batches grow by with the codec of their topic.
    pub recompressed: Room,
    broker_epoch: AtomicI64,
    /// Looks after a coordinator's task.
    supervisor: Supervisor,
}

impl Broker {
    /// Makes the topic of groups, if it is not there, and loads its shards.
    ///
    /// # Errors
    /// The topic cannot be made now.
    pub async fn ready_groups(&self) -> Result<(), ErrorCode> {
        if self.groups.are_loaded() {
            return Ok(());
        }
        if self.metadata.image().topic(groups::TOPIC).is_none() {
            let command = Command::CreateTopic {
                name: groups::TOPIC.to_owned(),
                id: self.env.uuid(),
                partitions: None,
                num_partitions: self.config.offsets_topic_num_partitions,
                replication_factor: 1,
                configs: groups::topic_configs(),
                validate_only: false,
            };
            let not_available = |why: String| {
                tracing::warn!(why, topic = groups::TOPIC, "topic cannot be created");
                ErrorCode::CoordinatorNotAvailable
            };
            match self.metadata.propose(command).await {
                Ok(Reply::TopicCreated { num_partitions, .. }) => {
                    tracing::info!(
                        topic = groups::TOPIC,
                        partitions = num_partitions,
                        "topic created for the first group"
                    );
                }
                // Another client was first.
                Ok(Reply::Failed(MetadataError::TopicAlreadyExists(_))) => {}
                Ok(other) => return Err(not_available(format!("{other:?}"))),
                Err(code) => return Err(not_available(code.name().to_owned())),
            }
        }
        let tasks = self.groups.reconcile(&self.metadata).await;
        self.supervisor.watch(tasks);
        if self.groups.are_loaded() {
            Ok(())
        } else {
            Err(ErrorCode::CoordinatorNotAvailable)
        }
    }

    /// The epoch of this start, from the metadata log.
    pub fn broker_epoch(&self) -> i64 {
        self.broker_epoch.load(Ordering::Relaxed)
    }
}
