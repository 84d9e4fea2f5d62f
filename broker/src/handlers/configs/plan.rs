//! What the settings of one resource are to become: the rules of AlterConfigs and IncrementalAlterConfigs.
//!
//! Pure: called by `alter.rs` with the present settings. Codes and wording are Kafka's where it refuses too
//! (`ConfigAdminManager`, `ConfigurationControlManager`; measured on 4.3.1):
//!
//! | what is wrong | topic | broker |
//! |---|---|---|
//! | a key twice, a null value, an unknown operation | INVALID_REQUEST | INVALID_REQUEST |
//! | APPEND or SUBTRACT to what is no list | INVALID_CONFIG | INVALID_CONFIG |
//! | an unknown key | INVALID_CONFIG | INVALID_CONFIG; Kafka keeps it for its plug-ins, here nothing would read it |
//! | a value that is not allowed | INVALID_CONFIG | INVALID_REQUEST |
//! | a key that needs a restart | | INVALID_REQUEST |
//!
//! Deleting a key is always fine, whether it is set, known, or neither.

use std::collections::{BTreeMap, BTreeSet};

use ottla_protocol::error_code::ErrorCode;

use super::{Kind, Refusal, Target};
use crate::config::dynamic::{BrokerScope, check_dynamic};
use crate::config::value::{self, Bounds, ConfigType};
use crate::config::{DynamicConfig, table};
use crate::topic_config;
use crate::topic_config::table as topic_table;

/// The settings of a resource: text by name, as the metadata image has them.
pub(super) type Settings = BTreeMap<String, String>;

/// What a request asks of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// Whether settings that are not named go.
    pub replace: bool,
    /// Key, operation and value, as they were sent.
    pub entries: Vec<(String, i8, Option<String>)>,
}

/// One change of one key (Kafka's `AlterConfigOp.OpType`).
enum Change<'a> {
    Set(&'a str),
    Delete,
    Append(&'a str),
    Subtract(&'a str),
}

/// The operation that AlterConfigs means.
pub(super) const SET: i8 = 0;

/// The settings a resource is to have, all of them valid together with what is in force.
pub(super) fn plan(
    target: &Target,
    asked: &Asked,
    present: &Settings,
    live: &DynamicConfig,
) -> Result<Settings, Refusal> {
    let changes = understood(asked)?;
    match target {
        Target::Topic(_) => plan_topic(asked.replace, &changes, present, live),
        Target::Broker(scope) => plan_broker(*scope, asked.replace, &changes, present, live),
        Target::Without(kind) => plan_without(*kind, &changes),
    }
}

fn understood(asked: &Asked) -> Result<Vec<(&str, Change<'_>)>, Refusal> {
    let mut names = BTreeSet::new();
    let mut changes = Vec::with_capacity(asked.entries.len());
    for (name, operation, value) in &asked.entries {
        if !names.insert(name.as_str()) {
            let message = "Error due to duplicate config keys";
            return Err(Refusal::invalid_request(message));
        }
        let change = match (*operation, value.as_deref()) {
            (1, _) => Change::Delete,
            (_, None) => {
                return Err(Refusal::invalid_request(format!(
                    "Null value not supported for : {}",
                    value::shown(name)
                )));
            }
            (SET, Some(value)) => Change::Set(value),
            (2, Some(value)) => Change::Append(value),
            (3, Some(value)) => Change::Subtract(value),
            (other, Some(_)) => {
                return Err(Refusal::invalid_request(format!(
                    "Unknown config operation {other} for {}",
                    value::shown(name)
                )));
            }
        };
        changes.push((name.as_str(), change));
    }
    Ok(changes)
}

/// The settings after the changes. `known` tells the type, bounds and the value of a key that is not set.
fn changed(
    replace: bool,
    changes: &[(&str, Change<'_>)],
    present: &Settings,
    known: impl Fn(&str) -> Result<(ConfigType, Bounds, String), Refusal>,
) -> Result<Settings, Refusal> {
    let mut settings = if replace {
        Settings::new()
    } else {
        present.clone()
    };
    for (name, change) in changes {
        let (operation, items, append) = match change {
            Change::Delete => {
                settings.remove(*name);
                continue;
            }
            Change::Set(value) => {
                known(name)?;
                settings.insert((*name).to_owned(), (*value).to_owned());
                continue;
            }
            Change::Append(items) => ("APPEND", items, true),
            Change::Subtract(items) => ("SUBTRACT", items, false),
        };
        let (config_type, bounds, unset) = known(name)?;
        if config_type != ConfigType::List {
            return Err(Refusal::new(
                ErrorCode::InvalidConfig,
                format!("Can't {operation} to key {name} because its type is not LIST."),
            ));
        }
        let mut list: Vec<&str> =
            value::split_list(settings.get(*name).unwrap_or(&unset)).collect();
        let given: BTreeSet<&str> = value::split_list(items).collect();
        if append {
            list.extend(value::split_list(items));
        } else {
            list.retain(|item| !given.contains(item));
        }
        let joined = list.join(",");
        // In its checked form nothing is in the list twice; a wrong item is refused later, with its reason.
        let joined = value::check(config_type, bounds, &joined).unwrap_or(joined);
        settings.insert((*name).to_owned(), joined);
    }
    Ok(settings)
}

fn plan_topic(
    replace: bool,
    changes: &[(&str, Change<'_>)],
    present: &Settings,
    live: &DynamicConfig,
) -> Result<Settings, Refusal> {
    let refused = |message| Refusal::new(ErrorCode::InvalidConfig, message);
    let settings = changed(replace, changes, present, |name| {
        let row = topic_table::row(name).ok_or_else(|| refused(topic_config::unknown(name)))?;
        Ok((
            row.config_type,
            row.bounds,
            topic_config::default_of(row, live),
        ))
    })?;
    // What another release has let in may stay until somebody touches it.
    let touched = settings
        .iter()
        .filter(|(name, value)| present.get(*name) != Some(*value));
    for (name, value) in touched {
        topic_config::validate(name, value).map_err(refused)?;
    }
    topic_config::check_together(&settings, live).map_err(refused)?;
    Ok(settings)
}

fn plan_broker(
    scope: BrokerScope,
    replace: bool,
    changes: &[(&str, Change<'_>)],
    present: &Settings,
    live: &DynamicConfig,
) -> Result<Settings, Refusal> {
    let mut fixed = BTreeSet::new();
    for (name, change) in changes {
        match table::row(name) {
            _ if matches!(change, Change::Delete) => {}
            Some(row) if row.dynamic => {}
            Some(row) => {
                fixed.insert(row.name);
            }
            None if table::silent(name).is_some() => {
                fixed.insert(*name);
            }
            None => {
                return Err(Refusal::new(
                    ErrorCode::InvalidConfig,
                    unknown_of_broker(name),
                ));
            }
        }
    }
    if !fixed.is_empty() {
        let names: Vec<&str> = fixed.into_iter().collect();
        return Err(Refusal::invalid_request(format!(
            "Cannot update these configs dynamically: [{}]",
            names.join(", ")
        )));
    }
    let settings = changed(replace, changes, present, |name| {
        let row = table::row(name).expect("only known keys are changed");
        let unset = live.values().beneath(scope, name).unwrap_or_default();
        Ok((row.config_type, row.bounds, unset.to_owned()))
    })?;
    check_dynamic(live, scope, &settings).map_err(Refusal::invalid_request)?;
    Ok(settings)
}

fn unknown_of_broker(name: &str) -> String {
    match topic_table::row(name).and_then(|row| row.synonyms.first()) {
        Some((synonym, _)) => format!(
            "Unknown broker config name: {name}. That is a topic config; its default for all topics is {synonym}."
        ),
        None => format!("Unknown broker config name: {}", value::shown(name)),
    }
}

/// Kinds without configs know no key, and say so as Kafka does of a key it does not know.
fn plan_without(kind: Kind, changes: &[(&str, Change<'_>)]) -> Result<Settings, Refusal> {
    let set = changes
        .iter()
        .find(|(_, change)| !matches!(change, Change::Delete));
    let Some((name, _)) = set else {
        return Ok(Settings::new());
    };
    let name = value::shown(name);
    Err(match kind {
        Kind::ClientMetrics => {
            Refusal::invalid_request(format!("Unknown client metrics configuration: {name}"))
        }
        Kind::Group => Refusal::new(
            ErrorCode::InvalidConfig,
            format!("Unknown group config name: {name}"),
        ),
    })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
