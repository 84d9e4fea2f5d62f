//! Everything `/metrics` shows.
//!
//! One `Metrics` is made at start and cloned into whoever counts something. All names stand in `families`. Three ways
//! lead to the page: counters and histograms of the broker as a whole sit in a `prometheus` registry; counters per
//! topic and per API are plain atomics, found without a lock once they exist; gauges per partition are asked for at the
//! scrape and kept nowhere. Nothing here reads a clock.
//!
//! Labels that clients could choose are bounded: topics that exist, APIs and versions of Kafka, causes named in the
//! code.

mod exporters;
mod families;
pub(crate) mod first_unread;
mod groups;
mod idle;
mod partitions;
mod process;
mod quantile;
mod registry;
mod render;
mod request;
mod text;
mod topic;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

pub use exporters::{EXPORTER_NAMES, Exporter, Shown, markdown_table};
pub use families::METRIC_FAMILIES;
pub use groups::{CommittedFacts, GroupFacts, GroupSource};
pub use idle::BusyTime;
pub(crate) use idle::SAMPLE_EVERY;
pub use partitions::{PartitionFacts, PartitionSource};
pub use request::{ApiMetrics, Elapsed, SendTimes};
pub use topic::TopicMetrics;

use crate::disk::Level;
use registry::Registered;
use request::Apis;
use topic::Topics;

/// How far the labels of `/metrics` go into detail (`metrics.detail`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Detail {
    /// Sums only: for clusters with very many topics or groups.
    Cluster,
    /// Topics too, and groups by topic.
    Topic,
    /// Partitions too, also those of groups.
    #[default]
    Partition,
}

impl Detail {
    /// What `metrics.detail` can be.
    pub const NAMES: &[&str] = &["partition", "topic", "cluster"];

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "partition" => Some(Self::Partition),
            "topic" => Some(Self::Topic),
            "cluster" => Some(Self::Cluster),
            _ => None,
        }
    }
}

/// The life of a broker, with the numbers Kafka's `BrokerState` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerState {
    /// Not yet, or no longer.
    NotRunning = 0,
    /// Opening files and ports.
    Starting = 1,
    /// Replaying the log.
    Recovery = 2,
    /// Serving.
    Running = 3,
    /// Asked to stop; leadership moves away.
    PendingControlledShutdown = 6,
    /// Finishing the last requests.
    ShuttingDown = 7,
}

/// Who knows the storage engine's own values.
pub trait EngineSource: Send + Sync {
    /// Short names and values, as the engine calls them; called once per scrape.
    fn properties(&self) -> Vec<(&'static str, u64)>;
}

/// Free and total bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// What the process may still write.
    pub free_bytes: u64,
    /// All there is.
    pub total_bytes: u64,
}

/// Who knows what the broker runs on.
pub trait HostSource: Send + Sync {
    /// Busy time of the threads that serve requests.
    fn busy_time(&self) -> BusyTime;

    /// The disk of the data directory; `None` if the system does not tell.
    fn disk_space(&self) -> Option<DiskSpace>;

    /// How full that disk is.
    fn disk_level(&self) -> Level;
}

/// All metrics of one broker. Cheap to clone; clones count into the same numbers.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    detail: Detail,
    registered: Registered,
    topics: Topics,
    apis: Apis,
    /// Batches being decompressed or compressed, and the most there were; the gauges change under it, or one could go back.
    decompressions: Mutex<(i64, i64)>,
    // Weak, because what they point to usually holds the metrics.
    partitions: Mutex<Option<Weak<dyn PartitionSource>>>,
    engine: Mutex<Option<Weak<dyn EngineSource>>>,
    groups: Mutex<Option<Weak<dyn GroupSource>>>,
    host: Mutex<Option<Weak<dyn HostSource>>>,
    idle: Mutex<idle::Idle>,
}

impl Metrics {
    /// Metrics with all counters at zero.
    pub fn new(detail: Detail) -> Self {
        let (registered, request_seconds) = Registered::new();
        Self {
            inner: Arc::new(Inner {
                detail,
                registered,
                topics: Topics::default(),
                apis: Apis::new(request_seconds),
                decompressions: Mutex::default(),
                partitions: Mutex::new(None),
                engine: Mutex::new(None),
                groups: Mutex::new(None),
                host: Mutex::new(None),
                idle: Mutex::default(),
            }),
        }
    }

    /// Scrapes ask this source for the partitions from now on. It is held weakly: the caller keeps it alive.
    pub fn watch_partitions<S: PartitionSource + 'static>(&self, source: &Arc<S>) {
        let source: Arc<dyn PartitionSource> = source.clone();
        *lock(&self.inner.partitions) = Some(Arc::downgrade(&source));
    }

    /// Scrapes ask this source for the engine's values from now on. It is held weakly: the caller keeps it alive.
    pub fn watch_engine<S: EngineSource + 'static>(&self, source: &Arc<S>) {
        let source: Arc<dyn EngineSource> = source.clone();
        *lock(&self.inner.engine) = Some(Arc::downgrade(&source));
    }

    /// Scrapes ask this source for the groups from now on. It is held weakly: the caller keeps it alive.
    pub fn watch_groups<S: GroupSource + 'static>(&self, source: &Arc<S>) {
        let source: Arc<dyn GroupSource> = source.clone();
        *lock(&self.inner.groups) = Some(Arc::downgrade(&source));
    }

    /// Scrapes ask this source for threads and disk from now on. It is held weakly: the caller keeps it alive.
    pub fn watch_host<S: HostSource + 'static>(&self, source: &Arc<S>) {
        let source: Arc<dyn HostSource> = source.clone();
        *lock(&self.inner.host) = Some(Arc::downgrade(&source));
    }

    /// The counters of a topic, made at the first call. Ask only for topics that exist: names a client made up would
    /// stay on the page.
    pub fn topic(&self, name: &str) -> Arc<TopicMetrics> {
        self.inner.topics.topic(name)
    }

    /// A topic was deleted: its counters go, the sums over all topics keep its share.
    pub fn remove_topic(&self, name: &str) {
        self.inner.topics.remove(name);
    }

    /// The counters of an API, found by index; one block for all keys that Kafka does not have.
    pub fn api(&self, api_key: i16) -> &ApiMetrics {
        self.inner.apis.api(api_key)
    }

    /// Input was refused. `cause` is a name from the code, never from the input.
    pub fn refused(&self, cause: &'static str) {
        self.inner
            .registered
            .refused
            .with_label_values(&[cause])
            .inc();
    }

    /// A panic was caught.
    pub fn panicked(&self) {
        self.inner.registered.panics.inc();
    }

    /// A batch is being decompressed or compressed, until the answer is dropped.
    #[must_use = "dropping it says that it is done"]
    pub fn decompression(&self) -> Decompression {
        self.decompressions_changed(1);
        Decompression {
            metrics: self.clone(),
        }
    }

    fn decompressions_changed(&self, by: i64) {
        let mut held = lock(&self.inner.decompressions);
        let (running, most) = &mut *held;
        *running += by;
        *most = (*most).max(*running);
        self.inner.registered.decompressions.set(*running);
        self.inner.registered.decompressions_most.set(*most);
    }

    /// A connection was accepted on a listener. It counts as open until the answer is dropped.
    #[must_use = "dropping it says the connection is closed"]
    pub fn connection(&self, listener: &str) -> OpenConnection {
        let registered = &self.inner.registered;
        registered.accepted.inc();
        // Kafka counts per network thread; there is one row here, so that sums over them stay right.
        let open = registered.connections.with_label_values(&[listener, "0"]);
        open.inc();
        OpenConnection {
            open,
            closed: registered.closed.clone(),
        }
    }

    /// A group of appends was written together.
    pub fn group_commit(&self, requests: usize, batches: usize, bytes: usize) {
        let registered = &self.inner.registered;
        registered.group_requests.observe(requests as f64);
        registered.group_batches.observe(batches as f64);
        registered.group_bytes.observe(bytes as f64);
    }

    /// One sync of the log returned after this long.
    pub fn fsync(&self, took: Duration) {
        self.inner.registered.fsyncs.inc();
        self.inner
            .registered
            .fsync_seconds
            .observe(took.as_secs_f64());
    }

    /// Whether the store failed and the log directory counts as offline.
    pub fn log_directory_offline(&self, offline: bool) {
        let value = i64::from(offline);
        self.inner.registered.offline_log_directories.set(value);
    }

    /// A leader was elected from outside the in-sync replicas.
    pub fn unclean_leader_election(&self) {
        self.inner.registered.unclean_elections.inc();
    }

    /// Where the broker is in its life.
    pub fn broker_state(&self, state: BrokerState) {
        self.inner.registered.broker_state.set(state as i64);
    }

    /// Names this broker, with the address it advertises as `host:port`.
    pub fn broker(&self, node_id: i32, address: &str) {
        let registered = &self.inner.registered;
        registered.broker_info.reset();
        registered
            .broker_info
            .with_label_values(&[&node_id.to_string(), address])
            .set(1);
    }

    /// Lets the request quantiles forget half of what they know. The metrics listener calls it once a minute.
    pub fn fade_quantiles(&self) {
        self.inner.apis.fade();
    }

    /// Takes note of how busy the threads were. The metrics listener calls it every `SAMPLE_EVERY`.
    pub(crate) fn sample_idle(&self) {
        // A scrape does the same, and the window is of scrapes and of these alike.
        let _ = self.inner.idle_share();
    }

    /// The page of `/metrics`. Takes some ten milliseconds with 10,000 partitions, and asks the groups' tasks: not
    /// for async workers.
    pub fn render(&self) -> String {
        render::page(&self.inner)
    }
}

impl Inner {
    /// How idle the threads were, if anybody knows.
    fn idle_share(&self) -> Option<f64> {
        let host = lock(&self.host).as_ref()?.upgrade()?;
        Some(lock(&self.idle).sample(host.busy_time()))
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A decompression that counts as running.
#[derive(Debug)]
pub struct Decompression {
    metrics: Metrics,
}

impl Drop for Decompression {
    fn drop(&mut self) {
        self.metrics.decompressions_changed(-1);
    }
}

/// A connection that counts as open.
#[derive(Debug)]
pub struct OpenConnection {
    open: prometheus::IntGauge,
    closed: prometheus::IntCounter,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.dec();
        self.closed.inc();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
