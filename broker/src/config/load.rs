//! The loader: properties file, `KAFKA_*` environment, `--set`, each over the one before.
//!
//! Called once by `main` (and by tests). It refuses what cannot be right, with one line that names the
//! property, its value, where it stands and what is allowed; it warns about what is unknown or not
//! enforced. It logs nothing, opens no port and creates no directory.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use java_properties::{LineContent, PropertiesIter};
use thiserror::Error;

use super::listeners::Refused;
use super::table::{self, Row, State};
use super::{Config, Values, value};
use crate::topic_config::table as topic_table;

/// What the loader found.
#[derive(Debug)]
pub struct Loaded {
    /// The config.
    pub config: Config,
    /// For WARN lines: unknown keys, repeated keys, settings that are not enforced yet.
    pub warnings: Vec<Warning>,
    /// For INFO lines: settings without an effect here, listeners that are not opened.
    pub infos: Vec<String>,
    /// Where each property that was set was set last.
    pub sources: BTreeMap<&'static str, Origin>,
}

/// Something odd about a key that does not stop the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The key, as it was written.
    pub key: String,
    /// What is odd, without the key.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the properties file, at this line (from 1).
    File {
        /// The file.
        path: PathBuf,
        /// The line where the value begins.
        line: usize,
    },
    /// In an environment variable.
    Environment(String),
    /// On the command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::CommandLine => f.write_str("--set"),
        }
    }
}

/// Why there is no config. Every variant prints as one line.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The properties file cannot be read.
    #[error("cannot read config file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not in the format of Java properties.
    #[error("config file {}{}: {problem}", path.display(), line.map(|line| format!(" line {line}")).unwrap_or_default())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, where it is known.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// An argument of `--set` is not `key=value`.
    #[error("--set {argument}: must be key=value, such as --set num.partitions=3")]
    NotAnAssignment {
        /// The argument.
        argument: String,
    },
    /// A property was given a value it cannot have.
    #[error("{name}={value} ({origin}): {problem}")]
    Value {
        /// The property.
        name: &'static str,
        /// Its value, as written.
        value: String,
        /// Where it stands.
        origin: Origin,
        /// What is wrong, with the allowed range and the way out.
        problem: String,
    },
    /// A property that nobody set has to be set.
    #[error("{name}: {problem}")]
    Missing {
        /// The property.
        name: &'static str,
        /// Why, and what to write.
        problem: String,
    },
}

impl Config {
    /// Reads the config from these sources, each over the one before: defaults, properties file,
    /// environment, `--set` arguments. Reads the file and this machine's name and memory, no more.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Loaded, ConfigError> {
        let mut warnings = Vec::new();
        let mut settings = BTreeMap::new();
        if let Some(path) = file {
            read_file(path, &mut settings, &mut warnings)?;
        }
        for (variable, value) in env {
            if let Some(key) = property_of(&variable) {
                settings.insert(key, (value, Origin::Environment(variable)));
            }
        }
        for argument in sets {
            let not_an_assignment = || ConfigError::NotAnAssignment {
                argument: argument.clone(),
            };
            let (key, value) = argument.split_once('=').ok_or_else(not_an_assignment)?;
            if key.trim().is_empty() {
                return Err(not_an_assignment());
            }
            settings.insert(
                key.trim().to_owned(),
                (value.to_owned(), Origin::CommandLine),
            );
        }
        from_settings(settings, warnings)
    }
}

/// Key -> value and where it stands.
type Settings = BTreeMap<String, (String, Origin)>;

fn from_settings(settings: Settings, mut warnings: Vec<Warning>) -> Result<Loaded, ConfigError> {
    let mut values = Values::default();
    let mut infos = Vec::new();
    let mut sources = BTreeMap::new();
    for (key, (value, origin)) in settings {
        let Some(row) = table::row(&key) else {
            if table::silent(&key).is_none() {
                warnings.push(Warning {
                    message: unknown(&key, &origin),
                    key,
                });
            }
            continue;
        };
        match value::check(row.config_type, row.bounds, &value) {
            Ok(checked) => values.put(row.name, checked),
            Err(problem) => {
                let problem = format!("{problem}; {}", way_out(row));
                let value = on_one_line(&value);
                return Err(ConfigError::Value {
                    name: row.name,
                    value,
                    origin,
                    problem,
                });
            }
        }
        sources.insert(row.name, origin);
        match row.state() {
            State::Effective => {}
            State::NotYet(note) => warnings.push(Warning {
                key,
                message: format!("accepted, but {note}"),
            }),
            State::NoMeaning(reason) => infos.push(format!("{key} has no effect here: {reason}")),
        }
    }
    let refused =
        |Refused { name, problem }, values: &Values, sources: &BTreeMap<&str, Origin>| match (
            values.set(name),
            sources.get(name),
        ) {
            (Some(value), Some(origin)) => ConfigError::Value {
                name,
                value: on_one_line(value),
                origin: origin.clone(),
                problem,
            },
            _ => ConfigError::Missing { name, problem },
        };
    one_node_id(&mut values).map_err(|problem| refused(problem, &values, &sources))?;
    check_together(&values).map_err(|problem| refused(problem, &values, &sources))?;
    let built = Config::from_values(values.clone(), hostname);
    let (config, listener_infos) = built.map_err(|problem| refused(problem, &values, &sources))?;
    infos.extend(listener_infos);
    Ok(Loaded {
        config,
        warnings,
        infos,
        sources,
    })
}

fn read_file(
    path: &Path,
    settings: &mut Settings,
    warnings: &mut Vec<Warning>,
) -> Result<(), ConfigError> {
    let text = std::fs::read(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    for line in PropertiesIter::new(text.as_slice()) {
        let line = line.map_err(|error| ConfigError::Malformed {
            path: path.to_owned(),
            line: error.line_number(),
            problem:
                "not in the format of Java properties (key=value, \\uXXXX for other characters)"
                    .to_owned(),
        })?;
        let number = line.line_number();
        let LineContent::KVPair(key, value) = line.consume_content() else {
            continue;
        };
        let origin = Origin::File {
            path: path.to_owned(),
            line: number,
        };
        if let Some((_, Origin::File { line: earlier, .. })) =
            settings.insert(key.clone(), (value, origin))
        {
            let message = format!(
                "set twice in {}, at lines {earlier} and {number}; the later one counts",
                path.display()
            );
            warnings.push(Warning { key, message });
        }
    }
    Ok(())
}

/// The property that an environment variable sets, by the rule of Kafka's official image
/// (`KafkaDockerWrapper`): KAFKA_FOO_BAR is foo.bar, `__` stands for `_`, `___` for `-`.
fn property_of(variable: &str) -> Option<String> {
    // What the image itself, Kafka's scripts and the JVM take from the environment.
    const NOT_PROPERTIES: &[&str] = &[
        "KAFKA_VERSION",
        "KAFKA_HOME",
        "KAFKA_DEBUG",
        "KAFKA_OPTS",
        "KAFKA_HEAP_OPTS",
        "KAFKA_GC_LOG_OPTS",
        "KAFKA_JVM_PERFORMANCE_OPTS",
    ];
    const NOT_PROPERTIES_BY_PREFIX: &[&str] = &["KAFKA_JMX_", "KAFKA_LOG4J", "KAFKA_TOOLS_LOG4J"];
    let name = variable
        .strip_prefix("KAFKA_")
        .filter(|name| !name.is_empty())?;
    if NOT_PROPERTIES.contains(&variable)
        || NOT_PROPERTIES_BY_PREFIX
            .iter()
            .any(|prefix| variable.starts_with(prefix))
    {
        return None;
    }
    Some(
        name.to_lowercase()
            .replace('_', ".")
            .replace("...", "-")
            .replace("..", "_"),
    )
}

fn unknown(key: &str, origin: &Origin) -> String {
    match topic_table::row(key).and_then(|row| row.synonyms.first()) {
        Some((synonym, _)) => {
            format!(
                "a topic config, ignored ({origin}); its default for all topics is the property {synonym}"
            )
        }
        None => format!("unknown property, ignored ({origin})"),
    }
}

fn way_out(row: &Row) -> String {
    match row.default {
        None => "or leave it out".to_owned(),
        Some("") => "or leave it out (default: empty)".to_owned(),
        Some(default) => format!("or leave it out (default: {default})"),
    }
}

/// A value as one line of a message can show it.
fn on_one_line(value: &str) -> String {
    let shown = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    value.chars().map(shown).collect()
}

/// `node.id` and its older name say the same; a negative `broker.id` asks Kafka for a generated one.
fn one_node_id(values: &mut Values) -> Result<(), Refused> {
    let broker_id = values
        .set("broker.id")
        .filter(|id| !id.starts_with('-'))
        .map(str::to_owned);
    let node_id = values.set("node.id").map(str::to_owned);
    match (node_id, broker_id) {
        (Some(node), Some(broker)) if node != broker => Err(Refused {
            name: "broker.id",
            problem: format!("must be equal to node.id={node}; keep only node.id"),
        }),
        (None, Some(id)) => {
            values.put("node.id", id);
            Ok(())
        }
        (Some(id), _) => {
            values.put("broker.id", id);
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

/// Rules beyond one row (Kafka's `KafkaConfig.validateValues`).
pub(super) fn check_together(values: &Values) -> Result<(), Refused> {
    for name in [
        "log.retention.ms",
        "log.retention.minutes",
        "log.retention.hours",
    ] {
        if values.set(name) == Some("0") {
            return Err(Refused {
                name,
                problem: "must be at least 1, or -1 for no limit".to_owned(),
            });
        }
    }
    let least: i64 = values.number("log.cleaner.min.compaction.lag.ms");
    let most: i64 = values.number("log.cleaner.max.compaction.lag.ms");
    if least > most {
        let problem = format!("must not be above log.cleaner.max.compaction.lag.ms={most}");
        return Err(Refused {
            name: "log.cleaner.min.compaction.lag.ms",
            problem,
        });
    }
    Ok(())
}

/// The name of this machine, for clients of a listener on every interface.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" | "(none)" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
