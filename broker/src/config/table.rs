//! The broker's config table: one row per property, and the keys of Kafka that are known and silent.
//!
//! Read by the loader (what a key means, what it may be), by [`super::Config`] (defaults), by
//! DescribeConfigs and by the README. It parses nothing itself. A property that nothing here uses and
//! nothing planned will use has no row. Invariants, each tested: names are unique and sorted within
//! their group, every default passes its own bounds, and a row whose default or bounds differ from
//! Kafka 4.3.1's says why.

use super::markdown;
use super::value::{Bounds, ConfigType};
use crate::metrics::Detail;
use crate::topic_config::table as topic_table;
use ConfigType::{Boolean, Double, Int, List, Long, String as Text};

/// Whether setting a config changes what the broker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does what its sentence says.
    Effective,
    /// Accepted and shown, but not enforced; the note says what is missing.
    NotYet(&'static str),
    /// Accepted and shown; there is nothing here it could change, and the note says why.
    NoMeaning(&'static str),
}

impl State {
    /// What a config does, with what is missing here, for DescribeConfigs.
    pub fn documented(self, documentation: &str) -> String {
        match self {
            State::Effective => documentation.to_owned(),
            State::NotYet(note) => format!("{documentation} Not yet: {note}."),
            State::NoMeaning(reason) => format!("{documentation} No effect here: {reason}."),
        }
    }
}

/// One property of the broker.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name in the properties file.
    pub name: &'static str,
    /// Its type.
    pub config_type: ConfigType,
    /// Its default; `None` is Kafka's null.
    pub default: Option<&'static str>,
    /// What it may be, beyond its type.
    pub bounds: Bounds,
    /// One sentence on what it does.
    pub documentation: &'static str,
    /// Whether it can be changed at run time, for this broker or for all.
    pub dynamic: bool,
    /// Why only a restart changes it, where Kafka needs none.
    pub restart_needed: Option<&'static str>,
    /// Why default or bounds differ from Kafka's, where they do.
    pub difference: Option<&'static str>,
    /// The topic config this is the broker-wide default of.
    pub topic: Option<&'static str>,
    own_state: State,
}

impl Row {
    const fn new(
        name: &'static str,
        config_type: ConfigType,
        default: &'static str,
        documentation: &'static str,
    ) -> Self {
        Self {
            name,
            config_type,
            default: Some(default),
            bounds: Bounds::Any,
            documentation,
            dynamic: false,
            restart_needed: None,
            difference: None,
            topic: None,
            own_state: State::Effective,
        }
    }

    const fn without_default(
        name: &'static str,
        config_type: ConfigType,
        documentation: &'static str,
    ) -> Self {
        Self {
            default: None,
            ..Self::new(name, config_type, "", documentation)
        }
    }

    /// The broker-wide default of a topic config; it is as effective as the topic config is.
    const fn of_topic(self, topic: &'static str) -> Self {
        Self {
            topic: Some(topic),
            ..self
        }
    }

    const fn bounds(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    const fn dynamic(self) -> Self {
        Self {
            dynamic: true,
            ..self
        }
    }

    const fn restart_needed(self, reason: &'static str) -> Self {
        Self {
            restart_needed: Some(reason),
            ..self
        }
    }

    const fn differs(self, reason: &'static str) -> Self {
        Self {
            difference: Some(reason),
            ..self
        }
    }

    const fn not_yet(self, note: &'static str) -> Self {
        Self {
            own_state: State::NotYet(note),
            ..self
        }
    }

    /// Whether setting it changes anything.
    pub fn state(&self) -> State {
        self.topic
            .and_then(topic_table::row)
            .map_or(self.own_state, |topic| topic.state)
    }
}

/// The row of a property.
pub fn row(name: &str) -> Option<&'static Row> {
    BROKER_CONFIGS.iter().find(|row| row.name == name)
}

/// Why a key of Kafka needs no row and no warning.
pub fn silent(name: &str) -> Option<&'static str> {
    SILENT_KEYS
        .iter()
        .find(|(key, _)| *key == name)
        .map(|(_, reason)| *reason)
}

/// The broker's table for the README.
pub fn markdown_table() -> String {
    let mut table = markdown::header("Property");
    for row in BROKER_CONFIGS {
        let mut notes = markdown::notes(row.documentation, row.state(), row.difference);
        notes += &markdown::update_mode(row.dynamic, row.restart_needed);
        table += &markdown::row(row.name, row.config_type, row.default, row.bounds, &notes);
    }
    table
}

const PORTS_AT_START: &str = "ports are opened at the start";
const TRANSACTIONS_LATER: &str = "transactions are not served yet";

/// All properties, in the order of the README.
#[rustfmt::skip]
pub const BROKER_CONFIGS: &[Row] = &[
    // Where it listens and who it is.
    Row::new("listeners", List, "PLAINTEXT://127.0.0.1:9092", "Addresses to listen on, each NAME://host:port; an empty host is every interface, port 0 takes a free port.")
        .restart_needed(PORTS_AT_START)
        .differs("loopback only unless told otherwise, so that nothing is reachable from outside by accident"),
    Row::without_default("advertised.listeners", List, "Addresses that clients are told to connect to, per listener name; unset, the listeners themselves."),
    Row::new("listener.security.protocol.map", Text, "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT", "Security protocol of each listener name; only PLAINTEXT is served so far, others are refused.")
        .restart_needed(PORTS_AT_START),
    Row::new("controller.listener.names", List, "", "Listeners of Kafka's controllers; they are not opened.")
        .differs("there is no controller process here, so none has to be named"),
    Row::new("node.id", Int, "1", "Id of this broker in the cluster.")
        .bounds(Bounds::AtLeast(0))
        .differs("Kafka has no default; one broker alone needs no choice"),
    Row::new("broker.id", Int, "-1", "Older name of node.id; where both are set they must be equal."),
    Row::without_default("broker.rack", Text, "Rack of this broker, shown in Metadata answers."),
    Row::new("log.dir", List, "./ottla-data", "Directory of all data; log.dirs goes before it.")
        .differs("the folder it was started in, instead of /tmp, which many systems empty at boot"),
    Row::without_default("log.dirs", List, "Directory of all data; more than one is refused."),
    Row::new("disk.alarm.free.bytes", Long, "1073741824", "Free disk space below which a warning is logged, and retention and compaction run early; at most an eighth of the disk.")
        .bounds(Bounds::AtLeast(0))
        .differs("not a property of Kafka, whose log directory goes offline when its disk is full"),
    Row::new("disk.alarm.free.percent", Int, "5", "The same as a part of the disk; the greater one counts.")
        .bounds(Bounds::Between(0, 100))
        .differs("not a property of Kafka, whose log directory goes offline when its disk is full"),
    Row::new("disk.refuse.free.bytes", Long, "536870912", "Free disk space below which Produce, CreateTopics, CreatePartitions and InitProducerId are refused; at most a sixteenth of the disk.")
        .bounds(Bounds::AtLeast(0))
        .differs("not a property of Kafka, whose log directory goes offline when its disk is full"),
    Row::new("disk.reserve.bytes", Long, "268435456", "Disk space held by a file that is given up when requests are refused, for what goes on; at most a thirty-second part of the disk.")
        .bounds(Bounds::AtLeast(0))
        .differs("not a property of Kafka, whose log directory goes offline when its disk is full"),
    Row::new("log.scrub.interval.ms", Long, "604800000", "How long after a pass of the scrub, which reads and checks everything stored, the next one begins; 0: never.")
        .bounds(Bounds::AtLeast(0))
        .differs("not a property of Kafka, which finds damage when somebody reads it"),
    Row::new("metrics.listener", Text, "127.0.0.1:9404", "Address of /metrics, /healthz and /readyz; empty switches them off.")
        .differs("not a property of Kafka"),
    Row::new("metrics.detail", Text, "partition", "How many series /metrics has: those of single partitions too, of topics and groups only, or of the cluster only.")
        .bounds(Bounds::OneOf(Detail::NAMES))
        .differs("not a property of Kafka"),
    Row::new("authorizer.class.name", Text, "", "Class that checks access; only empty is accepted, since a broker that ignores it would be open.")
        .bounds(Bounds::OnlyEmpty)
        .differs("access control is not served yet"),
    // Topics.
    Row::new("auto.create.topics.enable", Boolean, "true", "Whether a Metadata request creates the topics it names."),
    Row::new("auto.create.topics.limit", Int, "10000", "Topics there may be for a Metadata request to create one more; CreateTopics is not bound by it.")
        .bounds(Bounds::AtLeast(0))
        .differs("not a property of Kafka, where clients that ask for made-up names create topics without end"),
    Row::new("num.partitions", Int, "1", "Partitions of a topic whose creator did not say.").bounds(Bounds::AtLeast(1)),
    Row::new("default.replication.factor", Int, "1", "Replicas of a topic whose creator did not say.")
        .bounds(Bounds::Between(1, i16::MAX as i64))
        .differs("checked at start; Kafka finds out when it creates a topic"),
    Row::new("delete.topic.enable", Boolean, "true", "Whether topics can be deleted."),
    // Limits of connections and requests.
    Row::new("num.network.threads", Int, "3", "Threads that serve connections which produce or fetch, each of them its own; as many serve all others.")
        .bounds(Bounds::AtLeast(1))
        .restart_needed("the threads are started once"),
    Row::new("socket.request.max.bytes", Int, "104857600", "Largest request; its connection is closed above it, and above 104857600 for Produce, 67108864 for JoinGroup and SyncGroup, 8388608 for all others.").bounds(Bounds::AtLeast(1)),
    Row::new("socket.send.buffer.bytes", Int, "-1", "Bytes that the system holds of answers on their way to one client (SO_SNDBUF); -1: it adapts them to the connection.")
        .bounds(Bounds::AtLeast(-1))
        .differs("102400 in Kafka; a fixed size switches off the system's own adaptation"),
    Row::new("socket.receive.buffer.bytes", Int, "-1", "Bytes that the system holds of requests of one client (SO_RCVBUF); -1: it adapts them to the connection.")
        .bounds(Bounds::AtLeast(-1))
        .differs("102400 in Kafka; a fixed size switches off the system's own adaptation"),
    Row::new("connections.max.idle.ms", Long, "600000", "A connection without a request for this long is closed; negative: never."),
    Row::new("max.connections", Int, "10000", "Connections open at a time.")
        .bounds(Bounds::AtLeast(1))
        .dynamic()
        .differs("bounded by default, so that a flood of clients cannot use up memory and file descriptors"),
    Row::new("max.connections.per.ip", Int, "1000", "Connections open at a time from one address.")
        .bounds(Bounds::AtLeast(1))
        .dynamic()
        .differs("bounded by default, so that one machine cannot shut out all others"),
    Row::new("max.connection.creation.rate", Int, "2000", "Connections accepted per second.")
        .bounds(Bounds::AtLeast(0))
        .dynamic()
        .differs("bounded by default, so that reconnecting clients cannot starve the others"),
    Row::new("queued.max.request.bytes", Long, "-1", "Bytes of requests in flight before reading pauses; -1: a share of memory.budget.bytes.")
        .bounds(Bounds::AtLeast(-1))
        .differs("-1 is not unlimited here; the memory for requests is always bounded"),
    Row::without_default("memory.budget.bytes", Long, "Memory for write buffers, caches and requests in flight; unset, a quarter of the memory, at most 384 MiB.")
        .bounds(Bounds::AtLeast(super::memory::LEAST_BUDGET_BYTES as i64))
        .differs("not a property of Kafka, whose memory is the JVM's heap"),
    Row::new("max.decompressed.message.bytes", Int, "67108864", "Largest size of a batch once decompressed.")
        .bounds(Bounds::AtLeast(1))
        .differs("not in Kafka 4.3; without it a small request can unpack to any size"),
    Row::new("fetch.max.bytes", Int, "57671680", "Most bytes of one Fetch answer, whatever the client asks for.").bounds(Bounds::AtLeast(1024)),
    Row::new("max.incremental.fetch.session.cache.slots", Int, "1000", "Fetch sessions kept at a time.").bounds(Bounds::AtLeast(0)),
    Row::new("max.request.partition.size.limit", Int, "2000", "Most partitions in one DescribeTopicPartitions answer.").bounds(Bounds::AtLeast(1)),
    // Producers, groups, transactions.
    Row::new("producer.id.expiration.ms", Int, "86400000", "How long an idle producer's sequence state is kept.")
        .bounds(Bounds::AtLeast(1))
        .dynamic(),
    Row::new("max.producers.per.partition", Int, "5000", "Producers without an open transaction whose sequence state a partition keeps; the oldest goes first.")
        .bounds(Bounds::AtLeast(1))
        .differs("not a property of Kafka, which only forgets by time: a client that asks for one producer id after the other fills the heap"),
    Row::new("transaction.max.timeout.ms", Int, "900000", "Longest transaction timeout a producer may ask for.")
        .bounds(Bounds::AtLeast(1)),
    Row::new("transaction.state.log.num.partitions", Int, "50", "Partitions of the topic of transactions.")
        .bounds(Bounds::AtLeast(1))
        .not_yet(TRANSACTIONS_LATER),
    Row::new("transactional.id.expiration.ms", Int, "604800000", "How long an idle transactional id is kept.")
        .bounds(Bounds::AtLeast(1))
        .not_yet(TRANSACTIONS_LATER),
    Row::new("group.initial.rebalance.delay.ms", Int, "3000", "How long a new group waits for more members."),
    Row::new("group.max.session.timeout.ms", Int, "1800000", "Longest session timeout of a group member."),
    Row::new("group.max.size", Int, "2147483647", "Most members of a group.").bounds(Bounds::AtLeast(1)),
    Row::new("group.member.metadata.max.bytes", Int, "262144", "Most bytes of protocol metadata of one group member.")
        .bounds(Bounds::AtLeast(1))
        .differs("not a property of Kafka, where a few members can fill the memory"),
    Row::new("group.metadata.max.bytes", Int, "67108864", "Most bytes that the members of one group hold, assignments included.")
        .bounds(Bounds::AtLeast(1))
        .differs("not a property of Kafka, where a few members can fill the memory"),
    Row::new("group.min.session.timeout.ms", Int, "6000", "Shortest session timeout of a group member."),
    Row::new("groups.max", Int, "100000", "Most groups; the oldest one without members and offsets makes room, and while there is none a new group is refused.")
        .bounds(Bounds::AtLeast(1))
        .differs("not a property of Kafka, where made-up group ids can fill the memory"),
    Row::new("offset.metadata.max.bytes", Int, "4096", "Longest metadata text of a committed offset."),
    Row::new("offsets.retention.check.interval.ms", Long, "600000", "How often the broker looks for expired offsets.")
        .bounds(Bounds::AtLeast(1)),
    Row::new("offsets.retention.minutes", Int, "10080", "How long the offsets of an empty group are kept.")
        .bounds(Bounds::AtLeast(1)),
    Row::new("offsets.topic.num.partitions", Int, "50", "Partitions of the topic of committed offsets, when it is created.")
        .bounds(Bounds::AtLeast(1)),
    // Defaults of topic configs.
    Row::new("compression.gzip.level", Int, "-1", "Broker-wide default of the topic config.")
        .bounds(Bounds::BetweenOr(1, 9, -1))
        .dynamic()
        .of_topic("compression.gzip.level"),
    Row::new("compression.lz4.level", Int, "9", "Broker-wide default of the topic config.")
        .bounds(Bounds::Between(1, 17))
        .dynamic()
        .of_topic("compression.lz4.level"),
    Row::new("compression.type", Text, "producer", "Broker-wide default of the topic config.")
        .bounds(Bounds::OneOf(topic_table::COMPRESSION_TYPES))
        .dynamic()
        .of_topic("compression.type"),
    Row::new("compression.zstd.level", Int, "3", "Broker-wide default of the topic config.")
        .bounds(Bounds::Between(-131_072, 22))
        .dynamic()
        .of_topic("compression.zstd.level"),
    Row::new("log.cleaner.backoff.ms", Long, "15000", "How long the log cleaner rests when no log is dirty enough.")
        .bounds(Bounds::AtLeast(0))
        .dynamic(),
    Row::new("log.cleaner.dedupe.buffer.size", Long, "134217728", "Bytes for the newest offsets of keys while a log is compacted, at most a sixteenth of memory.budget.bytes; what does not fit waits for the next round.")
        .dynamic(),
    Row::new("log.cleaner.delete.retention.ms", Long, "86400000", "Broker-wide default of delete.retention.ms.")
        .bounds(Bounds::AtLeast(0))
        .dynamic()
        .of_topic("delete.retention.ms"),
    Row::new("log.cleaner.enable", Boolean, "true", "Whether logs are compacted at all."),
    Row::new("log.cleaner.io.buffer.load.factor", Double, "0.9", "How full the table of log.cleaner.dedupe.buffer.size may get, 0.01 to 0.99; fuller is slower.")
        .dynamic(),
    Row::new("log.cleaner.io.buffer.size", Int, "524288", "Bytes of batches that the log cleaner reads and replaces in one step.")
        .bounds(Bounds::AtLeast(0))
        .dynamic(),
    Row::new("log.cleaner.io.max.bytes.per.second", Double, "1.7976931348623157E308", "Bytes that the log cleaner reads and writes per second at the most.")
        .dynamic(),
    Row::new("log.cleaner.max.compaction.lag.ms", Long, "9223372036854775807", "Broker-wide default of max.compaction.lag.ms.")
        .bounds(Bounds::AtLeast(1))
        .dynamic()
        .of_topic("max.compaction.lag.ms"),
    Row::new("log.cleaner.min.cleanable.ratio", Double, "0.5", "Broker-wide default of min.cleanable.dirty.ratio.")
        .bounds(Bounds::Share)
        .dynamic()
        .of_topic("min.cleanable.dirty.ratio"),
    Row::new("log.cleaner.min.compaction.lag.ms", Long, "0", "Broker-wide default of min.compaction.lag.ms.")
        .bounds(Bounds::AtLeast(0))
        .dynamic()
        .of_topic("min.compaction.lag.ms"),
    Row::new("log.cleanup.policy", List, "delete", "Broker-wide default of cleanup.policy.")
        .bounds(Bounds::ListOf(topic_table::CLEANUP_POLICIES))
        .dynamic()
        .of_topic("cleanup.policy"),
    Row::new("log.flush.interval.messages", Long, "1", "Broker-wide default of flush.messages.")
        .bounds(Bounds::AtLeast(1))
        .dynamic()
        .differs(topic_table::DURABLE_BY_DEFAULT)
        .of_topic("flush.messages"),
    Row::without_default("log.flush.interval.ms", Long, "Broker-wide default of flush.ms; unset, log.flush.scheduler.interval.ms.")
        .dynamic()
        .of_topic("flush.ms"),
    Row::new("log.flush.scheduler.interval.ms", Long, "9223372036854775807", "Broker-wide default of flush.ms where log.flush.interval.ms is unset.")
        .of_topic("flush.ms"),
    Row::new("log.index.interval.bytes", Int, "4096", "Broker-wide default of index.interval.bytes.")
        .bounds(Bounds::AtLeast(0))
        .dynamic()
        .of_topic("index.interval.bytes"),
    Row::new("log.index.size.max.bytes", Int, "10485760", "Broker-wide default of segment.index.bytes.")
        .bounds(Bounds::AtLeast(4))
        .dynamic()
        .of_topic("segment.index.bytes"),
    Row::new("log.local.retention.bytes", Long, "-2", "Broker-wide default of local.retention.bytes.")
        .bounds(Bounds::AtLeast(-2))
        .dynamic()
        .of_topic("local.retention.bytes"),
    Row::new("log.local.retention.ms", Long, "-2", "Broker-wide default of local.retention.ms.")
        .bounds(Bounds::AtLeast(-2))
        .dynamic()
        .of_topic("local.retention.ms"),
    Row::new("log.message.timestamp.after.max.ms", Long, "3600000", "Broker-wide default of message.timestamp.after.max.ms.")
        .bounds(Bounds::AtLeast(0))
        .dynamic()
        .of_topic("message.timestamp.after.max.ms"),
    Row::new("log.message.timestamp.before.max.ms", Long, "9223372036854775807", "Broker-wide default of message.timestamp.before.max.ms.")
        .bounds(Bounds::AtLeast(0))
        .dynamic()
        .of_topic("message.timestamp.before.max.ms"),
    Row::new("log.message.timestamp.type", Text, "CreateTime", "Broker-wide default of message.timestamp.type.")
        .bounds(Bounds::OneOf(topic_table::TIMESTAMP_TYPES))
        .dynamic()
        .of_topic("message.timestamp.type"),
    Row::new("log.preallocate", Boolean, "false", "Broker-wide default of preallocate.").dynamic().of_topic("preallocate"),
    Row::new("log.retention.bytes", Long, "-1", "Broker-wide default of retention.bytes.").dynamic().of_topic("retention.bytes"),
    Row::new("log.retention.check.interval.ms", Long, "10000", "Longest time until the log start moves past an expired batch.")
        .bounds(Bounds::AtLeast(1))
        .differs("expired records go one batch at a time, which is cheap to look for often"),
    Row::new("log.retention.hours", Int, "168", "Broker-wide default of retention.ms, in hours; the ones in minutes and ms go before it.")
        .of_topic("retention.ms"),
    Row::without_default("log.retention.minutes", Int, "Broker-wide default of retention.ms, in minutes; the one in ms goes before it.")
        .of_topic("retention.ms"),
    Row::without_default("log.retention.ms", Long, "Broker-wide default of retention.ms.").dynamic().of_topic("retention.ms"),
    Row::new("log.roll.hours", Int, "168", "Broker-wide default of segment.ms, in hours; the one in ms goes before it.")
        .bounds(Bounds::AtLeast(1))
        .of_topic("segment.ms"),
    Row::new("log.roll.jitter.hours", Int, "0", "Broker-wide default of segment.jitter.ms, in hours; the one in ms goes before it.")
        .bounds(Bounds::AtLeast(0))
        .of_topic("segment.jitter.ms"),
    Row::without_default("log.roll.jitter.ms", Long, "Broker-wide default of segment.jitter.ms.").dynamic().of_topic("segment.jitter.ms"),
    Row::without_default("log.roll.ms", Long, "Broker-wide default of segment.ms.").dynamic().of_topic("segment.ms"),
    Row::new("log.segment.bytes", Int, "1073741824", "Broker-wide default of segment.bytes.")
        .bounds(Bounds::AtLeast(1_048_576))
        .dynamic()
        .of_topic("segment.bytes"),
    Row::new("log.segment.delete.delay.ms", Long, "60000", "Broker-wide default of file.delete.delay.ms.")
        .bounds(Bounds::AtLeast(0))
        .dynamic()
        .of_topic("file.delete.delay.ms"),
    Row::new("message.max.bytes", Int, "1048588", "Broker-wide default of max.message.bytes.")
        .bounds(Bounds::AtLeast(0))
        .dynamic()
        .of_topic("max.message.bytes"),
    Row::new("min.insync.replicas", Int, "1", "Broker-wide default of the topic config.")
        .bounds(Bounds::AtLeast(1))
        .dynamic()
        .of_topic("min.insync.replicas"),
    Row::new("unclean.leader.election.enable", Boolean, "false", "Broker-wide default of the topic config.")
        .dynamic()
        .of_topic("unclean.leader.election.enable"),
];

const KRAFT: &str = "there is no KRaft quorum: metadata is kept by the broker itself";
const JVM: &str = "it tunes threads or buffers that only the JVM broker has";
const ONE_BROKER: &str = "one broker holds the only replica of its internal topics";

/// Keys of a stock `server.properties` that have nothing to act on here, each with the reason.
/// They are accepted without a word, so that Kafka's own file starts without warnings.
pub(crate) const SILENT_KEYS: &[(&str, &str)] = &[
    ("process.roles", KRAFT),
    ("controller.quorum.voters", KRAFT),
    ("controller.quorum.bootstrap.servers", KRAFT),
    ("controller.quorum.election.timeout.ms", KRAFT),
    ("controller.quorum.election.backoff.max.ms", KRAFT),
    ("controller.quorum.fetch.timeout.ms", KRAFT),
    ("controller.quorum.request.timeout.ms", KRAFT),
    ("controller.quorum.retry.backoff.ms", KRAFT),
    ("controller.quorum.append.linger.ms", KRAFT),
    ("metadata.log.dir", KRAFT),
    ("metadata.log.segment.bytes", KRAFT),
    ("metadata.log.segment.ms", KRAFT),
    ("metadata.log.max.record.bytes.between.snapshots", KRAFT),
    ("metadata.log.max.snapshot.interval.ms", KRAFT),
    ("metadata.max.retention.bytes", KRAFT),
    ("metadata.max.retention.ms", KRAFT),
    ("metadata.max.idle.interval.ms", KRAFT),
    ("broker.heartbeat.interval.ms", KRAFT),
    ("broker.session.timeout.ms", KRAFT),
    ("initial.broker.registration.timeout.ms", KRAFT),
    (
        "inter.broker.listener.name",
        "there is no other broker to talk to",
    ),
    (
        "security.inter.broker.protocol",
        "there is no other broker to talk to",
    ),
    ("num.io.threads", JVM),
    ("background.threads", JVM),
    ("num.recovery.threads.per.data.dir", JVM),
    ("num.replica.fetchers", JVM),
    ("queued.max.requests", JVM),
    ("socket.listen.backlog.size", JVM),
    (
        "log.cleaner.threads",
        "one thread cleans, one log at a time",
    ),
    ("log.flush.offset.checkpoint.interval.ms", JVM),
    ("log.flush.start.offset.checkpoint.interval.ms", JVM),
    ("metric.reporters", JVM),
    ("offsets.topic.replication.factor", ONE_BROKER),
    ("transaction.state.log.replication.factor", ONE_BROKER),
    ("transaction.state.log.min.isr", ONE_BROKER),
    (
        "share.coordinator.state.topic.replication.factor",
        ONE_BROKER,
    ),
    ("share.coordinator.state.topic.min.isr", ONE_BROKER),
];
