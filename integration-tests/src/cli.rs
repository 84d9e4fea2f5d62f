//! The client commands of `ottla` as tests run them: against a broker, and what they print as JSON.

use serde_json::Value;

use crate::Broker;
use crate::broker::ottla;
use crate::process::Run;

/// A command that finds this broker by `OTTLA_BOOTSTRAP`.
pub fn command(broker: &Broker, args: &[&str]) -> Run {
    ottla()
        .args(args.to_vec())
        .env("OTTLA_BOOTSTRAP", broker.bootstrap())
}

/// What a command that succeeds prints.
pub fn text(broker: &Broker, args: &[&str]) -> String {
    command(broker, args).succeed().stdout
}

/// Text that is an object a line.
pub fn json_lines(text: &str) -> Vec<Value> {
    let parsed = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"))
    };
    text.lines().map(parsed).collect()
}
