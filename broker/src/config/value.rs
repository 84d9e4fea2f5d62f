//! Values of configs: Kafka's types, the bounds of a row, and how a row is described to a client.
//!
//! Used by the broker's table (`config/table.rs`) and the topics' table (`topic_config.rs`).
//! Pure: text in, checked text out. It never reads a file, and knows no row by name.
//!
//! Invariant: a value that [`check`] returned parses by the typed readers of [`super::Values`].

use std::collections::HashSet;
use std::fmt;

/// The type of a config, with the wire code of DescribeConfigs (Kafka's `ConfigResponse.ConfigType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigType {
    /// `true` or `false`.
    Boolean = 1,
    /// Any text.
    String = 2,
    /// 32 bits, signed.
    Int = 3,
    /// 64 bits, signed.
    Long = 5,
    /// 64-bit floating point.
    Double = 6,
    /// Texts separated by commas.
    List = 7,
}

impl ConfigType {
    /// The code on the wire.
    pub fn code(self) -> i8 {
        self as i8
    }

    /// Kafka's name of the type, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Int => "int",
            Self::Long => "long",
            Self::Double => "double",
            Self::List => "list",
        }
    }
}

/// Where a value comes from, with the wire code of DescribeConfigs (Kafka's `DescribeConfigsResponse.ConfigSource`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    /// Set on the topic.
    TopicConfig = 1,
    /// Set at run time for one broker.
    DynamicBrokerConfig = 2,
    /// Set at run time for all brokers.
    DynamicDefaultBrokerConfig = 3,
    /// From the properties file, the environment or the command line.
    StaticBrokerConfig = 4,
    /// Nobody set it.
    DefaultConfig = 5,
    /// Set at run time for a logger.
    DynamicBrokerLoggerConfig = 6,
    /// Set for a client-metrics resource.
    ClientMetricsConfig = 7,
    /// Set for a group.
    GroupConfig = 8,
}

impl ConfigSource {
    /// The code on the wire.
    pub fn code(self) -> i8 {
        self as i8
    }
}

/// One config as DescribeConfigs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConfig {
    /// The config's name.
    pub name: &'static str,
    /// The value in force; `None` is Kafka's null.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it can only be changed by a restart.
    pub read_only: bool,
    /// Whether the value must not be shown.
    pub sensitive: bool,
    /// Its type.
    pub config_type: ConfigType,
    /// What it does, and what of that it does not do here.
    pub documentation: String,
    /// All values that could apply, the one in force first.
    pub synonyms: Vec<ConfigSynonym>,
}

/// One of the values that could apply to a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSynonym {
    /// The name it is set under.
    pub name: &'static str,
    /// Its value, in the unit of that name.
    pub value: Option<String>,
    /// Where it is set.
    pub source: ConfigSource,
}

/// Which values a config takes beyond its type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bounds {
    /// All of the type.
    Any,
    /// At least this.
    AtLeast(i64),
    /// From the first to the second, both included.
    Between(i64, i64),
    /// As `Between`, or this one value outside.
    BetweenOr(i64, i64, i64),
    /// From 0 to 1, both included (type double).
    Share,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// A list of these texts.
    ListOf(&'static [&'static str]),
    /// `*`, or a list of partition:broker.
    ThrottledReplicas,
    /// Nothing but the empty text.
    OnlyEmpty,
}

impl fmt::Display for Bounds {
    /// What the allowed range is called in error lines and in the README.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::AtLeast(low) => write!(f, "at least {low}"),
            Self::Between(low, high) => write!(f, "{low} to {high}"),
            Self::BetweenOr(low, high, other) => write!(f, "{low} to {high}, or {other}"),
            Self::Share => f.write_str("0 to 1"),
            Self::OneOf(choices) => write!(f, "one of {}", choices.join(", ")),
            Self::ListOf(choices) => write!(f, "a list of {}", choices.join(", ")),
            Self::ThrottledReplicas => f.write_str("* or a list of partition:broker"),
            Self::OnlyEmpty => f.write_str("only empty"),
        }
    }
}

/// Bytes of the longest value: what a string of the Kafka protocol can hold, so that every value can be shown.
pub const MAX_VALUE_BYTES: usize = i16::MAX as usize;

/// Checks a value and returns it in the form Kafka describes it in: trimmed, lists without blanks and
/// without repetition (`ConfigDef.convertToString` of the parsed value), booleans in lower case.
///
/// The error is what was wrong, with the allowed range: "not a number of type int", "must be at least 1".
pub fn check(config_type: ConfigType, bounds: Bounds, value: &str) -> Result<String, String> {
    let value = value.trim();
    if value.len() > MAX_VALUE_BYTES {
        return Err(format!("must be at most {MAX_VALUE_BYTES} bytes long"));
    }
    match config_type {
        ConfigType::Boolean if value.eq_ignore_ascii_case("true") => Ok("true".to_owned()),
        ConfigType::Boolean if value.eq_ignore_ascii_case("false") => Ok("false".to_owned()),
        ConfigType::Boolean => Err("must be true or false".to_owned()),
        ConfigType::Int => whole_number(value, bounds, "int", i32::MIN.into(), i32::MAX.into()),
        ConfigType::Long => whole_number(value, bounds, "long", i64::MIN, i64::MAX),
        ConfigType::Double => match value.parse::<f64>() {
            Ok(number) if !number.is_finite() => Err("not a number of type double".to_owned()),
            Ok(number) if bounds == Bounds::Share && !(0.0..=1.0).contains(&number) => {
                Err(format!("must be {bounds}"))
            }
            Ok(_) => Ok(value.to_owned()),
            Err(_) => Err("not a number of type double".to_owned()),
        },
        ConfigType::String => match bounds {
            Bounds::OneOf(choices) if !choices.contains(&value) => Err(format!("must be {bounds}")),
            Bounds::OnlyEmpty if !value.is_empty() => Err("must be empty".to_owned()),
            _ => Ok(value.to_owned()),
        },
        ConfigType::List => {
            let mut items: Vec<&str> = Vec::new();
            // A list may have thousands of items.
            let mut seen = HashSet::new();
            for item in split_list(value) {
                if !list_item_allowed(bounds, item) {
                    return Err(format!("must be {bounds}"));
                }
                if seen.insert(item) {
                    items.push(item);
                }
            }
            if bounds == Bounds::ThrottledReplicas && items.len() > 1 && items.contains(&"*") {
                return Err(format!("must be {bounds}"));
            }
            Ok(items.join(","))
        }
    }
}

/// A name or value that a client sent, as a message can show it: on one line, and not longer than somebody
/// reads. The wire's text ends at 32,767 bytes, and a message repeats more than one of them.
pub fn shown(text: &str) -> String {
    const MOST: usize = 256;
    let mut shown: String = text
        .chars()
        .take(MOST)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(MOST).is_some() {
        shown.push_str("...");
    }
    shown
}

/// The items of a list value: separated by commas, blanks around them dropped; the empty text has none.
pub fn split_list(value: &str) -> impl Iterator<Item = &str> {
    let value = value.trim();
    let limit = if value.is_empty() { 0 } else { usize::MAX };
    value.split(',').map(str::trim).take(limit)
}

fn whole_number(
    value: &str,
    bounds: Bounds,
    type_name: &str,
    low: i64,
    high: i64,
) -> Result<String, String> {
    let number = value
        .parse::<i64>()
        .ok()
        .filter(|number| (low..=high).contains(number));
    let Some(number) = number else {
        return Err(format!(
            "not a number of type {type_name}; must be {}",
            spelled_out(bounds, low, high)
        ));
    };
    let allowed = match bounds {
        Bounds::AtLeast(low) => number >= low,
        Bounds::Between(low, high) => (low..=high).contains(&number),
        Bounds::BetweenOr(low, high, other) => (low..=high).contains(&number) || number == other,
        _ => true,
    };
    if allowed {
        Ok(number.to_string())
    } else {
        Err(format!("must be {}", spelled_out(bounds, low, high)))
    }
}

/// The range of a whole number, where the type is the only bound too.
fn spelled_out(bounds: Bounds, low: i64, high: i64) -> String {
    match bounds {
        Bounds::Any => format!("{low} to {high}"),
        bounded => bounded.to_string(),
    }
}

fn list_item_allowed(bounds: Bounds, item: &str) -> bool {
    let number = |text: &str| {
        !text.is_empty() && text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    match bounds {
        Bounds::ListOf(choices) => choices.contains(&item),
        Bounds::ThrottledReplicas => {
            item == "*"
                || item
                    .split_once(':')
                    .is_some_and(|(partition, broker)| number(partition) && number(broker))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(bounds: Bounds, value: &str) -> Result<String, String> {
        check(ConfigType::Int, bounds, value)
    }

    #[test]
    fn a_whole_number_is_trimmed_and_bounded_by_its_type_and_its_row() {
        assert_eq!(int(Bounds::Any, " 5 ").as_deref(), Ok("5"));
        assert_eq!(int(Bounds::Any, "+5").as_deref(), Ok("5"));
        assert_eq!(int(Bounds::Any, "2147483647").as_deref(), Ok("2147483647"));
        assert_eq!(int(Bounds::AtLeast(1), "1").as_deref(), Ok("1"));
        assert_eq!(int(Bounds::BetweenOr(1, 9, -1), "-1").as_deref(), Ok("-1"));
        assert_eq!(
            int(Bounds::AtLeast(1), "0"),
            Err("must be at least 1".to_owned())
        );
        assert_eq!(
            int(Bounds::Between(1, 9), "10"),
            Err("must be 1 to 9".to_owned())
        );
        assert_eq!(
            int(Bounds::BetweenOr(1, 9, -1), "0"),
            Err("must be 1 to 9, or -1".to_owned())
        );
        for beyond in [
            "2147483648",
            "-2147483649",
            "99999999999999999999",
            "",
            "x",
            "1.0",
            "0x1",
        ] {
            let error = int(Bounds::AtLeast(1), beyond).expect_err(beyond);
            assert_eq!(error, "not a number of type int; must be at least 1");
        }
        assert_eq!(
            check(ConfigType::Long, Bounds::Any, "9223372036854775807").as_deref(),
            Ok("9223372036854775807")
        );
    }

    #[test]
    fn a_boolean_takes_any_case_and_nothing_else() {
        assert_eq!(
            check(ConfigType::Boolean, Bounds::Any, " TRUE ").as_deref(),
            Ok("true")
        );
        assert_eq!(
            check(ConfigType::Boolean, Bounds::Any, "False").as_deref(),
            Ok("false")
        );
        assert!(check(ConfigType::Boolean, Bounds::Any, "yes").is_err());
        assert!(check(ConfigType::Boolean, Bounds::Any, "").is_err());
    }

    #[test]
    fn a_share_lies_between_0_and_1() {
        for good in ["0", "1", "0.5", "1.0"] {
            assert_eq!(
                check(ConfigType::Double, Bounds::Share, good).as_deref(),
                Ok(good)
            );
        }
        for bad in ["-0.1", "1.5", "NaN", "inf", "half"] {
            assert!(
                check(ConfigType::Double, Bounds::Share, bad).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_list_drops_blanks_and_repetition() {
        let policies = Bounds::ListOf(&["compact", "delete"]);
        assert_eq!(
            check(ConfigType::List, policies, " compact , delete ").as_deref(),
            Ok("compact,delete")
        );
        assert_eq!(
            check(ConfigType::List, policies, "compact,compact").as_deref(),
            Ok("compact")
        );
        assert_eq!(check(ConfigType::List, policies, "").as_deref(), Ok(""));
        assert_eq!(
            check(ConfigType::List, policies, "delete,none"),
            Err("must be a list of compact, delete".to_owned())
        );
        assert!(check(ConfigType::List, policies, "delete,").is_err());
    }

    #[test]
    fn throttled_replicas_are_a_star_or_pairs() {
        for good in ["*", "", "0:1", "0:1,12:3"] {
            assert_eq!(
                check(ConfigType::List, Bounds::ThrottledReplicas, good).as_deref(),
                Ok(good)
            );
        }
        for bad in ["1", "none", "0:1,*", "0:", ":1", "0:1:2", "-1:0"] {
            assert!(
                check(ConfigType::List, Bounds::ThrottledReplicas, bad).is_err(),
                "{bad}"
            );
        }
    }
}
