//! The config tables as Markdown, for the README. Called by the two tables; pure text.

use super::State;
use super::value::{Bounds, ConfigType};

/// The head of a table whose first column is called so.
pub fn header(first_column: &str) -> String {
    format!("| {first_column} | Type | Default | Allowed | Notes |\n|---|---|---|---|---|\n")
}

/// One line of a table.
pub fn row(
    name: &str,
    config_type: ConfigType,
    default: Option<&str>,
    bounds: Bounds,
    notes: &str,
) -> String {
    let default = match default {
        None => "unset".to_owned(),
        Some("") => "empty".to_owned(),
        Some(value) => format!("`{value}`"),
    };
    let allowed = match bounds {
        Bounds::Any => String::new(),
        bounds => bounds.to_string(),
    };
    format!(
        "| `{name}` | {} | {default} | {} | {notes} |\n",
        config_type.name(),
        escape(&allowed)
    )
}

/// What a row's last column says: the sentence, what is missing, and why it differs from Kafka.
pub fn notes(documentation: &str, state: State, difference: Option<&str>) -> String {
    let mut notes = escape(documentation);
    match state {
        State::Effective => {}
        State::NotYet(note) => notes += &format!(" **Not yet:** {}.", escape(note)),
        State::NoMeaning(reason) => notes += &format!(" **No effect here:** {}.", escape(reason)),
    }
    if let Some(reason) = difference {
        notes += &format!(" **Differs from Kafka:** {}.", escape(reason));
    }
    notes
}

/// Whether a property can be changed at run time, for the end of its notes.
pub fn update_mode(dynamic: bool, restart_needed: Option<&str>) -> String {
    match restart_needed {
        Some(reason) => format!(" **Needs a restart, unlike in Kafka:** {}.", escape(reason)),
        None if dynamic => " *Can be changed at run time.*".to_owned(),
        None => String::new(),
    }
}

/// Text that would end a cell or be taken for markup.
fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('*', "\\*")
}
