//! The part of the broker's config that can change at run time, and where the values in force are found.
//!
//! A dynamic property has up to four values: one set at run time for this broker, one set at run time for
//! all brokers, one of the properties file, and the default; the first one counts. What was set at run time
//! is text in the metadata image, so that it survives a restart; [`DynamicConfig::resolve`] adds it to the
//! static config whenever the image changes it, and [`LiveConfig`] hands the outcome to everybody.
//!
//! Invariant: a dynamic property is no field of [`Config`], so that nobody can read it from there by mistake.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_coordinator::metadata::{ConfigResource, Image};
use ottla_storage::log::CleanerLimits;
use tokio::sync::watch;

use super::load::check_together;
use super::value::{self, ConfigSource, ConfigSynonym, DescribedConfig};
use super::{Config, Values, memory, table};
use crate::topic_config::TopicConfig;

/// What the name of a broker resource asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerScope {
    /// The empty name: what is set at run time for all brokers.
    AllBrokers,
    /// A broker's id: this broker.
    ThisBroker,
}

/// The dynamic properties with the values in force.
#[derive(Debug, Clone)]
pub struct DynamicConfig {
    /// `max.connections`
    pub max_connections: usize,
    /// `max.connections.per.ip`
    pub max_connections_per_ip: usize,
    /// `max.connection.creation.rate`, per second
    pub max_connection_creation_rate: usize,
    /// `producer.id.expiration.ms`
    pub producer_id_expiration_ms: i64,
    /// `log.cleaner.*`
    pub cleaner: CleanerConfig,
    /// The configs of a topic that sets none of its own.
    pub topic_defaults: TopicConfig,
    values: Values,
}

/// How the log cleaner works.
#[derive(Debug, Clone, Copy)]
pub struct CleanerConfig {
    /// `log.cleaner.backoff.ms`
    pub backoff_ms: u64,
    /// `log.cleaner.io.max.bytes.per.second`
    pub io_max_bytes_per_second: f64,
    /// `log.cleaner.dedupe.buffer.size` (within the memory budget), `log.cleaner.io.buffer.load.factor` and
    /// `log.cleaner.io.buffer.size`
    pub limits: CleanerLimits,
}

impl CleanerConfig {
    fn of(values: &Values, memory_budget_bytes: usize) -> Self {
        let dedupe_buffer_bytes: i64 = values.number("log.cleaner.dedupe.buffer.size");
        Self {
            backoff_ms: values.number("log.cleaner.backoff.ms"),
            io_max_bytes_per_second: values.number("log.cleaner.io.max.bytes.per.second"),
            limits: CleanerLimits {
                dedupe_buffer_bytes: usize::try_from(dedupe_buffer_bytes)
                    .unwrap_or(0)
                    .min(memory::shares(memory_budget_bytes).dedupe_buffer),
                load_factor: values.number("log.cleaner.io.buffer.load.factor"),
                io_buffer_bytes: values.number("log.cleaner.io.buffer.size"),
            },
        }
    }
}

impl DynamicConfig {
    /// The values in force where `of_broker` and `of_all` were set at run time.
    ///
    /// A setting that does not pass its bounds, or is no longer dynamic (written by a release that knew
    /// others), counts as unset.
    pub fn resolve(
        config: &Config,
        of_broker: &BTreeMap<String, String>,
        of_all: &BTreeMap<String, String>,
    ) -> Self {
        let values = config
            .values()
            .with_dynamic(known(of_broker), known(of_all));
        Self {
            max_connections: values.number("max.connections"),
            max_connections_per_ip: values.number("max.connections.per.ip"),
            max_connection_creation_rate: values.number("max.connection.creation.rate"),
            producer_id_expiration_ms: values.number("producer.id.expiration.ms"),
            cleaner: CleanerConfig::of(&values, config.memory_budget_bytes),
            topic_defaults: TopicConfig::from_values(&BTreeMap::new(), &values),
            values,
        }
    }

    /// As `resolve`, with nothing set at run time.
    pub fn at_start(config: &Config) -> Self {
        Self::resolve(config, &BTreeMap::new(), &BTreeMap::new())
    }

    /// As `resolve`, with what the metadata image holds.
    pub fn of_image(config: &Config, image: &Image) -> Self {
        let set = |name: String| image.resource_configs(&ConfigResource::Broker(name));
        Self::resolve(
            config,
            &set(config.node_id.to_string()),
            &set(String::new()),
        )
    }

    /// The text values, for the defaults of topic configs.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// All properties with the values in force, as DescribeConfigs shows them.
    pub fn describe(&self, config: &Config) -> Vec<DescribedConfig> {
        table::BROKER_CONFIGS
            .iter()
            .map(|row| {
                let value = match row.name {
                    // Without a setting it depends on the machine.
                    "memory.budget.bytes" => Some(config.memory_budget_bytes.to_string()),
                    name => self.values.value(name).map(str::to_owned),
                };
                described(row, value, self.values.synonyms(row.name))
            })
            .collect()
    }

    /// What is set at run time for all brokers, and nothing else, as DescribeConfigs shows it.
    pub fn describe_of_all(&self) -> Vec<DescribedConfig> {
        table::BROKER_CONFIGS
            .iter()
            .filter_map(|row| {
                let value = self.values.of_all.get(row.name)?.clone();
                let synonym = ConfigSynonym {
                    name: row.name,
                    value: Some(value.clone()),
                    source: ConfigSource::DynamicDefaultBrokerConfig,
                };
                Some(described(row, Some(value), vec![synonym]))
            })
            .collect()
    }
}

/// Checks what is to be set at run time for this or for all brokers, all of it together, over what is in
/// force. The error names key, value and what is allowed.
pub fn check_dynamic(
    live: &DynamicConfig,
    scope: BrokerScope,
    settings: &BTreeMap<String, String>,
) -> Result<(), String> {
    for (name, value) in settings {
        let Some(row) = table::row(name).filter(|row| row.dynamic) else {
            continue; // of another release; it counts as unset
        };
        value::check(row.config_type, row.bounds, value).map_err(|reason| {
            let value = value::shown(value);
            format!("Invalid value {value} for configuration {name}: {reason}")
        })?;
    }
    let mut values = live.values.clone();
    match scope {
        BrokerScope::AllBrokers => values.of_all = known(settings),
        BrokerScope::ThisBroker => values.of_broker = known(settings),
    }
    check_together(&values).map_err(|refused| {
        let value = values.value(refused.name).unwrap_or_default();
        let (name, problem) = (refused.name, refused.problem);
        format!("Invalid value {value} for configuration {name}: {problem}")
    })
}

/// The settings that have a dynamic row and pass its bounds, in checked form.
fn known(settings: &BTreeMap<String, String>) -> BTreeMap<&'static str, String> {
    settings
        .iter()
        .filter_map(|(name, value)| {
            let row = table::row(name).filter(|row| row.dynamic)?;
            let checked = value::check(row.config_type, row.bounds, value).ok()?;
            Some((row.name, checked))
        })
        .collect()
}

fn described(
    row: &'static table::Row,
    value: Option<String>,
    synonyms: Vec<ConfigSynonym>,
) -> DescribedConfig {
    DescribedConfig {
        name: row.name,
        value,
        source: synonyms
            .first()
            .map_or(ConfigSource::DefaultConfig, |synonym| synonym.source),
        read_only: !row.dynamic,
        sensitive: false,
        config_type: row.config_type,
        documentation: row.state().documented(row.documentation),
        synonyms,
    }
}

/// Where the dynamic config in force is found. Written by the metadata log alone, before the image that
/// brought the change is published.
#[derive(Debug)]
pub struct LiveConfig {
    current: watch::Sender<Arc<DynamicConfig>>,
}

impl LiveConfig {
    /// The static config, until somebody tells more.
    pub fn new(config: &Config) -> Self {
        let dynamic = DynamicConfig::at_start(config);
        Self {
            current: watch::Sender::new(Arc::new(dynamic)),
        }
    }

    /// The values in force. Take it once a request, not once a partition.
    pub fn current(&self) -> Arc<DynamicConfig> {
        self.current.borrow().clone()
    }

    /// Every change from now on, for those who keep what they read.
    pub fn changes(&self) -> watch::Receiver<Arc<DynamicConfig>> {
        self.current.subscribe()
    }

    /// Puts other values in force.
    pub(crate) fn replace(&self, dynamic: Arc<DynamicConfig>) {
        self.current.send_replace(dynamic);
    }
}

#[cfg(test)]
#[path = "dynamic_tests.rs"]
mod tests;
