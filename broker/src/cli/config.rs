//! `ottla config`: what topics and brokers are set to, and by whom; set and unset.
//!
//! DescribeConfigs and IncrementalAlterConfigs. A change is checked and made by the broker alone: this file knows no
//! property by name. Also used by `topic describe` and `topic alter`.

use clap::{Args, Subcommand, ValueEnum};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};
use ottla_protocol::error_code::ErrorCode;
use serde_json::{Value, json};

use super::client::{Node, text, topic_failure};
use super::failure::{Failure, Result};
use super::output::Table;
use super::run::{Common, Session};

/// `ottla config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What all client commands have.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The subcommands of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Everything that was set on a topic or a broker and is not its default
    List,
    /// All properties of one topic or broker, with value and source
    Describe {
        /// Of what kind it is
        kind: ResourceKind,
        /// The topic's name or the broker's id
        name: String,
        /// Only these properties
        keys: Vec<String>,
        /// With what each property means
        #[arg(long)]
        doc: bool,
    },
    /// Set properties, effective at once
    Set {
        /// Of what kind it is
        kind: ResourceKind,
        /// The topic's name or the broker's id
        name: String,
        /// What to set
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Give properties their defaults back
    Unset {
        /// Of what kind it is
        kind: ResourceKind,
        /// The topic's name or the broker's id
        name: String,
        /// What to unset
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
}

/// What has a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResourceKind {
    /// A topic.
    Topic,
    /// A broker.
    Broker,
}

/// One that has a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// The topic of this name.
    Topic(String),
    /// The broker of this id.
    Broker(i32),
}

impl Resource {
    fn of(kind: ResourceKind, name: &str) -> Result<Self> {
        match kind {
            ResourceKind::Topic => Ok(Self::Topic(name.to_owned())),
            ResourceKind::Broker => {
                let id = name.parse().ok().filter(|id| *id >= 0);
                id.map(Self::Broker).ok_or_else(|| {
                    Failure::usage(format_args!(
                        "broker {name:?} is no id; ottla doctor shows the ids"
                    ))
                })
            }
        }
    }

    /// `ConfigResource.Type` and the name.
    fn wire(&self) -> (i8, String) {
        match self {
            Self::Topic(name) => (2, name.clone()),
            Self::Broker(id) => (4, id.to_string()),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Topic(_) => "topic",
            Self::Broker(_) => "broker",
        }
    }

    /// A broker alone knows its own configuration.
    fn node(&self) -> Node {
        match self {
            Self::Topic(_) => Node::Any,
            Self::Broker(id) => Node::Id(*id),
        }
    }

    fn failure(&self, code: i16, message: Option<&str>) -> Failure {
        match self {
            Self::Topic(name) if code == ErrorCode::UnknownTopicOrPartition.code() => {
                topic_failure(name, code)
            }
            _ => Failure::told(
                format_args!("{} {}", self.kind(), self.wire().1),
                code,
                message,
            ),
        }
    }
}

/// A change of one property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    key: String,
    /// `None` gives the default back.
    value: Option<String>,
}

impl Setting {
    /// From what stands behind `--set` and `--unset`.
    pub fn all(sets: &[String], unsets: &[String]) -> Result<Vec<Self>> {
        let mut settings = Vec::new();
        for set in sets {
            let (key, value) = key_value(set)?;
            settings.push(Self {
                key: key.to_owned(),
                value: Some(value.to_owned()),
            });
        }
        for key in unsets {
            if key.contains('=') {
                return Err(Failure::usage(format_args!(
                    "{key:?} is to be unset and has a value"
                )));
            }
            settings.push(Self {
                key: key.clone(),
                value: None,
            });
        }
        Ok(settings)
    }
}

/// Both sides of `KEY=VALUE`.
pub fn key_value(text: &str) -> Result<(&str, &str)> {
    let split = text.split_once('=').filter(|(key, _)| !key.is_empty());
    split.ok_or_else(|| Failure::usage(format_args!("{text:?} is not KEY=VALUE")))
}

/// A property as the broker tells it.
#[derive(Debug)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// `None` if it has none, or is secret.
    pub value: Option<String>,
    /// Whether it was set on this very topic and can be unset.
    pub is_set_here: bool,
    source: &'static str,
    read_only: bool,
    sensitive: bool,
    kind: &'static str,
    documentation: Option<String>,
}

impl Described {
    fn new(config: DescribeConfigsResourceResult) -> Self {
        Self {
            name: config.name.to_string(),
            value: config.value.map(|value| value.to_string()),
            is_set_here: config.config_source == 1,
            source: source_name(config.config_source),
            read_only: config.read_only,
            sensitive: config.is_sensitive,
            kind: type_name(config.config_type),
            documentation: config.documentation.map(|text| text.to_string()),
        }
    }

    fn shown(&self) -> String {
        match &self.value {
            _ if self.sensitive => "(secret)".to_owned(),
            None => "-".to_owned(),
            Some(value) => value.clone(),
        }
    }

    fn json(&self, resource: &Resource) -> Value {
        let (_, name) = resource.wire();
        json!({
            "resource": resource.kind(), "resource_name": name, "name": self.name, "value": self.value,
            "source": self.source, "read_only": self.read_only, "sensitive": self.sensitive,
            "type": self.kind, "documentation": self.documentation,
        })
    }
}

/// `DescribeConfigsResponse.ConfigSource`.
fn source_name(source: i8) -> &'static str {
    match source {
        1 => "topic",
        2 => "broker",
        3 => "all brokers",
        4 => "server.properties",
        5 => "default",
        6 => "logger",
        7 => "client metrics",
        8 => "group",
        _ => "unknown",
    }
}

/// `DescribeConfigsResponse.ConfigType`.
fn type_name(kind: i8) -> &'static str {
    match kind {
        1 => "boolean",
        2 => "string",
        3 => "int",
        4 => "short",
        5 => "long",
        6 => "double",
        7 => "list",
        8 => "class",
        9 => "password",
        _ => "unknown",
    }
}

/// Runs it.
pub async fn run(session: &mut Session, command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::List => list(session).await,
        ConfigCommand::Describe {
            kind,
            name,
            keys,
            doc,
        } => {
            let resource = Resource::of(*kind, name)?;
            let documented = *doc || session.out.is_json();
            describe(session, &resource, keys, documented).await
        }
        ConfigCommand::Set {
            kind,
            name,
            settings,
        } => {
            alter(
                session,
                &Resource::of(*kind, name)?,
                &Setting::all(settings, &[])?,
            )
            .await
        }
        ConfigCommand::Unset { kind, name, keys } => {
            alter(
                session,
                &Resource::of(*kind, name)?,
                &Setting::all(&[], keys)?,
            )
            .await
        }
    }
}

async fn list(session: &mut Session) -> Result<()> {
    let metadata = session.client.metadata(None, false).await?;
    let mut resources: Vec<Resource> = metadata
        .brokers
        .iter()
        .map(|broker| Resource::Broker(broker.node_id.0))
        .collect();
    let mut topics: Vec<String> = metadata
        .topics
        .iter()
        .filter(|topic| topic.error_code == 0 && !topic.is_internal)
        .filter_map(|topic| topic.name.as_ref().map(|name| name.to_string()))
        .collect();
    topics.sort_unstable();
    resources.extend(topics.into_iter().map(Resource::Topic));
    let mut table = Table::new(&["RESOURCE", "NAME", "PROPERTY", "VALUE", "SOURCE"]);
    let mut objects = Vec::new();
    for resource in &resources {
        let mut configs = described(session, resource, None, false).await?;
        configs.sort_by(|a, b| a.name.cmp(&b.name));
        for config in configs {
            // What a topic takes from its broker is listed there.
            let listed = match resource {
                Resource::Topic(_) => config.is_set_here,
                Resource::Broker(_) => config.source != "default",
            };
            if listed {
                let (_, name) = resource.wire();
                table.row([
                    resource.kind().to_owned(),
                    name,
                    config.name.clone(),
                    config.shown(),
                    config.source.to_owned(),
                ]);
                objects.push(config.json(resource));
            }
        }
    }
    session.out.rows(&table, &objects)
}

async fn describe(
    session: &mut Session,
    resource: &Resource,
    keys: &[String],
    documented: bool,
) -> Result<()> {
    let wanted = (!keys.is_empty()).then_some(keys);
    let mut configs = described(session, resource, wanted, documented).await?;
    configs.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(missing) = keys
        .iter()
        .find(|key| configs.iter().all(|config| config.name != **key))
    {
        let (_, name) = resource.wire();
        return Err(Failure::refused(format_args!(
            "{} {name} has no property {missing}; without it all are shown",
            resource.kind()
        )));
    }
    let objects: Vec<Value> = configs.iter().map(|config| config.json(resource)).collect();
    let mut table = if documented {
        Table::new(&["PROPERTY", "VALUE", "SOURCE", "TYPE", "MEANING"])
    } else {
        Table::new(&["PROPERTY", "VALUE", "SOURCE", "TYPE"])
    };
    for config in &configs {
        let source = if config.read_only {
            format!("{}, read-only", config.source)
        } else {
            config.source.to_owned()
        };
        let cells = [
            config.name.clone(),
            config.shown(),
            source,
            config.kind.to_owned(),
        ];
        if documented {
            let [name, value, source, kind] = cells;
            table.row([
                name,
                value,
                source,
                kind,
                config.documentation.clone().unwrap_or_default(),
            ]);
        } else {
            table.row(cells);
        }
    }
    session.out.rows(&table, &objects)
}

/// The properties of a topic or broker.
pub async fn described(
    session: &mut Session,
    resource: &Resource,
    keys: Option<&[String]>,
    documented: bool,
) -> Result<Vec<Described>> {
    let (kind, name) = resource.wire();
    let wanted = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(&name))
        .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()));
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![wanted])
        .with_include_documentation(documented);
    let node = reach(session, resource).await?;
    let versions = if documented { 3..=4 } else { 1..=4 };
    let response = session.client.ask(node, versions, &request).await?;
    let Some(result) = response.results.into_iter().next() else {
        return Err(Failure::refused(format_args!(
            "{} {name}: the broker did not answer about it",
            resource.kind()
        )));
    };
    if result.error_code != 0 {
        return Err(resource.failure(result.error_code, result.error_message.as_deref()));
    }
    Ok(result.configs.into_iter().map(Described::new).collect())
}

/// Changes properties of a topic or broker, all or none.
pub async fn alter(session: &mut Session, resource: &Resource, settings: &[Setting]) -> Result<()> {
    let (kind, name) = resource.wire();
    let configs = settings.iter().map(|setting| {
        AlterableConfig::default()
            .with_name(text(&setting.key))
            // SET and DELETE of `AlterConfigOp.OpType`.
            .with_config_operation(if setting.value.is_some() { 0 } else { 1 })
            .with_value(setting.value.as_deref().map(text))
    });
    let altered = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(&name))
        .with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![altered]);
    let node = reach(session, resource).await?;
    let response = session.client.ask(node, 0..=1, &request).await?;
    for result in response.responses {
        if result.error_code != 0 {
            return Err(resource.failure(result.error_code, result.error_message.as_deref()));
        }
    }
    for setting in settings {
        if session.out.is_json() {
            session.out.object(&json!({
                "resource": resource.kind(), "resource_name": name,
                "name": setting.key, "value": setting.value,
            }))?;
        } else {
            let what = match &setting.value {
                Some(value) => format!("set {}={value}", setting.key),
                None => format!("unset {}", setting.key),
            };
            session
                .out
                .line(format_args!("{what} on {} {name}", resource.kind()))?;
        }
    }
    Ok(())
}

/// The broker to ask, whose address is known then.
async fn reach(session: &mut Session, resource: &Resource) -> Result<Node> {
    if let Resource::Broker(id) = resource {
        let metadata = session.client.metadata(Some(&[]), false).await?;
        let ids: Vec<i32> = metadata
            .brokers
            .iter()
            .map(|broker| broker.node_id.0)
            .collect();
        if !ids.contains(id) {
            return Err(Failure::refused(format_args!(
                "broker {id} is not there; the cluster has {ids:?}"
            )));
        }
    }
    Ok(resource.node())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_keys_and_values() {
        assert_eq!(key_value("a=b=c").unwrap(), ("a", "b=c"));
        assert_eq!(key_value("a=").unwrap(), ("a", ""));
        for wrong in ["a", "=b", ""] {
            assert_eq!(key_value(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
        let settings = Setting::all(&["a=1".to_owned()], &["b".to_owned()]).unwrap();
        assert_eq!(
            (settings[0].value.as_deref(), settings[1].value.as_deref()),
            (Some("1"), None)
        );
        assert!(Setting::all(&[], &["a=1".to_owned()]).is_err());
    }

    #[test]
    fn a_broker_goes_by_its_id() {
        assert_eq!(
            Resource::of(ResourceKind::Broker, "1").unwrap(),
            Resource::Broker(1)
        );
        for wrong in ["", "one", "-1"] {
            assert_eq!(
                Resource::of(ResourceKind::Broker, wrong)
                    .unwrap_err()
                    .exit_code(),
                2
            );
        }
    }
}
