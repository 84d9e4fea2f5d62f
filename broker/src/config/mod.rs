//! The broker's config: one typed struct, made once at start from Kafka's `server.properties`,
//! `KAFKA_*` environment variables and `--set` (loader in `load.rs`, table in `table.rs`).
//!
//! Everybody reads the fields of [`Config`], which stay as they were at the start, and those of
//! [`DynamicConfig`], which can change at run time (`dynamic.rs`); only DescribeConfigs and the topic configs
//! look at the text values behind them. Invariant: what these hold passed its row's bounds, so that the typed
//! readers cannot fail.

pub mod dynamic;
pub mod listeners;
pub mod load;
pub mod markdown;
mod memory;
pub mod table;
pub mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use dynamic::{BrokerScope, DynamicConfig, LiveConfig};
pub use listeners::{Listener, SecurityProtocol};
pub use load::{ConfigError, Loaded, Origin, Warning};
pub use table::State;

use ottla_coordinator::group::GroupConfig;

use crate::metrics::Detail;
use crate::topic_config::table as topic_table;
use listeners::{Listeners, Refused};
use value::{ConfigSource, ConfigSynonym, split_list};

/// The configuration of a broker, as far as only a restart changes it.
#[derive(Debug, Clone)]
pub struct Config {
    /// `node.id` (or `broker.id`)
    pub node_id: i32,
    /// `broker.rack`
    pub broker_rack: Option<String>,
    /// The listeners to open: at least one, names unique.
    pub listeners: Vec<Listener>,
    /// What clients of each listener are told, in the order of `listeners`; port 0 stands for the port taken.
    pub advertised_listeners: Vec<Listener>,
    /// `metrics.listener`: host (empty: every interface) and port; `None` when switched off.
    pub metrics_listener: Option<(String, u16)>,
    /// `metrics.detail`
    pub metrics_detail: Detail,
    /// `log.dirs` or `log.dir`
    pub log_dir: PathBuf,
    /// `auto.create.topics.enable`
    pub auto_create_topics_enable: bool,
    /// `auto.create.topics.limit`
    pub auto_create_topics_limit: usize,
    /// `num.partitions`
    pub num_partitions: i32,
    /// `default.replication.factor`
    pub default_replication_factor: i16,
    /// `delete.topic.enable`
    pub delete_topic_enable: bool,
    /// `num.network.threads`
    pub num_network_threads: usize,
    /// `socket.request.max.bytes`
    pub socket_request_max_bytes: usize,
    /// `connections.max.idle.ms`; `None`: never closed for idling.
    pub connections_max_idle_ms: Option<u64>,
    /// `queued.max.request.bytes`; `None` (-1, or 0 as in Kafka): a share of `memory_budget_bytes`.
    pub queued_max_request_bytes: Option<usize>,
    /// `memory.budget.bytes`, or its default on this machine
    pub memory_budget_bytes: usize,
    /// `max.decompressed.message.bytes`
    pub max_decompressed_message_bytes: usize,
    /// `fetch.max.bytes`
    pub fetch_max_bytes: usize,
    /// `max.incremental.fetch.session.cache.slots`
    pub max_incremental_fetch_session_cache_slots: usize,
    /// `max.request.partition.size.limit`
    pub max_request_partition_size_limit: usize,
    /// `max.producers.per.partition`
    pub max_producers_per_partition: usize,
    /// `transaction.max.timeout.ms`
    pub transaction_max_timeout_ms: i32,
    /// `log.scrub.interval.ms`; zero: never.
    pub log_scrub_interval: Duration,
    /// `offsets.topic.num.partitions`
    pub offsets_topic_num_partitions: i32,
    /// `group.*` and `offset*.*`; `max_groups` is of all shards together.
    pub groups: GroupConfig,
    values: Values,
}

impl Config {
    /// Builds the typed config from checked values. `hostname` names this machine for clients.
    fn from_values(
        values: Values,
        hostname: impl Fn() -> String,
    ) -> Result<(Self, Vec<String>), Refused> {
        let Listeners {
            listeners,
            advertised,
            controllers,
        } = listeners::resolve(&values, hostname)?;
        let infos = controllers.iter().map(|name| {
            format!("listener {name} is not opened: controller.listener.names names it, and there is no controller here")
        });
        let budget = values
            .set("memory.budget.bytes")
            .and_then(|value| value.parse().ok());
        let config = Self {
            node_id: values.number("node.id"),
            broker_rack: values
                .set("broker.rack")
                .filter(|rack| !rack.is_empty())
                .map(str::to_owned),
            listeners,
            advertised_listeners: advertised,
            metrics_listener: metrics_listener(&values)?,
            metrics_detail: Detail::named(values.text("metrics.detail"))
                .expect("a checked text is one of the names"),
            log_dir: log_dir(&values)?,
            auto_create_topics_enable: values.boolean("auto.create.topics.enable"),
            auto_create_topics_limit: values.number("auto.create.topics.limit"),
            num_partitions: values.number("num.partitions"),
            default_replication_factor: values.number("default.replication.factor"),
            delete_topic_enable: values.boolean("delete.topic.enable"),
            num_network_threads: values.number("num.network.threads"),
            socket_request_max_bytes: values.number("socket.request.max.bytes"),
            connections_max_idle_ms: u64::try_from(values.number::<i64>("connections.max.idle.ms"))
                .ok(),
            queued_max_request_bytes: usize::try_from(
                values.number::<i64>("queued.max.request.bytes"),
            )
            .ok()
            .filter(|bytes| *bytes > 0),
            memory_budget_bytes: budget.unwrap_or_else(|| memory::default_budget_bytes() as usize),
            max_decompressed_message_bytes: values.number("max.decompressed.message.bytes"),
            fetch_max_bytes: values.number("fetch.max.bytes"),
            max_incremental_fetch_session_cache_slots: values
                .number("max.incremental.fetch.session.cache.slots"),
            max_request_partition_size_limit: values.number("max.request.partition.size.limit"),
            max_producers_per_partition: values.number("max.producers.per.partition"),
            transaction_max_timeout_ms: values.number("transaction.max.timeout.ms"),
            log_scrub_interval: Duration::from_millis(values.number("log.scrub.interval.ms")),
            offsets_topic_num_partitions: values.number("offsets.topic.num.partitions"),
            groups: group_config(&values),
            values,
        };
        Ok((config, infos.collect()))
    }

    /// The text values, for what adds to them.
    pub fn values(&self) -> &Values {
        &self.values
    }
}

/// The values that were set, in checked form, over the defaults of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// At run time for this broker.
    of_broker: BTreeMap<&'static str, String>,
    /// At run time for all brokers.
    of_all: BTreeMap<&'static str, String>,
    /// From the properties file, the environment or the command line.
    fixed: BTreeMap<&'static str, String>,
}

impl Values {
    /// The value somebody set, the one in force first.
    pub fn set(&self, name: &str) -> Option<&str> {
        self.layers()
            .into_iter()
            .find_map(|(layer, _)| layer.get(name))
            .map(String::as_str)
    }

    /// The value that is in force where nothing is set at run time in this scope.
    pub fn beneath(&self, scope: BrokerScope, name: &str) -> Option<&str> {
        let of_all = match scope {
            BrokerScope::ThisBroker => self.of_all.get(name),
            BrokerScope::AllBrokers => None,
        };
        of_all
            .or_else(|| self.fixed.get(name))
            .map(String::as_str)
            .or_else(|| table::row(name)?.default)
    }

    /// Where values are set, the first that has one is in force.
    fn layers(&self) -> [(&BTreeMap<&'static str, String>, ConfigSource); 3] {
        [
            (&self.of_broker, ConfigSource::DynamicBrokerConfig),
            (&self.of_all, ConfigSource::DynamicDefaultBrokerConfig),
            (&self.fixed, ConfigSource::StaticBrokerConfig),
        ]
    }

    /// These values with what was set at run time over them.
    fn with_dynamic(
        &self,
        of_broker: BTreeMap<&'static str, String>,
        of_all: BTreeMap<&'static str, String>,
    ) -> Self {
        Self {
            of_broker,
            of_all,
            fixed: self.fixed.clone(),
        }
    }

    /// The value set, else the default; `None` is Kafka's null.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.set(name).or_else(|| table::row(name)?.default)
    }

    /// All values that could apply to a property: what was set under any of its names, then the defaults.
    ///
    /// Kafka drops what stands before the first entry of the property's own name
    /// (`DynamicBrokerConfig.configSynonyms`), and so does this.
    pub fn synonyms(&self, name: &str) -> Vec<ConfigSynonym> {
        let Some(row) = table::row(name) else {
            return Vec::new();
        };
        let topic_synonyms = row
            .topic
            .and_then(topic_table::row)
            .map(|topic| topic.synonyms)
            .unwrap_or_default();
        let mut names: Vec<&'static str> =
            topic_synonyms.iter().map(|(synonym, _)| *synonym).collect();
        if names.is_empty() {
            names.push(row.name);
        }
        let entry = |name: &'static str, value: Option<&str>, source| {
            Some(ConfigSynonym {
                name,
                value: Some(value?.to_owned()),
                source,
            })
        };
        let layers = self.layers();
        let set = layers.into_iter().flat_map(|(layer, source)| {
            let value = |name: &str| layer.get(name).map(String::as_str);
            names
                .iter()
                .filter_map(move |name| entry(name, value(name), source))
                .collect::<Vec<_>>()
        });
        let defaults = names
            .iter()
            .filter_map(|name| entry(name, table::row(name)?.default, ConfigSource::DefaultConfig));
        set.chain(defaults)
            .skip_while(|synonym| synonym.name != name)
            .collect()
    }

    /// A text; empty where it is unset without a default.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.value(name).unwrap_or_default()
    }

    fn boolean(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    fn number<T: FromStr>(&self, name: &str) -> T {
        self.text(name)
            .parse()
            .ok()
            .expect("a checked number fits the type of its field")
    }

    /// Stores a checked value.
    fn put(&mut self, name: &'static str, value: String) {
        self.fixed.insert(name, value);
    }
}

fn group_config(values: &Values) -> GroupConfig {
    GroupConfig {
        initial_rebalance_delay_ms: values.number("group.initial.rebalance.delay.ms"),
        min_session_timeout_ms: values.number("group.min.session.timeout.ms"),
        max_session_timeout_ms: values.number("group.max.session.timeout.ms"),
        max_size: values.number("group.max.size"),
        // Kafka takes a negative length, which no text fits.
        offset_metadata_max_bytes: usize::try_from(
            values.number::<i32>("offset.metadata.max.bytes"),
        )
        .unwrap_or(0),
        offsets_retention_ms: values.number::<i64>("offsets.retention.minutes") * 60_000,
        offsets_retention_check_interval_ms: values.number("offsets.retention.check.interval.ms"),
        member_metadata_max_bytes: values.number("group.member.metadata.max.bytes"),
        group_max_bytes: values.number("group.metadata.max.bytes"),
        max_groups: values.number("groups.max"),
    }
}

fn log_dir(values: &Values) -> Result<PathBuf, Refused> {
    let name = match values.set("log.dirs") {
        Some(dirs) if !dirs.is_empty() => "log.dirs",
        _ => "log.dir",
    };
    let mut dirs = split_list(values.text(name)).filter(|dir| !dir.is_empty());
    match (dirs.next(), dirs.next()) {
        (Some(dir), None) => Ok(PathBuf::from(dir)),
        (None, _) => Err(Refused {
            name,
            problem: "a directory is needed".to_owned(),
        }),
        (Some(first), Some(_)) => {
            let problem =
                format!("all data lives in one directory; name only one, such as {name}={first}");
            Err(Refused { name, problem })
        }
    }
}

fn metrics_listener(values: &Values) -> Result<Option<(String, u16)>, Refused> {
    let name = "metrics.listener";
    let text = values.text(name);
    if text.is_empty() {
        return Ok(None);
    }
    match listeners::split_address(text) {
        Some((host, port)) => Ok(Some((host.to_owned(), port))),
        None => Err(Refused {
            name,
            problem: "must be host:port, such as 127.0.0.1:9404, or empty".to_owned(),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests;
