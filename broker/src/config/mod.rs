//! The broker's config: one typed struct, made once at start from Kafka's `server.properties`,
//! `KAFKA_*` environment variables and `--set` (loader in `load.rs`, table in `table.rs`).
//!
//! Everybody reads the fields of [`Config`]; only DescribeConfigs and the topic configs look at the text
//! values behind them. Nothing here changes after the start. Invariant: what a `Config` holds passed its
//! row's bounds, so that the typed readers cannot fail.

pub mod listeners;
pub mod load;
pub mod markdown;
mod memory;
pub mod table;
pub mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

pub use listeners::{Listener, SecurityProtocol};
pub use load::{ConfigError, Loaded, Origin, Warning};
pub use table::State;

use crate::topic_config::TopicConfig;
use crate::topic_config::table as topic_table;
use listeners::{Listeners, Refused};
use value::{ConfigSource, ConfigSynonym, DescribedConfig, split_list};

/// The configuration of a broker.
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
    /// `max.connections`
    pub max_connections: usize,
    /// `max.connections.per.ip`
    pub max_connections_per_ip: usize,
    /// `max.connection.creation.rate`, per second
    pub max_connection_creation_rate: usize,
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
    /// `producer.id.expiration.ms`
    pub producer_id_expiration_ms: i64,
    /// `max.producers.per.partition`
    pub max_producers_per_partition: usize,
    /// `transaction.max.timeout.ms`
    pub transaction_max_timeout_ms: i32,
    /// The configs of a topic that sets none of its own.
    pub topic_defaults: TopicConfig,
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
            max_connections: values.number("max.connections"),
            max_connections_per_ip: values.number("max.connections.per.ip"),
            max_connection_creation_rate: values.number("max.connection.creation.rate"),
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
            producer_id_expiration_ms: values.number("producer.id.expiration.ms"),
            max_producers_per_partition: values.number("max.producers.per.partition"),
            transaction_max_timeout_ms: values.number("transaction.max.timeout.ms"),
            topic_defaults: TopicConfig::from_values(&BTreeMap::new(), &values),
            values,
        };
        Ok((config, infos.collect()))
    }

    /// The text values, for DescribeConfigs and for the defaults of topic configs.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// All properties with the values in force, as DescribeConfigs shows them.
    pub fn describe_broker(&self) -> Vec<DescribedConfig> {
        table::BROKER_CONFIGS
            .iter()
            .map(|row| self.describe(row))
            .collect()
    }

    fn describe(&self, row: &'static table::Row) -> DescribedConfig {
        let synonyms = self.values.synonyms(row.name);
        let value = match row.name {
            "memory.budget.bytes" => Some(self.memory_budget_bytes.to_string()),
            name => self.values.value(name).map(str::to_owned),
        };
        DescribedConfig {
            name: row.name,
            value,
            source: synonyms
                .first()
                .map_or(ConfigSource::DefaultConfig, |synonym| synonym.source),
            read_only: !row.dynamic,
            sensitive: false,
            config_type: row.config_type,
            documentation: row.documentation,
            synonyms,
        }
    }
}

/// The values that were set, in checked form, over the defaults of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    set: BTreeMap<&'static str, String>,
}

impl Values {
    /// The value somebody set.
    pub fn set(&self, name: &str) -> Option<&str> {
        self.set.get(name).map(String::as_str)
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
        let set = names
            .iter()
            .filter_map(|name| entry(name, self.set(name), ConfigSource::StaticBrokerConfig));
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
        self.set.insert(name, value);
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
